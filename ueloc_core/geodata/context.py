"""Context rasters: what stands on each grid cell of a window, as chunked Zarr v3."""

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
import xarray as xr
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.features import rasterize
from zarr.codecs import ZstdCodec

from ueloc_core.city import City
from ueloc_core.errors import GeodataError
from ueloc_core.geodata.buildings import MATERIALS
from ueloc_core.geodata.georeference import grid_coordinates
from ueloc_core.geodata.schemas import (
    BUILDING_KINDS,
    GROUND_MATERIALS,
    ROAD_CLASSES,
    VEGETATION,
    ContextSchema,
)
from ueloc_core.geodata.terrain import Terrain
from ueloc_core.grid import Window

CONTEXT_STORE = "context.zarr"
PASSAGE_M = 2.0  # a building whose underside is higher can be walked under

_CHUNK = 256
_TREES = ("wood", "forest", "tree_row", "orchard")
_LOW = (
    *("grass", "meadow", "grassland", "village_green", "recreation_ground", "park", "garden"),
    *("pitch", "golf_course", "scrub", "heath", "farmland", "allotments", "cemetery", "vineyard"),
    *("flowerbed", "greenfield", "plant_nursery", "nature_reserve", "dog_park", "common"),
)
_WET = ("wetland", "marsh", "mud", "salt_marsh")
_SEA = ("sea", "bay", "strait")
_PAVED_AREAS = (
    *("commercial", "retail", "industrial", "construction", "railway", "garages", "marina"),
    *("parking", "depot", "education", "plaza", "residential", "religious", "brownfield"),
)


def build_context(
    city: City, window: Window, features: gpd.GeoDataFrame, terrain: Terrain
) -> xr.Dataset:
    """Rasterize features over a window; a grid cell shows what lies at its centre.

    Parameters
    ----------
    city
        Gives the CRS and the area.
    window
        Grid cells to cover.
    features
        Rows of `FeatureSchema`.
    terrain
        The ground under the window.

    Returns
    -------
    Dims (y, x), row 0 in the south:

    - ``building_height_m`` [m] top of the highest building above its datum, 0 where none stands,
    - ``footprint`` 1 where a building leaves no passage at street level,
    - ``material``, ``roof_material`` index into `MATERIALS` of that building's walls and roof,
    - ``ground_material`` index into `GROUND_MATERIALS`,
    - ``road`` index into `ROAD_CLASSES` of the widest class, ``road_width_m`` [m] its width,
    - ``terrain_m`` [m] elevation of the ground,
    - ``water`` 1 on water, ``vegetation`` index into `VEGETATION`,
    - ``in_area`` 1 inside the city's bounding box.
    """
    buildings = features[features["kind"].isin(BUILDING_KINDS)].sort_values(["height_m", "osm_id"])
    standing = buildings[buildings["min_height_m"] < PASSAGE_M]
    walls, roofs = (
        [MATERIALS.index(name) for name in buildings[column]]
        for column in ("material", "roof_material")
    )
    strips, ranks, widths_m = _road_strips(features)
    water, vegetation, _ = _land(features, window)
    area = shapely.Polygon(city.area_m)
    x, y = np.meshgrid(window.x_centres_m, window.y_centres_m)
    layers = {
        "building_height_m": _burn(buildings.geometry, buildings["height_m"], window, "float32"),
        "footprint": _burn(standing.geometry, [1] * len(standing), window, "uint8"),
        "material": _burn(buildings.geometry, walls, window, "uint8"),
        "roof_material": _burn(buildings.geometry, roofs, window, "uint8"),
        "ground_material": ground_classes(window, features),
        "road": _burn(strips, ranks, window, "uint8"),
        "road_width_m": _burn(strips, widths_m, window, "float32"),
        "terrain_m": terrain.height_at(x, y).astype(np.float32),
        "water": water,
        "vegetation": vegetation,
        "in_area": _burn([area], [1], window, "uint8"),
    }
    context = xr.Dataset(
        {name: (("y", "x"), values, _ATTRIBUTES[name]) for name, values in layers.items()},
        coords=grid_coordinates(city.crs_code, window),
        attrs={
            "title": "context of a scene",
            "crs": city.crs_code,
            "cell_m": city.grid.cell_m,
            "column": window.column,
            "row": window.row,
            "attribution": "\u00a9 OpenStreetMap contributors, ODbL 1.0",
        },
    )
    ContextSchema.validate(context)
    return context


