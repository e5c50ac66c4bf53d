"""The buildings of the world: moved, higher or lower, of other materials, or not there."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
import shapely.affinity
from numpy.typing import NDArray

from ueloc_core.geodata.buildings import MATERIALS
from ueloc_core.geodata.tags import MAX_HEIGHT_M
from ueloc_core.geodata.terrain import Terrain
from ueloc_core.world.draws import BuildingDraw, building_draw, height_factor
from ueloc_core.world.footprints import Standing, fitted_footprints, lifted_bases
from ueloc_core.world.settings import BuildingAmounts

STATES = ("there", "missing", "swallowed")

_ROOF_SHARE = 0.8  # of its footprint that a building must keep to keep a pitched roof
_LEAST_HEIGHT_M = 0.1
_LEAST_WALL_M = 0.2


@dataclass(frozen=True)
class WorldBuildings:
    """Buildings of the world around a tile.

    Attributes
    ----------
    frame
        Rows of `FeatureSchema`.
    changes
        One row for each of the twin's rows: ``osm_id, building_id, state`` (of `STATES`),
        ``dx_m, dy_m``, ``twin_height_m, height_m`` (drawn, missing or not), ``height_source,
        height_error_m`` (the amount), ``wall_changed, roof_changed``, geometry of the twin.
    moved
        Footprints on their new places before they were fitted, in the order of ``changes``.
    counts
        What fitting them took.
    """

    frame: gpd.GeoDataFrame
    changes: gpd.GeoDataFrame
    moved: NDArray[Any]
    counts: dict[str, int]


def world_buildings(
    buildings: gpd.GeoDataFrame,
    amounts: BuildingAmounts,
    seed: int,
    *,
    fixed: frozenset[str],
    terrain: Terrain,
) -> WorldBuildings:
    """Perturb buildings; what is drawn for one depends on the seed and its ``building_id`` alone.

    The parts of a building share its shift and its factor on all heights, so they stay stacked;
    the error of that factor is the one of the building's highest part.

    Parameters
    ----------
    buildings
        Rows of `FeatureSchema` of whole buildings, and of all that they may come to touch.
    amounts
        How much.
    seed
        Seed of the city.
    fixed
        building_id of those that cannot be missing.
    terrain
        The ground: a building that moves on a slope moves up or down with it.
    """
    counts: Counter[str] = Counter()
    names = buildings["building_id"].to_numpy()
    draws = {name: building_draw(seed, name) for name in dict.fromkeys(names)}
    before = buildings.geometry.to_numpy()
    shift_m = np.array([draws[name].shift for name in names]).reshape(-1, 2)
    shift_m = np.round(shift_m * amounts.shift_m / np.sqrt(2), 3)
    error_m, factor = _height_errors(buildings, amounts, draws)
    frame = _scaled(buildings, factor)
    frame = _with_materials(frame, amounts.material_share, draws)
    frame = frame.assign(ground_m=_datums(buildings, shift_m, terrain))
    frame, moved = _fitted(frame, before, shift_m, counts)
    is_missing = np.array(
        [draws[name].missing < amounts.missing_share and name not in fixed for name in names],
        dtype=bool,
    )
    is_gone = np.array([shape is None for shape in frame.geometry], dtype=bool)
    counts["kept_for_a_mast_or_its_size"] += len(
        {n for n in fixed & set(draws) if draws[n].missing < amounts.missing_share}
    )
    changes = gpd.GeoDataFrame(
        {
            "osm_id": buildings["osm_id"],
            "building_id": names,
            "state": np.select([is_missing, is_gone], ["missing", "swallowed"], "there"),
            "dx_m": shift_m[:, 0],
            "dy_m": shift_m[:, 1],
            "twin_height_m": buildings["height_m"].to_numpy(float),
            "height_m": frame["height_m"].to_numpy(float),
            "height_source": buildings["height_source"],
            "height_error_m": error_m,
            "wall_changed": (frame["material"] != buildings["material"]).to_numpy(),
            "roof_changed": (frame["roof_material"] != buildings["roof_material"]).to_numpy(),
        },
        geometry=before,
        crs=buildings.crs,
    )
    there = frame[~is_missing & ~is_gone].reset_index(drop=True)
    return WorldBuildings(there, changes, moved, {name: int(n) for name, n in counts.items()})


def _height_errors(
    buildings: gpd.GeoDataFrame, amounts: BuildingAmounts, draws: dict[str, BuildingDraw]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Root mean square error of each height [m], and the factor on it, shape (rows,)."""
    columns = ["building_id", "height_m", "height_sigma_m", "osm_id"]
    order = buildings[columns].sort_values(
        ["height_m", "height_sigma_m", "osm_id"], ascending=[False, True, True]
    )
    highest = order.drop_duplicates("building_id").set_index("building_id")
    error_m = np.hypot(amounts.height_m, amounts.height_sigma_share * highest["height_sigma_m"])
    ratio = error_m / np.maximum(highest["height_m"], _LEAST_HEIGHT_M)
    normals = np.array([draws[str(name)].height for name in highest.index], dtype=float)
    factor = pd.Series(height_factor(ratio.to_numpy(float), normals), index=highest.index)
    factor = np.minimum(factor, MAX_HEIGHT_M / np.maximum(highest["height_m"], _LEAST_HEIGHT_M))
    height_m = buildings["height_m"].to_numpy(float)
    of_row = buildings["building_id"].map(ratio).to_numpy(float) * height_m
    return of_row, buildings["building_id"].map(factor).to_numpy(float)


