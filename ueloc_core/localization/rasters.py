"""Whole windows as rasters, for what paints every pixel: a rival network, refinement, figures."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ueloc_core.grid import BLOCK_CELLS
from ueloc_core.localization.block_grid import CELLS, take
from ueloc_core.localization.evidence import serving_evidence
from ueloc_core.localization.windows import WindowBatch, turn_back, turn_raster

_HALF = 2
_BLOCKS_AT_ONCE = 1 << 16  # bounds the memory


@dataclass(frozen=True)
class HalfRasters:
    """Windows on a grid twice as coarse, each in the symmetry of its report.

    Attributes
    ----------
    rsrp_dbm
        Mean of the known levels of the reported sectors [dBm], NaN where none is known, shape
        (report, slot, n/2, n/2).
    outdoor
        Share of outdoor grid cells, shape (report, n/2, n/2).
    height_m
        Mean building height of a block [m], shape (report, n/2, n/2).
    """

    rsrp_dbm: Tensor
    outdoor: Tensor
    height_m: Tensor

    @classmethod
    def of(cls, batch: WindowBatch) -> "HalfRasters":
        """Those of a batch."""
        maps, side = batch.maps, batch.blocks
        row, column = batch.all_blocks()
        rows = maps.grid.slot_rows(batch.reports.sector, row, column)
        level = to_raster(take(maps.levels.mean_dbm, rows).flatten(0, 1), side)
        hit = to_raster(take(maps.levels.hit, rows).flatten(0, 1), side).float()
        known = _pooled(hit)
        mean = _pooled(level * hit) / known  # NaN where nothing is known
        slots = batch.reports.sector.shape[1]
        ground = maps.grid.ground_rows(row, column)
        height = take(maps.height_m, ground).reshape(-1, side, side)
        fine = BLOCK_CELLS // _HALF
        height = height.repeat_interleave(fine, 1).repeat_interleave(fine, 2)
        return cls(
            turned(mean.reshape(-1, slots, *mean.shape[1:]), batch.symmetry),
            turned(_pooled(to_raster(take(maps.outdoor, ground), side).float()), batch.symmetry),
            turned(height, batch.symmetry),
        )


def _pooled(values: Tensor) -> Tensor:
    """Means of 2 x 2 pixels of rasters (n, rows, columns)."""
    return torch.nn.functional.avg_pool2d(values[:, None], _HALF)[:, 0]


def to_raster(blocks: Tensor, side: int) -> Tensor:
    """Values of cells (n, block, cell) as rasters (n, rows, columns), row 0 in the south."""
    grid = blocks.reshape(-1, side, side, BLOCK_CELLS, BLOCK_CELLS)
    return grid.transpose(2, 3).reshape(-1, side * BLOCK_CELLS, side * BLOCK_CELLS)


def turned(values: Tensor, symmetry: Tensor, *, back: bool = False) -> Tensor:
    """Rasters (report, ..., rows, columns) in the symmetry of each report, or back from it."""
    found = values
    for s in torch.unique(symmetry).tolist():
        if s:
            own = torch.nonzero(symmetry == s)[:, 0]
            turn = turn_back if back else turn_raster
            found = found.index_copy(0, own, turn(values[own], s).contiguous())
    return found


@torch.no_grad()
def evidence_raster(batch: WindowBatch) -> Tensor:
    """Log-likelihood of timing, angle and beams over whole windows, shape (report, n, n)."""
    row, column = batch.all_blocks()
    cell = torch.arange(CELLS, device=row.device).expand(*row.shape, CELLS)
    parts = []
    for start in range(0, row.shape[1], _BLOCKS_AT_ONCE // max(len(batch), 1)):
        part = slice(start, start + _BLOCKS_AT_ONCE // max(len(batch), 1))
        found = serving_evidence(
            batch.model, batch.maps, batch.reports, row[:, part], column[:, part], cell[:, part]
        )
        parts.append(found.both.reshape(len(batch), -1, CELLS))
    return to_raster(torch.cat(parts, dim=1), batch.blocks)
