"""Do stated regions hold the terminal, in every circumstance that has a thousand test reports?

``python -m benchmarks.coverage [--city helsinki]`` locates all test reports of a city that was
materialized with its trained network, several of each track, and prints how many terminals their
90% regions hold, with intervals by track: with the calibration (``after``) and beside it without
any (``before``). An evaluation does so for fewer reports, next to the oracle. The last line is one
JSON object: ``{"n", "tracks", "coverage_90", "largest_gap", "largest_gap_before", "strata":
{stratum: {part: {"n", "before", "after"}}}, "largest_stratum_gap"}``; gaps are largest differences
between coverage and nominal level, that over strata of parts with ``--least`` reports.
"""

import json

import click
import numpy as np
import torch

from ueloc_core.city import load_city
from ueloc_core.evaluation.calibration import coverage_table, held_levels
from ueloc_core.evaluation.diagnostics import calibration_error
from ueloc_core.evaluation.evaluate import tested
from ueloc_core.localization.calibrated import Calibration
from ueloc_core.localization.localize import Locator
from ueloc_core.measurement.dataset import load_reports
from ueloc_core.provenance import ArtifactKey, Store


@click.command()
@click.option("--city", "city_name", default="helsinki", show_default=True)
@click.option("--from-store", "url", default="data", show_default=True, help="Folder or URL.")
@click.option("--least", default=1000, show_default=True, help="Reports that a part must have.")
def main(city_name: str, url: str, least: int) -> None:
    """Measure the coverage of 90% regions on all test reports."""
    city, store = load_city(city_name), Store(url)
    locator = Locator.load(city, store)
    reports = load_reports(store.require(ArtifactKey(city.name, "measurement_set")).path)
    reports = reports.isel(report=np.flatnonzero(tested(city, reports)))
    reports = reports.assign_coords(report=np.arange(reports.sizes["report"]))
    features, (before, raw) = held_levels(
        locator.network,
        locator.reader,
        reports,
        (Calibration(), locator.calibration),
        np.random.default_rng(1),
    )
    after = locator.calibration.of(torch.from_numpy(features)).nominal_level(raw)
    levels = {"before": before, "after": after}
    table = coverage_table(city, [(locator.reader, reports)], levels)
    strata: dict[str, dict[str, dict[str, float]]] = {}
    for row in table.to_dict("records"):
        part = strata.setdefault(row["stratum"], {}).setdefault(row["value"], {"n": int(row["n"])})
        part[row["method"]] = round(float(row["estimate"]), 4)
        name = f"{row['stratum']}: {row['value']} ({row['n']})"
        interval = f"{row['low']:.3f} to {row['high']:.3f}"
        print(f"{name:45s} {row['method']:6s} {row['estimate']:.3f}  ({interval})")
    large = [p for parts in strata.values() for p in parts.values() if p["n"] >= least]
    result = {
        "n": len(after),
        "tracks": len(np.unique(reports.track.values)),
        "coverage_90": float((after <= 0.9).mean()),
        "largest_gap": float(calibration_error(after)),
        "largest_gap_before": float(calibration_error(before)),
        "strata": strata,
        "largest_stratum_gap": max((abs(p["after"] - 0.9) for p in large), default=None),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
