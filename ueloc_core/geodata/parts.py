"""Parts of buildings against their outlines, so that nothing is extruded twice.

Simple 3D Buildings lets parts describe a building instead of its outline. Here parts replace
what they cover of the outline, and what they leave of it stays a building, the remainder:

- A part belongs to the outline that a ``type=building`` relation names, else to the outline
  that shares most of its plan, at least half of it.
- A part takes height, material, roof and type from its outline where it has none.
- A part that stands on the ground replaces the outline beneath it. Below a raised part the
  outline stays only where its own height says that the part stands upon it (within a level,
  which then closes the joint); else there is a passage.
- The outline's height is the highest point of the whole. Where it is about the top of the
  highest part, it is not the remainder's: then the levels count if they are lower, else the
  remainder's height is unknown, and its parts weigh most when it is imputed.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import shapely

from ueloc_core.geodata.buildings import LEVEL_M, Building, cut_polygons, described
from ueloc_core.geodata.tags import MAX_HEIGHT_M

_SHARE = 0.5  # of a part's plan that its outline must hold
_ABOUT_M = LEVEL_M / 2
_ABOUT_SHARE = 0.05
_THIN_M = 0.3
_SLAB_M = 0.5

_VERTICAL = (
    *("height", "building:height", "est_height"),
    *("building:levels", "building:levels:aboveground"),
)
_INHERITED = (
    ("building:facade:material", "building:material", "building:cladding"),
    ("roof:material", "building:roof:material"),
    (
        *("roof:shape", "building:roof:shape", "roof:height", "roof:levels", "roof:angle"),
        *("roof:direction", "roof:orientation"),
    ),
)


def resolve_parts(
    outlines: Sequence[Building],
    parts: Sequence[Building],
    outline_of: Mapping[str, str],
    counts: Counter[str],
) -> list[Building]:
    """Parts in place of what they cover of their outlines.

    Counted are ``outlines_replaced_by_parts``, ``outlines_cut_by_parts`` (a remainder stays),
    ``parts_without_outline`` and ``raised_parts_set_on_outline``.

    Parameters
    ----------
    outlines, parts
        As their own tags describe them.
    outline_of
        osm_id of the outline of a part, where a relation says so.
    counts
        Counts that this call adds to.

    Returns
    -------
    Parts and what is left of the outlines, sorted by osm_id.
    """
    owner = _owners(outlines, parts, outline_of)
    members: dict[str, list[Building]] = {}
    resolved: list[Building] = []
    for part in parts:
        if part.osm_id in owner:
            members.setdefault(owner[part.osm_id], []).append(part)
        else:
            counts["parts_without_outline"] += 1
            resolved.append(part)
    for outline in outlines:
        if outline.osm_id in members:
            own_parts = sorted(members[outline.osm_id], key=lambda part: part.osm_id)
            resolved += _resolved(outline, own_parts, counts)
        else:
            resolved.append(outline)
    return sorted(resolved, key=lambda building: building.osm_id)


def _owners(
    outlines: Sequence[Building], parts: Sequence[Building], outline_of: Mapping[str, str]
) -> dict[str, str]:
    known = {outline.osm_id for outline in outlines}
    owner = {
        part.osm_id: outline_of[part.osm_id]
        for part in parts
        if outline_of.get(part.osm_id) in known
    }
    shapes = np.array([outline.shape for outline in outlines], dtype=object)
    part_shapes = np.array([part.shape for part in parts], dtype=object)
    if not len(shapes) or not len(part_shapes):
        return owner
    left, right = shapely.STRtree(shapes).query(part_shapes, predicate="intersects")
    shared = shapely.area(shapely.intersection(part_shapes[left], shapes[right]))
    areas, outline_areas = shapely.area(part_shapes), shapely.area(shapes)
    best: dict[str, tuple[float, float, str]] = {}
    for part, outline, area_m2 in zip(left.tolist(), right.tolist(), shared, strict=True):
        if area_m2 < _SHARE * areas[part]:
            continue
        # of outlines that share about the same, the smallest
        key = (-round(area_m2, 1), float(outline_areas[outline]), outlines[outline].osm_id)
        name = parts[part].osm_id
        best[name] = min(best.get(name, key), key)
    return {name: outline for name, (_, _, outline) in best.items()} | owner


def _inherits(part: Building, outline: Building) -> Building:
    """The part with what it lacks taken from its outline."""
    tags = dict(part.tags)
    for keys in _INHERITED:
        if not any(isinstance(tags.get(key), str) for key in keys):
            tags |= {key: outline.tags[key] for key in keys if key in outline.tags}
    if not any(isinstance(tags.get(key), str) for key in ("building:part",)) or (
        tags["building:part"] == "yes"
    ):
        tags["building:part"] = outline.type
    if part.top_m is None:
        tags |= {key: outline.tags[key] for key in _VERTICAL if key in outline.tags}
    # unreadable tags were counted when each was described by its own
    inherited = described(
        part.osm_id,
        "building_part",
        tags,
        part.shape,
        Counter(),
        building_id=outline.osm_id,
    )
    if part.top_m is not None:
        return inherited
    if outline.top_m is None or part.base_m >= outline.top_m - _SLAB_M:
        return replace(inherited, top_m=None, base_m=part.base_m, source="imputed", sigma_m=0.0)
    return replace(inherited, is_inherited=True)


def _resolved(outline: Building, parts: Sequence[Building], counts: Counter[str]) -> list[Building]:
    parts = [_inherits(part, outline) for part in parts]
    rest = _with_own_top(outline, parts)
    covers, standing = [], []
    for part in parts:
        carried = _carried(part, rest)
        if carried is None:
            covers.append(part.shape)
            standing.append(part)
        else:
            counts["raised_parts_set_on_outline"] += carried.base_m != part.base_m
            standing.append(carried)
    left = outline.shape
    if covers:
        left = cut_polygons(outline.shape, shapely.union_all(covers), _THIN_M)
    if left is None:
        counts["outlines_replaced_by_parts"] += 1
        return standing
    counts["outlines_cut_by_parts"] += 1
    return [replace(rest, shape=left), *standing]


def _with_own_top(outline: Building, parts: Sequence[Building]) -> Building:
    """The outline with the height of what its parts leave of it."""
    tops = [part.top_m for part in parts if part.top_m is not None and not part.is_inherited]
    if outline.top_m is None or not tops:
        return outline
    highest_m = max(tops)
    about_m = max(_ABOUT_M, _ABOUT_SHARE * highest_m)
    if abs(outline.top_m - highest_m) > about_m:
        return outline
    tags = {key: value for key, value in outline.tags.items() if key not in _VERTICAL[:3]}
    by_levels = described(outline.osm_id, outline.kind, tags, outline.shape, Counter())
    if by_levels.top_m is not None and by_levels.top_m < highest_m - about_m:
        return by_levels
    return replace(by_levels, top_m=None, source="imputed", sigma_m=0.0)


def _carried(part: Building, outline: Building) -> Building | None:
    """A raised part that stands on or above the outline, None where it replaces the outline."""
    if outline.top_m is None or part.base_m <= outline.base_m + _ABOUT_M:
        return None
    if outline.top_m > part.base_m + LEVEL_M:
        return None
    if abs(part.base_m - outline.top_m) > LEVEL_M or outline.top_m > MAX_HEIGHT_M - LEVEL_M:
        return part
    is_thin = part.top_m is not None and part.top_m < outline.top_m + _SLAB_M
    if is_thin:
        return part if part.base_m >= outline.top_m else None
    return replace(part, base_m=outline.top_m)
