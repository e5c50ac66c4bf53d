"""Regions of highest posterior density over the grid, as cells, circles and polygons.

A posterior over a window is a raster of masses: the probability that the terminal stands in
each grid cell. The masses sum to one at most; what is left lies outside of the window.
"""

from typing import Any

import numpy as np
import rasterio.features
import shapely
from affine import Affine
from numpy.typing import NDArray
from shapely.geometry import MultiPolygon, Polygon
from shapely.geometry.polygon import orient

from ueloc_core.city import City
from ueloc_core.errors import UelocError
from ueloc_core.grid import Window

_ROUND_OFF = 1e-9
_LONLAT_DECIMALS = 7  # about 1 cm


def hpd_cells(mass: NDArray[np.floating[Any]], level: float) -> NDArray[np.bool_]:
    """The fewest grid cells that together hold a share of the posterior.

    Parameters
    ----------
    mass
        Posterior mass per grid cell, shape (..., rows, columns).
    level
        Share of the posterior to hold, in [0, 1].

    Returns
    -------
    Booleans of the shape of `mass`. Of equally dense cells the first in row order are taken.
    Where the window holds less than `level`, all its cells.

    Raises
    ------
    UelocError
        If `level` is not a probability or a mass is negative or not a number.
    """
    if not 0 <= level <= 1:
        raise UelocError(f"level = {level} is not in [0, 1]")
    flat = np.asarray(mass, dtype=np.float64).reshape(*np.shape(mass)[:-2], -1)
    if not (flat >= 0).all():
        raise UelocError("a posterior mass is negative or not a number")
    order = np.argsort(-flat, axis=-1, kind="stable")
    held_before = np.cumsum(np.take_along_axis(flat, order, axis=-1), axis=-1)
    held_before = np.concatenate(
        [np.zeros_like(held_before[..., :1]), held_before[..., :-1]], axis=-1
    )
    chosen = np.empty(flat.shape, dtype=bool)
    np.put_along_axis(chosen, order, held_before < level - _ROUND_OFF, axis=-1)
    return chosen.reshape(np.shape(mass))


def hpd_region(mass: NDArray[np.floating[Any]], window: Window, level: float) -> MultiPolygon:
    """The region of `hpd_cells` in the city's CRS [m]; its area is exactly that of its cells.

    Parameters
    ----------
    mass
        Posterior mass per grid cell, shape (rows, columns) of the window.
    window
        Where the raster lies.
    level
        Share of the posterior to hold, in [0, 1].
    """
    if np.shape(mass) != window.shape:
        raise UelocError(f"mass has shape {np.shape(mass)}, its window {window.shape}")
    cells = hpd_cells(mass, level)
    x0_m, y0_m, _, _ = window.bounds_m
    to_crs = Affine(window.cell_m, 0, x0_m, 0, window.cell_m, y0_m)
    shapes = rasterio.features.shapes(
        cells.astype(np.uint8), mask=cells, connectivity=4, transform=to_crs
    )
    return MultiPolygon(
        [orient(Polygon(s["coordinates"][0], s["coordinates"][1:])) for s, _ in shapes]
    )


def containing_radius_m(
    mass: NDArray[np.floating[Any]], window: Window, x_m: float, y_m: float, level: float
) -> float:
    """Radius [m] of the circle around a point that holds a share of the posterior.

    Grid cells count at their centres. Infinite where the window holds less than `level`.
    """
    distance_m = np.hypot(
        window.x_centres_m[None, :] - x_m, window.y_centres_m[:, None] - y_m
    ).ravel()
    order = np.argsort(distance_m, kind="stable")
    held = np.cumsum(np.asarray(mass, dtype=np.float64).ravel()[order])
    index = int(np.searchsorted(held, level - _ROUND_OFF))
    return float(distance_m[order[index]]) if index < len(order) else float("inf")


def to_wgs84(geometry: Any, city: City) -> Any:
    """A geometry of the city's CRS [m] in longitude and latitude [deg], rounded to 1 cm."""

    def project(points_m: NDArray[np.float64]) -> NDArray[np.float64]:
        lonlat = np.column_stack(city.to_lonlat(points_m[:, 0], points_m[:, 1]))
        return np.asarray(np.round(lonlat, _LONLAT_DECIMALS))

    return shapely.transform(geometry, project)
