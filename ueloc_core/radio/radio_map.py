"""Radio maps of a tile's sectors: traced once each around their sites, kept as a Zarr cube."""

import hashlib
import importlib.metadata
import io
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from ueloc_core.city import City
from ueloc_core.errors import RadioError
from ueloc_core.geodata.context import load_context
from ueloc_core.geodata.terrain import load_terrain
from ueloc_core.grid import Tile, Window
from ueloc_core.radio.cube import CUBE_STORE, make_cube, write_cube
from ueloc_core.radio.ray_tracing import Plane, RaySet, Surface, Trace, Transmitter, trace

CODE_VERSION = "3"

Belief = Literal["twin", "world"]
Progress = Callable[[int, int, str], None]

# Sionna's ray lattice depends on the number of rays alone, so every ray set of either belief
# gets its own number: n rays, then steps of 7%, the world's halfway between the twin's.
_LATTICE_STEP = 0.07
_DB_PER_NEPER = 10.0 / math.log(10.0)
_SMALLEST_GAIN = 1e-18  # -180 dB: diffraction returns vanishing powers that no receiver hears


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
    """Trace the sectors that a tile owns and write `CUBE_STORE` and ``preview.png``.

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
    names, windows, gains, errors = [], [], [], []
    sites = [of_site for _, of_site in sectors.groupby("site_id", sort=True)]
    outcomes = trace([work for site in sites for work in _work(city, scene_folder, site, belief)])
    for done, of_site in enumerate(sites):
        window = _trace_window(city, of_site)
        outdoor = outdoor_mask(load_context(scene_folder), window)
        cells = 2 * round(city.ray_tracing.averaging_m / city.grid.cell_m / 2 - 0.5) + 1
        of_ray_sets = [
            local_mean(gain, outdoor, max(cells, 1))
            for gain in itertools.islice(outcomes, city.ray_tracing.ray_sets)
        ]
        mean_db, error_db = combine_ray_sets(np.stack(of_ray_sets))
        names += [int(name) for name in of_site.sector_id]
        windows += [window] * len(of_site)
        gains += list(mean_db)
        errors += list(error_db)
        if progress is not None:
            site_id = int(of_site.site_id.iloc[0])
            progress(done + 1, len(sites), f"{tile.name}, {belief}: site {site_id}")
    n = round(2 * city.range_m / city.grid.cell_m)
    layers = {
        "path_gain_db": np.array(gains, dtype=np.float32).reshape(-1, n, n),
        "path_gain_se_db": np.array(errors, dtype=np.float32).reshape(-1, n, n),
    }
    traced = sectors.set_index("sector_id").loc[names].reset_index()
    cube = make_cube(city, traced, windows, layers, _provenance(city, belief))
    stored_bytes = write_cube(cube, out / CUBE_STORE)
    _preview(cube, out / "preview.png")
    hit = cube.path_gain_db.notnull()
    return {
        "sectors": len(names),
        "covered_share": float(hit.mean()) if names else None,
        "median_se_db": _median(cube.path_gain_se_db.values),
        "median_rsrp_dbm": _median(cube.rsrp_dbm.values),
        "megabytes": stored_bytes / 1e6,
        "bytes_per_sector": stored_bytes / len(names) if names else None,
        "belief": belief,
    }


def ray_sets(city: City, belief: Belief, site_id: int) -> list[RaySet]:
    """Independent ray sets of a site under a belief: no two share a lattice or a seed."""
    config = city.ray_tracing
    half = {"twin": 0.0, "world": 0.5}[belief]
    sets = []
    for k in range(config.ray_sets):
        rays = round(config.rays_per_sector * (1 + _LATTICE_STEP * (k + half)))
        text = f"{city.seed}/{belief}/{site_id}/{k}"
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 2**31
        sets.append(RaySet(rays, seed))
    return sets


def local_mean(
    gain: NDArray[np.floating[Any]], outdoor: NDArray[np.bool_], cells: int
) -> NDArray[np.float64]:
    """Mean of a linear gain over the outdoor part of a square around each grid cell.

    Parameters
    ----------
    gain
        Linear gain of shape (..., rows, columns).
    outdoor
        Where terminals can stand, shape (rows, columns).
    cells
        Side of the square in grid cells (odd); 1 leaves the gain as it is.

    Returns
    -------
    NDArray
        The mean; 0 indoors and where it is below -180 dB.
    """
    size = (1,) * (gain.ndim - 2) + (cells, cells)
    total = uniform_filter(np.where(outdoor, gain, 0.0).astype(np.float64), size, mode="constant")
    weight = uniform_filter(outdoor.astype(np.float64), cells, mode="constant")
    mean = np.where(outdoor, total / np.maximum(weight, 1e-9), 0.0)
    return np.where(mean > _SMALLEST_GAIN, mean, 0.0)


def _trace_window(city: City, of_site: pd.DataFrame) -> Window:
    return city.trace_window(float(of_site.x_m.iloc[0]), float(of_site.y_m.iloc[0]))


def _work(city: City, scene_folder: Path, of_site: pd.DataFrame, belief: Belief) -> list[Trace]:
    """The sectors of one site, traced together, once for each ray set."""
    config = city.ray_tracing
    origin_m, grid = _grid(city, scene_folder, _trace_window(city, of_site))
    rows: list[Any] = list(of_site.itertuples())
    transmitters = tuple(
        Transmitter(
            (row.x_m - origin_m[0], row.y_m - origin_m[1], row.elevation_m - origin_m[2]),
            row.azimuth_deg,
            row.downtilt_deg,
        )
        for row in rows
    )
    return [
        Trace(
            scene_file=scene_folder / "scene.xml",
            frequency_hz=city.radio.frequency_hz,
            max_depth=config.max_depth,
            diffraction=config.diffraction,
            transmitters=transmitters,
            grid=grid,
            ray_set=ray_set,
        )
        for ray_set in ray_sets(city, belief, int(rows[0].site_id))
    ]


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
        centre = window.centre_m
        level_m = float(terrain.height_at(*centre))
        at_m = (centre[0] - x_m, centre[1] - y_m)
        return (x_m, y_m, z_m), Plane(at_m, window.columns, window.rows, cell_m, level_m + height_m)
    x = x0 + cell_m * np.arange(window.columns + 1)
    y = y0 + cell_m * np.arange(window.rows + 1)
    ground_m = terrain.height_at(*np.meshgrid(x, y))
    return (x_m, y_m, z_m), Surface((x0 - x_m, y0 - y_m), cell_m, ground_m + height_m)


def combine_ray_sets(
    gains: NDArray[np.float64],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean gain and its standard error from independent ray sets.

    Parameters
    ----------
    gains
        Linear gains of shape (ray_set, ...), at least two ray sets.

    Returns
    -------
    tuple
        Gain [dB], NaN where no ray set has power, and its standard error [dB] (first order:
        10/ln 10 times the relative error), NaN where fewer than two ray sets have power.
    """
    count = gains.shape[0]
    if count < 2:
        raise RadioError(f"a standard error needs two ray sets, got {count}")
    mean = gains.mean(axis=0)
    hits = (gains > 0).sum(axis=0)
    spread = gains.std(axis=0, ddof=1) / math.sqrt(count)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_db = np.where(mean > 0, 10.0 * np.log10(mean), np.nan)
        error_db = np.where(hits > 1, _DB_PER_NEPER * spread / mean, np.nan)
    return mean_db.astype(np.float32), error_db.astype(np.float32)


