"""The levels' likelihood at many places, and of the reports of a track.

A level's probability depends on the place through two numbers only, its mean and its spread. So
a report's likelihood of each sector is a table of both, and places look it up, bilinearly;
gradients pass through the interpolation.

Reports of one track share the terminal's gain offset always, the shadowing as far as the places
are near, and the map's error where the place is the same. `TrackLevels` adds the reports'
evidence up before these are integrated out.
"""

import functools
import math

import torch
from torch import Tensor

from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.levels import (
    ONE_HIT_DB,
    LevelLikelihood,
    LevelMaps,
    by_site,
    shared_out,
    smoothed,
)

_FIRST_DBM, _LAST_DBM = -240.0, 10.0
_NODES_PER_STEP = 5  # within a step of the shifts
_SPREADS_DB = (0.3, 40.0, 30)  # smallest, largest, and how many
_LIVELY_NATS = 18.0
_PLACES = 2048  # at once: bounds the memory
_CORE_NODES, _CORE_REACH = 15, 3.5

Groups = tuple[tuple[int, ...], ...]
"""The reports of a track by the places that they come from: positions of each place's reports."""


def default_groups(reports: int, places: int) -> Groups:
    """All reports from one place, or each from its own."""
    everyone = tuple(range(reports))
    return (everyone,) if places == 1 else tuple((t,) for t in everyone)


class LevelTables:
    """Log-likelihood of every sector in one or more reports from one place, by mean and spread.

    Parameters
    ----------
    likelihood
        The model of levels.
    reports
        One report, or several whose sectors have the same level but for fading and accuracy.
    sectors
        Number of sectors of the maps.
    with_tail
        Whether the spread that places will give holds the map's error, whose tail then counts.
    """

    def __init__(
        self,
        likelihood: LevelLikelihood,
        reports: ReportBatch,
        sectors: int,
        *,
        with_tail: bool = True,
    ) -> None:
        self.step_db = likelihood.step_db
        self._node_db = likelihood.step_db / _NODES_PER_STEP
        low, high, count = _SPREADS_DB
        self._log_low, self._log_ratio = math.log(low), math.log(high / low) / (count - 1)
        nodes = _FIRST_DBM + self._node_db * torch.arange(
            round((_LAST_DBM - _FIRST_DBM) / self._node_db) + 1, dtype=torch.float32
        )
        spreads = torch.exp(self._log_low + self._log_ratio * torch.arange(count))
        mean, spread = torch.meshgrid(nodes, spreads, indexing="xy")
        hit = torch.tensor([with_tail, False])[:, None, None].expand(2, *mean.shape)
        grid = (mean.expand(2, -1, -1), spread.expand(2, -1, -1), hit)
        heard = torch.unique(reports.sector[reports.heard])
        self.table = self._fill(likelihood, reports, heard, grid)
        self._of_sector = torch.zeros(sectors, dtype=torch.int64)
        self._of_sector[heard] = 1 + torch.arange(len(heard))

    @staticmethod
    def _fill(
        likelihood: LevelLikelihood,
        reports: ReportBatch,
        heard: Tensor,
        grid: tuple[Tensor, Tensor, Tensor],
    ) -> Tensor:
        """Tables of an unreported sector (first) and of each reported one, summed over reports."""
        ceilings = torch.stack(likelihood.ceilings(reports))
        silent = [likelihood.unreported((c[0], c[1]), *grid) for c in ceilings.T]
        tables = [torch.stack(silent).sum(dim=0)]
        for sector in heard:
            terms = []
            for n in range(len(reports)):
                slot = torch.nonzero(reports.sector[n] == sector)[:, 0]
                code = reports.rsrp[n, slot[0]] if len(slot) else None
                terms.append(silent[n] if code is None else likelihood.reported(code, *grid))
            tables.append(torch.stack(terms).sum(dim=0))
        return torch.stack(tables)  # (set, tail or none, spread, mean)

    def smeared(self, variance: float) -> "LevelTables":
        """The same with a further Gaussian error of each sector on its own."""
        reach = math.ceil(4.0 * math.sqrt(variance) / self._node_db)
        offset = self._node_db * torch.arange(-reach, reach + 1, dtype=torch.float32)
        kernel = torch.softmax(-0.5 * offset**2 / max(variance, 1e-6), dim=0)
        shape = self.table.shape
        flat = self.table.exp().reshape(-1, 1, shape[-1])
        padded = torch.nn.functional.pad(flat, (reach, reach), mode="replicate")
        mean = torch.nn.functional.conv1d(padded, kernel[None, None])
        other = object.__new__(LevelTables)
        other.__dict__.update(self.__dict__)
        other.table = mean.reshape(shape).clamp_min(1e-30).log()
        return other

    def at(self, mean_dbm: Tensor, spread_db: Tensor, hit: Tensor, shifts: int) -> Tensor:
        """Log-likelihood of sectors at places under shifts, shape (sector, place, shift).

        Parameters
        ----------
        mean_dbm, spread_db, hit
            Shape (sector, place), as of `LevelLikelihood.mean_and_spread`.
        shifts
            How many steps the shifts reach to either side.
        """
        _, _, classes, nodes = self.table.shape
        place = (mean_dbm - _FIRST_DBM) / self._node_db
        margin = _NODES_PER_STEP * (shifts + 1)
        place = place.clamp(margin, nodes - 1 - margin)
        width = (spread_db.log() - self._log_low) / self._log_ratio
        width = width.clamp(0, classes - 1.001)
        node, row = place.detach().floor().long(), width.detach().floor().long()
        part, share = (place - node)[..., None], (width - row)[..., None]
        first = (self._of_sector[:, None] * 2 + (~hit).long()) * classes + row
        # shifts are whole steps, so that in this order each look-up is one run of numbers
        steps = self.table.flatten(0, 2)[:, : nodes - nodes % _NODES_PER_STEP]
        steps = steps.unflatten(1, (-1, _NODES_PER_STEP)).transpose(1, 2).contiguous()
        runs = steps.unfold(2, 2 * shifts + 1, 1)

        def read(of_row: Tensor, of_node: Tensor) -> Tensor:
            start = of_node // _NODES_PER_STEP - shifts
            return runs[of_row, of_node % _NODES_PER_STEP, start]

        lower = torch.lerp(read(first, node), read(first, node + 1), part)
        upper = torch.lerp(read(first + 1, node), read(first + 1, node + 1), part)
        return torch.lerp(lower, upper, share)

    def nearest(self, mean_dbm: Tensor, spread_db: Tensor, hit: Tensor) -> Tensor:
        """The same at no shift, from the nearest entry, shape (sector, place)."""
        _, _, classes, nodes = self.table.shape
        node = ((mean_dbm - _FIRST_DBM) / self._node_db).round_().clamp_(0, nodes - 1)
        width = ((spread_db.log() - self._log_low) / self._log_ratio).round_()
        block = self._of_sector[:, None] * 2 + (~hit).long()
        index = (block * classes + width.clamp_(0, classes - 1).long()) * nodes + node.long()
        return self.table.flatten()[index]


