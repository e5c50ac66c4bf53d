"""Telecom masts of a city's OpenStreetMap extract: points and polygons, with their heights.

They stand in a table of their own, ``masts.parquet`` beside the features: no scene is made of
masts, so an edited mast traces nothing again but the sectors that stand on it.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import osmium
import pandas as pd
import pandera.geopandas as pg
import pyarrow as pa
import shapely

from ueloc_core.city import City
from ueloc_core.errors import GeodataError
from ueloc_core.geodata.tags import MAST_TAGS, Tags, parse_length_m, read_first

MASTS_FILE = "masts.parquet"

MAST_CLASSES = ("mast", "tower", "communications_tower", "antenna", "structure")

MastSchema = pg.GeoDataFrameSchema(
    {
        "osm_id": pg.Column(
            str,
            pg.Check.str_matches(r"^(node|way|relation)/-?\d+$"),
            unique=True,
            description="element/id",
        ),
        "mast_class": pg.Column(
            str, pg.Check.isin(MAST_CLASSES), description="structure: it carries antennas besides"
        ),
        "height_m": pg.Column(
            float, pg.Check.in_range(1, 1000), nullable=True, description="tagged height [m]"
        ),
        "mobile_phone": pg.Column(bool, description="tagged as carrying mobile telephony"),
        "geometry": pg.Column("geometry", description="in the city's CRS [m]"),
    },
    strict=True,
    ordered=True,
    name="telecom masts of a city",
)
_COLUMNS = tuple(MastSchema.columns)
_BROKEN = (RuntimeError, ValueError, OSError, osmium.InvalidLocationError)
_GONE = ("disused", "abandoned", "demolished", "removed")
_HEIGHT_KEYS = ("height", "est_height", "tower:height")


def is_telecom_mast(tags: Tags) -> bool:
    """Whether tags describe a structure in use that carries antennas of a network.

    That is ``communications_tower``; a mast, tower or antenna that is tagged with
    ``tower:type=communication`` or any ``communication:*``; ``tower:type=communication`` and
    ``telecom=antenna|bts|base_station|mast|tower`` by themselves; and anything with
    ``communication:mobile_phone``. What says ``communication:mobile_phone=no`` is none.

    Examples
    --------
    >>> is_telecom_mast({"man_made": "mast"}), is_telecom_mast({"telecom": "exchange"})
    (False, False)
    >>> is_telecom_mast({"man_made": "mast", "communication:mobile_phone": "yes"})
    True
    """
    mobile = tags.get("communication:mobile_phone")
    if mobile == "no" or any(tags.get(key) == "yes" for key in _GONE):
        return False
    speaks = any(key.startswith("communication:") and tags[key] != "no" for key in tags)
    return bool(
        mobile
        or tags.get("man_made") == "communications_tower"
        or (tags.get("man_made") in MAST_TAGS["man_made"] and speaks)  # type: ignore[operator]
        or tags.get("tower:type") == "communication"
        or tags.get("telecom") in MAST_TAGS["telecom"]  # type: ignore[operator]
    )


def read_masts(city: City, path: Path) -> tuple[gpd.GeoDataFrame, dict[str, int]]:
    """Telecom masts of a city's extract, as `MastSchema`, sorted by osm_id.

    Parameters
    ----------
    city
        Masts that touch its bounding box are kept.
    path
        Its extract.

    Returns
    -------
    The masts, and counts: ``masts``, ``with_height``, ``mobile_phone``, and what was left out
    as ``without_geometry`` or ``unreadable_<tag>``.

    Raises
    ------
    GeodataError
        If the extract is truncated or broken.
    """
    counts: Counter[str] = Counter()
    try:
        rows = _rows(path, counts)
    except _BROKEN as error:
        raise GeodataError(
            f"the extract is truncated or broken ({error})",
            where=str(path),
            remedy="Download it again.",
        ) from error
    ordered = [rows[name] for name in sorted(rows)]
    frame = pd.DataFrame(ordered, columns=list(_COLUMNS)).astype(
        {"osm_id": object, "mast_class": object, "height_m": float, "mobile_phone": bool}
    )
    masts = gpd.GeoDataFrame(frame, geometry="geometry", crs="EPSG:4326").to_crs(city.crs_code)
    masts = masts[np.isfinite(masts.bounds.to_numpy()).all(axis=1)]  # not half the Earth away
    masts = masts[masts.intersects(shapely.Polygon(city.area_m))].reset_index(drop=True)
    MastSchema.validate(masts)
    return masts, {
        "masts": len(masts),
        "with_height": int(masts.height_m.notna().sum()),
        "mobile_phone": int(masts.mobile_phone.sum()),
        **{name: count for name, count in sorted(counts.items()) if count},
    }


def write_masts(masts: gpd.GeoDataFrame, folder: Path) -> None:
    """Write masts as GeoParquet into a folder."""
    masts.to_parquet(folder / MASTS_FILE, index=False, schema_version="1.1.0", compression="zstd")


def load_masts(folder: Path) -> gpd.GeoDataFrame:
    """The masts that `write_masts` wrote to a folder.

    Raises
    ------
    GeodataError
        If they are missing or broken.
    """
    path = folder / MASTS_FILE
    try:
        return gpd.read_parquet(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise GeodataError(
            f"the masts are missing or broken ({error})",
            where=str(path),
            remedy="Materialize osm_extract again.",
        ) from error


def _rows(path: Path, counts: Counter[str]) -> dict[str, tuple[Any, ...]]:
    """Masts by osm_id in degrees; of an element that comes twice the last one counts."""
    shapes = osmium.geom.WKBFactory()
    wanted = osmium.filter.KeyFilter(*MAST_TAGS)
    rows: dict[str, tuple[Any, ...]] = {}
    lost: set[str] = set()
    for element in osmium.FileProcessor(path).with_areas(wanted).with_filter(wanted):
        tags = {tag.k: tag.v for tag in element.tags}
        if not is_telecom_mast(tags):
            continue
        kind = element.type_str()
        if kind == "n" and element.location.valid():
            name, shape = f"node/{element.id}", shapely.Point(element.lon, element.lat)
        elif kind == "a":
            name = f"{'way' if element.from_way() else 'relation'}/{element.orig_id()}"
            shape = shapely.from_wkb(shapes.create_multipolygon(element))
            shape = shape.geoms[0] if len(shape.geoms) == 1 else shape
        else:
            lost.add(f"{ {'n': 'node', 'w': 'way', 'r': 'relation'}[kind] }/{element.id}")
            continue
        height_m = read_first(tags, _HEIGHT_KEYS, parse_length_m, counts)
        height_m = height_m if height_m is not None and height_m >= 1 else None
        mobile = "communication:mobile_phone" in tags
        rows[name] = (name, _class_of(tags), height_m, mobile, shape)
    counts["without_geometry"] += len(lost - set(rows))  # closed ways come as areas, too
    return rows


def _class_of(tags: Tags) -> str:
    for value in (tags.get("man_made"), tags.get("telecom")):
        if value in MAST_CLASSES:
            return str(value)
    return "antenna" if "telecom" in tags else "structure"
