"""Delays, angles and beams of the serving sectors as tables of blocks."""

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ueloc_core.localization.block_grid import CELLS, BlockGrid, blocks_of, moved, table_of, take
from ueloc_core.measurement.direction import DepartureMaps
from ueloc_core.measurement.model import ServingMaps
from ueloc_core.measurement.place_maps import PlaceMaps
from ueloc_core.measurement.timing import DelayMaps
from ueloc_core.units import SPEED_OF_LIGHT_M_S

DELAYS, DELAY_STEP_NS = 384, 12.0
"""Number of classes of delays, and their step [ns]."""

_NS_PER_M = 1e9 / SPEED_OF_LIGHT_M_S
_LAYERS = {
    "first_arrival_ns": torch.float32,
    "line_of_sight": torch.float16,
    "departure_azimuth_deg": torch.float32,
    "departure_spread_deg": torch.float16,
}


class ServingBlocks:
    """What the maps of a report's serving sector say.

    Parameters
    ----------
    grid
        Rows of the tables.
    places
        The maps.
    centre
        The outdoor cell nearest to the middle of each block, shape (ground blocks + 1,).

    Attributes
    ----------
    position_m, drop_m
        Where sectors stand, from the ground's corner, shape (sector, 2), and how high above a
        terminal, shape (sector,) [m].
    azimuth_rad
        Their boresights, clockwise from north, shape (sector,).
    reference_dbm
        Power that they send in a resource element [dBm], shape (sector,).
    delays
        Whether the delay of the first path is known, that delay [ns] or 0, and the share in
        sight, shape (sector blocks + 1, cell) each.
    block_delay, block_sight
        Class of the delay in the middle of a block (`DELAYS` more where none is mapped), and the
        share in sight there, shape (sector blocks + 1,).
    """

    def __init__(self, grid: BlockGrid, places: PlaceMaps, centre: Tensor) -> None:
        atlas = places.atlas
        self._grid, self._places = grid, places
        origin_m = np.array([atlas.ground.column, atlas.ground.row]) * grid.cell_m
        self.position_m = torch.from_numpy(places.position_m - origin_m).float()
        drop = places.height_m - atlas.city.ray_tracing.terminal_height_m
        self.drop_m = torch.from_numpy(drop).float()
        azimuth = atlas.sectors.azimuth_deg.to_numpy(dtype=np.float32)
        self.azimuth_rad = torch.from_numpy(np.radians(azimuth))
        self.reference_dbm = torch.from_numpy(places.reference_dbm).float()
        self._layers = {k: table_of(atlas.layer(k), math.nan).to(v) for k, v in _LAYERS.items()}
        arrival, sight = (self._layers[k] for k in ("first_arrival_ns", "line_of_sight"))
        self.delays = (~arrival.isnan(), arrival.nan_to_num(0.0), sight.nan_to_num(0.0))
        self._beams = lru_cache(maxsize=64)(self._read_beams)
        self.block_delay, self.block_sight = self._middles(centre)

    def on(self, device: torch.device, grid: BlockGrid) -> "ServingBlocks":
        """The tables on a device."""
        other = object.__new__(ServingBlocks)
        other.__dict__.update({k: moved(v, device) for k, v in vars(self).items()})
        other._grid = grid
        return other

    def maps(
        self, serving: Tensor, row: Tensor, column: Tensor, cell: Tensor, *, beams: bool
    ) -> ServingMaps:
        """Maps of the serving sectors at cells of blocks, one row a report.

        Parameters
        ----------
        serving
            Sector of each report, shape (report,).
        row, column
            Blocks counted from the origin of the CRS, shape (report, block).
        cell
            Cells of each block, shape (report, block, k); the places are in this order.
        beams
            Whether beams are looked up; without them there are none.
        """
        grid = self._grid
        block = grid.rows(serving[:, None], row, column)[..., None]
        place = (block * CELLS + cell).flatten(1)
        found = {k: take(v.flatten(), place).float() for k, v in self._layers.items()}
        centres_m = grid.cell_centres_m(row, column, cell).flatten(1, 2)
        offset = centres_m - self.position_m[serving][:, None]
        straight = (offset.square().sum(dim=2) + self.drop_m[serving][:, None] ** 2).sqrt()
        bearing = torch.rad2deg(torch.atan2(offset[..., 0], offset[..., 1])) % 360
        gains = centres_m.new_zeros(len(place), 0, place.shape[1])
        if beams:
            gains = torch.stack(
                [
                    self._gains(int(s), r, c)
                    for s, r, c in zip(serving, block.expand_as(cell), cell, strict=True)
                ]
            )
        return ServingMaps(
            DelayMaps(found["first_arrival_ns"], found["line_of_sight"], straight * _NS_PER_M),
            DepartureMaps(
                found["departure_azimuth_deg"], found["departure_spread_deg"], bearing, gains
            ),
            self.reference_dbm[serving],
        )

    def _gains(self, serving: int, row: Tensor, cell: Tensor) -> Tensor:
        """Gains of a sector's beams at rows of its tables, shape (beam, place)."""
        first, last = serving * self._grid.side**2, self._grid.side**2
        own = torch.where(row < self._grid.nowhere, row - first, last)
        table = self._beams(serving).to(row.device)
        index = (own * CELLS + cell).flatten()
        return table.index_select(1, index).float()

    def _read_beams(self, serving: int) -> Tensor:
        """Beams' gains over a sector's window, shape (beam, (blocks + 1) * cell)."""
        gains = self._places.beam_offset_db(serving)
        table = torch.from_numpy(blocks_of(np.asarray(gains))).reshape(len(gains), -1)
        nothing = torch.full((len(gains), CELLS), math.nan, dtype=table.dtype)
        return torch.cat([table, nothing], dim=1)

    def _middles(self, centre: Tensor) -> tuple[Tensor, Tensor]:
        grid = self._grid
        classes: list[Any] = []
        sights = []
        for s in range(grid.sectors):
            row, column = grid.window_of(s)
            cell = centre[grid.ground_rows(row, column)][..., None]
            at = self.maps(torch.tensor([s]), row, column, cell, beams=False).delays
            node = (at.delay_ns[0] / DELAY_STEP_NS).round().clamp(0, DELAYS - 1)
            classes.append((node + DELAYS * (~at.known[0])).short())
            sights.append(at.line_of_sight[0].nan_to_num(0.0))
        last = torch.tensor([2 * DELAYS - 1], dtype=torch.int16)
        return torch.cat([*classes, last]), torch.cat([*sights, torch.zeros(1)])
