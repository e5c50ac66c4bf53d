"""What does a whole radio-map cube cost, and how true is it, next to what Sionna RT offers?

``python -m benchmarks.radio_map [--quick] [--site N]`` traces the three sectors of one site in the
centre of Helsinki over a window of 800 m in grid cells of 4 m: depth 5, no refraction, first-order
diffraction in shadows. Ours (gain with its error, delays, angles, line of sight) and Sionna's
radio-map solver (gain alone, the same sectors in one call) take turns after a warm-up that
compiles their kernels; times are medians. Levels are 46 dBm over 273 resource blocks. The last
line is one JSON object.

ours_s, sionna_gain_only_s, ratio
    A million rays for the whole site against a million samples for each sector.
equal_error_speedup
    Sionna's time at ten million samples a sector over ours at a million rays: "at least", where
    its error (sionna_many_repeat_rms_db...) is still the greater.
path_solver_grid_s
    Sionna's path solver at a part of the outdoor grid cells' centres, all in one call at 10^5
    samples, scaled to all of them.
gain_rmse_db, delay_rmse_ns, azimuth_rmse_deg, los_agreement
    Against exact paths, see `benchmarks.path_truth`; the map is that of the product's default, two
    million rays.
repeat_rms_db_above_minus_120dbm
    Difference of two independent ray sets where both are above -120 dBm, for Sionna with another
    seed and another lattice (a million samples against 1.3 million).
error_bar_coverage
    Share of these differences within the 90% that their own standard errors allow (Student's t).
unknown_outdoor_share, large_error_outdoor_share
    Pairs of sector and outdoor grid cell without any path; and of those with one, the share whose
    standard error is above 1.5 dB or unknown.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.helsinki_site import (
    INTERACTIONS,
    THRESHOLD_DBM,
    Site,
    helsinki_site,
    peak_memory_mb,
)
from benchmarks.path_truth import Budget, PathTruth, compare
from benchmarks.sionna_rival import GainSolver, primary_rays_per_s
from ueloc_core.radio.ray_tracing import RaySet, SiteMaps, SiteTracer
from ueloc_core.radio.ray_tracing.engine import drjit
from ueloc_core.radio.ray_tracing.reference import reference_paths

_LARGE_ERROR_DB = 1.5
_OTHER_LATTICE = 1.3
_CONFIDENCE = 0.9
_QUANTILES = (0.5, 0.9, 0.95, 0.99)
_TIMES = ("ours_s", "ours_default_rays_s", "sionna_gain_only_s", "sionna_many_s")
_LARGE, _ABOVE = "large_error_outdoor_share", "above_minus_120dbm"

Levels = NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """How much is traced."""

    rays: int = 1_000_000
    default_rays: int = 2_000_000
    many_samples: int = 10_000_000
    repetitions: int = 3
    window_m: float = 800.0
    grid_positions: int = 512
    truth: Budget = field(default_factory=Budget)


QUICK = Plan(
    rays=200_000,
    default_rays=400_000,
    many_samples=1_000_000,
    repetitions=2,
    window_m=400.0,
    grid_positions=64,
    truth=Budget(cells=20, samples=50_000),
)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.radio_map",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer rays over a smaller window")
    parser.add_argument("--site", type=int, default=0, help="in order of height, 0 is the lowest")
    options = parser.parse_args()
    plan = QUICK if options.quick else Plan()
    with helsinki_site(plan.window_m, options.site) as site:
        found = measured(site, plan)
    print(table_of(found))
    print(json.dumps({name: _rounded(value) for name, value in found.items()}))


def table_of(found: dict[str, Any]) -> str:
    """The figures to read: first what both give, then ours next to exact paths."""
    rays = f"{found['rays_per_site'] / 1e6:g} M"
    twice = f"{found['default_rays_per_site'] / 1e6:g} M"
    many = f"{found['sionna_many_rays_per_sector'] / 1e6:g} M"
    heads = ("", f"ours, {rays}", f"ours, {twice}", f"Sionna, {rays}", f"Sionna, {many}")
    repeat, one = "repeat_rms_db_above_minus_120dbm", "heard_in_one_only"
    quantiles = "repeat_quantiles_db"
    columns = ("", "default_rays_", "sionna_", "sionna_many_")
    rows = [
        ("rays a site (ours) or samples a sector", *heads[1:]),
        ("time [s]", *(found[k] for k in _TIMES)),
        ("difference of two ray sets, RMS [dB]", *(found[c + repeat] for c in columns)),
        *(
            (f"the same, {float(q):.0%} of cells", *(found[c + quantiles][q] for c in columns))
            for q in map(str, _QUANTILES)
        ),
        ("heard by one ray set alone", *(found[c + one] for c in columns)),
        ("outdoors without any path", *(found[c + "unknown_outdoor_share"] for c in columns[:2])),
        ("error above 1.5 dB or unknown", *(found[c + _LARGE] for c in columns[:2])),
        ("the same above -120 dBm", *(found[f"{c}{_LARGE}_{_ABOVE}"] for c in columns[:2])),
        ("90% error bars cover", *(found[c + "error_bar_coverage"] for c in columns[:2])),
        ("peak memory [MB]", "", found["peak_memory_mb"], found["sionna_peak_memory_mb"]),
        ("path solver over the window [s], scaled", found["path_solver_grid_s"]),
        ("primary rays that Mitsuba traces [1/s]", found["primary_ray_limit_per_s"]),
        ("", "RMS", "50%", "90%", "95%"),
        *(
            (label, *(found[f"{name}_{part}_{unit}"] for part in ("rmse", "p50", "p90", "p95")))
            for label, name, unit in (
                ("gain against exact paths [dB]", "gain", "db"),
                ("first arrival [ns]", "delay", "ns"),
                ("azimuth of departure [deg]", "azimuth", "deg"),
                ("azimuth of arrival [deg]", "arrival_azimuth", "deg"),
                ("gain, whatever the mechanisms [dB]", "all_gain", "db"),
                ("first arrival, the same [ns]", "all_delay", "ns"),
            )
        ),
    ]
    width = max(len(row[0]) for row in rows)
    return "\n".join(
        f"{row[0]:{width}}" + "".join(f"{_shown(value):>14}" for value in row[1:]) for row in rows
    )


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


def measured(site: Site, plan: Plan) -> dict[str, Any]:
    """All figures."""
    runs = _Runs(site, plan)
    runs.take_turns()
    found = {
        **_speed(runs),
        **_path_solver_grid(runs),
        **_repeatability(runs),
        **_knowledge(runs),
        **_accuracy(runs),
        "primary_ray_limit_per_s": primary_rays_per_s(site),
        "peak_memory_mb": peak_memory_mb(_trace_once, site, plan.default_rays),
        "sionna_peak_memory_mb": peak_memory_mb(_solve_once, site, plan.rays),
        "rays_per_site": plan.rays,
        "default_rays_per_site": plan.default_rays,
        "sionna_rays_per_sector": plan.rays,
        "sionna_many_rays_per_sector": plan.many_samples,
        "sectors": len(site.sectors),
        "outdoor_cells": runs.outdoor_cells,
    }
    first = (
        *("ours_s", "sionna_gain_only_s", "ratio", "path_solver_grid_s", "speedup_vs_path_solver"),
        *("gain_rmse_db", "delay_rmse_ns", "azimuth_rmse_deg", "los_agreement", "rays_per_s"),
        *("primary_ray_limit_per_s", "unknown_outdoor_share", "repeat_rms_db_above_minus_120dbm"),
        *("sionna_repeat_rms_db_above_minus_120dbm", "error_bar_coverage"),
    )
    return {**{name: found[name] for name in first}, **found}


class _Runs:
    """Ours and Sionna's in turns: times [s] and maps."""

    def __init__(self, site: Site, plan: Plan) -> None:
        self.site, self.plan = site, plan
        self.scene = site.load()
        self.tracer = SiteTracer(self.scene, INTERACTIONS)
        self.rival = GainSolver(site)
        self.times_s: dict[str, list[float]] = {}
        self.ours: dict[int, list[SiteMaps]] = {plan.rays: [], plan.default_rays: []}
        self.sionna: dict[str, list[Levels]] = {}

    def take_turns(self) -> None:
        """Run all of them; the first round compiles and is left out."""
        plan = self.plan
        for turn in range(plan.repetitions + 1):
            for rays in self.ours:
                maps = self._timed(f"ours {rays}", self._trace, rays, turn)
                self.ours[rays].append(maps)
                self._solve("one", plan.rays, turn, diffraction=True)
            self._solve("no diffraction", plan.rays, turn, diffraction=False)
        self._solve("other lattice", int(plan.rays * _OTHER_LATTICE), 100, diffraction=True)
        self._solve("many", plan.many_samples, 200, diffraction=True)
        self._solve(
            "many, other lattice", int(plan.many_samples * _OTHER_LATTICE), 300, diffraction=True
        )
        for rays in self.ours:
            del self.ours[rays][0]
            del self.times_s[f"ours {rays}"][0]
        del self.times_s["one"][0], self.times_s["no diffraction"][0]
        self.free = self.ours[plan.rays][0].outdoor_share > 0
        self.outdoor_cells = int(self.free.sum())

    def _trace(self, rays: int, turn: int) -> SiteMaps:
        site = self.site
        return self.tracer.maps(site.mast_m, site.sectors, site.grid, RaySet(rays, 10 + turn))

    def _solve(self, name: str, samples: int, seed: int, *, diffraction: bool) -> None:
        gain = self._timed(
            name, lambda: self.rival.gain(samples, seed + 1, diffraction=diffraction)
        )
        self.sionna.setdefault(name, []).append(self.level_dbm(gain))

    def _timed(self, name: str, task: Callable[..., Any], *arguments: Any) -> Any:
        drjit().sync_thread()
        started = time.perf_counter()
        result = task(*arguments)
        drjit().sync_thread()
        self.times_s.setdefault(name, []).append(time.perf_counter() - started)
        return result

    def level_dbm(self, gain: NDArray[Any]) -> Levels:
        """Power per resource element of linear gains, -inf without any."""
        # Sionna's diffraction gives a negative power in a few of ten thousand grid cells
        with np.errstate(divide="ignore"):
            return 10 * np.log10(np.maximum(gain, 0.0)) + self.site.element_power_dbm

    def levels_dbm(self, rays: int) -> list[Levels]:
        """The same of each of our ray sets."""
        found = []
        for maps in self.ours[rays]:
            level = np.stack([m.path_gain_db for m in maps.sectors]) + self.site.element_power_dbm
            found.append(np.nan_to_num(level.astype(np.float64), nan=-np.inf))
        return found

    def median_s(self, name: str) -> float:
        """Median time [s]."""
        return float(np.median(self.times_s[name]))


