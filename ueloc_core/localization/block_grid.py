"""Blocks of grid cells, the same ones in all windows, and where they stand in flat tables.

A block is `BLOCK_CELLS` x `BLOCK_CELLS` grid cells, and the corners of all windows are corners of
blocks. So a place of any sector's map is a row of one flat table, whatever window it is seen in:
nothing is cropped, and nothing is copied before it is chosen. Every table ends with a row for
places that no map covers.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ueloc_core.grid import BLOCK_CELLS
from ueloc_core.radio.atlas import MapAtlas

CELLS = BLOCK_CELLS**2


class BlockGrid:
    """Rows of the tables of an atlas.

    Parameters
    ----------
    atlas
        Windows of the sectors, and the ground.

    Attributes
    ----------
    cell_m
        Side of a grid cell [m].
    side
        Side of a sector's traced window in blocks.
    sectors
        Number of sectors.
    ground_corner
        Column and row of the ground's first block from the origin of the CRS, shape (2,).
    """

    def __init__(self, atlas: MapAtlas) -> None:
        self.cell_m = atlas.city.grid.cell_m
        self.side = atlas.windows[0].rows // BLOCK_CELLS
        self.sectors = len(atlas.windows)
        corners = [(w.row // BLOCK_CELLS, w.column // BLOCK_CELLS) for w in atlas.windows]
        self.corner = torch.tensor(corners)
        ground = atlas.ground
        self._ground = (ground.row // BLOCK_CELLS, ground.column // BLOCK_CELLS)
        self._ground_shape = (ground.rows // BLOCK_CELLS, ground.columns // BLOCK_CELLS)
        self.ground_corner = torch.tensor(self._ground[::-1])

    @property
    def nowhere(self) -> int:
        """The last row of the sectors' tables."""
        return self.sectors * self.side**2

    @property
    def ground_nowhere(self) -> int:
        """The last row of the ground's tables."""
        return self._ground_shape[0] * self._ground_shape[1]

    def slot_rows(self, sector: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """Rows of sectors' tables for blocks, shape (report, slot, block).

        Parameters
        ----------
        sector
            Shape (report, slot); -1 gives the row of nowhere.
        row, column
            Blocks counted from the origin of the CRS, shape (report, block).
        """
        return self.rows(sector[..., None], row[:, None], column[:, None])

    def rows(self, sector: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """Rows of sectors' tables for blocks; the arguments broadcast."""
        corner = self.corner[sector.clamp_min(0)]
        r, c = row - corner[..., 0], column - corner[..., 1]
        inside = (r >= 0) & (r < self.side) & (c >= 0) & (c < self.side) & (sector >= 0)
        found = (sector * self.side + r) * self.side + c
        return torch.where(inside, found, self.nowhere)

    def square_rows(self, sector: Tensor, corner: Tensor, blocks: int) -> Tensor:
        """Rows of sectors' tables at all blocks of square windows, shape (n, blocks squared).

        Parameters
        ----------
        sector
            Shape (n,), none empty.
        corner
            Row and column of the windows' first blocks, shape (n, 2).
        blocks
            Side of the windows.
        """
        first = (corner - self.corner[sector])[..., None]
        own = (first + torch.arange(blocks, device=first.device)).int()  # (n, 2, block)
        inside = (own >= 0) & (own < self.side)
        row = (sector[:, None] * self.side + own[:, 0]).int() * self.side
        row = torch.where(inside[:, 0], row, self.nowhere * 2)
        column = torch.where(inside[:, 1], own[:, 1], self.nowhere * 2)
        # what is outside in either direction comes to more than the last row
        return (row[:, :, None] + column[:, None]).clamp_max(self.nowhere).flatten(1)

    def ground_rows(self, row: Tensor, column: Tensor) -> Tensor:
        """Rows of the ground's tables for blocks of any shape."""
        r, c = row - self._ground[0], column - self._ground[1]
        rows, columns = self._ground_shape
        inside = (r >= 0) & (r < rows) & (c >= 0) & (c < columns)
        return torch.where(inside, r * columns + c, rows * columns)

    def window_of(self, sector: int) -> tuple[Tensor, Tensor]:
        """Row and column of all blocks that a sector was traced over, shape (1, block)."""
        own = torch.arange(self.side)
        row, column = (v.reshape(1, -1) for v in torch.meshgrid(own, own, indexing="ij"))
        return row + self.corner[sector, 0], column + self.corner[sector, 1]

    def cell_centres_m(self, row: Tensor, column: Tensor, cell: Tensor) -> Tensor:
        """Centres [m] of cells of blocks, shape (report, block, k, 2), from the ground's corner.

        Single precision does not hold the metres of a projected CRS.
        """
        inner = torch.stack([cell % BLOCK_CELLS, cell // BLOCK_CELLS], dim=-1)
        corner = torch.stack([column, row], dim=-1) - self.ground_corner
        return (corner[:, :, None] * BLOCK_CELLS + inner + 0.5).float() * self.cell_m


def take(table: Tensor, index: Tensor) -> Tensor:
    """Rows of a table at indices of any shape: a few times as fast as indexing by a tensor."""
    return table.index_select(0, index.flatten()).reshape(*index.shape, *table.shape[1:])


def take_rows(values: Tensor, chosen: Tensor) -> Tensor:
    """Rows of each report: from (report, row, ...) at (report, k) to (report, k, ...)."""
    count = values.shape[1]
    first = count * torch.arange(len(values), device=values.device)[:, None]
    return take(values.flatten(0, 1), first + chosen)


def blocks_of(values: NDArray[Any]) -> NDArray[Any]:
    """Rasters (..., rows, columns) block by block, shape (block, `CELLS`) over all of them."""
    rows, columns = (n // BLOCK_CELLS for n in values.shape[-2:])
    split = values.reshape(-1, rows, BLOCK_CELLS, columns, BLOCK_CELLS)
    return np.ascontiguousarray(split.swapaxes(2, 3)).reshape(-1, CELLS)


def table_of(values: NDArray[Any], missing: Any) -> Tensor:
    """Rasters as a table with a last row of what is missing."""
    blocks = blocks_of(values)
    last = np.full((1, CELLS), missing, dtype=blocks.dtype)
    return torch.from_numpy(np.concatenate([blocks, last]))


def moved(value: Any, device: torch.device) -> Any:
    """Tensors on a device, also those that tuples, dictionaries and table classes hold."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(moved(v, device) for v in value)
    if isinstance(value, dict) and all(isinstance(v, Tensor) for v in value.values()):
        return {k: moved(v, device) for k, v in value.items()}
    return value
