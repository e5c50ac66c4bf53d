"""Learning when to refine, on calibration tiles: of one city, or of several together."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import xarray as xr

from ueloc_core.localization.calibrated import Calibration, corrections
from ueloc_core.localization.network import PosteriorNetwork
from ueloc_core.localization.refinement import Fixes, Refiner
from ueloc_core.localization.refinement_rule import (
    TEMPERATURES,
    WIDEST_SHARE,
    RefinedFixes,
    RefinementRule,
    RefinementTrial,
    fit_rule,
)
from ueloc_core.localization.samples import read_samples
from ueloc_core.localization.training import predict
from ueloc_core.localization.windows import WindowReader

Progress = Callable[[int, int, str], None]
Known = tuple[WindowReader, xr.Dataset]
"""Reports with known positions, and what cuts their windows out of their city's maps."""

_MOST_REPORTS = 320


@torch.no_grad()
def _fixes(
    network: PosteriorNetwork, reader: WindowReader, calibration: Calibration, reports: xr.Dataset
) -> list[Fixes]:
    samples = read_samples(reader, reports, None)
    found = []
    for part, raw, batch in predict(network, reader, samples):
        calibrated = corrections(calibration, batch, raw).of(raw)
        found.append((calibrated, batch, samples.reports[part]))
    return found


def fit_refinement(
    network: PosteriorNetwork,
    known: Sequence[Known],
    calibration: Calibration,
    progress: Progress | None = None,
) -> RefinementRule:
    """Learn the rule of MAP refinement on calibration reports.

    Parameters
    ----------
    network, calibration
        The trained network, and what corrects its posteriors.
    known
        Reports of the calibration tiles, by city; an even choice of at most 320 of all.
    progress
        Called with (temperatures done, temperatures, message).
    """
    last = np.cumsum([reports.sizes["report"] for _, reports in known])
    count = int(last[-1])
    chosen = np.unique(np.linspace(0, count - 1, min(count, _MOST_REPORTS)).astype(int))
    parts: list[tuple[WindowReader, list[Fixes]]] = []
    for (reader, reports), end in zip(known, last, strict=True):
        first = int(end) - reports.sizes["report"]
        own = chosen[(chosen >= first) & (chosen < end)] - first
        if len(own):
            fixes = _fixes(network, reader, calibration, reports.isel(report=own))
            parts.append((reader, fixes))
    if len(parts) == 1:
        return Refiner.fit(*parts[0], progress).rule
    return fit_together(parts, progress)


def fit_together(
    parts: Sequence[tuple[WindowReader, Sequence[Fixes]]], progress: Progress | None = None
) -> RefinementRule:
    """The rule that `Refiner.fit` learns, on fixes of several cities.

    Parameters
    ----------
    parts
        Of each city what its windows were read with, and its fixes.
    progress
        Called with (temperatures done, temperatures, message).
    """
    fixes = [(reader, one) for reader, own in parts for one in own]
    truth_m = torch.cat([batch.truth_m for _, (_, batch, _) in fixes])
    spread_m = torch.cat([posterior.point_and_spread()[1] for _, (posterior, _, _) in fixes])
    floor_m = float(np.quantile(spread_m.numpy(), 1 - WIDEST_SHARE))
    trials = []
    for k, temperature in enumerate(TEMPERATURES):
        always = RefinementRule(True, temperature, floor_m, gain_nats=0.0, note="a trial")
        found = [Refiner(reader, always).refine(*one) for reader, one in fixes]
        trials.append(RefinementTrial(temperature, RefinedFixes.cat(found), truth_m))
        if progress is not None:
            progress(k + 1, len(TEMPERATURES), f"refinement at temperature {temperature:g}")
    return fit_rule(trials)
