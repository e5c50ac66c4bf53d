"""Roads of a made-up quarter: a lattice of streets, with rows as the feature table has them."""

import geopandas as gpd
import numpy as np
import shapely

from ueloc_core.grid import Window

CELL_M = 4.0
X0, Y0 = 385_600.0, 6_671_200.0
SIDE_M = 400.0


def road_features(rows):
    """Features of (geometry, road_class, width_m), numbered from way/1."""
    shapes, classes, widths_m = zip(*rows, strict=True) if rows else ((), (), ())
    return gpd.GeoDataFrame(
        {
            "osm_id": [f"way/{k + 1}" for k in range(len(rows))],
            "kind": "road",
            "road_class": np.array(classes, dtype=object),
            "width_m": np.array(widths_m, dtype=float),
        },
        geometry=gpd.GeoSeries(list(shapes), crs="EPSG:32635"),
        crs="EPSG:32635",
    )


def line(*places):
    """A line through places [m] from the quarter's corner."""
    return shapely.LineString([(X0 + x, Y0 + y) for x, y in places])


def quarter():
    """Streets every 100 m both ways, crossing at shared vertices; a footpath bends through."""
    stops = np.arange(50.0, SIDE_M, 100.0)
    kinds = [("residential", 7.0), ("primary", 12.0), ("tertiary", 8.0), ("service", 4.0)]
    rows = []
    for at, kind in zip(stops, kinds, strict=True):
        rows.append((line(*((s, at) for s in (10.0, *stops, 390.0))), *kind))
        rows.append((line(*((at, s) for s in (10.0, *stops, 390.0))), *kind))
    rows.append((line((50, 50), (80, 60), (90, 100), (120, 120), (150, 150)), "path", 2.5))
    return road_features(rows)


def quarter_window():
    """Grid cells that hold the quarter."""
    return Window.covering((X0, Y0, X0 + SIDE_M, Y0 + SIDE_M), CELL_M)


def buildings():
    """Which cells of the quarter have a building: blocks 12 m beside the streets' middles."""
    window = quarter_window()
    east = (window.x_centres_m - X0 - 50) % 100
    north = (window.y_centres_m - Y0 - 50) % 100
    inner = ((value > 12) & (value < 88) for value in (east, north))
    columns, rows = inner
    return rows[:, None] & columns[None, :]
