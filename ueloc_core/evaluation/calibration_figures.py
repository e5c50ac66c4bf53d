"""Figures of calibration: whether the stated uncertainty is true, and where it is not.

All draw methods with a density only; the colours are those of every figure.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from ueloc_core.errors import UelocError
from ueloc_core.evaluation.diagnostics import coverage_curve, share_interval
from ueloc_core.evaluation.figures_of_merit import Coverage
from ueloc_core.evaluation.metrics import fixes_of, methods_in
from ueloc_core.evaluation.palette import (
    DARK_GREY,
    GREY,
    LABELS,
    LIGHT_GREY,
    SHORT_LABELS,
    WIDTH_IN,
    colour,
    line_style,
    marker,
    tidy,
)
from ueloc_core.evaluation.strata import Stratum, by_stratum, strata_for
from ueloc_core.evaluation.stratum_chart import stratum_chart, stratum_rows

_PIT_BINS = 20


def coverage(fixes: pd.DataFrame, confidence: float = 0.95) -> Figure:
    """How often regions of a stated probability held the truth."""
    figure = Figure(figsize=(5.6, 5.2), layout="constrained")
    axes = figure.subplots()
    _diagonal(axes, fixes, "hpd_level", confidence)
    axes.text(4, 62, "regions too large:\nconservative", fontsize=8.5, color=DARK_GREY)
    axes.text(96, 6, "regions too small:\noverconfident", fontsize=8.5, color=DARK_GREY, ha="right")
    axes.set(
        xlabel="Stated probability of the region [%]",
        ylabel="Share of true positions inside it [%]",
    )
    axes.legend(frameon=False, fontsize=8.5, loc="upper left")
    return figure


def coverage_by_stratum(fixes: pd.DataFrame, stratum: Stratum, confidence: float = 0.95) -> Figure:
    """The curves of `coverage`, one panel per part of a stratum.

    Raises
    ------
    UelocError
        If no method has a density, or the fixes lack the stratum's column.
    """
    known = _known(fixes, "hpd_level")
    groups = known.groupby(stratum.of(known), sort=True, observed=True)
    columns = 2 if groups.ngroups == 4 else min(groups.ngroups, 3)
    rows = -(-groups.ngroups // columns)
    figure = Figure(figsize=(2.7 * columns + 0.4, 2.75 * rows + 0.9), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (value, group) in zip(panels, groups, strict=False):
        _diagonal(axes, group, "hpd_level", confidence)
        axes.set_title(f"{value}  ({group.groupby('method').size().max()})", fontsize=10)
    for axes in panels[groups.ngroups :]:
        axes.remove()
    for axes in panels[max(0, groups.ngroups - columns) : groups.ngroups]:
        axes.tick_params(labelbottom=True)
    figure.supxlabel("Stated probability of the region [%]", fontsize=10)
    figure.supylabel("Share of true positions inside it [%]", fontsize=10)
    # A method may be absent from some panels: one entry each, from all of them.
    entries = {
        label: handle
        for axes in figure.axes
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        if not label.startswith("calibrated")
    }
    figure.legend(
        entries.values(), entries.keys(), frameon=False, fontsize=8.5,
        loc="outside upper center", ncols=columns, title=stratum.title,
    )  # fmt: skip
    return figure


def pit_histograms(fixes: pd.DataFrame, confidence: float = 0.95) -> Figure:
    """Histograms of the transforms of x and y, one row per method.

    Flat within the band where the posterior is exact; a hump means too wide, two horns too
    narrow, a slope biased.

    Raises
    ------
    UelocError
        If no method has a density.
    """
    known = _known(fixes, "pit_x")
    methods = methods_in(known)
    figure = Figure(figsize=(WIDTH_IN, 1.7 * len(methods) + 0.6), layout="constrained")
    panels = figure.subplots(len(methods), 2, sharex=True, sharey=True, squeeze=False)
    edges = np.linspace(0, 1, _PIT_BINS + 1)
    for row, method in zip(panels, methods, strict=True):
        for axes, column in zip(row, ("pit_x", "pit_y"), strict=True):
            values = fixes_of(known, method)[column]
            expected = len(values) / _PIT_BINS
            band = stats.binom.interval(confidence, len(values), 1 / _PIT_BINS)
            axes.axhspan(*(b / expected for b in band), color=LIGHT_GREY, linewidth=0)
            axes.axhline(1, color=GREY, linewidth=1)
            count, _ = np.histogram(values, edges)
            axes.stairs(count / expected, edges, fill=True, color=colour(method), alpha=0.55)
            axes.stairs(count / expected, edges, color=colour(method), linewidth=1.4)
            tidy(axes)
        row[0].set_title(
            f"{SHORT_LABELS.get(method, method)}  ({len(values)})",
            fontsize=9,
            fontweight="bold",
            loc="left",
        )
    panels[-1, 0].set(xlabel="Posterior mass west of the truth", xlim=(0, 1))
    panels[-1, 1].set_xlabel("Posterior mass south of the truth")
    figure.supylabel("Share of reports, relative to a flat one", fontsize=10)
    return figure


def tarp(fixes: pd.DataFrame, confidence: float = 0.95) -> Figure:
    """Expected coverage of TARP: balls around reference points, through the truth.

    Below the diagonal first and above it last where posteriors are too wide, the other way round
    where they are too narrow.

    Raises
    ------
    UelocError
        If no method has a density.
    """
    figure = Figure(figsize=(5.6, 5.2), layout="constrained")
    axes = figure.subplots()
    _diagonal(axes, _known(fixes, "tarp"), "tarp", confidence)
    axes.set(
        xlabel="Posterior mass nearer to a reference point [%]",
        ylabel="Share of true positions nearer than that [%]",
    )
    axes.legend(frameon=False, fontsize=8.5, loc="upper left")
    return figure


def reliability_by_stratum(
    fixes: pd.DataFrame,
    strata: Sequence[Stratum] | None = None,
    *,
    level: float = 0.9,
    confidence: float = 0.95,
) -> Figure:
    """Coverage of one region in each part of each stratum, with exact binomial intervals.

    Parameters
    ----------
    fixes
        Table of fixes.
    strata
        How to divide them; all that the fixes have columns for by default.
    level
        Stated probability of the region.
    confidence
        Of the intervals.

    Raises
    ------
    UelocError
        If no method has a density or there is no stratum.
    """
    known = _known(fixes, "hpd_level")
    chosen = strata_for(known) if strata is None else strata
    metric = Coverage(level)
    table = by_stratum(known, chosen, metrics=(metric,))
    figure, axes = stratum_chart(table, chosen)
    axes.axvline(100 * level, color=DARK_GREY, linewidth=1.2)
    for method, part, y in stratum_rows(table):
        share = part[metric.name].to_numpy(np.float64)
        low, high = share_interval(share, part["n"], confidence)
        axes.errorbar(
            100 * share,
            y,
            xerr=100 * np.stack([share - low, high - share]),
            fmt=marker(method),
            markersize=4.5,
            elinewidth=1.3,
            color=colour(method),
            label=SHORT_LABELS.get(method, method),
        )
    axes.set_xlim(None, 100.5)
    axes.set_xlabel(
        f"Share of true positions in the {100 * level:g}% region [%], "
        f"with {100 * confidence:g}% intervals"
    )
    figure.legend(frameon=False, fontsize=8.5, loc="outside upper center", ncols=4)
    return figure


def _known(fixes: pd.DataFrame, column: str) -> pd.DataFrame:
    """The fixes that have a value there."""
    known = fixes.dropna(subset=[column]) if column in fixes else fixes.iloc[:0]
    if known.empty:
        raise UelocError(
            f"no fix has a value of '{column}'",
            remedy="Draw this figure for methods with a density.",
        )
    return known


def _diagonal(axes: Axes, fixes: pd.DataFrame, column: str, confidence: float) -> None:
    """Nominal against empirical shares of a column of ranks, one line per method."""
    axes.plot([0, 100], [0, 100], color=GREY, linewidth=1)
    band: dict[str, Any] = {"color": LIGHT_GREY, "linewidth": 0}
    for method in methods_in(fixes):
        ranks = fixes_of(fixes, method)[column].dropna()
        if ranks.empty:
            continue
        curve = 100 * coverage_curve(ranks, confidence=confidence)
        if band:
            axes.fill_between(
                curve["nominal"],
                curve["low"],
                curve["high"],
                label=f"calibrated, {100 * confidence:.0f}% of samples of {len(ranks)}",
                **band,
            )
            band = {}
        axes.plot(
            curve["nominal"],
            curve["empirical"],
            marker=marker(method),
            markersize=3.5,
            label=LABELS.get(method, method),
            **line_style(method),
        )
    axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")
    tidy(axes)
