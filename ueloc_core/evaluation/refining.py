"""Learning when to refine, on calibration tiles."""

from collections.abc import Callable

import numpy as np
import torch
import xarray as xr

from ueloc_core.localization.calibrated import Calibration, FeatureReader
from ueloc_core.localization.network import PosteriorNetwork
from ueloc_core.localization.refinement import Fixes, Refiner
from ueloc_core.localization.samples import read_samples
from ueloc_core.localization.training import predict
from ueloc_core.localization.windows import WindowReader

Progress = Callable[[int, int, str], None]

_MOST_REPORTS = 320


@torch.no_grad()
def _fixes(
    network: PosteriorNetwork, reader: WindowReader, calibration: Calibration, reports: xr.Dataset
) -> list[Fixes]:
    samples, features = read_samples(reader, reports, None), FeatureReader(reader)
    found = []
    for part, raw, batch in predict(network, reader, samples):
        own = samples.reports[part]
        found.append((features.corrections(calibration, own, raw).of(raw), batch, own))
    return found


def fit_refinement(
    network: PosteriorNetwork,
    reader: WindowReader,
    calibration: Calibration,
    reports: xr.Dataset,
    progress: Progress | None = None,
) -> Refiner:
    """Learn the rule of MAP refinement on calibration reports.

    Parameters
    ----------
    network, reader, calibration
        The trained network, its windows, and what corrects its posteriors.
    reports
        Reports of the calibration tiles with known positions; an even choice of at most 320.
    progress
        Called with (temperatures done, temperatures, message).
    """
    count = reports.sizes["report"]
    chosen = np.unique(np.linspace(0, count - 1, min(count, _MOST_REPORTS)).astype(int))
    parts = _fixes(network, reader, calibration, reports.isel(report=chosen))
    return Refiner.fit(reader, parts, progress)
