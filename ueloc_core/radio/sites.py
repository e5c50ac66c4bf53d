"""Sites and their sectors: a seeded plan of rooftop sites near a hexagonal lattice.

The lattice is anchored at the origin of the CRS and every lattice point is served on its own
(its draws come from its own indices), so a tile's sites do not depend on how the city is cut.
"""

import math
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
import shapely.ops

from ueloc_core.city import City
from ueloc_core.errors import RadioError
from ueloc_core.geodata.terrain import Terrain
from ueloc_core.grid import Tile, Window
from ueloc_core.radio.schemas import SectorSchema, empty_sectors

CODE_VERSION = "2"

_JITTER_SHARE = 0.1
_EDGE_INSET_M = 1.5
_HEIGHT_PER_METRE = 0.1  # a metre of height outweighs ten metres of distance
_NUM_PCI_GROUPS = 336
_NUMBER_STRIDE = 10_000


def site_search_window(city: City, tile: Tile) -> Window:
    """Grid cells around a tile whose buildings decide which sites stand in it."""
    return tile.window.buffered(2 * city.site_plan.snap_radius_m)


def build_sites(
    city: City, tile: Tile, features: gpd.GeoDataFrame, terrain: Terrain, out: Path
) -> dict[str, Any]:
    """Plan the sectors that a tile owns and write ``sectors.parquet``.

    Parameters
    ----------
    city, tile
        What to plan.
    features
        Features of `site_search_window`, in the city's CRS.
    terrain
        The ground under the tile.
    out
        Folder to write to.

    Raises
    ------
    RadioError
        If a planned antenna would not stand clear of its building.
    """
    sectors = plan_sectors(city, tile, features, terrain)
    sectors.to_parquet(out / "sectors.parquet", index=False)
    return {
        "sites": int(sectors.site_id.nunique()),
        "sectors": len(sectors),
        "median_height_m": float(sectors.height_m.median()) if len(sectors) else None,
    }


def load_sectors(folder: Path) -> pd.DataFrame:
    """Sectors of one tile, as `SectorSchema`."""
    return pd.read_parquet(folder / "sectors.parquet")


def plan_sectors(
    city: City, tile: Tile, features: gpd.GeoDataFrame, terrain: Terrain
) -> pd.DataFrame:
    """Sectors of the sites that stand on a tile, as `SectorSchema`."""
    plan = city.site_plan
    buildings = features[features["kind"].isin(["building", "building_part"])]
    buildings = buildings[buildings["height_m"] >= plan.min_building_height_m]
    if buildings.empty:
        return empty_sectors()
    area = shapely.Polygon(city.area_m)
    rows: list[dict[str, Any]] = []
    for column, row, x_m, y_m, azimuth_deg in _lattice(city, tile):
        mast = _mast(shapely.Point(x_m, y_m), buildings, plan.snap_radius_m)
        if mast is None:
            continue
        point, roof_m = mast
        if not (tile.owns(point.x, point.y) and area.contains(point)):
            continue
        number = row * _NUMBER_STRIDE + column
        if not 0 < column < _NUMBER_STRIDE:
            raise RadioError(
                f"site lattice column {column} does not fit a sector number",
                where=f"{city.name}: site_plan.inter_site_distance_m",
                remedy="Use a larger distance or a CRS whose eastings are smaller.",
            )
        lon_deg, lat_deg = city.to_lonlat(point.x, point.y)
        ground_m = float(terrain.height_at(point.x, point.y))
        # on a steep slope the uphill ground may lie above the roof of a low building
        elevation_m = max(roof_m, ground_m) + plan.mast_height_m
        rows.extend(
            {
                "sector_id": number * 10 + k,
                "site_id": number,
                "tile": tile.name,
                "x_m": point.x,
                "y_m": point.y,
                "height_m": elevation_m - ground_m,
                "elevation_m": elevation_m,
                "azimuth_deg": (azimuth_deg + 360.0 * k / plan.sectors) % 360.0,
                "downtilt_deg": plan.downtilt_deg,
                "power_dbm": city.radio.power_dbm,
                "pci": 3 * ((column + 19 * row) % _NUM_PCI_GROUPS) + k % 3,
                "lon_deg": float(lon_deg),
                "lat_deg": float(lat_deg),
            }
            for k in range(plan.sectors)
        )
    if not rows:
        return empty_sectors()
    table = pd.DataFrame(rows).sort_values("sector_id", ignore_index=True)
    validated: pd.DataFrame = SectorSchema.validate(table)
    return validated


def _lattice(city: City, tile: Tile) -> list[tuple[int, int, float, float, float]]:
    """(column, row, x [m], y [m], azimuth [deg]) of the lattice points whose site may be here."""
    plan = city.site_plan
    step_m = plan.inter_site_distance_m
    row_m = step_m * math.sqrt(3) / 2
    reach_m = plan.snap_radius_m + _JITTER_SHARE * step_m
    x0, y0, x1, y1 = tile.window.buffered(reach_m).bounds_m
    points = []
    for row in range(math.floor(y0 / row_m), math.ceil(y1 / row_m) + 1):
        shift = 0.5 * (row % 2)
        for column in range(math.floor(x0 / step_m) - 1, math.ceil(x1 / step_m) + 1):
            rng = np.random.default_rng([city.seed, row % 2**32, column % 2**32])
            dx, dy = rng.uniform(-_JITTER_SHARE, _JITTER_SHARE, 2) * step_m
            turn = rng.uniform(-plan.azimuth_jitter_deg, plan.azimuth_jitter_deg)
            points.append(
                (
                    column,
                    row,
                    (column + shift) * step_m + dx,
                    row * row_m + dy,
                    plan.azimuth_deg + turn,
                )
            )
    return points


def _mast(
    wanted: shapely.Point, buildings: gpd.GeoDataFrame, radius_m: float
) -> tuple[shapely.Point, float] | None:
    """Place on a roof near a wanted point, and the roof's elevation [m]; None without a roof."""
    near = buildings[buildings.geometry.distance(wanted) <= radius_m]
    roofs = near.geometry.buffer(-_EDGE_INSET_M)
    roofs = roofs.where(~roofs.is_empty, near.geometry)
    distance_m = roofs.distance(wanted)
    within = distance_m <= radius_m  # of the mast itself, so that `site_search_window` is enough
    if not within.any():
        return None
    score = near["height_m"] - _HEIGHT_PER_METRE * near.geometry.distance(wanted)
    order = pd.DataFrame({"score": -score, "osm_id": near["osm_id"]})[within].sort_values(
        ["score", "osm_id"]
    )
    best = order.index[0]
    point = shapely.ops.nearest_points(roofs.loc[best], wanted)[0]
    roof_m = float(near["ground_m"].loc[best] + near["height_m"].loc[best])
    return shapely.Point(point.x, point.y), roof_m
