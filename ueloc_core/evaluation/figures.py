"""Figures of an evaluation, one function each, drawn without a display.

Figures of calibration are in `ueloc_core.evaluation.calibration_figures`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ueloc_core.evaluation.calibration_figures import coverage
from ueloc_core.evaluation.diagnostics import share_interval
from ueloc_core.evaluation.figures_of_merit import ErrorQuantile, Success
from ueloc_core.evaluation.metrics import fixes_of, methods_in
from ueloc_core.evaluation.palette import (
    GREY,
    LABELS,
    LIGHT_GREY,
    SHORT_LABELS,
    WIDTH_IN,
    colour,
    line_style,
    log_metres,
    marker,
    png,
    tidy,
)
from ueloc_core.evaluation.strata import Stratum, by_stratum, strata_for
from ueloc_core.evaluation.stratum_chart import stratum_chart, stratum_rows

__all__ = [
    "LABELS", "SHORT_LABELS", "TERMS", "WIDTH_IN", "coverage", "error_box", "error_by_stratum",
    "error_cdf", "error_histogram", "png", "success_bars", "training_curves",
]  # fmt: skip

TERMS = {
    "total": "Total loss",
    "coarse": "Coarse cross-entropy",
    "fine": "Fine mixture",
    "physics": "Physics term",
    "nll": "Posterior",
}
_SMALLEST_ERROR_M = 0.5


def error_histogram(fixes: pd.DataFrame) -> Figure:
    """Histogram of the errors, one panel per method over one logarithmic axis."""
    methods = methods_in(fixes)
    figure = Figure(figsize=(WIDTH_IN, 1.25 * len(methods) + 0.9), layout="constrained")
    panels = figure.subplots(len(methods), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    edges_m = _log_edges(_errors_m(fixes))
    for axes, method in zip(panels, methods, strict=True):
        error_m = _errors_m(fixes_of(fixes, method))
        share = np.full(len(error_m), 100 / len(error_m))
        axes.hist(error_m, bins=edges_m, weights=share, color=colour(method), alpha=0.75)
        median_m = float(np.median(error_m))
        axes.axvline(median_m, color="white", linewidth=3)
        axes.axvline(median_m, color="#333333", linewidth=1.2)
        axes.text(
            0.01,
            0.92,
            f"{SHORT_LABELS.get(method, method)}: median {median_m:.0f} m",
            transform=axes.transAxes,
            va="top",
            fontweight="bold",
            fontsize=9,
        )
        tidy(axes)
    log_metres(panels[-1])
    panels[-1].set_xlabel("Distance between estimated and true position [m]")
    figure.supylabel("Share of reports per bin [%]", fontsize=10)
    return figure


def error_cdf(fixes: pd.DataFrame) -> Figure:
    """Share of reports located within a distance, all methods."""
    figure = Figure(figsize=(WIDTH_IN, 4.6), layout="constrained")
    axes = figure.subplots()
    for method in methods_in(fixes):
        error_m = np.sort(_errors_m(fixes_of(fixes, method)))
        share = 100 * np.arange(1, len(error_m) + 1) / len(error_m)
        axes.step(
            np.concatenate([[_SMALLEST_ERROR_M], error_m]),
            np.concatenate([[0.0], share]),
            where="post",
            label=LABELS.get(method, method),
            **line_style(method),
        )
    for level, name in ((50, "median"), (67, "67%"), (90, "90%")):
        axes.axhline(level, color=LIGHT_GREY, linewidth=0.9, zorder=0)
        axes.annotate(
            name,
            (1.0, level),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color="#555555",
        )
    log_metres(axes)
    axes.set(
        xlabel="Distance between estimated and true position [m]",
        ylabel="Share of reports within this distance [%]",
        ylim=(0, 100),
        xlim=(max(_SMALLEST_ERROR_M, float(np.quantile(_errors_m(fixes), 0.005))), None),
    )
    axes.legend(frameon=False, loc="upper left", fontsize=9)
    tidy(axes)
    return figure


def error_box(fixes: pd.DataFrame) -> Figure:
    """Box plot of the errors: quartiles, and whiskers from the 5th to the 95th percentile."""
    methods = methods_in(fixes)[::-1]
    figure = Figure(figsize=(WIDTH_IN, 0.62 * len(methods) + 1.1), layout="constrained")
    axes = figure.subplots()
    boxes = axes.boxplot(
        [_errors_m(fixes_of(fixes, m)) for m in methods],
        orientation="horizontal",
        whis=(5, 95),
        showfliers=False,
        patch_artist=True,
        widths=0.55,
        medianprops={"color": "white", "linewidth": 2.2},
        tick_labels=[SHORT_LABELS.get(m, m) for m in methods],
    )
    for method, box in zip(methods, boxes["boxes"], strict=True):
        box.set(facecolor=colour(method), edgecolor=colour(method), alpha=0.85)
    for part in ("whiskers", "caps"):
        for index, line in enumerate(boxes[part]):
            line.set(color=colour(methods[index // 2]), linewidth=1.4)
    log_metres(axes)
    axes.set_xlabel(
        "Distance between estimated and true position [m]\n"
        "box: quartiles and median, whiskers: 5th to 95th percentile"
    )
    axes.grid(axis="x", color=LIGHT_GREY, linewidth=0.7)
    axes.set_axisbelow(True)
    tidy(axes)
    return figure


def training_curves(history: pd.DataFrame) -> Figure:
    """Each term of the loss against the epoch: training dashed, validation solid."""
    terms = [t for t in TERMS if t in set(history["term"])]
    terms += sorted(set(history["term"]) - set(TERMS))
    columns = min(len(terms), 3)
    rows = -(-len(terms) // columns)
    figure = Figure(figsize=(WIDTH_IN, 2.5 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
    for axes, term in zip(panels, terms, strict=False):
        for split, style in (("train", "--"), ("validation", "-")):
            part = history[(history["term"] == term) & (history["split"] == split)]
            by_epoch = part.groupby("epoch")["value"].mean()
            if len(by_epoch):
                axes.plot(
                    by_epoch.index,
                    by_epoch.to_numpy(),
                    style,
                    color=colour("network") if split == "validation" else GREY,
                    marker="o",
                    markersize=3,
                    label=split,
                )
        axes.set_title(TERMS.get(term, term), fontsize=10)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(color=LIGHT_GREY, linewidth=0.6)
        tidy(axes)
    for axes in panels[len(terms) :]:
        axes.remove()
    for index in range(max(0, len(terms) - columns), len(terms)):
        panels[index].tick_params(labelbottom=True)
        panels[index].set_xlabel("Epoch")
    figure.supylabel("Mean over reports [nats]", fontsize=10)
    panels[0].legend(frameon=False, fontsize=9)
    return figure


def success_bars(
    fixes: pd.DataFrame, radii_m: tuple[float, ...] = (5.0, 10.0, 20.0, 50.0)
) -> Figure:
    """Share of fixes within given distances of the truth, with exact 95% intervals."""
    methods = methods_in(fixes)
    figure = Figure(figsize=(WIDTH_IN, 4.2), layout="constrained")
    axes = figure.subplots()
    width = 0.84 / len(methods)
    for k, method in enumerate(methods):
        own = fixes_of(fixes, method)
        error_m = own["error_m"].to_numpy(np.float64)
        share = np.array([float(Success(r).reduce(error_m)) for r in radii_m])
        low, high = share_interval(share, len(own))
        axes.bar(
            np.arange(len(radii_m)) + (k - (len(methods) - 1) / 2) * width,
            100 * share,
            0.9 * width,
            yerr=100 * np.stack([share - low, high - share]),
            error_kw={"elinewidth": 0.9, "ecolor": GREY},
            color=colour(method),
            label=SHORT_LABELS.get(method, method),
        )
    axes.set_xticks(range(len(radii_m)), [f"within {r:g} m" for r in radii_m])
    axes.set(ylabel="Share of reports [%]", ylim=(0, 100))
    axes.grid(axis="y", color=LIGHT_GREY, linewidth=0.7)
    axes.set_axisbelow(True)
    figure.legend(frameon=False, fontsize=8.5, loc="outside upper center", ncols=4)
    tidy(axes)
    return figure


def error_by_stratum(fixes: pd.DataFrame, strata: Sequence[Stratum] | None = None) -> Figure:
    """Median (filled) and 90th percentile (open) of the error in each part of each stratum.

    Parameters
    ----------
    fixes
        Table of fixes.
    strata
        How to divide them; all that the fixes have columns for by default.

    Raises
    ------
    UelocError
        If there is no stratum.
    """
    chosen = strata_for(fixes) if strata is None else strata
    table = by_stratum(fixes, chosen, metrics=(ErrorQuantile(0.5), ErrorQuantile(0.9)))
    figure, axes = stratum_chart(table, chosen)
    for method, part, y in stratum_rows(table):
        low, high = (np.maximum(part[c], _SMALLEST_ERROR_M) for c in ("median_m", "p90_m"))
        style: dict[str, Any] = {
            "color": colour(method),
            "marker": marker(method),
            "markersize": 4.5,
        }
        axes.hlines(y, low, high, color=colour(method), linewidth=1.1, alpha=0.55)
        name = SHORT_LABELS.get(method, method)
        axes.plot(low, y, linestyle="none", label=name, **style)
        axes.plot(high, y, linestyle="none", markerfacecolor="white", **style)
    log_metres(axes)
    axes.set_xlabel(
        "Distance between estimated and true position [m]\nfilled: median, open: 90th percentile"
    )
    figure.legend(frameon=False, fontsize=8.5, loc="outside upper center", ncols=4)
    return figure


def _log_edges(error_m: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = np.log10(_SMALLEST_ERROR_M), np.log10(max(error_m.max(), 10 * _SMALLEST_ERROR_M))
    return np.asarray(np.logspace(low, high * 1.0001, 45))


def _errors_m(fixes: pd.DataFrame) -> NDArray[np.float64]:
    """Errors [m], lifted to the left end of the logarithmic axis."""
    return np.asarray(np.maximum(fixes["error_m"].to_numpy(np.float64), _SMALLEST_ERROR_M))
