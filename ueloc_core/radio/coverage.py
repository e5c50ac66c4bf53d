"""Coverage of a city: what its radio maps mean for a terminal that stands anywhere.

The layers that follow from all sectors together (`radio.layers`), computed tile by tile from the
sectors that reach the tile, so the maps of a whole city are never in memory at once.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from ueloc_core.city import City
from ueloc_core.errors import RadioError, StoreError
from ueloc_core.geodata.context import load_context, outdoor_cells
from ueloc_core.geodata.georeference import grid_coordinates
from ueloc_core.grid import Tile
from ueloc_core.radio.coverage_layers import DIMS, LAYERS
from ueloc_core.radio.coverage_preview import draw_coverage
from ueloc_core.radio.layers import OF_PLACES, layers_of_maps
from ueloc_core.radio.link import timing_advance_step_m
from ueloc_core.radio.mosaic import open_mosaic, part_over
from ueloc_core.radio.sites import load_sectors
from ueloc_core.units import noise_per_resource_element_dbm

CODE_VERSION = "2"

COVERAGE_STORE = "coverage.zarr"

Progress = Callable[[int, int, str], None]

_SHARD_TILES = 8  # along a side
_OWN: Mapping[str, tuple[str, str]] = {
    "serving_line_of_sight": ("1", "share of the outdoor points that see the best server"),
    "sectors_heard": ("1", "number of sectors at or above the detection threshold"),
    "outdoor": ("1", "whether a terminal can stand there"),
}


def build_coverage(
    city: City,
    scenes: Mapping[str, Path],
    sites: Mapping[str, Path],
    radio_maps: Mapping[str, Path],
    out: Path,
    *,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compute the coverage of a city and write `COVERAGE_STORE` and ``preview.png``.

    Memory is about 30 bytes for every grid cell of one tile and sector that reaches it, and 40
    bytes for every grid cell of the city.

    Parameters
    ----------
    city
        The city.
    scenes, sites, radio_maps
        Folder of each stage's artifact by tile name, for all tiles.
    out
        Folder to write to; the same inputs give the same bytes.
    progress
        Called with (tiles done, tiles, message).

    Returns
    -------
    dict
        Counts of tiles, sites and sectors, what `coverage_summary` tells, and the size.

    Raises
    ------
    RadioError
        If the city has no sector, or its maps and its sectors do not belong together.
    StoreError
        If a store is missing or corrupt.
    """
    mosaic = open_mosaic(city, radio_maps)
    sectors = pd.concat([load_sectors(folder) for folder in sites.values()], ignore_index=True)
    if sorted(sectors.sector_id) != mosaic.sector.values.tolist():
        raise RadioError(
            "radio maps and sites name different sectors",
            where=city.name,
            remedy="Materialize radio_map of all tiles again.",
        )
    coverage = _nothing_known(city)
    ground = city.window_cells
    for done, tile in enumerate(city.tile_list, start=1):
        rows, columns = tile.window.slices_in(ground)
        maps = part_over(mosaic, tile.window)
        for name, values in _tile_coverage(city, tile, scenes[tile.name], maps).items():
            coverage[name].values[rows, columns] = values
        if progress is not None:
            progress(done, len(city.tile_list), f"coverage of {tile.name}")
    size = _write(coverage, round(city.tiles.size_m / city.grid.cell_m), out / COVERAGE_STORE)
    draw_coverage(coverage, sectors, out / "preview.png")
    return {
        "tiles": len(city.tile_list),
        "sites": int(sectors.site_id.nunique()),
        "sectors": len(sectors),
        **coverage_summary(coverage),
        "megabytes": size / 1e6,
    }


def load_coverage(folder: Path) -> xr.Dataset:
    """The coverage of a city in memory, as `CoverageSchema`.

    Raises
    ------
    StoreError
        If the store is missing or corrupt.
    """
    path = folder / COVERAGE_STORE
    try:
        with xr.open_zarr(path, consolidated=False, chunks=None) as stored:
            loaded: xr.Dataset = stored[list(LAYERS)].load()
    except Exception as error:
        raise StoreError(
            f"coverage cannot be read ({error})",
            where=str(path),
            remedy="Materialize the city's coverage again.",
        ) from error
    return loaded


