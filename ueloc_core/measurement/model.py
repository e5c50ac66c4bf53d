"""The measurement model: one object that simulates reports and gives their likelihood.

Given the mapped RSRP of every sector at a place, the model is a chain:

1. Level. The received level of a sector is its mapped RSRP plus the map's own error (none in
   the world, `MapError` for the twin) plus a Gaussian residual ``rsrp_sigma_db`` (fading left
   after averaging, and the terminal's own error). It is reported as an SS-RSRP code.
2. Selection. Levels under the detection threshold are not heard; the strongest one serves;
   each other one is lost with ``dropout_probability``; the strongest seven of the rest are the
   neighbours. So an unreported sector was too weak, or lost, and has the probability of that.
3. Quality. SS-RSRQ, SS-SINR and CQI follow from the reported levels and the total received
   power per resource element: load times the reported levels, plus load times the mapped
   levels of the unreported, plus noise, times a log-normal deviation ``interference_sigma_db``
   that all quality fields of a report share. The likelihood integrates over it numerically.

Everything is torch, elementwise and differentiable in the mapped values.
"""

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ueloc_core.city_sections import MeasurementConfig, RadioConfig
from ueloc_core.measurement.reports import MISSING, SS_RSRP, SS_RSRQ, SS_SINR, QuantisedField
from ueloc_core.measurement.schemas import SLOTS
from ueloc_core.radio.link import (
    cqi_thresholds_db,
    interference_mw,
    received_power_mw,
    rsrq_db,
)
from ueloc_core.units import noise_per_resource_element_dbm

_NOWHERE_DBM = -400.0
_OPEN_END = 1e4  # an open bin's edge: finite, so that gradients stay so
_SMALLEST_PROBABILITY = 1e-20
_TABLE_STEP_DB = 0.25
_TABLE_PARTS = 4  # nodes that are averaged within a step
_TABLE_TOP_DBM = -10.0
_KERNEL_REACH = 4.0  # standard deviations


@dataclass(frozen=True)
class MapError:
    """Error of a map's RSRP at one grid cell: a narrow core and a wide tail.

    The fields may be floats or tensors (while they are fitted).

    Attributes
    ----------
    core_db, core_per_se
        Core's standard deviation: ``hypot(core_db, core_per_se * standard error)`` [dB].
    tail_logit, tail_per_se, tail_per_10db
        Share of the tail: ``sigmoid(tail_logit + tail_per_se * standard error [dB]
        + tail_per_10db * (-90 dBm - mapped level) / 10)``.
    tail_db, tail_bias_db
        Standard deviation and mean of the tail [dB].
    unhit_dbm, unhit_db
        Mean level and standard deviation where no ray arrived [dBm, dB].
    total_db
        Standard deviation of the total received power's map error [dB].
    level_exponent
        Exponent of the levels' likelihood of a report. Below one where the errors of different
        sectors' maps go together at a place, so that they tell less than independent ones.
    """

    core_db: Any = 0.0
    core_per_se: Any = 0.0
    tail_logit: Any = -100.0
    tail_per_se: Any = 0.0
    tail_per_10db: Any = 0.0
    tail_db: Any = 1.0
    tail_bias_db: Any = 0.0
    unhit_dbm: Any = _NOWHERE_DBM
    unhit_db: Any = 1.0
    total_db: Any = 0.0
    level_exponent: Any = 1.0

    @classmethod
    def none(cls) -> "MapError":
        """The world's own maps: no error, and no level where no ray arrived."""
        return cls()

    def as_dict(self) -> dict[str, float]:
        """Plain numbers."""
        return {f.name: float(getattr(self, f.name)) for f in fields(self)}


@dataclass(frozen=True)
class ReportBatch:
    """Reports as tensors.

    Attributes
    ----------
    sector
        Position of each slot's sector in the atlas, shape (report, slot), -1 where empty.
    rsrp, rsrq, sinr
        Codes, shape (report, slot), -1 where missing.
    cqi
        CQI of the serving sector, shape (report,), -1 where missing.
    """

    sector: Tensor
    rsrp: Tensor
    rsrq: Tensor
    sinr: Tensor
    cqi: Tensor

    def __len__(self) -> int:
        return int(self.sector.shape[0])

    def __getitem__(self, index: Any) -> "ReportBatch":
        return ReportBatch(*(getattr(self, f.name)[index] for f in fields(self)))

    @property
    def heard(self) -> Tensor:
        """Which slots hold a sector, shape (report, slot)."""
        return self.sector >= 0

    @property
    def level_dbm(self) -> Tensor:
        """Decoded RSRP [dBm], `nan` where missing, shape (report, slot)."""
        return decode(SS_RSRP, self.rsrp)


