"""Points of grid cells: where the terminals of a map stand, what is indoors, and who sees the mast.

Line of sight and diffraction are evaluated at points instead of being left to the chance that a
ray meets a grid cell. Each batch has points of its own, one at random in each part of each cell.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from ueloc_core.radio.ray_tracing.contributions import Contributions
from ueloc_core.radio.ray_tracing.engine import RayScene, drjit, point3f, sionna_rt
from ueloc_core.radio.ray_tracing.launch import RaySet
from ueloc_core.radio.ray_tracing.receivers import Grid

_SIDE = 4  # a cell's outdoor share is that of a lattice of 4 x 4 points
_SHORTEN = 1.0 - 1e-4  # a ray to a point ends just before it


@dataclass(frozen=True)
class CellPoints:
    """Points of grid cells that stand outdoors.

    Attributes
    ----------
    place_m
        Places, shape (n, 3).
    cell, batch
        Grid cell and batch of each, shape (n,).
    weight
        Share of its grid cell's outdoor area, within its batch, shape (n,).
    """

    place_m: NDArray[np.float64]
    cell: NDArray[np.int64]
    batch: NDArray[np.int64]
    weight: NDArray[np.float32]

    def __getitem__(self, chosen: NDArray[Any]) -> "CellPoints":
        return CellPoints(
            self.place_m[chosen], self.cell[chosen], self.batch[chosen], self.weight[chosen]
        )


def outdoor_share(scene: RayScene, grid: Grid) -> NDArray[np.float64]:
    """Share of each grid cell that lies in no building, shape (rows, columns).

    Of 16 points a cell, the same for every seed: it is a property of the scene.
    """
    step = grid.cell_m / _SIDE
    x = grid.corner_m[0] + step * (np.arange(grid.columns * _SIDE) + 0.5)
    y = grid.corner_m[1] + step * (np.arange(grid.rows * _SIDE) + 0.5)
    x, y = np.meshgrid(x, y)
    places = np.stack([x.ravel(), y.ravel(), grid.height_at(x, y).ravel()], axis=1)
    free = ~indoors(scene, places).reshape(grid.rows, _SIDE, grid.columns, _SIDE)
    return np.asarray(free.mean(axis=(1, 3)))


def cell_points(
    scene: RayScene, grid: Grid, share: NDArray[np.float64], ray_set: RaySet
) -> CellPoints:
    """Outdoor points of all batches, one at random in each part of each cell.

    Parameters
    ----------
    scene, grid
        Where.
    share
        Outdoor share of each grid cell (`outdoor_share`); cells without any get no point.
    ray_set
        How many points, and which.
    """
    side = math.isqrt(ray_set.points)
    step = grid.cell_m / side
    rng = ray_set.rng("points")
    column, row = np.meshgrid(np.arange(grid.columns * side), np.arange(grid.rows * side))
    cell = ((row // side) * grid.columns + column // side).ravel()
    outdoors = share.ravel()[cell] > 0
    column, row, cell = column.ravel()[outdoors], row.ravel()[outdoors], cell[outdoors]
    # a wall that cuts less than the share tells of a cell fills a neighbour
    near_walls = binary_dilation(share < 1.0, np.ones((3, 3)))
    unsure = np.flatnonzero(near_walls.ravel()[cell])  # elsewhere all points are outdoors
    parts = []
    for batch in range(ray_set.batches):
        x = grid.corner_m[0] + step * (column + rng.random(len(column)))
        y = grid.corner_m[1] + step * (row + rng.random(len(row)))
        places = np.stack([x, y, grid.height_at(x, y)], axis=1)
        free = np.ones(len(places), dtype=bool)
        free[unsure] = ~indoors(scene, places[unsure])
        parts.append((places[free], cell[free], np.full(int(free.sum()), batch)))
    places, cells, batches = (np.concatenate(part) for part in zip(*parts, strict=True))
    # by number and not by the share, which is a rough one where a wall cuts a cell
    weights = ray_set.batches / np.bincount(cells)[cells]
    return CellPoints(places, cells, batches, weights.astype(np.float32))


def seen_from(scene: RayScene, mast_m: tuple[float, float, float], places_m: Any) -> Any:
    """Which places [m] of shape (n, 3) nothing hides from a mast, shape (n,)."""
    dr, mi = drjit(), sionna_rt().mi
    if not len(places_m):
        return np.zeros(0, dtype=bool)
    mast = mi.Point3f(*mast_m)
    way = point3f(places_m) - mast
    length = dr.norm(way)
    ray = mi.Ray3f(mast + dr.zeros(mi.Vector3f, len(places_m)), mi.Vector3f(way / length))
    ray.maxt = length * _SHORTEN
    return ~np.array(scene.geometry.ray_test(ray))


def line_of_sight(
    scene: RayScene, mast_m: tuple[float, float, float], points: CellPoints, grid: Grid
) -> tuple[NDArray[np.bool_], Contributions]:
    """Which points see the mast, and the direct path to each of those.

    Parameters
    ----------
    scene
        The scene.
    mast_m
        (x, y, z) of the antenna [m].
    points
        Points.
    grid
        Their grid.
    """
    seen = seen_from(scene, mast_m, points.place_m)
    chosen = points[seen]
    way = chosen.place_m - np.asarray(mast_m)
    length = np.linalg.norm(way, axis=1)
    direction = way / length[:, None]
    gain = (scene.wavelength_m / (4.0 * math.pi * length)) ** 2
    power = np.stack([gain, gain, np.zeros_like(gain), np.zeros_like(gain)], axis=1)
    return seen, Contributions(
        cell=chosen.cell,
        batch=chosen.batch,
        weight=chosen.weight,
        length_m=to_centre(length, direction, chosen.place_m, chosen.cell, grid),
        departure=direction.astype(np.float32),
        arrival=direction.astype(np.float32),
        power=power.astype(np.float32),
    )


def cell_centres(grid: Grid) -> NDArray[np.float64]:
    """Centres of all grid cells [m], row by row, shape (cell, 3)."""
    row, column = np.divmod(np.arange(grid.rows * grid.columns), grid.columns)
    x = grid.corner_m[0] + grid.cell_m * (column + 0.5)
    y = grid.corner_m[1] + grid.cell_m * (row + 0.5)
    return np.stack([x, y, grid.height_at(x, y)], axis=1)


def to_centre(
    length_m: NDArray[Any],
    direction: NDArray[Any],
    place_m: NDArray[Any],
    cell: NDArray[np.int64],
    grid: Grid,
    last_m: NDArray[Any] | None = None,
) -> NDArray[np.float32]:
    """Lengths of paths [m] as if they ended at their grid cell's centre: spherical waves.

    So delays have the resolution of paths and not that of the place at which a path met its cell.

    Parameters
    ----------
    length_m
        Lengths to `place_m`, shape (n,).
    direction
        Unit vectors of arrival, shape (n, 3).
    place_m
        Where they end, shape (n, 3).
    cell
        Grid cell of each.
    grid
        The grid.
    last_m
        Radius of the wave at `place_m`, shape (n,): to the last edge of a path; to the image of
        the antenna, which is the whole length, if None.
    """
    radius_m = length_m if last_m is None else last_m
    offset = cell_centres(grid)[cell] - place_m
    onward_m = np.linalg.norm(radius_m[:, None] * direction + offset, axis=1)
    return np.asarray(length_m - radius_m + onward_m, dtype=np.float32)


def indoors(scene: RayScene, places_m: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which places [m] of shape (n, 3) lie in a building, shape (n,)."""
    if not len(places_m):
        return np.zeros(0, dtype=bool)
    return np.array(lies_indoors(scene, point3f(places_m)))


def lies_indoors(scene: RayScene, places: Any) -> Any:
    """As `indoors`, of Dr.Jit arrays: whether the first face above a place looks away from it."""
    mi = sionna_rt().mi
    found = scene.geometry.ray_intersect(mi.Ray3f(places, mi.Vector3f(0.0, 0.0, 1.0)))
    return found.is_valid() & (found.n.z > 0.0)
