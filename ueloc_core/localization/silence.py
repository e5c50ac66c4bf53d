"""How likely sectors stay unreported: summed over all sectors, by the levels they stay under."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ueloc_core.localization.block_grid import take
from ueloc_core.measurement.levels import LevelLikelihood

_FIRST_CEILING_DBM, _CEILINGS, _STEP_DB = -140.0, 73, 1.5
_GAPS = (0, 2, 4, 8, 16, 24)  # between both ceilings, in steps
_LEAST = 1e-6


class SilenceTable:
    """Log-probability that no sector at all is reported, at every block of the ground.

    Parameters
    ----------
    levels
        The model of levels.
    blocks
        Number of rows of the ground's tables.

    Attributes
    ----------
    table
        By the gap between the two ceilings, and by the lower one, shape (gap, ceiling, block).
    """

    def __init__(self, levels: LevelLikelihood, blocks: int) -> None:
        self._levels = levels
        self.table = torch.zeros(len(_GAPS), _CEILINGS, blocks)

    def add(self, ground: Tensor, values: Sequence[Tensor]) -> None:
        """Add a sector.

        Parameters
        ----------
        ground
            Rows of the ground's tables, shape (block,).
        values
            Mean [dBm], spread [dB] and tail's share of its level there, shape (block,) each.
        """
        ceiling = _FIRST_CEILING_DBM + _STEP_DB * torch.arange(_CEILINGS + _GAPS[-1])
        below = probability_below(self._levels, ceiling[:, None], *values)
        lost = self._levels.settings.dropout_probability
        for of_gap, gap in zip(self.table, _GAPS, strict=True):
            silent = torch.lerp(below[:_CEILINGS], below[gap : gap + _CEILINGS], lost)
            of_gap.index_add_(1, ground, silent.clamp_min(_LEAST).log())

    def at(self, ceilings_dbm: Tensor, ground: Tensor) -> Tensor:
        """Values in blocks, linear between the table's entries, shape (report, shift, block).

        Parameters
        ----------
        ceilings_dbm
            The lower and the higher ceiling under shifts, shape (report, shift, 2).
        ground
            Rows of the ground's tables, shape (report, block).
        """
        weak, lost = ceilings_dbm.unbind(dim=2)
        place = ((weak - _FIRST_CEILING_DBM) / _STEP_DB).clamp(0, _CEILINGS - 1.001)
        gaps = torch.tensor(_GAPS, device=weak.device, dtype=weak.dtype)
        gap = ((lost - weak) / _STEP_DB).clamp(0, _GAPS[-1] - 1e-3)
        lower = torch.searchsorted(gaps, gap, right=True) - 1
        inside = (gap - gaps[lower]) / (gaps[lower + 1] - gaps[lower])
        below = place.floor().long()
        part = place - below
        flat = self.table.flatten()
        ground = ground[:, None].int()
        total = torch.zeros(*weak.shape, ground.shape[2], device=weak.device)
        for of_gap, g in ((1 - inside, lower), (inside, lower + 1)):
            for share, c in ((1 - part, below), (part, below + 1)):
                first = ((g * _CEILINGS + c) * self.table.shape[2]).int()
                found = take(flat, first[..., None] + ground)
                total.addcmul_((of_gap * share)[..., None], found)
        return total


def log_silence(
    levels: LevelLikelihood,
    ceilings_dbm: Tensor,
    mean_dbm: Tensor,
    spread_db: Tensor,
    tail_share: Tensor,
) -> Tensor:
    """Log-probability that sectors are not reported.

    Parameters
    ----------
    levels
        The model of levels.
    ceilings_dbm
        Levels that a sector stayed under if it was not lost, and if it was, as of
        `LevelLikelihood.ceilings`, shape (..., 2).
    mean_dbm, spread_db, tail_share
        Of the sectors' levels; they broadcast with the ceilings.
    """
    weak, lost = (
        probability_below(levels, c, mean_dbm, spread_db, tail_share)
        for c in ceilings_dbm.unbind(dim=-1)
    )
    silent = torch.lerp(weak, lost, levels.settings.dropout_probability)
    return silent.clamp_min(_LEAST).log()


def probability_below(
    levels: LevelLikelihood,
    ceiling_dbm: Tensor,
    mean_dbm: Tensor,
    spread_db: Tensor,
    tail_share: Tensor,
) -> Tensor:
    """Probability, to 1e-7, that levels stay under ceilings; all arguments broadcast."""
    core = _distribution((ceiling_dbm - mean_dbm) / spread_db)
    if levels.has_no_tail:
        return core
    error = levels.map_error
    wide = (spread_db**2 + float(error.tail_db) ** 2) ** 0.5
    tail = _distribution((ceiling_dbm - mean_dbm - float(error.tail_bias_db)) / wide)
    return torch.lerp(core, tail, tail_share)


def _distribution(z: Tensor) -> Tensor:
    return torch.erf(z * math.sqrt(0.5)).mul(0.5).add(0.5)
