"""How terminals stand and move: tracks of true positions at the times of their reports.

Static terminals are uniform over the ground; pedestrians and vehicles start uniformly by length
of street and move on at random (`movers`).
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ueloc_core.errors import ReportError
from ueloc_core.grid import Window
from ueloc_core.measurement.movers import PEDESTRIAN, STATIC, VEHICLE, Movers
from ueloc_core.measurement.settings import TracksConfig
from ueloc_core.measurement.street_network import Pieces, StreetNetwork
from ueloc_core.measurement.streets import StreetGraph

SHORTEST_GAP_S = 0.1
"""Between two reports of a track."""

_FULL_SHARE = 0.5


@dataclass(frozen=True)
class Ground:
    """Where terminals can be.

    Attributes
    ----------
    window
        Grid cells of the masks.
    reach
        Where they may start, shape (rows, columns).
    outdoor, indoor
        Outdoor ground, and buildings, shape (rows, columns).

    Raises
    ------
    ReportError
        If a mask has another shape than the window.
    """

    window: Window
    reach: NDArray[np.bool_]
    outdoor: NDArray[np.bool_]
    indoor: NDArray[np.bool_]

    def __post_init__(self) -> None:
        for name in ("reach", "outdoor", "indoor"):
            shape = getattr(self, name).shape
            if shape != self.window.shape:
                raise ReportError(f"shape {shape}, not {self.window.shape}", where=f"ground.{name}")

    def is_outdoors(self, x_m: NDArray[np.float64], y_m: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether points [m] are in outdoor cells of the window."""
        row, column = self.window.indices(x_m, y_m)
        found = self.window.contains(x_m, y_m)
        found[found] = self.outdoor[row[found], column[found]]
        return found


@dataclass(frozen=True)
class Streets:
    """What pedestrians walk on, and what vehicles drive on."""

    walkable: StreetNetwork
    drivable: StreetNetwork

    @classmethod
    def of(cls, graph: StreetGraph) -> "Streets":
        """Both networks of a graph, see `streets.street_graph`."""
        return cls(*(StreetNetwork.of(graph, use) for use in ("walkable", "drivable")))


@dataclass(frozen=True)
class Tracks:
    """True positions of terminals, by track and time; one row a report, shape (report,).

    Attributes
    ----------
    track
        Number of the terminal, from 0.
    time_s
        Time since the track's first report [s].
    x_m, y_m
        Position in the city's CRS [m].
    speed_m_s, heading_deg
        Speed [m/s] and compass heading [deg]; static terminals have no heading (NaN).
    mobility
        `STATIC`, `PEDESTRIAN` or `VEHICLE`.
    indoor
        1 inside a building.
    counts
        Tracks by mobility, and what happened to them: ``tracks_without_street`` (had to stand,
        because there was no street to move on), ``tracks_without_building`` (had to stand
        outdoors, because there was no building), ``reports_moved_to_street`` (their place
        beside the street was not outdoors), ``reports_not_outdoors`` (left out, because the
        street itself was not: passages), ``reports_off_ground`` (left out, because the terminal
        had left the window).
    """

    track: NDArray[np.int64]
    time_s: NDArray[np.float64]
    x_m: NDArray[np.float64]
    y_m: NDArray[np.float64]
    speed_m_s: NDArray[np.float32]
    heading_deg: NDArray[np.float32]
    mobility: NDArray[np.int8]
    indoor: NDArray[np.int8]
    counts: dict[str, int] = field(default_factory=dict)


