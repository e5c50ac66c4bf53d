"""Likelihood of the timing advance and its offset, given the first arrival.

The round trip that the network sees is twice the first path's delay and the terminal's clock
offset, with noise that follows from SNR and bandwidth: of a random-access preamble for the timing
advance, of the sounding signal for the offset. Sometimes the first path is missed and a later one
is taken, more often without line of sight: an exponential excess. The clock offset is one for
all reports of a track.

A report is a function of the delay alone (for an on-time and for a late path), so it is tabulated
over delays and looked up at places.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ueloc_core.city_sections import RadioConfig
from ueloc_core.measurement.accuracy import (
    preamble_bandwidth_hz,
    sounding_bandwidth_hz,
    timing_sigma_ns,
)
from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.bins import bin_probability
from ueloc_core.measurement.levels import MapError
from ueloc_core.measurement.reports import INT16_MISSING, MISSING
from ueloc_core.measurement.settings import MeasurementConfig
from ueloc_core.radio.link import TIMING_ADVANCE_LAST, timing_advance_step_ns

_CLOCK_REACH = 3.5  # standard deviations
_LATE_NODES = 12
_DELAY_STEP_NS = 1.0
_LEAST = 1e-20
_FAR_NS = 1e6
_DETOUR = 1.3  # a path that no map knows is this much longer than the straight line
_UNKNOWN_NS = 300.0  # and that uncertain


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

        Parameters
        ----------
        reports
            n reports.
        delay_ns
            One-way delay with clock offset and excess [ns], shape (n, ...).
        uplink_sinr_db
            Uplink SINR [dB], shape (n,).
        wider_ns
            Further standard deviation of the one-way delay, not shared by the fields [ns].
        """
        shape = (-1, *([1] * (delay_ns.ndim - 1)))
        coarse, fine = (
            ((sigma**2 + (2.0 * wider_ns) ** 2) ** 0.5).reshape(shape)
            for sigma in self.sigmas_ns(uplink_sinr_db)
        )
        trip, step = 2.0 * delay_ns, self.step_ns
        ta = reports.ta.reshape(shape).to(delay_ns.dtype)
        low = torch.where(ta <= 0, -_FAR_NS, (ta - 0.5) * step)
        high = torch.where(ta >= TIMING_ADVANCE_LAST, 10 * _FAR_NS, (ta + 0.5) * step)
        given = bin_probability(low, high, trip, coarse)
        result = torch.where(ta == MISSING, 1.0, given)
        offset = reports.ta_offset.reshape(shape).to(delay_ns.dtype)
        there = (offset != INT16_MISSING) & (ta != MISSING)
        if bool(there.any()):
            middle = offset + ta.clamp_min(0) * step
            inside = bin_probability(middle - 0.5, middle + 0.5, trip, fine)
            result = result * torch.where(there, inside, 1.0)
        return result

    def log_prob(self, reports: ReportBatch, maps: DelayMaps, uplink_sinr_db: Tensor) -> Tensor:
        """Log-likelihood of n reports, each on its own, shape (n, place)."""
        rows = [
            self.track_log_prob(
                reports[n : n + 1],
                DelayMaps(*(v[n : n + 1] for v in vars(maps).values())),
                uplink_sinr_db[n : n + 1],
            )
            for n in range(len(reports))
        ]
        return torch.stack(rows)

    def direct(self, reports: ReportBatch, maps: DelayMaps, uplink_sinr_db: Tensor) -> Tensor:
        """The same without tables, for few places, shape (n, place).

        Differentiable in the map's error.
        """
        error, weight = self.map_error, self._clock_weights()
        known = ~maps.first_arrival_ns.isnan()
        delay = torch.where(known, maps.first_arrival_ns, _DETOUR * maps.straight_ns)
        clock = _DELAY_STEP_NS * (torch.arange(len(weight)) - len(weight) // 2)
        delay = delay[..., None] + clock
        excess, share = _laguerre(self.settings.timing.late_mean_ns)

        def given(delay_ns: Tensor, wider: Any) -> Tensor:
            return self.probability(reports, delay_ns, uplink_sinr_db, wider)

        late = given(delay[..., None] + excess, error.delay_core_ns) @ share
        late_share = self.late_share(maps.line_of_sight.nan_to_num(0.0))[..., None]
        mapped = (1 - late_share) * given(delay, error.delay_core_ns) + late_share * late
        tail = error.delay_tail_share
        mapped = (1 - tail) * mapped + tail * given(delay, error.delay_tail_ns)
        value = torch.where(known[..., None], mapped, given(delay, _UNKNOWN_NS))
        return (value @ weight).clamp_min(_LEAST).log()

    def track_log_prob(
        self, reports: ReportBatch, maps: DelayMaps, uplink_sinr_db: Tensor
    ) -> Tensor:
        """Log-likelihood of T reports of one terminal along paths, shape (place,).

        The clock offset is one for all; late paths and noise are each report's own.

        Parameters
        ----------
        reports
            T reports.
        maps
            Maps at the place of each report, shape (T, place).
        uplink_sinr_db
            Shape (T,).
        """
        place = maps.straight_ns.shape[1]
        if bool(((reports.ta == MISSING) & (reports.ta_offset == INT16_MISSING)).all()):
            return torch.zeros(place)
        clock = self._clock_weights()
        reach = len(clock) // 2
        tables = self._tables(reports, uplink_sinr_db, float(maps.straight_ns.max()), reach)
        if len(reports) == 1:  # then the clock offset may as well be integrated out first
            spread = torch.nn.functional.conv1d(tables[0][:, None], clock[None, None])
            return self._look_up(spread[:, 0], maps, 0)[0]
        total = torch.zeros(len(clock), place)
        for t in range(len(reports)):
            of_report = DelayMaps(*(v[t : t + 1] for v in vars(maps).values()))
            total = total + self._look_up(tables[t], of_report, reach)
        return (total + clock.log()[:, None]).logsumexp(dim=0)

    def _clock_weights(self) -> Tensor:
        """Weights of clock offsets at multiples of the tables' step, symmetric around 0."""
        sigma = self.settings.terminal.clock_sigma_ns
        if sigma < _DELAY_STEP_NS / 4:
            return torch.ones(1)
        reach = math.ceil(_CLOCK_REACH * sigma / _DELAY_STEP_NS)
        offset = _DELAY_STEP_NS * torch.arange(-reach, reach + 1, dtype=torch.float32)
        return torch.softmax(-0.5 * (offset / sigma) ** 2, dim=0)

    def _tables(self, reports: ReportBatch, sinr: Tensor, farthest_ns: float, reach: int) -> Tensor:
        """Probability over delays: on time, late, where the map errs, and where it is silent.

        Shape (report, 4, delay), the first delay `reach` steps below zero.
        """
        error = self.map_error
        end_ns = _DETOUR * farthest_ns + 10 * self.settings.timing.late_mean_ns
        count = 2 * reach + max(4, round(end_ns / _DELAY_STEP_NS))
        delay = _DELAY_STEP_NS * (torch.arange(count, dtype=torch.float32) - reach)
        delay = delay.expand(len(reports), -1)
        excess, weight = _laguerre(self.settings.timing.late_mean_ns)
        core_ns = error.delay_core_ns
        late = self.probability(reports, delay[..., None] + excess, sinr, core_ns) @ weight
        others = [
            self.probability(reports, delay, sinr, wider)
            for wider in (core_ns, error.delay_tail_ns, _UNKNOWN_NS)
        ]
        return torch.stack([others[0], late, *others[1:]], dim=1)

    def _look_up(self, tables: Tensor, maps: DelayMaps, reach: int) -> Tensor:
        """Log-probability at places given each clock offset, shape (offset, place)."""
        known = ~maps.first_arrival_ns[0].isnan()
        delay = torch.where(known, maps.first_arrival_ns[0], _DETOUR * maps.straight_ns[0])
        last = tables.shape[1] - 1 - 2 * reach
        position = (delay / _DELAY_STEP_NS).clamp(0, last - 1e-3)
        below = position.detach().floor().long()
        index = below + torch.arange(2 * reach + 1)[:, None]
        part = position - below
        on_time, late, wrong, unknown = (
            table[index] + part * (table[index + 1] - table[index]) for table in tables
        )
        share = self.late_share(maps.line_of_sight[0].nan_to_num(0.0))
        tail = self.map_error.delay_tail_share
        mapped = (1 - tail) * ((1 - share) * on_time + share * late) + tail * wrong
        return torch.where(known, mapped, unknown).clamp_min(_LEAST).log()


def _laguerre(mean: float) -> tuple[Tensor, Tensor]:
    """Nodes and weights of an exponential distribution."""
    nodes, weights = np.polynomial.laguerre.laggauss(_LATE_NODES)
    return (
        torch.tensor(mean * nodes, dtype=torch.float32),
        torch.tensor(weights / weights.sum(), dtype=torch.float32),
    )
