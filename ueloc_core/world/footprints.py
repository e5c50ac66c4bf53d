"""Footprints that have moved: cut where they would overlap, widened where a party wall opened.

Every building is moved by itself. Of two that meet, the lower one gives way: where the two
shared a wall it follows that wall, and it loses what the other covers. What becomes of a building
depends on what stands within twice the largest shift of it and no further.
"""

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from ueloc_core.geodata.buildings import clean_polygons, cut_polygons

_TOUCHES_M = 0.05
_LEAST_WALL_M = 0.5
_LEAST_M2 = 1e-3
_THIN_M = 0.15


@dataclass(frozen=True)
class Standing:
    """Buildings and parts on their new places.

    Attributes
    ----------
    before
        Footprints of the twin, shape (n,).
    shift_m
        How far each is moved east and north [m], whole millimetres, shape (n, 2).
    base_m, top_m
        Elevations of undersides and tops [m], shape (n,).
    building
        Number of the building that each belongs to; its parts move together, shape (n,).
    names
        osm_id, shape (n,).
    """

    before: NDArray[Any]
    shift_m: NDArray[np.float64]
    base_m: NDArray[np.float64]
    top_m: NDArray[np.float64]
    building: NDArray[np.int64]
    names: NDArray[Any]

    @property
    def moved(self) -> NDArray[Any]:
        """Footprints on their new places, not cut yet."""
        coordinates, owner = shapely.get_coordinates(self.before, return_index=True)
        places = np.round(coordinates + self.shift_m[owner], 3)
        return np.asarray(shapely.set_coordinates(self.before.copy(), places))

    @property
    def rank(self) -> NDArray[np.int64]:
        """Who gives way: 0 to nobody; higher tops first, then larger footprints, then names."""
        tops, areas = np.round(self.top_m, 3), np.round(shapely.area(self.before), 3)
        order = sorted(range(len(tops)), key=lambda i: (-tops[i], -areas[i], self.names[i]))
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        return rank


def fitted_footprints(standing: Standing, counts: Counter[str]) -> list[Any]:
    """Footprints of which no two of different buildings fill the same space.

    Parameters
    ----------
    standing
        The buildings.
    counts
        Counts that this call adds to: ``cut``, ``walls_closed`` and ``swallowed``.

    Returns
    -------
    Polygons of shape (n,), None where a higher building covers all of one.
    """
    moved, rank = standing.moved, standing.rank
    fitted: list[Any] = list(moved)
    tree = shapely.STRtree(moved)
    for low, gaps in _gaps(standing, moved, rank):
        others = shapely.union_all(moved[np.sort(tree.query(gaps, predicate="intersects"))])
        opened = gaps.difference(others)
        if opened.area > _LEAST_M2:
            counts["walls_closed"] += 1
            fitted[low] = clean_polygons(shapely.union(fitted[low], opened)) or fitted[low]
    closed = np.array(fitted, dtype=object)
    for low, covers in _covers(standing, closed, rank):
        counts["cut"] += 1
        fitted[low] = cut_polygons(closed[low], shapely.union_all(closed[covers]), _THIN_M)
        counts["swallowed"] += fitted[low] is None
    return fitted


def lifted_bases(standing: Standing) -> NDArray[np.float64]:
    """Elevations [m] of undersides; a raised one that would sink into a roof stands on it."""
    moved, base_m = standing.moved, standing.base_m.copy()
    tree = shapely.STRtree(moved)
    left, right = tree.query(moved, predicate="intersects")
    apart = standing.building[left] != standing.building[right]
    # left stands higher than right begins, and right's roof lies between left's base and top
    sunk = apart & (standing.base_m[left] > standing.base_m[right] + _TOUCHES_M)
    sunk &= standing.top_m[right] > standing.base_m[left]
    sunk &= standing.top_m[right] + 1.0 < standing.top_m[left]
    for high, low in zip(left[sunk].tolist(), right[sunk].tolist(), strict=True):
        shared = shapely.intersection(moved[high], moved[low]).area
        if shared >= 0.5 * moved[high].area:  # else it is beside it, and cut
            base_m[high] = max(base_m[high], standing.top_m[low])
    return base_m


def _gaps(
    standing: Standing, moved: NDArray[Any], rank: NDArray[np.int64]
) -> Iterator[tuple[int, Any]]:
    """Lower buildings, and what their party walls with higher ones sweep as these move on."""
    before = standing.before
    left, right = shapely.STRtree(before).query(before, predicate="dwithin", distance=_TOUCHES_M)
    shift = standing.shift_m
    chosen = (rank[left] > rank[right]) & (standing.building[left] != standing.building[right])
    chosen &= np.abs(shift[left] - shift[right]).max(axis=1) > 0.001
    # in the order of the rows: corners of a union can depend on the order in which it is made
    for low, high in sorted(zip(left[chosen].tolist(), right[chosen].tolist(), strict=True)):
        near = shapely.buffer(before[high], _TOUCHES_M, quad_segs=2)
        wall = shapely.intersection(shapely.boundary(before[low]), near)
        if shapely.length(wall) < _LEAST_WALL_M:
            continue
        swept = shapely.union_all(list(_swept(wall, shift[low], shift[high])))
        yield low, swept.difference(shapely.union(moved[low], moved[high]))


def _swept(wall: Any, start_m: NDArray[np.float64], end_m: NDArray[np.float64]) -> Iterator[Any]:
    """What each segment of a wall passes over between two shifts."""
    for line in shapely.get_parts(shapely.get_parts(wall)):
        if line.geom_type != "LineString":
            continue
        points = shapely.get_coordinates(line)
        for corners in itertools.pairwise(points):
            ends = np.vstack([corners + start_m, corners + end_m])
            hull = shapely.convex_hull(shapely.multipoints(ends))
            if hull.area > 0:
                yield hull


def _covers(
    standing: Standing, closed: NDArray[Any], rank: NDArray[np.int64]
) -> Iterator[tuple[int, list[int]]]:
    """Lower buildings, and the higher ones that share plan and height with them."""
    low, high = shapely.STRtree(closed).query(closed, predicate="intersects")
    base, top = standing.base_m, standing.top_m
    chosen = (rank[low] > rank[high]) & (standing.building[low] != standing.building[high])
    chosen &= (base[low] < top[high] - 1e-6) & (base[high] < top[low] - 1e-6)
    low, high = low[chosen], high[chosen]
    shared = shapely.area(shapely.intersection(closed[low], closed[high]))
    meet = shared > _LEAST_M2
    found: dict[int, list[int]] = {}
    for i, j in sorted(zip(low[meet].tolist(), high[meet].tolist(), strict=True)):
        found.setdefault(i, []).append(j)
    yield from sorted(found.items())