def _speed(runs: _Runs) -> dict[str, Any]:
    plan = runs.plan
    ours_s, sionna_s = runs.median_s(f"ours {plan.rays}"), runs.median_s("one")
    default_s, many_s = runs.median_s(f"ours {plan.default_rays}"), runs.median_s("many")
    return {
        "ours_s": ours_s,
        "sionna_gain_only_s": sionna_s,
        "ratio": ours_s / sionna_s,
        "ratio_of_each_turn": [
            o / s
            for o, s in zip(
                runs.times_s[f"ours {plan.rays}"], runs.times_s["one"][::2], strict=False
            )
        ],
        "sionna_no_diffraction_s": runs.median_s("no diffraction"),
        "ours_default_rays_s": default_s,
        "ratio_default_rays": default_s / sionna_s,
        "rays_per_s": plan.rays / ours_s,
        "sionna_many_s": many_s,
        "equal_error_speedup": many_s / ours_s,
        "equal_error_speedup_default_rays": many_s / default_s,
    }


def _path_solver_grid(runs: _Runs) -> dict[str, Any]:
    site, grid = runs.site, runs.site.grid
    rng = np.random.default_rng(1)
    cells = rng.choice(np.flatnonzero(runs.free), runs.plan.grid_positions, replace=False)
    row, column = np.divmod(cells, grid.columns)
    x = grid.corner_m[0] + grid.cell_m * (column + 0.5)
    y = grid.corner_m[1] + grid.cell_m * (row + 0.5)
    places = np.stack([x, y, np.full_like(x, grid.height_m)], axis=1)
    taken_s = []
    for _ in range(2):  # the first one compiles
        started = time.perf_counter()
        reference_paths(
            runs.scene,
            site.mast_m,
            site.sectors,
            places,
            INTERACTIONS,
            samples=100_000,
            at_a_time=len(places),
        )
        taken_s.append(time.perf_counter() - started)
    scaled_s = taken_s[-1] * runs.outdoor_cells / len(places)
    return {
        "path_solver_grid_s": scaled_s,
        "path_solver_positions_measured": len(places),
        "speedup_vs_path_solver": scaled_s / runs.median_s(f"ours {runs.plan.rays}"),
    }


