"""The ablations as a table: each variant next to the whole network and to its oracle.

Intervals are percentile bootstraps over tracks, whose reports share their luck. What is compared
with the whole network is paired by report: what makes a report hard is shared, so a comparison
is surer than its two parts.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pa
from pandera.typing import Series

from ueloc_core.evaluation.ablation_variants import REFERENCE, Variant
from ueloc_core.evaluation.figures_of_merit import (
    Coverage,
    ErrorQuantile,
    MeanEnergyScore,
    Metric,
    NegativeLogLikelihood,
)
from ueloc_core.evaluation.metrics import bootstrap_intervals, bootstrap_ratios
from ueloc_core.evaluation.report import NO_VALUE
from ueloc_core.measurement.scenarios import FEATURES

LENGTHS: tuple[Metric, ...] = (ErrorQuantile(0.5), ErrorQuantile(0.9), MeanEnergyScore())
NLL = NegativeLogLikelihood()
COVERAGE = Coverage(0.9)
METRICS: tuple[Metric, ...] = (*LENGTHS[:2], NLL, COVERAGE, LENGTHS[2])

RATIO, DIFFERENCE, NOT_COMPARED = "ratio", "difference", "none"
_COLUMNS = ("median_m", "p90_m", "nll_nats", "coverage_90", "energy_score_m")
_HEADER = (
    *("variant", "median [m]", "90% [m]", "NLL [nats]", "90% coverage", "energy score [m]"),
    *("median / whole", "NLL - whole", "oracle's median [m]", "oracle's NLL"),
)


class AblationSchema(pa.DataFrameModel):
    """One row per method and metric; a method is a variant, or an oracle of some fields."""

    method: Series[str] = pa.Field(description="Name of the variant or of the oracle")
    title: Series[str] = pa.Field(description="What figures call it")
    group: Series[str] = pa.Field(description="What it is compared as")
    oracle: Series[str] = pa.Field(description="Oracle of the same fields, itself for an oracle")
    n: Series[np.int64] = pa.Field(gt=0, description="Number of test reports")
    metric: Series[str] = pa.Field(isin=_COLUMNS, description="What is measured; ends in its unit")
    value: Series[np.float64] = pa.Field(description="The metric")
    low: Series[np.float64] = pa.Field(description="Lower end of its 95% interval")
    high: Series[np.float64] = pa.Field(description="Upper end")
    compared: Series[str] = pa.Field(
        isin=(RATIO, DIFFERENCE, NOT_COMPARED), description="How, with the whole network"
    )
    change: Series[np.float64] = pa.Field(nullable=True, description="Ratio or difference")
    change_low: Series[np.float64] = pa.Field(
        nullable=True, description="Lower end of its 95% interval, paired by report"
    )
    change_high: Series[np.float64] = pa.Field(nullable=True, description="Upper end")

    class Config:
        """No column beyond these, no figure twice."""

        strict = True
        unique = ("method", "metric")


def ablation_table(
    variants: Sequence[Variant], fixes: pd.DataFrame, resamples: int = 1000
) -> pd.DataFrame:
    """Metrics of all variants and oracles, with what has changed against the whole network.

    Parameters
    ----------
    variants
        The variants, the whole network among them.
    fixes
        Their fixes and those of their oracles (`FixSchema`) of the same reports, with ``track``.
    resamples
        Of each bootstrap.

    Returns
    -------
    Table of `AblationSchema`, the variants in their order and then the oracles.
    """
    drawn: dict[str, Any] = {"cluster": "track", "resamples": resamples}
    values = bootstrap_intervals(fixes, METRICS, **drawn)
    ratios = bootstrap_ratios(fixes, LENGTHS, reference=REFERENCE, **drawn)
    changes = pd.concat(
        [
            ratios.assign(compared=RATIO).drop(columns="n"),
            bootstrap_intervals(_above_reference(fixes), (NLL,), **drawn).assign(
                compared=DIFFERENCE
            ),
        ]
    ).rename(columns={"value": "change", "low": "change_low", "high": "change_high"})
    table = values.merge(changes, how="left", on=["method", "metric"])
    table["compared"] = table["compared"].fillna(NOT_COMPARED)
    named = {v.name: (v.title, v.group, v.oracle) for v in variants}
    named |= {v.oracle: (_oracle_title(v), "Oracle", v.oracle) for v in variants}
    for k, column in enumerate(("title", "group", "oracle")):
        table[column] = [named[method][k] for method in table["method"]]
    table["n"] = table["method"].map(fixes.groupby("method").size())
    order = {name: k for k, name in enumerate(named)}
    table = table.sort_values("method", key=lambda m: m.map(order), kind="stable")
    found: pd.DataFrame = AblationSchema.validate(
        table[list(AblationSchema.to_schema().columns)].reset_index(drop=True)
    )
    return found


def _oracle_title(variant: Variant) -> str:
    whole = variant.features == FEATURES
    return "Oracle" if whole else f"Oracle: {variant.title.lower()}"


def _above_reference(fixes: pd.DataFrame) -> pd.DataFrame:
    """The NLL of each fix less that of the whole network's fix of the same report."""
    whole = fixes[fixes["method"] == REFERENCE].set_index("report")["nll_nats"]
    others = fixes[fixes["method"] != REFERENCE]
    above = others["nll_nats"] - others["report"].map(whole)
    return others[["method", "track"]].assign(nll_nats=above)


