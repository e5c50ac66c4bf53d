"""Stores of made-up cubes: every value tells its sector and its grid cell."""

import numpy as np
import pandas as pd
import xarray as xr

from ueloc_core.geodata import context
from ueloc_core.provenance import ArtifactKey, Store
from ueloc_core.radio.cube import CUBE_STORE, make_cube, write_cube
from ueloc_core.units import power_per_resource_element_dbm

ELEMENT_POWER_DBM = power_per_resource_element_dbm(46.0, 273)
UNKNOWN = (slice(None, None, 9), slice(None, None, 11))  # grid cells of a window


def one_sector_a_tile(city, tiles):
    """Sectors in the middle of tiles, the highest sector_id on the first one."""
    places = [city.tile(name).window.centre_m for name in tiles]
    return pd.DataFrame(
        {
            "sector_id": np.arange(30, 30 - len(tiles), -1),
            "tile": tiles,
            "x_m": [x_m for x_m, _ in places],
            "y_m": [y_m for _, y_m in places],
            "power_dbm": 46.0,
        }
    )


def level_dbm(city, sector):
    """RSRP of a sector over its own window: it falls with distance and has no symmetry."""
    window = city.trace_window(sector.x_m, sector.y_m)
    column = window.column + np.arange(window.columns)
    row = window.row + np.arange(window.rows)[:, None]
    away_m = np.hypot(window.x_centres_m - sector.x_m, window.y_centres_m[:, None] - sector.y_m)
    level = -60 - away_m / 20 - (column % 7) * 0.4 - (row % 5) * 0.2 - sector.sector_id % 3
    level[UNKNOWN] = np.nan
    return level


def cube_of(city, tile, sectors, *, delays=True, belief="twin"):
    """The cube of the sectors that stand on a tile, the highest sector_id first."""
    own = sectors[sectors.tile == tile].sort_values("sector_id", ascending=False)
    rows = list(own.itertuples())
    n = round(2 * city.range_m / city.grid.cell_m)
    gain = np.array([level_dbm(city, row) for row in rows]).reshape(-1, n, n) - ELEMENT_POWER_DBM
    layers = {"path_gain_db": gain, "path_gain_se_db": np.where(np.isnan(gain), np.nan, 0.5)}
    if delays:
        layers["first_arrival_ns"] = -10.0 * gain
        layers["ray_hits"] = np.where(np.isnan(gain), 0, np.arange(n))
    windows = [city.trace_window(row.x_m, row.y_m) for row in rows]
    return make_cube(city, own, windows, layers, {"belief": belief})


def write_tiles(city, sectors, folder, **options):
    """Cubes of all tiles; their folders by tile name."""
    folders = {}
    for tile in city.tile_names:
        folders[tile] = folder / tile
        folders[tile].mkdir(parents=True)
        write_cube(cube_of(city, tile, sectors, **options), folders[tile] / CUBE_STORE)
    return folders


def store_tiles(city, sectors, url):
    """Scenes without buildings, sites and cubes of all tiles as artifacts of a store."""
    for name in city.tile_names:
        window = city.scene_window(city.tile(name))
        own = sectors[sectors.tile == name].reset_index(drop=True)
        open_land = {
            layer: (("y", "x"), np.full(window.shape, layer == "in_area", dtype=np.uint8))
            for layer in context._ATTRIBUTES
        }
        writers = {
            "scene": lambda out, open_land=open_land: context.write_context(
                xr.Dataset(open_land), out
            ),
            "sites": lambda out, own=own: own.to_parquet(out / "sectors.parquet"),
            "radio_map": lambda out, name=name: write_cube(
                cube_of(city, name, sectors), out / CUBE_STORE
            ),
        }
        for stage, write in writers.items():

            def compute(out, write=write):
                write(out)
                return {}

            key = ArtifactKey(city.name, stage, name)
            Store(url).materialize(key, compute, code_version="1", params={}, inputs={})


def level_in(city, sector, window):
    """RSRP of a sector over any window, looked up cell by cell; NaN outside of its own."""
    own, level = city.trace_window(sector.x_m, sector.y_m), level_dbm(city, sector)
    out = np.full(window.shape, np.nan)
    for i in range(window.rows):
        for j in range(window.columns):
            row, column = i + window.row - own.row, j + window.column - own.column
            if 0 <= row < own.rows and 0 <= column < own.columns:
                out[i, j] = level[row, column]
    return out