def _repeatability(runs: _Runs) -> dict[str, Any]:
    plan, sionna = runs.plan, runs.sionna
    ours = {rays: _pooled(runs.levels_dbm(rays)) for rays in runs.ours}
    theirs = {
        samples: _difference(sionna[one][-1], sionna[other][0])
        for samples, one, other in (
            (plan.rays, "one", "other lattice"),
            (plan.many_samples, "many", "many, other lattice"),
        )
    }
    sets = {
        "": ours[plan.rays],
        "default_rays_": ours[plan.default_rays],
        "sionna_": theirs[plan.rays],
        "sionna_many_": theirs[plan.many_samples],
    }
    found: dict[str, Any] = {}
    for prefix, difference in sets.items():
        found |= {
            f"{prefix}repeat_rms_db_{_ABOVE}": difference["rms_db"],
            f"{prefix}repeat_quantiles_db": difference["quantiles_db"],
            f"{prefix}heard_in_one_only": difference["one_only"],
        }
    found["equal_error_is_at_least"] = sets["sionna_many_"]["rms_db"] > sets[""]["rms_db"]
    return found


def _pooled(levels: list[Levels]) -> dict[str, Any]:
    """Differences of all pairs of ray sets, taken together."""
    pairs = list(combinations(levels, 2))
    return _difference(np.stack([a for a, _ in pairs]), np.stack([b for _, b in pairs]))


