"""What the earlier reports of a track are worth: fixes of last reports, with and without them."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import NDArray

from ueloc_core.city import SPLITS, City
from ueloc_core.evaluation.cases import Case, Cases, Density, cases_of, fix_row
from ueloc_core.localization.baselines import GridBayes, GridPosterior, geometric_median
from ueloc_core.localization.calibrated import Calibration, Correction, corrections
from ueloc_core.localization.localize import posterior_rasters
from ueloc_core.localization.network import PosteriorNetwork
from ueloc_core.localization.samples import Samples
from ueloc_core.localization.track_evidence import nll_nats
from ueloc_core.localization.track_oracle import TrackBayes
from ueloc_core.localization.tracking import TrackFilter, TrackParameters, TrackRasters
from ueloc_core.localization.training import load_network, predict
from ueloc_core.localization.windows import WindowReader
from ueloc_core.measurement.dataset import to_batch

SPLIT = "tracks"
"""``split`` of these fixes."""

Index = NDArray[np.int64]
Progress = Callable[[int, int, str], None]

_FITTED_TRACKS = 48
_PROGRESS_EVERY = 10


def choose_tracks(
    city: City, reports: xr.Dataset, chosen: NDArray[np.bool_], most: int
) -> list[Index]:
    """A seeded choice of tracks: positions of the reports of each, in order of time.

    A track is what it has among the chosen reports, two at least. Those with the most reports
    come first, so that where there are enough the figures tell what as many are worth. They
    are ordered by the last serving sector, so that maps are reused.

    Parameters
    ----------
    city
        Gives the seed.
    reports
        All reports.
    chosen
        Which ones to choose among, shape (report,).
    most
        Number of tracks.
    """
    index = np.flatnonzero(chosen)
    order = np.lexsort((reports.time_s.values[index], reports.track.values[index]))
    index = index[order]
    track = reports.track.values[index]
    tracks = np.split(index, np.flatnonzero(track[1:] != track[:-1]) + 1)
    tracks = [own for own in tracks if len(own) > 1]
    shuffled = np.random.default_rng([city.seed, 12]).permutation(len(tracks))
    longest = sorted(shuffled.tolist(), key=lambda k: -len(tracks[k]))[:most]
    serving = reports.sector_id.values[:, 0]
    return sorted((tracks[k] for k in longest), key=lambda own: (serving[own[-1]], own[-1]))


def track_rows(
    city: City,
    reader: WindowReader,
    reports: xr.Dataset,
    chosen: NDArray[np.bool_],
    folders: Mapping[str, Path],
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Fixes of the last reports of test tracks, `FixSchema` with ``split`` = ``tracks``.

    ``oracle`` and ``network`` see the last report alone, ``oracle_track`` and ``network_track``
    the reports before it as well. All four have the density of their grid cells. A further
    column, ``track_reports``, counts the reports.

    Parameters
    ----------
    city, reader, reports
        The city, its windows and the reports.
    chosen
        The test reports, shape (report,).
    folders
        Folders of ``posterior_model`` and of ``calibration``.
    progress
        Called with (tracks done, tracks, message).

    Returns
    -------
    The table; without rows where no track has two reports.

    Raises
    ------
    StoreError
        If the model or the calibration cannot be read.
    """
    tracks = choose_tracks(city, reports, chosen, city.evaluation.max_tracks)
    if not tracks:
        return pd.DataFrame()
    last = np.array([own[-1] for own in tracks])
    cases = cases_of(city, reader, reports.isel(report=last).assign_coords(report=last))
    rows = _network_rows(reader, reports, tracks, cases, folders)
    rows += _oracle_rows(city, reader, reports, tracks, cases, progress)
    table = pd.DataFrame(rows).assign(split=SPLIT)
    counts = pd.Series([len(own) for own in tracks], index=last)
    return table.assign(track_reports=table["report"].map(counts))


def fit_tracks(
    city: City,
    known: Sequence[tuple[WindowReader, xr.Dataset]],
    network: PosteriorNetwork,
    calibration: Calibration,
) -> TrackFilter:
    """The filter of tracks, fitted on calibration tracks.

    Parameters
    ----------
    city
        The city that it is for: its seed, and the shares of its population.
    known
        Windows and all reports, with their split, of each city that calibrates.
    network, calibration
        What gives the posteriors of single reports.

    Returns
    -------
    The filter. Where no terminal sends two reports there is nothing to fit, and it has the
    parameters that it starts from.
    """
    tracks: list[TrackRasters] = []
    truth_m: list[tuple[float, float]] = []
    for reader, reports in known:
        chosen = reports.split.values == SPLITS.index("calibration")
        own = choose_tracks(city, reports, chosen, math.ceil(_FITTED_TRACKS / len(known)))
        if own:
            tracks += read_rasters(reader, network, calibration, reports, own)[0]
            last = np.array([one[-1] for one in own])
            x_m, y_m = reports.x_m.values[last].tolist(), reports.y_m.values[last].tolist()
            truth_m += zip(x_m, y_m, strict=True)
    settings = city.measurements.tracks
    if not tracks:
        return TrackFilter(TrackParameters.of(settings))
    return TrackFilter.fit(tracks, truth_m, settings)


