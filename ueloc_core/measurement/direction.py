"""Likelihood of the uplink angle of arrival and of the beams, given departure angles.

Both ends of a path are reciprocal: the azimuth from which the serving sector receives is that
at which it sends. The angle is Gaussian around the map's mean azimuth, as wide as array, SNR and
the paths' own spread make it, with a share of outliers. A beam's level differs from the sector's
by the gain of its pattern over the sector's at the map's departure angles, and fades on its own.
Which beams are reported follows from their codes, so the likelihood of a list is exact.

The map's errors are one for the reports of a place. Their product is a function of the mapped
azimuth and spread, and of each beam's mapped offset; it is tabulated with the errors integrated
out (`SamePlaceDirections`).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ueloc_core.measurement.accuracy import direction_sigma_deg
from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.bins import (
    SMALLEST_PROBABILITY,
    bin_probability,
    normal_cdf,
    widened,
)
from ueloc_core.measurement.levels import MapError
from ueloc_core.measurement.reports import (
    L1_RSRP,
    L1_RSRP_DROP,
    MISSING,
    UL_AOA,
    ul_aoa_of_compass_deg,
)
from ueloc_core.measurement.settings import MeasurementConfig

UNKNOWN_BEAM_DB = 12.0  # scatter of a beam against its sector where no departure is mapped
UNKNOWN_AZIMUTH_DEG = 40.0  # and of the departure around the straight line
_OPEN_DB = 1e4
_ABSOLUTE = -1  # stands for the absolute code among the steps
_SPREADS_DEG = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0)
_OFFSETS_DB = (-70.0, 50.0, 0.25)  # of beams: first, last and step
_LEAST = 1e-60


@dataclass(frozen=True)
class DepartureMaps:
    """What maps say about the serving sector's departures at places.

    Attributes
    ----------
    azimuth_deg, spread_deg
        Mean compass azimuth and RMS spread of departure [deg], NaN where unknown, shape
        (report, place).
    bearing_deg
        Compass bearing of the place from the site [deg], shape (report, place).
    beam_offset_db
        Gain of each beam over the sector's own pattern [dB], NaN where unknown, shape
        (report, beam, place); no beams at all where none is asked for.
    """

    azimuth_deg: Tensor
    spread_deg: Tensor
    bearing_deg: Tensor
    beam_offset_db: Tensor


class DirectionLikelihood:
    """Log-likelihood of UL-AoA and of L1-RSRP of beams.

    Parameters
    ----------
    settings
        Array, outliers, beams.
    map_error
        Error of the maps' azimuths and beams.
    """

    def __init__(self, settings: MeasurementConfig, map_error: MapError) -> None:
        self.settings, self.map_error = settings, map_error

    def azimuth_log_prob(
        self, reports: ReportBatch, maps: DepartureMaps, uplink_sinr_db: Tensor
    ) -> Tensor:
        """Log-likelihood of the angles of arrival, shape (report, place); missing gives 0."""
        known = ~maps.azimuth_deg.isnan()
        mean = ul_aoa_of_compass_deg(torch.where(known, maps.azimuth_deg, maps.bearing_deg))
        sigma = direction_sigma_deg(
            uplink_sinr_db[:, None], maps.spread_deg, self.settings.direction
        )
        wider = torch.where(known, self.map_error.azimuth_core_deg, UNKNOWN_AZIMUTH_DEG)
        outliers = self.settings.direction.outlier_share
        outliers = 1 - (1 - outliers) * (1 - self.map_error.azimuth_tail_share * known.float())
        code = reports.aoa[:, None]
        mixed = angle_probability(code, mean, (sigma**2 + wider**2) ** 0.5, outliers)
        return torch.where(code == MISSING, 0.0, mixed.clamp_min(SMALLEST_PROBABILITY).log())

    def beams_log_prob(self, reports: ReportBatch, maps: DepartureMaps) -> Tensor:
        """Log-likelihood of the reported beams, shape (report, place); missing gives 0.

        Given the reported level of the serving sector each beam's level is Gaussian and
        independent. Reported are the strongest by code, equal codes by their index; codes after
        the first are differences from the middle of the first one's bin. Beams that the panel
        does not have, or whose sector's level is missing, tell nothing.
        """
        offset = maps.beam_offset_db
        beams = offset.shape[1]
        told = (reports.beam[:, 0] != MISSING) & (reports.rsrp[:, 0] != MISSING)
        told &= reports.beam.amax(dim=1) < beams
        log_prob = offset.new_zeros(len(reports), offset.shape[2])
        rows = torch.nonzero(told)[:, 0]
        if len(rows):
            of = offset if len(offset) == 1 else offset[rows]
            log_prob[rows] = self._told_beams(reports[rows], of)
        return log_prob

    def _told_beams(self, reports: ReportBatch, offset: Tensor) -> Tensor:
        known = ~offset.isnan()
        sigma = torch.where(
            known,
            (self.settings.beams.sigma_db**2 + self.map_error.beam_db**2) ** 0.5,
            UNKNOWN_BEAM_DB,
        )
        loc = reports.level_dbm[:, :1, None] + torch.where(known, offset, -UNKNOWN_BEAM_DB)
        probability = self.beam_probability(reports, loc, sigma)
        return probability.clamp_min(SMALLEST_PROBABILITY).log().sum(dim=1)

    def beam_probability(self, reports: ReportBatch, loc_dbm: Tensor, sigma: Any) -> Tensor:
        """Probability of what is reported of each beam at mean levels, shape of `loc_dbm`.

        `loc_dbm` has shape (report, beam, ...).
        """
        low, high = (v[..., None] for v in self._bins(reports, loc_dbm.shape[1]))
        inside = bin_probability(low, high, loc_dbm, sigma)
        return torch.where(low == -math.inf, normal_cdf((high - loc_dbm) / sigma), inside)

    def _bins(self, reports: ReportBatch, beams: int) -> tuple[Tensor, Tensor]:
        """Interval [dBm] that each beam's level lies in, shape (report, beam).

        A reported one lies in its code's bin, an unreported one below that of the last reported
        one, or in it as well where the beam's index comes later.
        """
        count = (reports.beam != MISSING).sum(dim=1, keepdim=True)
        last = (count - 1).clamp_min(0)
        everyone = torch.arange(beams).expand(len(reports), beams)
        weakest = reports.beam_level.gather(1, last).expand_as(everyone)
        weakest = torch.where(count > 1, weakest, _ABSOLUTE)
        low, high = beam_interval(reports, everyone, weakest)
        high = torch.where(everyone > reports.beam.gather(1, last), high, low)
        low = torch.full_like(high, -math.inf)
        steps = reports.beam_level.clone()
        steps[:, 0] = _ABSOLUTE
        own = beam_interval(reports, reports.beam, steps)
        for slot in range(reports.beam.shape[1]):
            there = torch.nonzero(reports.beam[:, slot] != MISSING)[:, 0]
            at = reports.beam[there, slot]
            low[there, at], high[there, at] = own[0][there, slot], own[1][there, slot]
        return low, high


class SamePlaceDirections:
    """Log-likelihood of angles and beams in reports from one place that one sector serves.

    Parameters
    ----------
    likelihood
        The model of angles and beams.
    reports
        The reports.
    uplink_sinr_db
        Expected uplink SINR of each [dB], shape (report,).
    """

    def __init__(
        self, likelihood: DirectionLikelihood, reports: ReportBatch, uplink_sinr_db: Tensor
    ) -> None:
        self.likelihood = likelihood
        angles = reports.aoa != MISSING
        self._angles, self._sinr = reports[angles], uplink_sinr_db[angles]
        self._beams = reports[(reports.beam[:, 0] != MISSING) & (reports.rsrp[:, 0] != MISSING)]

    def log_prob(self, maps: DepartureMaps) -> Tensor:
        """Log-likelihood at places, shape (place,); the maps have one row."""
        value = torch.zeros(maps.azimuth_deg.shape[1])
        if len(self._angles):
            value = value + self._azimuth(maps)
        told = self._beams[self._beams.beam.amax(dim=1) < maps.beam_offset_db.shape[1]]
        if len(told):
            value = value + self._beam_levels(told, maps.beam_offset_db[0])
        return value

    def _azimuth(self, maps: DepartureMaps) -> Tensor:
        direction, error = self.likelihood.settings.direction, self.likelihood.map_error
        step = 1.0 / math.ceil(4.0 / min(direction.floor_deg, 1.0))
        azimuth = step * torch.arange(round(360.0 / step), dtype=torch.float64)
        classes = torch.tensor(_SPREADS_DEG, dtype=torch.float64)
        given = torch.ones(len(classes), len(azimuth), dtype=torch.float64)
        for n in range(len(self._angles)):
            sigma = direction_sigma_deg(self._sinr[n].double(), classes, direction)[:, None]
            code = self._angles.aoa[n]
            given *= angle_probability(code, azimuth, sigma, direction.outlier_share)
        nowhere = given.mean(dim=1, keepdim=True)
        tail = error.azimuth_tail_share
        mapped = (1 - tail) * widened(given, error.azimuth_core_deg / step) + tail * nowhere
        tables = torch.stack([mapped, widened(given, UNKNOWN_AZIMUTH_DEG / step)])
        known = ~maps.azimuth_deg[0].isnan()
        mean = torch.where(known, maps.azimuth_deg[0], maps.bearing_deg[0])
        place = (ul_aoa_of_compass_deg(mean) / step).double()
        node = place.detach().floor().long()
        spread = maps.spread_deg[0].nan_to_num(0.0).double().clamp(0, _SPREADS_DEG[-1])
        row = (torch.bucketize(spread, classes, right=True) - 1).clamp(0, len(classes) - 2)
        # a Gaussian's logarithm is linear in the inverse of its variance
        width = 1 / (direction.floor_deg**2 + (direction.spread_share * classes) ** 2)
        own = 1 / (direction.floor_deg**2 + (direction.spread_share * spread) ** 2)
        share = ((own - width[row]) / (width[row + 1] - width[row])).nan_to_num(0.0)
        kind, tables = (~known).long(), tables.clamp_min(_LEAST).log()
        low, high = (
            torch.lerp(
                tables[kind, row + k, node % len(azimuth)],
                tables[kind, row + k, (node + 1) % len(azimuth)],
                place - node,
            )
            for k in (0, 1)
        )
        return torch.lerp(low, high, share).to(torch.float32)

    def _beam_levels(self, reports: ReportBatch, offset_db: Tensor) -> Tensor:
        like, sigma = self.likelihood, self.likelihood.settings.beams.sigma_db
        first, last, step = _OFFSETS_DB
        margin = round(4 * UNKNOWN_BEAM_DB / step)
        nodes = torch.arange(round((last - first) / step) + 1 + 2 * margin, dtype=torch.float64)
        offset = first + step * (nodes - margin)
        loc = reports.level_dbm[:, :1, None].double() + offset
        loc = loc.expand(-1, len(offset_db), -1)
        given = like.beam_probability(reports, loc, sigma).prod(dim=0)  # (beam, node)
        rest = math.sqrt(max(UNKNOWN_BEAM_DB**2 - sigma**2, 0.0))
        mapped = widened(given, float(like.map_error.beam_db) / step)
        unknown = widened(given, rest / step)
        known = ~offset_db.isnan()
        place = (offset_db.nan_to_num(-UNKNOWN_BEAM_DB).double() - first) / step + margin
        place = place.clamp(margin, len(nodes) - margin - 1.001)
        node = place.detach().floor().long()
        low, high = (
            torch.where(known, mapped.gather(1, node + k), unknown.gather(1, node + k))
            for k in (0, 1)
        )
        value = torch.lerp(low, high, place - node).clamp_min(_LEAST).log()
        return value.sum(dim=0).to(torch.float32)


def angle_probability(code: Tensor, mean_deg: Tensor, sigma_deg: Tensor, outliers: Any) -> Tensor:
    """Probability of UL-AoA codes around a mean [deg], wrapped, with a share of outliers."""
    low = UL_AOA.lower_edge(code.to(mean_deg.dtype))
    low = torch.remainder(low - mean_deg + 180.0, 360.0) - 180.0
    inside = sum(
        bin_probability(low + turn, low + turn + UL_AOA.step, 0.0, sigma_deg)
        for turn in (-360.0, 0.0, 360.0)
    )
    mixed: Tensor = (1 - outliers) * inside + outliers * UL_AOA.step / 360.0
    return mixed


def beam_interval(reports: ReportBatch, beam: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper edge [dBm] of the bins that beams' codes stand for.

    The strongest beam has an absolute code; of equal ones it is the beam of the lowest index.
    The others count steps of 2 dB down from the middle of its bin, where step 0 holds all above
    as well that the strongest one leaves, and the last one all that is weaker.

    Parameters
    ----------
    reports
        n reports.
    beam, step
        Index and step of any beams of them, shape (n, beam); step -1 is the absolute code's bin.
    """
    first = reports.beam_level[:, :1].to(torch.float32)
    bottom = L1_RSRP.lower_edge(first)
    middle = bottom + L1_RSRP.step / 2
    top = torch.where(first >= L1_RSRP.last, _OPEN_DB, bottom + L1_RSRP.step)
    bottom = torch.where(first <= L1_RSRP.first, -_OPEN_DB, bottom)
    high = middle - L1_RSRP_DROP.step * step
    low = torch.where(step >= L1_RSRP_DROP.last, -_OPEN_DB, high - L1_RSRP_DROP.step)
    high = torch.where(step <= 0, torch.where(beam > reports.beam[:, :1], top, bottom), high)
    high = torch.where(step == _ABSOLUTE, top, high)
    return torch.where(step == _ABSOLUTE, bottom, low), high
