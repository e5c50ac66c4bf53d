"""Digital elevation models: SRTM tiles and GeoTIFF files, read by rasterio.

SRTM is a surface model of 30 or 90 m resolution: part of the height of dense blocks is in it.
"""

import gzip
import math
import os
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.fill
import rasterio.merge
import requests
from affine import TransformNotInvertibleError
from numpy.typing import NDArray
from pyproj import Transformer
from pyproj.exceptions import ProjError
from rasterio.errors import RasterioError
from rasterio.windows import Window
from scipy.ndimage import map_coordinates

from ueloc_core.city import City
from ueloc_core.errors import GeodataError
from ueloc_core.geodata.osmnx_session import innermost_reason
from ueloc_core.geodata.overpass import cache_folder
from ueloc_core.geodata.terrain import Terrain
from ueloc_core.provenance import digest, digest_file

SRTM_URL = "https://s3.amazonaws.com/elevation-tiles-prod/skadi/{band}/{tile}.hgt.gz"
SUFFIXES = (".hgt", ".hgt.zip", ".hgt.gz")

_LOWEST_M, _HIGHEST_M = -500.0, 9000.0  # beyond these a value is a void, whatever the file says
_REACH_PIXELS = 100
_MARGIN_PIXELS = 4
_TIMEOUT_S = 60.0
_CHUNK_BYTES = 1 << 22
_UNREADABLE = (
    *(RasterioError, ProjError, TransformNotInvertibleError),
    *(OSError, ValueError, OverflowError),
)
_HGT_BYTES = frozenset({1201**2 * 2, 3601**2 * 2, 1801 * 3601 * 2})
_METRES = {"": 1.0, "m": 1.0, "metre": 1.0, "meter": 1.0, "metres": 1.0, "meters": 1.0}
_FEET = {"ft": 0.3048, "foot": 0.3048, "feet": 0.3048, "us survey foot": 1200 / 3937}
_REMEDY = (
    "Set the folder of the tiles by terrain.path or UELOC_DEM, another server by UELOC_SRTM_URL, "
    "or terrain.kind: flat."
)


def sample_dem(city: City, lattice: Terrain) -> tuple[NDArray[np.float64], dict[str, int]]:
    """Elevations of a city's model at the vertices of a lattice, bilinear between its pixels.

    Parameters
    ----------
    city
        Its ``terrain`` says which model.
    lattice
        Where; its own heights are not used.

    Returns
    -------
    Elevations [m], shape of the lattice's vertices; and counts: ``voids_filled`` pixels without
    a value (filled from their neighbours), ``beyond_dem_vertices`` vertices of the surroundings
    that the model does not reach (they take the nearest value).

    Raises
    ------
    GeodataError
        If a file is missing or broken, in other units, or does not cover the city.
    """
    paths = dem_files(city)
    for path in paths:
        _check_packing(path)
    named = ", ".join(path.name for path in paths)
    rows, columns = lattice.heights_m.shape
    x = (lattice.column + np.arange(columns)) * lattice.step_m
    y = (lattice.row + np.arange(rows)) * lattice.step_m
    try:
        with ExitStack() as stack:
            models = [stack.enter_context(rasterio.open(_gdal_name(path))) for path in paths]
            to_model = Transformer.from_crs(city.crs_code, _crs(models, named), always_xy=True)
            u, v = to_model.transform(*np.meshgrid(x, y))
            _require_cover(city, models, to_model, named)
            heights, inverse, scale_m = _read(models, u, v)
    except _UNREADABLE as error:
        raise GeodataError(
            f"the elevation model cannot be read ({error})",
            where=f"{city.name}: terrain, {named}",
            remedy="Download it again. " + _REMEDY,
        ) from error
    heights, voids = _without_voids(heights, f"{city.name}: terrain, {named}")
    column = inverse.a * u + inverse.b * v + inverse.c - 0.5
    row = inverse.d * u + inverse.e * v + inverse.f - 0.5
    size = heights.shape
    beyond = (column < -0.5) | (row < -0.5) | (column > size[1] - 0.5) | (row > size[0] - 0.5)
    sampled = map_coordinates(heights, [row, column], order=1, mode="nearest")
    counts = {"voids_filled": voids, "beyond_dem_vertices": int(beyond.sum())}
    return np.asarray(sampled * scale_m, dtype=np.float64), counts


