"""The ground of a city: elevations on a lattice, linear on triangles in between.

Everything that asks for the ground asks this surface: the ground's mesh, the datum of
buildings, antennas and the terminals' height. Each lattice square is cut by the diagonal from
its lower left to its upper right corner.
"""

import hashlib
import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from pyproj import CRS
from zarr.codecs import ZstdCodec

from ueloc_core.city import City
from ueloc_core.errors import GeodataError
from ueloc_core.grid import Window

TERRAIN_STORE = "terrain.zarr"


@dataclass(frozen=True)
class Terrain:
    """Elevations on a lattice that is aligned to the origin of the city's CRS.

    Attributes
    ----------
    heights_m
        Elevations of the vertices [m], whole millimetres, shape (rows + 1, columns + 1) in
        lattice squares, row 0 in the south.
    column, row
        Lattice indices of the lower left vertex: its easting is ``column * step_m``.
    step_m
        Side of a lattice square [m].
    """

    heights_m: NDArray[np.float64]
    column: int
    row: int
    step_m: float

    @property
    def is_flat(self) -> bool:
        """Whether all vertices are at one elevation."""
        return bool((self.heights_m == self.heights_m.flat[0]).all())

    @property
    def bounds_m(self) -> tuple[float, float, float, float]:
        """West, south, east and north edge [m] in the city's CRS."""
        rows, columns = self.heights_m.shape
        return (
            self.column * self.step_m,
            self.row * self.step_m,
            (self.column + columns - 1) * self.step_m,
            (self.row + rows - 1) * self.step_m,
        )

    @property
    def digest(self) -> str:
        """Hash of the content."""
        place = f"{self.column}/{self.row}/{self.step_m}/{self.heights_m.shape}"
        content = np.ascontiguousarray(self.heights_m, dtype="<f8").tobytes()
        return hashlib.sha256(place.encode() + content).hexdigest()[:16]

    def height_at(self, x_m: ArrayLike, y_m: ArrayLike) -> NDArray[np.float64]:
        """Elevation of the ground at points [m].

        Parameters
        ----------
        x_m, y_m
            Points in the city's CRS [m], of any shapes that broadcast.

        Raises
        ------
        GeodataError
            If a point lies beyond the lattice.
        """
        u = np.asarray(x_m, dtype=np.float64) / self.step_m - self.column
        v = np.asarray(y_m, dtype=np.float64) / self.step_m - self.row
        rows, columns = (size - 1 for size in self.heights_m.shape)
        if not ((u >= 0) & (u <= columns) & (v >= 0) & (v <= rows)).all():
            raise GeodataError(
                f"a point lies beyond the terrain, which covers {self.bounds_m} [m]",
                remedy="Materialize osm_extract and scene again.",
            )
        i = np.minimum(u.astype(np.int64), columns - 1)
        j = np.minimum(v.astype(np.int64), rows - 1)
        u, v = u - i, v - j
        z = self.heights_m
        z00, z10, z01, z11 = z[j, i], z[j, i + 1], z[j + 1, i], z[j + 1, i + 1]
        lower = z00 + u * (z10 - z00) + v * (z11 - z10)
        upper = z00 + v * (z01 - z00) + u * (z11 - z01)
        return np.asarray(np.where(u >= v, lower, upper))

    def lowest_within(self, geometry: Any) -> float:
        """Lowest elevation under a polygon [m], to the millimetre below.

        Parameters
        ----------
        geometry
            Polygon or multipolygon in the city's CRS [m]. The surface is linear on triangles,
            so its minimum lies at a vertex of the polygon, at a vertex of the lattice within
            it, or where its boundary crosses an edge of the lattice.
        """
        if self.is_flat:
            return float(self.heights_m.flat[0])
        points = np.vstack([self._vertices_in(geometry), self._crossings(geometry)])
        return math.floor(float(self.height_at(*points.T).min()) * 1000) / 1000

    def _vertices_in(self, geometry: Any) -> NDArray[np.float64]:
        x0, y0, x1, y1 = (value / self.step_m for value in geometry.bounds)
        columns = np.arange(math.ceil(x0), math.floor(x1) + 1)
        rows = np.arange(math.ceil(y0), math.floor(y1) + 1)
        x, y = (axis.ravel() * self.step_m for axis in np.meshgrid(columns, rows))
        inside = shapely.intersects_xy(geometry, x, y)
        return np.column_stack([x[inside], y[inside]])

    def _crossings(self, geometry: Any) -> NDArray[np.float64]:
        """Vertices of the boundary, and where it crosses the lattice, shape (point, 2) [m]."""
        found = [shapely.get_coordinates(geometry)]
        for ring in shapely.get_parts(shapely.get_rings(geometry)):
            corners = shapely.get_coordinates(ring)
            for start, end in itertools.pairwise(corners):
                found.append(_cut(start, end, self.step_m))
        return np.vstack(found)

    def crop(self, window: Window) -> "Terrain":
        """The part that covers a window, in whole lattice squares.

        Raises
        ------
        GeodataError
            If the terrain does not cover the window.
        """
        x0, y0, x1, y1 = (value / self.step_m for value in window.bounds_m)
        left, bottom = math.floor(x0) - self.column, math.floor(y0) - self.row
        right, top = math.ceil(x1) - self.column, math.ceil(y1) - self.row
        rows, columns = self.heights_m.shape
        if left < 0 or bottom < 0 or right >= columns or top >= rows:
            raise GeodataError(
                f"the terrain covers {self.bounds_m} [m], not {window.bounds_m} [m]",
                remedy="Materialize osm_extract again.",
            )
        part = self.heights_m[bottom : top + 1, left : right + 1]
        return Terrain(part.copy(), self.column + left, self.row + bottom, self.step_m)


