"""Reports whose propagation is exact: a transfer test on the tracks of the test split.

Radio maps are means over grid cells, and fading over them is a law. Here the same terminals stand
on the same places of the same world, and the paths to each place are found one by one by Sionna's
path solver, those that mix edges with reflections included. Their fields add up in phase
(`path_levels`), so levels fade as their paths make them. Everything else is drawn as for
map-drawn reports (`population`): shadowing that no scene holds (the same field), gain offset,
clock, accuracy, quality, timing and angle. Nothing is ever trained on these reports.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from ueloc_core.city import SPLITS, City
from ueloc_core.errors import ReportError
from ueloc_core.grid import Window
from ueloc_core.measurement.audible import CANDIDATES
from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.dataset import complete, stored_bytes, to_dataset, write_reports
from ueloc_core.measurement.mobility import Tracks
from ueloc_core.measurement.model import MapError, MeasurementModel
from ueloc_core.measurement.path_comparison import compare, draw_comparison
from ueloc_core.measurement.path_propagation import (
    CHOICE,
    DRAWS,
    SAMPLES,
    STREAM,
    Propagation,
    propagation,
)
from ueloc_core.measurement.population import RT_LAYERS, Lasting, empty_batch, truth_of
from ueloc_core.measurement.simulate import Serving, Surroundings, Terminals
from ueloc_core.radio.atlas import MapAtlas
from ueloc_core.units import wavelength_m

CODE_VERSION = "1"
SOURCE = "path_solver"
"""What the attribute ``source`` of these data sets says."""

IDENTITY = ("track", "x_m", "y_m", "split")
"""What `strangers` reads of a measurement set."""

Progress = Callable[[int, int, str], None]

_TEST = SPLITS.index("test")
_TRACK_VARIABLES = (
    *("track", "time_s", "x_m", "y_m"),
    *("speed_m_s", "heading_deg", "mobility", "indoor"),
)


@dataclass(frozen=True)
class ChosenTracks:
    """Reports of m whole tracks of the test split, by track and time.

    Attributes
    ----------
    tracks
        Where and when; ``track`` is that of the measurement set.
    row
        Rows of the reports in the measurement set, shape (report,).
    terminal
        Track of each report, counted from 0, shape (report,).
    scenario
        Index into `scenarios.SCENARIOS`, shape (m,).
    left_out
        Test tracks that cannot be used because they have reports in buildings.
    """

    tracks: Tracks
    row: NDArray[np.int64]
    terminal: NDArray[np.int64]
    scenario: NDArray[np.int64]
    left_out: int


def build_path_traced(
    city: City,
    reports: xr.Dataset,
    scenes: Mapping[str, Path],
    sites: Mapping[str, Path],
    out: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Reports of test tracks over exact paths; writes ``reports.zarr`` and ``preview.png``.

    Parameters
    ----------
    city
        The city.
    reports
        Its measurement set (`MeasurementSetSchema`).
    scenes, sites
        Folders of the world's scenes and sites by tile.
    out
        Folder to write to.
    progress
        Called with (sites done, sites, message).

    Raises
    ------
    ReportError
        If there is no test track outdoors of at most ``evaluation.path_traced_reports``
        reports, or no sector.
    """
    chosen = choose_tracks(city, reports, city.evaluation.path_traced_reports)
    paths = propagation(city, chosen.tracks, scenes, sites, progress)
    batch, index = draw_reports(city, chosen, paths)
    traced = _data_set(city, chosen, paths, (batch, index))
    write_reports(traced, out)
    comparison = compare(reports.isel(report=chosen.row), traced, index, paths)
    draw_comparison(comparison, out / "preview.png")
    known = np.isfinite(paths.layers["path_gain_db"])
    return {
        "reports": len(index),
        "tracks": len(np.unique(traced.track.values)),
        "chosen_reports": len(chosen.row),
        "chosen_tracks": len(chosen.scenario),
        "tracks_left_out_indoors": chosen.left_out,
        "unheard_share": 1 - len(index) / len(chosen.row),
        "no_path_share": float((~known.any(axis=1)).mean()),
        "mean_sectors_with_path": float(known.sum(axis=1).mean()),
        **comparison.summary,
        "samples": SAMPLES,
        "megabytes": stored_bytes(out) / 1e6,
        "source": SOURCE,
    }


