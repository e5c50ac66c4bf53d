"""What every method is judged on: test reports with their true positions and circumstances."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from ueloc_core.city import City
from ueloc_core.evaluation.ranks import energy_rank, hpd_level, pit, tarp_rank
from ueloc_core.evaluation.scores import energy_score, hpd_area_m2
from ueloc_core.evaluation.strata import MOBILITIES
from ueloc_core.grid import Window
from ueloc_core.localization.windows import WindowReader
from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.dataset import to_batch
from ueloc_core.measurement.scenarios import SCENARIOS

_RANKS = 5  # uniform numbers that a case needs: region, PIT of x and y, TARP, energy


@dataclass(frozen=True)
class Case:
    """One test report.

    Attributes
    ----------
    report
        Index of the report in its data set.
    sector_id
        Its serving sector.
    frame
        The serving sector's window.
    truth_m
        True position (x, y) [m].
    draws
        Uniform numbers that break ties of ranks, and place TARP's reference, shape (7,).
    circumstances
        Columns of `FixSchema` that the strata read.
    """

    report: int
    sector_id: int
    frame: Window
    truth_m: tuple[float, float]
    draws: NDArray[np.float64]
    circumstances: dict[str, Any]


@dataclass(frozen=True)
class Cases:
    """Test reports, as a data set, as tensors and as cases, in one order."""

    reports: xr.Dataset
    batch: ReportBatch
    cases: tuple[Case, ...]

    def __len__(self) -> int:
        return len(self.cases)


@dataclass(frozen=True)
class Density:
    """A posterior over grid cells.

    Attributes
    ----------
    window
        Where it lies.
    mass
        Mass of each grid cell, shape of the window; what it lacks to one lies outside.
    nll_nats
        Negative log-density at the true position [nats, 1/m2].
    mass90
        Mass of the region that is said to hold the terminal with 90% probability.
    """

    window: Window
    mass: NDArray[np.float64]
    nll_nats: float
    mass90: float = 0.9


def choose_reports(city: City, reports: xr.Dataset, chosen: NDArray[np.bool_]) -> xr.Dataset:
    """A seeded choice among reports, ordered by serving sector so that maps are reused.

    One report a track, so that the cases are independent, and more of each only where the
    tracks are too few.

    Parameters
    ----------
    city
        Seed and number of reports.
    reports
        All reports; the result's ``report`` coordinate is the index in them.
    chosen
        Which ones to choose among, shape (report,).
    """
    rng = np.random.default_rng([city.seed, 10])
    picked = rng.permutation(np.flatnonzero(chosen))
    track = reports.track.values[picked]
    turn = pd.Series(track).groupby(track).cumcount().to_numpy()
    picked = picked[np.argsort(turn, kind="stable")][: city.evaluation.max_reports]
    order = np.lexsort((picked, reports.sector_id.values[picked, 0]))
    picked = picked[order]
    return reports.isel(report=picked).assign_coords(report=picked)


def cases_of(city: City, reader: WindowReader, reports: xr.Dataset) -> Cases:
    """Cases of reports (`choose_reports`)."""
    batch = to_batch(reports, reader.atlas)
    rng = np.random.default_rng([city.seed, 9])
    serving = batch.sector[:, 0].numpy()
    x_m, y_m = reports.x_m.values, reports.y_m.values
    site_m = reader.places.position_m[serving]
    distance_m = np.hypot(x_m - site_m[:, 0], y_m - site_m[:, 1])
    heard = batch.heard.sum(dim=1).numpy()
    cases = []
    for i in range(len(batch)):
        circumstances = {
            "track": int(reports.track[i]),
            "line_of_sight": float(reports.rt_line_of_sight[i, 0]),
            "heard": int(heard[i]),
            "site_distance_m": float(distance_m[i]),
            "scenario": _name(SCENARIOS, int(reports.scenario[i])),
            "mobility": _name(MOBILITIES, int(reports.mobility[i])),
        }
        cases.append(
            Case(
                report=int(reports.report[i]),
                sector_id=int(reports.sector_id[i, 0]),
                frame=reader.frames[int(serving[i])],
                truth_m=(float(x_m[i]), float(y_m[i])),
                draws=rng.uniform(size=_RANKS + 2),
                circumstances=circumstances,
            )
        )
    return Cases(reports, batch, tuple(cases))


def _name(names: tuple[str, ...], code: int) -> str | None:
    return names[code] if code >= 0 else None


def fix_row(
    method: str,
    case: Case,
    estimate_m: tuple[float, float],
    density: Density | None = None,
    *,
    latency_ms: float = np.nan,
    nominal_level: Any = None,
) -> dict[str, Any]:
    """One row of the fixes (`FixSchema`).

    Parameters
    ----------
    method
        Who located the terminal.
    case
        The report.
    estimate_m
        Estimated position (x, y) [m].
    density
        The posterior, or None for methods that give a point alone.
    latency_ms
        Time that the fix took [ms].
    nominal_level
        Turns a share of the posterior into the probability that its region is said to have; the
        share itself by default.
    """
    x_m, y_m = case.truth_m
    error_m = float(np.hypot(estimate_m[0] - x_m, estimate_m[1] - y_m))
    scores = dict.fromkeys(
        ("nll_nats", "hpd_level", "area90_m2", "sharpness_m", "pit_x", "pit_y", "tarp"), np.nan
    )
    scores |= {"energy_rank": np.nan, "energy_score_m": error_m}
    if density is not None:
        scores = _density_scores(case, density)
        if nominal_level is not None:
            scores["hpd_level"] = float(nominal_level(scores["hpd_level"]))
    return {
        "method": method,
        "report": case.report,
        "sector_id": case.sector_id,
        "x_m": estimate_m[0],
        "y_m": estimate_m[1],
        "truth_x_m": x_m,
        "truth_y_m": y_m,
        "error_m": error_m,
        "in_window": bool(case.frame.contains(x_m, y_m)),
        "latency_ms": latency_ms,
        **scores,
        **case.circumstances,
    }


def _density_scores(case: Case, density: Density) -> dict[str, float]:
    window, mass, draws = density.window, density.mass, case.draws
    row, column = (int(v) for v in window.indices(*case.truth_m))
    x0, y0, _, _ = window.bounds_m
    score = energy_score(mass, case.truth_m[0] - x0, case.truth_m[1] - y0, window.cell_m)
    pit_x, pit_y = pit(mass, row, column, draws[1:3])
    reference = draws[_RANKS:] * (window.columns, window.rows)
    return {
        "nll_nats": density.nll_nats,
        "hpd_level": float(hpd_level(mass, row, column, draws[0])),
        "area90_m2": float(hpd_area_m2(mass, density.mass90, window.cell_m)),
        "energy_score_m": float(score.score_m),
        "sharpness_m": float(score.sharpness_m),
        "pit_x": float(pit_x),
        "pit_y": float(pit_y),
        "tarp": float(tarp_rank(mass, row, column, draws[3], reference_cells=reference)),
        "energy_rank": float(energy_rank(mass, row, column, draws[4])),
    }
