"""The one global grid of a city, and the rectangles on it: tiles and windows.

The grid is aligned to the origin of the city's projected CRS, so any two rectangles on it
differ by an integer shift and nothing is ever resampled. Rows go north (row 0 is the
southernmost), columns go east, and a grid cell is named by its lower-left corner.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ueloc_core.errors import UelocError
from ueloc_core.units import azimuth_to_math_angle_rad

BLOCK_CELLS = 4
"""Side of a coarse block in grid cells: windows and tiles are made of whole blocks."""


@dataclass(frozen=True, order=True)
class Window:
    """A rectangle of grid cells.

    Attributes
    ----------
    column, row
        Index of the lower-left grid cell, counted from the origin of the CRS.
    columns, rows
        Size in grid cells.
    cell_m
        Side of a grid cell [m].
    """

    column: int
    row: int
    columns: int
    rows: int
    cell_m: float

    @classmethod
    def centred(
        cls, x_m: float, y_m: float, size_m: float, cell_m: float, align_cells: int = 1
    ) -> "Window":
        """Square window of side `size_m` [m] around the aligned grid corner nearest to a point."""
        count = round(size_m / cell_m)
        step_m = cell_m * align_cells
        column = math.floor(x_m / step_m + 0.5) * align_cells - count // 2
        row = math.floor(y_m / step_m + 0.5) * align_cells - count // 2
        return cls(column, row, count, count, cell_m)

    @classmethod
    def covering(
        cls, bounds_m: tuple[float, float, float, float], cell_m: float, align_cells: int = 1
    ) -> "Window":
        """Smallest window, aligned to `align_cells`, that holds bounds (x0, y0, x1, y1) [m]."""
        step_m = cell_m * align_cells
        x0, y0 = (math.floor(v / step_m) for v in bounds_m[:2])
        x1, y1 = (math.ceil(v / step_m) for v in bounds_m[2:])
        return cls(
            x0 * align_cells,
            y0 * align_cells,
            (x1 - x0) * align_cells,
            (y1 - y0) * align_cells,
            cell_m,
        )

    @property
    def bounds_m(self) -> tuple[float, float, float, float]:
        """West, south, east and north edge [m] in the city's CRS."""
        return (
            self.column * self.cell_m,
            self.row * self.cell_m,
            (self.column + self.columns) * self.cell_m,
            (self.row + self.rows) * self.cell_m,
        )

    @property
    def centre_m(self) -> tuple[float, float]:
        """Centre (x, y) [m]."""
        x0, y0, x1, y1 = self.bounds_m
        return (x0 + x1) / 2, (y0 + y1) / 2

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns), the shape of an array over the window."""
        return self.rows, self.columns

    @property
    def x_centres_m(self) -> NDArray[np.float64]:
        """Easting of the pixel centres [m], shape (columns,)."""
        return np.asarray((self.column + np.arange(self.columns) + 0.5) * self.cell_m)

    @property
    def y_centres_m(self) -> NDArray[np.float64]:
        """Northing of the pixel centres [m], shape (rows,)."""
        return np.asarray((self.row + np.arange(self.rows) + 0.5) * self.cell_m)

    def indices(self, x_m: Any, y_m: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(row, column) in this window of the grid cells that hold points; may lie outside."""
        column = np.floor(np.asarray(x_m) / self.cell_m).astype(np.int64) - self.column
        row = np.floor(np.asarray(y_m) / self.cell_m).astype(np.int64) - self.row
        return row, column

    def contains(self, x_m: Any, y_m: Any) -> NDArray[np.bool_]:
        """Whether points [m] lie in the window."""
        row, column = self.indices(x_m, y_m)
        return (row >= 0) & (row < self.rows) & (column >= 0) & (column < self.columns)

    def buffered(self, distance_m: float) -> "Window":
        """The window grown on every side by a distance [m], rounded up to whole grid cells."""
        n = math.ceil(distance_m / self.cell_m - 1e-9)
        return Window(
            self.column - n, self.row - n, self.columns + 2 * n, self.rows + 2 * n, self.cell_m
        )

    def intersection(self, other: "Window") -> "Window | None":
        """The shared rectangle, or None."""
        column, row = max(self.column, other.column), max(self.row, other.row)
        columns = min(self.column + self.columns, other.column + other.columns) - column
        rows = min(self.row + self.rows, other.row + other.rows) - row
        if columns <= 0 or rows <= 0:
            return None
        return Window(column, row, columns, rows, self.cell_m)

    def slices_in(self, outer: "Window") -> tuple[slice, slice]:
        """(row slice, column slice) of this window in an array over `outer`, which must hold it."""
        if outer.intersection(self) != self:
            raise UelocError(f"window {self} is not inside {outer}")
        row, column = self.row - outer.row, self.column - outer.column
        return slice(row, row + self.rows), slice(column, column + self.columns)


@dataclass(frozen=True)
class Tile:
    """One unit of partitioning.

    Attributes
    ----------
    name
        ``e<column>n<row>``, counted in tiles from the CRS origin: stable when the city grows.
    window
        The grid cells that it owns.
    """

    name: str
    window: Window

    def owns(self, x_m: float, y_m: float) -> bool:
        """Whether a point [m] stands on this tile (its lower and left edges belong to it)."""
        return bool(self.window.contains(x_m, y_m))


def tile_at(x_m: float, y_m: float, tile_m: float, cell_m: float) -> Tile:
    """The tile of side `tile_m` [m] that a point stands on."""
    return _tile(math.floor(x_m / tile_m), math.floor(y_m / tile_m), tile_m, cell_m)


def tiles_over(
    bounds_m: tuple[float, float, float, float], tile_m: float, cell_m: float
) -> Iterator[Tile]:
    """Tiles that touch bounds (x0, y0, x1, y1) [m], row by row from the south-west."""
    for row in range(math.floor(bounds_m[1] / tile_m), math.ceil(bounds_m[3] / tile_m)):
        for column in range(math.floor(bounds_m[0] / tile_m), math.ceil(bounds_m[2] / tile_m)):
            yield _tile(column, row, tile_m, cell_m)


def _tile(column: int, row: int, tile_m: float, cell_m: float) -> Tile:
    n = round(tile_m / cell_m)
    return Tile(f"e{column}n{row}", Window(column * n, row * n, n, n, cell_m))


def sector_window(
    x_m: float, y_m: float, azimuth_deg: float, *, size_m: float, shift_m: float, cell_m: float
) -> Window:
    """Window of a sector: a square, shifted along the boresight, snapped to the grid.

    It is the frame in which a terminal that it serves is located. Its corners lie on multiples
    of `BLOCK_CELLS`, so the coarse blocks of all windows are the same ones.

    Parameters
    ----------
    x_m, y_m
        Position of the site [m].
    azimuth_deg
        Boresight, clockwise from north [deg].
    size_m, shift_m
        Side of the square and its shift along the boresight [m].
    cell_m
        Side of a grid cell [m].
    """
    angle = azimuth_to_math_angle_rad(azimuth_deg)
    return Window.centred(
        x_m + shift_m * math.cos(angle),
        y_m + shift_m * math.sin(angle),
        size_m,
        cell_m,
        BLOCK_CELLS,
    )