def build_tracks(
    count: int,
    ground: Ground,
    streets: Streets,
    settings: TracksConfig,
    rng: np.random.Generator,
) -> Tracks:
    """Tracks of a population of terminals.

    Half of the tracks have ``reports_per_track`` reports, the others any number up to that with
    equal probability, so that every length occurs and most are long. Gaps are 0.1 s and an
    exponential time, ``interval_s`` together on average (0.1 s where that is less). A track
    ends where its terminal leaves the window. Where no street to move on is within reach, all
    are static. Nobody but the terminals of ``indoor_share`` is ever inside a building.

    Parameters
    ----------
    count
        Number of terminals.
    ground
        Where they start, and where outdoors and indoors is.
    streets
        What they move on.
    settings
        Shares of mobility, number and times of reports.
    rng
        Source of everything random.

    Raises
    ------
    ReportError
        If terminals are to stand outdoors and there is no such ground within reach.
    """
    starts = {
        kind: network.pieces_within(ground.window, ground.reach & ground.outdoor)
        for kind, network in ((PEDESTRIAN, streets.walkable), (VEHICLE, streets.drivable))
    }
    mobility, without_street = _mobility(count, starts, settings, rng)
    time_s, sent = _times(count, settings, rng)
    scene = _Reports.still(time_s, sent)
    standing = np.flatnonzero(mobility == STATIC)
    without_building = scene.stand(standing, ground, settings.indoor_share, rng)
    for kind, network in ((PEDESTRIAN, streets.walkable), (VEHICLE, streets.drivable)):
        chosen = np.flatnonzero(mobility == kind)
        if len(chosen):
            scene.move(chosen, Movers.start(kind, network, starts[kind], len(chosen), rng), rng)
    left_out = scene.leave_out(ground)
    kinds = np.bincount(mobility, minlength=3)
    counts = {
        **dict(zip(("static", "pedestrian", "vehicle"), kinds.tolist(), strict=True)),
        "tracks_without_street": without_street,
        "tracks_without_building": without_building,
        **left_out,
    }
    return scene.tracks(mobility, counts)


def _mobility(
    count: int, starts: dict[int, Pieces], settings: TracksConfig, rng: np.random.Generator
) -> tuple[NDArray[np.int8], int]:
    """Mobility of each terminal, and how many stand because there is no street for them."""
    drawn = rng.uniform(0.0, 1.0, count)
    mobility = np.full(count, VEHICLE, dtype=np.int8)
    mobility[drawn < settings.static_share + settings.pedestrian_share] = PEDESTRIAN
    mobility[drawn < settings.static_share] = STATIC
    stranded = np.zeros(count, dtype=bool)
    for kind, pieces in starts.items():
        if not len(pieces.street):
            stranded |= mobility == kind
    mobility[stranded] = STATIC
    return mobility, int(stranded.sum())


