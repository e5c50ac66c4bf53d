"""Synthetic plans of sites: on roofs, on a hexagonal lattice, along streets; and masts of OSM.

Every plan is anchored to what does not depend on how the city is cut: the lattice to the origin
of the CRS, small cells to their way, masts to their element. So a tile's sites are the same
whatever the tiles are, and keep their numbers when the city grows.
"""

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
import shapely.ops

from ueloc_core.city import City
from ueloc_core.errors import RadioError
from ueloc_core.geodata.masts import MAST_CLASSES
from ueloc_core.geodata.schemas import BUILDING_KINDS
from ueloc_core.grid import Tile
from ueloc_core.radio.antenna_places import NUM_PCI_GROUPS, antenna_table, stable_number

TALLEST_ANTENNA_M = 60.0
"""Antennas of a network stand no higher on a mast, however high its top is [m]: an assumption."""

MAST_SIGMA_M = 3.0
"""Standard deviation of a mast's mapped position [m]: that of aerial images, an assumption."""

_JITTER_SHARE = 0.1
_EDGE_INSET_M = 1.5
_HEIGHT_PER_METRE = 0.1  # a metre of height outweighs ten metres of distance
_NUMBER_STRIDE = 10_000
_SAME_MAST_M = 10.0

Rows = list[dict[str, Any]]


def rooftop_antennas(
    city: City, tile: Tile, features: gpd.GeoDataFrame
) -> tuple[pd.DataFrame, Counter[str]]:
    """Antennas on the roofs near the points of a jittered hexagonal lattice.

    Returns
    -------
    Those that the tile owns, and counts: ``points_without_roof``.
    """
    plan = city.site_plan
    counts: Counter[str] = Counter()
    buildings = features[features["kind"].isin(BUILDING_KINDS)]
    buildings = buildings[buildings["height_m"] >= plan.min_building_height_m]
    area = shapely.Polygon(city.area_m)
    rows: Rows = []
    reach_m = plan.snap_radius_m + _JITTER_SHARE * plan.inter_site_distance_m
    for column, row, x_m, y_m, turn_deg in lattice(city, tile, reach_m, jitter=_JITTER_SHARE):
        wanted = shapely.Point(x_m, y_m)
        mast = _roof_near(wanted, buildings, plan.snap_radius_m)
        if mast is None:
            counts["points_without_roof"] += tile.owns(x_m, y_m) and area.contains(wanted)
            continue
        point, roof_m = mast
        if tile.owns(point.x, point.y) and area.contains(point):
            place = {"x_m": point.x, "y_m": point.y, "roof_m": roof_m}
            rows += _at_lattice_point(city, column, row, plan.azimuth_deg + turn_deg, place)
    return antenna_table(rows), counts


def hexagonal_antennas(
    city: City, tile: Tile, features: gpd.GeoDataFrame
) -> tuple[pd.DataFrame, Counter[str]]:
    """Antennas on the points of a regular hexagonal lattice, wherever there is no water.

    Returns
    -------
    Those that the tile owns, and counts: ``points_in_water``.
    """
    counts: Counter[str] = Counter()
    area = shapely.Polygon(city.area_m)
    water = features.geometry[features["kind"] == "water"].to_numpy()
    rows: Rows = []
    for column, row, x_m, y_m, _ in lattice(city, tile, 0.0, jitter=0.0):
        point = shapely.Point(x_m, y_m)
        if not (tile.owns(x_m, y_m) and area.contains(point)):
            continue
        if shapely.intersects(water, point).any():
            counts["points_in_water"] += 1
            continue
        place = {"x_m": x_m, "y_m": y_m}
        rows += _at_lattice_point(city, column, row, city.site_plan.azimuth_deg, place)
    return antenna_table(rows), counts


def mast_antennas(
    city: City, tile: Tile, masts: gpd.GeoDataFrame
) -> tuple[pd.DataFrame, Counter[str]]:
    """Antennas on the telecom masts of OpenStreetMap.

    Masts that stand within 10 m of each other are one site. A tagged height is that of the
    antenna, up to `TALLEST_ANTENNA_M`; a mast that stands on a building and is lower than its
    roof carries its antennas above the roof.

    Parameters
    ----------
    city, tile
        Who owns them.
    masts
        All masts of the city (`ueloc_core.geodata.masts.MastSchema`).

    Returns
    -------
    Those that the tile owns, and counts of its masts: ``masts_merged``, ``assumed_height``
    and ``below_the_top``.
    """
    plan = city.site_plan
    counts: Counter[str] = Counter()
    rows: Rows = []
    area = shapely.Polygon(city.area_m)
    for mast, point, is_kept in _distinct(masts):
        if not (tile.owns(point.x, point.y) and area.contains(point)):
            continue
        if not is_kept:
            counts["masts_merged"] += 1
            continue
        height_m = min(mast.height_m, TALLEST_ANTENNA_M) if mast.height_m > 0 else math.nan
        counts["assumed_height"] += math.isnan(height_m)
        counts["below_the_top"] += height_m < mast.height_m
        is_tagged = height_m == mast.height_m
        number = stable_number(f"osm/{mast.osm_id}")
        rng = np.random.default_rng([city.seed, number])
        turn_deg = rng.uniform(-plan.azimuth_jitter_deg, plan.azimuth_jitter_deg)
        assumed = ["azimuth_deg", "downtilt_deg", "pci", "power_dbm"]
        site = {
            "site_id": number,
            "x_m": point.x,
            "y_m": point.y,
            "height_m": height_m,
            "position_sigma_m": MAST_SIGMA_M,
            "assumed": " ".join(sorted(assumed if is_tagged else [*assumed, "height_m"])),
            "where": mast.osm_id,
        }
        rows += sectors_of(city, site, plan.azimuth_deg + turn_deg, f"osm/{mast.osm_id}")
    return antenna_table(rows), counts


