"""Where radio maps are gathered: a horizontal plane, or a surface that follows the ground."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ueloc_core.errors import RadioError


@dataclass(frozen=True)
class Plane:
    """A horizontal grid, in the scene's local frame.

    Attributes
    ----------
    corner_m
        (x, y) of its lower left corner [m].
    columns, rows
        Size in grid cells.
    cell_m
        Side of a grid cell [m].
    height_m
        Height of the plane (z) [m].

    Raises
    ------
    RadioError
        If it has no grid cell, or a number is not finite.
    """

    corner_m: tuple[float, float]
    columns: int
    rows: int
    cell_m: float
    height_m: float

    def __post_init__(self) -> None:
        _check(self)
        object.__setattr__(self, "height_m", float(self.height_m))
        if not math.isfinite(self.height_m):
            raise RadioError(f"height_m = {self.height_m}", where="grid", remedy="Give a number.")

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) in grid cells."""
        return self.rows, self.columns

    @property
    def highest_m(self) -> float:
        """Greatest height of a terminal [m]."""
        return self.height_m

    def height_at(self, x_m: NDArray[Any], y_m: NDArray[Any]) -> NDArray[np.float64]:
        """Height (z) [m] at places of any shape."""
        return np.full(np.broadcast(x_m, y_m).shape, self.height_m)


@dataclass(frozen=True)
class Surface:
    """A grid that follows the ground, in the scene's local frame: two triangles a grid cell.

    The diagonal of a grid cell goes from its lower left to its upper right corner, as that of
    the ground's lattice does.

    Attributes
    ----------
    corner_m
        (x, y) of its lower left corner [m].
    cell_m
        Side of a grid cell in plan [m].
    heights_m
        Heights (z) of the corners of the grid cells [m], shape (rows + 1, columns + 1), row 0 in
        the south.

    Raises
    ------
    RadioError
        If it has no grid cell, or a number is not finite.
    """

    corner_m: tuple[float, float]
    cell_m: float
    heights_m: NDArray[np.float64]

    def __post_init__(self) -> None:
        if np.ndim(self.heights_m) != 2:
            raise RadioError(
                f"heights of shape {np.shape(self.heights_m)}",
                where="grid",
                remedy="Give the heights of the corners of grid cells, (rows + 1, columns + 1).",
            )
        _check(self)
        if unknown := int((~np.isfinite(self.heights_m)).sum()):
            raise RadioError(
                f"{unknown} of {self.heights_m.size} heights of the ground are not finite",
                where="grid",
                remedy="Materialize the terrain again.",
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) in grid cells."""
        return self.heights_m.shape[0] - 1, self.heights_m.shape[1] - 1

    @property
    def rows(self) -> int:
        """Grid cells from south to north."""
        return self.shape[0]

    @property
    def columns(self) -> int:
        """Grid cells from west to east."""
        return self.shape[1]

    @property
    def highest_m(self) -> float:
        """Greatest height of a terminal [m]."""
        return float(self.heights_m.max())

    def height_at(self, x_m: NDArray[Any], y_m: NDArray[Any]) -> NDArray[np.float64]:
        """Height (z) [m] at places of any shape on the surface, linear on each triangle."""
        u = (np.asarray(x_m, dtype=np.float64) - self.corner_m[0]) / self.cell_m
        v = (np.asarray(y_m, dtype=np.float64) - self.corner_m[1]) / self.cell_m
        column = np.clip(np.floor(u).astype(np.int64), 0, self.columns - 1)
        row = np.clip(np.floor(v).astype(np.int64), 0, self.rows - 1)
        u, v = u - column, v - row
        low, high = self.heights_m[row, column], self.heights_m[row + 1, column + 1]
        right, left = self.heights_m[row, column + 1], self.heights_m[row + 1, column]
        lower = low + u * (right - low) + v * (high - right)
        upper = low + u * (high - left) + v * (left - low)
        return np.asarray(np.where(u >= v, lower, upper))

    def triangles(self) -> tuple[NDArray[np.float32], NDArray[np.uint32]]:
        """Vertices [m] of shape (vertex, 3), and triangles of shape (2 * rows * columns, 3).

        Grid cell by grid cell, row by row: first the triangle at its right, then the left one.
        """
        rows, columns = self.shape
        x = self.corner_m[0] + self.cell_m * np.arange(columns + 1)
        y = self.corner_m[1] + self.cell_m * np.arange(rows + 1)
        vertices = np.stack([*np.meshgrid(x, y), self.heights_m], axis=-1).reshape(-1, 3)
        lower = np.arange(rows)[:, None] * (columns + 1) + np.arange(columns)[None]
        upper = lower + columns + 1
        right = np.stack([lower, lower + 1, upper + 1], axis=-1)
        left = np.stack([lower, upper + 1, upper], axis=-1)
        faces = np.stack([right, left], axis=2).reshape(-1, 3)
        return vertices.astype(np.float32), faces.astype(np.uint32)


Grid = Plane | Surface


def _check(grid: Grid) -> None:
    """Refuse what is no grid, and hold Python's floats: numpy's turn Mitsuba's arrays to theirs."""
    object.__setattr__(grid, "corner_m", tuple(float(value) for value in grid.corner_m))
    object.__setattr__(grid, "cell_m", float(grid.cell_m))
    if min(grid.rows, grid.columns) < 1:
        raise RadioError(
            f"{grid.rows} rows of {grid.columns} grid cells", where="grid", remedy="Give some."
        )
    if not (grid.cell_m > 0 and math.isfinite(grid.cell_m)):
        raise RadioError(f"cell_m = {grid.cell_m}", where="grid", remedy="Give a size in metres.")
    if not all(math.isfinite(value) for value in grid.corner_m):
        raise RadioError(f"corner_m = {grid.corner_m}", where="grid", remedy="Give two numbers.")
