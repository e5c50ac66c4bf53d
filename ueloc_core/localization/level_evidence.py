"""How likely the levels of a report are at the places that a locator looks at.

The measurement model integrates what levels share on a fine grid of shifts and looks every
sector up at every place. Here the heard sectors alone are looked at, the others through one sum
over all of them; a bin's probability is a density; and the shifts are as coarse as the spread
of a level allows. What is left of the difference is for the network to learn: every spread, every
bias and every weight may be moved by it.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ueloc_core.localization.block_grid import take
from ueloc_core.localization.level_blocks import NODE_DB, LevelBlocks
from ueloc_core.localization.map_blocks import MapBlocks
from ueloc_core.localization.silence import log_silence
from ueloc_core.measurement.levels import LevelLikelihood

_BIN_VARIANCE = 1.0 / 12.0  # of a code's bin [dB2]
_LEAST = 1e-20
_REACH = 2.6  # standard deviations of the shifts
_SILENT_DB = 8.0  # between the shifts at which silence is evaluated
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class Shifts:
    """The shifts of levels that are summed over, at multiples of one step.

    Attributes
    ----------
    step_db
        Step [dB].
    common, own
        Logarithms of the weights of what all sectors share, and weights of what a site shares;
        both symmetric around 0.
    own_variance
        Variance of the latter [dB2], for sites of which one sector is heard.
    """

    step_db: float
    common: Tensor
    own: Tensor
    own_variance: float

    @classmethod
    def of(cls, levels: LevelLikelihood, step_db: float, reach: float = _REACH) -> "Shifts":
        """Those of a model, as coarse as asked for."""
        common, own = levels.shared_variances

        def weights(variance: float) -> Tensor:
            sigma = math.sqrt(variance)
            count = math.ceil(reach * sigma / step_db - 0.5) if sigma > 0.3 * step_db else 0
            offset = step_db * torch.arange(-count, count + 1)
            return torch.softmax(-0.5 * (offset / max(sigma, 1e-6)) ** 2, dim=0)

        return cls(step_db, weights(common).log(), weights(own), own)

    def to(self, device: torch.device) -> "Shifts":
        """On a device."""
        return Shifts(self.step_db, self.common.to(device), self.own.to(device), self.own_variance)


@dataclass(frozen=True)
class Pairs:
    """The heard sectors of a batch one after the other, those alone at their site first.

    Attributes
    ----------
    report, slot
        Where each stands, shape (pair,).
    single
        How many are alone at their site.
    group
        Number of the site of each of the others, shape (pair - single,).
    group_report
        Report of each such site, shape (group,).
    """

    report: Tensor
    slot: Tensor
    single: int
    group: Tensor
    group_report: Tensor

    @classmethod
    def of(cls, sector: Tensor, site: Tensor, *, apart: bool = False) -> "Pairs":
        """Pairs of sectors (report, slot), -1 where empty; `apart` takes each for alone."""
        heard = sector >= 0
        own = torch.where(heard, site[sector.clamp_min(0)], -1)
        same = (own[:, :, None] == own[:, None, :]) & heard[:, :, None] & heard[:, None, :]
        alone = heard & ((same.sum(dim=2) == 1) | apart)
        report, slot = torch.nonzero(alone, as_tuple=True)
        many_report, many_slot = torch.nonzero(heard & ~alone, as_tuple=True)
        first = same.int().argmax(dim=2)[many_report, many_slot]  # the site's first slot
        key = many_report * sector.shape[1] + first
        found, group = torch.unique(key, return_inverse=True)
        return cls(
            torch.cat([report, many_report]),
            torch.cat([slot, many_slot]),
            len(report),
            group,
            found // sector.shape[1],
        )


@dataclass(frozen=True)
class PairMaps:
    """What the maps say about pairs at places, shape (pair, place) each."""

    mean_dbm: Tensor
    spread_db: Tensor
    tail_share: Tensor

    @classmethod
    def cells(cls, levels: LevelBlocks, rows: Tensor) -> "PairMaps":
        """At all cells of blocks; `rows` of the tables, shape (pair, block)."""
        return cls(
            take(levels.mean_dbm, rows).flatten(1),
            take(levels.spread_db, rows).flatten(1).float(),
            take(levels.tail_share, rows).flatten(1).float(),
        )


class ClassTables:
    """Evidence of each heard sector, less that of its silence, by the class of its level.

    Parameters
    ----------
    maps
        The maps that define the classes, and the model of levels.
    shifts
        Shared errors.
    pairs, level_dbm
        Heard sectors, each taken for alone at its site, and their reported levels.
    ceilings_dbm
        As of `LevelLikelihood.ceilings`, shape (report, 2).
    widen
        Factor of the spread of each reported level, shape (pair,).
    """

    def __init__(
        self,
        maps: LevelBlocks,
        shifts: Shifts,
        pairs: Pairs,
        level_dbm: Tensor,
        ceilings_dbm: Tensor,
        widen: Tensor,
    ) -> None:
        self.shifts, self.maps, self.pairs = shifts, maps, pairs
        mean, spread, share = maps.class_levels()
        found = _log_prob(
            maps.levels,
            level_dbm[:, None, None] - mean,
            (spread * widen[:, None, None]) ** 2 + _BIN_VARIANCE + shifts.own_variance,
            share,
            torch.zeros(1, device=mean.device),
        )[..., 0]
        # that a heard sector is silent is in the sum over all of them
        silent = log_silence(maps.levels, ceilings_dbm[:, None, None], mean, spread, share)
        found = found - take(silent, pairs.report)
        count = len(shifts.common) // 2
        step = torch.arange(-count, count + 1, device=mean.device)
        pad = round(count * shifts.step_db / NODE_DB)
        wide = torch.nn.functional.pad(found, (pad, pad), mode="replicate")
        node = torch.arange(mean.shape[1], device=mean.device)[:, None]
        shifted = node + pad + (step * shifts.step_db / NODE_DB).round().long()
        rows = wide[..., shifted].flatten(0, 2)  # (pair and class, shift)
        self._rows = torch.cat([rows, rows.new_zeros(1, len(step))])
        self._classes = mean.numel()
        self._ceilings_dbm = ceilings_dbm[:, None] - (shifts.step_db * step)[:, None]

    def at(self, classes: Tensor, ground: Tensor) -> Tensor:
        """Log-likelihood of all levels and silences, (report, block) or (report, block, cell).

        Parameters
        ----------
        classes
            Shape (pair, block) or (pair, block, cell).
        ground
            Rows of the ground's tables, shape (report, block).
        """
        pairs, places = self.pairs, classes[0].numel()
        count, slots = len(ground), int(pairs.slot.max()) + 1
        first = self._classes * torch.arange(len(classes), device=classes.device)
        index = classes.flatten(1).int() + first.int()[:, None]
        bags = index.new_full((count, slots, places), len(self._rows) - 1)
        bags[pairs.report, pairs.slot] = index
        bags = bags.transpose(1, 2).reshape(-1, slots)
        # looked up and added in one go, all shifts of a level side by side
        total = torch.nn.functional.embedding_bag(bags, self._rows, mode="sum")
        total = total.reshape(*ground.shape, -1, self._rows.shape[1])
        silence = self.maps.silence.at(self._ceilings_dbm, ground)
        silence += self.shifts.common[:, None]
        total += silence.transpose(1, 2)[:, :, None]
        found: Tensor = total.logsumexp(dim=-1)
        return found.reshape(count, *classes.shape[1:])


def unheard_silence(
    maps: MapBlocks,
    shifts: Shifts,
    sector: Tensor,
    ceilings_dbm: Tensor,
    row: Tensor,
    column: Tensor,
    ground: Tensor,
    count: int,
) -> Tensor:
    """Log-probability that the strongest sectors of blocks that are not heard are not reported.

    It is evaluated at three shifts, because it is as smooth as a level's spread.

    Parameters
    ----------
    maps, shifts
        The maps, and shared errors.
    sector
        Heard sectors, shape (report, slot).
    ceilings_dbm
        As of `LevelLikelihood.ceilings`, shape (report, 2).
    row, column, ground
        Blocks, and their rows of the ground's tables, shape (report, block).
    count
        How many of each block's strongest sectors are looked at.

    Returns
    -------
    Tensor
        Shape (report, block * cell, shift).
    """
    levels = maps.levels
    strongest = take(levels.ranked, ground)  # (report, block, rank)
    heard = (strongest[..., None] == sector[:, None, None]).any(dim=3)
    rank = torch.arange(heard.shape[2], device=row.device) + heard.shape[2] * heard
    first = rank.topk(min(count, heard.shape[2]), dim=2, largest=False).indices
    other = torch.where(heard, -1, strongest).gather(2, first)
    rows = maps.grid.rows(other, row[..., None], column[..., None])
    seen = PairMaps.cells(levels, rows.flatten(1))
    offset = _SILENT_DB * torch.tensor([-1.0, 0.0, 1.0], device=row.device)
    under = ceilings_dbm[:, None, None] - offset[:, None]  # (report, 1, shift, 2)
    own = [v[..., None] for v in (seen.mean_dbm, seen.spread_db, seen.tail_share)]
    found = log_silence(levels.levels, under, *own)
    found = found.reshape(*rows.shape, -1, found.shape[-1])
    found = torch.where((other >= 0)[..., None, None], found, 0.0).sum(dim=2).flatten(1, 2)
    half = len(shifts.common) // 2
    place = shifts.step_db / _SILENT_DB * torch.arange(-half, half + 1, device=row.device)
    # the parabola through three shifts, straight beyond them
    inner = place.clamp(-1, 1)
    weights = [inner * (inner - 1) / 2, 1 - inner**2, inner * (inner + 1) / 2]
    return found @ torch.stack(weights)


def level_evidence(
    levels: LevelLikelihood,
    shifts: Shifts,
    pairs: Pairs,
    maps: PairMaps,
    level_dbm: Tensor,
    silence: Tensor,
) -> Tensor:
    """Log-likelihood of the reported levels and of the silence of all others, (report, place).

    Parameters
    ----------
    levels
        The model: tail and losses.
    shifts
        Shared errors.
    pairs, maps
        Heard sectors and their maps at the places; the spread may differ from the model's.
    level_dbm
        Reported level of each pair, shape (pair,).
    silence
        Log-probability that the others are not reported, at all shifts, shape (report, place,
        shift).
    """
    count = len(shifts.common) // 2
    reach = count + len(shifts.own) // 2
    difference = level_dbm[:, None] - maps.mean_dbm
    variance = maps.spread_db**2 + _BIN_VARIANCE
    total = silence
    single = slice(pairs.single)
    if pairs.single:
        found = _log_prob(
            levels,
            difference[single],
            variance[single] + shifts.own_variance,
            maps.tail_share[single],
            shifts.step_db * torch.arange(-count, count + 1, device=total.device),
        )
        total = total.index_add(0, pairs.report[single], found)
    if len(pairs.group):
        several = slice(pairs.single, None)
        found = _log_prob(
            levels,
            difference[several],
            variance[several],
            maps.tail_share[several],
            shifts.step_db * torch.arange(-reach, reach + 1, device=total.device),
        )
        of_site = found.new_zeros(len(pairs.group_report), *found.shape[1:])
        of_site = of_site.index_add(0, pairs.group, found)
        total = total.index_add(0, pairs.group_report, _smoothed(of_site, shifts.own))
    return (total + shifts.common).logsumexp(dim=2)


def _log_prob(
    levels: LevelLikelihood, difference: Tensor, variance: Tensor, tail_share: Tensor, shift: Tensor
) -> Tensor:
    """Log-density of levels around shifted means, shape (pair, place, shift)."""
    error = levels.map_error
    off = difference[..., None] - shift
    density = _weighted_normal(off, variance, 1 - tail_share)
    if not levels.has_no_tail:
        wide = variance + float(error.tail_db) ** 2
        density = density + _weighted_normal(off - float(error.tail_bias_db), wide, tail_share)
    return (density + _LEAST).log() - _HALF_LOG_2PI


def _weighted_normal(off: Tensor, variance: Tensor, weight: Tensor) -> Tensor:
    """``weight / sigma exp(-off^2 / (2 variance))``; most of an evidence's time passes here."""
    scale = weight.clamp_min(_LEAST).log() - 0.5 * variance.log()
    return torch.addcmul(scale[..., None], off.square(), (-0.5 / variance)[..., None]).exp_()


def _smoothed(of_site: Tensor, weights: Tensor) -> Tensor:
    """Logarithm of the mean over a site's own shift; the outer shifts fall away."""
    peak = of_site.detach().amax(dim=-1, keepdim=True)
    inner = of_site.shape[-1] - len(weights) + 1
    kernel = of_site.new_zeros(of_site.shape[-1], inner)
    for k in range(inner):
        kernel[k : k + len(weights), k] = weights
    return ((of_site - peak).exp() @ kernel).clamp_min(1e-30).log() + peak
