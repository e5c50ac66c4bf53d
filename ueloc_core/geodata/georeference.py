"""Rasters in their place on Earth: axes, the CF grid mapping, and GeoTIFF files."""

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
import xarray as xr
from pyproj import CRS
from rasterio import Affine

from ueloc_core.errors import UelocError
from ueloc_core.grid import Window

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TAGS = ("long_name", "flag_values", "flag_meanings")


def grid_coordinates(crs_code: str, window: Window) -> dict[str, Any]:
    """Coordinates ``x``, ``y`` [m] and ``spatial_ref`` of a raster over a window."""
    return {
        "x": ("x", window.x_centres_m, _axis("x", "easting")),
        "y": ("y", window.y_centres_m, _axis("y", "northing")),
        "spatial_ref": ((), np.int64(0), grid_mapping(crs_code, window)),
    }


def grid_mapping(crs_code: str, window: Window | None = None) -> dict[str, Any]:
    """Attributes of a CF grid mapping (CF 1.11, 5.6), with the place of a window if one is given.

    ``GeoTransform`` counts rows from the south, as the rasters do.
    """
    mapping = {
        **CRS.from_user_input(crs_code).to_cf(),
        "units": "1",
        "long_name": "coordinate reference system",
    }
    if window is not None:
        x0, y0, _, _ = window.bounds_m
        mapping["GeoTransform"] = f"{x0} {window.cell_m} 0 {y0} 0 {window.cell_m}"
    return mapping


def geotiff_bytes(layer: xr.DataArray) -> bytes:
    """One raster as a GeoTIFF: north up, deflated, with its CRS, units, name and classes.

    Parameters
    ----------
    layer
        Dims (y, x), row 0 in the south, with the coords of `grid_coordinates`, or a part of such a
        raster without gaps. What is not a number is declared as ``nodata``; for integers that is
        their ``missing_value``, if any.

    Raises
    ------
    UelocError
        If the raster has gaps, or its rows do not go north or its columns east.
    """
    reference = layer.coords["spatial_ref"].attrs
    cell_m = float(reference["GeoTransform"].split()[1])
    for axis in ("x", "y"):
        if not np.allclose(np.diff(layer[axis].values), cell_m, rtol=0, atol=1e-6 * cell_m):
            raise UelocError(
                f"{axis} does not grow in steps of {cell_m:g} m", where=str(layer.name)
            )
    values: NDArray[Any] = np.ascontiguousarray(layer.values[::-1])
    # the place of a part is in its axes: GeoTransform still tells that of the whole
    west, north = float(layer.x[0]) - cell_m / 2, float(layer.y[-1]) + cell_m / 2
    floating = np.issubdtype(values.dtype, np.floating)
    tags = {key: str(layer.attrs[key]) for key in _TAGS if key in layer.attrs}
    with rasterio.MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            height=values.shape[0],
            width=values.shape[1],
            count=1,
            dtype=values.dtype,
            crs=reference["crs_wkt"],
            transform=Affine(cell_m, 0, west, 0, -cell_m, north),
            nodata=np.nan if floating else layer.attrs.get("missing_value"),
            compress="deflate",
            tiled=True,
        ) as target:
            target.write(values, 1)
            target.set_band_description(1, str(layer.name))
            target.set_band_unit(1, str(layer.attrs.get("units", "1")))
            target.update_tags(**tags, attribution="OpenStreetMap contributors, ODbL 1.0")
        return bytes(memory.read())


def replace_file(path: Path, content: bytes) -> None:
    """Write a file aside and move it into its place; its folder is made.

    Raises
    ------
    UelocError
        If it cannot be written; a file that was there stays as it was.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(content)
        aside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise UelocError(
            f"cannot write ({error})", where=str(path), remedy="Choose another place, or make room."
        ) from error


def _axis(name: str, direction: str) -> dict[str, str]:
    return {
        "units": "m",
        "long_name": f"{direction} of the centre of the grid cell",
        "standard_name": f"projection_{name}_coordinate",
    }
