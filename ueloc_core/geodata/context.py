"""Context rasters: what stands on each grid cell of a window, as chunked Zarr v3."""

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
import xarray as xr
from numpy.typing import NDArray
from pyproj import CRS
from rasterio import Affine
from rasterio.features import rasterize
from zarr.codecs import ZstdCodec

from ueloc_core.city import City
from ueloc_core.errors import GeodataError
from ueloc_core.geodata.buildings import MATERIALS
from ueloc_core.geodata.schemas import BUILDING_KINDS, ROAD_CLASSES, ContextSchema
from ueloc_core.grid import Window

CONTEXT_STORE = "context.zarr"
PASSAGE_M = 2.0  # a building whose underside is higher can be walked under

_CHUNK = 256


def build_context(city: City, window: Window, features: gpd.GeoDataFrame) -> xr.Dataset:
    """Rasterize features over a window; a grid cell shows what lies at its centre.

    Parameters
    ----------
    city
        Gives the CRS and the area.
    window
        Grid cells to cover.
    features
        Rows of `FeatureSchema`, buildings after their overlaps were resolved.

    Returns
    -------
    Dims (y, x), row 0 in the south:

    - ``building_height_m`` [m] top of the highest building, 0 where there is none,
    - ``footprint`` 1 where a building leaves no passage at street level,
    - ``material`` index into `MATERIALS` of the highest building,
    - ``road`` index into `ROAD_CLASSES` of the widest class,
    - ``in_area`` 1 inside the city's bounding box.
    """
    buildings = features[features["kind"].isin(BUILDING_KINDS)].sort_values(["height_m", "osm_id"])
    standing = buildings[buildings["min_height_m"] < PASSAGE_M]
    codes = [MATERIALS.index(name) for name in buildings["material"]]
    roads = features[features["kind"] == "road"]
    ranks = np.array([ROAD_CLASSES.index(name) for name in roads["road_class"]], dtype=np.int64)
    order = np.argsort(ranks, kind="stable")
    strips = roads.geometry.buffer(roads["width_m"].to_numpy(float) / 2, cap_style="flat")
    area = shapely.Polygon(city.area_m)
    layers = {
        "building_height_m": _burn(buildings.geometry, buildings["height_m"], window, "float32"),
        "footprint": _burn(standing.geometry, [1] * len(standing), window, "uint8"),
        "material": _burn(buildings.geometry, codes, window, "uint8"),
        "road": _burn(strips.iloc[order], ranks[order], window, "uint8"),
        "in_area": _burn([area], [1], window, "uint8"),
    }
    context = xr.Dataset(
        {name: (("y", "x"), values, _ATTRIBUTES[name]) for name, values in layers.items()},
        coords={
            "x": ("x", window.x_centres_m, _axis("x", "easting")),
            "y": ("y", window.y_centres_m, _axis("y", "northing")),
            "spatial_ref": ((), np.int64(0), _grid_mapping(city, window)),
        },
        attrs={
            "title": f"context of {city.title or city.name}",
            "crs": city.crs_code,
            "cell_m": city.grid.cell_m,
            "column": window.column,
            "row": window.row,
            "attribution": "\u00a9 OpenStreetMap contributors, ODbL 1.0",
        },
    )
    ContextSchema.validate(context)
    return context


def _codes(names: tuple[str, ...]) -> dict[str, Any]:
    return {"flag_values": list(range(len(names))), "flag_meanings": " ".join(names)}


_GRID = {"grid_mapping": "spatial_ref"}
_ATTRIBUTES: dict[str, dict[str, Any]] = {
    "building_height_m": {"units": "m", "long_name": "height of the highest building", **_GRID},
    "footprint": {"units": "1", "long_name": "a building stands at street level", **_GRID},
    "material": {"units": "1", "long_name": "wall material", **_codes(MATERIALS), **_GRID},
    "road": {"units": "1", "long_name": "road class", **_codes(ROAD_CLASSES), **_GRID},
    "in_area": {"units": "1", "long_name": "inside the area of the city", **_GRID},
}


def _axis(name: str, direction: str) -> dict[str, str]:
    return {
        "units": "m",
        "long_name": f"{direction} of the centre of the grid cell",
        "standard_name": f"projection_{name}_coordinate",
    }


def _grid_mapping(city: City, window: Window) -> dict[str, Any]:
    x0, y0, _, _ = window.bounds_m
    cell_m = window.cell_m
    return {
        **CRS.from_user_input(city.crs_code).to_cf(),
        "units": "1",
        "long_name": "coordinate reference system",
        "GeoTransform": f"{x0} {cell_m} 0 {y0} 0 {cell_m}",
    }


def _burn(geometries: Any, values: Any, window: Window, dtype: str) -> NDArray[Any]:
    """Raster of shape (rows, columns), row 0 in the south; later shapes cover earlier ones."""
    shapes = [(g, v) for g, v in zip(geometries, values, strict=True) if not g.is_empty]
    if not shapes:
        return np.zeros(window.shape, dtype=dtype)
    x0, _, _, y1 = window.bounds_m
    transform = Affine(window.cell_m, 0, x0, 0, -window.cell_m, y1)
    burnt = rasterize(shapes, out_shape=window.shape, transform=transform, fill=0, dtype=dtype)
    return np.ascontiguousarray(burnt[::-1])


def write_context(context: xr.Dataset, folder: Path) -> None:
    """Write context rasters as ``context.zarr`` (Zarr v3, zstd) in a folder."""
    encoding: dict[str, dict[str, Any]] = {
        str(name): {
            "chunks": tuple(min(_CHUNK, size) for size in array.shape),
            "compressors": [ZstdCodec(level=3)],
        }
        for name, array in context.data_vars.items()
    }
    context.to_zarr(
        folder / CONTEXT_STORE, mode="w-", zarr_format=3, consolidated=False, encoding=encoding
    )


def load_context(folder: Path) -> xr.Dataset:
    """Context rasters of a scene's folder, read into memory.

    Raises
    ------
    GeodataError
        If they are missing or broken.
    """
    path = folder / CONTEXT_STORE
    try:
        with xr.open_zarr(path, consolidated=False, decode_coords="all") as stored:
            loaded: xr.Dataset = stored[list(_ATTRIBUTES)].load()  # a folder has no order
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise GeodataError(
            f"the context rasters are missing or broken ({error})",
            where=str(path),
            remedy="Materialize the scene again.",
        ) from error
    return loaded
