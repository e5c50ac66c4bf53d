"""MAP refinement: the network's posterior joined with the likelihood of the radio maps.

``J(y) = log p_network(y) + tau (log p(levels | maps at y) + evidence(y))``: the levels' likelihood
of all sectors by bilinear lookup of the twin's maps, and the raster of timing, angle and beams.
The network has seen the same report, so the likelihood counts tempered (tau), and it counts only
where the network is unsure: `RefinementRule` holds what decides, learned on calibration tiles
(`refinement_rule`). A point is moved where the posterior is wide and J gains enough, and each
fix says whether it was.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ueloc_core.grid import Window
from ueloc_core.localization.physics import bilinear
from ueloc_core.localization.posterior import Posterior
from ueloc_core.localization.rasters import evidence_raster
from ueloc_core.localization.refinement_rule import (
    TEMPERATURES,
    WIDEST_SHARE,
    RefinedFixes,
    RefinementRule,
    RefinementTrial,
    fit_rule,
)
from ueloc_core.localization.windows import WindowBatch, WindowReader
from ueloc_core.measurement.accuracy import fading_db
from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.levels import LevelLikelihood, LevelMaps
from ueloc_core.measurement.place_maps import PlaceMaps

Objective = Callable[[Tensor], Tensor]
Progress = Callable[[int, int, str], None]
Fixes = tuple[Posterior, WindowBatch, ReportBatch]
"""Calibrated posteriors, their windows and their reports, n of each in one order."""

_STARTS = 3  # components whose means the ascent starts from, beside the point itself
_STEPS = 24
_FIRST_STEP_M, _LAST_STEP_M = 6.0, 0.3
_REPORTS_AT_ONCE = 16  # bounds the memory
_SHIFT_STEP_DB = 2.0  # of the levels' shared errors: an ascent needs no finer one
_SILENT_DB = 25.0  # a sector mapped this far below what is reported says nothing by its silence


class LevelLookup:
    """Bilinear lookup of all sectors' maps, each in its own window.

    A value is the mean of the known ones among the four nearest pixel centres by their bilinear
    weights; it is unknown where that of the grid cell itself is, so a wall beside a street
    does not silence the street.

    Parameters
    ----------
    places
        The twin's radio maps.
    """

    def __init__(self, places: PlaceMaps) -> None:
        atlas = places.atlas
        self.site = places.site
        layers = (atlas.rsrp_dbm, atlas.rsrp_se_db, places.noise_db)
        self._layers = tuple(torch.from_numpy(layer) for layer in layers)
        self._corner = torch.tensor([[w.column, w.row] for w in atlas.windows])
        own_db = places.settings.terminal.level_sigma_db
        faded_db = fading_db(
            np.array(np.nan),
            np.array(0.0),
            places.settings.fading,
            atlas.city.radio.numerology,
        )
        self._unknown_noise_db = float(np.hypot(own_db, faded_db))

    def at(self, frames: list[Window], points_m: Tensor, sectors: Tensor) -> LevelMaps:
        """Maps at points of n reports, differentiable in the points.

        Parameters
        ----------
        frames
            Window of each report.
        points_m
            Positions [m] from the windows' centres, shape (n, place, 2).
        sectors
            Positions of the sectors in the atlas, which the maps will have in this order.
        """
        corner = torch.tensor([[f.column, f.row] for f in frames])
        half = torch.tensor([[f.columns, f.rows] for f in frames])[:, None] / 2
        place = points_m / frames[0].cell_m + half  # in grid cells from the frames' corners
        shift = corner[:, None] - self._corner[sectors]  # (n, sector, 2)
        own = place.detach().floor().long()
        first = (place.detach() - 0.5).floor().long()
        part = place - 0.5 - first
        known = [~v.isnan() for v in self._cells(own, shift, sectors)]
        total = [torch.zeros((), dtype=points_m.dtype)] * len(self._layers)
        weight = list(total)
        for dx in (0, 1):
            for dy in (0, 1):
                share = part[..., 0] if dx else 1 - part[..., 0]
                share = share * (part[..., 1] if dy else 1 - part[..., 1])
                found = self._cells(first + torch.tensor([dx, dy]), shift, sectors)
                for k, value in enumerate(found):
                    there = ~value.isnan()
                    total[k] = total[k] + share[:, None] * value.nan_to_num(0.0)
                    weight[k] = weight[k] + share[:, None] * there
        rsrp, error, noise = (
            torch.where(k, t / torch.where(k, w, 1.0), torch.nan)
            for k, t, w in zip(known, total, weight, strict=True)
        )
        _, site = torch.unique(self.site[sectors], return_inverse=True)
        return LevelMaps(rsrp, error, noise.nan_to_num(self._unknown_noise_db), site)

    def _cells(self, cell: Tensor, shift: Tensor, sectors: Tensor) -> list[Tensor]:
        """Values of grid cells (n, place, 2) of the frames, shape (n, sector, place)."""
        at = cell[:, None] + shift[:, :, None]
        rows, columns = self._layers[0].shape[-2:]
        column, row = at[..., 0], at[..., 1]
        inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
        column, row = column.clamp(0, columns - 1), row.clamp(0, rows - 1)
        return [
            torch.where(inside, layer[sectors[:, None], row, column].float(), torch.nan)
            for layer in self._layers
        ]


class Refiner:
    """Moves points of unsure posteriors to where report, maps and posterior agree best.

    Parameters
    ----------
    reader
        The maps and the measurement model, those that the windows were read with.
    rule
        When to act, as `fit` learns it.
    """

    def __init__(self, reader: WindowReader, rule: RefinementRule) -> None:
        self.reader, self.rule = reader, rule
        self._lookup = LevelLookup(reader.places)
        model = reader.model
        self._levels = LevelLikelihood(model.settings, model.map_error, _SHIFT_STEP_DB)

    @classmethod
    def fit(
        cls, reader: WindowReader, parts: Sequence[Fixes], progress: Progress | None = None
    ) -> "Refiner":
        """Learn the rule on reports of the calibration tiles (`refinement_rule.fit_rule`).

        Parameters
        ----------
        reader
            What the windows were read with.
        parts
            Batches of some hundred calibrated posteriors, their windows with known positions,
            and their reports; one report a track, for the rule's confidence counts them as
            independent.
        progress
            Called with (temperatures done, temperatures, message).

        Raises
        ------
        ReportError
            If there are no reports, or positions are unknown.
        """
        tried = cls(reader, RefinementRule.never())
        points = [posterior.point_and_spread() for posterior, _, _ in parts]
        truth_m = torch.cat([torch.zeros(0, 2), *(batch.truth_m for _, batch, _ in parts)])
        spread_m = torch.cat([torch.zeros(0), *(spread for _, spread in points)])
        floor_m = float(np.quantile(spread_m.numpy(), 1 - WIDEST_SHARE)) if len(spread_m) else 0.0
        trials = []
        for k, temperature in enumerate(TEMPERATURES):
            found = [
                tried._search(fixes, known, temperature, floor_m)
                for fixes, known in zip(parts, points, strict=True)
            ]
            whole = RefinedFixes.cat(found) if found else RefinedFixes.unmoved(truth_m, spread_m)
            trials.append(RefinementTrial(temperature, whole, truth_m))
            if progress is not None:
                progress(k + 1, len(TEMPERATURES), f"refinement at temperature {temperature:g}")
        return cls(reader, fit_rule(trials))

    def refine(
        self, posterior: Posterior, batch: WindowBatch, reports: ReportBatch
    ) -> RefinedFixes:
        """Points of calibrated posteriors, moved where the rule says so.

        Parameters
        ----------
        posterior, batch, reports
            n of each, in the same order; on the CPU.
        """
        known = posterior.point_and_spread()
        rule = self.rule
        if not rule.acts:
            return RefinedFixes.unmoved(*known)
        fixes = (posterior, batch, reports)
        found = self._search(fixes, known, rule.temperature, rule.spread_m)
        return found.under(rule)

    def objective(self, fixes: Fixes, temperature: float, near_m: Tensor) -> Objective:
        """J at points [m] in the windows' frames: from (n, place, 2) to (n, place), in nats.

        Of the unreported sectors those count that maps put within 25 dB of being reported at one
        of the points `near_m`, shape (n, place, 2), at least.
        """
        posterior, batch, reports = fixes
        frames = [self.reader.frames[int(s)] for s in reports.sector[:, 0]]
        sectors = self._audible(reports, frames, near_m)
        index = torch.full((len(self._lookup.site) + 1,), -1)
        index[sectors] = torch.arange(len(sectors))
        renamed = replace(reports, sector=index[reports.sector])  # -1 stays: it is the last one

        evidence = evidence_raster(batch)[:, None]

        def joint(points_m: Tensor) -> Tensor:
            places = range(points_m.shape[1])
            prior = torch.stack([posterior.log_density(points_m[:, k]) for k in places], dim=1)
            if temperature == 0:
                return prior
            likelihood = self._levels.direct(renamed, self._lookup.at(frames, points_m, sectors))
            told = bilinear(evidence, points_m, posterior.cell_m)[:, 0]
            return prior + temperature * (likelihood + told)

        return joint

    def _audible(self, reports: ReportBatch, frames: list[Window], near_m: Tensor) -> Tensor:
        everyone = torch.arange(len(self._lookup.site))
        mapped = self._lookup.at(frames, near_m.detach(), everyone).rsrp_dbm
        ceiling, _ = self._levels.ceilings(reports)
        loud = (mapped > ceiling[:, None, None] - _SILENT_DB).any(dim=2).any(dim=0)
        loud[reports.sector[reports.heard]] = True
        return torch.nonzero(loud)[:, 0]

    def _search(
        self, fixes: Fixes, known: tuple[Tensor, Tensor], temperature: float, floor_m: float
    ) -> RefinedFixes:
        """The best place of each report whose spread is at least `floor_m`, taken for granted."""
        posterior, batch, reports = fixes
        point, spread = known
        best, gain = point.clone(), torch.zeros(len(point))
        wide = torch.nonzero(spread >= floor_m)[:, 0]
        wide = wide[reports.sector[wide, 0].argsort(stable=True)]  # neighbours share sectors
        limit_m = posterior.cell_m * posterior.outdoor.shape[-1] / 2 - 1e-3
        for chosen in torch.split(wide, _REPORTS_AT_ONCE):
            if not len(chosen):
                continue  # no posterior of the batch is wide enough
            of = _rows(posterior, chosen)
            heaviest = of.weights.topk(min(_STARTS, of.top.shape[1]), dim=1).indices
            means = of.mean_m.gather(1, heaviest[..., None].expand(-1, -1, 2))
            starts = torch.cat([point[chosen, None], means], dim=1)
            part = (of, batch[chosen], reports[chosen])
            joint = self.objective(part, temperature, starts)
            place, value = ascend(joint, starts, limit_m)
            with torch.no_grad():
                before = joint(point[chosen, None])[:, 0]
            best[chosen], gain[chosen] = place, (value - before).to(gain.dtype)
        zero = torch.zeros(len(point))
        return RefinedFixes(best, point, gain > 0, zero, gain, spread).where(gain > 0)


def ascend(
    objective: Objective, start_m: Tensor, limit_m: float, steps: int = _STEPS
) -> tuple[Tensor, Tensor]:
    """The best place that gradient ascent sees from several starts.

    Adam, whose step is a length whatever the scale of the objective: from 6 m down to 0.3 m. The
    best place on the way counts, so that it is never worse than its start.

    Parameters
    ----------
    objective
        From points (n, place, 2) to values (n, place), each a function of its own point.
    start_m
        Starts [m], shape (n, start, 2).
    limit_m
        Coordinates stay within it [m].
    steps
        How many.

    Returns
    -------
    tuple
        Place [m] and value of each report's best, shapes (n, 2) and (n,).
    """
    point = start_m.detach().clone().clamp(-limit_m, limit_m).requires_grad_()
    optimiser = torch.optim.Adam([point], lr=_FIRST_STEP_M, betas=(0.7, 0.95))
    shrink = (_LAST_STEP_M / _FIRST_STEP_M) ** (1 / max(steps - 1, 1))
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, shrink)
    best = point.detach().clone()
    highest = torch.full(point.shape[:2], -torch.inf, dtype=point.dtype)
    for step in range(steps + 1):
        value = objective(point)
        with torch.no_grad():
            better = value > highest
            highest = torch.where(better, value, highest)
            best = torch.where(better[..., None], point, best)
        if step == steps:
            break
        optimiser.zero_grad()
        (-value.sum()).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            point.clamp_(-limit_m, limit_m)
    winner = highest.argmax(dim=1)
    rows = torch.arange(len(winner))
    return best[rows, winner], highest[rows, winner].detach()


def _rows(batch: Any, chosen: Tensor) -> Any:
    """Some reports of a dataclass of tensors; what is no tensor is kept."""
    values = {
        name: value[chosen] if isinstance(value, Tensor) else value
        for name, value in vars(batch).items()
    }
    return type(batch)(**values)
