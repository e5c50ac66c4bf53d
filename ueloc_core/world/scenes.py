"""The world's scene of a tile: the twin's buildings perturbed, some missing, some added."""

import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from ueloc_core.city import City
from ueloc_core.geodata.terrain import Terrain
from ueloc_core.grid import Tile, Window
from ueloc_core.scene.mitsuba import build_scene
from ueloc_core.world.buildings import STATES, WorldBuildings, world_buildings
from ueloc_core.world.difference_picture import write_difference
from ueloc_core.world.extra_buildings import extra_buildings
from ueloc_core.world.settings import BuildingAmounts
from ueloc_core.world.surroundings import Surroundings

CODE_VERSION = "1"
CHANGES = "changes.parquet"
DIFFERENCE = "difference.png"


def same_buildings(city: City) -> bool:
    """Whether the world's buildings are the twin's."""
    return city.world.buildings == BuildingAmounts()


def copy_of_twin(twin: Path, out: Path) -> dict[str, Any]:
    """Put the twin's files into a folder, as hard links where the file system has them."""
    shutil.copytree(twin, out, dirs_exist_ok=True, copy_function=_link)
    return {"same_as_twin": True}


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def build_world_scene(
    city: City, tile: Tile, surroundings: Surroundings, terrain: Terrain, out: Path
) -> dict[str, Any]:
    """Build the scene of a tile as the world is.

    Writes what `build_scene` writes, `CHANGES` (what became of each building of the twin) and
    `DIFFERENCE`, a picture of it.

    Parameters
    ----------
    city, tile
        What is built, and how far the world lies from the twin.
    surroundings
        The twin around the tile.
    terrain
        The ground of the whole city.
    out
        Empty folder.

    Returns
    -------
    What `build_scene` tells of the world's scene, counts of buildings by what became of them,
    and root mean squares of the differences.
    """
    window = city.scene_window(tile)
    world, extra = world_features(city, window, surroundings, terrain)
    parts = [part for part in (world.frame, extra, surroundings.ground) if len(part)]
    features = gpd.GeoDataFrame(pd.concat(parts, ignore_index=True), crs=city.crs_code)
    metadata = build_scene(city, tile, features, terrain, out)
    changes = _in_window(world, window)
    extra = extra[extra.intersects(shapely.box(*window.bounds_m))]
    table = pd.DataFrame(changes.drop(columns="geometry"))
    table.to_parquet(out / CHANGES, index=False)
    write_difference(
        changes,
        world.frame,
        extra,
        (tile.window, window),
        out / DIFFERENCE,
        title=f"{city.title or city.name}, {tile.name}: world and twin",
    )
    return {
        **metadata,
        "same_as_twin": False,
        "level": city.world.level,
        "amounts": asdict(city.world.buildings),
        **differences(changes, len(extra)),
        "fitting": {name: count for name, count in sorted(world.counts.items()) if count},
    }


def world_features(
    city: City, window: Window, surroundings: Surroundings, terrain: Terrain
) -> tuple[WorldBuildings, gpd.GeoDataFrame]:
    """The twin's buildings as they are in the world, and those that the twin lacks."""
    amounts = city.world.buildings
    fixed = surroundings.fixed(city)
    world = world_buildings(
        surroundings.buildings, amounts, city.seed, fixed=fixed, terrain=terrain
    )
    extra = extra_buildings(
        city,
        window,
        surroundings.buildings,
        np.concatenate([world.moved, world.frame.geometry.to_numpy()]),
        surroundings.ground,
        surroundings.masts,
        terrain,
    )
    return world, extra


def differences(changes: pd.DataFrame, extra: int) -> dict[str, Any]:
    """Counts and root mean squares of what differs, over the buildings that both have.

    Parameters
    ----------
    changes
        Rows as `WorldBuildings.changes` has them.
    extra
        Number of buildings that the twin lacks.
    """
    there = changes[changes["state"] == "there"]
    error_m = there["height_m"] - there["twin_height_m"]
    imputed = there["height_source"] == "imputed"
    states = {name: int((changes["state"] == name).sum()) for name in STATES[1:]}
    return {
        "buildings_in_both": len(there),
        **{f"buildings_{name}": count for name, count in states.items()},
        "buildings_extra": extra,
        "shift_rms_m": _rms(np.hypot(there["dx_m"], there["dy_m"])),
        "height_rms_m": _rms(error_m),
        "height_rms_tagged_m": _rms(error_m[~imputed]),
        "height_rms_imputed_m": _rms(error_m[imputed]),
        "walls_changed": int(there["wall_changed"].sum()),
        "roofs_changed": int(there["roof_changed"].sum()),
    }


def _rms(values: Any) -> float | None:
    return round(float(np.sqrt(np.mean(np.square(values)))), 4) if len(values) else None


def _in_window(world: WorldBuildings, window: Window) -> gpd.GeoDataFrame:
    box = shapely.box(*window.bounds_m)
    meets = shapely.intersects(world.changes.geometry.to_numpy(), box)
    return world.changes[meets | shapely.intersects(world.moved, box)].reset_index(drop=True)