def sectors_of(
    city: City, site: dict[str, Any], azimuth_deg: float, name: str
) -> Iterator[dict[str, Any]]:
    """The sectors of a planned site, evenly turned, with what the plan gives all of them.

    Parameters
    ----------
    city
        Its plan gives tilts, antenna and power.
    site
        Number, position and whatever is particular to it.
    azimuth_deg
        Boresight of the first sector.
    name
        The site's name; sectors are ``<name>/<k>`` and take their numbers from that.
    """
    plan = city.site_plan
    for k in range(plan.sectors):
        yield {
            "sector_id": stable_number(f"{name}/{k}"),
            "position_sigma_m": 0.0,
            "pci": 3 * (site["site_id"] % NUM_PCI_GROUPS) + k % 3,
            "azimuth_deg": (azimuth_deg + 360.0 * k / plan.sectors) % 360.0,
            "downtilt_deg": plan.downtilt_deg,
            "electrical_tilt_deg": plan.electrical_tilt_deg,
            "antenna": plan.antenna,
            "power_dbm": city.radio.power_dbm if plan.power_dbm is None else plan.power_dbm,
            "source": plan.kind,
            "sector_name": f"{name}/{k}",
            **site,
        }


def lattice(
    city: City, tile: Tile, reach_m: float, *, jitter: float
) -> list[tuple[int, int, float, float, float]]:
    """(column, row, x [m], y [m], turn [deg]) of the lattice points within a reach of a tile.

    Each point draws its jitter, a share of the step, and its turn from its own indices.
    """
    plan = city.site_plan
    step_m = plan.inter_site_distance_m
    row_m = step_m * math.sqrt(3) / 2
    x0, y0, x1, y1 = tile.window.buffered(reach_m).bounds_m
    points = []
    for row in range(math.floor(y0 / row_m), math.ceil(y1 / row_m) + 1):
        shift = 0.5 * (row % 2)
        for column in range(math.floor(x0 / step_m) - 1, math.ceil(x1 / step_m) + 1):
            rng = np.random.default_rng([city.seed, row % 2**32, column % 2**32])
            dx, dy = rng.uniform(-jitter, jitter, 2) * step_m if jitter else (0.0, 0.0)
            turn_deg = rng.uniform(-plan.azimuth_jitter_deg, plan.azimuth_jitter_deg)
            points.append((column, row, (column + shift) * step_m + dx, row * row_m + dy, turn_deg))
    return points


def _at_lattice_point(
    city: City, column: int, row: int, azimuth_deg: float, place: dict[str, Any]
) -> Rows:
    if not (0 < column < _NUMBER_STRIDE and row >= 0):
        raise RadioError(
            f"site lattice column {column}, row {row} does not fit a sector number",
            where=f"{city.name}: site_plan.inter_site_distance_m",
            remedy="Use a larger distance or a CRS whose eastings are smaller.",
        )
    number = row * _NUMBER_STRIDE + column
    group = (column + 19 * row) % NUM_PCI_GROUPS
    sectors = sectors_of(city, {"site_id": number, **place}, azimuth_deg, str(number))
    return [
        sector | {"sector_id": number * 10 + k, "pci": 3 * group + k % 3, "sector_name": ""}
        for k, sector in enumerate(sectors)
    ]


def _roof_near(
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


def _distinct(masts: gpd.GeoDataFrame) -> Iterator[tuple[Any, shapely.Point, bool]]:
    """Masts with their inner point, and whether none of higher rank stands within 10 m.

    Those that say that they carry mobile telephony come first, then structures before bare
    antennas, then the higher ones.
    """
    order = masts.assign(
        _phone=~masts["mobile_phone"],
        _class=masts["mast_class"].map({name: i for i, name in enumerate(MAST_CLASSES)}),
        _low=-masts["height_m"].fillna(0.0),
    ).sort_values(["_phone", "_class", "_low", "osm_id"])
    kept: list[shapely.Point] = []
    for mast in order.itertuples():
        shape: Any = mast.geometry
        point = shape.centroid if shape.contains(shape.centroid) else shape.representative_point()
        is_kept = not (kept and shapely.dwithin(np.array(kept), point, _SAME_MAST_M).any())
        kept += [point] if is_kept else []
        yield mast, point, is_kept
