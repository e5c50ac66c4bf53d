"""The physics term: how likely the report is on the twin's maps at the predicted places."""

import torch
from torch import Tensor

from ueloc_core.grid import BLOCK_CELLS
from ueloc_core.localization.block_grid import CELLS, take
from ueloc_core.localization.evidence import uplink_of
from ueloc_core.localization.posterior import Posterior
from ueloc_core.localization.windows import WindowBatch
from ueloc_core.measurement.timing import DelayMaps
from ueloc_core.units import SPEED_OF_LIGHT_M_S

_NS_PER_M = 1e9 / SPEED_OF_LIGHT_M_S


def bilinear(rasters: Tensor, points_m: Tensor, cell_m: float) -> Tensor:
    """Differentiable bilinear lookup of rasters at points, with pixel centres where they are.

    Parameters
    ----------
    rasters
        Shape (batch, channel, rows, columns); row 0 in the south, frame centred on the raster.
    points_m
        Shape (batch, point, 2), metres east and north of the centre; clamped to the raster.
    cell_m
        Side of a grid cell [m].

    Returns
    -------
    Tensor
        Shape (batch, channel, point). A NaN neighbour of weight above zero gives NaN.
    """
    rows, columns = rasters.shape[-2:]
    count = rasters.shape[0]
    limit = torch.tensor([columns, rows], device=points_m.device) - 1
    place = points_m / cell_m + (limit + 1) / 2 - 0.5  # in pixels, from the first pixel's centre
    place = torch.minimum(place.clamp_min(0), limit)
    corner = torch.minimum(place.detach().floor().long(), (limit - 1).clamp_min(0))
    part = place - corner
    batch = torch.arange(count, device=points_m.device)[:, None]
    total = torch.zeros((), device=points_m.device)
    unknown = torch.zeros((), dtype=torch.bool, device=points_m.device)
    for dy in (0, 1):
        for dx in (0, 1):
            row = (corner[..., 1] + dy).clamp_max(rows - 1)
            column = (corner[..., 0] + dx).clamp_max(columns - 1)
            value = rasters[batch, :, row, column]  # (batch, point, channel)
            wx = part[..., 0] if dx else 1 - part[..., 0]
            wy = part[..., 1] if dy else 1 - part[..., 1]
            weight = (wx * wy)[..., None]
            total = total + weight * value.nan_to_num(0.0)  # finite, so that gradients stay so
            unknown = unknown | (value.isnan() & (weight != 0))
    return torch.where(unknown, torch.nan, total).transpose(1, 2)


class CellLookup:
    """Differentiable bilinear lookup of the tables of a city at points in windows.

    Pixel centres are where they are: a point in the middle of a grid cell has the cell's value.

    Parameters
    ----------
    batch
        The windows.
    points_m
        Metres east and north of the windows' centres, shape (report, point, 2).
    """

    def __init__(self, batch: WindowBatch, points_m: Tensor) -> None:
        self.grid = batch.maps.grid
        half = batch.cells / 2
        place = points_m / self.grid.cell_m + half - 0.5  # in pixels, from the first one's centre
        first = place.detach().floor().long()
        part = place - first
        self._corners, self._weights = [], []
        corner = batch.corner[:, None] * BLOCK_CELLS  # (row, column)
        for dy in (0, 1):
            for dx in (0, 1):
                column = first[..., 0] + dx + corner[..., 1]
                row = first[..., 1] + dy + corner[..., 0]
                self._corners.append((row, column))
                wx = part[..., 0] if dx else 1 - part[..., 0]
                wy = part[..., 1] if dy else 1 - part[..., 1]
                self._weights.append(wx * wy)

    def at(self, sector: Tensor, *tables: Tensor) -> list[Tensor]:
        """Values of sectors' tables, shape (report, slot, point).

        Parameters
        ----------
        sector
            Shape (report, slot).
        tables
            Of shape (sector blocks + 1, cell).
        """
        total = [torch.zeros((), device=sector.device)] * len(tables)
        for (row, column), weight in zip(self._corners, self._weights, strict=True):
            block = self.grid.slot_rows(sector, row // BLOCK_CELLS, column // BLOCK_CELLS)
            cell = row % BLOCK_CELLS * BLOCK_CELLS + column % BLOCK_CELLS
            index = block * CELLS + cell[:, None]
            for k, table in enumerate(tables):
                total[k] = total[k] + weight[:, None] * take(table.flatten(), index).to(weight)
        return total


def physics_loss(posterior: Posterior, batch: WindowBatch) -> Tensor:
    """Expected negative log-likelihood of levels and timing under the posterior's components.

    The twin's maps are looked up at the components' means; the gradient moves both the means and
    the weights. A mean beside a grid cell that no ray reaches counts as one that none reaches.
    Nats a reported sector, averaged over the batch.
    """
    mean_m, reports, model, maps = posterior.mean_m, batch.reports, batch.model, batch.maps
    lookup, heard = CellLookup(batch, mean_m), batch.present
    level, spread, hit = lookup.at(
        reports.sector, maps.levels.mean_dbm, maps.levels.spread_db, maps.levels.hit
    )
    there = hit > 1 - 1e-4
    unhit = maps.levels.unhit
    level, spread = torch.where(there, level, unhit[0]), torch.where(there, spread, unhit[1])
    shared = sum(model.levels.shared_variances)
    found = model.levels.reported(
        reports.rsrp[:, :, None], level, (spread**2 + shared) ** 0.5, there
    )
    log_prob = torch.where(heard[:, :, None], found, 0.0).sum(dim=1)
    log_prob = (log_prob + _timing(lookup, batch, mean_m)) / heard.sum(dim=1, keepdim=True)
    weights = posterior.weights
    weights = weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-12)
    return -(weights * log_prob).sum(dim=1).mean()


def _timing(lookup: CellLookup, batch: WindowBatch, points_m: Tensor) -> Tensor:
    """Log-likelihood of the timing fields at points, shape (report, point)."""
    maps, serving = batch.maps.serving, batch.reports.sector[:, :1]
    known, delay, sight = (v[:, 0] for v in lookup.at(serving, *maps.delays))
    middle = (batch.corner.flip(1) + batch.blocks / 2 - lookup.grid.ground_corner) * BLOCK_CELLS
    offset = points_m + (middle * lookup.grid.cell_m - maps.position_m[serving[:, 0]])[:, None]
    drop = maps.drop_m[serving]
    straight = (offset.square().sum(dim=2) + drop**2).sqrt() * _NS_PER_M
    arrival = torch.where(known > 1 - 1e-4, delay, torch.nan)
    sinr = uplink_of(batch.model, batch.reports, maps.reference_dbm[serving[:, 0]])
    return batch.model.timing.closed(batch.reports, DelayMaps(arrival, sight, straight), sinr)
