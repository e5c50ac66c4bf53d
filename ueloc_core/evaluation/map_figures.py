"""Figures over a map: the city with its radio network, and posteriors between its buildings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from ueloc_core.evaluation.figures import SHORT_LABELS, WIDTH_IN
from ueloc_core.evaluation.metrics import fixes_of, hpd_area_m2
from ueloc_core.grid import Window
from ueloc_core.localization.regions import hpd_cells
from ueloc_core.units import azimuth_to_math_angle_rad

ATTRIBUTION = "\N{COPYRIGHT SIGN} OpenStreetMap contributors"

_BUILDING = "#c9c9c9"
_BUILDING_EDGE = "#9a9a9a"
_TRUTH: dict[str, Any] = {"marker": "*", "color": "#009E73", "markersize": 15}
_ESTIMATE: dict[str, Any] = {"marker": "o", "color": "#56B4E9", "markersize": 9}
_SITE: dict[str, Any] = {"marker": "^", "color": "black", "markersize": 9}
_OUTLINE: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 1.1, "linestyle": "none"}
_DENSITY_DECADES = 3
_VIEW_LEVEL = 0.95
_MIN_VIEW_M = 160.0
_BORESIGHT_M = 35.0


@dataclass(frozen=True)
class PosteriorExample:
    """What one report tells about its terminal's position, by method.

    Attributes
    ----------
    title
        What is special about it, in words.
    window
        Where the masses lie.
    masses
        Posterior mass per grid cell of each method, shape (rows, columns).
    estimates_m
        Estimated position (x, y) of each method [m].
    truth_m, site_m
        True position and serving site (x, y) [m].
    mass90
        Posterior mass that the 90% region of each method needs; 0.9 unless calibration says
        otherwise.
    """

    title: str
    window: Window
    masses: Mapping[str, NDArray[np.floating[Any]]]
    estimates_m: Mapping[str, tuple[float, float]]
    truth_m: tuple[float, float]
    site_m: tuple[float, float]
    mass90: Mapping[str, float] = field(default_factory=dict)


def overview_map(
    *,
    window: Window,
    rsrp_dbm: NDArray[np.floating[Any]],
    footprints: gpd.GeoDataFrame,
    sectors: pd.DataFrame,
    fixes: pd.DataFrame,
    method: str = "network",
) -> Figure:
    """Best-server RSRP with the sites and sectors, beside the errors at the test terminals.

    Parameters
    ----------
    window
        Area to show.
    rsrp_dbm
        RSRP of the strongest sector [dBm] over the window, shape (rows, columns); NaN where no
        ray arrives.
    footprints
        Buildings, in the city's CRS.
    sectors
        Table of sectors.
    fixes
        Table of fixes; those of `method` are shown where the terminals truly stood.
    """
    x0, y0, x1, y1 = window.bounds_m
    height_in = WIDTH_IN / 2 * (y1 - y0) / (x1 - x0) + 1.2
    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    signal, errors = figure.subplots(1, 2, sharex=True, sharey=True)
    _draw_buildings(signal, footprints, window.bounds_m)
    low, high = (
        np.nanpercentile(rsrp_dbm, (2, 99.5)) if np.isfinite(rsrp_dbm).any() else (-120, -60)
    )
    image = signal.imshow(
        np.ma.masked_invalid(rsrp_dbm),
        origin="lower",
        extent=(x0, x1, y0, y1),
        cmap="viridis",
        norm=Normalize(low, high),
        interpolation="nearest",
        zorder=1,
    )
    figure.colorbar(
        image, ax=signal, location="bottom", shrink=0.9, label="RSRP [dBm]", extend="both"
    )
    signal.set_title("Signal of the strongest sector", fontsize=10)
    for x_m, y_m, azimuth_deg in sectors[["x_m", "y_m", "azimuth_deg"]].to_numpy(dtype=float):
        angle = azimuth_to_math_angle_rad(azimuth_deg)
        signal.plot(
            [x_m, x_m + _BORESIGHT_M * np.cos(angle)],
            [y_m, y_m + _BORESIGHT_M * np.sin(angle)],
            color="black",
            linewidth=1.3,
            zorder=4,
        )
    _draw_buildings(errors, footprints, window.bounds_m)
    shown = fixes_of(fixes, method)
    points = errors.scatter(
        shown["truth_x_m"],
        shown["truth_y_m"],
        c=shown["error_m"].clip(lower=1),
        s=11,
        cmap="plasma_r",
        norm=LogNorm(1, 300),
        linewidths=0.25,
        edgecolors="#555555",
        zorder=3,
    )
    bar = figure.colorbar(
        points,
        ax=errors,
        location="bottom",
        shrink=0.9,
        extend="max",
        label=f"Error of the {SHORT_LABELS.get(method, method).lower()} [m]",
        ticks=[1, 3, 10, 30, 100, 300],
        format=FuncFormatter(lambda value, _: f"{value:g}"),
    )
    bar.minorticks_off()
    errors.set_title(f"{len(shown)} test terminals, where they stood", fontsize=10)
    for axes in (signal, errors):
        axes.plot(
            sectors["x_m"], sectors["y_m"], **(_SITE | _OUTLINE | {"markersize": 6}), zorder=5
        )
        _frame(axes, window.bounds_m)
    signal.legend(
        handles=[
            Line2D([], [], **(_SITE | _OUTLINE | {"markersize": 6}), label="site and its sectors")
        ],
        loc="upper left",
        fontsize=7.5,
        framealpha=0.9,
    )
    return figure


def posterior_panels(example: PosteriorExample, footprints: gpd.GeoDataFrame) -> Figure:
    """The density of each method between the buildings, with truth, estimate and serving site.

    The panels share one logarithmic colour scale and show the same place.
    """
    methods = list(example.masses)
    bounds_m = _view(example)
    figure = Figure(figsize=(WIDTH_IN, 5.6), layout="constrained")
    grid = figure.add_gridspec(3, len(methods), height_ratios=(0.06, 1, 0.03))
    panels = [figure.add_subplot(grid[1, column]) for column in range(len(methods))]
    cell_m = example.window.cell_m
    densities = {m: np.asarray(example.masses[m]) / cell_m**2 for m in methods}
    top = max(float(d.max()) for d in densities.values())
    bottom = top / 10**_DENSITY_DECADES
    norm = LogNorm(bottom, top)
    x0, y0, x1, y1 = example.window.bounds_m
    for axes, method in zip(panels, methods, strict=True):
        _draw_buildings(axes, footprints, bounds_m)
        image = axes.imshow(
            np.ma.masked_less(densities[method], bottom),
            origin="lower",
            extent=(x0, x1, y0, y1),
            cmap="magma_r",
            norm=norm,
            alpha=0.85,
            interpolation="nearest",
            zorder=2,
        )
        axes.plot(*example.site_m, **(_SITE | _OUTLINE), zorder=5)
        axes.plot(*example.estimates_m[method], **(_ESTIMATE | _OUTLINE), zorder=6)
        axes.plot(*example.truth_m, **(_TRUTH | _OUTLINE), zorder=7)
        error_m = float(np.hypot(*np.subtract(example.estimates_m[method], example.truth_m)))
        area_m2 = float(
            hpd_area_m2(example.masses[method], example.mass90.get(method, 0.9), cell_m)
        )
        axes.set_title(
            f"{SHORT_LABELS.get(method, method)}: {error_m:.0f} m off\n"
            f"90% region of {area_m2:,.0f} m\N{SUPERSCRIPT TWO}",
            fontsize=10,
        )
        _frame(axes, bounds_m)
    scale = figure.add_subplot(grid[2, :])
    bar = figure.colorbar(image, cax=scale, orientation="horizontal", extend="min")
    bar.set_label("Probability per square metre", fontsize=9)
    scale.tick_params(labelsize=8)
    key = figure.add_subplot(grid[0, :])
    key.axis("off")
    key.legend(
        handles=[
            Line2D([], [], **(_TRUTH | _OUTLINE), label="true position"),
            Line2D([], [], **(_ESTIMATE | _OUTLINE), label="estimate"),
            Line2D([], [], **(_SITE | _OUTLINE), label="serving site"),
        ],
        loc="center",
        ncols=3,
        frameon=False,
        fontsize=9,
    )
    figure.suptitle(example.title, fontweight="bold", fontsize=11)
    return figure


def _view(example: PosteriorExample) -> tuple[float, float, float, float]:
    """Square that holds the posteriors, the estimates, the truth and the site [m]."""
    xs = [example.truth_m[0], example.site_m[0]]
    ys = [example.truth_m[1], example.site_m[1]]
    for method, mass in example.masses.items():
        rows, columns = np.nonzero(hpd_cells(mass, _VIEW_LEVEL))
        xs += [example.estimates_m[method][0], *example.window.x_centres_m[columns]]
        ys += [example.estimates_m[method][1], *example.window.y_centres_m[rows]]
    half_m = max(max(xs) - min(xs), max(ys) - min(ys), _MIN_VIEW_M) * 0.62
    x_m, y_m = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
    return x_m - half_m, y_m - half_m, x_m + half_m, y_m + half_m


def _draw_buildings(
    axes: Axes, footprints: gpd.GeoDataFrame, bounds_m: tuple[float, float, float, float]
) -> None:
    x0, y0, x1, y1 = bounds_m
    seen = footprints.cx[x0:x1, y0:y1]
    if len(seen):
        seen.plot(
            ax=axes,
            color=_BUILDING,
            edgecolor=_BUILDING_EDGE,
            linewidth=0.4,
            aspect=None,
            zorder=1,
        )


def _frame(axes: Axes, bounds_m: tuple[float, float, float, float]) -> None:
    """Fix the view, and put a scale bar and the attribution on it."""
    x0, y0, x1, y1 = bounds_m
    axes.set(
        xlim=(x0, x1), ylim=(y0, y1), aspect="equal", xticks=[], yticks=[], xlabel="", ylabel=""
    )
    for spine in axes.spines.values():
        spine.set(color=_BUILDING_EDGE, linewidth=0.8)
    length_m = _round_length_m((x1 - x0) / 4)
    left, bottom = x0 + 0.04 * (x1 - x0), y0 + 0.045 * (y1 - y0)
    box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.5}
    axes.plot([left, left + length_m], [bottom, bottom], color="black", linewidth=2.5, zorder=8)
    axes.annotate(
        f"{length_m:g} m",
        (left + length_m / 2, bottom),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=8,
        bbox=box,
        zorder=8,
    )
    axes.text(
        0.995,
        0.006,
        ATTRIBUTION,
        transform=axes.transAxes,
        ha="right",
        va="bottom",
        fontsize=6.5,
        bbox=box,
        zorder=8,
    )


def _round_length_m(length_m: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is no longer than a length [m]."""
    power = 10.0 ** np.floor(np.log10(length_m))
    return float(max(f * power for f in (1, 2, 5) if f * power <= length_m))
