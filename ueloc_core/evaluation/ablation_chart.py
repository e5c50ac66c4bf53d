"""The figure of the ablations: how much worse each variant is than the whole network."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from ueloc_core.evaluation.ablation_variants import REFERENCE
from ueloc_core.evaluation.palette import (
    DARK_GREY,
    LIGHT_GREY,
    WIDTH_IN,
    colour,
    marker,
    tidy,
)

_DOTS = "variant, with the 95% interval of what it changes (hollow: the whole network)"
_ROW_IN, _GAP = 0.27, 0.75  # height of a row, and rows between two groups
_RATIO_TICKS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0)
_MOST_TICKS = 7
_BELOW = 0.27  # rows: where the oracle stands, so that it hides nothing
_FIRST_PT, _SECOND_PT = 42.0, 84.0  # right ends of the columns of values, from the panel's edge


def ablation_figure(table: pd.DataFrame) -> Figure:
    """Median error and NLL of each variant against the whole network, with the oracle's.

    Dots and 95% intervals by track, paired by report; a black square is the oracle that is told
    the same fields. Beside each panel stand the values themselves.

    Parameters
    ----------
    table
        Of `ueloc_core.evaluation.ablation_table.ablation_table`.
    """
    shown = table[(table["method"] != table["oracle"]) & (table["metric"] == "median_m")]
    heights = _heights(shown["group"].tolist())
    figure = Figure(figsize=(WIDTH_IN, _ROW_IN * (heights[-1] + 1) + 1.35), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True, width_ratios=(1.05, 1))
    for axes, metric, whole in zip(panels, ("median_m", "nll_nats"), (1.0, 0.0), strict=True):
        _panel(axes, table[table["metric"] == metric], shown["method"].tolist(), heights, whole)
    left, right = panels
    left.set_yticks(heights, shown["title"])
    left.set_ylim(heights[-1] + 0.7, -1.0)
    for group, own in _groups(shown["group"].tolist()):
        left.annotate(
            group, (0, heights[own] - 0.72), xycoords=("axes fraction", "data"),
            xytext=(-6, 0), textcoords="offset points", ha="right", va="center",
            fontsize=8, color=DARK_GREY,
        )  # fmt: skip
    _ratio_axis(left)
    right.xaxis.set_major_locator(MaxNLocator(_MOST_TICKS - 3))
    left.set_xlabel("Median error\nover the whole network's", fontsize=9)
    right.set_xlabel("NLL above\nthe whole network's [nats]", fontsize=9)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8.5, loc="outside upper center", ncols=2)
    return figure


def _heights(groups: list[str]) -> NDArray[np.float64]:
    """Heights of the rows, from the top: groups stand apart."""
    new = np.array([k > 0 and groups[k] != groups[k - 1] for k in range(len(groups))])
    return np.asarray(np.arange(len(groups)) + _GAP * np.cumsum(new))


def _groups(groups: list[str]) -> list[tuple[str, int]]:
    """Each group but the reference's with its first row."""
    first = {group: k for k, group in reversed(list(enumerate(groups)))}
    return [(group, k) for group, k in first.items() if k > 0]


def _panel(
    axes: Axes,
    rows: pd.DataFrame,
    methods: list[str],
    heights: NDArray[np.float64],
    whole: float,
) -> None:
    by_method = rows.set_index("method")
    own = by_method.loc[methods]
    oracles = by_method.loc[own["oracle"]]
    # the whole network is compared with itself
    change = own["change"].fillna(whole).to_numpy()
    low, high = (own[f"change_{end}"].fillna(whole).to_numpy() for end in ("low", "high"))
    blue = colour("network")
    style: dict[str, Any] = {"linestyle": "none", "markersize": 4.8}
    axes.axvline(whole, color=DARK_GREY, linewidth=1, zorder=0)
    axes.hlines(heights, low, high, color=blue, linewidth=2)
    axes.plot(change, heights, marker=marker("network"), color=blue, label=_DOTS, **style)
    at = np.array([m == REFERENCE for m in methods])
    axes.plot(
        change[at], heights[at], marker=marker("network"), color=blue,
        markerfacecolor="white", **style,
    )  # fmt: skip
    axes.plot(
        oracles["change"], heights + _BELOW, marker=marker("oracle"), color=colour("oracle"),
        label="oracle of the same fields", **{**style, "markersize": 3.8},
    )  # fmt: skip
    unit, digits = (" m", 1) if whole else ("", 2)
    for y, value, floor in zip(heights, own["value"], oracles["value"], strict=True):
        _beside(axes, y, f"{value:.{digits}f}{unit}", f"({floor:.{digits}f}{unit})")
    _beside(axes, -_GAP, "network", "(oracle)", color=DARK_GREY)
    axes.grid(axis="x", color=LIGHT_GREY, linewidth=0.6)
    axes.set_axisbelow(True)
    tidy(axes)
    axes.tick_params(axis="y", length=0)


def _beside(axes: Axes, y: float, first: str, second: str, **style: Any) -> None:
    """Two columns of text right of the panel."""
    for shift_pt, text in ((_FIRST_PT, first), (_SECOND_PT, second)):
        axes.annotate(
            text, (1.0, y), xycoords=("axes fraction", "data"), xytext=(shift_pt, 0),
            textcoords="offset points", ha="right", va="center", fontsize=8, **style,
        )  # fmt: skip


def _ratio_axis(axes: Axes) -> None:
    """Make the x axis logarithmic, with ticks at plain multiples."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    ticks = [t for t in _RATIO_TICKS if low <= t <= high]
    axes.set_xticks(ticks[:: 1 + len(ticks) // (_MOST_TICKS + 1)])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks([], minor=True)
