"""How fast is a report located, next to the exact grid posterior?

``python -m benchmarks.inference`` reads the trained model of a city that has been materialized
(`make demo`); the last line is one JSON object. The rival is the exact grid posterior over the
same square at the same resolution, measured in the same run.
"""

import json
import time

import click
import numpy as np
import torch
import xarray as xr

from ueloc_core.city import SPLITS, load_city
from ueloc_core.localization.baselines import GridBayes, geometric_median
from ueloc_core.localization.localize import Locator
from ueloc_core.measurement.dataset import load_reports, to_batch
from ueloc_core.provenance import ArtifactKey, Store


@click.command()
@click.option("--city", "city_name", default="helsinki", show_default=True)
@click.option("--from-store", "url", default="data", show_default=True, help="Folder or URL.")
@click.option("--single", default=200, show_default=True, help="Fixes one at a time.")
@click.option("--batch", default=512, show_default=True, help="Fixes in one call.")
@click.option("--exact", default=40, show_default=True, help="Fixes of the grid posterior.")
def main(city_name: str, url: str, single: int, batch: int, exact: int) -> None:
    """Measure latency and throughput of fixes."""
    city, store = load_city(city_name), Store(url)
    locator = Locator.load(city, store)
    reports = load_reports(store.require(ArtifactKey(city.name, "measurement_set")).path)
    reports = reports.isel(report=reports.split.values == SPLITS.index("test"))
    rng = np.random.default_rng(1)
    reports = reports.isel(report=rng.permutation(reports.sizes["report"])[: max(single, batch)])
    locator.locate(reports.isel(report=slice(batch)))  # warm: maps of all serving sectors
    latency_ms = [_seconds(locator, reports.isel(report=[i])) * 1e3 for i in range(single)]
    many = _seconds(locator, reports.isel(report=slice(batch)))
    exact_s = _exact_seconds(locator, reports.isel(report=slice(exact)))
    history = store.require(ArtifactKey(city.name, "posterior_model")).metadata
    result = {
        "latency_ms_p50": float(np.median(latency_ms)),
        "latency_ms_p99": float(np.quantile(latency_ms, 0.99)),
        "fixes_per_s": batch / many,
        "grid_bayes_fixes_per_s": exact / exact_s,
        "speedup": (batch / many) / (exact / exact_s),
        "params": sum(p.numel() for p in locator.network.parameters()),
        "train_samples_per_s": history.get("train_samples_per_s"),
    }
    print(json.dumps({k: v if v is None else float(f"{v:.4g}") for k, v in result.items()}))


def _seconds(locator: Locator, reports: xr.Dataset) -> float:
    started = time.perf_counter()
    locator.locate(reports)
    return time.perf_counter() - started


@torch.no_grad()
def _exact_seconds(locator: Locator, reports: xr.Dataset) -> float:
    """Grid posteriors and their point estimates, maps of each serving sector kept."""
    reader = locator.reader
    bayes = GridBayes(reader.places, reader.model)
    batch = to_batch(reports, reader.atlas)
    order = np.argsort(batch.sector[:, 0].numpy(), kind="stable")
    for i in order:
        reader.places.around(int(batch.sector[int(i), 0]))
    started = time.perf_counter()
    for i in order:
        found = bayes.posterior(batch[int(i) : int(i) + 1])
        geometric_median(found.mass, found.window)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
