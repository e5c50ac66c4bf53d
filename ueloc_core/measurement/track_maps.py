"""What maps say about the reports of a track along many paths to its last place.

A path is a shift in whole grid cells for every report. Of all (path, place) only those matter
that each report on its own allows: places are given up report by report, from the last one to
the first, and what remains is looked up once for each grid cell, however many paths cross it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.direction import DepartureMaps, SamePlaceDirections
from ueloc_core.measurement.level_tables import Groups, TrackLevels
from ueloc_core.measurement.levels import LevelMaps, shared_out, smoothed
from ueloc_core.measurement.model import MeasurementModel, ServingMaps, split_by_sector
from ueloc_core.measurement.place_maps import Around, PlaceMaps
from ueloc_core.measurement.timing import DelayMaps

_AT_ONCE = 1024  # grid cells: bounds the memory


@dataclass(frozen=True)
class _AtCells:
    """Reports from one place, at the grid cells that they may come from.

    `cells` rises; `of_sites` has shape (site, cell, shift), `others` (all but levels and timing)
    shape (cell,).
    """

    cells: Tensor
    of_sites: Tensor
    others: Tensor


class TrackMaps:
    """Reports of one terminal wherever paths may lead.

    Parameters
    ----------
    model, places
        The measurement model and the maps.
    reports
        T reports, in order of time.
    around
        The places of the last one.
    shift
        Columns and rows of each report's grid cell against the last one's, shape (path, T, 2).

    Attributes
    ----------
    cell
        Grid cell that a shift leads to from a place, -1 indoors, shape (shift, place).
    of
        Which shift each report of a path has, shape (path, T).
    place
        The places that are left, as positions in `around`, shape (place,).
    """

    def __init__(
        self,
        model: MeasurementModel,
        places: PlaceMaps,
        reports: ReportBatch,
        around: Around,
        shift: NDArray[np.int64],
    ) -> None:
        self.model, self.places, self.reports, self.around = model, places, reports, around
        flat = shift.reshape(-1, 2)
        shifts, of = np.unique(flat, axis=0, return_inverse=True)
        self.of = torch.from_numpy(of.reshape(shift.shape[:2]))
        self.place = torch.arange(int(around.outdoor.sum()))
        self._shifts, reach = shifts, int(np.abs(flat).max())
        self._window = around.window.buffered(reach * around.window.cell_m)
        self._outdoor = places.atlas.outdoor_in(self._window)
        self._outdoor[around.window.slices_in(self._window)] |= around.outdoor
        self._at = np.argwhere(around.outdoor) + reach
        self._levels = TrackLevels(model.levels, reports)
        self._prepared: dict[tuple[int, ...], _AtCells] = {}

    # -- places and paths -------------------------------------------------------------------

    @cached_property
    def cell(self) -> Tensor:
        """See the class; of the places that are left when it is first asked for."""
        row = self._at[self.place.numpy(), 0] + self._shifts[:, 1, None]
        column = self._at[self.place.numpy(), 1] + self._shifts[:, 0, None]
        touched = np.zeros(self._window.shape, dtype=bool)
        touched[row, column] = True
        self._outdoor &= touched
        index = np.full(self._window.shape, -1, dtype=np.int64)
        index[self._outdoor] = np.arange(self._outdoor.sum())
        return torch.from_numpy(index[row, column])

    @property
    def _still(self) -> int:
        """The shift that leads nowhere."""
        return int(np.flatnonzero((self._shifts == 0).all(axis=1))[0])

    @cached_property
    def stand_in(self) -> Tensor:
        """`cell` with the last report's place where a shift leads indoors."""
        return torch.where(self.cell < 0, self.cell[self._still], self.cell)

    def narrow(self, depth_nats: float) -> tuple[Tensor, Tensor]:
        """Give up places that a report on its own rules out.

        Places go whose last report is that much less likely than at the best place; and those
        from which no path leads to a place where an earlier report is not.

        Returns
        -------
        tuple
            How far below its best place the least fitting report is, for each place of
            `around`, at most 0; and the log-likelihood of each report on its own at the grid
            cells (minus infinity where nobody comes from), shape (T, cell).
        """
        around, last = self.around, len(self.reports) - 1
        own = self.model.log_prob(self.reports[last:], around.levels, around.serving)[0]
        worst = own - own.max()
        self.place = torch.nonzero(worst > -depth_nats)[:, 0]
        each = torch.full((last + 1, self.maps.rsrp_dbm.shape[2]), -torch.inf)
        each[last, self.cell[self._still]] = own[self.place]
        kept = torch.arange(len(self.place))
        for t in range(last - 1, -1, -1):
            reached = self.stand_in[torch.unique(self.of[:, t])][:, kept]
            there = torch.unique(reached)
            each[t, there] = self._alone(t, there)
            best = each[t][reached].amax(dim=0)
            best -= best.max()
            worst[self.place[kept]] = torch.minimum(worst[self.place[kept]], best)
            kept = kept[best > -depth_nats]
        self.place = self.place[kept]
        self.cell, self.stand_in = self.cell[:, kept], self.stand_in[:, kept]
        return worst, each

    def log_weights(self, weight: NDArray[np.float64]) -> Tensor:
        """Logarithm of the paths' probabilities at places, shape (path, place).

        Paths through buildings have none; where there are no others, all are as they would be
        in the open, with the reports that would be indoors at the last place.
        """
        inside = self.cell < 0
        through = torch.zeros(len(self.of), inside.shape[1], dtype=torch.bool)
        for shift in self.of.T:
            through |= inside[shift]
        free = torch.from_numpy(weight).to(torch.float32)[:, None].expand(through.shape)
        open_to = free.masked_fill(through, 0.0)
        total = open_to.sum(dim=0)
        found = torch.where(total > 0, open_to, free)
        return (found / found.sum(dim=0)).log()

    # -- maps -------------------------------------------------------------------------------

    @cached_property
    def maps(self) -> LevelMaps:
        """Levels at all grid cells."""
        _ = self.cell
        return self.places.levels_in(self._window, self._outdoor)

    @cached_property
    def serving(self) -> ServingMaps:
        """Maps of each report's serving sector there."""
        _ = self.cell
        sectors = self.reports.sector[:, 0].tolist()
        by_sector = {
            s: self.places.serving_in(s, self._window, self._outdoor) for s in set(sectors)
        }
        return ServingMaps.cat([by_sector[s] for s in sectors])

    @cached_property
    def _uplink_db(self) -> Tensor:
        return self.model.expected_uplink_db(self.reports, self.serving)

    def _serving_at(self, rows: slice, cells: Tensor) -> ServingMaps:
        some = self.serving.rows(rows)
        return ServingMaps(
            DelayMaps(*(v[..., cells] for v in vars(some.delays).values())),
            DepartureMaps(*(v[..., cells] for v in vars(some.departures).values())),
            some.reference_dbm,
        )

    def _alone(self, report: int, cells: Tensor) -> Tensor:
        """Log-likelihood of a report on its own at grid cells."""
        one = slice(report, report + 1)
        serving = self._serving_at(one, cells)
        return self.model.log_prob(self.reports[one], self.maps.places(cells), serving)[0]

    # -- likelihood ---------------------------------------------------------------------------

    def prepare(self, wanted: dict[tuple[int, ...], list[Tensor]], shared: Iterable[float]) -> None:
        """Look up the grid cells that the reports of a place are wanted at.

        Parameters
        ----------
        wanted
            Grid cells by the reports that come from them together.
        shared
            Mean correlations of the shadowing that will be asked for.
        """
        self._shifts_db = max(self._reach(value) for value in shared)
        for group, cells in wanted.items():
            there = torch.unique(torch.cat(cells))
            levels = [
                self._levels.of_sites(group, self.maps.places(part), self._shifts_db)
                for part in torch.split(there, _AT_ONCE)
            ]
            others = self._others(group, there)
            self._prepared[group] = _AtCells(there, torch.cat(levels, dim=1), others)

    def levels(self, groups: Groups, shared: float, cells: Tensor) -> Tensor:
        """Log-likelihood of all but the timing along paths, shape (pair,), as `TrackLevels.at`.

        Parameters
        ----------
        groups
            The reports by the places that they come from.
        shared
            Mean correlation of the shadowing, 1 for one place.
        cells
            Grid cell of each group, shape (group, pair), among those that are prepared.
        """
        likelihood = self.model.levels
        common, own, apart = likelihood.shift_weights(shared)
        cut = self._shifts_db - self._reach(shared)
        of_sites, others = torch.zeros(()), torch.zeros(())
        for group, at in zip(groups, cells, strict=True):
            known = self._prepared[group]
            position = torch.searchsorted(known.cells, at)
            there, index = torch.unique(position, return_inverse=True)
            whole = known.of_sites[:, there]
            part = whole[..., cut : whole.shape[-1] - cut]
            of_sites = of_sites + smoothed(part, apart)[:, index]
            others = others + known.others[position]
        value = shared_out(of_sites, common, own) * float(likelihood.map_error.level_exponent)
        return value + others

    def timing(self, groups: Groups, cells: Tensor) -> Tensor:
        """Log-likelihood of the timing along paths, shape (pair,).

        Parameters
        ----------
        groups
            The reports by the places that they come from.
        cells
            Grid cell of each report, shape (T, pair).
        """
        delays = DelayMaps(*(v.gather(1, cells) for v in vars(self.serving.delays).values()))
        by_sector = split_by_sector(groups, self.reports.sector[:, 0])
        return self.model.timing.track_log_prob(self.reports, delays, self._uplink_db, by_sector)

    def _reach(self, shared: float) -> int:
        """How many steps the shifts reach to either side."""
        return (sum(len(w) for w in self.model.levels.shift_weights(shared)) - 3) // 2

    def _others(self, group: tuple[int, ...], cells: Tensor) -> Tensor:
        """Log-likelihood of all but levels and timing in reports from one place, (cell,)."""
        model, some = self.model, self.reports[list(group)]
        silent = model.unreported_mw(some, self.maps.places(cells))
        value = model.quality.same_place_log_prob(some, silent) + model.constants(some).sum()
        for mine in split_by_sector((group,), self.reports.sector[:, 0]):
            rows = list(mine)
            same = SamePlaceDirections(model.direction, self.reports[rows], self._uplink_db[rows])
            here = self._serving_at(slice(rows[0], rows[0] + 1), cells)
            value = value + same.log_prob(here.departures)
        return value
