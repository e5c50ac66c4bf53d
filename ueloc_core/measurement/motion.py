"""Likelihood of a track whose terminal may have moved: where its last report came from.

Between its reports a terminal stands or goes straight on at one speed, in any direction
(`MotionPrior`). How it came to the last place is integrated out by a quadrature over directions
and speeds, and over where in its grid cell it is: each node is a path, a shift in whole grid
cells for every report. Reports that a path leaves in one grid cell share the map's errors there.

A prior that bends (`MotionPrior.bending`) lets a terminal turn, stop or start once. That it
keeps to streets is left out: paths through buildings alone are ruled out.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor

from ueloc_core.errors import ReportError
from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.level_tables import Groups
from ueloc_core.measurement.model import MeasurementModel
from ueloc_core.measurement.movers import DRIVERS, DRIVING_M_S, WALKING_M_S
from ueloc_core.measurement.place_maps import Around, PlaceMaps
from ueloc_core.measurement.settings import TracksConfig
from ueloc_core.measurement.track_maps import TrackMaps

_STOPPED_SHARE = 0.15  # of vehicles
BEND_M = 50.0
"""Mean way to a turn, stop or start [m]; simulated vehicles go 67 m in Helsinki, walkers 29 m."""

_BENDS_AT = (0.25, 0.75)  # of the time between the first and the last report
_BENDS = (0.3, 0.3, 0.2, 0.2)  # to the left, to the right, to a stop, from one
_LEAST_WAY_M = 6.0  # a bend of a shorter way moves the terminal by less than a grid cell
_CITY_ROADS = ("service", "residential", "tertiary", "secondary", "primary")
_PARTS = 4  # of a grid cell's side, for where in it the terminal is
_SHARED_STEP = 0.05  # of the shadowing's mean correlation, which paths are put together by
_DEPTH_NATS, _PLACE_DEPTH_NATS = 20.0, 25.0
_LACK_NATS = 5.0  # of the place that fits all reports best
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
    bend_m
        Mean way to a bend [m]: a turn by 90 degrees, a stop, or a start. One at most happens
        between the first and the last report.

    Raises
    ------
    ReportError
        If there are no speeds, or the weights do not add up to one.
    """

    speed_m_s: tuple[float, ...]
    weight: tuple[float, ...]
    directions: int = 24
    bend_m: float = math.inf

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
    def of(
        cls, tracks: TracksConfig, directions: int = 24, vehicle_speeds: int = 6
    ) -> "MotionPrior":
        """Any terminal of a population, whose mobility nobody tells."""
        shares = (tracks.static_share, tracks.pedestrian_share)
        kinds = (
            (cls.static(), shares[0]),
            (cls.pedestrian(), shares[1]),
            (cls.vehicle(vehicle_speeds), 1.0 - sum(shares)),
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

    def bending(self, bend_m: float = BEND_M) -> "MotionPrior":
        """The same terminals, which turn, stop and start."""
        return replace(self, bend_m=bend_m)

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
        speed = np.array(self.speed_m_s)
        way_m = speed * np.ptp(ago_s)
        bent = np.where(way_m > _LEAST_WAY_M, 1 - np.exp(-way_m / self.bend_m), 0.0)
        straight = np.array(self.weight) * (1 - bent)
        nodes = [(_ahead(angle, ago_s), speed, straight)]
        some = bent > 0
        for part in _BENDS_AT if some.any() else ():
            late_s = np.maximum(ago_s, part * ago_s[0])
            for way, share in zip(_bent(angle[::2], late_s, ago_s - late_s), _BENDS, strict=True):
                weight = np.array(self.weight) * bent * share / len(_BENDS_AT)
                nodes.append((way, speed[some], weight[some]))
        paths = [(v[:, None, None, None] * way).reshape(-1, len(ago_s), 2) for way, v, _ in nodes]
        weights = [np.repeat(w / len(way), len(way)) for way, _, w in nodes]
        return np.concatenate(paths), np.concatenate(weights)


def _ahead(angle: NDArray[np.float64], time_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ways [m] straight on at 1 m/s, shape (direction, report, 2)."""
    heading = np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    return np.asarray(heading[:, None] * time_s[:, None])


def _bent(
    angle: NDArray[np.float64], late_s: NDArray[np.float64], early_s: NDArray[np.float64]
) -> Iterator[NDArray[np.float64]]:
    """Ways of `_BENDS` at 1 m/s: straight on late, and otherwise before the bend."""
    for turn in (-np.pi / 2, np.pi / 2):
        yield _ahead(angle, late_s) + _ahead(angle + turn, early_s)
    yield _ahead(angle, early_s)
    yield _ahead(angle, late_s)


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

    @property
    def cells_crossed(self) -> NDArray[np.int64]:
        """In how many grid cells the reports of each path are, shape (path,)."""
        low = self.shift.min(axis=(0, 1))
        span = int(self.shift[..., 0].max() - low[0]) + 1
        number = (self.shift - low) @ np.array([1, span])
        return np.asarray(1 + (np.diff(np.sort(number, axis=1), axis=1) != 0).sum(axis=1))

    def key(self, path: int, cell_m: float, correlation_m: float) -> tuple[Groups, float]:
        """The grouping of a path's reports, and the shadowing's mean correlation in steps."""
        groups = self.groups(path)
        if len(groups) == 1:
            return groups, 1.0
        steps = round(self.mean_correlation(path, cell_m, correlation_m) / _SHARED_STEP)
        return groups, min(max(steps, 0), round(1 / _SHARED_STEP) - 1) * _SHARED_STEP

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
    place_depth_nats: float = _PLACE_DEPTH_NATS,
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
        keep that value, moved so that it agrees at the best; those with several reports in one
        grid cell only where they are further below, by the root of reports over grid cells,
        because what these reports say of it is in part the same.
    place_depth_nats
        Places where one report on its own is this much less likely than at its best place keep
        that value (`TrackMaps.narrow`). Their expected share of the posterior is their share of
        this report's own: below 1e-6 for 25 nats and 60,000 places. Where no place fits all
        reports, because the terminal moved as the prior rules out, it is that much deeper.
    """
    displacement_m, weight = prior.displacements_m(times_s)
    paths = Paths.of(displacement_m, weight, around.window.cell_m)
    track = TrackMaps(model, places, reports, around, paths.shift)
    worst, each = track.narrow(place_depth_nats)
    if (lack := -float(worst.max())) > _LACK_NATS:
        track = TrackMaps(model, places, reports, around, paths.shift)
        worst, each = track.narrow(place_depth_nats + lack)
    log_weight = track.log_weights(paths.weight)
    alone = log_weight.clone()
    for t, shift in enumerate(track.of.T):
        alone += each[t][track.stand_in][shift]
    best = divmod(int(alone.argmax()), alone.shape[1])
    several = len(reports) / torch.from_numpy(paths.cells_crossed)
    depth = depth_nats * several.sqrt().to(alone.dtype)
    lively = torch.nonzero(alone > float(alone[best]) - depth[:, None])
    exact = _along(track, paths, lively, model.settings.shadowing.correlation_m)
    exact = exact + log_weight[tuple(lively.T)]
    at_best = exact[(lively == torch.tensor(best)).all(dim=1)]
    value = (alone + (at_best - alone[best])).index_put(tuple(lively.T), exact).logsumexp(dim=0)
    return (worst + value.max()).index_copy(0, track.place, value)


def _along(track: TrackMaps, paths: Paths, pairs: Tensor, correlation_m: float) -> Tensor:
    """Log-likelihood of the track along some (path, place), shape (pair,)."""
    cell_m = track.around.window.cell_m
    lively, index = torch.unique(pairs[:, 0], return_inverse=True)
    keys = [paths.key(path, cell_m, correlation_m) for path in lively.tolist()]
    numbers = {key: k for k, key in enumerate(sorted(set(keys)))}
    number = torch.tensor([numbers[key] for key in keys])[index]
    cells = track.stand_in[track.of[pairs[:, 0]].T, pairs[:, 1]]
    wanted: dict[tuple[int, ...], list[Tensor]] = {}
    for (groups, _), k in numbers.items():
        for group in groups:
            wanted.setdefault(group, []).append(cells[group[0], number == k])
    track.prepare(wanted, {shared for _, shared in numbers})
    value = torch.empty(len(pairs))
    for (groups, shared), k in numbers.items():
        rows = [group[0] for group in groups]
        for part in torch.split(torch.nonzero(number == k)[:, 0], _PATHS):
            value[part] = track.levels(groups, shared, cells[:, part][rows])
    for groups in {groups for groups, _ in numbers}:
        mine = [k for (own, _), k in numbers.items() if own == groups]
        chosen = torch.isin(number, torch.tensor(mine))
        value[chosen] += track.timing(groups, cells[:, chosen])
    return value
