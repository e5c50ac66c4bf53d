"""Calibration of the posterior on its own tiles: temperature, covariance, conformal regions.

The tiles may be those of several cities, whose reports then count together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from ueloc_core.city import City
from ueloc_core.errors import ReportError
from ueloc_core.evaluation.cases import cases_of
from ueloc_core.evaluation.conformal import FOLDS, conform, folds_by_track, levels_by_others, pays
from ueloc_core.evaluation.diagnostics import (
    NOMINAL_LEVELS,
    calibration_error,
    diagnose_coverage,
)
from ueloc_core.evaluation.figures_of_merit import Coverage
from ueloc_core.evaluation.ranks import hpd_level
from ueloc_core.evaluation.refining import Known, fit_refinement
from ueloc_core.evaluation.strata import STRATA, intervals_by_stratum
from ueloc_core.evaluation.track_cases import fit_tracks
from ueloc_core.localization.calibrated import FEATURES, Calibration, read_features
from ueloc_core.localization.localize import posterior_rasters
from ueloc_core.localization.network import PosteriorNetwork
from ueloc_core.localization.posterior import Posterior
from ueloc_core.localization.training import load_network, predict, read_samples
from ueloc_core.localization.windows import WindowReader
from ueloc_core.measurement.city_reports import (
    CityReports,
    in_split,
    names_of,
    taken,
    with_tracks_apart,
)
from ueloc_core.measurement.map_error import load_map_error
from ueloc_core.measurement.model import MeasurementModel

CODE_VERSION = "7"

Array = NDArray[np.float64]

_MOST_FITTED, _MOST_CONFORMAL = 800, 8000  # reports
_MIN_REPORTS = 40
_MIN_TRACKS = 3 * FOLDS
_FITTING_SHARE = 1 / 3  # a few scales need fewer reports than quantiles do
_LEVELS = (*NOMINAL_LEVELS, 0.99)
_PRIOR_SD = 0.2  # of each slope of the scales' logarithms
_LARGEST_LOG = 3.0
_LEAST_SPREAD = 1e-6
_RESAMPLES = 200
_STAGES = ("before", "one_level", "after")


@dataclass(frozen=True)
class Located:
    """Uncorrected posteriors of reports at known places.

    Attributes
    ----------
    raw
        Posteriors of n reports.
    truth_m
        True positions in their windows [m], shape (n, 2).
    features
        Shape (n, feature).
    track
        Track of each report, shape (n,).
    """

    raw: Posterior
    truth_m: Tensor
    features: Tensor
    track: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.track)

    @classmethod
    def cat(cls, parts: Sequence["Located"]) -> "Located":
        """Those of several cities, one after the other."""
        return cls(
            _joined([part.raw for part in parts]),
            torch.cat([part.truth_m for part in parts]),
            torch.cat([part.features for part in parts]),
            np.concatenate([part.track for part in parts]),
        )


def build_calibration(
    city: City,
    sets: Sequence[CityReports],
    map_error_folder: Path,
    model_folder: Path,
    out: Path,
) -> dict[str, Any]:
    """Calibrate on the calibration tiles; write what fixes need of it.

    ``calibration.json`` corrects posteriors, ``refinement.json`` says when MAP refinement acts,
    ``tracking.json`` what the reports of a track share, ``coverage.parquet`` is a table of the
    coverage.

    Temperatures and covariance scales minimise the NLL of the reports of a third of the tracks;
    the other tracks give the conformal levels. The table holds the coverage of 90% regions on
    the other tracks, by stratum, with intervals by track: ``before`` (uncorrected), with
    ``one_level`` for all under the uncorrected posteriors, and ``after``; each report by what
    other tracks gave.

    Parameters
    ----------
    city
        The city that it is for: its seed.
    sets
        Measurement sets of the cities that train it, with the twin's maps.
    map_error_folder, model_folder
        Folders of the map error and of the trained model.
    out
        Folder to write to.

    Raises
    ------
    ReportError
        If there are too few calibration reports.
    """
    map_error, network = load_map_error(map_error_folder), load_network(model_folder)
    rng = np.random.default_rng([city.seed, 8])
    readers = [
        WindowReader(one.atlas, MeasurementModel(one.city.measurements, one.city.radio, map_error))
        for one in sets
    ]
    fitting, conformal = _choose(sets, readers, rng)
    located = Located.cat([locate_known(network, *known) for known in fitting])
    fitted, before, after = fit_scales(located, rng)
    held = [held_levels(network, *known, (Calibration(), fitted), rng) for known in conformal]
    features = np.concatenate([of_city for of_city, _ in held])
    raw = [np.concatenate(of_cities) for of_cities in zip(*(own for _, own in held), strict=True)]
    track = np.concatenate([reports.track.values for _, reports in conformal])
    calibration, nominal = conform(fitted, features, raw[1], track, rng, _LEVELS)
    one_level = levels_by_others(raw[0], folds_by_track(track, rng), _LEVELS)
    calibration.save(out)
    levels = dict(zip(_STAGES, (raw[0], one_level, nominal), strict=True))
    table = coverage_table(city, conformal, levels)
    table.to_parquet(out / "coverage.parquet", index=False)
    first = [(reader, _first_of_tracks(reports)) for reader, reports in conformal]
    rule = fit_refinement(network, first, calibration)
    rule.save(out)
    known = [(reader, one.reports) for reader, one in zip(readers, sets, strict=True)]
    tracker = fit_tracks(city, known, network, calibration)
    tracker.save(out)
    correction = calibration.of(torch.from_numpy(features))
    return {
        "cities": names_of(sets),
        "reports": len(located) + len(track),
        "tracks": len(np.unique(located.track)) + len(np.unique(track)),
        "temperature": calibration.temperature,
        "covariance_scale": calibration.covariance_scale,
        "slopes": _slopes(calibration),
        "nll_nats_before": before,
        "nll_nats_after": after,
        "region_level_90": float(np.median(correction.region_level(0.9))),
        **{f"coverage_90_{name}": float((v <= 0.9).mean()) for name, v in levels.items()},
        **{f"calibration_error_{k}": float(calibration_error(v)) for k, v in levels.items()},
        "verdict": str(diagnose_coverage(_one_a_track(nominal, track))),
        "coverage_90_by_stratum": _nested(table),
        "refinement_acts": rule.acts,
        "refinement": rule.note,
        "track_redundancy_standing": tracker.parameters.standing,
        "track_redundancy_moving": tracker.parameters.moving,
        "track_decay_m": tracker.parameters.decay_m,
    }


def _first_of_tracks(reports: xr.Dataset) -> xr.Dataset:
    """One report of each track."""
    _, first = np.unique(reports.track.values, return_index=True)
    return reports.isel(report=np.sort(first))


def locate_known(network: PosteriorNetwork, reader: WindowReader, reports: xr.Dataset) -> Located:
    """Posteriors and features of reports with their truth."""
    samples = read_samples(reader, reports, split=None)
    posteriors, truth, features = [], [], []
    for _, raw, batch in predict(network, reader, samples):
        posteriors.append(raw)
        truth.append(batch.truth_m)
        features.append(read_features(batch, raw))
    return Located(_joined(posteriors), torch.cat(truth), torch.cat(features), reports.track.values)


def fit_scales(located: Located, rng: np.random.Generator) -> tuple[Calibration, float, float]:
    """Temperature and covariance scale of least NLL, and the NLL before and after [nats].

    Their logarithms are linear in the features, with a normal prior that draws the slopes to 0.
    Where that does not predict other tracks better than constants do, they are constants.

    Parameters
    ----------
    located
        Reports to fit to.
    rng
        Draws the tracks that are left out.
    """
    centre, spread = _moments(located.features)
    standard = Calibration(centre=centre, spread=spread).standardised(located.features)
    constant = standard[:, :0]
    fold = torch.from_numpy(folds_by_track(located.track, rng))
    gain = np.zeros(len(located))
    for k in range(FOLDS):
        kept, out = (fold != k).double(), (fold == k).numpy()
        of_constant, of_features = (
            _nll(located, terms, _fit(located, terms, kept)) for terms in (constant, standard)
        )
        gain[out] = (of_constant - of_features)[out]
    terms = standard if pays(gain, located.track) else constant
    found = _fit(located, terms, torch.ones(len(located), dtype=torch.float64))
    slopes = np.split(found[2:], 2)
    calibration = Calibration(
        temperature=float(np.exp(found[0])),
        covariance_scale=float(np.exp(found[1])),
        temperature_slopes=tuple(float(v) for v in slopes[0]),
        covariance_slopes=tuple(float(v) for v in slopes[1]),
        centre=centre,
        spread=spread,
    )
    before, after = _nll(located, constant, np.zeros(2)), _nll(located, terms, found)
    return calibration, float(before.mean()), float(after.mean())


def held_levels(
    network: PosteriorNetwork,
    reader: WindowReader,
    reports: xr.Dataset,
    calibrations: Sequence[Calibration],
    rng: np.random.Generator,
) -> tuple[Array, list[Array]]:
    """Features of reports, and under the scales of each calibration the levels of the truth.

    A level is the posterior mass that is denser than the true position, ranks randomised; the
    same draws serve all calibrations. Shapes (n, feature) and (n,) each.
    """
    samples = read_samples(reader, reports, split=None)
    draws = rng.uniform(size=len(samples))
    levels = [np.empty(len(samples)) for _ in calibrations]
    features = np.empty((len(samples), len(FEATURES)))
    half_m = reader.cells * reader.cell_m / 2
    for part, raw, batch in predict(network, reader, samples):
        found = read_features(batch, raw)
        features[part] = found.numpy()
        cell = np.floor((samples.truth_m[part] + half_m) / reader.cell_m).astype(int)
        for own, calibration in zip(levels, calibrations, strict=True):
            masses, _ = posterior_rasters(raw, calibration.of(found))
            own[part] = hpd_level(masses, cell[:, 1], cell[:, 0], draws[part])
    return features, levels


def coverage_table(city: City, known: Sequence[Known], levels: Mapping[str, Array]) -> pd.DataFrame:
    """Coverage of 90% regions in each part of each stratum, with intervals by track.

    Parameters
    ----------
    city
        Its seed.
    known
        The reports, by city.
    levels
        Nominal level at each truth, by the name of what gave it.

    Returns
    -------
    One row per part and name: stratum, value (the part), method (the name), metric, estimate,
    low, high and n (the reports in it).
    """
    cases = [case for reader, reports in known for case in cases_of(city, reader, reports).cases]
    circumstances = pd.DataFrame([case.circumstances for case in cases])
    fixes = pd.concat(
        [circumstances.assign(method=name, hpd_level=v) for name, v in levels.items()],
        ignore_index=True,
    )
    strata = [s for s in STRATA if s.column in fixes]
    table = intervals_by_stratum(
        fixes,
        strata,
        metrics=(Coverage(0.9),),
        resamples=_RESAMPLES,
        seed=city.seed,
        cluster="track",
    )
    counts = pd.concat(
        {s.name: s.of(circumstances).astype(str).value_counts() for s in strata}, names=["stratum"]
    )
    keys = pd.MultiIndex.from_frame(table[["stratum", "value"]])
    return table.assign(n=counts.reindex(keys).to_numpy())


def _choose(
    sets: Sequence[CityReports], readers: Sequence[WindowReader], rng: np.random.Generator
) -> tuple[list[Known], list[Known]]:
    """Calibration reports, whole tracks to fitting or to conformal levels, in their order.

    One report of each track comes first, because those of one track tell less.
    """
    sets = with_tracks_apart(sets)
    held = rng.permutation(in_split(sets, "calibration"))
    track = np.concatenate([one.reports.track.values for one in sets])
    turn = pd.Series(track[held]).groupby(track[held]).cumcount().to_numpy()
    held = held[np.argsort(turn, kind="stable")]
    own = rng.permutation(np.unique(track[held]))
    if len(held) < _MIN_REPORTS or len(own) < _MIN_TRACKS:
        raise ReportError(
            f"{len(held)} calibration reports of {len(own)} tracks are too few",
            where=f"{', '.join(names_of(sets))}: splits.calibration",
            remedy=f"Name tiles whose sectors serve at least {_MIN_REPORTS} terminals.",
        )
    count = max(FOLDS, min(round(len(own) * _FITTING_SHARE), _MOST_FITTED))
    fits = np.isin(track[held], own[:count])
    fitting, conformal = (
        [(reader, one.reports) for reader, one in zip(readers, part, strict=True) if len(one)]
        for part in (
            taken(sets, np.sort(held[fits][:_MOST_FITTED])),
            taken(sets, np.sort(held[~fits][:_MOST_CONFORMAL])),
        )
    )
    return fitting, conformal


def _joined(parts: Sequence[Posterior]) -> Posterior:
    """Posteriors of several batches as one."""
    names = [f.name for f in fields(Posterior) if f.name != "cell_m"]
    tensors = {name: torch.cat([getattr(p, name) for p in parts]) for name in names}
    return Posterior(**tensors, cell_m=parts[0].cell_m)


def _moments(features: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each feature, 0 and 1 where it says nothing."""
    known = ~features.isnan()
    count = known.sum(dim=0).clamp_min(1)
    centre = features.nan_to_num(0.0).sum(dim=0) / count
    offset = torch.where(known, features - centre, 0.0)
    spread = (offset.square().sum(dim=0) / count).sqrt()
    spread = torch.where(spread > _LEAST_SPREAD, spread, 1.0)
    return tuple(centre.tolist()), tuple(spread.tolist())