def outdoor_mask(context: xr.Dataset, window: Window) -> NDArray[np.bool_]:
    """Where no building stands in a window; land outside of the context raster counts as open."""
    cell_m = window.cell_m
    raster = Window(
        round(float(context.x[0]) / cell_m - 0.5),
        round(float(context.y[0]) / cell_m - 0.5),
        context.sizes["x"],
        context.sizes["y"],
        cell_m,
    )
    open_land = np.ones(window.shape, dtype=bool)
    shared = window.intersection(raster)
    if shared is not None:
        footprint = context.footprint.values[shared.slices_in(raster)]
        open_land[shared.slices_in(window)] = footprint == 0
    return open_land


def _provenance(city: City, belief: Belief) -> dict[str, Any]:
    return {
        "belief": belief,
        "ray_sets": city.ray_tracing.ray_sets,
        "rays_per_sector": city.ray_tracing.rays_per_sector,
        "sionna_rt": importlib.metadata.version("sionna-rt"),
    }


def _median(values: NDArray[np.floating[Any]]) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else None


def _preview(cube: xr.Dataset, path: Path) -> None:
    """Draw each sector's RSRP, at most 50 kB."""
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    count = cube.sizes["sector"]
    columns = max(1, min(6, count))
    rows = max(1, math.ceil(count / columns))
    figure = Figure(figsize=(1.4 * columns, 1.5 * rows + 0.3), dpi=60, layout="constrained")
    for index in range(count):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.imshow(
            cube.rsrp_dbm.values[index][::2, ::2],
            origin="lower",
            vmin=-130,
            vmax=-60,
            cmap=mpl.colormaps["viridis"],
        )
        axes.set_title(str(int(cube.sector[index])), fontsize=6)
        axes.set_axis_off()
    figure.suptitle(
        f"RSRP {'-130 to -60 dBm' if count else '(no sector stands here)'}, "
        "(c) OpenStreetMap contributors",
        fontsize=6,
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    path.write_bytes(buffer.getvalue())