def _times(
    count: int, settings: TracksConfig, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Times [s] and whether a report is sent then, shape (track, report)."""
    most = settings.reports_per_track
    wait_s = max(settings.interval_s - SHORTEST_GAP_S, 0.0)
    gap_s = SHORTEST_GAP_S + rng.exponential(wait_s, (count, most - 1))
    time_s = np.zeros((count, most))
    np.cumsum(gap_s, axis=1, out=time_s[:, 1:])
    full = rng.uniform(0.0, 1.0, count) < _FULL_SHARE
    number = np.where(full, most, rng.integers(1, most + 1, count))
    return time_s, np.arange(most) < number[:, None]


def _scattered(
    cells: NDArray[np.bool_], window: Window, count: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points [m], uniform over the chosen grid cells of a window."""
    row, column = np.nonzero(cells)
    chosen = rng.integers(len(row), size=count) if count else np.zeros(0, dtype=np.int64)
    across, up = rng.uniform(0.0, 1.0, (2, count))
    x_m = (window.column + column[chosen] + across) * window.cell_m
    y_m = (window.row + row[chosen] + up) * window.cell_m
    return x_m, y_m


@dataclass(frozen=True)
class _Reports:
    """All reports while they are made, shape (track, report); ``kept`` are those sent."""

    time_s: NDArray[np.float64]
    kept: NDArray[np.bool_]
    place_m: NDArray[np.float64]  # (2, track, report), east and north
    street_m: NDArray[np.float64]  # the same, on the centre line of the street
    speed_m_s: NDArray[np.float64]
    heading_deg: NDArray[np.float64]
    indoor: NDArray[np.bool_]

    @classmethod
    def still(cls, time_s: NDArray[np.float64], kept: NDArray[np.bool_]) -> "_Reports":
        shape = time_s.shape
        return cls(
            time_s,
            kept,
            place_m=np.full((2, *shape), np.nan),
            street_m=np.full((2, *shape), np.nan),
            speed_m_s=np.zeros(shape),
            heading_deg=np.full(shape, np.nan),
            indoor=np.zeros(shape, dtype=bool),
        )

    def stand(
        self,
        chosen: NDArray[np.int64],
        ground: Ground,
        indoor_share: float,
        rng: np.random.Generator,
    ) -> int:
        """Place static terminals; how many stand outdoors because there is no building."""
        indoor = rng.uniform(0.0, 1.0, len(chosen)) < indoor_share
        rooms, yards = ground.reach & ground.indoor, ground.reach & ground.outdoor
        outside = 0 if rooms.any() else int(indoor.sum())
        indoor &= rooms.any()
        if not indoor.all() and not yards.any():
            standing = int((~indoor).sum())
            raise ReportError(
                f"{standing} terminals stand outdoors, and no outdoor ground is within reach",
                where="measurements.tracks",
                remedy="Place no terminals there, or widen the city's bounding box.",
            )
        for cells, them in ((rooms, chosen[indoor]), (yards, chosen[~indoor])):
            xy = np.array(_scattered(cells, ground.window, len(them), rng))
            self.place_m[:, them] = self.street_m[:, them] = xy[:, :, None]
        self.indoor[chosen[indoor]] = True
        return outside

    def move(self, chosen: NDArray[np.int64], movers: "Movers", rng: np.random.Generator) -> None:
        """Let terminals move, and keep where they are at the times of their reports."""
        for k in range(self.time_s.shape[1]):
            if k:
                movers.advance(self.time_s[chosen, k] - self.time_s[chosen, k - 1], rng)
            right_m = movers.right_m
            x_m, y_m, heading_deg = movers.network.place(movers.edge, movers.along_m, right_m)
            self.place_m[:, chosen, k] = x_m, y_m
            x_m, y_m, _ = movers.network.place(movers.edge, movers.along_m, 0.0 * right_m)
            self.street_m[:, chosen, k] = x_m, y_m
            self.speed_m_s[chosen, k] = movers.speed_m_s
            self.heading_deg[chosen, k] = heading_deg

    def leave_out(self, ground: Ground) -> dict[str, int]:
        """Move onto the street, or leave out, what is not outdoors; counts of either."""
        sent = self.kept.copy()
        away = ~ground.window.contains(*self.place_m) & ~ground.window.contains(*self.street_m)
        gone = np.logical_or.accumulate(away, axis=1)
        inside = ~self.indoor & ~ground.is_outdoors(*self.place_m)
        moved = inside & ground.is_outdoors(*self.street_m)
        self.place_m[:, moved] = self.street_m[:, moved]
        self.kept[gone | (inside & ~moved)] = False
        return {
            "reports_moved_to_street": int((moved & self.kept).sum()),
            "reports_not_outdoors": int((sent & inside & ~moved & ~gone).sum()),
            "reports_off_ground": int((sent & gone).sum()),
        }

    def tracks(self, mobility: NDArray[np.int8], counts: dict[str, int]) -> Tracks:
        """What was sent, by track and time."""
        track = np.nonzero(self.kept)[0]
        return Tracks(
            track=track,
            time_s=self.time_s[self.kept],
            x_m=self.place_m[0][self.kept],
            y_m=self.place_m[1][self.kept],
            speed_m_s=self.speed_m_s[self.kept].astype(np.float32),
            heading_deg=self.heading_deg[self.kept].astype(np.float32)
            % np.float32(360),  # rounds up
            mobility=mobility[track],
            indoor=self.indoor[self.kept].astype(np.int8),
            counts=counts,
        )