def read_rasters(
    reader: WindowReader,
    network: PosteriorNetwork,
    calibration: Calibration,
    reports: xr.Dataset,
    tracks: Sequence[Index],
) -> tuple[list[TrackRasters], Correction]:
    """The network's calibrated posteriors of tracks, and the corrections of their last reports.

    Parameters
    ----------
    reader, network, calibration
        What gives the posteriors.
    reports
        All reports.
    tracks
        Positions of the reports of each track, in order of time.
    """
    flat = np.concatenate(tracks)
    batch = to_batch(reports.isel(report=flat), reader.atlas)
    masses: list[NDArray[np.float64]] = []
    of_reports: list[Correction] = []
    outside_m2: list[float] = []
    samples = Samples(batch, np.full((len(flat), 2), np.nan))
    for _, raw, window in predict(network, reader, samples):
        correction = corrections(calibration, window, raw)
        masses += list(posterior_rasters(raw, correction)[0].astype(np.float32))
        outside_m2 += raw.outside_m2.tolist()
        of_reports += [correction[k : k + 1] for k in range(len(correction))]
    frames = [reader.frames[s] for s in batch.sector[:, 0].tolist()]
    time_s, outdoor = reports.time_s.values, reader.atlas.outdoor_in
    found, start = [], 0
    for own in tracks:
        part = slice(start, start + len(own))
        times_s = time_s[own].tolist()
        found.append(TrackRasters(masses[part], frames[part], times_s, outside_m2[part], outdoor))
        start += len(own)
    ends = np.cumsum([len(own) for own in tracks]) - 1
    return found, _joined([of_reports[k] for k in ends])


def _joined(parts: Sequence[Correction]) -> Correction:
    return Correction(
        torch.cat([p.temperature for p in parts]),
        torch.cat([p.covariance_scale for p in parts]),
        np.concatenate([p.bend for p in parts]),
        parts[0].levels,
        parts[0].adjusted,
    )


def _network_rows(
    reader: WindowReader,
    reports: xr.Dataset,
    tracks: Sequence[Index],
    cases: Cases,
    folders: Mapping[str, Path],
) -> list[dict[str, Any]]:
    calibration = Calibration.load(folders["calibration"])
    tracker = TrackFilter.load(folders["calibration"])
    network = load_network(folders["posterior_model"])
    rasters, correction = read_rasters(reader, network, calibration, reports, tracks)
    rows = []
    for k, (case, track) in enumerate(zip(cases.cases, rasters, strict=True)):
        one = correction[k : k + 1]
        alone = np.asarray(track.masses[-1], dtype=np.float64)
        density = _density(case, alone, track, float(one.region_level(0.9)[0]))

        def nominal(mass: float, one: Correction = one) -> float:
            return float(one.nominal_level(mass)[0])

        point = geometric_median(alone, case.frame)
        rows.append(fix_row("network", case, point, density, nominal_level=nominal))
        started = time.perf_counter()
        mass, _ = tracker.posterior(
            track.masses, track.frames, track.times_s, track.outdoor, track.outside_m2
        )
        point = geometric_median(mass, case.frame)
        latency_ms = 1e3 * (time.perf_counter() - started)
        density = _density(case, mass, track)
        rows.append(fix_row("network_track", case, point, density, latency_ms=latency_ms))
    return rows


def _density(
    case: Case, mass: NDArray[np.float64], track: TrackRasters, mass90: float = 0.9
) -> Density:
    nll = nll_nats(mass, case.frame, track.outside_m2[-1], case.truth_m)
    return Density(case.frame, mass, nll, mass90)


def _oracle_rows(
    city: City,
    reader: WindowReader,
    reports: xr.Dataset,
    tracks: Sequence[Index],
    cases: Cases,
    progress: Progress | None,
) -> list[dict[str, Any]]:
    alone = GridBayes(reader.places, reader.model)
    together = TrackBayes.of(reader.places, reader.model, city.measurements.tracks)

    def located(k: int) -> list[dict[str, Any]]:
        case, own = cases.cases[k], tracks[k]
        batch, started = to_batch(reports.isel(report=own), reader.atlas), time.perf_counter()
        last = _exact_row("oracle", case, alone.posterior(batch[-1:]), started)
        started = time.perf_counter()
        found = together.posterior(batch, reports.time_s.values[own].tolist())
        return [last, _exact_row("oracle_track", case, found, started)]

    rows = []
    for k in range(len(cases)):  # one by one: a track may need gigabytes where maps err
        rows += located(k)
        if progress is not None and (k + 1) % _PROGRESS_EVERY == 0:
            progress(k + 1, len(cases), "tracks")
    return rows


def _exact_row(method: str, case: Case, found: GridPosterior, started: float) -> dict[str, Any]:
    point = geometric_median(found.mass, found.window)
    latency_ms = 1e3 * (time.perf_counter() - started)
    density = Density(found.window, found.mass, found.nll_nats(*case.truth_m))
    return fix_row(method, case, point, density, latency_ms=latency_ms)
