"""Radio maps of a tile's sectors: traced once each around their sites, kept as a Zarr cube."""

import hashlib
import importlib.metadata
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from ueloc_core.city import City
from ueloc_core.geodata.terrain import load_terrain
from ueloc_core.grid import Tile, Window
from ueloc_core.radio.antennas import antenna_named
from ueloc_core.radio.cube import CUBE_STORE, make_cube, write_cube
from ueloc_core.radio.cube_layers import LAYERS
from ueloc_core.radio.map_preview import write_layers, write_preview
from ueloc_core.radio.ray_tracing import (
    Interactions,
    Plane,
    RaySet,
    Sector,
    Surface,
    Trace,
    trace,
)

CODE_VERSION = "5"

Belief = Literal["twin", "world"]
Progress = Callable[[int, int, str], None]

_LARGE_ERROR_DB = 1.5


def build_radio_map(
    city: City,
    tile: Tile,
    scene_folder: Path,
    sectors: pd.DataFrame,
    out: Path,
    *,
    belief: Belief,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Trace the sectors that a tile owns.

    Writes `CUBE_STORE`, ``preview.png`` and ``layers.png`` (the first sector).

    Parameters
    ----------
    city, tile
        What is traced, and with which budget.
    scene_folder
        The tile's scene (``scene.xml``, ``scene.json``, ``context.zarr``).
    sectors
        Sectors of the tile, as `SectorSchema`; none gives a cube without sectors.
    out
        Folder to write to.
    belief
        ``twin`` for the maps that the locator reads, ``world`` for those that reports come
        from: the same physics through other rays.
    progress
        Called with (sites done, sites, message).
    """
    names, windows = [], []
    layers: dict[str, list[NDArray[Any]]] = {name: [] for name in LAYERS}
    sites = [of_site for _, of_site in sectors.groupby("site_id", sort=True)]
    outcomes = trace([_work(city, scene_folder, of_site, belief) for of_site in sites])
    for done, (of_site, maps) in enumerate(zip(sites, outcomes, strict=True)):
        names += [int(name) for name in of_site.sector_id]
        windows += [_trace_window(city, of_site)] * len(of_site)
        for sector in maps.sectors:
            found = {**asdict(sector), "line_of_sight": maps.line_of_sight}
            for name, of_layer in layers.items():
                of_layer.append(found[name])
        if progress is not None:
            site_id = int(of_site.site_id.iloc[0])
            progress(done + 1, len(sites), f"{tile.name}, {belief}: site {site_id}")
    n = round(2 * city.range_m / city.grid.cell_m)
    stacked = {name: np.array(values).reshape(-1, n, n) for name, values in layers.items()}
    traced = sectors.set_index("sector_id").loc[names].reset_index()
    cube = make_cube(city, traced, windows, stacked, _provenance(city, belief))
    stored_bytes = write_cube(cube, out / CUBE_STORE)
    write_preview(cube, out / "preview.png")
    if names:
        write_layers(cube, 0, out / "layers.png")
    return {
        "sectors": len(names),
        **_shares(cube),
        "median_se_db": _median(cube.path_gain_se_db.values),
        "median_rsrp_dbm": _median(cube.rsrp_dbm.values),
        "megabytes": stored_bytes / 1e6,
        "bytes_per_sector": stored_bytes / len(names) if names else None,
        "belief": belief,
    }


def ray_set(city: City, belief: Belief, site_id: int) -> RaySet:
    """Rays of a site under a belief: another seed, so another lattice and other points, for each.

    Parameters
    ----------
    city
        How many rays.
    belief
        ``twin`` or ``world``.
    site_id
        The site.
    """
    config = city.ray_tracing
    text = f"{city.seed}/{belief}/{site_id}"
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 2**31
    return RaySet(config.rays_per_site, seed, config.batches, config.points_per_batch)


def _trace_window(city: City, of_site: pd.DataFrame) -> Window:
    return city.trace_window(float(of_site.x_m.iloc[0]), float(of_site.y_m.iloc[0]))


def _work(city: City, scene_folder: Path, of_site: pd.DataFrame, belief: Belief) -> Trace:
    """The sectors of one site, traced together."""
    config = city.ray_tracing
    origin_m, grid = _grid(city, scene_folder, _trace_window(city, of_site))
    rows: list[Any] = list(of_site.itertuples())
    place = (rows[0].x_m, rows[0].y_m, rows[0].elevation_m)
    return Trace(
        scene_file=scene_folder / "scene.xml",
        frequency_hz=city.radio.frequency_hz,
        interactions=Interactions(
            max_depth=config.max_depth,
            diffraction=config.diffraction,
            refraction=config.refraction,
            scattering=config.scattering,
        ),
        mast_m=tuple(float(v - o) for v, o in zip(place, origin_m, strict=True)),  # type: ignore[arg-type]
        sectors=tuple(
            Sector(
                antenna_named(row.antenna),
                float(row.azimuth_deg),
                float(row.downtilt_deg),
                float(row.electrical_tilt_deg),
            )
            for row in rows
        ),
        grid=grid,
        ray_set=ray_set(city, belief, int(rows[0].site_id)),
    )


def _grid(
    city: City, scene_folder: Path, window: Window
) -> tuple[tuple[float, float, float], Plane | Surface]:
    """Origin of a scene [m], and the grid of a window at the terminals' height above ground."""
    scene = json.loads((scene_folder / "scene.json").read_text(encoding="utf-8"))
    x_m, y_m, z_m = (float(value) for value in scene["origin_m"])
    terrain = load_terrain(scene_folder)
    height_m = city.ray_tracing.terminal_height_m - z_m
    cell_m = window.cell_m
    x0, y0 = window.bounds_m[:2]
    if terrain.is_flat:
        level_m = float(terrain.height_at(*window.centre_m))
        corner_m = (x0 - x_m, y0 - y_m)
        return (x_m, y_m, z_m), Plane(
            corner_m, window.columns, window.rows, cell_m, level_m + height_m
        )
    x = x0 + cell_m * np.arange(window.columns + 1)
    y = y0 + cell_m * np.arange(window.rows + 1)
    ground_m = terrain.height_at(*np.meshgrid(x, y))
    return (x_m, y_m, z_m), Surface((x0 - x_m, y0 - y_m), cell_m, ground_m + height_m)


def _provenance(city: City, belief: Belief) -> dict[str, Any]:
    return {
        "belief": belief,
        "rays_per_site": city.ray_tracing.rays_per_site,
        "batches": city.ray_tracing.batches,
        "points_per_batch": city.ray_tracing.points_per_batch,
        "max_depth": city.ray_tracing.max_depth,
        "diffraction": int(city.ray_tracing.diffraction),
        "refraction": int(city.ray_tracing.refraction),
        "scattering": int(city.ray_tracing.scattering),
        "sionna_rt": importlib.metadata.version("sionna-rt"),
    }


def _shares(cube: xr.Dataset) -> dict[str, float | None]:
    """What is known outdoors: shares of (sector, grid cell) pairs."""
    outdoors = cube.line_of_sight.notnull().values
    if not outdoors.any():
        return dict.fromkeys(("covered_share", "line_of_sight_share", "large_error_share"))
    known = cube.path_gain_db.notnull().values & outdoors
    error = cube.path_gain_se_db.values[known]
    return {
        "covered_share": float(known.sum() / outdoors.sum()),
        "line_of_sight_share": float((cube.line_of_sight.values[outdoors] > 0.5).mean()),
        "large_error_share": float((~(error <= _LARGE_ERROR_DB)).mean()) if known.any() else None,
    }


def _median(values: NDArray[np.floating[Any]]) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else None