def _cut(
    start: NDArray[np.float64], end: NDArray[np.float64], step_m: float
) -> NDArray[np.float64]:
    """Where a segment crosses the lines of the lattice and its diagonals, shape (point, 2)."""
    shares = []
    for normal in ((1, 0), (0, 1), (1, -1)):
        a, b = np.dot(start, normal) / step_m, np.dot(end, normal) / step_m
        if a != b:
            lines = np.arange(math.ceil(min(a, b)), math.floor(max(a, b)) + 1)
            shares.append((lines - a) / (b - a))
    share = np.concatenate(shares) if shares else np.empty(0)
    return np.asarray(start + share[:, None] * (end - start))


def flat_terrain(window: Window, step_m: float) -> Terrain:
    """Level ground at elevation 0 under a window, in whole lattice squares."""
    x0, y0, x1, y1 = (value / step_m for value in window.bounds_m)
    column, row = math.floor(x0), math.floor(y0)
    shape = (math.ceil(y1) - row + 1, math.ceil(x1) - column + 1)
    return Terrain(np.zeros(shape), column, row, step_m)


def build_terrain(city: City) -> tuple[Terrain, dict[str, Any]]:
    """The ground of a city and its surroundings (`City.ground_window`).

    Returns
    -------
    The terrain, and what is known of it: ``source``, ``lowest_m``, ``highest_m`` and counts of
    repairs (``voids_filled``, ``beyond_dem_vertices``).

    Raises
    ------
    GeodataError
        If the elevation model is missing, broken, or does not cover the city.
    """
    level = flat_terrain(city.ground_window, city.terrain.step_m)
    if city.terrain.kind == "flat":
        return level, {"source": "flat", "lowest_m": 0.0, "highest_m": 0.0}
    from ueloc_core.geodata.dem import sample_dem  # noqa: PLC0415 - rasterio takes a second

    heights_m, counts = sample_dem(city, level)
    terrain = Terrain(np.round(heights_m, 3) + 0.0, level.column, level.row, level.step_m)
    return terrain, {
        "source": city.terrain.kind,
        "lowest_m": float(terrain.heights_m.min()),
        "highest_m": float(terrain.heights_m.max()),
        **counts,
    }


def terrain_digest_of_source(city: City) -> str:
    """Hash of the elevation model's files, ``flat`` where there is none.

    Raises
    ------
    GeodataError
        If the elevation model is missing.
    """
    if city.terrain.kind == "flat":
        return "flat"
    from ueloc_core.geodata.dem import dem_digest  # noqa: PLC0415

    return dem_digest(city)


def save_terrain(terrain: Terrain, folder: Path, crs_code: str) -> None:
    """Write a terrain as ``terrain.zarr`` (Zarr v3, CF) in a folder."""
    rows, columns = terrain.heights_m.shape
    x = (terrain.column + np.arange(columns)) * terrain.step_m
    y = (terrain.row + np.arange(rows)) * terrain.step_m
    attributes = {"units": "m", "long_name": "elevation of the ground", "grid_mapping": "crs"}
    data = xr.Dataset(
        {"elevation_m": (("y", "x"), terrain.heights_m, attributes)},
        coords={
            "x": ("x", x, {"units": "m", "standard_name": "projection_x_coordinate"}),
            "y": ("y", y, {"units": "m", "standard_name": "projection_y_coordinate"}),
            "crs": ((), np.int64(0), CRS.from_user_input(crs_code).to_cf()),
        },
        attrs={
            "crs": crs_code,
            "step_m": terrain.step_m,
            "column": terrain.column,
            "row": terrain.row,
        },
    )
    encoding = {"elevation_m": {"compressors": [ZstdCodec(level=3)]}}
    data.to_zarr(
        folder / TERRAIN_STORE, mode="w-", zarr_format=3, consolidated=False, encoding=encoding
    )


def load_terrain(folder: Path) -> Terrain:
    """The terrain that `save_terrain` wrote to a folder.

    Raises
    ------
    GeodataError
        If it is missing or broken.
    """
    path = folder / TERRAIN_STORE
    try:
        with xr.open_zarr(path, consolidated=False, chunks=None) as stored:
            heights_m = np.asarray(stored.elevation_m.values, dtype=np.float64)
            place = {name: stored.attrs[name] for name in ("column", "row", "step_m")}
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        raise GeodataError(
            f"the terrain is missing or broken ({error})",
            where=str(path),
            remedy="Materialize osm_extract and scene again.",
        ) from error
    return Terrain(heights_m, int(place["column"]), int(place["row"]), float(place["step_m"]))
