"""What does a site's radio map cost against rays, sectors, depth and the size of the scene?

``python -m benchmarks.radio_map_cost [--figure FILE.png] [--quick]`` traces one site in the centre
of Helsinki (window of 800 m, grid cells of 4 m, two million rays, depth 5, three sectors unless
one of them varies) and measures time, median of three after a warm-up, and peak memory in a
process of its own, libraries included. The scene is thinned by leaving out the farthest
buildings. The last line is one JSON object: for each quantity its values, times and peaks.
"""

import argparse
import json
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.helsinki_site import INTERACTIONS, Site, helsinki_site, peak_memory_mb
from ueloc_core.radio.ray_tracing import RaySet, Sector, SiteTracer

RAYS, SECTORS, REPETITIONS = 2_000_000, 3, 3
VALUES: dict[str, tuple[int, ...]] = {
    "rays": (250_000, 500_000, 1_000_000, 2_000_000, 4_000_000, 8_000_000),
    "sectors": (1, 3, 6, 12),
    "depth": (0, 1, 2, 3, 4, 5, 6),
    "buildings": (25, 50, 100, 200, 400, 1000),  # the scene has fewer than the last
}
QUICK: dict[str, tuple[int, ...]] = {
    "rays": (250_000, 1_000_000),
    "sectors": (1, 3),
    "depth": (1, 3),
    "buildings": (50, 200),
}
_LABELS = {
    "rays": "rays [millions]",
    "sectors": "sectors of the site",
    "depth": "depth",
    "buildings": "buildings in the scene",
}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.radio_map_cost", description=__doc__
    )
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw a figure (PNG)")
    parser.add_argument("--quick", action="store_true", help="two values of each")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    with helsinki_site() as site:
        for quantity, values in (QUICK if options.quick else VALUES).items():
            found[quantity] = measured(site, quantity, values)
            for value, time_s, peak_mb in zip(*found[quantity].values(), strict=True):
                print(f"{quantity:10} {value:>9}  {time_s:6.2f} s  {peak_mb:6.0f} MB", flush=True)
    if options.figure is not None:
        draw(found, options.figure)
    print(json.dumps(found))


def measured(site: Site, quantity: str, values: tuple[int, ...]) -> dict[str, list[Any]]:
    """Times [s] and peaks [MB] for values of one quantity."""
    found: dict[str, list[Any]] = {"values": [], "time_s": [], "peak_mb": []}
    for value in values:
        thinned = helsinki_site(buildings=value) if quantity == "buildings" else nullcontext(site)
        with thinned as case:
            settings = {"rays": RAYS, "sectors": SECTORS, "depth": INTERACTIONS.max_depth}
            settings = {k: value if k == quantity else v for k, v in settings.items()}
            found["values"].append(case.buildings if quantity == "buildings" else value)
            found["time_s"].append(round(float(np.median(trace_s(case, settings, REPETITIONS))), 3))
            found["peak_mb"].append(round(peak_memory_mb(trace_s, case, settings, 0)))
    return found


def trace_s(site: Site, settings: dict[str, int], repetitions: int) -> list[float]:
    """Seconds of each repetition; a first one compiles and is left out."""
    first = site.sectors[0]
    sectors = [
        Sector(first.antenna, first.azimuth_deg + 360.0 * k / settings["sectors"], 8.0)
        for k in range(settings["sectors"])
    ]
    tracer = SiteTracer(site.load(), replace(INTERACTIONS, max_depth=settings["depth"]))
    times_s = []
    for turn in range(repetitions + 1):
        started = time.perf_counter()
        tracer.maps(site.mast_m, sectors, site.grid, RaySet(settings["rays"], turn))
        times_s.append(time.perf_counter() - started)
    return times_s[1:]


def draw(found: dict[str, Any], file: Path) -> None:
    """Four panels: time to the left, peak memory to the right."""
    figure = Figure(figsize=(9.0, 5.6), dpi=110, layout="constrained")
    for index, (quantity, of_quantity) in enumerate(found.items()):
        left = figure.add_subplot(2, 2, index + 1)
        right = left.twinx()
        values = np.array(of_quantity["values"], dtype=float)
        values = values / 1e6 if quantity == "rays" else values
        (seconds,) = left.plot(values, of_quantity["time_s"], "o-", color="tab:blue", clip_on=False)
        (memory,) = right.plot(
            values, np.array(of_quantity["peak_mb"]) / 1e3, "s--", color="tab:orange", clip_on=False
        )
        left.set(xlabel=_LABELS[quantity], ylabel="time [s]")
        right.set(ylabel="peak memory [GB]")
        left.set_ylim(0, 1.25 * max(of_quantity["time_s"]))
        right.set_ylim(0, 1.1 * max(of_quantity["peak_mb"]) / 1e3)
        left.set_xlim(left=0)
        left.xaxis.set_major_locator(MaxNLocator(integer=True))
        left.grid(alpha=0.3)
        if index == 0:
            left.legend([seconds, memory], ["time", "peak memory"], loc="lower right")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Software": None})


if __name__ == "__main__":
    main()
