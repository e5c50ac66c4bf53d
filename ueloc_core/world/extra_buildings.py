"""Buildings that the twin lacks: low ones on open ground, drawn for each square of a lattice."""

from collections import Counter
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
import shapely.affinity
from numpy.typing import NDArray

from ueloc_core.city import City
from ueloc_core.geodata.terrain import Terrain
from ueloc_core.grid import Window, tile_at
from ueloc_core.radio.antenna_places import stable_number
from ueloc_core.world.draws import CAP, stream

LATTICE_M = 128.0
"""Side of the squares, aligned to the origin of the CRS [m]."""

_TRIES = 300
_SIDES_M = (5.0, 16.0)
_HEIGHTS_M = (3.0, 12.0)
_MATERIALS = ("concrete", "brick", "wood", "metal")
_CLEARANCE_M = 1.5
_MAST_CLEARANCE_M = 5.0


def extra_buildings(
    city: City,
    window: Window,
    buildings: gpd.GeoDataFrame,
    taken: NDArray[Any],
    ground: gpd.GeoDataFrame,
    masts: pd.DataFrame,
    terrain: Terrain,
) -> gpd.GeoDataFrame:
    """Extra buildings of the squares that meet a window.

    A square gets ``extra_share`` buildings, on average, for each of the twin's buildings whose
    inner point lies in it, as far as there is room: inside the city's area, 1.5 m off buildings
    (on their places in the twin and in the world) and roads, in no water, clear of every mast.

    Parameters
    ----------
    city
        Gives seed, area and amounts.
    window
        Grid cells that the buildings may meet.
    buildings, taken
        The twin's rows that lie in these squares, and all footprints that they have in the world.
    ground
        Roads and water there.
    masts
        Sites there: ``x_m, y_m`` [m].
    terrain
        The ground.

    Returns
    -------
    Rows of `FeatureSchema`; ``osm_id`` is a way of a negative number, as editors of OpenStreetMap
    give to what is new.
    """
    squares = _squares(buildings)
    obstacles = [*buildings.geometry, *taken, *_strips(ground)]
    clear_m = _MAST_CLEARANCE_M + CAP * city.world.antennas.position_m
    obstacles += list(
        shapely.buffer(shapely.points(masts[["x_m", "y_m"]].to_numpy(float)), clear_m)
    )
    tree = shapely.STRtree(np.array(obstacles, dtype=object))
    area = shapely.Polygon(city.area_m)
    x0, y0, x1, y1 = window.bounds_m
    rows = []
    for column in range(int(x0 // LATTICE_M), int(-(-x1 // LATTICE_M))):
        for row in range(int(y0 // LATTICE_M), int(-(-y1 // LATTICE_M))):
            count = squares[column, row]
            for shape, name, rng in _free_places(city, column, row, count, tree, area):
                rows.append(_described(city, shape, name, rng, terrain))
    columns = [name for name in buildings.columns if name != "geometry"]
    shapes = [row.pop("geometry") for row in rows]
    frame = pd.DataFrame(rows, columns=columns).astype(buildings[columns].dtypes)
    return gpd.GeoDataFrame(frame, geometry=shapes, crs=buildings.crs)[list(buildings.columns)]


def _squares(buildings: gpd.GeoDataFrame) -> Counter[tuple[int, int]]:
    """Number of buildings whose inner points lie in each square."""
    points = shapely.get_coordinates(shapely.point_on_surface(buildings.geometry.to_numpy()))
    places = np.floor(points / LATTICE_M).astype(int).tolist()
    names = buildings["building_id"]
    pairs = {((x, y), name) for (x, y), name in zip(places, names, strict=True)}
    return Counter(square for square, _ in pairs)


def _strips(ground: gpd.GeoDataFrame) -> list[Any]:
    roads = ground[ground["kind"] == "road"]
    half_m = roads["width_m"].to_numpy(float) / 2
    return [
        *shapely.buffer(roads.geometry.to_numpy(), half_m),
        *ground.geometry[ground["kind"] == "water"],
    ]


def _free_places(
    city: City, column: int, row: int, count: int, tree: shapely.STRtree, area: Any
) -> list[tuple[Any, str, np.random.Generator]]:
    """Rectangles in a square, none near an obstacle or another, with names and random numbers."""
    rng = stream(city.seed, "extra", column, row)
    wanted = count * city.world.buildings.extra_share
    wanted = int(wanted) + (rng.random() < wanted % 1.0)
    found: list[tuple[Any, str, np.random.Generator]] = []
    for number in range(wanted):
        for _ in range(_TRIES):
            width_m, depth_m = rng.uniform(*_SIDES_M, 2)
            margin_m = np.hypot(width_m, depth_m) / 2 + _CLEARANCE_M
            x, y = (
                index * LATTICE_M + rng.uniform(margin_m, LATTICE_M - margin_m)
                for index in (column, row)
            )
            box = shapely.box(x - width_m / 2, y - depth_m / 2, x + width_m / 2, y + depth_m / 2)
            turned = shapely.affinity.rotate(box, rng.uniform(0, 90))
            shape = shapely.set_precision(turned, 0.001)
            near = tree.query(shape, predicate="dwithin", distance=_CLEARANCE_M)
            is_free = area.contains(shape) and not len(near)
            if is_free and all(shape.distance(other) > _CLEARANCE_M for other, _, _ in found):
                found.append((shape, f"{column}/{row}/{number}", rng))
                break
    return found


def _described(
    city: City, shape: Any, name: str, rng: np.random.Generator, terrain: Terrain
) -> dict[str, Any]:
    osm_id = f"way/-{stable_number(f'extra/{name}')}"
    point = shape.centroid
    return {
        "osm_id": osm_id,
        "kind": "building",
        "tile": tile_at(point.x, point.y, city.tiles.size_m, city.grid.cell_m).name,
        "height_m": round(float(rng.uniform(*_HEIGHTS_M)), 2),
        "height_source": "tag",
        "height_sigma_m": 1.0,
        "min_height_m": 0.0,
        "material": str(rng.choice(_MATERIALS)),
        "building_id": osm_id,
        "ground_m": terrain.lowest_within(shape),
        "roof_shape": "flat",
        "roof_height_m": 0.0,
        "roof_material": "concrete",
        "geometry": shape,
    }
