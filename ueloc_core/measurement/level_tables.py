"""The levels' likelihood at many places, and of the reports of a track.

A level's probability depends on the place through two numbers only, its mean and its spread. So
a report's likelihood of each sector is a table of both, and places look it up, bilinearly;
gradients pass through the interpolation.

Reports of one track share the terminal's gain offset always, the shadowing as far as the places
are near, and the map's error where the place is the same. `TrackLevels` adds the reports'
evidence up before these are integrated out.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.levels import ONE_HIT_DB, LevelLikelihood, LevelMaps

_FIRST_DBM, _LAST_DBM = -240.0, 10.0
_NODES_PER_STEP = 5  # within a step of the shifts
_SPREADS_DB = (0.3, 40.0, 30)  # smallest, largest, and how many
_LIVELY_NATS = 25.0
_PLACES = 2048  # at once: bounds the memory
_CORE_NODES, _CORE_REACH = 15, 3.5


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
        offset = _NODES_PER_STEP * torch.arange(-shifts, shifts + 1)
        place = (mean_dbm - _FIRST_DBM) / self._node_db
        place = place.clamp(_NODES_PER_STEP * shifts, nodes - 2 - _NODES_PER_STEP * shifts)
        width = (spread_db.log() - self._log_low) / self._log_ratio
        width = width.clamp(0, classes - 1.001)
        node, row = place.detach().floor().long(), width.detach().floor().long()
        part, share = (place - node)[..., None], (width - row)[..., None]
        first = (self._of_sector[:, None] * 2 + (~hit).long()) * classes + row
        index = (first * nodes + node)[..., None] + offset
        flat = self.table.reshape(-1)
        lower = flat[index] * (1 - part) + flat[index + 1] * part
        upper = flat[index + nodes] * (1 - part) + flat[index + nodes + 1] * part
        return lower * (1 - share) + upper * share


def log_prob_over(
    likelihood: LevelLikelihood, reports: ReportBatch, maps: LevelMaps, *, exact: bool = False
) -> Tensor:
    """Log-likelihood of the levels of n reports at many places, shape (n, place).

    Places that the sectors' marginal likelihoods put 25 nats below the best keep that value;
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

    def at(self, maps: LevelMaps, *, shared: float = 1.0, exact: bool = False) -> Tensor:
        """Log-likelihood at places or along paths, shape (place,).

        Parameters
        ----------
        maps
            One row: all reports come from the same place. T rows: the place of each report
            along each path, places in different grid cells.
        shared
            Mean correlation of the shadowing between the places of a path.
        exact
            Integrate at all places, also where the marginal likelihood is 25 nats below the best.
        """
        count = len(self.reports)
        moving = count > 1 and len(maps) > 1
        common, own, rest = self.likelihood.shift_weights(shared if moving else 1.0)
        together = count > 1 and not moving
        groups = [self.reports] if together else [self.reports[t : t + 1] for t in range(count)]
        sectors = maps.rsrp_dbm.shape[1]
        tables = [
            LevelTables(self.likelihood, group, sectors, with_tail=not together) for group in groups
        ]
        noise = (maps.noise_db**2 + rest) ** 0.5 if rest else maps.noise_db
        maps = replace(maps, noise_db=noise)
        result = self._marginal(tables, maps, together=together)
        lively = torch.arange(maps.rsrp_dbm.shape[2])
        if not exact:
            lively = torch.nonzero(result.detach() > result.detach().max() - _LIVELY_NATS)[:, 0]
        shifts = (len(common) + len(own)) // 2 - 1
        parts = []
        for start in range(0, len(lively), _PLACES):
            near = maps.places(lively[start : start + _PLACES])
            each = [
                self._evidence(table, near.row(t), shifts, together=together)
                for t, table in enumerate(tables)
            ]
            evidence = torch.stack(each).sum(dim=0)
            parts.append(self.likelihood.nested(evidence, maps.site, common, own))
        result = result.index_copy(0, lively, torch.cat(parts))
        return result * float(self.likelihood.map_error.level_exponent)

    def _marginal(self, tables: list[LevelTables], maps: LevelMaps, *, together: bool) -> Tensor:
        """Sum of the sectors' marginal log-likelihoods at all places."""
        like = self.likelihood
        shared = sum(
            float((w * (like.step_db * (torch.arange(len(w)) - len(w) // 2)) ** 2).sum())
            for w in like.shift_weights()[:2]
        )
        total = torch.zeros(maps.rsrp_dbm.shape[2])
        for t, table in enumerate(tables):
            row = maps.row(t)
            mean, spread, hit = (v[0] for v in like.mean_and_spread(row))
            wide = table.smeared(shared)
            if together:  # the map's error is in no table: let the spread stand for it
                hit = torch.zeros_like(hit)
            total = total + wide.at(mean, spread, hit, 0)[..., 0].sum(dim=0)
        return total

    def _evidence(
        self, table: LevelTables, maps: LevelMaps, shifts: int, *, together: bool
    ) -> Tensor:
        """Log-likelihood of each sector at places under shifts, shape (sector, place, shift)."""
        mean, spread, hit = (v[0] for v in self.likelihood.mean_and_spread(maps))
        if not together:
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
