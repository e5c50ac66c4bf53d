"""Likelihood of ratios, rank and rates, given the reported levels.

All of them follow from the levels and the load, the share of their resource elements that the
sectors send on: a sector meets load times the levels of all others, plus noise. The levels are
the reported ones and, for the other sectors, the mapped ones; the load of a report deviates from
the city's by a log-normal factor that all its fields share (`interference_sigma_db`), up to full
load. Given the load they are independent:

- SS-RSRQ and SS-SINR of each reported sector, with an error of their own;
- CQI: the highest at which 10% of the blocks are lost (`link.cqi_thresholds_db`);
- RI: how many of four layers the serving sector's SINR carries (thresholds assumed);
- throughput: log-normal around the rate of `link.throughput_mbps` in the share of the
  resource blocks that the load leaves;
- BLER: errors among 100 blocks, binomial, at the 10% that the outer loop of link adaptation
  keeps to, but where even the lowest MCS loses more or the highest one less.

The place enters through the unreported sectors' power alone, so the likelihood of a report is a
table over that, integrated once over the load. A map's error is one of that power.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import gammaln
from torch import Tensor

from ueloc_core.city_sections import RadioConfig
from ueloc_core.measurement.accuracy import namespace
from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.bins import log_code, log_interval
from ueloc_core.measurement.levels import NOWHERE_DBM
from ueloc_core.measurement.reports import MISSING, SS_RSRQ, SS_SINR
from ueloc_core.measurement.settings import QualityConfig
from ueloc_core.radio.link import (
    MCS_TABLE,
    TARGET_BLOCK_ERROR_RATE,
    block_error_rate,
    cqi_thresholds_db,
    downlink_overhead_share,
    received_power_mw,
    rsrq_db,
    throughput_mbps,
)
from ueloc_core.units import noise_per_resource_element_dbm

RANK_THRESHOLDS_DB = (8.0, 16.0, 22.0)  # SINR from which 2, 3 and 4 layers pay: assumed
BLOCKS = 100
_STEP_DB = 0.5  # of the interference of a report's strongest sector over its least
_NODES = 141
_LOAD_REACH = 4.0  # standard deviations
_LOAD_STEP = 0.75  # over the smallest error of a field
_ADAPTATION_STEP_DB = 0.2  # where the block error rate counts, which is steep
_AT_ONCE = 100_000  # nodes: bounds the memory
_SINR_DB = (-30.0, 60.0, 0.1)  # first, last and step of the rates' tables
_LEAST_RATE_KBPS = 1.0
_ERROR_NODES, _ERROR_REACH = 13, 3.0  # of the map's error
_RARE = 1e-4  # least share of lost and of kept blocks


@dataclass(frozen=True)
class QualityTable:
    """Log-likelihood of reports' quality fields as a function of the unreported sectors' power.

    Attributes
    ----------
    least_mw
        What the strongest reported sector meets where no other one is unreported: the levels of
        the other reported ones, and noise over load [mW], shape (report,).
    log_prob
        Values where the unreported ones make that k steps more, shape (report, node).
    step_db
        The step [dB].
    """

    least_mw: Tensor
    log_prob: Tensor
    step_db: float = _STEP_DB


class RateLaws:
    """Throughput and block error rate as functions of the SINR, for numpy and torch.

    Parameters
    ----------
    radio
        Carrier and load.
    """

    def __init__(self, radio: RadioConfig) -> None:
        low, high, self._step = _SINR_DB
        self._first = low
        sinr = np.arange(low, high + self._step / 2, self._step)
        rate = throughput_mbps(
            sinr,
            resource_blocks=radio.resource_blocks,
            numerology=radio.numerology,
            overhead_share=downlink_overhead_share(radio.frequency_hz),
        )
        self._kbps = np.maximum(1e3 * (1.0 - radio.load) * rate, _LEAST_RATE_KBPS)
        lowest, highest = (block_error_rate(mcs, sinr) for mcs in (0, len(MCS_TABLE) - 1))
        lost = np.maximum(lowest, np.minimum(TARGET_BLOCK_ERROR_RATE, highest))
        self._lost = lost.clip(_RARE, 1 - _RARE)

    @cached_property
    def _tensors(self) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(np.log(self._kbps)), torch.from_numpy(self._lost)

    def _index(self, sinr_db: Any) -> Any:
        place = (sinr_db - self._first) / self._step
        return place.clip(0, len(self._kbps) - 1) + 0.5

    def median_kbps(self, sinr_db: NDArray[Any]) -> NDArray[np.float64]:
        """Median throughput [kbit/s] at a SINR [dB]."""
        return np.asarray(self._kbps[self._index(sinr_db).astype(np.int64)])

    def lost_share(self, sinr_db: NDArray[Any]) -> NDArray[np.float64]:
        """Share of blocks that are lost at a SINR [dB]."""
        return np.asarray(self._lost[self._index(sinr_db).astype(np.int64)])

    def log_throughput(self, kbps: Tensor, sinr_db: Tensor, sigma: float) -> Tensor:
        """Log-probability of throughputs [kbit/s, rounded down], elementwise; missing gives 0."""
        loc = self._tensors[0][self._index(sinr_db).long()]
        value = kbps.double().clamp_min(0)
        high = torch.special.log_ndtr((torch.log(value + 1) - loc) / sigma)
        # the bin's share in logarithms: both edges lie close together on a wide distribution
        low = torch.special.log_ndtr((torch.log(value.clamp_min(1e-300)) - loc) / sigma)
        inside = high + torch.log(-torch.expm1((low - high).clamp_max(-1e-12)))
        return torch.where(kbps == MISSING, 0.0, inside.clamp_min(-46.0))

    def log_errors(self, percent: Tensor, sinr_db: Tensor) -> Tensor:
        """Log-probability of lost blocks out of 100, elementwise; missing gives 0."""
        lost = self._tensors[1][self._index(sinr_db).long()]
        count = percent.clamp_min(0).double()
        ways = torch.from_numpy(_log_choose(BLOCKS))[percent.clamp_min(0).long()]
        value = ways + count * lost.log() + (BLOCKS - count) * torch.log1p(-lost)
        return torch.where(percent == MISSING, 0.0, value)


def _log_choose(n: int) -> NDArray[np.float64]:
    k = np.arange(n + 1)
    return np.asarray(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1))


class QualityLikelihood:
    """Log-likelihood of the quality fields.

    Parameters
    ----------
    settings
        Their errors.
    radio
        Carrier, load and noise.
    total_db
        Map error of the unreported sectors' power [dB], 0 in the world.
    """

    def __init__(self, settings: QualityConfig, radio: RadioConfig, total_db: float) -> None:
        self.settings, self.load, self.total_db = settings, radio.load, total_db
        noise_dbm = noise_per_resource_element_dbm(radio.numerology, radio.noise_figure_db)
        self.noise_mw = 10.0 ** (noise_dbm / 10.0)
        self.rates = RateLaws(radio)
        self._cqi_thresholds = torch.tensor(cqi_thresholds_db(), dtype=torch.float32)
        self._rank_thresholds = torch.tensor(RANK_THRESHOLDS_DB, dtype=torch.float32)

    def loads(self, deviation_db: Any) -> Any:
        """Load of reports whose interference deviates by so much [dB]."""
        return (self.load * 10.0 ** (deviation_db / 10.0)).clip(max=1.0)

    def table(
        self, reports: ReportBatch, coarser: float = 1.0, step_db: float = _STEP_DB
    ) -> QualityTable:
        """Log-likelihood over the unreported sectors' power, the load integrated out.

        Parameters
        ----------
        reports
            n reports.
        coarser
            Factor of the step of the load.
        step_db
            Of the power, relative to the least.
        """
        sigma = self.settings.interference_sigma_db
        nodes = math.ceil((_NODES - 1) * _STEP_DB / step_db) + 1
        step = coarser * _LOAD_STEP * min(self.settings.sigma_db, self.settings.rank_sigma_db)
        if bool((reports.bler != MISSING).any()):
            step = min(step, _ADAPTATION_STEP_DB)
        count = 1 + 2 * math.ceil(_LOAD_REACH * sigma / step)
        deviation = torch.linspace(-_LOAD_REACH, _LOAD_REACH, count, device=reports.rsrp.device)
        weight = torch.log_softmax(-0.5 * deviation**2, dim=0)
        own = reported_mw(reports)
        whole = own.sum(dim=1, keepdim=True)
        least = whole - own.amax(dim=1, keepdim=True) + self.noise_mw / self.load
        node = torch.arange(nodes, device=least.device)
        unreported = least * (10.0 ** (step_db * node / 10.0) - 1.0)
        all_mw, load = (whole + unreported)[..., None], self.loads(sigma * deviation)
        at_once = max(1, _AT_ONCE // (nodes * count))
        parts = [slice(k, k + at_once) for k in range(0, len(reports), at_once)]
        values = [least.new_zeros(0, nodes)]
        for k in parts:
            given = self.at_load(reports[k], all_mw[k], load)
            values.append((given + weight).logsumexp(dim=2))
        return QualityTable(least[:, 0], torch.cat(values), step_db)

    def at_load(self, reports: ReportBatch, all_mw: Tensor, load: Tensor) -> Tensor:
        """Log-likelihood given the sum of all levels [mW] and the load, arrays that broadcast.

        The first axis is that of the reports; the result has shape (report, ...).
        """
        settings, level = self.settings, reports.level_dbm.nan_to_num(0.0)[:, None, None, :]
        all_mw, load = all_mw[..., None], load[..., None]
        own = reported_mw(reports)[:, None, None, :]
        ratio_db = rsrq_db(level, self.received_dbm(all_mw, load))
        sinr_db = level - self.received_dbm((all_mw - own).clamp_min(0.0), load)
        rsrq, sinr = (v[:, None, None, :] for v in (reports.rsrq, reports.sinr))
        value = log_code(SS_RSRQ, rsrq, ratio_db, settings.sigma_db)
        value = value + log_code(SS_SINR, sinr, sinr_db, settings.sigma_db)
        value, serving = value.sum(dim=-1), sinr_db[..., 0]

        def whole(values: Tensor) -> Tensor:
            return values[:, None, None]

        value = value + log_interval(
            whole(reports.cqi), self._cqi_thresholds, serving, settings.sigma_db
        )
        rank = torch.where(reports.ri == MISSING, MISSING, reports.ri - 1)
        value = value + log_interval(
            whole(rank), self._rank_thresholds, serving, settings.rank_sigma_db
        )
        if bool((reports.throughput != MISSING).any()):
            value = value + self.rates.log_throughput(
                whole(reports.throughput), serving, settings.throughput_sigma
            )
        if bool((reports.bler != MISSING).any()):
            value = value + self.rates.log_errors(whole(reports.bler), serving)
        return value.to(torch.float32)

    def received_dbm(self, levels_mw: Any, load: Any) -> Any:
        """Power of a resource element [dBm] from the sum of levels [mW] under a load."""
        power = received_power_mw(levels_mw, load=load, noise_mw=self.noise_mw)
        return 10.0 * namespace(power).log10(power)

    def log_prob(self, table: QualityTable, unreported_mw: Tensor) -> Tensor:
        """Log-probability of the quality fields, each report on its own.

        Parameters
        ----------
        table
            From `table`, of the same reports.
        unreported_mw
            Sum of the mapped levels of the unreported sectors [mW], shape (report, ...), which
            is that of the result.
        """
        terms = self._over_errors(table, unreported_mw)
        return torch.stack([value + weight for value, weight in terms]).logsumexp(dim=0)

    def same_place_log_prob(self, reports: ReportBatch, unreported_mw: Tensor) -> Tensor:
        """Log-probability of reports from one place, one map error for all, shape (place,).

        Parameters
        ----------
        reports
            n reports.
        unreported_mw
            Sum of the mapped levels of the sectors that each does not report [mW], shape
            (n, place).
        """
        terms = self._over_errors(self.table(reports), unreported_mw)
        return torch.stack([v.sum(dim=0) + weight for v, weight in terms]).logsumexp(dim=0)

    def _over_errors(
        self, table: QualityTable, unreported_mw: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Log-probabilities under map errors, and the logarithms of these errors' weights."""
        nodes = _ERROR_NODES if self.total_db else 1
        reach = _ERROR_REACH * self.total_db
        error_db = torch.linspace(-reach, reach, nodes)
        weight = torch.log_softmax(-0.5 * torch.linspace(-1, 1, nodes).mul(_ERROR_REACH) ** 2, 0)
        least = table.least_mw.reshape(-1, *([1] * (unreported_mw.ndim - 1)))
        for error, log_weight in zip(error_db.tolist(), weight, strict=True):
            ratio = 1.0 + unreported_mw * 10.0 ** (error / 10.0) / least
            last = table.log_prob.shape[1] - 1
            position = (10.0 * ratio.log10() / table.step_db).clamp(0, last - 1e-3)
            below = position.detach().floor().long()
            flat = below.reshape(len(below), -1)
            low = table.log_prob.gather(1, flat).reshape(below.shape)
            high = table.log_prob.gather(1, flat + 1).reshape(below.shape)
            yield low + (position - below) * (high - low), log_weight


def reported_mw(reports: ReportBatch) -> Tensor:
    """Decoded levels [mW], 0 in empty slots, shape (report, slot)."""
    level = reports.level_dbm.nan_to_num(NOWHERE_DBM)
    return torch.where(reports.heard, 10 ** (level / 10), 0.0)
