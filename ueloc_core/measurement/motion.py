"""Likelihood of a track whose terminal may have moved: where its last report came from.

Between its reports a terminal stands or goes straight on at one speed, in any direction
(`MotionPrior`). How it came to the last place is integrated out by a quadrature over directions
and speeds, and over where in its grid cell it is: each node is a path, a shift in whole grid
cells for every report. Reports that a path leaves in one grid cell share the map's errors there.

Turns and changes of speed between the reports of a track are left out, and so is that terminals
keep to streets: paths through buildings alone are ruled out.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor

from ueloc_core.errors import ReportError
from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.direction import SamePlaceDirections
from ueloc_core.measurement.level_tables import Groups, TrackLevels
from ueloc_core.measurement.levels import LevelMaps
from ueloc_core.measurement.model import MeasurementModel, ServingMaps, split_by_sector
from ueloc_core.measurement.movers import DRIVERS, DRIVING_M_S, WALKING_M_S
from ueloc_core.measurement.place_maps import Around, PlaceMaps
from ueloc_core.measurement.settings import TracksConfig
from ueloc_core.measurement.timing import DelayMaps

_STOPPED_SHARE = 0.15  # of vehicles
_CITY_ROADS = ("service", "residential", "tertiary", "secondary", "primary")
_PARTS = 4  # of a grid cell's side, for where in it the terminal is
_SHARED_STEP = 0.05  # of the shadowing's mean correlation, which paths are put together by
_DEPTH_NATS = 30.0
_PATHS = 4096  # at once: bounds the memory


@dataclass(frozen=True)
class MotionPrior:
    """Speeds of a terminal, and in how many directions it is looked for.

    Attributes
    ----------
    speed_m_s, weight
        Speeds [m/s] and their probabilities.
    directions
        How many directions of equal probability stand for all.

    Raises
    ------
    ReportError
        If there are no speeds, or the weights do not add up to one.
    """

    speed_m_s: tuple[float, ...]
    weight: tuple[float, ...]
    directions: int = 24

    def __post_init__(self) -> None:
        if len(self.speed_m_s) != len(self.weight) or not math.isclose(sum(self.weight), 1.0):
            raise ReportError(
                f"{len(self.speed_m_s)} speeds with weights that add up to {sum(self.weight):g}",
                where="motion prior",
                remedy="Give each speed a weight, 1 altogether.",
            )

    @classmethod
    def static(cls) -> "MotionPrior":
        """A terminal that stands still."""
        return cls((0.0,), (1.0,), 1)

    @classmethod
    def pedestrian(cls, speeds: int = 3, directions: int = 24) -> "MotionPrior":
        """One that walks, at the speeds of `movers`."""
        mean, sigma = WALKING_M_S
        parts = (np.arange(speeds) + 0.5) / speeds
        return cls(
            tuple((mean + sigma * ndtri(parts)).tolist()), (1.0 / speeds,) * speeds, directions
        )

    @classmethod
    def vehicle(cls, speeds: int = 6, directions: int = 24) -> "MotionPrior":
        """One that stops (15%), or drives at any speed between the slowest and fastest of a city.

        The speeds are those of `movers`, all between them as probable, because nobody tells the
        class of the street.
        """
        usual = [DRIVING_M_S[name] for name in _CITY_ROADS]
        low, high = DRIVERS[0] * min(usual), DRIVERS[1] * max(usual)
        parts = (np.arange(speeds) + 0.5) / speeds
        moving = (1.0 - _STOPPED_SHARE) / speeds
        found = (0.0, *(low + (high - low) * parts).tolist())
        return cls(found, (_STOPPED_SHARE, *([moving] * speeds)), directions)

    @classmethod
    def of(cls, tracks: TracksConfig, directions: int = 24) -> "MotionPrior":
        """Any terminal of a population, whose mobility nobody tells."""
        shares = (tracks.static_share, tracks.pedestrian_share)
        kinds = (
            (cls.static(), shares[0]),
            (cls.pedestrian(), shares[1]),
            (cls.vehicle(), 1.0 - sum(shares)),
        )
        pairs = [
            (speed, share * weight)
            for prior, share in kinds
            for speed, weight in zip(prior.speed_m_s, prior.weight, strict=True)
            if share > 0
        ]
        total = sum(weight for _, weight in pairs)
        speeds, weights = zip(*pairs, strict=True)
        return cls(speeds, tuple(w / total for w in weights), directions)

    def displacements_m(
        self, times_s: Sequence[float]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Where a terminal was against its last place [m], shape (node, report, 2), and weights.

        Parameters
        ----------
        times_s
            Times of its reports [s], the last one last.
        """
        ago_s = np.asarray(times_s, dtype=float) - float(times_s[-1])
        angle = 2 * np.pi * (np.arange(self.directions) + 0.5) / self.directions
        heading = np.stack([np.sin(angle), np.cos(angle)], axis=-1)
        speed = np.array(self.speed_m_s)
        path = speed[:, None, None, None] * heading[:, None] * ago_s[:, None]
        weight = np.repeat(np.array(self.weight) / self.directions, self.directions)
        return path.reshape(-1, len(ago_s), 2), weight