def _difference(a: Levels, b: Levels) -> dict[str, Any]:
    heard = a > THRESHOLD_DBM, b > THRESHOLD_DBM
    both, either = heard[0] & heard[1], heard[0] | heard[1]
    difference = a[both] - b[both]
    return {
        "rms_db": float(np.sqrt(np.mean(difference**2))),
        "quantiles_db": dict(
            zip(map(str, _QUANTILES), np.quantile(np.abs(difference), _QUANTILES), strict=True)
        ),
        "one_only": 1.0 - float(both.sum() / either.sum()),
    }


def _knowledge(runs: _Runs) -> dict[str, Any]:
    """What the maps do not know, and whether they say so."""
    found: dict[str, Any] = {}
    for prefix, rays in (("", runs.plan.rays), ("default_rays_", runs.plan.default_rays)):
        levels = np.stack(runs.levels_dbm(rays))[..., runs.free]
        errors = np.stack([[m.path_gain_se_db for m in maps.sectors] for maps in runs.ours[rays]])[
            ..., runs.free
        ]
        known, large = np.isfinite(levels), ~(errors <= _LARGE_ERROR_DB)
        heard = levels > THRESHOLD_DBM
        pairs = list(combinations(range(len(levels)), 2))
        inside = []
        for one, other in pairs:
            both = heard[one] & heard[other]
            own = np.hypot(errors[one], errors[other])[both]
            with np.errstate(invalid="ignore"):
                inside.append(np.abs(levels[one][both] - levels[other][both]) / own)
        scaled = np.concatenate(inside)
        told = np.isfinite(scaled)
        freedom = 2 * (RaySet(rays, 0).batches - 1)
        limit = float(stats.t.ppf((1 + _CONFIDENCE) / 2, freedom))
        found |= {
            f"{prefix}unknown_outdoor_share": float((~known).mean()),
            f"{prefix}{_LARGE}": float(large[known].mean()),
            f"{prefix}{_LARGE}_{_ABOVE}": float(large[heard].mean()),
            f"{prefix}error_bar_coverage": float((scaled[told] <= limit).mean()),
            f"{prefix}error_bar_unknown_share": float((~told).mean()),
        }
    return found


def _accuracy(runs: _Runs) -> dict[str, Any]:
    """Against exact paths, through as many rays as the product takes by default, and four times.

    With more rays the map's own noise falls, and what is left is the method's.
    """
    plan = runs.plan
    maps = runs.ours[plan.default_rays][0]
    truth = PathTruth(runs.site, runs.scene, maps, plan.truth)
    found = compare(truth, maps, RaySet(plan.default_rays, 11))
    many = RaySet(4 * plan.default_rays, 11)
    quiet = compare(truth, truth.trace(many, INTERACTIONS), many)
    kept = ("gain_rmse_db", "gain_p90_db", "delay_rmse_ns", "delay_within_goal_share")
    return {
        **found,
        **{
            f"four_times_rays_{name}": quiet[name]
            for name in (*kept, "azimuth_rmse_deg", "azimuth_p90_deg", "same_mechanisms_share")
        },
        "truth_cells": len(truth.cells),
        "truth_samples": plan.truth.samples,
    }


def _trace_once(site: Site, rays: int) -> None:
    tracer = SiteTracer(site.load(), INTERACTIONS)
    tracer.maps(site.mast_m, site.sectors, site.grid, RaySet(rays, 1))


def _solve_once(site: Site, samples: int) -> None:
    GainSolver(site).gain(samples, 1)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.4g}")
    return value


if __name__ == "__main__":
    main()