def _fit(located: Located, terms: Tensor, weight: Tensor) -> Array:
    """Logarithms of temperature and scale, then their slopes; shape (2 + 2 terms,)."""
    count = terms.shape[1]

    def loss(found: Array) -> tuple[float, Array]:
        values = torch.tensor(found, requires_grad=True)
        nll = (weight * _nll_of(located, terms, values)).sum() / weight.sum()
        prior = values[2:].square().sum() / (2 * _PRIOR_SD**2) / weight.sum()
        (gradient,) = torch.autograd.grad(nll + prior, values)
        return float((nll + prior).detach()), gradient.numpy()

    reach = [(-_LARGEST_LOG, _LARGEST_LOG)] * (2 + 2 * count)
    found = minimize(loss, np.zeros(2 + 2 * count), jac=True, method="L-BFGS-B", bounds=reach)
    return np.asarray(found.x)


def _nll(located: Located, terms: Tensor, found: Array) -> Array:
    with torch.no_grad():
        return np.asarray(_nll_of(located, terms, torch.from_numpy(found)).numpy())


def _nll_of(located: Located, terms: Tensor, values: Tensor) -> Tensor:
    """NLL of each report [nats] under scales (`_fit`), shape (n,)."""
    slopes = values[2:].reshape(2, terms.shape[1])
    temperature, scale = ((values[i] + terms @ slopes[i]).exp() for i in range(2))
    corrected = located.raw.calibrated(temperature, scale)
    return -corrected.log_density(located.truth_m).double()


def _one_a_track(levels: Array, track: NDArray[np.int64]) -> Array:
    """Levels of the first report of each track, which are independent."""
    return np.asarray(levels[np.unique(track, return_index=True)[1]])


def _slopes(calibration: Calibration) -> dict[str, Any]:
    """Slopes by feature, where there are any."""
    fitted = {
        "temperature": calibration.temperature_slopes,
        "covariance_scale": calibration.covariance_slopes,
        "bend": calibration.bend_slopes[: len(FEATURES)],
    }
    return {k: dict(zip(FEATURES, v, strict=True)) for k, v in fitted.items() if v}


def _nested(table: pd.DataFrame) -> dict[str, Any]:
    """Rows of `coverage_table` by stratum and part."""
    found: dict[str, Any] = {}
    for row in table.to_dict("records"):
        part = found.setdefault(row["stratum"], {}).setdefault(row["value"], {"n": int(row["n"])})
        part[row["method"]] = round(float(row["estimate"]), 3)
    return found