def ablation_dict(table: pd.DataFrame, variants: Sequence[Variant]) -> dict[str, Any]:
    """The table as JSON values, by method: what is changed in it, and its metrics."""
    changed = {v.name: v.changes for v in variants}
    found: dict[str, Any] = {}
    for method, rows in table.groupby("method", sort=False):
        first = rows.iloc[0]
        found[str(method)] = {
            "title": first["title"],
            "oracle": first["oracle"],
            "changes": changed.get(str(method), {}),
            "reports": int(first["n"]),
            "metrics": {row["metric"]: _figures(row) for row in rows.to_dict("records")},
        }
    return found


def _figures(row: Any) -> dict[str, Any]:
    found = {"value": row["value"], "interval": [row["low"], row["high"]]}
    if not math.isnan(row["change"]):
        found[f"{row['compared']}_to_{REFERENCE}"] = row["change"]
        found[f"{row['compared']}_interval"] = [row["change_low"], row["change_high"]]
    return found


def ablation_markdown(table: pd.DataFrame) -> str:
    """The table of all variants as Markdown: metrics with intervals, next to the oracle."""
    lines = [_line(_HEADER), _line(["---", *["---:"] * (len(_HEADER) - 1)])]
    by_method = {m: rows.set_index("metric") for m, rows in table.groupby("method", sort=False)}
    for method, rows in by_method.items():
        oracle = rows["oracle"].iloc[0]
        if method == oracle:
            continue
        floor = by_method[oracle]["value"]
        lines.append(
            _line(
                [
                    rows["title"].iloc[0],
                    *(_interval(rows.loc[name], "") for name in _COLUMNS),
                    _interval(rows.loc["median_m"], "change"),
                    _interval(rows.loc["nll_nats"], "change"),
                    f"{floor['median_m']:.1f}",
                    f"{floor['nll_nats']:.2f}",
                ]
            )
        )
    return "\n".join(lines)


def _interval(row: Any, which: str) -> str:
    names = ("value", "low", "high") if not which else ("change", "change_low", "change_high")
    value, low, high = (float(row[name]) for name in names)
    if math.isnan(value):
        return NO_VALUE
    if row.name == "coverage_90":
        return f"{100 * value:.0f}% ({100 * low:.0f} to {100 * high:.0f})"
    if which and row["compared"] == DIFFERENCE:
        shift, least, most = (round(v, 2) + 0.0 for v in (value, low, high))  # no minus at zero
        return f"{shift:+.2f} ({least:+.2f} to {most:+.2f})"
    digits = 2 if which or row.name == "nll_nats" else 1
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
