"""Likelihood of ratios, rank and rates, given the reported levels.

All of them follow from the reported levels and the total received power per resource element:
load times the reported levels, plus load times the mapped levels of the unreported, plus noise,
times a log-normal deviation that all fields of a report share (`interference_sigma_db`). Given
the total they are independent:

- SS-RSRQ and SS-SINR of each reported sector, with an error of their own;
- CQI: the highest at which 10% of the blocks are lost (`link.cqi_thresholds_db`);
- RI: how many of four layers the serving sector's SINR carries (thresholds assumed);
- throughput: log-normal around the rate of `link.throughput_mbps` in the share of the
  resource blocks that the load leaves;
- BLER: errors among 100 blocks, binomial, at the rate that link adaptation meets: near 10%
  except where even the lowest MCS fails or the highest leaves room.

The place enters through the unreported sectors' power alone, so the likelihood of a report is a
table over the total power, integrated once over the shared deviation.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import gammaln
from torch import Tensor

from ueloc_core.city_sections import RadioConfig
from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.bins import log_code, log_interval
from ueloc_core.measurement.levels import NOWHERE_DBM
from ueloc_core.measurement.reports import MISSING, SS_RSRQ, SS_SINR
from ueloc_core.measurement.settings import QualityConfig
from ueloc_core.radio.link import (
    block_error_rate,
    cqi_thresholds_db,
    interference_mw,
    mcs_of_sinr,
    received_power_mw,
    rsrq_db,
    throughput_mbps,
)
from ueloc_core.units import noise_per_resource_element_dbm

RANK_THRESHOLDS_DB = (8.0, 16.0, 22.0)  # SINR from which 2, 3 and 4 layers pay: assumed
BLOCKS = 100
_STEP_DB = 0.25
_PARTS = 4  # nodes that are averaged within a step
_TOP_DBM = -10.0
_KERNEL_REACH = 4.0  # standard deviations
_SINR_DB = (-30.0, 60.0, 0.1)  # first, last and step of the rates' tables
_LEAST_RATE_KBPS = 1.0
_ERROR_NODES, _ERROR_REACH = 13, 3.0  # of the map's error of the total power
_RARE = 1e-4  # least share of lost and of kept blocks


@dataclass(frozen=True)
class QualityTable:
    """Log-likelihood of reports' quality fields as a function of the total power.

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

    def row(self, n: int) -> "QualityTable":
        """The table of one report."""
        part = slice(n, n + 1)
        return QualityTable(self.reported_mw[part], self.log_prob[part], self.first_dbm)


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
            sinr, resource_blocks=radio.resource_blocks, numerology=radio.numerology
        )
        self._kbps = np.maximum(1e3 * (1.0 - radio.load) * rate, _LEAST_RATE_KBPS)
        lost = block_error_rate(np.maximum(mcs_of_sinr(sinr), 0), sinr)
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
        Map error of the total power [dB], 0 in the world.
    """

    def __init__(self, settings: QualityConfig, radio: RadioConfig, total_db: float) -> None:
        self.settings, self.load, self.total_db = settings, radio.load, total_db
        noise_dbm = noise_per_resource_element_dbm(radio.numerology, radio.noise_figure_db)
        self.noise_mw = 10.0 ** (noise_dbm / 10.0)
        self.rates = RateLaws(radio)
        self._cqi_thresholds = torch.tensor(cqi_thresholds_db(), dtype=torch.float32)
        self._rank_thresholds = torch.tensor(RANK_THRESHOLDS_DB, dtype=torch.float32)
        self._first_dbm = noise_dbm - 6.0

    def table(
        self,
        reports: ReportBatch,
        given_total: Tensor | None = None,
        total_db: float | None = None,
    ) -> QualityTable:
        """Log-likelihood over the expected total power, the shared deviation integrated out.

        Parameters
        ----------
        reports
            The reports.
        given_total
            Their `given_total`, where it is known already.
        total_db
            Map error of the total power that is integrated out as well [dB]; all by default.
        """
        log_prob = self.given_total(reports) if given_total is None else given_total
        total_db = self.total_db if total_db is None else total_db
        sigma = math.hypot(self.settings.interference_sigma_db, total_db)
        reach = math.ceil(_KERNEL_REACH * sigma / _STEP_DB)
        offset = _STEP_DB * torch.arange(-reach, reach + 1, dtype=torch.float32)
        kernel = torch.softmax(-0.5 * (offset / sigma) ** 2, dim=0)
        peak = log_prob.amax(dim=1, keepdim=True)
        padded = torch.nn.functional.pad(
            (log_prob - peak)[:, None].exp(), (reach, reach), mode="replicate"
        )
        mean = torch.nn.functional.conv1d(padded, kernel[None, None])[:, 0]
        return QualityTable(
            reported_mw=self.received_mw(reported_mw(reports).sum(dim=1)),
            log_prob=mean.clamp_min(1e-30).log() + peak,
            first_dbm=self._first_dbm,
        )

    def given_total(self, reports: ReportBatch) -> Tensor:
        """Log-likelihood at total powers, shape (report, node).

        Where a sector's own power makes up nearly all of the total, its SINR jumps within one
        step, so that each node is the mean over its step.
        """
        count = round((_TOP_DBM - self._first_dbm) / _STEP_DB) + 1
        parts = torch.arange(count * _PARTS, dtype=torch.float32) - (_PARTS - 1) / 2
        total = self._first_dbm + _STEP_DB / _PARTS * parts
        log_prob = self.at_total(reports, total[None, :])
        log_prob = log_prob.reshape(-1, count, _PARTS).logsumexp(dim=2)
        return log_prob - math.log(_PARTS)

    def at_total(self, reports: ReportBatch, total_dbm: Tensor) -> Tensor:
        """Log-likelihood at any total powers [dBm] of shape (report or 1, node)."""
        settings, total = self.settings, total_dbm[..., None]
        level = reports.level_dbm.nan_to_num(0.0)[:, None, :]
        sinr_db = level - self.interference_dbm(total, reported_mw(reports)[:, None, :])
        ratio_db = rsrq_db(level, total)
        value = log_code(SS_RSRQ, reports.rsrq[:, None, :], ratio_db, settings.sigma_db)
        value = value + log_code(SS_SINR, reports.sinr[:, None, :], sinr_db, settings.sigma_db)
        value, serving = value.sum(dim=2), sinr_db[:, :, 0]
        value = value + log_interval(
            reports.cqi[:, None], self._cqi_thresholds, serving, settings.sigma_db
        )
        rank = torch.where(reports.ri == MISSING, MISSING, reports.ri - 1)[:, None]
        value = value + log_interval(rank, self._rank_thresholds, serving, settings.rank_sigma_db)
        if bool((reports.throughput != MISSING).any()):
            value = value + self.rates.log_throughput(
                reports.throughput[:, None], serving, settings.throughput_sigma
            )
        if bool((reports.bler != MISSING).any()):
            value = value + self.rates.log_errors(reports.bler[:, None], serving)
        return value.to(torch.float32)

    def interference_dbm(self, total_dbm: Tensor, level_mw: Tensor) -> Tensor:
        """Interference and noise [dBm] that a sector meets within a total power [dBm]."""
        rest: Tensor = interference_mw(
            10 ** (total_dbm / 10), level_mw, load=self.load, noise_mw=self.noise_mw
        )
        return 10.0 * rest.log10()

    def received_mw(self, levels_mw: Any) -> Any:
        """Total power [mW] of a resource element under the load, of levels' sum [mW]."""
        return received_power_mw(levels_mw, load=self.load, noise_mw=self.noise_mw)

    def expected_total_dbm(self, table: QualityTable, unreported_mw: Tensor) -> Tensor:
        """Expected total power [dBm]: reported levels and noise, plus load x unreported [mW].

        `unreported_mw` has shape (report, ...).
        """
        known = table.reported_mw.reshape(-1, *([1] * (unreported_mw.ndim - 1)))
        total: Tensor = received_power_mw(unreported_mw, load=self.load, noise_mw=known)
        return 10.0 * total.log10()

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
        if self.total_db == 0.0 or len(reports) == 1:
            return self.log_prob(self.table(reports), unreported_mw).sum(dim=0)
        table = self.table(reports, total_db=0.0)
        node = torch.linspace(-_ERROR_REACH, _ERROR_REACH, _ERROR_NODES)
        terms = [
            self.log_prob(table, unreported_mw, float(z) * self.total_db).sum(dim=0) + weight
            for z, weight in zip(node, torch.log_softmax(-0.5 * node**2, dim=0), strict=True)
        ]
        return torch.stack(terms).logsumexp(dim=0)

    def log_prob(self, table: QualityTable, unreported_mw: Tensor, error_db: float = 0.0) -> Tensor:
        """Log-probability of the quality fields, shape of `unreported_mw` (report, ...).

        Parameters
        ----------
        table
            From `table`, of the same reports.
        unreported_mw
            Sum of the mapped levels of the unreported sectors [mW].
        error_db
            How far the total power is above what the maps say [dB].
        """
        expected_dbm = self.expected_total_dbm(table, unreported_mw) + error_db
        position = (expected_dbm - table.first_dbm) / _STEP_DB
        last = table.log_prob.shape[1] - 1
        position = position.clamp(0, last - 1e-3)
        below = position.detach().floor().long()
        flat = below.reshape(len(below), -1)
        low = table.log_prob.gather(1, flat).reshape(below.shape)
        high = table.log_prob.gather(1, flat + 1).reshape(below.shape)
        return low + (position - below) * (high - low)


def reported_mw(reports: ReportBatch) -> Tensor:
    """Decoded levels [mW], 0 in empty slots, shape (report, slot)."""
    level = reports.level_dbm.nan_to_num(NOWHERE_DBM)
    return torch.where(reports.heard, 10 ** (level / 10), 0.0)