def choose_tracks(city: City, reports: xr.Dataset, most: int) -> ChosenTracks:
    """Whole tracks of the test split, in random order until the next would be too many.

    Tracks with reports in buildings are left out: no path of these solvers leads there.

    Parameters
    ----------
    city
        Gives the seed.
    reports
        A measurement set.
    most
        Most reports.

    Raises
    ------
    ReportError
        If no track is left.
    """
    is_test, track = reports.split.values == _TEST, reports.track.values
    inside = np.unique(track[is_test & (reports.indoor.values == 1)])
    usable = is_test & ~np.isin(track, inside)
    names, sizes = np.unique(track[usable], return_counts=True)
    order = np.random.default_rng([city.seed, STREAM, CHOICE]).permutation(len(names))
    taken = names[order[np.cumsum(sizes[order]) <= most]]
    row = np.flatnonzero(usable & np.isin(track, taken))
    if not len(row):
        raise ReportError(
            f"no outdoor track of the test split has at most {most} reports",
            where=f"{city.name}: measurement set",
            remedy="Raise evaluation.path_traced_reports, or lower tracks.indoor_share.",
        )
    row = row[np.lexsort((reports.time_s.values[row], track[row]))]
    _, first, terminal = np.unique(track[row], return_index=True, return_inverse=True)
    known: dict[str, Any] = {name: reports[name].values[row] for name in _TRACK_VARIABLES}
    tracks = Tracks(**known)
    scenario = reports.scenario.values[row][first].astype(np.int64)
    return ChosenTracks(tracks, row, terminal, scenario, len(inside))


def strangers(traced: xr.Dataset, reports: xr.Dataset) -> dict[str, int]:
    """How many reports over paths are not of the test split, by the rule that they break.

    Parameters
    ----------
    traced
        Reports over paths.
    reports
        The measurement set (`IDENTITY`).

    Returns
    -------
    dict
        ``other_splits``: reports that say so of themselves; ``other_tracks``: whose track is not
        in the test split, or in another one as well; ``other_places``: where no report of
        the test split stands.
    """
    is_test, track = reports.split.values == _TEST, reports.track.values
    tracks = np.setdiff1d(track[is_test], track[~is_test])
    columns = ("track", "x_m", "y_m")
    places = set(zip(*(reports[name].values[is_test].tolist() for name in columns), strict=True))
    own = zip(*(traced[name].values.tolist() for name in columns), strict=True)
    return {
        "other_splits": int((traced.split.values != _TEST).sum()),
        "other_tracks": int((~np.isin(traced.track.values, tracks)).sum()),
        "other_places": sum(place not in places for place in own),
    }


def draw_reports(
    city: City, chosen: ChosenTracks, paths: Propagation
) -> tuple[ReportBatch, NDArray[np.int64]]:
    """Reports that hear a sector, in the order of the tracks, and their places in that order.

    Parameters
    ----------
    city
        Settings of the reports, and the seed.
    chosen
        Who reports.
    paths
        What arrives there.
    """
    rng = np.random.default_rng([city.seed, STREAM, DRAWS])
    model = MeasurementModel(city.measurements, city.radio, MapError.none())
    lasting = Lasting.draw(model, len(chosen.scenario), rng)
    lasting = replace(lasting, scenario=chosen.scenario)  # what they report is known
    terminal = chosen.terminal
    starts = np.flatnonzero(np.r_[True, terminal[1:] != terminal[:-1]])
    turn = np.arange(len(terminal)) - starts[terminal]
    serving = np.full(len(starts), -1, dtype=np.int64)
    batches, kept = [empty_batch()], [np.zeros(0, dtype=np.int64)]
    for k in range(int(turn.max()) + 1):
        part = np.flatnonzero(turn == k)
        of = terminal[part]
        around = surroundings(city, paths, part, lasting.gain_db[of])
        history = Terminals(lasting.scenario[of], lasting.clock_ns[of], serving[of])
        batch = model.sample(around, rng, history)
        serving[of] = batch.sector[:, 0].numpy()
        heard = np.flatnonzero(serving[of] >= 0)
        batches.append(batch[heard])
        kept.append(part[heard])
    index = np.concatenate(kept)
    order = np.argsort(index)
    return ReportBatch.cat(batches)[order], index[order]


