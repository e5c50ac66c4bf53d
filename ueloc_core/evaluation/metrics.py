"""Accuracy and calibration of fixes: what is measured, and how sure we are of it.

A metric reduces one column of the fixes (one row per method and report, see
`ueloc_core.evaluation.schemas.FixSchema`). A method without a density has NaN there, and NaN
comes out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from ueloc_core.errors import UelocError
from ueloc_core.localization.regions import hpd_cells

Array = NDArray[np.float64]

METHODS = ("network", "oracle", "knn", "strongest_sector")
REFERENCE = "oracle"
NOMINAL_LEVELS: tuple[float, ...] = tuple(round(0.05 * i, 2) for i in range(1, 20))


class Metric(Protocol):
    """Reduces the last axis of one column of the fixes to a number."""

    @property
    def column(self) -> str:
        """Column of the fixes that is reduced."""

    @property
    def name(self) -> str:
        """Column of the summary; ends in its unit."""

    def reduce(self, values: Array) -> Array:
        """The metric along the last axis of `values`."""


@dataclass(frozen=True)
class ErrorQuantile:
    """Quantile of the distance between estimate and truth [m]."""

    q: float
    column: ClassVar[str] = "error_m"

    @property
    def name(self) -> str:
        """``median_m``, or ``p90_m`` and the like."""
        return "median_m" if self.q == 0.5 else f"p{100 * self.q:g}_m"

    def reduce(self, values: Array) -> Array:
        """The quantile, interpolated linearly."""
        return np.asarray(np.quantile(values, self.q, axis=-1))


@dataclass(frozen=True)
class MeanError:
    """Mean distance between estimate and truth [m]."""

    column: ClassVar[str] = "error_m"
    name: str = "mean_m"

    def reduce(self, values: Array) -> Array:
        """The mean."""
        return np.asarray(values.mean(axis=-1))


@dataclass(frozen=True)
class NegativeLogLikelihood:
    """Mean of -log p(truth), with p the posterior density in 1/m^2 [nats]."""

    column: ClassVar[str] = "nll_nats"
    name: str = "nll_nats"

    def reduce(self, values: Array) -> Array:
        """The mean."""
        return np.asarray(values.mean(axis=-1))


@dataclass(frozen=True)
class Coverage:
    """Share of truths inside the region of highest density that holds `level` of the posterior."""

    level: float
    column: ClassVar[str] = "hpd_level"

    @property
    def name(self) -> str:
        """``coverage_90`` and the like."""
        return f"coverage_{100 * self.level:g}"

    def reduce(self, values: Array) -> Array:
        """The share."""
        return np.asarray(np.where(np.isnan(values), np.nan, values <= self.level).mean(axis=-1))


@dataclass(frozen=True)
class Success:
    """Share of fixes within a distance [m] of the truth."""

    radius_m: float
    column: ClassVar[str] = "error_m"

    @property
    def name(self) -> str:
        """``success_10m`` and the like."""
        return f"success_{self.radius_m:g}m"

    def reduce(self, values: Array) -> Array:
        """The share."""
        return np.asarray((values <= self.radius_m).mean(axis=-1))


@dataclass(frozen=True)
class MedianArea90:
    """Median area of the region of highest density that holds 90% of the posterior [m^2]."""

    column: ClassVar[str] = "area90_m2"
    name: str = "area90_m2"

    def reduce(self, values: Array) -> Array:
        """The median."""
        return np.asarray(np.median(values, axis=-1))


@dataclass(frozen=True)
class ShareInWindow:
    """Share of truths that lie in the window of their serving sector."""

    column: ClassVar[str] = "in_window"
    name: str = "share_in_window"

    def reduce(self, values: Array) -> Array:
        """The share."""
        return np.asarray(values.mean(axis=-1))


HEADLINE_METRICS: tuple[Metric, ...] = (
    ErrorQuantile(0.5),
    ErrorQuantile(0.67),
    ErrorQuantile(0.9),
    MeanError(),
    NegativeLogLikelihood(),
    Coverage(0.5),
    Coverage(0.9),
)
METRICS: tuple[Metric, ...] = (
    *HEADLINE_METRICS,
    *(Success(radius_m) for radius_m in (5.0, 10.0, 20.0, 50.0)),
    MedianArea90(),
    ShareInWindow(),
)


def methods_in(fixes: pd.DataFrame) -> list[str]:
    """Methods of a table of fixes or metrics: the known ones in their usual order, then others."""
    found = list(dict.fromkeys(fixes["method"]))
    return [m for m in METHODS if m in found] + [m for m in found if m not in METHODS]


def fixes_of(fixes: pd.DataFrame, method: str) -> pd.DataFrame:
    """The fixes of one method."""
    return fixes[fixes["method"] == method]


def summarise(fixes: pd.DataFrame, metrics: Sequence[Metric] = METRICS) -> pd.DataFrame:
    """One row per method: its number of fixes ``n`` and the metrics, NaN without a density.

    Raises
    ------
    UelocError
        If there is no fix.
    """
    if fixes.empty:
        raise UelocError("there is no fix to summarise", remedy="Does the test split hold reports?")
    rows = []
    for method in methods_in(fixes):
        own = fixes_of(fixes, method)
        rows.append(
            {"method": method, "n": len(own)}
            | {m.name: float(m.reduce(_values(own, m))) for m in metrics}
        )
    return pd.DataFrame(rows)


def summary_dict(
    fixes: pd.DataFrame, metrics: Sequence[Metric] = HEADLINE_METRICS
) -> dict[str, dict[str, float | int | None]]:
    """The summary as JSON values, by method; None where a method has no density."""
    return {
        str(row.pop("method")): {
            str(k): None if isinstance(v, float) and np.isnan(v) else v for k, v in row.items()
        }
        for row in summarise(fixes, metrics).to_dict("records")
    }


def stratify(fixes: pd.DataFrame, by: str, *, metrics: Sequence[Metric] = METRICS) -> pd.DataFrame:
    """The summary within each value (or category) of a column, which becomes the first column.

    Raises
    ------
    UelocError
        If the column does not exist.
    """
    if by not in fixes:
        raise UelocError(
            f"fixes have no column '{by}'", remedy=f"Columns: {', '.join(map(str, fixes))}."
        )
    parts = []
    for value, group in fixes.groupby(by, sort=True, observed=True):
        part = summarise(group, metrics)
        part.insert(0, by, value)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def relative_to_oracle(summary: pd.DataFrame) -> pd.DataFrame:
    """The summary with ``gap_nats`` (NLL above the oracle's) and ``median_ratio`` to the oracle's.

    Both are NaN where the oracle is absent.
    """
    reference = summary[summary["method"] == REFERENCE]
    nll, median_m = (
        (float(reference[column].iloc[0]) if len(reference) else float("nan"))
        for column in ("nll_nats", "median_m")
    )
    return summary.assign(
        gap_nats=summary["nll_nats"] - nll, median_ratio=summary["median_m"] / median_m
    )


def bootstrap_intervals(
    fixes: pd.DataFrame,
    metrics: Sequence[Metric] = (ErrorQuantile(0.5), ErrorQuantile(0.9)),
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Percentile-bootstrap confidence intervals over reports.

    Returns
    -------
    One row per method and metric: method, metric, value, low, high.
    """
    tails = ((1 - confidence) / 2, (1 + confidence) / 2)
    rows = []
    for method in methods_in(fixes):
        own = fixes_of(fixes, method)
        rng = np.random.default_rng(seed)  # the same draws of reports for every method
        drawn = rng.integers(len(own), size=(resamples, len(own)))
        for metric in metrics:
            values = _values(own, metric)
            low, high = np.quantile(metric.reduce(values[drawn]), tails)
            rows.append((method, metric.name, float(metric.reduce(values)), low, high))
    return pd.DataFrame(rows, columns=["method", "metric", "value", "low", "high"])


def _values(fixes: pd.DataFrame, metric: Metric) -> Array:
    return fixes[metric.column].to_numpy(dtype=np.float64)


def hpd_level(mass: NDArray[np.floating[Any]], row: Any, column: Any, u: Any) -> Any:
    """Smallest share of the posterior whose region of highest density reaches the truth.

    It is uniform over [0, 1) when the posterior is exact. On a grid the mass of the truth's own
    cell would make it too coarse, so the rank within that cell (and within all cells that are
    exactly as dense) is randomised.

    Parameters
    ----------
    mass
        Posterior mass per grid cell, shape (..., rows, columns). What it lacks to one lies
        outside of the window and counts as the least dense place.
    row, column
        Grid cell of the truth, of the leading shape; may lie outside of the window.
    u
        Uniform random numbers in [0, 1), of the leading shape.

    Returns
    -------
    The level, of the leading shape (a float for a single raster).
    """
    flat = np.asarray(mass, dtype=np.float64).reshape(*np.shape(mass)[:-2], -1)
    rows, columns = np.shape(mass)[-2:]
    row, column = np.asarray(row), np.asarray(column)
    inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    index = np.where(inside, row * columns + column, 0)[..., None]
    own = np.take_along_axis(flat, index, axis=-1)
    denser = np.where(flat > own, flat, 0.0).sum(axis=-1)
    tied = np.where(flat == own, flat, 0.0).sum(axis=-1)
    held = flat.sum(axis=-1)
    level = np.where(inside, denser + u * tied, held + u * (1.0 - held))
    return np.clip(level, 0.0, 1.0)[()]


def hpd_area_m2(mass: NDArray[np.floating[Any]], level: float, cell_m: float) -> Any:
    """Area [m^2] of the smallest set of grid cells that holds a share of the posterior.

    Where the window holds less than `level` it is the area of the window: a lower bound.
    The result has the leading shape of `mass` (..., rows, columns).
    """
    return hpd_cells(mass, level).sum(axis=(-2, -1)) * cell_m**2


class Calibration(StrEnum):
    """What the levels of `hpd_level` say about a method's posteriors."""

    CALIBRATED = "calibrated"
    CONSERVATIVE = "conservative"
    OVERCONFIDENT = "overconfident"
    UNEVEN = "uneven"


def diagnose_coverage(levels: Any, significance: float = 0.01) -> Calibration:
    """Judge whether the levels of `hpd_level` are uniform.

    A Kolmogorov-Smirnov test decides whether they are; if not, their mean tells whether the
    regions are too large (conservative) or too small (overconfident). ``uneven`` means neither:
    too small at some levels and too large at others.
    """
    values = _finite_levels(levels)
    if stats.kstest(values, "uniform").pvalue >= significance:
        return Calibration.CALIBRATED
    z = (values.mean() - 0.5) * np.sqrt(12 * len(values))
    if abs(z) < stats.norm.isf(significance / 2):
        return Calibration.UNEVEN
    return Calibration.OVERCONFIDENT if z > 0 else Calibration.CONSERVATIVE


def coverage_curve(
    levels: Any, nominal: Sequence[float] = NOMINAL_LEVELS, *, confidence: float = 0.95
) -> pd.DataFrame:
    """Nominal against empirical coverage.

    Parameters
    ----------
    levels
        Values of `hpd_level`, one per fix.
    nominal
        Levels to look at.
    confidence
        Of the binomial band in which a calibrated method stays at each level.

    Returns
    -------
    One row per level: nominal, empirical, low, high (the band around the nominal level).
    """
    values = _finite_levels(levels)
    q = np.asarray(nominal)
    low, high = stats.binom.interval(confidence, len(values), q)
    return pd.DataFrame(
        {
            "nominal": q,
            "empirical": (values[:, None] <= q).mean(axis=0),
            "low": low / len(values),
            "high": high / len(values),
        }
    )


def _finite_levels(levels: Any) -> Array:
    values = np.asarray(levels, dtype=np.float64)
    if values.size == 0 or np.isnan(values).any():
        raise UelocError(
            "coverage needs at least one level and no NaN",
            remedy="Leave out the methods that have no density.",
        )
    return values
