"""Preview picture of a scene: relief, water, vegetation, roads, buildings by height, the tile."""

from pathlib import Path

import geopandas as gpd

from ueloc_core.geodata.overview import (
    ATTRIBUTION,
    add_scale_bar,
    draw_buildings,
    draw_ground,
    png_bytes,
    shade_relief,
)
from ueloc_core.geodata.schemas import BUILDING_KINDS
from ueloc_core.geodata.terrain import Terrain
from ueloc_core.grid import Tile, Window

MAX_BYTES = 50_000
"""A preview lives in the database of the Dagster instance, so it stays small."""

_COLOURS = 128


def write_preview(
    features: gpd.GeoDataFrame,
    tile: Tile,
    window: Window,
    path: Path,
    *,
    title: str,
    terrain: Terrain | None = None,
) -> None:
    """Draw a scene as a PNG of at most 50 kB.

    Parameters
    ----------
    features
        Roads, water, land use and buildings in the city's CRS [m].
    tile, window
        The tile, and the window of its scene.
    path
        File to write.
    title
        Title of the picture.
    terrain
        The ground; its relief is shaded where it is not flat.
    """
    picture = b""
    for dpi in (110, 95, 80, 66, 54, 44):
        picture = _drawn(features, tile, window, title, terrain, dpi=dpi)
        if len(picture) <= MAX_BYTES:
            break
    path.write_bytes(picture)


def _drawn(
    features: gpd.GeoDataFrame,
    tile: Tile,
    window: Window,
    title: str,
    terrain: Terrain | None,
    *,
    dpi: int,
) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - takes a second
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(6.4, 5.4), dpi=dpi, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    if terrain is not None:
        shade_relief(axes, terrain)
    draw_ground(axes, features)
    draw_buildings(axes, features[features["kind"].isin(BUILDING_KINDS)])
    x0, y0, x1, y1 = tile.window.bounds_m
    axes.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color="#c0392b", linewidth=1.5)
    wx0, wy0, wx1, wy1 = window.bounds_m
    axes.set(xlim=(wx0, wx1), ylim=(wy0, wy1), aspect="equal", xticks=[], yticks=[], title=title)
    axes.set_xlabel(ATTRIBUTION, fontsize=7, loc="right")
    add_scale_bar(axes, wx0, wy0, wx1 - wx0)
    canvas.draw()
    return png_bytes(canvas, _COLOURS)