def ground_classes(window: Window, features: gpd.GeoDataFrame) -> NDArray[np.uint8]:
    """What the ground is made of, by what lies at the centres of a window's squares.

    Parameters
    ----------
    window
        Grid cells, or the squares of the terrain's lattice.
    features
        Rows of `FeatureSchema`.

    Returns
    -------
    Index into `GROUND_MATERIALS`, shape (rows, columns). Roads (and bridges) lie over water,
    water over vegetation, vegetation over built-up land, which is paved; what is not mapped is
    ``dry_ground``.
    """
    paved, dry, wet = (
        GROUND_MATERIALS.index(name) for name in ("paved", "dry_ground", "wet_ground")
    )
    water, vegetation, land = _land(features, window)
    classes = np.full(window.shape, dry, dtype=np.uint8)
    classes[land == 1] = paved
    classes[vegetation > 0] = dry
    classes[land == 2] = wet
    strips, ranks, _ = _road_strips(features)
    road = _burn(strips, ranks, window, "uint8")
    classes[road > ROAD_CLASSES.index("path")] = paved
    on_water = (water == 1) & (road == 0)
    classes[on_water] = GROUND_MATERIALS.index("water")
    classes[on_water & (land == 3)] = GROUND_MATERIALS.index("sea")
    return classes


def _road_strips(
    features: gpd.GeoDataFrame,
) -> tuple[Any, NDArray[np.int64], NDArray[np.float64]]:
    """Areas, ranks and widths [m] of roads, the most important last."""
    roads = features[features["kind"] == "road"]
    ranks = np.array([ROAD_CLASSES.index(name) for name in roads["road_class"]], dtype=np.int64)
    widths_m = roads["width_m"].to_numpy(float)
    order = np.lexsort((widths_m, ranks))
    strips = roads.geometry.buffer(widths_m / 2, cap_style="flat")
    return strips.iloc[order], ranks[order], widths_m[order]


def _land(
    features: gpd.GeoDataFrame, window: Window
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Water, vegetation, and land use (1 paved, 2 wet, 3 sea) over a window; small areas on top."""
    areas = features[features["kind"].isin(["landuse", "water"])]
    areas = areas.assign(_size=-areas.area).sort_values(["_size", "osm_id"])
    is_water = areas["kind"] == "water"
    name = areas["land_class"]
    green = np.where(name.isin(_TREES), VEGETATION.index("trees"), VEGETATION.index("low"))
    is_green = ~is_water & name.isin([*_TREES, *_LOW])
    codes = np.select(
        [is_water & name.isin(_SEA), name.isin(_WET), name.isin(_PAVED_AREAS)], [3, 2, 1]
    )
    return (
        _burn(areas.geometry[is_water], [1] * int(is_water.sum()), window, "uint8"),
        _burn(areas.geometry[is_green], green[is_green], window, "uint8"),
        _burn(areas.geometry[codes > 0], codes[codes > 0], window, "uint8"),
    )


def _codes(names: tuple[str, ...]) -> dict[str, Any]:
    return {"flag_values": list(range(len(names))), "flag_meanings": " ".join(names)}


_GRID = {"grid_mapping": "spatial_ref"}
_ATTRIBUTES: dict[str, dict[str, Any]] = {
    "building_height_m": {"units": "m", "long_name": "height of the highest building", **_GRID},
    "footprint": {"units": "1", "long_name": "a building stands at street level", **_GRID},
    "material": {"units": "1", "long_name": "wall material", **_codes(MATERIALS), **_GRID},
    "roof_material": {"units": "1", "long_name": "roof material", **_codes(MATERIALS), **_GRID},
    "ground_material": {
        "units": "1",
        "long_name": "ground material",
        **_codes(GROUND_MATERIALS),
        **_GRID,
    },
    "road": {"units": "1", "long_name": "road class", **_codes(ROAD_CLASSES), **_GRID},
    "road_width_m": {"units": "m", "long_name": "width of the road", **_GRID},
    "terrain_m": {"units": "m", "long_name": "elevation of the ground", **_GRID},
    "water": {"units": "1", "long_name": "water", **_GRID},
    "vegetation": {"units": "1", "long_name": "vegetation", **_codes(VEGETATION), **_GRID},
    "in_area": {"units": "1", "long_name": "inside the area of the city", **_GRID},
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


def outdoor_cells(context: xr.Dataset) -> NDArray[np.bool_]:
    """Where a terminal can stand: in the city's area, in no building, on dry land or a road."""
    dry = (context.water.values == 0) | (context.road.values > 0)
    free = context.footprint.values == 0
    return np.asarray(free & dry & (context.in_area.values == 1))
