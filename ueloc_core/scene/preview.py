"""Preview picture of a scene: footprints coloured by height, roads, the tile's outline."""

import io
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
from PIL import Image

from ueloc_core.geodata.osm import ATTRIBUTION
from ueloc_core.geodata.schemas import BUILDING_KINDS
from ueloc_core.grid import Tile, Window

MAX_BYTES = 50_000  # a preview lives in the database of the Dagster instance

_COLOURS = 64


def write_preview(
    features: gpd.GeoDataFrame, tile: Tile, window: Window, path: Path, *, title: str
) -> None:
    """Draw a scene as a PNG of at most 50 kB.

    Parameters
    ----------
    features
        Roads, water, land use and resolved buildings in the city's CRS [m].
    tile, window
        The tile, and the window of its scene.
    path
        File to write.
    title
        Title of the picture.
    """
    for dpi in (120, 100, 80, 64, 50):
        picture = _drawn(features, tile, window, title, dpi)
        if len(picture) <= MAX_BYTES:
            break
    path.write_bytes(picture)


def _drawn(features: gpd.GeoDataFrame, tile: Tile, window: Window, title: str, dpi: int) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - takes a second
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(5.6, 5.0), dpi=dpi, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    kind = features["kind"]
    _fill(axes, features[kind == "water"], color="#a9c9e0")
    roads = features[kind == "road"]
    if len(roads):
        roads.plot(ax=axes, color="#c9c4bb", linewidth=roads["width_m"] / 10, aspect=None)
    buildings = features[kind.isin(BUILDING_KINDS)]
    _fill(
        axes,
        buildings,
        column="height_m",
        cmap="viridis",
        vmin=0,
        vmax=max(30.0, float(buildings["height_m"].max())) if len(buildings) else 30.0,
        legend=True,
        legend_kwds={"label": "height [m]", "shrink": 0.8},
    )
    x0, y0, x1, y1 = tile.window.bounds_m
    axes.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color="#c0392b", linewidth=1.5)
    wx0, wy0, wx1, wy1 = window.bounds_m
    axes.set(xlim=(wx0, wx1), ylim=(wy0, wy1), aspect="equal", xticks=[], yticks=[], title=title)
    axes.set_ylabel("")
    axes.set_xlabel(ATTRIBUTION, fontsize=7, loc="right")
    canvas.draw()
    pixels = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    buffer = io.BytesIO()
    pixels.quantize(_COLOURS).save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def _fill(axes: Any, areas: gpd.GeoDataFrame, **style: Any) -> None:
    if len(areas):
        areas.plot(ax=axes, aspect=None, **style)