def log_prob_over(
    likelihood: LevelLikelihood, reports: ReportBatch, maps: LevelMaps, *, exact: bool = False
) -> Tensor:
    """Log-likelihood of the levels of n reports at many places, shape (n, place).

    Places that the sectors' marginal likelihoods put 18 nats below the best keep that value;
    all others get the likelihood in which the shared errors are integrated out.

    Parameters
    ----------
    likelihood
        The model of levels.
    reports
        n reports, each on its own.
    maps
        Maps at the places, the same for all reports or each report's own.
    exact
        Integrate at all places.
    """
    rows = []
    for n in range(len(reports)):
        report = reports[n : n + 1]
        rows.append(TrackLevels(likelihood, report).at(maps.row(n), exact=exact))
    return torch.stack(rows)


class TrackLevels:
    """Log-likelihood of the levels of one track's reports.

    Parameters
    ----------
    likelihood
        The model of levels.
    reports
        T reports of one terminal.
    """

    def __init__(self, likelihood: LevelLikelihood, reports: ReportBatch) -> None:
        self.likelihood, self.reports = likelihood, reports
        self._tables: dict[tuple[int, ...], LevelTables] = {}
        self._wide: dict[tuple[int, ...], LevelTables] = {}

    def at(
        self,
        maps: LevelMaps,
        *,
        shared: float = 1.0,
        exact: bool = False,
        groups: Groups | None = None,
    ) -> Tensor:
        """Log-likelihood at places or along paths, shape (place,).

        Shadowing in different grid cells is taken as equally correlated: a share `shared` of its
        variance is one for the whole path, the rest is drawn anew in each grid cell. Within a
        site the rest is common to all sectors; that it is in part common to all sites as well is
        left out (`tests/measurement/test_tracks.py` states the error).

        Parameters
        ----------
        maps
            One row for each group: the places that its reports come from, different grid cells.
        shared
            Mean correlation of the shadowing between the places of a path.
        exact
            Integrate at all places, also where the marginal likelihood is 18 nats below the best.
        groups
            Which reports come from one place. By default all of them where the maps have one
            row, each on its own where they have T.
        """
        groups = default_groups(len(self.reports), len(maps)) if groups is None else groups
        common, own, apart = self.likelihood.shift_weights(shared if len(groups) > 1 else 1.0)
        result = self._marginal(groups, maps)
        lively = torch.arange(maps.rsrp_dbm.shape[2])
        if not exact:
            lively = torch.nonzero(result.detach() > result.detach().max() - _LIVELY_NATS)[:, 0]
        shifts = (len(common) + len(own) + len(apart) - 3) // 2
        parts = []
        for start in range(0, len(lively), _PLACES):
            near = maps.places(lively[start : start + _PLACES])
            each = [
                smoothed(by_site(self._evidence(group, near.row(k), shifts), maps.site), apart)
                for k, group in enumerate(groups)
            ]
            parts.append(shared_out(functools.reduce(torch.add, each), common, own))
        result = result.index_copy(0, lively, torch.cat(parts))
        return result * float(self.likelihood.map_error.level_exponent)

    def _table(self, group: tuple[int, ...], sectors: int) -> LevelTables:
        if group not in self._tables:
            self._tables[group] = LevelTables(
                self.likelihood, self.reports[list(group)], sectors, with_tail=len(group) == 1
            )
        return self._tables[group]

    def _marginal(self, groups: Groups, maps: LevelMaps) -> Tensor:
        """Sum of the sectors' marginal log-likelihoods at all places."""
        like = self.likelihood
        shared = sum(
            float((w * (like.step_db * (torch.arange(len(w)) - len(w) // 2)) ** 2).sum())
            for w in like.shift_weights()
        )
        total = torch.zeros(maps.rsrp_dbm.shape[2])
        for k, group in enumerate(groups):
            mean, spread, hit = (v[0] for v in like.mean_and_spread(maps.row(k)))
            if group not in self._wide:
                self._wide[group] = self._table(group, len(mean)).smeared(shared)
            if len(group) > 1:  # the map's error is in no table: let the spread stand for it
                hit = torch.zeros_like(hit)
            total = total + self._wide[group].nearest(mean, spread, hit).sum(dim=0)
        return total

    def _evidence(self, group: tuple[int, ...], maps: LevelMaps, shifts: int) -> Tensor:
        """Log-likelihood of each sector at places under shifts, shape (sector, place, shift)."""
        mean, spread, hit = (v[0] for v in self.likelihood.mean_and_spread(maps))
        table = self._table(group, len(mean))
        if len(group) == 1:
            return table.at(mean, spread, hit, shifts)
        return self._same_place(table, maps, mean, spread, hit, shifts)

    def _same_place(
        self,
        table: LevelTables,
        maps: LevelMaps,
        mean: Tensor,
        spread: Tensor,
        hit: Tensor,
        shifts: int,
    ) -> Tensor:
        """The map's error, one for all reports, integrated out.

        The core by a uniform rule that follows each place's width, the tail (beside which the
        core's width is left out) by a convolution of the table.
        """
        like, error = self.likelihood, self.likelihood.map_error
        se = torch.where(maps.se_db[0].isnan(), ONE_HIT_DB, maps.se_db[0])
        core = torch.where(
            hit, (error.core_db**2 + (error.core_per_se * se) ** 2) ** 0.5, error.unhit_db
        )
        noise, plain = maps.noise_db[0], torch.zeros_like(hit)
        if float(core.amax()) == 0.0 and like.has_no_tail:
            return table.at(mean, noise, plain, shifts)
        node = torch.linspace(-_CORE_REACH, _CORE_REACH, _CORE_NODES)
        terms = [
            table.at(mean + z * core, noise, plain, shifts) + log_weight
            for z, log_weight in zip(node, torch.log_softmax(-0.5 * node**2, dim=0), strict=True)
        ]
        in_core = torch.stack(terms).logsumexp(dim=0)
        if like.has_no_tail:
            return in_core
        offset = like.step_db * torch.arange(-shifts, shifts + 1)
        share = like.tail_share(mean[..., None] + offset, spread[..., None])
        share = torch.where(hit[..., None], share, 0.0).clamp(1e-30, 1 - 1e-6)
        wide = table.smeared(error.tail_db**2)
        in_tail = wide.at(mean + error.tail_bias_db, noise, plain, shifts)
        return torch.logaddexp(in_core + torch.log1p(-share), in_tail + share.log())
