"""Picture of a tile's sites: where they stand and where their sectors look."""

from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd

from ueloc_core.geodata.overview import (
    ATTRIBUTION,
    add_scale_bar,
    draw_buildings,
    draw_ground,
    png_bytes,
)
from ueloc_core.geodata.schemas import BUILDING_KINDS
from ueloc_core.grid import Tile
from ueloc_core.units import azimuth_to_math_angle_rad

_COLOURS = 64
_ARROW_SHARE = 0.06


def write_site_overview(
    sectors: pd.DataFrame, features: gpd.GeoDataFrame, tile: Tile, path: Path
) -> None:
    """Draw the sectors of a tile over its buildings as a PNG of about 500 pixels.

    Parameters
    ----------
    sectors
        Rows of `ueloc_core.radio.schemas.SectorSchema`.
    features
        Rows of `ueloc_core.geodata.schemas.FeatureSchema`.
    tile
        What is shown.
    path
        File to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - takes a second
    from matplotlib.figure import Figure  # noqa: PLC0415

    x0, y0, x1, y1 = tile.window.bounds_m
    figure = Figure(figsize=(6, 5), dpi=90, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    draw_ground(axes, features)
    draw_buildings(axes, features[features["kind"].isin(BUILDING_KINDS)])
    angle_rad = np.array([azimuth_to_math_angle_rad(value) for value in sectors["azimuth_deg"]])
    length_m = _ARROW_SHARE * (x1 - x0)
    axes.quiver(
        sectors["x_m"],
        sectors["y_m"],
        length_m * np.cos(angle_rad),
        length_m * np.sin(angle_rad),
        angles="xy",
        scale_units="xy",
        scale=1,
        width=0.006,
        color="#c0392b",
        zorder=5,
    )
    axes.plot(sectors["x_m"], sectors["y_m"], "o", color="#c0392b", markersize=4, zorder=6)
    axes.set(xlim=(x0, x1), ylim=(y0, y1), aspect="equal", xticks=[], yticks=[])
    axes.set_title(f"{tile.name}: {sectors['site_id'].nunique()} sites, {len(sectors)} sectors")
    axes.set_xlabel(ATTRIBUTION, fontsize=7, loc="right")
    add_scale_bar(axes, x0, y0, x1 - x0)
    canvas.draw()
    path.write_bytes(png_bytes(canvas, _COLOURS))
