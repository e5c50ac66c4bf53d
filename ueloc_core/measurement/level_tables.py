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
    LevelLikelihood,
    LevelMaps,
    by_site,
    shared_out,
    smoothed,
)
from ueloc_core.measurement.same_place import SamePlaceTables

_FIRST_DBM, _LAST_DBM = -240.0, 10.0
_NODES_PER_STEP = 5  # within a step of the shifts
_SPREADS_DB = (0.3, 40.0, 30)  # smallest, largest, and how many
_LIVELY_NATS = 18.0
_PLACES = 2048  # at once: bounds the memory
_COARSE_SIGMAS = (-2.4, -1.2, 0.0, 1.2, 2.4)

Groups = tuple[tuple[int, ...], ...]
"""The reports of a track by the places that they come from: positions of each place's reports."""


def default_groups(reports: int, places: int) -> Groups:
    """All reports from one place, or each from its own."""
    everyone = tuple(range(reports))
    return (everyone,) if places == 1 else tuple((t,) for t in everyone)


class LevelTables:
    """Log-likelihood of every sector in one report, by the mean and spread of its level.

    Parameters
    ----------
    likelihood
        The model of levels.
    report
        One report.
    sectors
        Number of sectors of the maps.
    """

    def __init__(self, likelihood: LevelLikelihood, report: ReportBatch, sectors: int) -> None:
        self.step_db = likelihood.step_db
        self._node_db = likelihood.step_db / _NODES_PER_STEP
        low, high, count = _SPREADS_DB
        self._log_low, self._log_ratio = math.log(low), math.log(high / low) / (count - 1)
        nodes = _FIRST_DBM + self._node_db * torch.arange(
            round((_LAST_DBM - _FIRST_DBM) / self._node_db) + 1, dtype=torch.float32
        )
        spreads = torch.exp(self._log_low + self._log_ratio * torch.arange(count))
        mean, spread = torch.meshgrid(nodes, spreads, indexing="xy")
        hit = torch.tensor([True, False])[:, None, None].expand(2, *mean.shape)
        grid = (mean.expand(2, -1, -1), spread.expand(2, -1, -1), hit)
        heard = report.sector[report.heard]
        self.table = self._fill(likelihood, report, grid)
        self._of_sector = torch.zeros(sectors, dtype=torch.int64)
        self._of_sector[heard] = 1 + torch.arange(len(heard))

    @staticmethod
    def _fill(
        likelihood: LevelLikelihood, report: ReportBatch, grid: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        """Tables of an unreported sector (first) and of each reported one."""
        weak, lost = likelihood.ceilings(report)
        tables = [likelihood.unreported((weak, lost), *grid)]
        tables += [likelihood.reported(code, *grid) for code in report.rsrp[report.heard]]
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
        part = (place - node)[..., None]
        # a Gaussian's logarithm is linear in the inverse of its variance
        low, high = (torch.exp(-2 * (self._log_low + self._log_ratio * (row + k))) for k in (0, 1))
        share = ((spread_db**-2 - low) / (high - low)).clamp(0, 1)[..., None]
        first = (self._of_sector[:, None] * 2 + (~hit).long()) * classes + row
        # shifts are whole steps, so that in this order each look-up is one run of numbers
        steps = self.table.flatten(0, 2)[:, : nodes - nodes % _NODES_PER_STEP]
        steps = steps.reshape(len(steps), -1, _NODES_PER_STEP).transpose(1, 2).contiguous()
        runs = steps.unfold(2, 2 * shifts + 1, 1)

        def read(of_row: Tensor, of_node: Tensor) -> Tensor:
            start = of_node // _NODES_PER_STEP - shifts
            return runs[of_row, of_node % _NODES_PER_STEP, start]

        lower = torch.lerp(read(first, node), read(first, node + 1), part)
        upper = torch.lerp(read(first + 1, node), read(first + 1, node + 1), part)
        return torch.lerp(lower, upper, share)

    def nearest(self, mean_dbm: Tensor, spread_db: Tensor, hit: Tensor, offsets: Tensor) -> Tensor:
        """The sum over all sectors from the nearest entries, at shifts in nodes, (place, shift).

        A sector that looks the same at all places, as one out of reach does, is looked up once.

        Parameters
        ----------
        mean_dbm, spread_db, hit
            Shape (sector, place), as of `LevelLikelihood.mean_and_spread`.
        offsets
            Shifts in nodes of the table, rising, shape (shift,).
        """
        _, _, classes, nodes = self.table.shape
        table, offsets = self.table.flatten(), offsets.int()
        total = table.new_zeros(mean_dbm.shape[1], len(offsets))
        even = [all(same) for same in zip(*map(_is_even, (mean_dbm, spread_db, hit)), strict=True)]
        for sector, of_sector in enumerate(self._of_sector.tolist()):
            places = slice(1) if even[sector] else slice(None)
            node = ((mean_dbm[sector, places] - _FIRST_DBM) / self._node_db).round_()
            node = node.clamp_(-float(offsets[0]), nodes - 1 - float(offsets[-1]))
            width = (spread_db[sector, places].log() - self._log_low) / self._log_ratio
            width = width.round_().clamp_(0, classes - 1)
            block = of_sector * 2 + (~hit[sector, places]).int()
            index = (block * classes + width.int()) * nodes + node.int()
            found = table.index_select(0, (index[:, None] + offsets).flatten())
            total += found.reshape(-1, len(offsets))
        return total


def _is_even(values: Tensor) -> list[bool]:
    """Whether each sector's values (sector, place) are the same at all places."""
    return (values == values[:, :1]).all(dim=1).tolist()


def log_prob_over(
    likelihood: LevelLikelihood, reports: ReportBatch, maps: LevelMaps, *, exact: bool = False
) -> Tensor:
    """Log-likelihood of the levels of n reports at many places, shape (n, place).

    Places that a coarse likelihood puts 18 nats below the best keep that value, moved so that it
    agrees at the best; all others get the likelihood in which the shared errors are integrated
    out.

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
        self._single: dict[tuple[int, ...], LevelTables] = {}
        self._wide: dict[tuple[int, ...], LevelTables] = {}
        self._several: dict[tuple[int, ...], SamePlaceTables] = {}

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
            Integrate at all places, also where a coarse likelihood is 18 nats below the best.
        groups
            Which reports come from one place. By default all of them where the maps have one
            row, each on its own where they have T.
        """
        groups = default_groups(len(self.reports), len(maps)) if groups is None else groups
        common, own, apart = self.likelihood.shift_weights(shared if len(groups) > 1 else 1.0)
        lively = torch.arange(maps.rsrp_dbm.shape[2])
        coarse = None if exact else self._coarse(groups, maps, (common, own, apart))
        if coarse is not None:
            best = int(coarse.detach().argmax())
            lively = torch.nonzero(coarse.detach() > coarse.detach()[best] - _LIVELY_NATS)[:, 0]
        shifts = (len(common) + len(own) + len(apart) - 3) // 2
        parts = []
        for start in range(0, len(lively), _PLACES):
            near = maps.places(lively[start : start + _PLACES])
            each = [
                smoothed(self.of_sites(group, near.row(k), shifts), apart)
                for k, group in enumerate(groups)
            ]
            parts.append(shared_out(functools.reduce(torch.add, each), common, own))
        result = torch.cat(parts)
        if coarse is not None:
            moved = coarse + (result.detach().amax() - coarse.detach()[best])
            result = moved.index_copy(0, lively, result)
        return result * float(self.likelihood.map_error.level_exponent)

    def of_sites(self, group: tuple[int, ...], maps: LevelMaps, shifts: int) -> Tensor:
        """Log-likelihood of each site in the reports of one place, shape (site, place, shift).

        Parameters
        ----------
        group
            Positions of the reports.
        maps
            One row: the places that they may come from.
        shifts
            How many steps the shifts reach to either side.
        """
        return by_site(self._evidence(group, maps, shifts), maps.site)

    def _coarse(
        self, groups: Groups, maps: LevelMaps, weights: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        """The likelihood at all places as if each sector had a site of its own.

        A few shifts stand for what all sectors share.
        """
        like, sectors = self.likelihood, maps.rsrp_dbm.shape[1]
        common, own, apart = (like.variance_of(w) for w in weights)
        node_db = like.step_db / _NODES_PER_STEP
        shift = torch.tensor(_COARSE_SIGMAS) * math.sqrt(common)
        offsets = (shift / node_db).round().long()
        prior = torch.log_softmax(-0.5 * torch.tensor(_COARSE_SIGMAS) ** 2, dim=0)
        if not offsets.any():  # nothing is shared
            offsets, prior = offsets[:1], torch.zeros(1)
        total = prior.expand(maps.rsrp_dbm.shape[2], -1)
        for k, group in enumerate(groups):
            row = maps.row(k)
            mean, spread, hit = (v[0] for v in like.mean_and_spread(row))
            if len(group) > 1:
                value = self._same_place(group, row, offsets, own + apart).sum(dim=0)
            else:
                if group not in self._wide:
                    self._wide[group] = self._of_one(group, sectors).smeared(own + apart)
                value = self._wide[group].nearest(mean, spread, hit, offsets)
            total = total + value
        return total.logsumexp(dim=-1)

    def _of_one(self, group: tuple[int, ...], sectors: int) -> LevelTables:
        if group not in self._single:
            report = self.reports[list(group)]
            self._single[group] = LevelTables(self.likelihood, report, sectors)
        return self._single[group]

    def _evidence(self, group: tuple[int, ...], maps: LevelMaps, shifts: int) -> Tensor:
        """Log-likelihood of each sector at places under shifts, shape (sector, place, shift)."""
        if len(group) > 1:
            offsets = _NODES_PER_STEP * torch.arange(-shifts, shifts + 1)
            return self._same_place(group, maps, offsets, 0.0)
        mean, spread, hit = (v[0] for v in self.likelihood.mean_and_spread(maps))
        return self._of_one(group, len(mean)).at(mean, spread, hit, shifts)

    def _same_place(
        self, group: tuple[int, ...], maps: LevelMaps, offsets: Tensor, variance: float
    ) -> Tensor:
        """The same for reports from one place, the map's error there integrated out.

        `offsets` are the shifts in nodes of the tables, `variance` is that of a further error of
        each sector.
        """
        like, error = self.likelihood, self.likelihood.map_error
        mean, spread, hit = (v[0] for v in like.mean_and_spread(maps))
        noise, core = maps.noise_db[0], (like.core_db(maps)[0] ** 2 + variance) ** 0.5
        if group not in self._several:
            reports = self.reports[list(group)]
            self._several[group] = SamePlaceTables(like, reports, len(mean))
        tables = self._several[group]
        in_core = tables.at(mean, noise, core, offsets)
        if like.has_no_tail:
            return in_core
        level = mean[..., None] + like.step_db / _NODES_PER_STEP * offsets
        share = like.tail_share(level, spread[..., None])
        share = torch.where(hit[..., None], share, 0.0).clamp(1e-30, 1 - 1e-6)
        wide = (core**2 + error.tail_db**2) ** 0.5
        in_tail = tables.at(mean + error.tail_bias_db, noise, wide, offsets)
        return torch.logaddexp(in_core + torch.log1p(-share), in_tail + share.log())