def dem_digest(city: City) -> str:
    """Hash of the content of a city's elevation model."""
    return digest([digest_file(path) for path in dem_files(city)])


def dem_files(city: City) -> list[Path]:
    """Files of a city's elevation model; missing SRTM tiles are downloaded into the cache.

    Raises
    ------
    GeodataError
        If a file is missing and cannot be had.
    """
    path = city.terrain.path
    if city.terrain.kind == "file":
        assert path is not None
        if not path.is_file():
            raise GeodataError(
                "no such elevation model",
                where=str(path),
                remedy="Correct terrain.path of the city file, or set terrain.kind: flat.",
            )
        return [path]
    given = os.environ.get("UELOC_DEM")
    folder = path or (Path(given).expanduser() if given else None)
    return [_tile(name, folder) for name in srtm_tiles(city.bbox)]


def _check_packing(path: Path) -> None:
    """Refuse a packed model whose checksum is wrong: GDAL would read heights out of garbage.

    Raises
    ------
    GeodataError
        Naming the file.
    """
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as packed:
                if (bad := packed.testzip()) is not None:
                    raise zipfile.BadZipFile(f"{bad} is damaged")  # noqa: TRY301 - one message
        elif path.suffix == ".gz":
            with gzip.open(path) as stream:
                while stream.read(_CHUNK_BYTES):
                    pass
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
        raise GeodataError(
            f"the elevation model cannot be read ({error})",
            where=str(path),
            remedy="Download it again. " + _REMEDY,
        ) from error


def srtm_tiles(bbox: tuple[float, float, float, float]) -> list[str]:
    """Names of the SRTM tiles that meet a bounding box [deg].

    Examples
    --------
    >>> srtm_tiles((7.4, 43.7, 7.5, 43.8)), srtm_tiles((-0.2, -0.1, 0.1, 0.1))[0]
    (['N43E007'], 'S01W001')
    """
    west, south, east, north = bbox
    return [
        f"{'N' if lat >= 0 else 'S'}{abs(lat):02d}{'E' if lon >= 0 else 'W'}{abs(lon):03d}"
        for lat in range(math.floor(south), math.ceil(north))
        for lon in range(math.floor(west), math.ceil(east))
    ]


def _tile(name: str, folder: Path | None) -> Path:
    if folder is not None:
        for suffix in SUFFIXES:
            if (folder / f"{name}{suffix}").is_file():
                return folder / f"{name}{suffix}"
        raise GeodataError(f"no SRTM tile {name}.hgt[.zip|.gz]", where=str(folder), remedy=_REMEDY)
    kept = cache_folder() / "dem" / f"{name}.hgt.gz"
    if not kept.is_file():
        _download(name, kept)
    return kept


def _download(name: str, target: Path) -> None:
    """Fetch a tile; only a whole and readable one is kept."""
    pattern = os.environ.get("UELOC_SRTM_URL") or SRTM_URL
    try:
        url = pattern.format(band=name[:3], tile=name)
    except (LookupError, ValueError, AttributeError) as error:
        raise GeodataError(
            "not the address of SRTM tiles",
            where=f"UELOC_SRTM_URL = {pattern}",
            remedy=f"Give one such as {SRTM_URL}.",
        ) from error
    try:
        answer = requests.get(url, timeout=_TIMEOUT_S)
        answer.raise_for_status()
        size = len(gzip.decompress(answer.content))
        if size not in _HGT_BYTES:
            raise zlib.error(f"it holds {size} bytes")  # noqa: TRY301 - one message for all
    except (requests.RequestException, zlib.error, OSError, EOFError) as error:
        raise GeodataError(
            f"the SRTM tile {name} cannot be downloaded ({innermost_reason(error)})",
            where=url,
            remedy=_REMEDY,
        ) from error
    aside = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(answer.content)
        aside.replace(target)
    except OSError as error:
        raise GeodataError(
            f"the SRTM tile {name} cannot be stored ({error.strerror})",
            where=str(target),
            remedy="Make room there, or set UELOC_CACHE to a folder that can be written.",
        ) from error


