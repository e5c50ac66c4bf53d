"""Levels of all sectors as tables of blocks, and of classes."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ueloc_core.grid import BLOCK_CELLS
from ueloc_core.localization.block_grid import CELLS, BlockGrid, blocks_of
from ueloc_core.localization.silence import SilenceTable
from ueloc_core.measurement.levels import LevelLikelihood, LevelMaps
from ueloc_core.measurement.place_maps import PlaceMaps

NODE_DB = 1.0
"""Step of the mean levels of neighbouring classes [dB]."""

_RANKED = 24
_LEAST_RANKED_DBM, _WEAKEST_DBM = -135.0, -150.0
_FIRST_DBM, _NODES = -165.0, 130
_FIRST_SPREAD_DB, _SPREADS, _SPREAD_RATIO = 1.0, 10, 1.4
_AT_ONCE = 1 << 15
_INDOOR_WEIGHT = 1e-6


class LevelBlocks:
    """Levels of all sectors, by the measurement model and the error of the maps.

    Parameters
    ----------
    grid
        Rows of the tables.
    places
        The maps.
    levels
        The model of levels.
    outdoor
        Where terminals can stand, shape (ground blocks + 1, cell).

    Attributes
    ----------
    mean_dbm, spread_db, tail_share
        Mean and independent spread of a sector's level, and share of the map error's tail, shape
        (sector blocks + 1, cell).
    hit, unhit
        Whether a ray arrived, shape (sector blocks + 1, cell); mean [dBm] and spread [dB] where
        none did.
    block_mean_dbm, block_spread_db
        The same over the outdoor cells of a block, whose differences widen the spread, shape
        (sector blocks + 1,).
    block_class, cell_class
        Classes of the levels of blocks and of cells (`class_levels`), shapes (sector blocks + 1,)
        and (sector blocks + 1, cell).
    ranked, strongest_dbm
        The strongest sectors of each block, -1 where there are fewer, shape (ground blocks + 1,
        24), and the mean level of the first, shape (ground blocks + 1,).
    silence
        That no sector is reported.
    total_mw
        Sum of the mapped levels of all sectors [mW], shape (ground blocks + 1, cell).
    """

    def __init__(
        self, grid: BlockGrid, places: PlaceMaps, levels: LevelLikelihood, outdoor: Tensor
    ) -> None:
        self.levels = levels
        count = grid.nowhere + 1
        self.mean_dbm = torch.empty(count, CELLS)
        self.spread_db = torch.empty(count, CELLS, dtype=torch.float16)
        self.tail_share = torch.empty(count, CELLS, dtype=torch.float16)
        self.hit = torch.empty(count, CELLS, dtype=torch.bool)
        self.block_mean_dbm, self.block_spread_db, share = (torch.empty(count) for _ in range(3))
        blocks = (self.block_mean_dbm, self.block_spread_db, share)
        self.silence = SilenceTable(levels, len(outdoor))
        self.total_mw = torch.zeros(len(outdoor), CELLS)
        strength = torch.full((grid.sectors, len(outdoor)), -torch.inf)
        for s in range(grid.sectors):
            part = slice(s * grid.side**2, (s + 1) * grid.side**2)
            ground = grid.ground_rows(*grid.window_of(s))[0]
            self._set(part, self._of(places, s), blocks, outdoor[ground])
            there = ground < grid.ground_nowhere
            self.total_mw[ground[there]] += 10 ** (self.mean_dbm[part][there] / 10)
            own = [v[part][there] for v in blocks]
            self.silence.add(ground[there], own)
            strength[s, ground[there]] = own[0]
        last = slice(count - 1, count)
        self._set(last, self._of(places, None), blocks, outdoor[-1:])
        self.unhit = (float(self.mean_dbm[-1, 0]), float(self.spread_db[-1, 0]))
        best = strength.topk(min(_RANKED, len(strength)), dim=0)
        ranked = torch.where(best.values > _LEAST_RANKED_DBM, best.indices, -1)
        self.ranked = ranked.T.contiguous()
        self.strongest_dbm = best.values[0].clamp_min(_WEAKEST_DBM)
        self.block_class = _classes(self.block_mean_dbm, self.block_spread_db)
        parts = [slice(k, k + _AT_ONCE) for k in range(0, count, _AT_ONCE)]
        cells = [_classes(self.mean_dbm[k], self.spread_db[k].float()) for k in parts]
        self.cell_class = torch.cat(cells)

    def class_levels(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean [dBm], spread [dB] and tail's share of the classes, shape (spread, node).

        A class is ``spread * nodes + node``; a node more is `NODE_DB` more.
        """
        device = self.mean_dbm.device
        mean = _FIRST_DBM + NODE_DB * torch.arange(_NODES, dtype=torch.float32, device=device)
        spread = _FIRST_SPREAD_DB * _SPREAD_RATIO ** torch.arange(_SPREADS, device=device)
        mean, spread = torch.meshgrid(mean, spread, indexing="xy")
        if self.levels.has_no_tail:
            return mean, spread, torch.zeros_like(mean)
        return mean, spread, self.levels.tail_share(mean, spread)

    def _of(self, places: PlaceMaps, sector: int | None) -> list[Tensor]:
        """Mean, spread, tail's share and hits over a sector's window, or off all maps."""
        atlas, levels = places.atlas, self.levels
        if sector is None:
            layers = [np.full((BLOCK_CELLS, BLOCK_CELLS), np.nan, np.float32)] * 3
        else:
            layers = [
                np.asarray(v[sector], dtype=np.float32)
                for v in (atlas.rsrp_dbm, atlas.rsrp_se_db, places.noise_db)
            ]
        maps: LevelMaps = places.level_maps(
            *(torch.from_numpy(blocks_of(v)).reshape(1, 1, -1) for v in layers)
        )
        mean, spread, hit = levels.mean_and_spread(maps)
        share = torch.zeros_like(mean)
        if not levels.has_no_tail:
            share = torch.where(hit, levels.tail_share(mean, spread), 0.0)
        return [v.reshape(-1, CELLS) for v in (mean, spread, share, hit)]

    def _set(
        self, part: slice, cells: Sequence[Tensor], blocks: Sequence[Tensor], outdoor: Tensor
    ) -> None:
        mean, spread, share, hit = cells
        self.mean_dbm[part], self.hit[part] = mean, hit
        self.spread_db[part] = spread.half()
        self.tail_share[part] = share.half()
        weight = outdoor.float() + _INDOOR_WEIGHT
        weight = weight / weight.sum(dim=1, keepdim=True)
        middle = (weight * mean).sum(dim=1)
        variance = (weight * (spread**2 + (mean - middle[:, None]) ** 2)).sum(dim=1)
        found = (middle, variance.sqrt(), (weight * share).sum(dim=1))
        for values, value in zip(blocks, found, strict=True):
            values[part] = value


def _classes(mean_dbm: Tensor, spread_db: Tensor) -> Tensor:
    node = ((mean_dbm - _FIRST_DBM) / NODE_DB).round().clamp(0, _NODES - 1)
    width = (spread_db / _FIRST_SPREAD_DB).log() / math.log(_SPREAD_RATIO)
    return (width.round().clamp(0, _SPREADS - 1) * _NODES + node).short()