@dataclass(frozen=True)
class QualityTable:
    """Log-likelihood of a report's quality fields as a function of the total power.

    Attributes
    ----------
    reported_mw
        Load times the reported levels, plus noise [mW per resource element], shape (report,).
    log_prob
        Values at `first_dbm` + k * 0.25 dB, shape (report, node).
    first_dbm
        Total power of the first node [dBm].
    """

    reported_mw: Tensor
    log_prob: Tensor
    first_dbm: float


def decode(field: QuantisedField, code: Tensor) -> Tensor:
    """Mid-bin value of codes, as `QuantisedField.decode`, for tensors."""
    value = field.low + (code.to(torch.float32) - 0.5) * field.step
    return torch.where(code == MISSING, torch.nan, value)


def log_bin(low: Tensor, high: Tensor, loc: Tensor, scale: Any) -> Tensor:
    """Log-probability that a Gaussian lies in ``[low, high)``, accurate in both tails."""
    a, b = (low - loc) / scale, (high - loc) / scale
    upper = a > 0
    a, b = torch.where(upper, -b, a), torch.where(upper, -a, b)
    difference = _normal_cdf(b) - _normal_cdf(a)
    return difference.clamp_min(_SMALLEST_PROBABILITY).log()


def _normal_cdf(z: Tensor) -> Tensor:
    """Standard normal distribution; `torch.special.ndtr` has no lower tail in single precision."""
    return 0.5 * torch.erfc(-z * math.sqrt(0.5))


def log_code(field: QuantisedField, code: Tensor, loc: Tensor, scale: Any) -> Tensor:
    """Log-probability of a field's code under a Gaussian; a missing code gives 0."""
    low, high = _edges(field, code)
    return torch.where(code == MISSING, 0.0, log_bin(low, high, loc, scale))


def _edges(field: QuantisedField, code: Tensor) -> tuple[Tensor, Tensor]:
    low = field.lower_edge(code.to(torch.float32))
    high = low + field.step
    return (
        torch.where(code <= 0, -_OPEN_END, low),
        torch.where(code >= field.last, _OPEN_END, high),
    )


