"""Accuracy and calibration of fixes in tables: summaries, strata, and how sure we are of them.

What is measured is in `ueloc_core.evaluation.figures_of_merit`, the ranks and scores of single
posteriors in `ueloc_core.evaluation.ranks` and `ueloc_core.evaluation.scores`.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ueloc_core.errors import UelocError
from ueloc_core.evaluation.diagnostics import (
    NOMINAL_LEVELS,
    Calibration,
    coverage_curve,
    diagnose_coverage,
)
from ueloc_core.evaluation.figures_of_merit import (
    HEADLINE_METRICS,
    METRICS,
    SCORE_METRICS,
    CalibrationError,
    Coverage,
    ErrorQuantile,
    LatencyQuantile,
    MeanEnergyScore,
    MeanError,
    MeanSharpness,
    MedianArea90,
    Metric,
    NegativeLogLikelihood,
    RootMeanSquareError,
    ShareInWindow,
    Success,
)
from ueloc_core.evaluation.ranks import hpd_level
from ueloc_core.evaluation.scores import hpd_area_m2

__all__ = [  # with what its callers judge a posterior by
    "HEADLINE_METRICS", "METHODS", "METRICS", "NOMINAL_LEVELS", "REFERENCE", "SCORE_METRICS",
    "Calibration", "CalibrationError", "Coverage", "ErrorQuantile", "LatencyQuantile",
    "MeanEnergyScore", "MeanError", "MeanSharpness", "MedianArea90", "Metric",
    "NegativeLogLikelihood", "RootMeanSquareError", "ShareInWindow", "Success",
    "bootstrap_intervals", "bootstrap_ratios", "coverage_curve", "diagnose_coverage", "fixes_of",
    "hpd_area_m2", "hpd_level", "methods_in", "metrics_for", "relative_to_oracle", "stratify",
    "summarise", "summary_dict",
]  # fmt: skip

Array = NDArray[np.float64]

METHODS = (
    "network", "network_refined", "network_track", "oracle", "oracle_track", "grid_bayes_twin",
    "locunet_like", "knn", "trilateration", "weighted_centroid", "strongest_sector",
)  # fmt: skip
REFERENCE = "oracle"


def methods_in(fixes: pd.DataFrame) -> list[str]:
    """Methods of a table of fixes or metrics: the known ones in their usual order, then others."""
    found = list(dict.fromkeys(fixes["method"]))
    return [m for m in METHODS if m in found] + [m for m in found if m not in METHODS]


def fixes_of(fixes: pd.DataFrame, method: str) -> pd.DataFrame:
    """The fixes of one method."""
    return fixes[fixes["method"] == method]


def metrics_for(fixes: pd.DataFrame) -> tuple[Metric, ...]:
    """`METRICS`, and those of `SCORE_METRICS` whose columns the fixes have."""
    return *METRICS, *(m for m in SCORE_METRICS if m.column in fixes)


def summarise(fixes: pd.DataFrame, metrics: Sequence[Metric] | None = None) -> pd.DataFrame:
    """One row per method: its number of fixes ``n`` and the metrics, NaN without a density.

    Without `metrics` those of `metrics_for`.

    Raises
    ------
    UelocError
        If there is no fix.
    """
    if fixes.empty:
        raise UelocError("there is no fix to summarise", remedy="Does the test split hold reports?")
    metrics = metrics_for(fixes) if metrics is None else metrics
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


def stratify(
    fixes: pd.DataFrame, by: str, *, metrics: Sequence[Metric] | None = None
) -> pd.DataFrame:
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
    cluster: str | None = None,
) -> pd.DataFrame:
    """Percentile-bootstrap confidence intervals over reports.

    Parameters
    ----------
    fixes
        Table of fixes.
    metrics
        What to state an interval of.
    confidence
        Of the intervals.
    resamples, seed
        Number of resamples, and the seed of their draws.
    cluster
        Column whose values are drawn instead of single reports, with all of their fixes: the
        reports of a track, or of a site, share their luck, and intervals that ignore it are too
        short.

    Returns
    -------
    One row per method and metric: method, metric, value, low, high.
    """
    tails = ((1 - confidence) / 2, (1 + confidence) / 2)
    rows = []
    for method in methods_in(fixes):
        own = fixes_of(fixes, method)
        drawn = list(_resampled(own, resamples, seed, cluster))  # the same for every method
        for metric in metrics:
            values = _values(own, metric)
            low, high = np.quantile([metric.reduce(values[d]) for d in drawn], tails)
            rows.append((method, metric.name, float(metric.reduce(values)), low, high))
    return pd.DataFrame(rows, columns=["method", "metric", "value", "low", "high"])


def bootstrap_ratios(
    fixes: pd.DataFrame,
    metrics: Sequence[Metric] = (ErrorQuantile(0.5), ErrorQuantile(0.9)),
    *,
    reference: str = REFERENCE,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    cluster: str | None = None,
) -> pd.DataFrame:
    """Intervals of the ratio of each metric to that of a reference method, paired by report.

    Both are resampled together, over the reports that both located: what makes a report hard is
    shared, so the ratio is surer than its two parts.

    Parameters
    ----------
    fixes, metrics, confidence, resamples, seed, cluster
        As for `bootstrap_intervals`.
    reference
        Method of the denominator.

    Returns
    -------
    One row per other method and metric: method, metric, n, value, low, high. A metric that a
    method lacks is NaN.

    Raises
    ------
    UelocError
        If the reference is absent, or shares no report with a method.
    """
    key = [column for column in ("split", "report") if column in fixes]
    base = fixes_of(fixes, reference).set_index(key)
    tails = ((1 - confidence) / 2, (1 + confidence) / 2)
    rows = []
    for method in methods_in(fixes):
        if method == reference:
            continue
        own = fixes_of(fixes, method).set_index(key)
        shared = own.index.intersection(base.index)
        if shared.empty:
            raise UelocError(
                f"'{method}' and '{reference}' share no report",
                remedy="Locate the same reports with both, or leave one out.",
            )
        pair = own.loc[shared].reset_index(), base.loc[shared].reset_index()
        drawn = list(_resampled(pair[0], resamples, seed, cluster))
        for metric in metrics:
            top, bottom = (_values(part, metric) for part in pair)
            ratio = [float(metric.reduce(top[d]) / metric.reduce(bottom[d])) for d in drawn]
            value = float(metric.reduce(top) / metric.reduce(bottom))
            rows.append((method, metric.name, len(shared), value, *np.quantile(ratio, tails)))
    return pd.DataFrame(rows, columns=["method", "metric", "n", "value", "low", "high"])


def _resampled(
    fixes: pd.DataFrame, resamples: int, seed: int, cluster: str | None
) -> Iterator[NDArray[np.int64]]:
    """Positions of the fixes in each resample."""
    rng = np.random.default_rng(seed)
    if cluster is None:
        yield from rng.integers(len(fixes), size=(resamples, len(fixes)))
        return
    members = list(fixes.groupby(cluster, sort=True, dropna=False).indices.values())
    for drawn in rng.integers(len(members), size=(resamples, len(members))):
        yield np.concatenate([members[k] for k in drawn])


def _values(fixes: pd.DataFrame, metric: Metric) -> Array:
    return fixes[metric.column].to_numpy(dtype=np.float64)
