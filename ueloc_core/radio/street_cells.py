"""Small cells along streets: on poles beside the road, such as those of lamps.

Every way sets its own poles, from its number and the seed, and poles that come too close to
each other are thinned by a rule that looks no farther than their smallest distance (Matern's
second hard-core process), so no pole depends on how the city is cut.
"""

from collections import Counter
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from ueloc_core.city import City
from ueloc_core.grid import Tile
from ueloc_core.radio.antenna_places import antenna_table, inside_buildings, stable_number
from ueloc_core.radio.site_plans import sectors_of

_WALL_CLEARANCE_M = 0.5
_WIDEST_HALF_M = 50.0  # of a road, by `ueloc_core.geodata.schemas.FeatureSchema`
_CLOSEST_SHARE = 0.5
_NO_TRAFFIC = ("path",)


def street_reach_m(city: City) -> float:
    """How far from a tile [m] the features lie that decide on its small cells."""
    plan = city.site_plan
    return _CLOSEST_SHARE * plan.spacing_m + 2 * _WIDEST_HALF_M + plan.kerb_m


def street_antennas(
    city: City, tile: Tile, features: gpd.GeoDataFrame
) -> tuple[pd.DataFrame, Counter[str]]:
    """Antennas on poles beside the roads of the plan's classes.

    A way has a pole every ``spacing_m`` along it, from a start that its number draws, on
    alternating sides, ``kerb_m`` beyond the road's edge. A pole that would stand in a building,
    in water or on another road changes sides, or is left out where that is no better; of two
    that are closer than half the spacing one is left out. The first sector looks along the way.

    Returns
    -------
    Those that the tile owns, and counts of its poles: ``poles_blocked``, ``poles_too_close``.
    """
    plan = city.site_plan
    window = tile.window.buffered(_CLOSEST_SHARE * plan.spacing_m)
    roads = features[(features["kind"] == "road") & (features.geom_type == "LineString")]
    chosen = roads[roads["road_class"].isin(plan.road_classes)]
    poles = [pole for road in chosen.itertuples() for pole in _poles_of(road, city)]
    table = pd.DataFrame(poles, columns=["name", "priority", "bearing_deg", "left", "right"])
    table = _standing(table, features, roads)
    area = shapely.Polygon(city.area_m)
    near = np.array(
        [
            bool(window.contains(*xy)) and bool(shapely.contains_xy(area, *xy))
            for xy in table["place"]
        ],
        dtype=bool,
    )
    table = table[near].reset_index(drop=True)
    own = np.array([tile.owns(*xy) for xy in table["place"]], dtype=bool)
    counts: Counter[str] = Counter()
    blocked = table["blocked"].to_numpy(bool)
    counts["poles_blocked"] += int((own & blocked).sum())
    free, own = table[~blocked].reset_index(drop=True), own[~blocked]
    kept = _thinned(free, _CLOSEST_SHARE * plan.spacing_m)
    counts["poles_too_close"] += int((own & ~kept).sum())
    rows: list[dict[str, Any]] = []
    for pole in free[own & kept].itertuples():
        place: Any = pole.place
        site = {
            "site_id": stable_number(str(pole.name)),
            "x_m": place[0],
            "y_m": place[1],
            "height_m": plan.height_above_ground_m,
            "lift": False,
        }
        bearing_deg: Any = pole.bearing_deg
        rows += sectors_of(city, site, float(bearing_deg), str(pole.name))
    return antenna_table(rows), counts


def _poles_of(road: Any, city: City) -> list[tuple[Any, ...]]:
    """(name, priority, bearing [deg], place, place across the road) of the poles of one way."""
    plan = city.site_plan
    line = road.geometry
    rng = np.random.default_rng([city.seed, stable_number(road.osm_id)])
    start, side = rng.uniform(0.0, plan.spacing_m), int(rng.integers(2))
    along_m = np.arange(start, line.length, plan.spacing_m)
    step_m = min(0.5, line.length / 4)
    before = shapely.get_coordinates(line.interpolate(np.maximum(along_m - step_m, 0.0)))
    after = shapely.get_coordinates(line.interpolate(np.minimum(along_m + step_m, line.length)))
    middle = shapely.get_coordinates(line.interpolate(along_m))
    ahead = after - before
    length = np.hypot(*ahead.T)
    ahead = np.where(length[:, None] > 1e-9, ahead / np.maximum(length, 1e-9)[:, None], (0.0, 1.0))
    aside = np.column_stack([-ahead[:, 1], ahead[:, 0]]) * (road.width_m / 2 + plan.kerb_m)
    bearing_deg = np.degrees(np.arctan2(ahead[:, 0], ahead[:, 1])) % 360.0
    poles = []
    for k, (point, offset) in enumerate(zip(middle, aside, strict=True)):
        name = f"street/{road.osm_id}/{k}"
        sign = 1.0 if (k + side) % 2 else -1.0
        places = tuple(point + sign * offset), tuple(point - sign * offset)
        priority = stable_number(f"{city.seed}/{name}")
        poles.append((name, priority, bearing_deg[k], *places))
    return poles


def _standing(
    poles: pd.DataFrame, features: gpd.GeoDataFrame, roads: gpd.GeoDataFrame
) -> pd.DataFrame:
    """Poles with their ``place``, on the other side where the first is ``blocked``."""
    first = _blocked(_xy(poles["left"]), features, roads)
    other = _blocked(_xy(poles["right"]), features, roads)
    crossed = first & ~other
    place = [
        b if cross else a for a, b, cross in zip(poles.left, poles.right, crossed, strict=True)
    ]
    return poles.assign(place=place, blocked=first & other)


def _xy(places: pd.Series) -> NDArray[np.float64]:
    return np.array(places.tolist(), dtype=np.float64).reshape(-1, 2)


def _blocked(
    xy: NDArray[np.float64], features: gpd.GeoDataFrame, roads: gpd.GeoDataFrame
) -> NDArray[np.bool_]:
    """Which places are in a building or at its wall, in water, or on a road."""
    blocked = inside_buildings(xy[:, 0], xy[:, 1], features, _WALL_CLEARANCE_M)
    points = shapely.points(xy)
    water = features.geometry[features["kind"] == "water"].to_numpy()
    blocked[shapely.STRtree(water).query(points, predicate="intersects")[0]] = True
    traffic = roads[~roads["road_class"].isin(_NO_TRAFFIC)]
    tree = shapely.STRtree(traffic.geometry.to_numpy())
    point, road = tree.query(points, predicate="dwithin", distance=_WIDEST_HALF_M)
    distance_m = shapely.distance(points[point], traffic.geometry.to_numpy()[road])
    blocked[point[distance_m < traffic["width_m"].to_numpy()[road] / 2]] = True
    return blocked


def _thinned(poles: pd.DataFrame, closest_m: float) -> NDArray[np.bool_]:
    """Which poles have the least priority number of all within a distance [m]."""
    points = shapely.points(_xy(poles["place"]))
    priority = poles["priority"].to_numpy(np.int64)
    tree = shapely.STRtree(points)
    one, other = tree.query(points, predicate="dwithin", distance=closest_m)
    kept = np.ones(len(poles), dtype=bool)
    kept[one[priority[other] < priority[one]]] = False
    return kept
