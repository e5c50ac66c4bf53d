"""One building by its own tags and polygon: clean footprint, vertical extent, materials.

Nothing here looks at neighbours or at the city.
"""

import functools
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import shapely

from ueloc_core.geodata.roof_tags import RoofTags, read_roof, roof_rise_m
from ueloc_core.geodata.tags import (
    MAX_HEIGHT_M,
    MAX_LEVELS,
    Tags,
    building_type,
    count_unreadable,
    first_text,
    parse_length_m,
    parse_levels,
    read,
    read_first,
)

LEVEL_M = 3.2
MIN_AREA_M2 = 1.0
MAX_AREA_M2 = 5e6  # several times the largest buildings on Earth
MATERIALS = ("none", "concrete", "brick", "glass", "wood", "metal", "marble")
CANOPY_M = 0.5
CANOPIES = ("roof", "carport")

_PRECISION_M = 0.001
_THIN_M = 0.05
_LOWEST_M = 0.1
_LEVELS_SIGMA = 0.12
_ROUGH = "~\u2248<>\u2264\u2265c"  # how an approximate height starts
_ROOF_SHARE = 0.5  # of the storeys' height that a roof without a height may add to them

_HEIGHT_KEYS = ("height", "building:height", "est_height")
_LEVEL_KEYS = ("building:levels", "building:levels:aboveground")
_BASE_KEYS = ("min_height", "building:min_height")
_MIN_LEVEL_KEYS = ("building:min_level", "min_level")
_WALL_KEYS = ("building:facade:material", "building:material", "building:cladding")
_ROOF_KEYS = ("roof:material", "building:roof:material")
_MATERIAL_OF = {
    **dict.fromkeys(("concrete", "cement", "cement_block", "reinforced_concrete"), "concrete"),
    **dict.fromkeys(("plaster", "stucco", "panel", "beton", "adobe", "mud", "clay"), "concrete"),
    **dict.fromkeys(("render", "rendered", "plastered", "plasterboard"), "concrete"),
    **dict.fromkeys(("brick", "bricks", "masonry", "brickwork", "clay_brick"), "brick"),
    **dict.fromkeys(("tile", "tiles", "roof_tiles", "terracotta", "ceramic"), "brick"),
    **dict.fromkeys(("glass", "mirror", "plastic", "acrylic_glass", "polycarbonate"), "glass"),
    **dict.fromkeys(("wood", "timber", "timber_framing", "bamboo", "thatch", "reed"), "wood"),
    **dict.fromkeys(("wood_shingle", "straw"), "wood"),
    **dict.fromkeys(("metal", "steel", "metal_plates", "copper", "tin", "aluminium"), "metal"),
    **dict.fromkeys(("metal_sheet", "zinc", "lead", "gold", "iron", "corten"), "metal"),
    **dict.fromkeys(("solar_panels", "aluminum"), "metal"),
    **dict.fromkeys(("marble", "stone", "granite", "limestone", "sandstone", "slate"), "marble"),
}
_ROOF_MATERIAL_OF = {
    **_MATERIAL_OF,
    **dict.fromkeys(("tar_paper", "bitumen", "asphalt", "asphalt_shingle"), "concrete"),
    **dict.fromkeys(("eternit", "gravel", "grass", "earth", "plants", "rubber"), "concrete"),
}
_MATERIAL_BY_TYPE = {
    **dict.fromkeys(("house", "detached", "semidetached_house", "terrace"), "brick"),
    **dict.fromkeys(("residential", "apartments", "school"), "brick"),
    **dict.fromkeys(("church", "cathedral", "basilica", "chapel"), "marble"),
    **dict.fromkeys(("shed", "hut", "cabin"), "wood"),
    **dict.fromkeys(("greenhouse", "glasshouse"), "glass"),
    **dict.fromkeys(("industrial", "warehouse", "hangar", "carport", "container"), "metal"),
}
_ROOF_BY_TYPE = {
    **dict.fromkeys(("greenhouse", "glasshouse"), "glass"),
    **dict.fromkeys(("industrial", "warehouse", "hangar", "container", *CANOPIES), "metal"),
}


@dataclass(frozen=True)
class Building:
    """A building or a part of one.

    Attributes
    ----------
    osm_id, kind, building_id
        As in `FeatureSchema`.
    tags
        Its own, and what it inherited from its outline.
    shape
        Valid polygons in the city's CRS [m].
    roof, rise_m
        What the tags say of the roof, and the height [m] that follows, not yet limited.
    top_m, base_m
        Extent above its datum [m]; the top is None where neither height nor levels are known.
    source, sigma_m
        Where the top is from, and its standard deviation [m].
    is_inherited
        Whether its top is the outline's.
    """

    osm_id: str
    kind: str
    building_id: str
    tags: Tags
    shape: Any
    roof: RoofTags = field(default_factory=RoofTags)
    rise_m: float = 0.0
    top_m: float | None = None
    base_m: float = 0.0
    source: str = "imputed"
    sigma_m: float = 0.0
    is_inherited: bool = False

    @functools.cached_property
    def type(self) -> str:
        """Value of its ``building`` tag."""
        return building_type(self.tags)


