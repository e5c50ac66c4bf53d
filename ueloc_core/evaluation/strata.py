"""Accuracy and calibration by circumstance: strata of the fixes, and tables over them.

A mean over all reports hides where a locator fails and where it is overconfident. Each stratum
reads one column of the fixes, which a table may lack.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ueloc_core.errors import UelocError
from ueloc_core.evaluation.metrics import (
    Coverage,
    ErrorQuantile,
    Metric,
    bootstrap_intervals,
    metrics_for,
    stratify,
)
from ueloc_core.measurement.scenarios import SCENARIOS
from ueloc_core.world.settings import CUSTOM, LEVELS

MOBILITIES = ("static", "pedestrian", "vehicle")
TEST_SPLITS = (
    "test_area",
    *(f"mismatch_{name}" for name in (*LEVELS, CUSTOM) if name != "none"),
    *("test_city", "path_traced", "tracks"),
)
"""Tests, by what is new in them: the area, the city, the map, or the simulator of the reports;
and last reports of tracks, located with and without those before them."""

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Stratum:
    """One way to divide the fixes.

    Attributes
    ----------
    name
        Name in the tables.
    title
        Name in the figures.
    column
        Column of the fixes that is read.
    values
        Names of the parts, in their order.
    edges
        Lower edges of the parts where the column is a number, and the end of the last; the last
        part holds its end.
    """

    name: str
    title: str
    column: str
    values: tuple[str, ...]
    edges: tuple[float, ...] = ()

    def of(self, fixes: pd.DataFrame) -> pd.Series:
        """The part that each fix is in, as ordered categories.

        Missing values are in ``unknown``, the last category; names that `values` lacks come
        before it.

        Raises
        ------
        UelocError
            If the column is missing or a number lies in no part.
        """
        if self.column not in fixes:
            raise UelocError(
                f"fixes have no column '{self.column}'",
                where=f"stratum '{self.name}'",
                remedy=f"Columns: {', '.join(map(str, fixes))}.",
            )
        column = fixes[self.column]
        found = self._binned(column) if self.edges else column.astype(object)
        found = found.where(column.notna(), UNKNOWN)
        others = sorted({str(v) for v in found} - {*self.values, UNKNOWN})
        order = [*self.values, *others, UNKNOWN]
        return pd.Series(
            pd.Categorical(found, categories=order, ordered=True), index=fixes.index, name=self.name
        )

    def _binned(self, column: pd.Series) -> pd.Series:
        number = column.to_numpy(dtype=np.float64)
        known = ~np.isnan(number)
        if ((number < self.edges[0]) | (number > self.edges[-1]))[known].any():
            raise UelocError(
                f"values from {np.nanmin(number):g} to {np.nanmax(number):g} are not all in "
                f"[{self.edges[0]:g}, {self.edges[-1]:g}]",
                where=f"column '{self.column}'",
            )
        part = np.searchsorted(self.edges[1:-1], number, side="right")
        return pd.Series(np.asarray(self.values, dtype=object)[part], index=column.index)


STRATA: tuple[Stratum, ...] = (
    Stratum("split", "Test", "split", TEST_SPLITS),
    Stratum(
        "line_of_sight",
        "Serving sector",
        "line_of_sight",
        ("no line of sight", "line of sight"),
        (0, 0.5, 1),
    ),
    Stratum("heard", "Sectors heard", "heard", ("1", "2-3", "4-6", "7-8"), (1, 2, 4, 7, 8)),
    Stratum("scenario", "Reported features", "scenario", SCENARIOS),
    Stratum("mobility", "Mobility", "mobility", MOBILITIES),
    Stratum(
        "site_distance",
        "Distance to the site",
        "site_distance_m",
        ("below 50 m", "50-100 m", "100-200 m", "200-400 m", "above 400 m"),
        (0, 50, 100, 200, 400, np.inf),
    ),
)
RELIABILITY: tuple[Metric, ...] = (ErrorQuantile(0.5), ErrorQuantile(0.9), Coverage(0.9))


def strata_for(fixes: pd.DataFrame) -> tuple[Stratum, ...]:
    """Those of `STRATA` whose columns the fixes have."""
    return tuple(s for s in STRATA if s.column in fixes)


def by_stratum(
    fixes: pd.DataFrame,
    strata: Sequence[Stratum] | None = None,
    *,
    metrics: Sequence[Metric] | None = None,
) -> pd.DataFrame:
    """The summary of each method within each part of each stratum.

    Parameters
    ----------
    fixes
        Table of fixes.
    strata
        How to divide them; `strata_for` by default.
    metrics
        What to summarise; `metrics_for` by default. ``nll_nats`` is minus the mean log score.

    Returns
    -------
    One row per part and method: stratum, value (the part), method, n and the metrics. No rows
    where there is no stratum.

    Raises
    ------
    UelocError
        If there is no fix, or a stratum's column is missing or out of range.
    """
    strata = strata_for(fixes) if strata is None else strata
    metrics = metrics_for(fixes) if metrics is None else metrics
    columns = ["stratum", "value", "method", "n", *(m.name for m in metrics)]
    parts = []
    for stratum in strata:
        part = stratify(fixes.assign(value=stratum.of(fixes)), "value", metrics=metrics)
        parts.append(part.assign(stratum=stratum.name, value=part["value"].astype(str)))
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def intervals_by_stratum(
    fixes: pd.DataFrame,
    strata: Sequence[Stratum] | None = None,
    *,
    metrics: Sequence[Metric] = RELIABILITY,
    resamples: int = 1000,
    seed: int = 0,
    cluster: str | None = None,
) -> pd.DataFrame:
    """Bootstrap intervals of each method within each part of each stratum.

    Parameters are those of `by_stratum` and of `ueloc_core.evaluation.metrics.bootstrap_intervals`.

    Returns
    -------
    One row per part, method and metric: stratum, value (the part), method, metric, estimate, low
    and high.
    """
    columns = ["stratum", "value", "method", "metric", "estimate", "low", "high"]
    parts = []
    for stratum in strata_for(fixes) if strata is None else strata:
        for value, group in fixes.groupby(stratum.of(fixes), sort=True, observed=True):
            found = bootstrap_intervals(
                group, metrics, resamples=resamples, seed=seed, cluster=cluster
            )
            found = found.rename(columns={"value": "estimate"})
            parts.append(found.assign(stratum=stratum.name, value=str(value)))
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)
