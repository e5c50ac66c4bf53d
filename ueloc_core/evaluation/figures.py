"""Figures of an evaluation, one function each, drawn without a display.

Colours follow the method in every figure and are safe for colour-blind readers (Okabe and Ito);
lines differ in their dashes as well.
"""

import io
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import NDArray

from ueloc_core.evaluation.metrics import coverage_curve, fixes_of, methods_in

WIDTH_IN = 8.0

LABELS = {
    "network": "Network",
    "oracle": "Oracle (exact grid posterior)",
    "knn": "kNN fingerprints",
    "strongest_sector": "Strongest-sector centroid",
}
SHORT_LABELS = LABELS | {"oracle": "Oracle", "strongest_sector": "Strongest sector"}
TERMS = {
    "total": "Total loss",
    "coarse": "Coarse cross-entropy",
    "fine": "Fine mixture",
    "physics": "Physics term",
    "nll": "Posterior",
}
_COLOURS = {
    "network": "#0072B2",
    "oracle": "#000000",
    "knn": "#D55E00",
    "strongest_sector": "#CC79A7",
}
_SPARE_COLOURS = ("#009E73", "#E69F00", "#56B4E9")
_DASHES = {
    "network": "-",
    "oracle": (0, (5, 1.5)),
    "knn": (0, (6, 1.5, 1, 1.5)),
    "strongest_sector": ":",
}
_GREY = "#9a9a9a"
_LIGHT_GREY = "#d9d9d9"
_SMALLEST_ERROR_M = 0.5


def png(figure: Figure, dpi: int = 130) -> bytes:
    """A figure as PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi, facecolor="white")
    return stream.getvalue()


def error_histogram(fixes: pd.DataFrame) -> Figure:
    """Histogram of the errors, one panel per method over one logarithmic axis."""
    methods = methods_in(fixes)
    figure = Figure(figsize=(WIDTH_IN, 1.25 * len(methods) + 0.9), layout="constrained")
    panels = figure.subplots(len(methods), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    edges_m = _log_edges(_errors_m(fixes))
    for axes, method in zip(panels, methods, strict=True):
        error_m = _errors_m(fixes_of(fixes, method))
        share = np.full(len(error_m), 100 / len(error_m))
        axes.hist(error_m, bins=edges_m, weights=share, color=_colour(method), alpha=0.75)
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
        _tidy(axes)
    _log_metres(panels[-1])
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
            **_line(method),
        )
    for level, name in ((50, "median"), (67, "67%"), (90, "90%")):
        axes.axhline(level, color=_LIGHT_GREY, linewidth=0.9, zorder=0)
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
    _log_metres(axes)
    axes.set(
        xlabel="Distance between estimated and true position [m]",
        ylabel="Share of reports within this distance [%]",
        ylim=(0, 100),
        xlim=(max(_SMALLEST_ERROR_M, float(np.quantile(_errors_m(fixes), 0.005))), None),
    )
    axes.legend(frameon=False, loc="upper left", fontsize=9)
    _tidy(axes)
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
        box.set(facecolor=_colour(method), edgecolor=_colour(method), alpha=0.85)
    for part in ("whiskers", "caps"):
        for index, line in enumerate(boxes[part]):
            line.set(color=_colour(methods[index // 2]), linewidth=1.4)
    _log_metres(axes)
    axes.set_xlabel(
        "Distance between estimated and true position [m]\n"
        "box: quartiles and median, whiskers: 5th to 95th percentile"
    )
    axes.grid(axis="x", color=_LIGHT_GREY, linewidth=0.7)
    axes.set_axisbelow(True)
    _tidy(axes)
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
                    color=_COLOURS["network"] if split == "validation" else _GREY,
                    marker="o",
                    markersize=3,
                    label=split,
                )
        axes.set_title(TERMS.get(term, term), fontsize=10)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(color=_LIGHT_GREY, linewidth=0.6)
        _tidy(axes)
    for axes in panels[len(terms) :]:
        axes.remove()
    for index in range(max(0, len(terms) - columns), len(terms)):
        panels[index].tick_params(labelbottom=True)
        panels[index].set_xlabel("Epoch")
    figure.supylabel("Mean over reports [nats]", fontsize=10)
    panels[0].legend(frameon=False, fontsize=9)
    return figure


def coverage(fixes: pd.DataFrame, confidence: float = 0.95) -> Figure:
    """How often regions of a stated probability held the truth, for methods with a density."""
    figure = Figure(figsize=(5.6, 5.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 100], [0, 100], color=_GREY, linewidth=1)
    drawn_band = False
    for method in methods_in(fixes):
        levels = fixes_of(fixes, method)["hpd_level"].dropna()
        if levels.empty:
            continue
        curve = 100 * coverage_curve(levels, confidence=confidence)
        if not drawn_band:
            axes.fill_between(
                curve["nominal"],
                curve["low"],
                curve["high"],
                color=_LIGHT_GREY,
                linewidth=0,
                label=f"calibrated, {100 * confidence:.0f}% of samples of {len(levels)}",
            )
            drawn_band = True
        axes.plot(
            curve["nominal"],
            curve["empirical"],
            marker="o",
            markersize=3.5,
            label=LABELS.get(method, method),
            **_line(method),
        )
    axes.text(4, 62, "regions too large:\nconservative", fontsize=8.5, color="#555555")
    axes.text(
        96, 30, "regions too small:\noverconfident", fontsize=8.5, color="#555555", ha="right"
    )
    axes.set(
        xlabel="Stated probability of the region [%]",
        ylabel="Share of true positions inside it [%]",
        xlim=(0, 100),
        ylim=(0, 100),
        aspect="equal",
    )
    axes.legend(frameon=False, fontsize=8.5, loc="upper left")
    _tidy(axes)
    return figure


def _log_edges(error_m: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = np.log10(_SMALLEST_ERROR_M), np.log10(max(error_m.max(), 10 * _SMALLEST_ERROR_M))
    return np.asarray(np.logspace(low, high * 1.0001, 45))


def _errors_m(fixes: pd.DataFrame) -> NDArray[np.float64]:
    """Errors [m], lifted to the left end of the logarithmic axis."""
    return np.asarray(np.maximum(fixes["error_m"].to_numpy(np.float64), _SMALLEST_ERROR_M))


def _log_metres(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _colour(method: str) -> str:
    return _COLOURS.get(method) or _SPARE_COLOURS[sum(map(ord, method)) % len(_SPARE_COLOURS)]


def _line(method: str) -> dict[str, Any]:
    return {
        "color": _colour(method),
        "linestyle": _DASHES.get(method, "-"),
        "linewidth": 2.2 if method == "network" else 1.7,
    }


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
