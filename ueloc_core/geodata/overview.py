"""Picture of a whole city: buildings by height, water, vegetation, relief and tiles."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
from PIL import Image

from ueloc_core.city import City
from ueloc_core.geodata.schemas import BUILDING_KINDS, HEIGHT_SOURCES
from ueloc_core.geodata.terrain import Terrain

ATTRIBUTION = "\u00a9 OpenStreetMap contributors"

_COLOURS = 200
_TOP_M = 30.0
_COLOURED = 0.98


def write_overview(
    features: gpd.GeoDataFrame, city: City, path: Path, *, terrain: Terrain | None = None
) -> None:
    """Draw a city as a PNG of about 1000 pixels.

    Parameters
    ----------
    features
        Rows of `FeatureSchema`.
    city
        Its tiles are outlined and named.
    path
        File to write.
    terrain
        The ground; its relief is shaded where it is not flat.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - takes a second
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.patheffects import withStroke  # noqa: PLC0415

    x0, y0, x1, y1 = city.window_cells.bounds_m
    figure = Figure(figsize=(10, 1 + 9 * (y1 - y0) / (x1 - x0)), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    if terrain is not None:
        shade_relief(axes, terrain)
    draw_ground(axes, features)
    buildings = features[features["kind"].isin(BUILDING_KINDS)]
    draw_buildings(axes, buildings)
    for tile in city.tile_list:
        left, bottom, right, top = tile.window.bounds_m
        axes.plot(
            [left, right, right, left, left],
            [bottom, bottom, top, top, bottom],
            color="#c0392b",
            linewidth=0.8,
        )
        name = axes.text(left + 12, bottom + 12, tile.name, fontsize=7, color="#8e2a1f")
        name.set_path_effects([withStroke(linewidth=2, foreground="white")])
    axes.set(xlim=(x0, x1), ylim=(y0, y1), aspect="equal", xticks=[], yticks=[])
    shares = buildings["height_source"].value_counts(normalize=True)
    known = ", ".join(f"{name} {shares.get(name, 0):.0%}" for name in HEIGHT_SOURCES)
    axes.set_title(
        f"{city.title or city.name}: {len(buildings)} buildings, heights by {known}", fontsize=11
    )
    axes.set_xlabel(ATTRIBUTION, fontsize=7, loc="right")
    add_scale_bar(axes, x0, y0, x1 - x0)
    canvas.draw()
    path.write_bytes(png_bytes(canvas, _COLOURS))


def shade_relief(axes: Any, terrain: Terrain) -> None:
    """Shade the relief of a terrain, with contours; nothing where it is flat."""
    if terrain.is_flat:
        return
    from matplotlib.colors import LightSource  # noqa: PLC0415

    heights = terrain.heights_m
    shaded = LightSource(315, 45).hillshade(
        heights, vert_exag=1.5, dx=terrain.step_m, dy=terrain.step_m
    )
    left, bottom, right, top = terrain.bounds_m
    axes.imshow(
        np.where(heights > 0, shaded, np.nan),
        extent=(left, right, bottom, top),
        origin="lower",
        cmap="gray",
        vmin=-0.4,
        vmax=1.1,
        alpha=0.8,
        interpolation="bilinear",
    )
    x = np.linspace(left, right, heights.shape[1])
    y = np.linspace(bottom, top, heights.shape[0])
    step_m = 10.0 if np.ptp(heights) < 200 else 50.0
    levels = np.arange(step_m * max(1, np.ceil(heights.min() / step_m)), heights.max(), step_m)
    if len(levels):
        lines = axes.contour(x, y, heights, levels, colors="#7a5c3e", linewidths=0.4)
        axes.clabel(lines, fontsize=6, fmt="%.0f m")


def draw_ground(axes: Any, features: gpd.GeoDataFrame) -> None:
    """Fill water and vegetation, and draw roads at their widths."""
    kind = features["kind"]
    green = features[(kind == "landuse") & features["land_class"].isin(_GREEN)]
    strips = features[kind == "road"]
    for areas, colour in ((green, "#cfe3c0"), (features[kind == "water"], "#a9c9e0")):
        _fill(axes, areas, color=colour, alpha=0.85)
    if len(strips):
        outlines = strips.geometry.buffer(strips["width_m"].to_numpy(float) / 2, cap_style="flat")
        _fill(axes, outlines, color="#dad5cc")


def draw_buildings(axes: Any, buildings: gpd.GeoDataFrame) -> None:
    """Fill buildings by height; those whose height nobody tagged have a light edge.

    The colours end where all but the highest fiftieth is lower, so that a single tower does not
    darken the rest of a city.
    """
    if not len(buildings):
        return
    buildings = buildings.sort_values(["height_m", "osm_id"])
    top_m = max(_TOP_M, float(buildings["height_m"].quantile(_COLOURED)))
    reaches_over = bool((buildings["height_m"] > top_m).any())
    guessed = (buildings["height_source"] == "imputed").to_numpy()
    buildings.plot(
        ax=axes,
        aspect=None,
        column="height_m",
        cmap="viridis",
        vmin=0,
        vmax=top_m,
        edgecolor=np.where(guessed, "#f4a582", "#333333"),
        linewidth=0.35,
        legend=True,
        legend_kwds={
            "label": "height [m]; light edge: estimated",
            "shrink": 0.7,
            "extend": "max" if reaches_over else "neither",
        },
    )
    axes.set_ylabel("")


def add_scale_bar(axes: Any, x_m: float, y_m: float, width_m: float) -> None:
    """Draw a bar of a round length at the lower left corner (x, y) of a map."""
    length_m = next(size for size in (1000, 500, 200, 100, 50) if size < width_m / 3 or size == 50)
    left, bottom = x_m + 0.04 * width_m, y_m + 0.035 * width_m
    axes.plot([left, left + length_m], [bottom, bottom], color="black", linewidth=2.5)
    axes.text(left, bottom + 0.012 * width_m, f"{length_m:g} m", fontsize=8)


def png_bytes(canvas: Any, colours: int) -> bytes:
    """What was drawn as a small PNG; the same drawing gives the same bytes."""
    pixels = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    buffer = io.BytesIO()
    pixels.quantize(colours).save(buffer, format="png", optimize=True)
    return buffer.getvalue()


_GREEN: Sequence[str] = (
    *("grass", "forest", "meadow", "park", "garden", "wood", "scrub", "grassland", "pitch"),
    *("cemetery", "village_green", "recreation_ground", "allotments", "flowerbed", "orchard"),
)


def _fill(axes: Any, areas: Any, **style: Any) -> None:
    if len(areas):
        areas.plot(ax=axes, aspect=None, **style)
