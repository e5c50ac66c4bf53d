"""Levels of several reports from one place: the map's error there is one for all of them.

Given the level that arrives, the reports are independent: each scatters by fading and accuracy.
The map's error shifts the level for all of them at once, so the product over the reports is
convolved with its distribution. The result depends on the place through three numbers: its mean
level, the noise of a report, and the width of the map's error.
"""

import math
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.bins import widened
from ueloc_core.measurement.levels import LevelLikelihood

_FIRST_DBM, _LAST_DBM = -240.0, 10.0
_NODES_PER_STEP = 5  # within a step of the shifts
_NOISES_DB = (0.3, 10.0, 16)  # smallest, largest, and how many
_ERRORS_DB = (0.0, *np.geomspace(0.5, 32.0, 13).tolist())
_LEAST = 1e-30


class SamePlaceTables:
    """Log-likelihood of every sector in the reports from one place.

    Parameters
    ----------
    likelihood
        The model of levels.
    reports
        The reports.
    sectors
        Number of sectors of the maps.
    """

    def __init__(self, likelihood: LevelLikelihood, reports: ReportBatch, sectors: int) -> None:
        self._node_db = likelihood.step_db / _NODES_PER_STEP
        self._count = len(reports)
        nodes = round((_LAST_DBM - _FIRST_DBM) / self._node_db) + 1
        mean = _FIRST_DBM + self._node_db * torch.arange(nodes, dtype=torch.float32)
        low, high, count = _NOISES_DB
        self._log_low, self._log_ratio = math.log(low), math.log(high / low) / (count - 1)
        self._noises = torch.exp(self._log_low + self._log_ratio * torch.arange(count))
        self._errors = torch.tensor(_ERRORS_DB, dtype=torch.float32)
        heard = torch.unique(reports.sector[reports.heard])
        self._of_sector = torch.zeros(sectors, dtype=torch.int64)
        self._of_sector[heard] = 1 + torch.arange(len(heard))
        self._given_level = partial(_given_level, likelihood, reports, heard, mean)
        length = nodes - nodes % _NODES_PER_STEP
        self._rows = torch.empty(1 + len(heard), 0, len(_ERRORS_DB), length)
        self._row_of_noise = torch.full((count,), -1)

    def _tabulate(self, lowest: int, highest: int) -> None:
        """Fill the tables of these noises: places ask for few of them."""
        wanted = torch.arange(lowest, highest + 1)
        wanted = wanted[self._row_of_noise[wanted] < 0]
        if not len(wanted):
            return
        self._row_of_noise[wanted] = self._rows.shape[1] + torch.arange(len(wanted))
        table = self._convolved(self._given_level(self._noises[wanted]))
        self._rows = torch.cat([self._rows, table[..., : self._rows.shape[-1]]], dim=1)

    def _convolved(self, log_prob: Tensor) -> Tensor:
        """Values of shape (set, noise, mean) under map errors, shape (set, noise, error, mean)."""
        peak = log_prob.amax(dim=-1, keepdim=True)
        reach = math.ceil(4.0 * _ERRORS_DB[-1] / self._node_db)
        padded = torch.nn.functional.pad((log_prob - peak).exp(), (reach, reach), mode="replicate")
        sigma = self._errors[:, None].double() / self._node_db
        found = widened(padded[..., None, :], sigma)
        found = found[..., reach:-reach].clamp_min(_LEAST).log() + peak[..., None, :]
        return found.to(torch.float32)

    def at(self, mean_dbm: Tensor, noise_db: Tensor, error_db: Tensor, offsets: Tensor) -> Tensor:
        """Log-likelihood of sectors at places under shifts, shape (sector, place, shift).

        Parameters
        ----------
        mean_dbm, noise_db, error_db
            Mean level, noise of a report, and width of the map's error, shape (sector, place).
        offsets
            Shifts in nodes of the tables, equally spaced, shape (shift,).
        """
        nodes = self._rows.shape[-1]
        place = (mean_dbm - _FIRST_DBM) / self._node_db
        place = place.clamp(-float(offsets[0]), nodes - 2 - float(offsets[-1]))
        node = place.detach().floor().long()
        part = (place - node)[..., None]
        width = ((noise_db.log() - self._log_low) / self._log_ratio).detach()
        row = width.clamp(0, len(self._noises) - 1.001).floor().long()
        noise_share = _share(noise_db**2, self._noises[row] ** 2, self._noises[row + 1] ** 2)
        column = (torch.bucketize(error_db.detach(), self._errors, right=True) - 1).clamp(
            0, len(self._errors) - 2
        )
        own = noise_db**2 / self._count
        error_share = _share(
            own + error_db**2, own + self._errors[column] ** 2, own + self._errors[column + 1] ** 2
        )
        self._tabulate(int(row.min()), int(row.max()) + 1)
        flat, noises = self._rows.flatten(), self._rows.shape[1]

        def read(further: int) -> Tensor:
            """Values at a noise, the map's error in between."""
            of_noise = self._of_sector[:, None] * noises + self._row_of_noise[row + further]
            first = of_noise * len(self._errors) + column
            index = (first * nodes + node)[..., None] + offsets
            low, high = (torch.lerp(flat[index + k], flat[index + k + 1], part) for k in (0, nodes))
            return torch.lerp(low, high, error_share)

        return torch.lerp(read(0), read(1), noise_share)


def _share(variance: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Where a variance lies between two; a Gaussian's logarithm is linear in its inverse."""
    share: Tensor = (1 / variance - 1 / low) / (1 / high - 1 / low)
    return share.clamp(0.0, 1.0)[..., None]


def _given_level(
    likelihood: LevelLikelihood,
    reports: ReportBatch,
    heard: Tensor,
    mean_dbm: Tensor,
    noises_db: Tensor,
) -> Tensor:
    """Log-likelihood of an unreported sector (first) and of each reported one at given levels.

    Shape (set, noise, mean), summed over the reports.
    """
    shape = (len(noises_db), len(mean_dbm))
    mean, noise = mean_dbm.expand(shape), noises_db[:, None].expand(shape)
    exact = torch.zeros(shape, dtype=torch.bool)  # no error of the map, so no tail
    ceilings = torch.stack(likelihood.ceilings(reports))
    silent = [likelihood.unreported((c[0], c[1]), mean, noise, exact) for c in ceilings.T]
    tables = [torch.stack(silent).sum(dim=0)]
    for sector in heard:
        terms = []
        for n in range(len(reports)):
            slot = torch.nonzero(reports.sector[n] == sector)[:, 0]
            code = reports.rsrp[n, slot[0]] if len(slot) else None
            terms.append(
                silent[n] if code is None else likelihood.reported(code, mean, noise, exact)
            )
        tables.append(torch.stack(terms).sum(dim=0))
    return torch.stack(tables)
