"""The streets that pedestrians or vehicles move on, as arrays over which many move at once."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ueloc_core.geodata.schemas import ROAD_CLASSES
from ueloc_core.grid import Window
from ueloc_core.measurement.streets import StreetGraph

_TAPER_M = 10.0
_SHORTEST_COMPONENT_M = 200.0
_EDGE_COLUMNS = ("osmid", "highway", "width_m", "walkable", "drivable", "length")


@dataclass(frozen=True)
class StreetNetwork:
    """The streets that one kind of terminal uses, as arrays.

    Edge ``2 k`` runs along street ``k`` and edge ``2 k + 1`` back. Positions are distances [m]
    from the start of an edge.

    Attributes
    ----------
    tail, head
        Nodes that each edge runs from and to, shape (edge,).
    length_m, half_width_m, road_class
        Length [m], half the width [m], index into `ROAD_CLASSES`, shape (street,).
    drivable
        Whether vehicles use the street too, shape (street,).
    left_out_m
        Length [m] of the streets left out, because they hang together with too few others.
    """

    tail: NDArray[np.int64]
    head: NDArray[np.int64]
    length_m: NDArray[np.float64]
    half_width_m: NDArray[np.float64]
    road_class: NDArray[np.int64]
    drivable: NDArray[np.bool_]
    left_out_m: float
    _segments: "_Segments"
    _exits: "_Exits"

    @classmethod
    def of(cls, graph: StreetGraph, use: str) -> "StreetNetwork":
        """The streets of a graph for one use.

        Components with less than 200 m of streets, which clipping and passages leave, are left
        out: a vehicle would go to and fro on them. The longest is kept in any case.

        Parameters
        ----------
        graph
            Of `street_graph`.
        use
            ``walkable`` or ``drivable``.
        """
        table = _street_table(graph, use)
        table, left_out_m = _connected(table)
        u, v = table["u"].to_numpy(np.int64), table["v"].to_numpy(np.int64)
        nodes, ends = np.unique(np.concatenate([u, v]), return_inverse=True)
        u, v = ends[: len(u)], ends[len(u) :]
        tail = np.column_stack([u, v]).reshape(-1)
        return cls(
            tail=tail,
            head=np.column_stack([v, u]).reshape(-1),
            length_m=table["length"].to_numpy(np.float64),
            half_width_m=table["width_m"].to_numpy(np.float64) / 2,
            road_class=np.array([ROAD_CLASSES.index(c) for c in table["highway"]], dtype=np.int64),
            drivable=table["drivable"].to_numpy(bool),
            left_out_m=left_out_m,
            _segments=_Segments.of(table["geometry"].to_numpy()),
            _exits=_Exits.of(tail, len(nodes)),
        )

    @property
    def is_empty(self) -> bool:
        """Whether there is no street at all."""
        return len(self.length_m) == 0

    def pieces_within(self, window: Window, mask: NDArray[np.bool_]) -> "Pieces":
        """The parts of the streets that lie over chosen grid cells.

        Parameters
        ----------
        window, mask
            Grid cells, and which of them, shape (rows, columns).
        """
        return self._segments.within(window, mask)

    def place(
        self,
        edge: NDArray[np.int64],
        along_m: NDArray[np.float64],
        right_m: NDArray[np.float64],
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Easting and northing [m] and compass heading [deg] of places on edges.

        Parameters
        ----------
        edge, along_m
            Edges, and distances [m] from their starts.
        right_m
            Sideways offset [m], to the right of the way ahead. It fades to nothing over the
            last 10 m before either end and turns evenly at bends, so that a path which goes on
            along the next edge has no leap.
        """
        street, back = edge // 2, edge % 2 == 1
        length_m = self.length_m[street]
        from_m = np.where(back, length_m - along_m, along_m)
        end_m = np.minimum(from_m, length_m - from_m)
        faded = np.clip(end_m / _TAPER_M, 0.0, 1.0) * np.where(back, -right_m, right_m)
        xy, ahead = self._segments.at(street, from_m, faded)
        ahead = np.where(back[:, None], -ahead, ahead)
        heading_deg = np.degrees(np.arctan2(ahead[:, 0], ahead[:, 1])) % 360.0
        return xy[:, 0], xy[:, 1], heading_deg

    def is_junction(self, edge: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether edges end where three streets or more meet."""
        return self._exits.count[self.head[edge]] > 2

    def next_edge(self, edge: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """A random edge to go on with at the end of each edge; back only from a dead end."""
        return self._exits.drawn(edge, self.head[edge], rng)


@dataclass(frozen=True)
class Pieces:
    """Parts of streets, each from ``from_m`` for ``length_m`` along its street; shape (piece,)."""

    street: NDArray[np.int64]
    from_m: NDArray[np.float64]
    length_m: NDArray[np.float64]

    def draw(
        self, count: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Edges, either way, and distances [m] from their streets' starts, uniform by length."""
        total_m = np.cumsum(self.length_m)
        drawn_m = rng.uniform(0.0, total_m[-1], count)
        piece = np.minimum(np.searchsorted(total_m, drawn_m, side="right"), len(total_m) - 1)
        part = rng.uniform(0.0, 1.0, count)
        edge = 2 * self.street[piece] + rng.integers(2, size=count)
        return edge, self.from_m[piece] + part * self.length_m[piece]


def _street_table(graph: StreetGraph, use: str) -> pd.DataFrame:
    """One row a street, either way of it, in an order that the geometry alone gives."""
    rows = [
        {"u": u, "v": v, "geometry": data["geometry"], **{k: data[k] for k in _EDGE_COLUMNS}}
        for u, v, data in graph.edges(data=True)
        if data[use]
    ]
    table = pd.DataFrame(rows, columns=["u", "v", "geometry", *_EDGE_COLUMNS])
    shapes = table["geometry"].to_numpy()
    xy, edge = shapely.get_coordinates(shapes, return_index=True)
    first = np.searchsorted(edge, np.arange(len(shapes)))
    last = np.searchsorted(edge, np.arange(len(shapes)), side="right") - 1
    # of the two ways of a street the one from its lower node, of a loop that with the lower start
    table["shape"] = shapely.to_wkb(shapely.normalize(shapes))
    table["x"], table["y"] = (xy[np.minimum(first + 1, last), k] for k in (0, 1))
    table = table.sort_values(["u", "v", "shape", "x", "y", "osmid"], kind="stable")
    return table.drop_duplicates("shape").reset_index(drop=True)


def _connected(table: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """The streets of components that are long enough, and the length [m] of the others."""
    if table.empty:
        return table, 0.0
    u, v = table["u"].to_numpy(np.int64), table["v"].to_numpy(np.int64)
    size = int(max(u.max(), v.max())) + 1
    links = coo_array((np.ones(len(u)), (u, v)), shape=(size, size))
    _, component = connected_components(links, directed=False)
    length_m = table["length"].to_numpy(np.float64)
    total_m = np.bincount(component[u], weights=length_m)
    kept = total_m[component[u]] >= min(_SHORTEST_COMPONENT_M, total_m.max())
    return table[kept].reset_index(drop=True), float(length_m[~kept].sum())


@dataclass(frozen=True)
class _Exits:
    """The edges that leave each node: ``edge[first[n] : first[n] + count[n]]``."""

    edge: NDArray[np.int64]
    first: NDArray[np.int64]
    count: NDArray[np.int64]
    rank: NDArray[np.int64]

    @classmethod
    def of(cls, tail: NDArray[np.int64], nodes: int) -> "_Exits":
        edge = np.argsort(tail, kind="stable")
        count = np.bincount(tail, minlength=nodes)
        first = np.cumsum(count) - count
        rank = np.empty(len(tail), dtype=np.int64)
        rank[edge] = np.arange(len(tail)) - first[tail[edge]]
        return cls(edge, first, count, rank)

    def drawn(
        self, edge: NDArray[np.int64], node: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        others = self.count[node] - 1
        pick = (rng.uniform(0.0, 1.0, len(edge)) * np.maximum(others, 1)).astype(np.int64)
        pick += (others > 0) & (pick >= self.rank[edge ^ 1])  # skip the way back
        return np.asarray(self.edge[self.first[node] + pick])


@dataclass(frozen=True)
class _Segments:
    """The straight segments of all streets, one street after the other."""

    street: NDArray[np.int64]
    first: NDArray[np.int64]  # segment of each street, and their number at the end
    start: NDArray[np.float64]
    ahead: NDArray[np.float64]
    length_m: NDArray[np.float64]
    from_m: NDArray[np.float64]  # of the start, along its street
    key_m: NDArray[np.float64]  # of the start, along all streets
    right: NDArray[np.float64]  # (segment, start or end, 2): normals, the bisectors at bends

    @classmethod
    def of(cls, shapes: NDArray[Any]) -> "_Segments":
        xy, line = shapely.get_coordinates(shapes, return_index=True)
        inner = line[1:] == line[:-1]
        step, street = np.diff(xy, axis=0)[inner], line[:-1][inner]
        length_m = np.hypot(*step.T)
        ahead = step / np.maximum(length_m, 1e-9)[:, None]
        key_m = np.cumsum(length_m) - length_m
        first = np.searchsorted(street, np.arange(len(shapes) + 1))
        right = np.column_stack([ahead[:, 1], -ahead[:, 0]])
        turned = np.stack([right, right], axis=1)
        joined = np.flatnonzero(street[1:] == street[:-1])
        middle = right[joined] + right[joined + 1]
        size = np.hypot(*middle.T)[:, None]
        middle = np.where(size > 1e-6, middle / np.maximum(size, 1e-6), 0.0)
        turned[joined, 1] = turned[joined + 1, 0] = middle
        return cls(
            street=street,
            first=first,
            start=xy[:-1][inner],
            ahead=ahead,
            length_m=length_m,
            from_m=key_m - key_m[first[street]] if len(street) else key_m,
            key_m=key_m,
            right=turned,
        )

    def at(
        self, street: NDArray[np.int64], from_m: NDArray[np.float64], right_m: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Places [m] beside streets and the unit vectors along them, shape (place, 2) each."""
        key_m = self.key_m[self.first[street]] + from_m
        segment = np.searchsorted(self.key_m, key_m, side="right") - 1
        segment = np.clip(segment, self.first[street], self.first[street + 1] - 1)
        within_m = np.clip(from_m - self.from_m[segment], 0.0, self.length_m[segment])[:, None]
        part = within_m / self.length_m[segment][:, None]
        aside = (1 - part) * self.right[segment, 0] + part * self.right[segment, 1]
        xy = self.start[segment] + within_m * self.ahead[segment] + right_m[:, None] * aside
        return xy, self.ahead[segment]

    def within(self, window: Window, mask: NDArray[np.bool_]) -> Pieces:
        """Cut at the edges of grid cells, and keep what lies over chosen ones."""
        start, end = (
            (self.start + k * self.length_m[:, None] * self.ahead) / window.cell_m for k in (0, 1)
        )
        cuts = [(np.arange(len(start)), np.zeros(len(start)))]
        for axis in (0, 1):
            low, high = np.minimum(start, end)[:, axis], np.maximum(start, end)[:, axis]
            count = np.maximum(np.ceil(high) - np.floor(low) - 1, 0).astype(np.int64)
            segment = np.repeat(np.arange(len(start)), count)
            step = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
            line = np.floor(low)[segment] + 1 + step
            run = (end - start)[segment, axis]
            cuts.append((segment, (line - start[segment, axis]) / run))
        segment, part = (np.concatenate(arrays) for arrays in zip(*cuts, strict=True))
        part = np.clip(part, 0.0, 1.0)
        order = np.lexsort((part, segment))
        segment, part = segment[order], part[order]
        stop = np.append(part[1:], 1.0)
        stop[np.append(segment[1:] != segment[:-1], np.ones(min(1, len(segment)), bool))] = 1.0
        centre = start[segment] + ((part + stop) / 2)[:, None] * (end - start)[segment]
        row, column = window.indices(*(centre.T * window.cell_m))
        inside = (row >= 0) & (row < window.rows) & (column >= 0) & (column < window.columns)
        length_m = (stop - part) * self.length_m[segment]
        inside &= length_m > 0
        inside[inside] = mask[row[inside], column[inside]]
        from_m = self.from_m[segment] + part * self.length_m[segment]
        return Pieces(self.street[segment][inside], from_m[inside], length_m[inside])
