"""The frame of a chart over strata: one row per part, methods side by side within it."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ueloc_core.errors import UelocError
from ueloc_core.evaluation.metrics import methods_in
from ueloc_core.evaluation.palette import DARK_GREY, LIGHT_GREY, WIDTH_IN, tidy
from ueloc_core.evaluation.strata import Stratum

_PART_IN, _METHOD_IN = 0.14, 0.065
_SPREAD = 0.66  # share of a row's height that the methods take


def stratum_chart(table: pd.DataFrame, strata: Sequence[Stratum]) -> tuple[Figure, Axes]:
    """An empty chart with a labelled row for each part of each stratum, from the top.

    Parameters
    ----------
    table
        Table of `ueloc_core.evaluation.strata.by_stratum`.
    strata
        The strata of the table.

    Raises
    ------
    UelocError
        If the table has no row.
    """
    if table.empty:
        raise UelocError(
            "there is no stratum to draw",
            remedy="Give the fixes a column such as line_of_sight, heard or scenario.",
        )
    titles = {s.name: s.title for s in strata}
    parts = _parts(table)
    height_in = len(parts) * (_PART_IN + _METHOD_IN * len(methods_in(table))) + 1.3
    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    axes = figure.subplots()
    axes.set_yticks(
        range(len(parts)),
        [f"{value}  ({n})" for value, n in zip(parts["value"], parts["n"], strict=True)],
    )
    axes.set_ylim(len(parts) - 0.5, -0.5)
    for name, rows in parts.groupby("stratum", sort=False):
        first, last = int(rows.index[0]), int(rows.index[-1])
        axes.annotate(
            titles[str(name)],
            (1.0, (first + last) / 2),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            rotation=-90,
            va="center",
            fontsize=8,
            color=DARK_GREY,
        )
        axes.axhline(last + 0.5, color=DARK_GREY, linewidth=0.8)
    for k in range(1, len(parts)):
        axes.axhline(k - 0.5, color=LIGHT_GREY, linewidth=0.5, zorder=0)
    axes.grid(axis="x", color=LIGHT_GREY, linewidth=0.6)
    axes.set_axisbelow(True)
    tidy(axes)
    return figure, axes


def stratum_rows(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame, NDArray[np.float64]]]:
    """Each method with its rows of the table and their heights in the chart."""
    parts = _parts(table)
    place = {key: k for k, key in enumerate(zip(parts["stratum"], parts["value"], strict=True))}
    methods = methods_in(table)
    for k, method in enumerate(methods):
        own = table[table["method"] == method]
        row = [place[key] for key in zip(own["stratum"], own["value"], strict=True)]
        shift = 0.0 if len(methods) == 1 else _SPREAD * (k / (len(methods) - 1) - 0.5)
        yield method, own, np.asarray(row, dtype=np.float64) + shift


def _parts(table: pd.DataFrame) -> pd.DataFrame:
    """The parts in order, with the largest number of fixes that a method has there."""
    return table.groupby(["stratum", "value"], sort=False)["n"].max().reset_index()
