"""Rows of buildings, as an extract has them."""

import geopandas as gpd
import numpy as np
import shapely

CRS = "EPSG:32635"
CORNER = (385_000.0, 6_671_000.0)


def rows(shapes, **columns):
    """Buildings of 20 m with a tagged height, concrete and flat, on ground at 0 m."""
    names = [f"way/{number}" for number in range(1, len(shapes) + 1)]
    usual = {
        "osm_id": names,
        "kind": "building",
        "tile": "e1n1",
        "height_m": 20.0,
        "height_source": "tag",
        "height_sigma_m": 1.0,
        "min_height_m": 0.0,
        "material": "concrete",
        "building_id": names,
        "ground_m": 0.0,
        "roof_shape": "flat",
        "roof_height_m": 0.0,
        "roof_direction_deg": np.nan,
        "roof_material": "concrete",
        "road_class": None,
        "width_m": np.nan,
        "land_class": None,
    }
    return gpd.GeoDataFrame({**usual, **columns}, geometry=list(shapes), crs=CRS)


def box(x, y, width, depth):
    """A rectangle whose lower left corner is `CORNER` and (x, y)."""
    x, y = x + CORNER[0], y + CORNER[1]
    return shapely.box(x, y, x + width, y + depth)


def scattered(count, **columns):
    """Square buildings that are far from each other."""
    side = int(np.ceil(np.sqrt(count)))
    squares = [box(60 * (k % side), 60 * (k // side), 20, 20) for k in range(count)]
    return rows(squares, **columns)
