"""Likelihood of the uplink angle of arrival and of the beams, given departure angles.

Both ends of a path are reciprocal: the azimuth from which the serving sector receives is that
at which it sends. The angle is Gaussian around the map's mean azimuth, as wide as array, SNR and
the paths' own spread make it, with a share of outliers. A beam's level differs from the sector's
by the gain of its pattern over the sector's at the map's departure angles, and fades on its own.
Which beams are reported follows from their codes, so the likelihood of a list is exact.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ueloc_core.measurement.accuracy import direction_sigma_deg
from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.bins import SMALLEST_PROBABILITY, bin_probability, normal_cdf
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
        sigma = (sigma**2 + wider**2) ** 0.5
        code = reports.aoa[:, None]
        low = UL_AOA.lower_edge(code.to(torch.float32))
        low = torch.remainder(low - mean + 180.0, 360.0) - 180.0
        inside = sum(
            bin_probability(low + turn, low + turn + UL_AOA.step, 0.0, sigma)
            for turn in (-360.0, 0.0, 360.0)
        )
        outliers = self.settings.direction.outlier_share
        outliers = 1 - (1 - outliers) * (1 - self.map_error.azimuth_tail_share * known.float())
        mixed = (1 - outliers) * inside + outliers * UL_AOA.step / 360.0
        return torch.where(code == MISSING, 0.0, mixed.clamp_min(SMALLEST_PROBABILITY).log())

    def beams_log_prob(self, reports: ReportBatch, maps: DepartureMaps) -> Tensor:
        """Log-likelihood of the reported beams, shape (report, place); missing gives 0.

        Given the reported level of the serving sector each beam's level is Gaussian and
        independent. Reported are the strongest by code, equal codes by their index; codes after
        the first are differences from the middle of the first one's bin.
        """
        offset = maps.beam_offset_db
        known = ~offset.isnan()
        sigma = torch.where(
            known,
            (self.settings.beams.sigma_db**2 + self.map_error.beam_db**2) ** 0.5,
            UNKNOWN_BEAM_DB,
        )
        loc = reports.level_dbm[:, :1, None] + torch.where(known, offset, -UNKNOWN_BEAM_DB)
        low, high = self._bins(reports, offset.shape[1])
        inside = bin_probability(low[..., None], high[..., None], loc, sigma)
        below = normal_cdf((high[..., None] - loc) / sigma)
        probability = torch.where(low[..., None] == -math.inf, below, inside)
        log_prob = probability.clamp_min(SMALLEST_PROBABILITY).log().sum(dim=1)
        return torch.where(reports.beam[:, :1] == MISSING, 0.0, log_prob)

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
