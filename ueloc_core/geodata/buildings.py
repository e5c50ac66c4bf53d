"""Buildings from dirty tags: outlines against parts, heights with their uncertainty, materials.

Every rule looks at one building alone (its tags, its parts, its footprint), never at its
neighbours or at the city, so that an edit of one building changes no other.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import geopandas as gpd
import numpy as np
import shapely

LEVEL_M = 3.2
MIN_AREA_M2 = 1.0
OUTLINE_COVERED = 0.8  # share of an outline that its parts must cover to replace it
MATERIALS = ("none", "concrete", "brick", "glass", "wood", "metal", "marble")

_PRECISION_M = 0.001
_MAX_HEIGHT_M = 1000.0
_MAX_LEVELS = 200.0
_CANOPY_M = 0.5
_LENGTH = re.compile(
    r"""^[~<>]?\s*(?:ca\.?|approx\.?|about)?\s*
    (?:(?P<feet>\d+(?:[.,]\d+)?)\s*(?:'|ft\b|feet\b|foot\b)\s*
       (?:(?P<inches>\d+(?:[.,]\d+)?)\s*(?:"|''|in\b|inch(?:es)?\b)?)?
      |(?P<metres>\d+(?:[.,]\d+)?)\s*(?:m|m\.|meters?|metres?)?)$""",
    re.VERBOSE | re.IGNORECASE,
)
_RANGE = re.compile(r"(?<=[\d'\"mt])\s*[-\u2013]\s*(?=\d)")

# Levels of buildings whose height is not tagged: medians of the tagged ones of central
# Helsinki, Monaco, London, Munich and Astana by type, else by footprint.
_LEVELS_BY_TYPE = {
    **dict.fromkeys(("garage", "garages", "shed", "hut", "kiosk", "carport", "roof"), 1.0),
    **dict.fromkeys(("cabin", "greenhouse", "service", "toilets", "container", "bunker"), 1.0),
    **dict.fromkeys(("house", "detached", "semidetached_house", "terrace", "bungalow"), 2.0),
    **dict.fromkeys(("industrial", "warehouse", "hangar", "supermarket", "kindergarten"), 3.0),
    **dict.fromkeys(("school", "college", "public", "civic", "retail", "train_station"), 4.0),
    **dict.fromkeys(("apartments", "residential", "office", "offices", "commercial"), 5.0),
    **dict.fromkeys(("university", "hospital", "construction"), 5.0),
    **dict.fromkeys(("hotel", "church", "cathedral", "basilica"), 7.0),
}
_LEVELS_BY_AREA_M2 = ((15.0, 1.0), (40.0, 2.0), (150.0, 3.0), (400.0, 4.0), (math.inf, 5.0))
_IMPUTED_SPREAD = 0.15  # of the logarithm of the drawn height
_IMPUTED_SIGMA = 0.4  # standard deviation of an imputed height, as a share of it
_LEVELS_SIGMA = 0.12

_MATERIAL_BY_TAG = {
    **dict.fromkeys(("concrete", "cement", "cement_block", "reinforced_concrete"), "concrete"),
    **dict.fromkeys(("plaster", "stucco", "panel", "beton", "adobe", "mud", "clay"), "concrete"),
    **dict.fromkeys(("brick", "bricks", "masonry", "brickwork", "clay_brick", "tile"), "brick"),
    **dict.fromkeys(("glass", "mirror", "plastic"), "glass"),
    **dict.fromkeys(("wood", "timber", "timber_framing", "bamboo"), "wood"),
    **dict.fromkeys(("metal", "steel", "metal_plates", "copper", "tin", "aluminium"), "metal"),
    **dict.fromkeys(("marble", "stone", "granite", "limestone", "sandstone", "slate"), "marble"),
}
_MATERIAL_BY_TYPE = {
    **dict.fromkeys(("house", "detached", "semidetached_house", "terrace"), "brick"),
    **dict.fromkeys(("residential", "apartments", "school"), "brick"),
    **dict.fromkeys(("church", "cathedral", "basilica", "chapel"), "marble"),
    **dict.fromkeys(("shed", "hut", "cabin"), "wood"),
    **dict.fromkeys(("greenhouse", "glasshouse"), "glass"),
    **dict.fromkeys(("industrial", "warehouse", "hangar", "carport", "container"), "metal"),
}

Tags = Mapping[str, Any]


@dataclass(frozen=True)
class Height:
    """Extent of a building above ground [m], where it is from, and its standard deviation [m]."""

    height_m: float
    min_height_m: float
    source: str
    sigma_m: float


def parse_length_m(text: object) -> float | None:
    r"""Length [m] of a dirty tag, or None.

    Understood are metres with or without a unit, feet and inches, a decimal comma, ``~20``;
    a list (``3;4``) or a range (``10-12``) gives its mean.

    Examples
    --------
    >>> parse_length_m("12.13 m"), parse_length_m("3;4"), parse_length_m("~20")
    (12.13, 3.5, 20.0)
    >>> round(parse_length_m("40' 6\""), 3), parse_length_m("tall")
    (12.344, None)
    """
    if not isinstance(text, str):
        return None
    lengths = []
    for part in re.split(r"[;|]", _RANGE.sub(";", text.strip())):
        found = _LENGTH.match(part.strip())
        if found is None:
            return None
        if found["metres"]:
            lengths.append(_number(found["metres"]))
        else:
            feet, inches = _number(found["feet"]), _number(found["inches"] or "0")
            lengths.append(feet * 0.3048 + inches * 0.0254)
    return sum(lengths) / len(lengths)


def _number(text: str) -> float:
    return float(text.replace(",", "."))


def _within(value: float | None, largest: float) -> float | None:
    return value if value is not None and 0 < value <= largest else None


def building_height(tags: Tags, area_m2: float, osm_id: str, seed: int) -> Height:
    """Height of a building: of its tags, else of its levels, else drawn by type and footprint.

    Parameters
    ----------
    tags
        OpenStreetMap tags.
    area_m2
        Area of its footprint [m^2].
    osm_id, seed
        What the draw depends on, beside type and footprint.
    """
    text = tags.get("height") or tags.get("building:height")
    tagged_m = _within(parse_length_m(text), _MAX_HEIGHT_M)
    levels = _within(parse_length_m(tags.get("building:levels")), _MAX_LEVELS)
    if tagged_m is not None:
        source, height_m = "tag", tagged_m
        sigma_m = 2.0 if str(text).startswith("~") else 1.0
    elif levels is not None:
        source, height_m = "levels", levels * LEVEL_M + _roof_m(tags)
        sigma_m = 1.0 + _LEVELS_SIGMA * height_m
    else:
        source, height_m = "imputed", _imputed_m(tags, area_m2, osm_id, seed)
        sigma_m = _IMPUTED_SIGMA * height_m
    min_level = _within(parse_length_m(tags.get("building:min_level")), _MAX_LEVELS) or 0.0
    base_m = _within(parse_length_m(tags.get("min_height")), _MAX_HEIGHT_M) or min_level * LEVEL_M
    if building_type(tags) in ("roof", "carport") and base_m == 0:
        base_m = max(height_m - _CANOPY_M, 0.0)
    if base_m >= height_m and source == "imputed":
        height_m = base_m + LEVEL_M
    return Height(
        round(height_m, 3),
        round(base_m, 3) if base_m < height_m else 0.0,
        source,
        round(sigma_m, 3),
    )


def _roof_m(tags: Tags) -> float:
    roof_m = _within(parse_length_m(tags.get("roof:height")), _MAX_HEIGHT_M)
    roof_levels = _within(parse_length_m(tags.get("roof:levels")), _MAX_LEVELS) or 0.0
    return roof_levels * LEVEL_M if roof_m is None else roof_m


def _imputed_m(tags: Tags, area_m2: float, osm_id: str, seed: int) -> float:
    levels = _LEVELS_BY_TYPE.get(building_type(tags))
    if levels is None:
        levels = next(count for limit, count in _LEVELS_BY_AREA_M2 if area_m2 < limit)
    key = hashlib.sha256(f"{seed}/{osm_id}".encode()).digest()[:8]
    normal = np.random.default_rng(int.from_bytes(key, "big")).standard_normal()
    return levels * LEVEL_M * math.exp(_IMPUTED_SPREAD * float(np.clip(normal, -2, 2)))


def building_type(tags: Tags) -> str:
    """Value of ``building`` or ``building:part``, ``yes`` where it says nothing."""
    for key in ("building", "building:part"):
        value = tags.get(key)
        if isinstance(value, str) and value != "yes":
            return value
    return "yes"


def building_material(tags: Tags) -> str:
    """Name of the wall's ITU-R P.2040 material, of its tags, else of the building's type."""
    for key in ("building:facade:material", "building:material"):
        value = tags.get(key)
        if isinstance(value, str):
            first = re.split(r"[;,]", value.lower())[0].strip().replace(" ", "_")
            if first in _MATERIAL_BY_TAG:
                return _MATERIAL_BY_TAG[first]
    return _MATERIAL_BY_TYPE.get(building_type(tags), "concrete")


def rounded(geometry: Any) -> Any:
    """Geometry (or an array of them) with coordinates rounded to a millimetre, valid if it was."""
    return shapely.set_precision(shapely.set_precision(geometry, _PRECISION_M), 0)


def clean_polygons(geometry: Any) -> Any:
    """Valid polygons, rounded to a millimetre, without slivers; None where nothing is left.

    Parameters
    ----------
    geometry
        Polygon, multipolygon or collection [m].
    """
    snapped = rounded(shapely.make_valid(geometry))
    polygons = [
        part
        for part in shapely.get_parts(snapped, return_index=False)
        if part.geom_type == "Polygon"
        and part.area >= MIN_AREA_M2
        and not part.buffer(-0.05).is_empty
    ]
    if not polygons:
        return None
    cleaned = shapely.normalize(shapely.MultiPolygon(polygons))
    return cleaned.geoms[0] if len(polygons) == 1 else cleaned


def resolve_parts(
    buildings: gpd.GeoDataFrame, parts: gpd.GeoDataFrame, counts: Counter[str]
) -> tuple[gpd.GeoDataFrame, gpd.GeoDataFrame]:
    """Keep either an outline or its parts, never both.

    Where the parts cover at least 80% of their outline, the outline is dropped
    (``outlines_replaced_by_parts``), and parts inherit its height tags if they have none. Else
    the parts are dropped (``parts_dropped``). Parts without an outline stay.

    Parameters
    ----------
    buildings, parts
        Tags and polygons in the city's CRS [m], indexed by osm_id.
    counts
        Counts of what was dropped, which this call adds to.
    """
    if not len(parts) or not len(buildings):
        return buildings, parts
    part, outline = buildings.sindex.query(parts.geometry.representative_point(), "within")
    # a part whose point lies in several outlines belongs to the smallest
    order = np.argsort(-buildings.area.to_numpy()[outline], kind="stable")
    outline_of = dict(zip(part[order].tolist(), outline[order].tolist(), strict=True))
    parts_of: dict[int, list[int]] = {}
    for part_index, outline_index in sorted(outline_of.items()):
        parts_of.setdefault(outline_index, []).append(part_index)
    replaced, dropped = [], []
    parts = parts.copy()
    for outline_index, members in parts_of.items():
        shape = buildings.geometry.iloc[outline_index]
        covered = shapely.union_all(parts.geometry.iloc[members].to_numpy())
        if covered.intersection(shape).area >= OUTLINE_COVERED * shape.area:
            replaced.append(outline_index)
            _inherit(parts, members, buildings.iloc[outline_index])
        else:
            dropped += members
    counts["outlines_replaced_by_parts"] += len(replaced)
    counts["parts_dropped"] += len(dropped)
    return buildings.drop(buildings.index[replaced]), parts.drop(parts.index[dropped])


def _inherit(parts: gpd.GeoDataFrame, members: list[int], outline: Tags) -> None:
    vertical = ("height", "building:height", "building:levels")
    material = ("building:material", "building:facade:material")
    for index in parts.index[members]:
        for keys in (vertical, material):
            if not any(isinstance(parts.at[index, k], str) for k in keys if k in parts):
                for key in keys:
                    if key in parts:
                        parts.at[index, key] = outline[key]
