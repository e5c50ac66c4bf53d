"""A picture of the world's buildings over the twin's."""

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np

from ueloc_core.geodata.overview import ATTRIBUTION, add_scale_bar, png_bytes
from ueloc_core.grid import Window
from ueloc_core.scene.preview import MAX_BYTES

_COLOURS = 96
_STEPS = 11
_LEAST_SPAN_M = 3.0
_MISSING, _EXTRA, _TWIN, _TILE = "#e31a1c", "#33a02c", "#222222", "#c0392b"


def write_difference(
    changes: gpd.GeoDataFrame,
    world: gpd.GeoDataFrame,
    extra: gpd.GeoDataFrame,
    windows: tuple[Window, Window],
    path: Path,
    *,
    title: str,
) -> None:
    """Draw what differs, as a PNG of at most 50 kB.

    The world's buildings are filled by how much higher (red) or lower (blue) they are; thin
    lines are the twin's footprints; missing buildings are hatched, extra ones green.

    Parameters
    ----------
    changes
        What became of the twin's buildings (`WorldBuildings.changes`).
    world
        The world's rows of buildings, without the extra ones.
    extra
        Buildings that the twin lacks.
    windows
        The tile's own window and that of its scene.
    path
        File to write.
    title
        Title of the picture.
    """
    error_m = changes["height_m"] - changes["twin_height_m"]
    error_of = dict(zip(changes["osm_id"], error_m, strict=True))
    shown = world[world["osm_id"].isin(error_of)]
    shown = shown.assign(error_m=shown["osm_id"].map(error_of))
    picture = b""
    for dpi in (130, 110, 95, 80, 66, 54, 44):
        picture = _drawn(changes, shown, extra, windows, title, dpi=dpi)
        if len(picture) <= MAX_BYTES:
            break
    path.write_bytes(picture)


def _drawn(
    changes: gpd.GeoDataFrame,
    shown: gpd.GeoDataFrame,
    extra: gpd.GeoDataFrame,
    windows: tuple[Window, Window],
    title: str,
    *,
    dpi: int,
) -> bytes:
    from matplotlib import colormaps  # noqa: PLC0415
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - takes a second
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(6.4, 5.6), dpi=dpi, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    if len(shown):
        span_m = max(_LEAST_SPAN_M, float(np.quantile(np.abs(shown["error_m"]), 0.95)))
        shown.plot(
            ax=axes,
            aspect=None,
            column="error_m",
            cmap=colormaps["RdBu_r"].resampled(_STEPS),  # few colours, so that all are kept
            vmin=-span_m,
            vmax=span_m,
            legend=True,
            legend_kwds={"label": "world less twin [m]", "shrink": 0.7, "extend": "both"},
        )
    _outline(axes, changes, color=_TWIN, linewidth=0.35)
    missing = changes[changes["state"] != "there"]
    _outline(axes, missing, color=_MISSING, linewidth=0.9, hatch="xxxx")
    _outline(axes, extra, color=_EXTRA, linewidth=0.9, facecolor=_EXTRA)
    x0, y0, x1, y1 = windows[0].bounds_m
    axes.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color=_TILE, linewidth=1.2, ls="--")
    wx0, wy0, wx1, wy1 = windows[1].bounds_m
    axes.set(xlim=(wx0, wx1), ylim=(wy0, wy1), aspect="equal", xticks=[], yticks=[])
    axes.set_ylabel("")
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(ATTRIBUTION, fontsize=7, loc="right")
    axes.legend(handles=_legend(len(missing), len(extra)), loc="upper right", fontsize=7)
    add_scale_bar(axes, wx0, wy0, wx1 - wx0)
    canvas.draw()
    return png_bytes(canvas, _COLOURS)


def _outline(axes: Any, rows: gpd.GeoDataFrame, *, color: str, **style: Any) -> None:
    if len(rows):
        face = {"facecolor": "none"} | style
        rows.plot(ax=axes, aspect=None, edgecolor=color, **face)


def _legend(missing: int, extra: int) -> list[Any]:
    from matplotlib.lines import Line2D  # noqa: PLC0415
    from matplotlib.patches import Patch  # noqa: PLC0415

    return [
        Line2D([], [], color=_TWIN, linewidth=0.6, label="twin's footprint"),
        Patch(facecolor="none", edgecolor=_MISSING, hatch="xxxx", label=f"missing ({missing})"),
        Patch(facecolor=_EXTRA, edgecolor=_EXTRA, label=f"extra ({extra})"),
    ]
