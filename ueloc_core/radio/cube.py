"""The radio maps of one tile as a cube (sector, y, x): what is stored, how, and how it is read.

A cube is one Zarr v3 store with one array per layer. An array has one shard (one file) per
sector, so each shard has one writer, and square chunks of `CHUNK` grid cells inside of it, so a
window reads the chunks that it meets and no more. Values are stored as integers by the CF
conventions (``scale_factor``, ``_FillValue``), with the steps of `LAYERS`.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing
from zarr.codecs import BloscCodec

from ueloc_core.city import City
from ueloc_core.errors import RadioError, StoreError
from ueloc_core.geodata.georeference import grid_mapping
from ueloc_core.grid import Window
from ueloc_core.radio.cube_layers import DIMS, LAYERS, REQUIRED, RSRP, Layer
from ueloc_core.units import power_per_resource_element_dbm

CUBE_STORE = "radio_map.zarr"
CHUNK = 64
"""Side of the inner chunks in grid cells."""


_RSRP_ATTRIBUTES = {
    "units": "dBm",
    "long_name": "synchronisation-signal reference signal received power",
    "grid_mapping": "spatial_ref",
}
_ATTRIBUTION = "(c) OpenStreetMap contributors, ODbL 1.0"


def make_cube(
    city: City,
    sectors: pd.DataFrame,
    windows: Sequence[Window],
    layers: Mapping[str, NDArray[Any]],
    attrs: Mapping[str, Any],
) -> xr.Dataset:
    """Put traced layers and what is known about them into one data set.

    Parameters
    ----------
    city
        Gives the CRS, the grid and the radio parameters.
    sectors
        Rows of `SectorSchema`, in the order of the layers' first axis.
    windows
        Window of each sector; all of one size.
    layers
        Arrays of shape [sector, y, x] by name (keys of `LAYERS`, the `REQUIRED` ones at least), in
        the units of the table; row 0 is the southernmost; NaN where unknown. Azimuths are taken
        modulo 360 degrees; a count that is NaN is none.
    attrs
        What the maps were traced with: belief, rays, versions.

    Returns
    -------
    Dims (sector, y, x). The given layers and ``rsrp_dbm`` as float32 (counts as integers), coords
    ``sector`` (sector_id), ``column`` and ``row`` (lower-left grid cell of each window),
    ``element_power_dbm`` and ``spatial_ref`` (CF grid mapping).

    Raises
    ------
    RadioError
        If a layer is unknown, missing, or does not fit the sectors.
    """
    _check_layers(layers, len(sectors), windows)
    element_dbm = power_per_resource_element_dbm(
        sectors.power_dbm.to_numpy(dtype=np.float64), city.radio.resource_blocks
    )
    variables = {
        name: (DIMS, _readable(layer, layers[name]), _attributes(layer))
        for name, layer in LAYERS.items()
        if name in layers
    }
    rsrp = np.asarray(layers["path_gain_db"]) + element_dbm[:, None, None]
    variables[RSRP] = (DIMS, rsrp.astype(np.float32), dict(_RSRP_ATTRIBUTES))
    return xr.Dataset(
        variables,
        coords=_coordinates(city, sectors, windows, element_dbm),
        attrs={
            "Conventions": "CF-1.11",
            "title": "radio maps of a tile's sectors",
            "crs": city.crs_code,
            "cell_m": city.grid.cell_m,
            "frequency_hz": city.radio.frequency_hz,
            "height_above_ground_m": city.ray_tracing.terminal_height_m,
            "seed": city.seed,
            **attrs,
            "attribution": _ATTRIBUTION,
        },
    )


def write_cube(cube: xr.Dataset, path: Path) -> int:
    """Write a cube as a sharded Zarr v3 store; the same cube gives the same bytes.

    Parameters
    ----------
    cube
        As `make_cube` gives it; ``rsrp_dbm`` is not stored, for it follows from the gain.
    path
        The store, which must not exist.

    Returns
    -------
    Bytes of all files of the store.

    Raises
    ------
    RadioError
        If a value does not fit the integers of its layer: nothing is clipped.
    """
    stored = cube.drop_vars(RSRP)
    encoding: dict[str, dict[str, Any]] = {"element_power_dbm": {"_FillValue": None}}
    for name in stored.data_vars:
        layer = LAYERS[str(name)]
        stored[name] = stored[name].copy(data=_on_steps(layer, stored[name].values))
        encoding[str(name)] = _encoding(layer, cube.sizes["y"], cube.sizes["x"])
    stored.to_zarr(path, mode="w-", zarr_format=3, consolidated=False, encoding=encoding)
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def open_cube(folder: Path) -> xr.Dataset:
    """The cube of one tile; a layer's values are read when they are indexed.

    Parameters
    ----------
    folder
        Where `write_cube` wrote `CUBE_STORE`.

    Returns
    -------
    As `make_cube` gives it; the coords are in memory. Every access reads again: call ``load`` on
    what is used more than once.

    Raises
    ------
    StoreError
        If the store is missing or corrupt.
    """
    path = folder / CUBE_STORE
    try:
        stored = xr.open_dataset(path, engine="zarr", chunks=None, cache=False, consolidated=False)
        coords = stored.coords.to_dataset().load()
        variables = {
            name: _lazy(_LayerArray(path, stored[name].variable, layer), stored[name].attrs)
            for name, layer in LAYERS.items()
            if name in stored or name in REQUIRED
        }
        gain = stored["path_gain_db"].variable
        power_dbm = coords.element_power_dbm.values
    except Exception as error:
        raise _unreadable(path, error) from error
    level = _LayerArray(path, gain, LAYERS["path_gain_db"], power_dbm)
    variables[RSRP] = _lazy(level, _RSRP_ATTRIBUTES)
    return xr.Dataset(variables, coords.coords, stored.attrs)


def load_cube(folder: Path, layers: Collection[str] | None = None) -> xr.Dataset:
    """The cube of one tile in memory, as `RadioMapSchema`.

    Parameters
    ----------
    folder
        Where `write_cube` wrote `CUBE_STORE`.
    layers
        The layers to read (``rsrp_dbm`` is one); all by default.

    Raises
    ------
    StoreError
        If the store is missing or corrupt, or has no such layer.
    """
    cube = open_cube(folder)
    wanted = [str(name) for name in cube.data_vars] if layers is None else list(layers)
    if missing := [name for name in wanted if name not in cube]:
        raise _unreadable(folder / CUBE_STORE, f"it has no layer {', '.join(missing)}")
    loaded: xr.Dataset = cube[wanted].load()
    return loaded


def window_of(cube: xr.Dataset, index: int) -> Window:
    """Window of one sector of a cube."""
    return Window(
        int(cube.column[index]),
        int(cube.row[index]),
        cube.sizes["x"],
        cube.sizes["y"],
        float(cube.attrs["cell_m"]),
    )


class _LayerArray(BackendArray):
    """A stored layer in the type that readers get; a value per sector may be added."""

    def __init__(
        self,
        path: Path,
        variable: xr.Variable,
        layer: Layer,
        added: NDArray[np.float64] | None = None,
    ) -> None:
        self.shape = variable.shape
        self.dtype = layer.read_dtype
        self._path = path
        self._variable = variable
        self._added = added

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        support = indexing.IndexingSupport.OUTER
        return indexing.explicit_indexing_adapter(key, self.shape, support, self._read)

    def _read(self, key: tuple[Any, ...]) -> Any:
        try:
            values = self._variable[key].values
        except Exception as error:
            raise _unreadable(self._path, error) from error
        if self._added is not None:
            added = np.asarray(self._added[key[0]])
            values = values + added.reshape(added.shape + (1,) * (values.ndim - added.ndim))
        return values.astype(self.dtype)


def _lazy(array: BackendArray, attrs: Mapping[str, Any]) -> xr.Variable:
    return xr.Variable(DIMS, indexing.LazilyIndexedArray(array), dict(attrs))


def _unreadable(path: Path, problem: Exception | str) -> StoreError:
    return StoreError(
        f"radio map cannot be read ({problem})",
        where=str(path),
        remedy="Materialize the tile's radio_map again.",
    )


def _check_layers(
    layers: Mapping[str, NDArray[Any]], count: int, windows: Sequence[Window]
) -> None:
    if unknown := sorted(set(layers) - set(LAYERS)):
        raise RadioError(f"unknown layers {unknown}", remedy=f"Known: {', '.join(LAYERS)}.")
    if missing := sorted(set(REQUIRED) - set(layers)):
        raise RadioError(f"a cube needs the layers {missing}")
    if len(windows) != count:
        raise RadioError(f"{count} sectors have {len(windows)} windows")
    shapes = {(count, *window.shape) for window in windows} or {layers["path_gain_db"].shape}
    for name, values in layers.items():
        if {values.shape} != shapes or values.shape[0] != count:
            raise RadioError(f"layer {name} has shape {values.shape}, its windows {sorted(shapes)}")


def _readable(layer: Layer, values: NDArray[Any]) -> NDArray[Any]:
    if layer.step is None:
        values = np.nan_to_num(values)
    elif layer.period is not None:
        values = np.mod(values, layer.period)
    return np.asarray(values, dtype=layer.read_dtype)


def _attributes(layer: Layer) -> dict[str, Any]:
    return {
        "units": layer.units,
        "long_name": layer.long_name,
        "grid_mapping": "spatial_ref",
    }


def _coordinates(
    city: City, sectors: pd.DataFrame, windows: Sequence[Window], element_dbm: NDArray[np.float64]
) -> dict[str, Any]:
    ids = sectors.sector_id.to_numpy(dtype=np.int64)
    column, row = (
        np.array([getattr(window, axis) for window in windows], dtype=np.int64)
        for axis in ("column", "row")
    )
    corner = "of the window's lower-left corner"
    return {
        "sector": ("sector", ids, {"long_name": "sector_id", "units": "1"}),
        "column": ("sector", column, {"long_name": f"easting {corner}", "units": "grid cells"}),
        "row": ("sector", row, {"long_name": f"northing {corner}", "units": "grid cells"}),
        "element_power_dbm": (
            "sector",
            element_dbm,
            {"long_name": "transmit power per resource element", "units": "dBm"},
        ),
        "spatial_ref": ((), np.int64(0), grid_mapping(city.crs_code)),
    }


def _on_steps(layer: Layer, values: NDArray[Any]) -> NDArray[Any]:
    """Values as whole numbers of steps, which the store then holds to the last bit."""
    if layer.step is None:
        return values
    steps = np.rint(values.astype(np.float64) / layer.step)
    if layer.period is not None:
        steps = np.mod(steps, round(layer.period / layer.step))
    info = np.iinfo(layer.dtype)
    lowest = info.min + 1 if info.min < 0 else 0
    highest = info.max if info.min < 0 else info.max - 1
    wrong = ~np.isnan(steps) & ~((steps >= lowest) & (steps <= highest))
    if wrong.any():
        raise RadioError(
            f"{layer.name} = {values[wrong][0]:g} {layer.units} cannot be stored",
            remedy=f"{layer.dtype} in steps of {layer.step:g} holds "
            f"{lowest * layer.step:g} to {highest * layer.step:g}.",
        )
    return np.asarray(steps * layer.step)


def _encoding(layer: Layer, rows: int, columns: int) -> dict[str, Any]:
    shard = (1, *(CHUNK * math.ceil(size / CHUNK) for size in (rows, columns)))
    encoding: dict[str, Any] = {
        "dtype": layer.dtype,
        "chunks": (1, CHUNK, CHUNK),
        "shards": shard,
        # bytes of one significance side by side: a fifth smaller than zstd alone
        "compressors": [BloscCodec(cname="zstd", clevel=5, shuffle="shuffle")],
    }
    if layer.step is None:
        return encoding | {"_FillValue": None, "fill_value": 0}
    # without fill_value, chunks that are not there (all unknown) would be read as zeros
    return encoding | {
        "scale_factor": layer.step,
        "_FillValue": np.dtype(layer.dtype).type(layer.fill),
        "fill_value": layer.fill,
    }
