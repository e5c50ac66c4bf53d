"""The measurement model: one object that simulates reports and gives their likelihood.

Given what maps say about a place, a report is a chain:

1. Levels (`levels`). The received level of a sector is its mapped RSRP plus the map's own error
   (none in the world), shadowing that maps leave out, the terminal's gain offset, and fading. It
   is reported as an SS-RSRP code if it is detected, near enough to the serving one, not lost and
   among the strongest.
2. Quality (`quality`), given the levels: SS-RSRQ, SS-SINR, CQI, RI, throughput, BLER.
3. The serving sector's uplink and beams, given its level: UL SINR, timing advance and its offset
   (`timing`), angle of arrival and L1-RSRP of beams (`direction`).

Each field of a scenario is missing with the dropout's probability; one that the scenario lacks
is missing for sure. What reports of a track share (map error and shadowing at a place, gain
offset, clock) is integrated out.

`sample` runs in numpy (`simulate`), `log_prob` in torch: elementwise, and differentiable in what
the maps say. Both take means and scatter from the same functions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ueloc_core.city_sections import RadioConfig
from ueloc_core.measurement import scenarios
from ueloc_core.measurement.accuracy import uplink_sinr_db
from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.bins import log_code
from ueloc_core.measurement.direction import (
    DepartureMaps,
    DirectionLikelihood,
    SamePlaceDirections,
)
from ueloc_core.measurement.level_tables import (
    Groups,
    TrackLevels,
    default_groups,
    log_prob_over,
)
from ueloc_core.measurement.levels import NOWHERE_DBM, LevelLikelihood, LevelMaps, MapError
from ueloc_core.measurement.quality import QualityLikelihood
from ueloc_core.measurement.reports import INT16_MISSING, MISSING, UL_SINR
from ueloc_core.measurement.settings import MeasurementConfig
from ueloc_core.measurement.simulate import Simulator, Surroundings, Terminals
from ueloc_core.measurement.timing import DelayMaps, TimingLikelihood


@dataclass(frozen=True)
class ServingMaps:
    """What the serving sector's maps say at places.

    Attributes
    ----------
    delays, departures
        Delays and departure angles.
    reference_dbm
        Power that the sector sends in one resource element [dBm], shape (report,).
    """

    delays: DelayMaps
    departures: DepartureMaps
    reference_dbm: Tensor

    @classmethod
    def cat(cls, parts: Sequence["ServingMaps"]) -> "ServingMaps":
        """Maps of the reports of several, one after the other."""
        delays, departures = (
            [
                torch.cat(v)
                for v in zip(*(vars(getattr(p, name)).values() for p in parts), strict=True)
            ]
            for name in ("delays", "departures")
        )
        reference = torch.cat([p.reference_dbm for p in parts])
        return cls(DelayMaps(*delays), DepartureMaps(*departures), reference)

    def row(self, n: int) -> "ServingMaps":
        """Maps of one report."""
        return self.rows(slice(n, n + 1))

    def rows(self, chosen: Any) -> "ServingMaps":
        """Maps of some reports."""
        return ServingMaps(
            DelayMaps(*(v[chosen] for v in vars(self.delays).values())),
            DepartureMaps(*(v[chosen] for v in vars(self.departures).values())),
            self.reference_dbm[chosen],
        )


class MeasurementModel:
    """Distribution of reports given what maps say about a place.

    Parameters
    ----------
    settings, radio
        As in the city file.
    map_error
        Error of the maps that will be given; `MapError.none()` for the world's own.
    """

    def __init__(
        self, settings: MeasurementConfig, radio: RadioConfig, map_error: MapError
    ) -> None:
        self.settings, self.radio, self.map_error = settings, radio, map_error
        self.levels = LevelLikelihood(settings, map_error)
        self.quality = QualityLikelihood(settings.quality, radio, float(map_error.total_db))
        self.timing = TimingLikelihood(settings, radio, map_error)
        self.direction = DirectionLikelihood(settings, map_error)
        self.simulator = Simulator(settings, radio)

    # -- likelihood -----------------------------------------------------------------------

    def log_prob(
        self, reports: ReportBatch, maps: LevelMaps, serving: ServingMaps | None = None
    ) -> Tensor:
        """Log-likelihood of n reports at places, each on its own, shape (n, place).

        Parameters
        ----------
        reports
            The reports.
        maps
            Levels of all sectors at the places, one row for all reports or one for each.
        serving
            Maps of the serving sectors, one row a report. Without them timing, angle and beams
            are left out.
        """
        value = log_prob_over(self.levels, reports, maps)
        value = value + self.quality_log_prob(reports, maps) + self.constants(reports)[:, None]
        return value if serving is None else value + self.serving_log_prob(reports, serving)

    def track_log_prob(
        self,
        reports: ReportBatch,
        maps: LevelMaps,
        serving: ServingMaps | None = None,
        *,
        shared: float = 1.0,
        groups: Groups | None = None,
    ) -> Tensor:
        """Log-likelihood of the T reports of one terminal, shape (place,).

        Its gain offset and clock are one for all reports, the map's errors for those of one
        place (where one sector serves, as to timing, angle and beams).

        Parameters
        ----------
        reports
            T reports of one track, in order of time.
        maps
            One row: the terminal stands still at each place. T rows, or one for each group:
            places of each report along paths.
        serving
            Maps of the serving sectors at the place of each report, T rows.
        shared
            Mean correlation of the shadowing between the places of a path.
        groups
            Which reports come from one place; as of `TrackLevels.at`.
        """
        groups = default_groups(len(reports), len(maps)) if groups is None else groups
        value = TrackLevels(self.levels, reports).at(maps, shared=shared, groups=groups)
        value = value + self.constants(reports).sum()
        for k, group in enumerate(groups):
            some = reports[list(group)]
            silent = self.unreported_mw(some, maps.row(k))
            value = value + self.quality.same_place_log_prob(some, silent)
        if serving is None:
            return value
        by_sector = split_by_sector(groups, reports.sector[:, 0])
        sinr = self.expected_uplink_db(reports, serving)
        for group in by_sector:
            rows = list(group)
            here = serving.rows(rows[:1]).departures
            same = SamePlaceDirections(self.direction, reports[rows], sinr[rows])
            value = value + same.log_prob(here)
        return value + self.timing.track_log_prob(reports, serving.delays, sinr, by_sector)

    def quality_log_prob(self, reports: ReportBatch, maps: LevelMaps) -> Tensor:
        """Log-likelihood of the quality fields, shape (n, place)."""
        return self.quality.log_prob(self.quality.table(reports), self.unreported_mw(reports, maps))

    def unreported_mw(self, reports: ReportBatch, maps: LevelMaps) -> Tensor:
        """Sum of the mapped levels of the sectors that reports do not hold [mW], (n, place)."""
        # before the power: its slope is no number where a level is none
        mapped = 10 ** (maps.rsrp_dbm.nan_to_num(NOWHERE_DBM) / 10)
        whole = mapped.sum(dim=1)
        rows = []
        for n in range(len(reports)):
            k = n if len(maps) > 1 else 0
            heard = reports.sector[n][reports.heard[n]]
            rows.append((whole[k] - mapped[k, heard].sum(dim=0)).clamp_min(0.0))
        return torch.stack(rows)

    def serving_log_prob(self, reports: ReportBatch, serving: ServingMaps) -> Tensor:
        """Log-likelihood of timing, angle and beams, each report on its own, shape (n, place)."""
        sinr = self.expected_uplink_db(reports, serving)
        timing = self.timing.log_prob(reports, serving.delays, sinr)
        return timing + self.directions(reports, serving, sinr)

    def directions(self, reports: ReportBatch, serving: ServingMaps, sinr: Tensor) -> Tensor:
        """Log-likelihood of angle and beams at an expected uplink SINR [dB], shape (n, place)."""
        value = self.direction.azimuth_log_prob(reports, serving.departures, sinr)
        if bool((reports.beam[:, 0] != MISSING).any()):
            value = value + self.direction.beams_log_prob(reports, serving.departures)
        return value

    def expected_uplink_db(self, reports: ReportBatch, serving: ServingMaps) -> Tensor:
        """Expected uplink SINR [dB], which timing and angle errors follow, shape (n,)."""
        level = reports.level_dbm[:, 0].nan_to_num(self.settings.detection_threshold_dbm)
        expected: Tensor = uplink_sinr_db(
            level,
            serving.reference_dbm,
            self.settings.terminal.power_dbm,
            self.radio.numerology,
        )
        return expected

    def uplink_log_prob(self, reports: ReportBatch, expected_db: Tensor) -> Tensor:
        """Log-likelihood of the UL SINR, shape (n,): given the level no place makes it likelier."""
        there = reports.ul_sinr != INT16_MISSING
        code = torch.where(there, reports.ul_sinr, 0).double()
        sigma = self.settings.quality.uplink_sigma_db
        value = log_code(UL_SINR, code, expected_db.double(), sigma)
        return torch.where(there, value, 0.0).to(torch.float32)

    def constants(self, reports: ReportBatch) -> Tensor:
        """Log-probability of which optional fields are missing, shape (n,).

        A field that the scenario reports is missing with the dropout's probability; reports of
        an unknown scenario give 0.
        """
        lost = max(self.settings.dropout_probability, 1e-12)
        total = torch.zeros(len(reports))
        known = reports.scenario >= 0
        for feature, code in _optional(reports).items():
            asked = torch.from_numpy(scenarios.reported(feature))[reports.scenario.clamp_min(0)]
            missing = INT16_MISSING if feature in ("ul_sinr", "ta_offset") else MISSING
            there = code != missing
            measured = reports.heard if code.ndim > 1 else reports.heard[:, 0]
            value = torch.where(there, math.log1p(-lost), math.log(lost))
            asked = asked.reshape(-1, *([1] * (code.ndim - 1)))
            value = torch.where(asked & measured, value, 0.0)
            total = total + (value.sum(dim=1) if code.ndim > 1 else value)
        return torch.where(known, total, 0.0)

    # -- simulation -----------------------------------------------------------------------

    def sample(
        self, around: Surroundings, rng: np.random.Generator, terminals: Terminals | None = None
    ) -> ReportBatch:
        """Draw one report of each of n terminals.

        Parameters
        ----------
        around
            What they could hear; the levels hold whatever lasts (`simulate.Surroundings`).
        rng
            Source of all draws.
        terminals
            Scenario, clock and history; by default strangers that report everything.
        """
        drawn = self.simulator.sample(around, terminals or Terminals.unrelated(len(around)), rng)
        return ReportBatch.of(**drawn)


def split_by_sector(groups: Groups, serving: Tensor) -> Groups:
    """The reports of each place by the sector that serves them."""
    found: dict[tuple[int, int], tuple[int, ...]] = {}
    for k, group in enumerate(groups):
        for t in group:
            key = (k, int(serving[t]))
            found[key] = (*found.get(key, ()), t)
    return tuple(found.values())


def _optional(reports: ReportBatch) -> dict[str, Any]:
    per_slot = {name: getattr(reports, name) for name in ("rsrq", "sinr")}
    own = ("cqi", "ri", "throughput", "bler", "ul_sinr", "ta", "ta_offset", "aoa")
    return {
        **per_slot,
        **{name: getattr(reports, name) for name in own},
        "beams": reports.beam[:, 0],
    }


__all__ = [
    "DelayMaps",
    "DepartureMaps",
    "LevelMaps",
    "MapError",
    "MeasurementModel",
    "ReportBatch",
    "ServingMaps",
]