@dataclass(frozen=True)
class Paths:
    """Paths in whole grid cells, each once.

    Attributes
    ----------
    shift
        Columns and rows of each report's grid cell against the last one's, shape (path,
        report, 2).
    weight
        Probability, shape (path,).
    """

    shift: NDArray[np.int64]
    weight: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        displacement_m: NDArray[np.float64],
        weight: NDArray[np.float64],
        cell_m: float,
        parts: int = _PARTS,
    ) -> "Paths":
        """Paths of displacements of shape (node, report, 2) from anywhere in a grid cell."""
        within = (np.arange(parts) + 0.5) / parts
        start = np.stack(np.meshgrid(within, within), axis=-1).reshape(-1, 1, 1, 2)
        shift = np.floor(start + displacement_m / cell_m).astype(np.int64)
        flat = shift.reshape(-1, *displacement_m.shape[1:])
        each = np.tile(weight, len(start)) / len(start)
        found, index = np.unique(flat, axis=0, return_inverse=True)
        summed = np.zeros(len(found))
        np.add.at(summed, index.reshape(-1), each)
        return cls(found, summed)

    def groups(self, path: int) -> Groups:
        """The reports of a path by their grid cells, in order of time."""
        cells: dict[tuple[int, int], tuple[int, ...]] = {}
        for t, (column, row) in enumerate(self.shift[path].tolist()):
            cells[column, row] = (*cells.get((column, row), ()), t)
        return tuple(cells.values())

    def mean_correlation(self, path: int, cell_m: float, correlation_m: float) -> float:
        """Mean correlation of the shadowing between the grid cells of a path, 1 for one cell."""
        cells = [self.shift[path, group[0]] for group in self.groups(path)]
        pairs = list(itertools.combinations(cells, 2))
        if not pairs:
            return 1.0
        apart_m = [cell_m * float(np.hypot(*(a - b))) for a, b in pairs]
        return float(np.mean(np.exp(-np.array(apart_m) / correlation_m)))


def moving_log_prob(
    model: MeasurementModel,
    places: PlaceMaps,
    reports: ReportBatch,
    times_s: Sequence[float],
    around: Around,
    prior: MotionPrior,
    *,
    depth_nats: float = _DEPTH_NATS,
) -> Tensor:
    """Log-likelihood of a track given where its last report came from, shape (place,).

    Parameters
    ----------
    model, places
        The measurement model and the maps.
    reports
        T reports of one terminal, in order of time.
    times_s
        Their times [s].
    around
        The places: around the sector that serves the last report.
    prior
        How the terminal may have moved.
    depth_nats
        Paths whose reports, each on its own, make them this much less likely than the best
        keep that value, moved so that it agrees at the best.
    """
    displacement_m, weight = prior.displacements_m(times_s)
    paths = Paths.of(displacement_m, weight, around.window.cell_m)
    track = _TrackMaps(model, places, reports, around, int(np.abs(paths.shift).max()))
    log_weight = track.log_weights(paths)
    alone = track.alone(paths, log_weight)
    best = divmod(int(alone.argmax()), alone.shape[1])
    lively = torch.nonzero(alone > float(alone[best]) - depth_nats)
    exact = torch.empty(len(lively))
    keys = track.keys(paths)
    for key in sorted({keys[path] for path in lively[:, 0].tolist()}):
        mine = torch.tensor([k == key for k in keys])[lively[:, 0]]
        for part in torch.split(torch.nonzero(mine)[:, 0], _PATHS):
            path, place = lively[part].T
            exact[part] = track.together(key, track.cells(paths, path, place))
    exact = exact + log_weight[tuple(lively.T)]
    at_best = exact[(lively == torch.tensor(best)).all(dim=1)]
    value = (alone + (at_best - alone[best])).index_put(tuple(lively.T), exact)
    return value.logsumexp(dim=0)