def _scaled(buildings: gpd.GeoDataFrame, factor: NDArray[np.float64]) -> gpd.GeoDataFrame:
    """Tops, undersides and roofs scaled, in whole millimetres; what is not scaled stays exact."""
    scaled = {
        name: np.where(factor == 1.0, old, np.round(old * factor, 3))
        for name in ("height_m", "min_height_m", "roof_height_m")
        for old in [buildings[name].to_numpy(float)]
    }
    scaled["height_m"] = np.maximum(scaled["height_m"], scaled["min_height_m"] + _LEAST_HEIGHT_M)
    wall_m = scaled["height_m"] - scaled["min_height_m"]
    scaled["roof_height_m"] = np.minimum(scaled["roof_height_m"], wall_m)
    return buildings.assign(**scaled)


def _with_materials(
    buildings: gpd.GeoDataFrame, share: float, draws: dict[str, BuildingDraw]
) -> gpd.GeoDataFrame:
    """Walls and roofs of which a share is made of another material, each as likely."""
    known = MATERIALS[1:]

    def swapped(old: str, name: str, surface: int) -> str:
        change, into = draws[name].material[surface]
        others = [material for material in known if material != old]
        return others[int(into * len(others))] if change < share else old

    columns = {}
    for surface, column in enumerate(("material", "roof_material")):
        pairs = zip(buildings[column], buildings["building_id"], strict=True)
        columns[column] = [swapped(old, name, surface) for old, name in pairs]
    return buildings.assign(**columns)


def _datums(
    buildings: gpd.GeoDataFrame, shift_m: NDArray[np.float64], terrain: Terrain
) -> NDArray[np.float64]:
    """Elevations of the datums [m]: a building goes up and down with the ground under it."""
    datum_m: NDArray[np.float64] = buildings["ground_m"].to_numpy(float)
    if terrain.is_flat or not shift_m.any():
        return datum_m
    box = shapely.box(*terrain.bounds_m)
    changed = datum_m.copy()
    for rows in buildings.groupby("building_id", sort=False).indices.values():
        whole = shapely.union_all(buildings.geometry.to_numpy()[rows])
        lowest = [
            terrain.lowest_within(shape.intersection(box))
            for shape in (whole, shapely.affinity.translate(whole, *shift_m[rows[0]]))
        ]
        changed[rows] = np.round(datum_m[rows] + lowest[1] - lowest[0], 3)
    return changed


def _fitted(
    frame: gpd.GeoDataFrame,
    before: NDArray[Any],
    shift_m: NDArray[np.float64],
    counts: Counter[str],
) -> tuple[gpd.GeoDataFrame, NDArray[Any]]:
    """Rows on their new places, none in the space of another; and the places themselves."""
    ground_m = frame["ground_m"].to_numpy(float)
    top_m = ground_m + frame["height_m"].to_numpy(float)
    base_m = ground_m + frame["min_height_m"].to_numpy(float)
    codes = pd.factorize(frame["building_id"])[0].astype(np.int64)
    names = frame["osm_id"].to_numpy()
    lifted_m = lifted_bases(Standing(before, shift_m, base_m, top_m, codes, names))
    raised = lifted_m > base_m
    counts["lifted"] += int(raised.sum())
    standing = Standing(before, shift_m, lifted_m, top_m, codes, names)
    shapes = fitted_footprints(standing, counts)
    least = np.array([0.0 if shape is None else shape.area for shape in shapes])
    pieces = np.array(
        [0 if shape is None else shapely.get_num_geometries(shape) for shape in shapes]
    )
    is_pitched = (frame["roof_shape"] != "flat").to_numpy()
    is_cut = (least < _ROOF_SHARE * shapely.area(before)) | (
        pieces > shapely.get_num_geometries(before)
    )
    under_m = np.where(raised, np.round(lifted_m - ground_m, 3), frame["min_height_m"])
    room_m = frame["height_m"].to_numpy(float) - under_m - _LEAST_WALL_M
    roof_m = np.where(raised, np.clip(frame["roof_height_m"], 0, room_m), frame["roof_height_m"])
    is_flat = ~is_pitched | is_cut | (roof_m <= 0)
    counts["roofs_flattened"] += int((is_flat & is_pitched).sum())
    fitted = frame.assign(
        min_height_m=under_m,
        roof_shape=np.where(is_flat, "flat", frame["roof_shape"]),
        roof_height_m=np.where(is_flat, 0.0, roof_m),
        roof_direction_deg=np.where(is_flat, np.nan, frame["roof_direction_deg"].to_numpy(float)),
    )
    return fitted.set_geometry(gpd.GeoSeries(shapes, frame.index, crs=frame.crs)), standing.moved
