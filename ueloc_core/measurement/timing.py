"""Likelihood of the timing advance and its offset, given the first arrival.

The round trip that the network sees is twice the first path's delay and the terminal's clock
offset, with noise that follows from SNR and bandwidth: of a random-access preamble for the timing
advance, of the sounding signal for the offset. Sometimes the first path is missed and a later one
is taken, more often without line of sight: an exponential excess. The clock offset is one for
all reports of a track.

The map's error of the delay is one for both fields of a report, and for all reports of a place.
So the reports of a place are a function of the map's delay and sight alone: their product is
tabulated, with the error and the clock integrated out, and looked up at places.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ueloc_core.city_sections import RadioConfig
from ueloc_core.measurement.accuracy import (
    preamble_bandwidth_hz,
    sounding_bandwidth_hz,
    timing_sigma_ns,
)
from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.bins import bin_probability, normal_cdf, widened
from ueloc_core.measurement.level_tables import Groups
from ueloc_core.measurement.levels import MapError
from ueloc_core.measurement.reports import INT16_MISSING, MISSING
from ueloc_core.measurement.settings import MeasurementConfig
from ueloc_core.radio.link import TIMING_ADVANCE_LAST, timing_advance_step_ns

_REACH = 4.0  # standard deviations
_LATE_REACH = 12.0  # means
_COARSEST_STEP_NS = 1.0
_SMALLEST = 1e-36  # that single precision holds
_COARSER = 3  # steps of the tables where no offset is reported
_SIGHTS = 9  # shares in sight that are tabulated
_LEAST = 1e-30
_FAR_NS = 1e6
_DETOUR = 1.3  # a path that no map knows is this much longer than the straight line
_UNKNOWN_NS = 300.0  # and that uncertain
_ROOT_2, _ROOT_2PI = math.sqrt(2.0), math.sqrt(2.0 * math.pi)


@dataclass(frozen=True)
class DelayMaps:
    """What maps say about the serving sector's delay at places, shape (report, place).

    Attributes
    ----------
    first_arrival_ns
        One-way delay of the first path [ns], NaN where unknown.
    line_of_sight
        Share of the place in sight, NaN counts as none.
    straight_ns
        Delay of the straight line [ns].
    """

    first_arrival_ns: Tensor
    line_of_sight: Tensor
    straight_ns: Tensor

    def rows(self, chosen: Any) -> "DelayMaps":
        """Maps of some reports."""
        return DelayMaps(*(v[chosen] for v in vars(self).values()))

    @property
    def known(self) -> Tensor:
        """Where the map knows a delay, shape (report, place)."""
        return ~self.first_arrival_ns.isnan()

    @property
    def delay_ns(self) -> Tensor:
        """The mapped delay, or that of a detour where none is known, shape (report, place)."""
        return torch.where(self.known, self.first_arrival_ns, _DETOUR * self.straight_ns)


def _late_part(value: Any, loc: Any, sigma: Any, mean: float) -> Tensor:
    """``exp(s^2 / 2 - s z) Phi(z - s)`` of ``z = (value - loc) / sigma``, ``s = sigma / mean``.

    Over the mean it is the density of a Gaussian with an exponential excess.
    """
    z, ratio = (value - loc) / sigma, sigma / mean
    over = z - ratio
    near = torch.exp(ratio**2 / 2 - ratio * z.clamp_min(ratio)) * normal_cdf(over.clamp_min(0.0))
    below = 0.5 * torch.exp(-0.5 * z**2) * torch.special.erfcx(-over.clamp_max(0.0) / _ROOT_2)
    return torch.where(over > 0, near, below)


def _late_distribution(value: Any, loc: Any, sigma: Any, mean: float) -> Tensor:
    """Distribution function of a Gaussian with an exponential excess."""
    return normal_cdf((value - loc) / sigma) - _late_part(value, loc, sigma, mean)


class TimingLikelihood:
    """Log-likelihood of timing advances and offsets.

    Parameters
    ----------
    settings
        Noise, late paths and clocks.
    radio
        Numerology and bandwidth.
    map_error
        Error of the maps' delays.
    """

    def __init__(
        self, settings: MeasurementConfig, radio: RadioConfig, map_error: MapError
    ) -> None:
        self.settings, self.map_error = settings, map_error
        self.step_ns = timing_advance_step_ns(radio.numerology)
        self._preamble_hz = preamble_bandwidth_hz(radio.numerology)
        self._sounding_hz = sounding_bandwidth_hz(radio.resource_blocks, radio.numerology)
        self._fine_step_ns = min(_COARSEST_STEP_NS, settings.timing.floor_ns / 3)

    def sigmas_ns(self, uplink_sinr_db: Any) -> tuple[Any, Any]:
        """Noise of the round trip [ns] in the timing advance and in its offset."""
        floor_ns = self.settings.timing.floor_ns
        coarse = timing_sigma_ns(uplink_sinr_db, self._preamble_hz, floor_ns)
        return coarse, timing_sigma_ns(uplink_sinr_db, self._sounding_hz, floor_ns)

    def late_share(self, line_of_sight: Any) -> Any:
        """Probability that the first path is missed."""
        timing = self.settings.timing
        return timing.late_share_nlos + line_of_sight * (
            timing.late_share_los - timing.late_share_nlos
        )

    def probability(
        self, reports: ReportBatch, delay_ns: Tensor, uplink_sinr_db: Tensor, wider_ns: Any = 0.0
    ) -> Tensor:
        """Probability of both fields given the delay that was measured, shape of `delay_ns`.

        The offset's bin is narrow against all errors, so the timing advance follows the normal
        distribution that the middle of this bin leaves for it.

        Parameters
        ----------
        reports
            n reports.
        delay_ns
            One-way delay with clock offset and excess [ns], shape (n, ...).
        uplink_sinr_db
            Uplink SINR [dB], shape (n,).
        wider_ns
            Standard deviation of a further error of the one-way delay [ns], one for both fields.
        """
        shape = (-1, *([1] * (delay_ns.ndim - 1)))
        dtype = delay_ns.dtype
        coarse, fine = (v.to(dtype).reshape(shape) for v in self.sigmas_ns(uplink_sinr_db))
        trip, step, wider = 2.0 * delay_ns, self.step_ns, (2.0 * wider_ns) ** 2
        ta = reports.ta.reshape(shape).to(dtype)
        offset = reports.ta_offset.reshape(shape).to(dtype)
        both = (offset != INT16_MISSING) & (ta != MISSING)
        middle = torch.where(both, offset + ta.clamp_min(0) * step, trip)
        total = fine**2 + wider
        share = torch.where(both, wider / total, 0.0)
        rest = (coarse**2 + wider - torch.where(both, wider**2 / total, 0.0)) ** 0.5
        low = torch.where(ta <= 0, -_FAR_NS, (ta - 0.5) * step)
        high = torch.where(ta >= TIMING_ADVANCE_LAST, 10 * _FAR_NS, (ta + 0.5) * step)
        given = bin_probability(low, high, trip + share * (middle - trip), rest)
        result = torch.where(ta == MISSING, 1.0, given)
        inside = bin_probability(middle - 0.5, middle + 0.5, trip, total**0.5)
        return result * torch.where(both, inside, 1.0)

    def log_prob(self, reports: ReportBatch, maps: DelayMaps, uplink_sinr_db: Tensor) -> Tensor:
        """Log-likelihood of n reports, each on its own, shape (n, place)."""
        one = [slice(n, n + 1) for n in range(len(reports))]
        rows = [
            self.track_log_prob(reports[n], maps.rows(n), uplink_sinr_db[n], ((0,),)) for n in one
        ]
        return torch.stack(rows)

    def direct(self, reports: ReportBatch, maps: DelayMaps, uplink_sinr_db: Tensor) -> Tensor:
        """The same without tables, for few places, shape (n, place).

        Differentiable in the map's delays.
        """
        error, clock = self.map_error, self.settings.terminal.clock_sigma_ns
        sharpest = float(self.sigmas_ns(uplink_sinr_db)[1].min()) / 2
        sharpest = math.hypot(sharpest, clock, error.delay_core_ns)
        excess, weight = self._excess(sharpest)
        delay, late_share = maps.delay_ns, self.late_share(maps.line_of_sight.nan_to_num(0.0))

        def given(sigma_ns: float) -> Tensor:
            wider = math.hypot(clock, sigma_ns)
            late = self.probability(reports, delay[..., None] + excess, uplink_sinr_db, wider)
            on_time = self.probability(reports, delay, uplink_sinr_db, wider)
            value: Tensor = (1 - late_share) * on_time + late_share * (late @ weight)
            return value

        tail = error.delay_tail_share
        mapped = (1 - tail) * given(error.delay_core_ns) + tail * given(error.delay_tail_ns)
        value = torch.where(maps.known, mapped, given(_UNKNOWN_NS))
        return value.clamp_min(_LEAST).log()

    def closed(self, reports: ReportBatch, maps: DelayMaps, uplink_sinr_db: Tensor) -> Tensor:
        """The same in closed form, many reports at many places at once, shape (n, place).

        A Gaussian error with an exponential excess has an elementary distribution. Where both
        fields are reported the timing advance is taken as one of a path of the offset's length:
        the map's error is far larger than the noise of either.
        """
        on_time, late = self.in_time_and_late(reports, maps.delay_ns, maps.known, uplink_sinr_db)
        late_share = self.late_share(maps.line_of_sight.nan_to_num(0.0))
        value = torch.lerp(on_time, late, late_share).clamp_min(_LEAST).log()
        return torch.where((reports.ta != MISSING)[:, None], value, 0.0)

    def in_time_and_late(
        self,
        reports: ReportBatch,
        delay_ns: Tensor,
        known: Tensor,
        uplink_sinr_db: Tensor,
        further_ns: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """Probability of the timing fields of first and of late paths, shape (n, place) each.

        Parameters
        ----------
        reports
            n reports with a timing advance.
        delay_ns, known
            Delays [ns], and whether the map knows them, shape (n, place).
        uplink_sinr_db
            Shape (n,).
        further_ns
            Standard deviation of a further error of the delay [ns].
        """
        error = self.map_error
        clock = math.hypot(self.settings.terminal.clock_sigma_ns, further_ns)
        unknown_ns = math.hypot(clock, _UNKNOWN_NS)

        def given(sigma_ns: float) -> tuple[Tensor, Tensor]:
            wider = torch.where(known, math.hypot(clock, sigma_ns), unknown_ns)
            return self._in_time_and_late(reports, delay_ns, uplink_sinr_db, wider)

        on_time, late = given(error.delay_core_ns)
        wrong = error.delay_tail_share
        if wrong > 0:
            others = given(error.delay_tail_ns)
            on_time, late = (
                torch.lerp(on_time, others[0], wrong),
                torch.lerp(late, others[1], wrong),
            )
        return on_time, late

    def _in_time_and_late(
        self, reports: ReportBatch, delay_ns: Tensor, uplink_sinr_db: Tensor, wider_ns: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Probability of both fields of first and of late paths, shape of `delay_ns`."""
        coarse, fine = (v.to(delay_ns.dtype)[:, None] for v in self.sigmas_ns(uplink_sinr_db))
        trip, step, mean = 2.0 * delay_ns, self.step_ns, 2.0 * self.settings.timing.late_mean_ns
        ta = reports.ta[:, None].to(delay_ns.dtype)
        offset = reports.ta_offset[:, None]
        both = offset != INT16_MISSING
        low = torch.where(ta <= 0, -_FAR_NS, (ta - 0.5) * step)
        high = torch.where(ta >= TIMING_ADVANCE_LAST, 10 * _FAR_NS, (ta + 0.5) * step)
        error = (2.0 * wider_ns) ** 2
        sigma = (coarse**2 + error) ** 0.5
        on_time = bin_probability(low, high, trip, sigma)
        late = _late_distribution(high, trip, sigma, mean) - _late_distribution(
            low, trip, sigma, mean
        )
        if bool(both.any()):
            middle = offset + ta * step
            narrow = (fine**2 + error) ** 0.5
            given = bin_probability(low, high, middle, coarse)
            density = torch.exp(-0.5 * ((middle - trip) / narrow) ** 2) / narrow / _ROOT_2PI
            excess = _late_part(middle, trip, narrow, mean) / mean
            on_time = torch.where(both, given * density, on_time)
            late = torch.where(both, given * excess, late)
        return on_time, late.clamp_min(0.0)

    def track_log_prob(
        self,
        reports: ReportBatch,
        maps: DelayMaps,
        uplink_sinr_db: Tensor,
        groups: Groups | None = None,
    ) -> Tensor:
        """Log-likelihood of T reports of one terminal along paths, shape (place,).

        The clock offset is one for all, the map's error one for the reports of a place; late
        paths and noise are each report's own.

        Parameters
        ----------
        reports
            T reports.
        maps
            Maps at the place of each report, shape (T, place).
        uplink_sinr_db
            Shape (T,).
        groups
            Which reports come from one place and have one serving sector; by default each is on
            its own.
        """
        there = (reports.ta != MISSING).tolist()
        groups = tuple((t,) for t in range(len(reports))) if groups is None else groups
        groups = tuple(tuple(t for t in group if there[t]) for group in groups)
        groups = tuple(group for group in groups if group)
        if not groups:
            return torch.zeros(maps.straight_ns.shape[1])
        farthest_ns = max(
            _DETOUR * float(maps.straight_ns.detach().max()),
            float(maps.first_arrival_ns.detach().nan_to_num(0.0).max()),
        )
        alone = len(groups) == 1  # then the clock offset may as well be integrated out first
        step = self._step_ns(reports)
        clock = self._clock_weights(step)
        reach = 0 if alone else len(clock) // 2
        total = torch.zeros(1 + 2 * reach, maps.straight_ns.shape[1])
        for group in groups:
            chosen = list(group)
            tables = self._tables(
                reports[chosen], uplink_sinr_db[chosen], (farthest_ns, step, reach), alone=alone
            )
            at = maps.rows(slice(group[0], group[0] + 1))
            total = total + self._look_up(tables, at, step, reach)
        return total[0] if alone else (total + clock.log()[:, None]).logsumexp(dim=0)

    def _excess(self, sharpest_ns: float) -> tuple[Tensor, Tensor]:
        """Excess delays of late paths [ns] and their weights, as dense as a width asks for."""
        mean = self.settings.timing.late_mean_ns
        count = math.ceil(_LATE_REACH * mean / max(0.8 * sharpest_ns, self._fine_step_ns))
        edge = torch.linspace(0.0, _LATE_REACH, count + 1)
        weight = torch.exp(-edge[:-1]) - torch.exp(-edge[1:])
        return mean * (edge[:-1] + edge[1:]) / 2, weight / weight.sum()

    def _step_ns(self, reports: ReportBatch) -> float:
        """Step of the tables [ns]: the timing advance alone is far wider than its offset."""
        fine = bool((reports.ta_offset != INT16_MISSING).any())
        return self._fine_step_ns * (1 if fine else _COARSER)

    def _clock_weights(self, step: float) -> Tensor:
        """Weights of clock offsets at multiples of the tables' step, symmetric around 0."""
        sigma = self.settings.terminal.clock_sigma_ns
        if sigma < step / 4:
            return torch.ones(1)
        reach = math.ceil(_REACH * sigma / step)
        offset = step * torch.arange(-reach, reach + 1, dtype=torch.float32)
        return torch.softmax(-0.5 * (offset / sigma) ** 2, dim=0)

    def _tables(
        self,
        reports: ReportBatch,
        sinr: Tensor,
        extent: tuple[float, float, int],
        *,
        alone: bool,
    ) -> Tensor:
        """Probability of reports from one place over delays, shape (2, sight, delay).

        First where the map knows the delay, second where it does not. `extent` is the farthest
        delay [ns], the step [ns], and how many steps below zero the first delay is. The clock
        offset is integrated out where the place is `alone`.
        """
        error, (farthest_ns, step, reach) = self.map_error, extent
        clock = self.settings.terminal.clock_sigma_ns if alone else 0.0
        widths = [math.hypot(v, clock) for v in (error.delay_core_ns, error.delay_tail_ns)]
        widths.append(math.hypot(_UNKNOWN_NS, clock))
        margin = math.ceil((_REACH * max(widths)) / step)
        late = math.ceil(_LATE_REACH * self.settings.timing.late_mean_ns / step)
        count = 2 * reach + math.ceil(farthest_ns / step) + 2
        first = -(reach + margin)
        nodes = torch.arange(first, first + count + 2 * margin + late, dtype=torch.float64)
        delay = (step * nodes).expand(len(reports), -1)
        on_time = self.probability(reports, delay, sinr)
        decay = torch.exp(-step * torch.arange(late + 1) / self.settings.timing.late_mean_ns)
        decay = (decay / decay.sum()).double()
        size, kept = on_time.shape[1], on_time.shape[1] - late  # what wraps around is cut off
        spectrum = torch.fft.rfft(on_time) * torch.fft.rfft(decay, size).conj()
        missed = torch.fft.irfft(spectrum, size)[:, :kept].clamp_min(0.0)
        on_time = on_time[:, :kept]
        share = self.late_share(torch.linspace(0.0, 1.0, _SIGHTS, dtype=torch.float64))
        share = share[:, None, None]
        given = ((1 - share) * on_time + share * missed).prod(dim=1)
        core, tail, unknown = (widened(given, width / step) for width in widths)
        wrong = error.delay_tail_share
        tables = torch.stack([(1 - wrong) * core + wrong * tail, unknown])
        tables = tables[..., margin : margin + count]
        return tables.clamp_min(_SMALLEST).to(torch.float32)

    def _look_up(self, tables: Tensor, maps: DelayMaps, step: float, reach: int) -> Tensor:
        """Log-probability at places given each clock offset, shape (offset, place)."""
        _, sights, count = tables.shape
        position = maps.delay_ns[0] / step
        below = position.detach().floor().long().clamp(0, count - 2 - 2 * reach)
        part = (position - below).clamp(0, 1)
        sight = maps.line_of_sight[0].nan_to_num(0.0) * (sights - 1)
        row = sight.detach().floor().long().clamp(0, sights - 2)
        upper = sight - row
        kind = (~maps.known[0]).long()
        flat = tables.flatten()
        start = (kind * sights + row) * count + below + torch.arange(2 * reach + 1)[:, None]
        low, high = (torch.lerp(flat[start + k], flat[start + k + 1], part) for k in (0, count))
        return torch.lerp(low, high, upper).log()
