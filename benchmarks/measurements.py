"""How fast are reports drawn, scored, stored and read, and against what?

``python -m benchmarks.measurements`` reads the radio maps and the measurement set of a city that
has been materialized (`make demo`); the last line is one JSON object. Rates are of wall time,
with as many threads as there are cores.

- ``reports_per_s``: reports of standing terminals drawn from the world's cubes, all features and
  the ray-tracing layer; ``reports_per_s_all_sectors``: the same with every sector of the city as
  a candidate at every place (the rival: no list of audible sectors).
- ``log_prob_evals_per_s``: places at which one report's likelihood is evaluated, levels of all
  sectors with their shared errors, quality, timing, angle and beams;
  ``log_prob_evals_per_s_direct``: without tables (the rival), on fewer places.
- ``dataset_bytes_per_report``, ``random_read_samples_per_s``: the stored measurement set, and
  training batches read from it in random order; ``chunk_read_samples_per_s``: the same number of
  batches of random reports straight from the store (the rival: no window of chunks).
"""

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import numpy as np
import torch
import xarray as xr

from ueloc_core.city import load_city
from ueloc_core.measurement.audible import CANDIDATES, AudibleSectors
from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.dataset import STORE, stored_bytes
from ueloc_core.measurement.mobility import Tracks
from ueloc_core.measurement.model import MapError, MeasurementModel
from ueloc_core.measurement.place_maps import PlaceMaps
from ueloc_core.measurement.population import Population
from ueloc_core.measurement.random_reads import RandomReads
from ueloc_core.measurement.report_variables import RAY_TRACED, VARIABLES
from ueloc_core.measurement.tracks import ground_of
from ueloc_core.provenance import ArtifactKey, Store
from ueloc_core.radio.atlas import MapAtlas

_BATCH = 16
_DIRECT_PLACES = 256


def _standing(population: Population, count: int, rng: np.random.Generator) -> Tracks:
    """Terminals that stand uniformly over the places of a population."""
    window = population.audible.window
    row, column = np.nonzero(population.audible.cell >= 0)
    chosen = rng.integers(len(row), size=count)
    x0, y0, _, _ = window.bounds_m
    dx, dy = rng.uniform(0, 1, (2, count))
    zeros = np.zeros(count)
    return Tracks(
        track=np.arange(count),
        time_s=zeros,
        x_m=x0 + (column[chosen] + dx) * window.cell_m,
        y_m=y0 + (row[chosen] + dy) * window.cell_m,
        speed_m_s=zeros.astype(np.float32),
        heading_deg=np.full(count, np.nan, dtype=np.float32),
        mobility=zeros.astype(np.int8),
        indoor=zeros.astype(np.int8),
    )


def _draw(population: Population, count: int) -> tuple[float, ReportBatch]:
    """Reports drawn a second, and some of them."""
    threads = os.cpu_count() or 1
    tracks = [
        _standing(population, count // threads, np.random.default_rng(n)) for n in range(threads)
    ]
    streams = [np.random.default_rng([n, 1]) for n in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda t: population.sample(*t), zip(tracks, streams, strict=True)))  # warm
        started = time.perf_counter()
        drawn = list(pool.map(lambda t: population.sample(*t), zip(tracks, streams, strict=True)))
        elapsed = time.perf_counter() - started
    return sum(len(batch) for batch, _ in drawn) / elapsed, drawn[0][0]


@torch.no_grad()
def _score(model: MeasurementModel, places: PlaceMaps, reports: ReportBatch) -> tuple[float, float]:
    """Places scored a second, by tables and one by one."""
    scored = direct = 0
    seconds = [0.0, 0.0]
    for n in range(len(reports)):
        report = reports[n : n + 1]
        around = places.around(int(report.sector[0, 0]))
        started = time.perf_counter()
        model.log_prob(report, around.levels, around.serving)
        seconds[0] += time.perf_counter() - started
        scored += around.levels.rsrp_dbm.shape[2]
        some = torch.linspace(0, around.levels.rsrp_dbm.shape[2] - 1, _DIRECT_PLACES).long()
        few = around.levels.places(some)
        started = time.perf_counter()
        model.levels.direct(report, few)
        model.quality_log_prob(report, few)
        seconds[1] += time.perf_counter() - started
        direct += _DIRECT_PLACES
    return scored / seconds[0], direct / seconds[1]


def _read(folder: Path, batches: int) -> tuple[float, float]:
    """Reports read a second in random order: through windows of chunks, and one by one."""
    names = [name for name in VARIABLES if name not in RAY_TRACED]
    reads = RandomReads(folder, names, _BATCH, seed=1)
    started, count = time.perf_counter(), 0
    for batch in reads.epoch(0):
        count += batch.sizes["report"]
    fast = count / (time.perf_counter() - started)
    rng = np.random.default_rng(2)
    with xr.open_zarr(folder / STORE, consolidated=False, chunks=None) as stored:
        started = time.perf_counter()
        for _ in range(batches):
            chosen = np.sort(rng.choice(stored.sizes["report"], _BATCH, replace=False))
            stored[names].isel(report=chosen).load()
        slow = batches * _BATCH / (time.perf_counter() - started)
    return fast, slow


@click.command()
@click.option("--city", "city_name", default="helsinki", show_default=True)
@click.option("--from-store", "url", default="data", show_default=True, help="Folder or URL.")
@click.option("--reports", default=200_000, show_default=True, help="To draw.")
@click.option("--scored", default=24, show_default=True, help="Reports to score.")
def main(city_name: str, url: str, reports: int, scored: int) -> None:
    """Measure drawing, scoring, storing and reading of reports."""
    city, store = load_city(city_name), Store(url)

    def atlas(*stages: str) -> MapAtlas:
        folders = [
            {
                name: store.require(ArtifactKey(city.name, stage, name)).path
                for name in city.tile_names
            }
            for stage in stages
        ]
        return MapAtlas.load(city, *folders)

    world = atlas("world_scene", "world_sites", "world_radio_map")
    full = city.measurements.model_copy(update={"scenarios": {"full": 1.0}})
    model = MeasurementModel(full, city.radio, MapError.none())
    places = PlaceMaps(world, full)
    ground = ground_of(world, np.arange(len(world.windows)))
    rates = []
    for candidates in (CANDIDATES, len(world.windows)):
        audible = AudibleSectors.of(places, ground.window, ground.outdoor, candidates)
        rate, drawn = _draw(Population(model, places, audible, city.seed), reports)
        print(f"{candidates} candidates: {rate:,.0f} reports/s", file=sys.stderr)
        rates.append(rate)
    tables, direct = _score(model, places, drawn[:scored])
    folder = store.require(ArtifactKey(city.name, "measurement_set")).path
    with xr.open_zarr(folder / STORE, consolidated=False, chunks=None) as stored:
        count = stored.sizes["report"]
    fast, slow = _read(folder, 40)
    result = {
        "reports_per_s": rates[0],
        "log_prob_evals_per_s": tables,
        "dataset_bytes_per_report": stored_bytes(folder) / count,
        "random_read_samples_per_s": fast,
        "reports_per_s_all_sectors": rates[1],
        "log_prob_evals_per_s_direct": direct,
        "chunk_read_samples_per_s": slow,
        "sectors_per_report": float(drawn.heard.sum(dim=1).double().mean()),
        "cores": os.cpu_count(),
    }
    print(json.dumps({name: _rounded(value) for name, value in result.items()}))


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


if __name__ == "__main__":
    main()