def surroundings(
    city: City, paths: Propagation, part: NDArray[np.int64], gain_db: NDArray[np.floating[Any]]
) -> Surroundings:
    """What terminals could hear: no fading but that of the paths themselves.

    Parameters
    ----------
    city
        Settings of the reports.
    paths
        What arrives.
    part
        Rows of `paths`, shape (n,).
    gain_db
        Offset of all levels of each terminal [dB], shape (n,).
    """
    level_dbm = paths.level_dbm[part]
    power_mw = np.nan_to_num(10.0 ** (level_dbm / 10.0))
    best = np.argsort(-power_mw, axis=1, kind="stable")[:, :CANDIDATES]
    heard_mw = np.take_along_axis(power_mw, best, axis=1)
    mean_dbm = np.take_along_axis(level_dbm + paths.shadow_db[part], best, axis=1)

    def serving(rows: NDArray[np.int64], sectors: NDArray[np.int64]) -> Serving:
        at = part[rows], sectors
        return Serving(
            first_arrival_ns=paths.layers["first_arrival_ns"][at],
            line_of_sight=paths.layers["line_of_sight"][at],
            azimuth_deg=paths.layers["departure_azimuth_deg"][at],
            spread_deg=paths.layers["departure_spread_deg"][at],
            beam_offset_db=paths.beams_db[at],
            reference_dbm=paths.reference_dbm[sectors],
        )

    accuracy_db = np.float32(city.measurements.terminal.level_sigma_db)
    return Surroundings(
        sector=np.where(np.isnan(mean_dbm), -1, best),
        mean_dbm=mean_dbm + gain_db.astype(np.float32)[:, None],
        mapped_mw=heard_mw,
        noise_db=np.full(best.shape, accuracy_db),
        others_mw=np.maximum(power_mw.sum(axis=1) - heard_mw.sum(axis=1), 0.0),
        serving=serving,
    )


def _data_set(
    city: City,
    chosen: ChosenTracks,
    paths: Propagation,
    drawn: tuple[ReportBatch, NDArray[np.int64]],
) -> xr.Dataset:
    """Reports as a measurement set of the test split alone."""
    batch, index = drawn
    layer = _ray_tracing_layer(city, chosen.tracks, paths, drawn)
    nothing = np.zeros((len(paths.sectors), 0, 0), dtype=np.float32)
    atlas = MapAtlas(  # it names the sectors; there are no maps
        city=city,
        sectors=paths.sectors,
        windows=(),
        rsrp_dbm=nothing,
        rsrp_se_db=nothing,
        ground=Window(0, 0, 0, 0, city.grid.cell_m),
        outdoor=nothing[0].astype(bool),
        building_height_m=nothing[0],
        scenes={},
    )
    reports = to_dataset(city, atlas, batch, truth_of(chosen.tracks, index, layer))
    split = np.full(len(index), _TEST, dtype=np.int8)
    reports = complete(reports.assign(split=("report", split)))
    title = "measurement reports of terminals over exact paths"
    return reports.assign_attrs(source=SOURCE, title=title)


def _ray_tracing_layer(
    city: City,
    tracks: Tracks,
    paths: Propagation,
    drawn: tuple[ReportBatch, NDArray[np.int64]],
) -> dict[str, NDArray[np.float32]]:
    """What the paths say where the reports come from, shape (report, slot)."""
    batch, index = drawn
    sector = batch.sector.numpy()
    at = index[:, None], sector.clip(0)
    values = {
        name: np.where(sector >= 0, paths.layers[layer][at], np.float32(np.nan))
        for name, layer in RT_LAYERS.items()
    }
    towards = np.radians(
        values["rt_arrival_azimuth_deg"] - np.nan_to_num(tracks.heading_deg[index])[:, None]
    )
    rise = np.sin(np.radians(values["rt_arrival_zenith_deg"]))
    speed = tracks.speed_m_s[index][:, None] / wavelength_m(city.radio.frequency_hz)
    values["rt_doppler_hz"] = (speed * np.cos(towards) * rise).astype(np.float32)
    return values
