"""The learned methods of an evaluation: the network, its refinement, and a heatmap rival."""

import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ueloc_core.evaluation.cases import Cases, Density, fix_row
from ueloc_core.grid import Window
from ueloc_core.localization.calibrated import Calibration, read_features
from ueloc_core.localization.localize import posterior_rasters
from ueloc_core.localization.locunet import LocUNet
from ueloc_core.localization.refinement import Refiner
from ueloc_core.localization.samples import Samples
from ueloc_core.localization.training import load_network, predict
from ueloc_core.localization.windows import WindowReader

Examples = dict[int, tuple[Any, float]]


def samples_of(reader: WindowReader, cases: Cases) -> Samples:
    """Cases as samples, in their order."""
    place = np.array([case.truth_m for case in cases.cases])
    serving = cases.batch.sector[:, 0].numpy()
    return Samples(cases.batch, reader.frame_positions(serving, place[:, 0], place[:, 1]))


def network_rows(
    reader: WindowReader,
    cases: Cases,
    model_folder: Path,
    calibration: Calibration,
    refiner: Refiner,
    wanted: Collection[int] = (),
) -> tuple[list[dict[str, Any]], Examples]:
    """Fixes of the network, plain and refined, and the posteriors of the wanted cases.

    The refined fix has another point and the same posterior.

    Parameters
    ----------
    reader, cases
        What to locate.
    model_folder
        Folder of the trained network.
    calibration, refiner
        Learned on calibration tiles.
    wanted
        Positions of cases whose masses are kept.

    Returns
    -------
    tuple
        Rows of ``network`` and ``network_refined``; masses and mass of the 90% region by case.
    """
    network = load_network(model_folder)
    samples = samples_of(reader, cases)
    rows: list[dict[str, Any]] = []
    refined: list[dict[str, Any]] = []
    examples: Examples = {}
    started = time.perf_counter()
    for part, posterior, inputs in predict(network, reader, samples):
        correction = calibration.of(read_features(inputs, posterior))
        calibrated = correction.of(posterior)
        masses, _ = posterior_rasters(posterior, correction)
        own = cases.cases[part]
        offset_m, _ = calibrated.point_and_spread()
        centre_m = np.array([case.frame.centre_m for case in own])
        points = [(float(x), float(y)) for x, y in centre_m + offset_m.numpy()]
        elapsed_ms = 1e3 * (time.perf_counter() - started) / len(own)
        log_density = calibrated.log_density(inputs.truth_m)
        mass90 = correction.region_level(0.9)
        moved = refiner.refine(calibrated, inputs, samples.reports[part])
        for k, case in enumerate(own):
            density = Density(case.frame, masses[k], -float(log_density[k]), float(mass90[k]))
            one = correction[k : k + 1]

            def nominal(mass: float, one: Any = one) -> float:
                return float(one.nominal_level(mass)[0])

            row = fix_row(
                "network",
                case,
                points[k],
                density,
                latency_ms=elapsed_ms,
                nominal_level=nominal,
            )
            rows.append(row)
            refined.append(_moved(row, case.frame, moved.point_m[k], bool(moved.acted[k])))
            if part.start + k in wanted:
                examples[part.start + k] = masses[k], float(mass90[k])
        started = time.perf_counter()
    return rows + refined, examples


def _moved(
    row: dict[str, Any], frame: Window, point_m: torch.Tensor, acted: bool
) -> dict[str, Any]:
    """The row of the refined fix: the posterior's, at another point where it was moved."""
    row = {**row, "method": "network_refined", "latency_ms": np.nan, "refined": acted}
    if not acted:
        return row
    x0, y0 = frame.centre_m
    x_m, y_m = x0 + float(point_m[0]), y0 + float(point_m[1])
    error_m = float(np.hypot(x_m - row["truth_x_m"], y_m - row["truth_y_m"]))
    return {**row, "x_m": x_m, "y_m": y_m, "error_m": error_m}


@torch.no_grad()
def locunet_rows(reader: WindowReader, cases: Cases, network: LocUNet) -> list[dict[str, Any]]:
    """Fixes of the heatmap network: points alone."""
    rows, samples = [], samples_of(reader, cases)
    for start in range(0, len(samples), 16):
        part = slice(start, start + 16)
        batch = reader.read(samples.reports[part], samples.truth_m[part])
        for case, point in zip(cases.cases[part], network.locate(batch), strict=True):
            x0, y0 = case.frame.centre_m
            rows.append(fix_row("locunet_like", case, (x0 + float(point[0]), y0 + float(point[1]))))
    return rows
