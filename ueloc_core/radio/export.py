"""Layers of radio maps for geographic information systems: GeoTIFF files in the right place."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NoReturn

import numpy as np
import xarray as xr

from ueloc_core.city import City
from ueloc_core.errors import RadioError
from ueloc_core.geodata.georeference import geotiff_bytes, grid_coordinates, replace_file
from ueloc_core.radio.cube import open_cube, window_of
from ueloc_core.radio.cube_layers import LAYERS, RSRP
from ueloc_core.radio.layers import OF_PLACES, OF_SECTORS, layers_of_maps
from ueloc_core.radio.mosaic import covered_window, open_mosaic, own_window, part_over

BEST_SERVER = "best_server"
"""The city-wide layer that names the strongest sector of each grid cell."""

STORED = (*LAYERS, RSRP, BEST_SERVER)
"""Layers that come from the cubes alone; all others are derived from all sectors together."""

_ENDINGS = (".tif", ".tiff")


def export_layer(layer: xr.DataArray, target: Path) -> Path:
    """Write one layer as a GeoTIFF: north up, deflated, with its CRS, units and nodata.

    Parameters
    ----------
    layer
        Dims (y, x), row 0 in the south, with the coords ``x``, ``y`` and ``spatial_ref`` that
        `sector_layer`, `best_layer`, `derived_layer` and a mosaic give. NaN becomes nodata;
        integers have the nodata that their ``missing_value`` names.
    target
        The file, ``.tif`` or ``.tiff``; one that is there is replaced when the new one is whole.

    Raises
    ------
    RadioError
        If the file has another ending.
    UelocError
        If the file cannot be written.
    StoreError
        If a store turns out to be corrupt.
    """
    check_ending(target)
    replace_file(target, geotiff_bytes(layer))
    return target


def check_ending(target: Path) -> None:
    """Refuse names of files that are no GeoTIFF's.

    Raises
    ------
    RadioError
        Naming the endings that are allowed.
    """
    if target.suffix.lower() not in _ENDINGS:
        raise RadioError(
            f"layers are written as GeoTIFF, not as '{target.suffix}'",
            where=str(target),
            remedy=f"Let the name end in {' or '.join(_ENDINGS)}.",
        )


def sector_layer(
    city: City, radio_maps: Mapping[str, Path], layer: str, sector_id: int
) -> xr.DataArray:
    """One layer of one sector over its own window, also where that leaves the city's tiles.

    Parameters
    ----------
    city
        The city.
    radio_maps
        Folder of each tile's cube by tile name.
    layer
        A layer of the cubes.
    sector_id
        The sector.

    Raises
    ------
    RadioError
        If there is no such layer or sector.
    StoreError
        If the store is missing or corrupt.
    """
    for folder in radio_maps.values():
        cube = open_cube(folder)
        (found,) = np.nonzero(cube.sector.values == sector_id)
        if found.size:
            break
    else:
        _refuse_sector(city, sector_id)
    _check_layer(layer, [str(name) for name in cube.data_vars])
    index = int(found[0])
    values = cube[layer].variable[index]
    coords = grid_coordinates(city.crs_code, window_of(cube, index))
    return xr.DataArray(values.values, coords, ("y", "x"), layer, values.attrs)


def best_layer(mosaic: xr.Dataset, layer: str) -> xr.DataArray:
    """One layer of the strongest sector of each grid cell, read sector by sector.

    Parameters
    ----------
    mosaic
        From `open_mosaic`, or a part of one without gaps.
    layer
        One of its variables, or `BEST_SERVER` for the strongest sector's ``sector_id`` (0 where
        no sector arrives). Of equally strong sectors the one of the lowest id is taken.

    Returns
    -------
    Dims (y, x); NaN (counts: 0) where no sector arrives.

    Raises
    ------
    RadioError
        If the mosaic has no such layer.
    """
    _check_layer(layer, [*map(str, mosaic.data_vars), BEST_SERVER])
    over = covered_window(mosaic)
    best_dbm = np.full(over.shape, -np.inf, dtype=np.float32)
    if layer == BEST_SERVER:
        attrs = {"units": "1", "long_name": "sector_id of the strongest sector", "missing_value": 0}
        values = np.zeros(over.shape, dtype=np.int64)
    else:
        attrs = mosaic[layer].attrs
        dtype = mosaic[layer].dtype
        empty = np.nan if np.issubdtype(dtype, np.floating) else 0
        values = np.full(over.shape, empty, dtype=dtype)
    for index in range(mosaic.sizes["sector"]):
        shared = over.intersection(own_window(mosaic, index))
        if shared is None:
            continue
        part = shared.slices_in(over)
        rsrp_dbm = mosaic[RSRP].variable[(index, *part)].values
        better = rsrp_dbm > best_dbm[part]
        best_dbm[part][better] = rsrp_dbm[better]
        if layer == BEST_SERVER:
            values[part][better] = int(mosaic.sector[index])
        elif better.any():
            values[part][better] = mosaic[layer].variable[(index, *part)].values[better]
    coords = grid_coordinates(mosaic.attrs["crs"], over)
    return xr.DataArray(values, coords, ("y", "x"), layer, attrs)


def derived_layer(
    city: City, radio_maps: Mapping[str, Path], layer: str, sector_id: int | None = None
) -> xr.DataArray:
    """One layer that follows from all sectors, over the city or over one sector's own window.

    A city is computed tile by tile from the sectors that reach the tile, so its maps are never in
    memory at once.

    Parameters
    ----------
    city
        The city.
    radio_maps
        Folder of each tile's cube by tile name.
    layer
        A layer of places (such as ``throughput_mbps``), or with `sector_id` one of sectors (such
        as ``sinr_db``).
    sector_id
        The sector.

    Raises
    ------
    RadioError
        If there is no such layer or sector, or the layer needs a sector or has none.
    StoreError
        If a store is missing or corrupt.
    """
    check_derived(city, layer, sector_id)
    mosaic = open_mosaic(city, radio_maps)
    if sector_id is None:
        raster = _tile_by_tile(city, mosaic, layer)
    else:
        (found,) = np.nonzero(mosaic.sector.values == sector_id)
        if not found.size:
            _refuse_sector(city, sector_id)
        own = own_window(mosaic, int(found[0]))
        near = part_over(open_mosaic(city, radio_maps, own), own)
        raster = _derived(city, near, layer).sel(sector=sector_id, drop=True)
    if np.issubdtype(raster.dtype, np.signedinteger):
        raster = raster.assign_attrs(missing_value=0 if layer == BEST_SERVER else -1)
    return raster


def check_derived(city: City, layer: str, sector_id: int | None) -> None:
    """Refuse what is no derived layer, before anything is read or computed.

    Raises
    ------
    RadioError
        If there is no such layer, or it needs a sector or has none.
    """
    derived = (*OF_SECTORS, *OF_PLACES)
    if layer not in derived:
        _refuse_layer(layer, dict.fromkeys((*STORED, *derived)))
    if (layer in OF_SECTORS) != (sector_id is not None):
        raise RadioError(
            f"layer '{layer}' is {'not ' if sector_id is not None else ''}one of a single sector",
            where=city.name,
            remedy=f"A sector has {', '.join(OF_SECTORS)}; the other derived layers have none.",
        )


def _tile_by_tile(city: City, mosaic: xr.Dataset, layer: str) -> xr.DataArray:
    ground = city.window_cells
    parts = {
        tile.window: _derived(city, part_over(mosaic, tile.window), layer)
        for tile in city.tile_list
    }
    first = next(iter(parts.values()))
    values = np.empty(ground.shape, dtype=first.dtype)
    for window, part in parts.items():
        values[window.slices_in(ground)] = part.values
    coords = grid_coordinates(city.crs_code, ground)
    return xr.DataArray(values, coords, ("y", "x"), layer, first.attrs)


def _derived(city: City, maps: xr.Dataset, layer: str) -> xr.DataArray:
    derived = layers_of_maps(city, maps)
    _check_layer(layer, [str(name) for name in derived.data_vars])
    return derived[layer]


def _refuse_sector(city: City, sector_id: int) -> NoReturn:
    raise RadioError(
        f"unknown sector {sector_id}",
        where=city.name,
        remedy=f"'ueloc sectors --city {city.name}' lists the known ones.",
    )


def _check_layer(layer: str, known: Collection[str]) -> None:
    if layer not in known:
        _refuse_layer(layer, known)


def _refuse_layer(layer: str, known: Iterable[str]) -> NoReturn:
    raise RadioError(f"unknown layer '{layer}'", remedy=f"Known: {', '.join(known)}.")