def coverage_summary(coverage: xr.Dataset) -> dict[str, float | None]:
    """What a coverage comes to outdoors; None where nothing is known.

    Parameters
    ----------
    coverage
        As `load_coverage` gives it.

    Returns
    -------
    dict
        Of the outdoor area: ``outdoor_km2``, the share in which the best server is at or above
        the detection threshold (``served_share``), the share in which any level is known
        (``known_share``), and percentiles of the number of sectors heard. Of the outdoor area
        with a known level: medians and 10th percentiles of RSRP [dBm], SINR [dB] and throughput
        [Mbit/s], and the share that sees its best server (``line_of_sight_share``).
    """
    outdoor = coverage.outdoor.values == 1
    level_dbm = coverage.serving_rsrp_dbm.values[outdoor]
    heard = coverage.sectors_heard.values[outdoor]
    summary: dict[str, float | None] = {
        "outdoor_km2": float(outdoor.sum()) * coverage.attrs["cell_m"] ** 2 / 1e6,
        "served_share": _mean(level_dbm >= coverage.attrs["detection_threshold_dbm"]),
        "known_share": _mean(np.isfinite(level_dbm)),
        "line_of_sight_share": _mean(_finite(coverage.serving_line_of_sight.values[outdoor])),
    }
    for name, layer in (
        ("rsrp_dbm", "serving_rsrp_dbm"),
        ("sinr_db", "serving_sinr_db"),
        ("throughput_mbps", "throughput_mbps"),
    ):
        values = _finite(coverage[layer].values[outdoor])
        summary[f"median_{name}"] = _percentile(values, 50)
        summary[f"p10_{name}"] = _percentile(values, 10)
    return summary | {
        "p10_sectors_heard": _percentile(heard, 10),
        "median_sectors_heard": _percentile(heard, 50),
        "p90_sectors_heard": _percentile(heard, 90),
    }


def _finite(values: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(values[np.isfinite(values)])


def _mean(values: NDArray[Any]) -> float | None:
    return float(values.mean(dtype=np.float64)) if values.size else None


def _percentile(values: NDArray[Any], percent: float) -> float | None:
    return float(np.percentile(values, percent)) if values.size else None


def _nothing_known(city: City) -> xr.Dataset:
    """The layers over all tiles, unknown everywhere."""
    window, radio = city.window_cells, city.radio
    names = {name: OF_PLACES.get(name) or _OWN[name] for name in LAYERS}
    return xr.Dataset(
        {
            name: (
                DIMS,
                np.full(window.shape, layer.unknown, dtype=layer.dtype),
                {
                    "units": names[name][0],
                    "long_name": names[name][1],
                    "grid_mapping": "spatial_ref",
                },
            )
            for name, layer in LAYERS.items()
        },
        coords=grid_coordinates(city.crs_code, window),
        attrs={
            "Conventions": "CF-1.11",
            "title": "coverage of a city by its sectors",
            "crs": city.crs_code,
            "cell_m": window.cell_m,
            "frequency_hz": radio.frequency_hz,
            "load": radio.load,
            "noise_dbm": noise_per_resource_element_dbm(radio.numerology, radio.noise_figure_db),
            "numerology": radio.numerology,
            "resource_blocks": radio.resource_blocks,
            "timing_advance_step_m": timing_advance_step_m(radio.numerology),
            "detection_threshold_dbm": city.measurements.detection_threshold_dbm,
            "seed": city.seed,
            "attribution": "(c) OpenStreetMap contributors, ODbL 1.0",
        },
    )


def _tile_coverage(
    city: City, tile: Tile, scene: Path, maps: xr.Dataset
) -> dict[str, NDArray[Any]]:
    """Layers of one tile, from the maps of the sectors that reach it."""
    layers = layers_of_maps(city, maps)
    found = {name: layers[name].values for name in OF_PLACES if name in layers}
    if "line_of_sight" in maps:
        found["serving_line_of_sight"] = _of_server(maps.line_of_sight, found["best_server"])
    heard = layers["rsrp_dbm"].values >= city.measurements.detection_threshold_dbm
    outdoor = outdoor_cells(load_context(scene))
    return found | {
        "sectors_heard": heard.sum(axis=0),
        "outdoor": outdoor[tile.window.slices_in(city.scene_window(tile))],
    }


def _of_server(layer: xr.DataArray, best_server: NDArray[np.int64]) -> NDArray[np.float32]:
    """A layer of each sector (sector, y, x) at the sector that serves; NaN where none does."""
    out = np.full(best_server.shape, np.nan, dtype=np.float32)
    for index in np.flatnonzero(np.isin(layer.sector.values, best_server)):
        served = best_server == layer.sector.values[index]
        out[served] = layer.variable[int(index)].values[served]
    return out


def _write(coverage: xr.Dataset, tile_cells: int, path: Path) -> int:
    """Store a coverage, a chunk for each tile and a shard for a square of tiles; its bytes."""
    shard = [
        tile_cells * min(_SHARD_TILES, math.ceil(size / tile_cells))
        for size in (coverage.sizes["y"], coverage.sizes["x"])
    ]
    encoding = {
        name: {
            "chunks": (tile_cells, tile_cells),
            "shards": tuple(shard),
            # bytes of one significance side by side compress better
            "compressors": [BloscCodec(cname="zstd", clevel=5, shuffle="shuffle")],
            "_FillValue": None,
            # chunks in which nothing is known are not written
            "fill_value": layer.unknown,
        }
        for name, layer in LAYERS.items()
    }
    coverage.to_zarr(path, mode="w-", zarr_format=3, consolidated=False, encoding=encoding)
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