class _TrackMaps:
    """What maps say about the reports of a track wherever its paths may lead."""

    def __init__(
        self,
        model: MeasurementModel,
        places: PlaceMaps,
        reports: ReportBatch,
        around: Around,
        reach_cells: int,
    ) -> None:
        self.model, self.places, self.reports = model, places, reports
        self._cell_m = around.window.cell_m
        self._window = around.window.buffered(reach_cells * self._cell_m)
        self._outdoor = places.atlas.outdoor_in(self._window)
        self._outdoor[around.window.slices_in(self._window)] |= around.outdoor
        self._index = np.full(self._window.shape, -1, dtype=np.int64)
        self._index[self._outdoor] = np.arange(self._outdoor.sum())
        row, column = np.nonzero(around.outdoor)
        self._row, self._column = row + reach_cells, column + reach_cells
        self._levels = TrackLevels(model.levels, reports)
        self._given: dict[tuple[int, ...], Tensor] = {}

    @cached_property
    def maps(self) -> LevelMaps:
        """Levels at all outdoor grid cells."""
        return self.places.levels_in(self._window, self._outdoor)

    @cached_property
    def serving(self) -> ServingMaps:
        """Maps of each report's serving sector there."""
        sectors = self.reports.sector[:, 0].tolist()
        by_sector = {
            s: self.places.serving_in(s, self._window, self._outdoor) for s in set(sectors)
        }
        return ServingMaps.cat([by_sector[s] for s in sectors])

    @cached_property
    def _uplink_db(self) -> Tensor:
        return self.model.expected_uplink_db(self.reports, self.serving)

    def _cells_of(self, shift: NDArray[np.int64], place: Any = slice(None)) -> Tensor:
        """Grid cells of a path's reports at places, shape (report, place), -1 indoors."""
        row = self._row[place] + shift[..., 1]
        column = self._column[place] + shift[..., 0]
        return torch.from_numpy(self._index[row, column])

    def cells(self, paths: Paths, path: Tensor, place: Tensor) -> Tensor:
        """Grid cells of the reports of some (path, place), shape (report, pair)."""
        shift = paths.shift[path.numpy()].transpose(1, 0, 2)
        return self._cells_of(shift, place.numpy())

    def log_weights(self, paths: Paths) -> Tensor:
        """Logarithm of the paths' probabilities at places, shape (path, place).

        Paths through buildings have none; where there are no others, all are as they would be
        in the open, with the reports that would be indoors at the last place.
        """
        open_to = torch.stack(
            [(self._cells_of(shift[:, None]) >= 0).all(dim=0) for shift in paths.shift]
        )
        weight = torch.from_numpy(paths.weight)[:, None] * open_to
        total = weight.sum(dim=0)
        weight = torch.where(total > 0, weight, torch.from_numpy(paths.weight)[:, None])
        return (weight / weight.sum(dim=0)).log().to(torch.float32)

    def alone(self, paths: Paths, log_weight: Tensor) -> Tensor:
        """Log-likelihood as if the reports had nothing in common, with the paths' weights."""
        serving = self.serving
        each = self.model.log_prob(self.reports, self.maps, serving)
        own = self._cells_of(np.zeros((1, 1, 2), dtype=np.int64))
        rows = []
        for shift in paths.shift:
            cell = self._cells_of(shift[:, None])
            cell = torch.where(cell < 0, own, cell)
            rows.append(each.gather(1, cell).sum(dim=0))
        return torch.stack(rows) + log_weight

    def keys(self, paths: Paths) -> list[tuple[Groups, float]]:
        """The grouping of each path's reports, and the shadowing's mean correlation."""
        correlation_m = self.model.settings.shadowing.correlation_m
        found = []
        for path in range(len(paths.weight)):
            groups = paths.groups(path)
            shared = paths.mean_correlation(path, self._cell_m, correlation_m)
            if len(groups) > 1:
                shared = min(max(round(shared / _SHARED_STEP), 0), 1 / _SHARED_STEP - 1)
                shared *= _SHARED_STEP
            found.append((groups, shared))
        return found

    def together(self, key: tuple[Groups, float], cell: Tensor) -> Tensor:
        """Log-likelihood of the track along paths, shape (pair,).

        Parameters
        ----------
        key
            As of `keys`, one for all paths.
        cell
            Grid cells of the reports, shape (report, pair).
        """
        groups, shared = key
        own = cell[-1:]
        cell = torch.where(cell < 0, own, cell)
        rows = cell[[group[0] for group in groups]]
        maps = self.maps
        rsrp_dbm, se_db, noise_db = (
            torch.stack([layer[0][:, row] for row in rows])
            for layer in (maps.rsrp_dbm, maps.se_db, maps.noise_db)
        )
        along = LevelMaps(rsrp_dbm, se_db, noise_db, maps.site)
        value = self._levels.at(along, shared=shared, exact=True, groups=groups)
        for group, row in zip(groups, rows, strict=True):
            value = value + self._same_place(group)[row]
        delays = DelayMaps(*(v.gather(1, cell) for v in vars(self.serving.delays).values()))
        by_sector = split_by_sector(groups, self.reports.sector[:, 0])
        timing = self.model.timing
        return value + timing.track_log_prob(self.reports, delays, self._uplink_db, by_sector)

    def _same_place(self, group: tuple[int, ...]) -> Tensor:
        """Log-likelihood of all but levels and timing in reports from one place, (cell,)."""
        if group not in self._given:
            model, some = self.model, self.reports[list(group)]
            silent = model.unreported_mw(some, self.maps)
            value = model.quality.same_place_log_prob(some, silent)
            value = value + model.constants(some).sum()
            for mine in split_by_sector((group,), self.reports.sector[:, 0]):
                rows = list(mine)
                same = SamePlaceDirections(
                    model.direction, self.reports[rows], self._uplink_db[rows]
                )
                value = value + same.log_prob(self.serving.rows(rows[:1]).departures)
            self._given[group] = value
        return self._given[group]
