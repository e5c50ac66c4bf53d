"""The maps of a city as tables from which a locator gathers what it looks at."""

from typing import TypeVar

import torch
from torch import Tensor

from ueloc_core.grid import BLOCK_CELLS
from ueloc_core.localization.block_grid import CELLS, BlockGrid, moved, table_of
from ueloc_core.localization.level_blocks import LevelBlocks
from ueloc_core.localization.serving_blocks import ServingBlocks
from ueloc_core.measurement.levels import LevelLikelihood
from ueloc_core.measurement.place_maps import PlaceMaps
from ueloc_core.radio.atlas import MapAtlas

T = TypeVar("T")


class MapBlocks:
    """Tables of an atlas (`block_grid`); they live on the device that computes.

    Parameters
    ----------
    atlas
        The maps.
    places
        Reads scatter and beams of the same atlas.
    levels
        The model of levels, which knows the error of these maps.

    Attributes
    ----------
    grid
        Rows of the tables.
    outdoor
        Where terminals can stand, shape (ground blocks + 1, cell).
    open_cells
        How many cells of a block are outdoors, shape (ground blocks + 1,).
    height_m
        Mean building height of a block [m], shape (ground blocks + 1,).
    centre
        The outdoor cell nearest to the middle of each block, shape (ground blocks + 1,).
    site
        Site of each sector, shape (sector,).
    levels, serving
        Levels of all sectors, and what else is known of a serving one.
    """

    def __init__(self, atlas: MapAtlas, places: PlaceMaps, levels: LevelLikelihood) -> None:
        self._copies: dict[torch.device, MapBlocks] = {}
        self.grid = BlockGrid(atlas)
        self.outdoor = table_of(atlas.outdoor, False)
        self.open_cells = self.outdoor.sum(dim=1).float()
        self.height_m = table_of(atlas.building_height_m, 0.0).mean(dim=1)
        self.centre = _nearest_to_middle(self.outdoor)
        self.site = torch.from_numpy(atlas.site)
        self.levels = LevelBlocks(self.grid, places, levels, self.outdoor)
        self.serving = ServingBlocks(self.grid, places, self.centre)

    def on(self, device: torch.device) -> "MapBlocks":
        """The tables on a device, copied there once."""
        if self.outdoor.device == device:
            return self
        if device not in self._copies:
            other = _copied(self, device)
            other.grid = _copied(self.grid, device)
            other.levels = _copied(self.levels, device)
            other.levels.silence = _copied(self.levels.silence, device)
            other.serving = self.serving.on(device, other.grid)
            self._copies[device] = other
        return self._copies[device]


def _copied(value: T, device: torch.device) -> T:
    other = object.__new__(type(value))
    other.__dict__.update({k: moved(v, device) for k, v in vars(value).items()})
    return other


def _nearest_to_middle(outdoor: Tensor) -> Tensor:
    """The outdoor cell nearest to the middle of each block; a middle one where none is."""
    at = torch.arange(CELLS)
    middle = (BLOCK_CELLS - 1) / 2 + 0.1  # off the symmetry, so that no two are as near
    distance = (at % BLOCK_CELLS - middle) ** 2 + (at // BLOCK_CELLS - middle * 0.9) ** 2
    return torch.where(outdoor, distance, distance + CELLS**2).argmin(dim=1)