def described(
    osm_id: str,
    kind: str,
    tags: Tags,
    shape: Any,
    counts: Counter[str],
    *,
    building_id: str | None = None,
) -> Building:
    """A building as its tags describe it.

    The top is the tagged height, else levels of 3.2 m and the roof upon them (``building:levels``
    does not count levels in the roof). An underside at the top makes a slab; one above the top
    means that the height was measured from the underside. Both are counted as
    ``min_heights_repaired``. A roof on pillars starts at its eaves.

    Parameters
    ----------
    osm_id, kind, tags, shape, building_id
        See `Building`.
    counts
        Counts of repairs and unreadable tags that this call adds to.
    """
    roof = read_roof(tags, counts)
    rise_m = roof_rise_m(roof, shape)
    top_m, source, sigma_m = _top(tags, roof, rise_m, counts)
    base_m = read_first(tags, _BASE_KEYS, parse_length_m, counts)
    min_level = read_first(tags, _MIN_LEVEL_KEYS, parse_levels, counts, at_most=MAX_LEVELS)
    base_m = (min_level or 0.0) * LEVEL_M if base_m is None else base_m
    base_m = min(base_m, MAX_HEIGHT_M - LEVEL_M)
    if top_m is not None and base_m > 0 and top_m - base_m < _LOWEST_M:
        counts["min_heights_repaired"] += 1
        if abs(top_m - base_m) < _LOWEST_M or top_m + base_m > MAX_HEIGHT_M:
            base_m = max(top_m - CANOPY_M, 0.0)
        else:
            top_m += base_m
    if top_m is not None and base_m == 0:
        base_m = canopy_base_m(building_type(tags), top_m, rise_m)
    return Building(
        osm_id,
        kind,
        osm_id if building_id is None else building_id,
        tags,
        shape,
        roof,
        rise_m,
        None if top_m is None else round(top_m, 3),
        round(base_m, 3),
        source,
        round(sigma_m, 3),
    )


def _top(
    tags: Tags, roof: RoofTags, rise_m: float, counts: Counter[str]
) -> tuple[float | None, str, float]:
    for key in _HEIGHT_KEYS:
        tagged_m = read(tags, key, parse_length_m, counts, at_least=_LOWEST_M)
        if tagged_m is not None:
            rough = key == "est_height" or str(tags[key]).strip()[0] in _ROUGH
            return tagged_m, "tag", 2.0 if rough else 1.0
    levels = read_first(tags, _LEVEL_KEYS, parse_levels, counts, at_most=MAX_LEVELS)
    if levels is None or (levels == 0 and rise_m == 0):
        return None, "imputed", 0.0
    storeys_m = levels * LEVEL_M
    if roof.shape == "flat":
        above_m = roof.levels * LEVEL_M if roof.height_m is None else roof.height_m
    elif roof.is_stated or levels == 0:
        above_m = rise_m
    else:
        above_m = min(rise_m, _ROOF_SHARE * storeys_m)
    top_m = min(storeys_m + above_m, MAX_HEIGHT_M)
    if top_m < _LOWEST_M:
        return None, "imputed", 0.0
    return top_m, "levels", 1.0 + _LEVELS_SIGMA * top_m


def canopy_base_m(kind: str, top_m: float, rise_m: float) -> float:
    """Underside [m] of a building that has no walls, 0 for all others."""
    return max(top_m - rise_m - CANOPY_M, 0.0) if kind in CANOPIES else 0.0


def wall_material(tags: Tags, counts: Counter[str]) -> tuple[str, str]:
    """ITU-R P.2040 material of the walls, and whether a ``tag`` or the ``type`` says so."""
    return _material(tags, _WALL_KEYS, _MATERIAL_OF, counts) or (
        _MATERIAL_BY_TYPE.get(building_type(tags), "concrete"),
        "type",
    )


def roof_material(tags: Tags, shape: str, counts: Counter[str]) -> tuple[str, str]:
    """ITU-R P.2040 material of the roof, and whether a ``tag`` or the ``type`` says so.

    Without a tag, a flat roof is concrete and a pitched one is covered with brick tiles.
    """
    usual = "concrete" if shape == "flat" else "brick"
    return _material(tags, _ROOF_KEYS, _ROOF_MATERIAL_OF, counts) or (
        _ROOF_BY_TYPE.get(building_type(tags), usual),
        "type",
    )


def _material(
    tags: Tags, keys: tuple[str, ...], known: dict[str, str], counts: Counter[str]
) -> tuple[str, str] | None:
    for key in keys:
        found = first_text(tags, (key,))
        if found is not None:
            if found[1] in known:
                return known[found[1]], "tag"
            count_unreadable(key, counts)
    return None


def rounded(geometry: Any) -> Any:
    """Geometry (or an array of them) with coordinates rounded to a millimetre, valid if it was."""
    return shapely.set_precision(shapely.set_precision(geometry, _PRECISION_M), 0)


def clean_polygons(geometry: Any, thin_m: float = _THIN_M) -> Any:
    """Valid polygons, rounded to a millimetre, without slivers; None where nothing is left.

    Parameters
    ----------
    geometry
        Polygon, multipolygon or collection [m].
    thin_m
        Polygons that are nowhere wider than twice this [m] are slivers.
    """
    snapped = rounded(shapely.make_valid(geometry))
    polygons = [
        part
        for part in shapely.get_parts(shapely.get_parts(snapped))
        if part.geom_type == "Polygon"
        and part.area >= MIN_AREA_M2
        and not part.buffer(-thin_m).is_empty
    ]
    if not polygons:
        return None
    cleaned = shapely.normalize(shapely.MultiPolygon(polygons))
    return cleaned.geoms[0] if len(polygons) == 1 else cleaned


def cut_polygons(shape: Any, cover: Any, thin_m: float) -> Any:
    """What a cover leaves of a shape, without slivers and thin tails; None where nothing is left.

    Parameters
    ----------
    shape, cover
        Polygons [m].
    thin_m
        What is nowhere wider than twice this [m] is lost.
    """
    rest = shape.difference(cover)
    body = rest.buffer(-thin_m).buffer(1.5 * thin_m, join_style="mitre")
    return clean_polygons(rest.intersection(body), thin_m)