class MeasurementModel:
    """Distribution of reports given mapped levels.

    Parameters
    ----------
    measurements, radio
        The city's settings.
    map_error
        Error of the maps that will be given; `MapError.none()` for the world's own.
    """

    def __init__(
        self, measurements: MeasurementConfig, radio: RadioConfig, map_error: MapError
    ) -> None:
        self.config = measurements
        self.load = radio.load
        self.map_error = map_error
        self.noise_mw = 10.0 ** (
            noise_per_resource_element_dbm(radio.numerology, radio.noise_figure_db) / 10.0
        )
        self.threshold_code = int(SS_RSRP.encode(measurements.detection_threshold_dbm))
        self._cqi_edges = torch.tensor(cqi_thresholds_db(), dtype=torch.float32)

    # -- levels ---------------------------------------------------------------------------

    def _level(self, rsrp_dbm: Tensor, se_db: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Tail share, core location, core scale and tail scale of received levels.

        Where no ray arrived, core and tail are the same distribution.
        """
        error, sigma = self.map_error, self.config.rsrp_sigma_db
        hit = ~rsrp_dbm.isnan()
        level = rsrp_dbm.nan_to_num(0.0)
        # One ray set alone hit it: the relative error of a mean of two is one, 4.34 dB.
        se = torch.where(se_db.isnan(), 4.34, se_db)
        variance = sigma**2 + error.core_db**2 + (error.core_per_se * se) ** 2
        unhit_scale = (sigma**2 + error.unhit_db**2) ** 0.5
        tail_scale = (sigma**2 + error.tail_db**2) ** 0.5
        share = torch.sigmoid(
            error.tail_logit
            + error.tail_per_se * se
            + error.tail_per_10db * (-90.0 - level).clamp(-40.0, 60.0) / 10.0
        )
        return (
            torch.where(hit, share, 0.0),
            torch.where(hit, level, error.unhit_dbm),
            torch.where(hit, variance**0.5, unhit_scale),
            torch.where(hit, tail_scale, unhit_scale),
        )

    def heard_log_prob(self, code: Tensor, rsrp_dbm: Tensor, se_db: Tensor) -> Tensor:
        """Log-probability that a sector is reported with an SS-RSRP code, elementwise.

        Parameters
        ----------
        code
            SS-RSRP codes; a missing one gives 0.
        rsrp_dbm, se_db
            Mapped RSRP [dBm] and standard error [dB], NaN where no ray arrived.
        """
        share, loc, core, tail = self._level(rsrp_dbm, se_db)
        low, high = _edges(SS_RSRP, code)
        log_core = log_bin(low, high, loc, core)
        log_tail = log_bin(low, high, loc + self.map_error.tail_bias_db, tail)
        mixed = torch.logaddexp(
            torch.log1p(-share.clamp_max(1 - 1e-6)) + log_core,
            share.clamp_min(_SMALLEST_PROBABILITY).log() + log_tail,
        )
        return torch.where(code == MISSING, 0.0, mixed)

    def unheard_log_prob(
        self, ceiling_dbm: Tensor, serving_dbm: Tensor, rsrp_dbm: Tensor, se_db: Tensor
    ) -> Tensor:
        """Log-probability that a sector is not reported, elementwise.

        Parameters
        ----------
        ceiling_dbm
            Level that it must have stayed under: the detection threshold, or the weakest
            neighbour's level where all slots are full [dBm].
        serving_dbm
            Level of the serving sector, which a lost sector stayed under as well [dBm].
        rsrp_dbm, se_db
            Mapped RSRP [dBm] and standard error [dB], NaN where no ray arrived.
        """
        share, loc, core, tail = self._level(rsrp_dbm, se_db)
        tail_loc = loc + self.map_error.tail_bias_db

        def below(edge: Tensor) -> Tensor:
            in_core = _normal_cdf((edge - loc) / core)
            in_tail = _normal_cdf((edge - tail_loc) / tail)
            return (1 - share) * in_core + share * in_tail

        lost = self.config.dropout_probability
        probability = (1 - lost) * below(ceiling_dbm) + lost * below(serving_dbm)
        return probability.clamp_min(_SMALLEST_PROBABILITY).log()

    def ceiling_dbm(self, reports: ReportBatch) -> Tensor:
        """Level that unreported sectors stayed under [dBm], shape (report,)."""
        threshold = float(SS_RSRP.lower_edge(self.threshold_code))
        level = torch.where(reports.heard, reports.level_dbm, math.inf).nan_to_num(threshold)
        full = reports.heard.sum(dim=1) > self.config.max_neighbours
        return torch.where(full, level.amin(dim=1).clamp_min(threshold), threshold)

    # -- quality --------------------------------------------------------------------------

    def quality_table(
        self, reports: ReportBatch, given_total: Tensor | None = None
    ) -> QualityTable:
        """Log-likelihood of the quality fields over the expected total power.

        Parameters
        ----------
        reports
            The reports.
        given_total
            Their `quality_given_total`, where it is known already.
        """
        log_prob = self.quality_given_total(reports) if given_total is None else given_total
        level_mw = _milliwatts(reports)
        sigma = math.hypot(self.config.interference_sigma_db, float(self.map_error.total_db))
        reach = math.ceil(_KERNEL_REACH * sigma / _TABLE_STEP_DB)
        offset = _TABLE_STEP_DB * torch.arange(-reach, reach + 1, dtype=torch.float32)
        kernel = torch.softmax(-0.5 * (offset / sigma) ** 2, dim=0)
        peak = log_prob.amax(dim=1, keepdim=True)
        padded = torch.nn.functional.pad(
            (log_prob - peak)[:, None].exp(), (reach, reach), mode="replicate"
        )
        mean = torch.nn.functional.conv1d(padded, kernel[None, None])[:, 0]
        return QualityTable(
            reported_mw=self._received_mw(level_mw.sum(dim=1)),
            log_prob=mean.clamp_min(1e-30).log() + peak,
            first_dbm=self._first_total_dbm,
        )

    @property
    def _first_total_dbm(self) -> float:
        return 10.0 * math.log10(self.noise_mw) - 6.0

    def quality_given_total(self, reports: ReportBatch) -> Tensor:
        """Log-likelihood of the quality fields at total powers, shape (report, node).

        Where a sector's own power makes up nearly all of the total, its SINR jumps within one
        step, so that each node is the mean over its step.
        """
        first = self._first_total_dbm
        count = round((_TABLE_TOP_DBM - first) / _TABLE_STEP_DB) + 1
        parts = torch.arange(count * _TABLE_PARTS, dtype=torch.float32) - (_TABLE_PARTS - 1) / 2
        total = first + _TABLE_STEP_DB / _TABLE_PARTS * parts
        log_prob = self._quality_at(
            reports, reports.level_dbm, _milliwatts(reports), total[None, :, None]
        )
        log_prob = log_prob.reshape(-1, count, _TABLE_PARTS).logsumexp(dim=2)
        return log_prob - math.log(_TABLE_PARTS)

    def _quality_at(
        self, reports: ReportBatch, level: Tensor, level_mw: Tensor, total_dbm: Tensor
    ) -> Tensor:
        """The same at any total powers."""
        sigma = self.config.quality_sigma_db
        level = level.nan_to_num(0.0)[:, None, :]
        interference = self.interference_dbm(total_dbm, level_mw[:, None, :])
        sinr_db = level - interference
        log_prob = log_code(SS_RSRQ, reports.rsrq[:, None, :], rsrq_db(level, total_dbm), sigma)
        log_prob = log_prob + log_code(SS_SINR, reports.sinr[:, None, :], sinr_db, sigma)
        return log_prob.sum(dim=2) + self._log_cqi(reports.cqi[:, None], sinr_db[:, :, 0])

    def interference_dbm(self, total_dbm: Tensor, level_mw: Tensor) -> Tensor:
        """Interference and noise [dBm] that a sector meets within a total power [dBm]."""
        rest: Tensor = interference_mw(
            10 ** (total_dbm / 10), level_mw, load=self.load, noise_mw=self.noise_mw
        )
        return 10.0 * rest.log10()

    def _received_mw(self, levels_mw: Tensor) -> Tensor:
        received: Tensor = received_power_mw(levels_mw, load=self.load, noise_mw=self.noise_mw)
        return received

    def _log_cqi(self, cqi: Tensor, sinr_db: Tensor) -> Tensor:
        end = torch.tensor([_OPEN_END])
        edges = torch.cat([-end, self._cqi_edges, end])
        code = cqi.long().clamp_min(0)
        low, high = edges[code], edges[code + 1]
        return torch.where(
            cqi == MISSING, 0.0, log_bin(low, high, sinr_db, self.config.quality_sigma_db)
        )

    def total_dbm(self, table: QualityTable, unreported_mw: Tensor) -> Tensor:
        """Expected total power [dBm]: reported levels and noise, plus load x unreported [mW].

        `unreported_mw` has shape (report, ...).
        """
        known = table.reported_mw.reshape(-1, *([1] * (unreported_mw.ndim - 1)))
        total: Tensor = received_power_mw(unreported_mw, load=self.load, noise_mw=known)
        return 10.0 * total.log10()

    def quality_log_prob(self, table: QualityTable, unreported_mw: Tensor) -> Tensor:
        """Log-probability of the quality fields, shape of `unreported_mw` (report, ...).

        Parameters
        ----------
        table
            From `quality_table`, of the same reports.
        unreported_mw
            Sum of the mapped levels of the unreported sectors [mW].
        """
        position = (self.total_dbm(table, unreported_mw) - table.first_dbm) / _TABLE_STEP_DB
        last = table.log_prob.shape[1] - 1
        position = position.clamp(0, last - 1e-3)
        below = position.detach().floor().long()
        flat = below.reshape(len(below), -1)
        low = table.log_prob.gather(1, flat).reshape(below.shape)
        high = table.log_prob.gather(1, flat + 1).reshape(below.shape)
        return low + (position - below) * (high - low)

    # -- whole reports --------------------------------------------------------------------

    def log_prob(self, reports: ReportBatch, rsrp_dbm: Tensor, se_db: Tensor) -> Tensor:
        """Log-likelihood of reports at places, up to a constant of the report.

        Parameters
        ----------
        reports
            The reports, n of them.
        rsrp_dbm, se_db
            Mapped RSRP [dBm] of all sectors and its standard error [dB] at p places, shape
            (n, sector, p), or (1, sector, p) where all reports share the places.

        Returns
        -------
        Tensor
            Shape (n, p).
        """
        count, sectors = len(reports), rsrp_dbm.shape[1]
        reported = torch.zeros(count, sectors + 1, dtype=torch.bool)
        reported.scatter_(1, torch.where(reports.heard, reports.sector, sectors), value=True)
        reported = reported[:, :sectors]
        table = self.quality_table(reports)
        ceiling, serving = self.ceiling_dbm(reports), reports.level_dbm[:, 0]
        rows = []
        for n in range(count):
            level, error = (v[n if len(v) > 1 else 0] for v in (rsrp_dbm, se_db))
            heard = reports.heard[n]
            chosen = reports.sector[n, heard]
            at_heard = self.heard_log_prob(
                reports.rsrp[n, heard][:, None], level[chosen], error[chosen]
            )
            silent = level[~reported[n]]
            at_silent = self.unheard_log_prob(ceiling[n], serving[n], silent, error[~reported[n]])
            unreported = (10 ** (silent / 10)).nan_to_num(0.0).sum(dim=0)
            quality = self.quality_log_prob(_row(table, n), unreported[None])[0]
            levels = at_heard.sum(dim=0) + at_silent.sum(dim=0)
            rows.append(self.map_error.level_exponent * levels + quality)
        return torch.stack(rows)

    def sample(self, rsrp_dbm: Tensor, generator: torch.Generator) -> ReportBatch:
        """Simulate one report at each of n places.

        Parameters
        ----------
        rsrp_dbm
            Mapped RSRP [dBm] of all sectors, shape (n, sector), NaN where no ray arrived. The
            map's error is taken to be none: these are the world's own maps.
        generator
            Source of all draws.

        Returns
        -------
        ReportBatch
            n reports; one that hears no sector has an empty slot 0.
        """
        config = self.config

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        def kept(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator) >= config.dropout_probability

        count, sectors = rsrp_dbm.shape
        level = rsrp_dbm.nan_to_num(_NOWHERE_DBM) + config.rsrp_sigma_db * normal(count, sectors)
        code = _encode(SS_RSRP, level)
        detected = code >= self.threshold_code
        ranked = torch.where(detected, code, MISSING)
        serving = ranked.argmax(dim=1)  # the first of equal codes
        survives = kept(count, sectors)
        survives[torch.arange(count), serving] = True
        ranked = torch.where(survives, ranked, MISSING).double()
        ranked[torch.arange(count), serving] += 0.5 * (ranked.amax(dim=1) >= 0)
        order = torch.argsort(ranked, dim=1, descending=True, stable=True)
        order = order[:, : config.max_neighbours + 1]
        slots = torch.where(ranked.gather(1, order) >= 0, order, -1)
        slots = torch.nn.functional.pad(slots, (0, SLOTS - slots.shape[1]), value=-1)
        chosen = slots.clamp_min(0)
        rsrp = torch.where(slots >= 0, code.gather(1, chosen), MISSING)
        return self._sample_quality(rsrp_dbm, slots, rsrp, normal, kept)

    def _sample_quality(
        self, rsrp_dbm: Tensor, slots: Tensor, rsrp: Tensor, normal: Any, kept: Any
    ) -> ReportBatch:
        config, count = self.config, len(slots)
        heard = slots >= 0
        level = decode(SS_RSRP, rsrp).nan_to_num(_NOWHERE_DBM)
        level_mw = torch.where(heard, 10 ** (level / 10), 0.0)
        mapped_mw = (10 ** (rsrp_dbm / 10)).nan_to_num(0.0)
        silent = torch.ones(count, mapped_mw.shape[1] + 1, dtype=torch.bool)
        silent.scatter_(1, torch.where(heard, slots, mapped_mw.shape[1]), value=False)
        unreported = (mapped_mw * silent[:, :-1]).sum(dim=1)
        total = 10.0 * self._received_mw(level_mw.sum(dim=1) + unreported).log10()
        total = total + config.interference_sigma_db * normal(count)
        sinr_db = level - self.interference_dbm(total[:, None], level_mw)
        sigma = config.quality_sigma_db
        rsrq = _encode(SS_RSRQ, rsrq_db(level, total[:, None]) + sigma * normal(count, SLOTS))
        sinr = _encode(SS_SINR, sinr_db + sigma * normal(count, SLOTS))
        cqi = torch.bucketize(sinr_db[:, 0] + sigma * normal(count), self._cqi_edges, right=True)
        return ReportBatch(
            sector=slots,
            rsrp=rsrp,
            rsrq=torch.where(heard & kept(count, SLOTS), rsrq, MISSING),
            sinr=torch.where(heard & kept(count, SLOTS), sinr, MISSING),
            cqi=torch.where(heard[:, 0] & kept(count), cqi, MISSING),
        )


def _milliwatts(reports: ReportBatch) -> Tensor:
    """Decoded levels [mW], 0 in empty slots, shape (report, slot)."""
    level = reports.level_dbm.nan_to_num(_NOWHERE_DBM)
    return torch.where(reports.heard, 10 ** (level / 10), 0.0)


def _encode(field: QuantisedField, value: Tensor) -> Tensor:
    return ((value - field.low) / field.step).floor().add(1).clamp(0, field.last).long()


def _row(table: QualityTable, n: int) -> QualityTable:
    return QualityTable(table.reported_mw[n : n + 1], table.log_prob[n : n + 1], table.first_dbm)
