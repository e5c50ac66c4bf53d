"""Paths over one edge (first-order diffraction), found edge by edge for the points of grid cells.

Nothing is left to chance: for each point and each edge that casts a shadow from the mast, the one
place on the edge over which a path runs is known in closed form (equal angles to the edge, Keller
1962). Most pairs fall away by half-spaces: the point must lie behind the lit face, before the dark
one and below the plane through mast and edge. Blocks of grid cells are tested first, by bounds,
then points. What is left is tested for obstacles, and gets its field from the uniform theory of
diffraction (`utd`).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ueloc_core.radio.ray_tracing.contributions import Contributions, power_of_fields
from ueloc_core.radio.ray_tracing.engine import RayScene, drjit, point3f, rows, sionna_rt, vector3f
from ueloc_core.radio.ray_tracing.points import CellPoints, to_centre
from ueloc_core.radio.ray_tracing.receivers import Grid
from ueloc_core.radio.ray_tracing.utd import WedgePaths, wedge_fields
from ueloc_core.radio.ray_tracing.wedges import OFFSET_M, Wedges

_BLOCK_CELLS = 8
_PAIRS = 1 << 23  # pairs that are tested at a time: about 200 MB
_WEAKEST_GAIN = 1e-16  # paths below -160 dB (knife edge) are left out: no receiver hears them
_LEAST_M = 1e-3  # a point on a face is neither before nor behind it
_SHORTEN = 1.0 - 1e-4


def diffracted(
    scene: RayScene,
    mast_m: tuple[float, float, float],
    wedges: Wedges,
    points: CellPoints,
    grid: Grid,
) -> Contributions:
    """Paths from a mast over one of the edges to points.

    Parameters
    ----------
    scene
        The scene.
    mast_m
        (x, y, z) of the antenna [m].
    wedges
        Edges, as `seen_wedges` turns them.
    points
        Points of the grid.
    grid
        The grid.
    """
    edges = _Edges(scene, wedges, mast_m)
    found = [
        _paths(scene, edges, points, point, wedge, grid)
        for point, wedge in _candidates(scene, edges, points, grid)
    ]
    return Contributions.joined([Contributions.none(), *found])


def power_over(
    scene: RayScene,
    mast_m: tuple[float, float, float],
    wedges: Wedges,
    places_m: NDArray[np.float64],
    edge: NDArray[np.int64],
) -> NDArray[np.float32]:
    """`Contributions.power` of paths whose edge is known, shape (n, 4).

    Parameters
    ----------
    scene
        The scene.
    mast_m
        (x, y, z) of the antenna [m].
    wedges
        Edges, as `facing` turns them.
    places_m
        Where the paths end, shape (n, 3).
    edge
        Edge of each path, shape (n,).
    """
    mi = sionna_rt().mi
    point = mi.UInt(np.arange(len(edge), dtype=np.uint32))
    of_path = mi.UInt(edge.astype(np.uint32))
    power, *_ = _fields(scene, _Edges(scene, wedges, mast_m), point3f(places_m), point, of_path)
    return np.stack([np.array(part) for part in power], axis=1)


class _Edges:
    """Edges as Dr.Jit arrays, with what depends on the mast alone."""

    def __init__(self, scene: RayScene, wedges: Wedges, mast_m: tuple[float, float, float]) -> None:
        mi = sionna_rt().mi
        self.count = len(wedges)
        self.mast = mi.Point3f(*mast_m)
        self.start = point3f(wedges.start_m)
        self.along = vector3f(wedges.along)
        self.normal0 = vector3f(wedges.normal0)
        self.normal_n = vector3f(wedges.normal_n)
        self.outward = vector3f(wedges.outward)
        self.length = mi.Float(wedges.length_m.astype(np.float32))
        slabs = scene.slabs
        self.permittivity = mi.Complex2f(
            *(
                mi.Float(np.ascontiguousarray(part[wedges.shape], dtype=np.float32))
                for part in (slabs.permittivity.real, slabs.permittivity.imag)
            )
        )
        self.thickness, self.smoothness = (
            mi.Float(value[wedges.shape].astype(np.float32))
            for value in (slabs.thickness_m, slabs.smoothness)
        )
        # the dark side of the plane through mast and edge: positive along this vector
        sight = np.asarray(mast_m) - wedges.start_m
        tangent = np.cross(wedges.normal0, wedges.along)
        along_tangent = (sight * tangent).sum(axis=1, keepdims=True)
        along_normal = (sight * wedges.normal0).sum(axis=1, keepdims=True)
        shade = along_normal * tangent - along_tangent * wedges.normal0
        shade /= np.maximum(np.linalg.norm(shade, axis=1, keepdims=True), 1e-12)
        self.shade = vector3f(shade)
        place = (sight * wedges.along).sum(axis=1)
        self.mast_along = mi.Float(place.astype(np.float32))
        beside = sight - place[:, None] * wedges.along
        self.mast_beside = mi.Float(np.linalg.norm(beside, axis=1).astype(np.float32))


def _candidates(
    scene: RayScene, edges: _Edges, points: CellPoints, grid: Grid
) -> list[tuple[Any, Any]]:
    """Pairs of point and edge whose geometry allows a path, as arrays of indices."""
    dr, mi = drjit(), sionna_rt().mi
    if not edges.count or not len(points.cell):
        return []
    blocks = _Blocks.of(points, grid)
    places = point3f(points.place_m)
    table = mi.UInt(blocks.table.ravel().astype(np.uint32))
    slots = blocks.table.shape[1]
    block, wedge = _block_pairs(edges, blocks)
    total = len(block)
    step = max(1, _PAIRS // slots)
    found = []
    for first in range(0, total, step):
        pair_block = mi.UInt(block[first : first + step])
        pair_wedge = mi.UInt(wedge[first : first + step])
        index = dr.arange(mi.UInt, dr.width(pair_block) * slots)
        pair = index // dr.opaque(mi.UInt, slots)
        slot = index - pair * dr.opaque(mi.UInt, slots)
        row = dr.gather(mi.UInt, pair_block, pair)
        point = dr.gather(mi.UInt, table, row * dr.opaque(mi.UInt, slots) + slot)
        edge = dr.gather(mi.UInt, pair_wedge, pair)
        there = point != 0xFFFFFFFF
        point = dr.select(there, point, 0)
        fits = there & _fits(scene, edges, edge, dr.gather(mi.Point3f, places, point))
        dr.eval(fits, point, edge)
        left = dr.compress(fits)
        if dr.width(left):
            pairs = dr.gather(mi.UInt, point, left), dr.gather(mi.UInt, edge, left)
            dr.eval(pairs)
            found.append(pairs)
    return found


@dataclass(frozen=True)
class _Blocks:
    """Squares of grid cells and the points in them.

    Attributes
    ----------
    table
        Points of each block, shape (block, slot); the greatest 32-bit number where there is none.
    middle_m, half_m
        Bounding box of the points of each block: middle and half its size, shape (block, 3).
    """

    table: NDArray[np.int64]
    middle_m: NDArray[np.float64]
    half_m: NDArray[np.float64]

    @classmethod
    def of(cls, points: CellPoints, grid: Grid) -> "_Blocks":
        row, column = np.divmod(points.cell, grid.columns)
        across = -(-grid.columns // _BLOCK_CELLS)
        of_point = (row // _BLOCK_CELLS) * across + column // _BLOCK_CELLS
        order = np.argsort(of_point, kind="stable")
        _, first, count = np.unique(of_point[order], return_index=True, return_counts=True)
        table = np.full((len(first), int(count.max())), 0xFFFFFFFF, dtype=np.int64)
        slot = np.arange(len(order)) - np.repeat(first, count)
        table[np.repeat(np.arange(len(first)), count), slot] = order
        sorted_m = points.place_m[order]
        low = np.minimum.reduceat(sorted_m, first)
        high = np.maximum.reduceat(sorted_m, first)
        return cls(table, (low + high) / 2, (high - low) / 2)


def _block_pairs(edges: _Edges, blocks: _Blocks) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Pairs of block and edge that may hold a path: each condition of `_fits`, by its bounds."""
    dr, mi = drjit(), sionna_rt().mi
    middles, halves = point3f(blocks.middle_m), vector3f(blocks.half_m)
    found = []
    count = len(blocks.table)
    step = max(1, _PAIRS // count)
    for first in range(0, edges.count, step):
        number = min(step, edges.count - first)
        index = dr.arange(mi.UInt, number * count)
        of_edge = index // dr.opaque(mi.UInt, count)
        block = index - of_edge * dr.opaque(mi.UInt, count)
        edge = of_edge + dr.opaque(mi.UInt, first)
        half = dr.gather(mi.Vector3f, halves, block)
        way = dr.gather(mi.Point3f, middles, block) - dr.gather(mi.Point3f, edges.start, edge)

        def reach(direction: Any, half: Any = half) -> Any:
            return dr.dot(dr.abs(direction), half)

        normal0 = dr.gather(mi.Vector3f, edges.normal0, edge)
        normal_n = dr.gather(mi.Vector3f, edges.normal_n, edge)
        shade = dr.gather(mi.Vector3f, edges.shade, edge)
        along = dr.gather(mi.Vector3f, edges.along, edge)
        may = dr.dot(way, normal0) - reach(normal0) < 0.0
        may &= dr.dot(way, normal_n) + reach(normal_n) > 0.0
        may &= dr.dot(way, shade) + reach(shade) > 0.0
        place, spread = dr.dot(way, along), reach(along)
        beside, radius = dr.norm(way - place * along), dr.norm(half)
        nearest, farthest = dr.maximum(beside - radius, 0.0), beside + radius
        length = dr.gather(mi.Float, edges.length, edge)
        mast_place = dr.gather(mi.Float, edges.mast_along, edge)
        mast_beside = dr.gather(mi.Float, edges.mast_beside, edge)
        above = dr.maximum(mast_place * nearest, mast_place * farthest)
        may &= above + (place + spread) * mast_beside > 0.0
        past = mast_place - length
        below = dr.minimum(past * nearest, past * farthest)
        may &= below + (place - spread - length) * mast_beside < 0.0
        dr.eval(may, block, edge)
        left = dr.compress(may)
        found.append(
            (
                np.array(dr.gather(mi.UInt, block, left)),
                np.array(dr.gather(mi.UInt, edge, left)),
            )
        )
    return tuple(np.concatenate(part) for part in zip(*found, strict=True))  # type: ignore[return-value]


def _fits(scene: RayScene, edges: _Edges, edge: Any, place: Any) -> Any:
    """Whether a path over the edge ends in its shadow, on the edge, and may be heard."""
    dr, mi = drjit(), sionna_rt().mi
    way = place - dr.gather(mi.Point3f, edges.start, edge)
    fits = dr.dot(way, dr.gather(mi.Vector3f, edges.normal0, edge)) < -_LEAST_M
    fits &= dr.dot(way, dr.gather(mi.Vector3f, edges.normal_n, edge)) > _LEAST_M
    fits &= dr.dot(way, dr.gather(mi.Vector3f, edges.shade, edge)) > 0.0
    bend, before, behind = _bend(edges, edge, way)
    fits &= (bend > 0.0) & (bend < dr.gather(mi.Float, edges.length, edge))
    # single knife edge (ITU-R P.526-15, eq. 31), of the detour over the edge
    total = before + behind
    detour = dr.maximum(total - dr.norm(place - edges.mast), 0.0)
    nu = 2.0 * dr.sqrt(detour / scene.wavelength_m) - 0.1
    loss = dr.square(dr.sqrt(nu * nu + 1.0) + nu) * 10.0**0.69
    gain = dr.square(scene.wavelength_m / (4.0 * math.pi) * dr.rcp(total)) * dr.rcp(loss)
    return fits & (gain > _WEAKEST_GAIN)


def _bend(edges: _Edges, edge: Any, way: Any) -> tuple[Any, Any, Any]:
    """Place on the edge over which the path runs, and its length before and behind [m]."""
    dr, mi = drjit(), sionna_rt().mi
    along = dr.gather(mi.Vector3f, edges.along, edge)
    place = dr.dot(way, along)
    beside = dr.norm(way - place * along)
    mast_place = dr.gather(mi.Float, edges.mast_along, edge)
    mast_beside = dr.gather(mi.Float, edges.mast_beside, edge)
    bend = (mast_place * beside + place * mast_beside) * dr.rcp(beside + mast_beside)
    before = dr.sqrt(dr.square(mast_beside) + dr.square(bend - mast_place))
    behind = dr.sqrt(dr.square(beside) + dr.square(bend - place))
    return bend, before, behind


def _paths(
    scene: RayScene,
    edges: _Edges,
    points: CellPoints,
    point: Any,
    edge: Any,
    grid: Grid,
) -> Contributions:
    """Those pairs that nothing obstructs, with their fields."""
    dr, mi = drjit(), sionna_rt().mi
    places = point3f(points.place_m)
    for end in ("point", "mast"):
        place = dr.gather(mi.Point3f, places, point)
        start = dr.gather(mi.Point3f, edges.start, edge)
        bend, _, _ = _bend(edges, edge, place - start)
        turn = mi.Point3f(start + dr.gather(mi.Vector3f, edges.along, edge) * bend)
        beside = mi.Point3f(turn + OFFSET_M * dr.gather(mi.Vector3f, edges.outward, edge))
        origin = place if end == "point" else mi.Point3f(edges.mast + 0.0 * beside)
        way = beside - origin
        length = dr.norm(way)
        ray = mi.Ray3f(origin, mi.Vector3f(way / length))
        ray.maxt = length * _SHORTEN
        open_way = ~scene.geometry.ray_test(ray, coherent=False)
        dr.eval(open_way)
        left = dr.compress(open_way)
        if not dr.width(left):
            return Contributions.none()
        point, edge = dr.gather(mi.UInt, point, left), dr.gather(mi.UInt, edge, left)
        dr.eval(point, edge)
    power, length, behind, departure, arrival = _fields(scene, edges, places, point, edge)
    index = np.array(point, dtype=np.int64)
    direction = rows(arrival)
    cell, place_m = points.cell[index], points.place_m[index]
    return Contributions(
        cell=cell,
        batch=points.batch[index],
        weight=points.weight[index],
        length_m=to_centre(np.array(length), direction, place_m, cell, grid, np.array(behind)),
        departure=rows(departure),
        arrival=direction,
        power=np.stack([np.array(p) for p in power], axis=1),
    )


def _fields(
    scene: RayScene, edges: _Edges, places: Any, point: Any, edge: Any
) -> tuple[list[Any], Any, Any, Any, Any]:
    """Powers, lengths (all, behind the edge) and directions of paths over edges."""
    dr, mi = drjit(), sionna_rt().mi
    place = dr.gather(mi.Point3f, places, point)
    start = dr.gather(mi.Point3f, edges.start, edge)
    along = dr.gather(mi.Vector3f, edges.along, edge)
    bend, before, behind = _bend(edges, edge, place - start)
    turn = mi.Point3f(start + along * bend)
    departure = mi.Vector3f(dr.normalize(turn - edges.mast))
    arrival = mi.Vector3f(dr.normalize(place - turn))
    fields = wedge_fields(
        WedgePaths(
            departure=departure,
            arrival=arrival,
            before=before,
            behind=behind,
            normal0=dr.gather(mi.Vector3f, edges.normal0, edge),
            normal_n=dr.gather(mi.Vector3f, edges.normal_n, edge),
            along=along,
            permittivity=dr.gather(mi.Complex2f, edges.permittivity, edge),
            thickness=dr.gather(mi.Float, edges.thickness, edge),
            smoothness=dr.gather(mi.Float, edges.smoothness, edge),
        ),
        scene.wavelength_m,
    )
    power = power_of_fields(*fields, (scene.wavelength_m / (4.0 * math.pi)) ** 2)
    length = before + behind
    dr.eval(power, length, behind, departure, arrival)
    return power, length, behind, departure, arrival
