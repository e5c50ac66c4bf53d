"""Calibration of the posterior on its own tiles: temperature, covariance, conformal regions."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy.optimize import minimize

from ueloc_core.city import City
from ueloc_core.errors import ReportError
from ueloc_core.evaluation.metrics import NOMINAL_LEVELS, hpd_level
from ueloc_core.localization.localize import posterior_rasters
from ueloc_core.localization.network import PosteriorNetwork
from ueloc_core.localization.posterior import Calibration
from ueloc_core.localization.training import Samples, load_network, predict, read_samples
from ueloc_core.localization.windows import WindowReader
from ueloc_core.measurement.map_error import load_map_error
from ueloc_core.measurement.model import MeasurementModel
from ueloc_core.radio.atlas import MapAtlas

CODE_VERSION = "2"

_MAX_REPORTS = 600
_MIN_REPORTS = 40
_LEVELS = (*NOMINAL_LEVELS, 0.99)


def build_calibration(
    city: City,
    atlas: MapAtlas,
    reports: xr.Dataset,
    map_error_folder: Path,
    model_folder: Path,
    out: Path,
) -> dict[str, Any]:
    """Calibrate on the calibration tiles and write ``calibration.json``.

    Temperature and covariance scale minimise the NLL of one half of the reports; the other half
    gives the conformal levels.

    Parameters
    ----------
    city, atlas, reports
        The city, the twin's maps and the measurement set.
    map_error_folder, model_folder
        Folders of the map error and of the trained model.
    out
        Folder to write to.
    """
    model = MeasurementModel(city.measurements, city.radio, load_map_error(map_error_folder))
    reader = WindowReader(atlas, model)
    network = load_network(model_folder)
    samples = read_samples(reader, reports, "calibration")
    rng = np.random.default_rng([city.seed, 8])
    order = rng.permutation(len(samples))[:_MAX_REPORTS]
    if len(order) < _MIN_REPORTS:
        raise ReportError(
            f"{len(order)} calibration reports are too few",
            where=f"{city.name}: splits.calibration",
            remedy=f"Name tiles whose sectors serve at least {_MIN_REPORTS} terminals.",
        )
    fitting, conformal = (_take(samples, np.sort(half)) for half in np.array_split(order, 2))
    fitted, before, after = fit_scales(network, reader, fitting)
    raw = hpd_levels(network, reader, conformal, fitted, rng)
    calibration = Calibration(
        fitted.temperature, fitted.covariance_scale, _LEVELS, conformal_levels(raw, _LEVELS)
    )
    calibration.save(out / "calibration.json")
    return {
        "reports": len(order),
        "temperature": calibration.temperature,
        "covariance_scale": calibration.covariance_scale,
        "nll_nats_before": before,
        "nll_nats_after": after,
        "raw_coverage_90": float((raw <= 0.9).mean()),
        "region_level_90": float(calibration.region_level(0.9)),
    }


def fit_scales(
    network: PosteriorNetwork, reader: WindowReader, samples: Samples
) -> tuple[Calibration, float, float]:
    """Temperature and covariance scale of least NLL, and the NLL before and after [nats]."""
    parts = [
        (posterior, batch.truth_m) for _, posterior, batch in predict(network, reader, samples)
    ]

    def nll(logarithms: NDArray[np.float64]) -> float:
        temperature, scale = np.exp(logarithms)
        calibration = Calibration(float(temperature), float(scale))
        with torch.no_grad():
            total = sum(
                float(p.calibrated(calibration).log_density(truth).double().sum())
                for p, truth in parts
            )
        return -total / len(samples)

    corners = np.array([[0.0, 0.0], [0.3, 0.0], [0.0, 0.5]])
    found = minimize(
        nll,
        corners[0],
        method="Nelder-Mead",
        options={"maxiter": 40, "xatol": 0.01, "fatol": 1e-3, "initial_simplex": corners},
    )
    temperature, scale = np.exp(found.x)
    return Calibration(float(temperature), float(scale)), nll(np.zeros(2)), float(found.fun)


def hpd_levels(
    network: PosteriorNetwork,
    reader: WindowReader,
    samples: Samples,
    calibration: Calibration,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Posterior mass that is denser than each true position, ranks randomised, shape (n,)."""
    levels = np.zeros(len(samples))
    half_m = reader.cells * reader.cell_m / 2
    for part, posterior, _ in predict(network, reader, samples):
        masses, _ = posterior_rasters(posterior, calibration)
        cell = np.floor((samples.truth_m[part] + half_m) / reader.cell_m).astype(int)
        levels[part] = hpd_level(masses, cell[:, 1], cell[:, 0], rng.uniform(size=len(cell)))
    return levels


def conformal_levels(raw: NDArray[np.float64], levels: tuple[float, ...]) -> tuple[float, ...]:
    """Posterior mass whose region holds the truth with at least each nominal probability.

    Split conformal: the ceil((n + 1) q)-th smallest level of n held-back reports.
    """
    ordered = np.sort(raw)
    ranks = [min(math.ceil((len(raw) + 1) * level), len(raw)) for level in levels]
    return tuple(float(np.clip(ordered[rank - 1], 1e-6, 1 - 1e-6)) for rank in ranks)


def _take(samples: Samples, chosen: NDArray[np.int64]) -> Samples:
    return Samples(samples.reports[torch.from_numpy(chosen)], samples.truth_m[chosen])