def _gdal_name(path: Path) -> str:
    return f"/vsigzip/{path.absolute()}" if path.name.endswith(".hgt.gz") else str(path)


def _crs(models: Sequence[Any], named: str) -> Any:
    systems = {model.crs.to_string() if model.crs else "" for model in models}
    if len(systems) != 1 or "" in systems:
        raise GeodataError(
            "the elevation model has no coordinate reference system",
            where=named,
            remedy="Write one into it, for example with 'gdal_edit.py -a_srs EPSG:4326'.",
        )
    return models[0].crs


def _read(
    models: Sequence[Any], u: NDArray[np.float64], v: NDArray[np.float64]
) -> tuple[NDArray[np.float64], Any, float]:
    """Pixels around points, NaN where there is none; the inverse transform; metres a unit."""
    for model in models:
        if model.count != 1 or np.issubdtype(model.dtypes[0], np.complexfloating):
            kinds = ", ".join(model.dtypes)
            raise ValueError(f"it has the bands ({kinds}), not one band of elevations")
    unit = str((models[0].units or ("",))[0] or "").lower()
    scale_m = {**_METRES, **_FEET}.get(unit)
    if scale_m is None:
        raise ValueError(f"its unit is '{unit}', not metres or feet")
    if len(models) > 1:
        pixels, transform = rasterio.merge.merge(models, nodata=np.nan, dtype="float64")
        heights = pixels[0]
    else:
        heights, transform = _window(models[0], u, v)
    outside = ~((heights * scale_m > _LOWEST_M) & (heights * scale_m < _HIGHEST_M))
    return np.where(outside, np.nan, heights), ~transform, scale_m


def _window(
    model: Any, u: NDArray[np.float64], v: NDArray[np.float64]
) -> tuple[NDArray[np.float64], Any]:
    """Whole pixels of a model around points, and their transform."""
    place = ~model.transform
    columns, rows = place.a * u + place.b * v + place.c, place.d * u + place.e * v + place.f
    low = [max(math.floor(axis.min()) - _MARGIN_PIXELS, 0) for axis in (columns, rows)]
    high = [
        min(math.ceil(axis.max()) + _MARGIN_PIXELS, size)
        for axis, size in ((columns, model.width), (rows, model.height))
    ]
    if low[0] >= high[0] or low[1] >= high[1]:
        raise ValueError(f"it covers {tuple(model.bounds)}, not the city")
    window = Window(low[0], low[1], high[0] - low[0], high[1] - low[1])
    values = model.read(1, window=window, masked=True).astype(np.float64)
    return np.asarray(values.filled(np.nan)), model.window_transform(window)


def _require_cover(city: City, models: Sequence[Any], to_model: Any, named: str) -> None:
    """Refuse models that do not reach the corners of the city; a pixel may be missing."""
    u, v = to_model.transform(*np.array(city.area_m).T)
    covered = np.zeros(len(u), dtype=bool)
    for model in models:
        place = ~model.transform
        column, row = place.a * u + place.b * v + place.c, place.d * u + place.e * v + place.f
        covered |= (abs(column - model.width / 2) <= model.width / 2 + 1) & (
            abs(row - model.height / 2) <= model.height / 2 + 1
        )
    if not covered.all():
        corner = int(np.flatnonzero(~covered)[0])
        raise GeodataError(
            f"the elevation model covers {[tuple(m.bounds) for m in models]}, "
            f"not ({u[corner]:.4f}, {v[corner]:.4f} in its {models[0].crs}) of the city",
            where=f"{city.name}: terrain, {named}",
            remedy="Give a model that covers bbox. " + _REMEDY,
        )


def _without_voids(heights: NDArray[np.float64], where: str) -> tuple[NDArray[np.float64], int]:
    void = np.isnan(heights)
    if not void.any():
        return heights, 0
    if void.all():
        raise GeodataError("the elevation model holds no value here", where=where, remedy=_REMEDY)
    filled = rasterio.fill.fillnodata(
        np.where(void, 0.0, heights).astype(np.float32),
        mask=(~void).astype(np.uint8),
        max_search_distance=max(_REACH_PIXELS, *heights.shape),
    )
    return np.where(void, filled, heights).astype(np.float64), int(void.sum())
