"""Reading OpenStreetMap files and repairing what clipping broke.

A clipped extract holds ways whose nodes, and relations whose members, lie beyond its edge.
`read_elements` reads every format that libosmium knows, `repair` mends or drops the broken
elements and counts each kind, and `to_geometries` builds the geometry with OSMnx.
"""

import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import osmium
from osmium.osm import NODE, RELATION, WAY

from ueloc_core.errors import GeodataError
from ueloc_core.geodata.formats import check_source, mismatch

FEATURE_KEYS = ("building", "building:part", "highway", "landuse", "leisure", "natural", "waterway")
KEPT_KEYS = frozenset(
    {
        *FEATURE_KEYS,
        *("area", "type", "location", "layer", "tunnel", "bridge", "covered", "indoor", "width"),
        *("lanes", "surface", "height", "est_height", "min_height", "min_level"),
        *("building:height", "building:levels", "building:levels:aboveground"),
        *("building:min_height", "building:min_level", "building:use", "building:type"),
        *("building:material", "building:facade:material", "building:cladding"),
        *("roof:shape", "building:roof:shape", "roof:height", "roof:levels", "roof:angle"),
        *("roof:direction", "roof:orientation", "roof:material", "building:roof:material"),
        *("water", "salt", "tidal", "intermittent", "landcover", "man_made", "leaf_type", "wood"),
    }
)
_CLOSED_NODES = 4  # a triangle, its first node repeated
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_UNKNOWN = 2_147_483_647  # libosmium's coordinate of a node that the file does not hold
_BROKEN = (
    *(RuntimeError, ValueError, IndexError, OverflowError, MemoryError, OSError),
    osmium.InvalidLocationError,
)

Bbox = tuple[float, float, float, float]


@dataclass(frozen=True)
class Way:
    """A way: its tags and the ids of its nodes, in order."""

    tags: dict[str, str]
    nodes: tuple[int, ...]

    @property
    def is_closed(self) -> bool:
        """Whether it ends where it starts."""
        return len(self.nodes) > 1 and self.nodes[0] == self.nodes[-1]

    @property
    def is_line(self) -> bool:
        """Whether it is a line even where it is closed: a road or the coast."""
        if _is_coast(self.tags):
            return True
        areal = self.tags.get("area") == "yes" or any(
            key in self.tags for key in ("building", "building:part")
        )
        return "highway" in self.tags and not areal


@dataclass(frozen=True)
class Relation:
    """A multipolygon: its tags and its member ways as (id, role)."""

    tags: dict[str, str]
    members: tuple[tuple[int, str], ...]

    @property
    def outer(self) -> tuple[int, ...]:
        """Ids of the outer ways."""
        return tuple(ref for ref, role in self.members if role == "outer")


@dataclass(frozen=True)
class Elements:
    """What an extract holds of the features that a scene is made of.

    Attributes
    ----------
    locations
        Longitude and latitude [deg] of the nodes that are there, by id.
    ways, relations
        By id.
    building_points
        How many nodes are tagged as buildings.
    extent
        West, south, east, north [deg] of all tagged ways, None where there are none.
    misplaced_nodes
        How many nodes of the ways have coordinates that are not on Earth.
    duplicates
        How many of the ways and relations came twice; the last one counts.
    """

    locations: dict[int, tuple[float, float]]
    ways: dict[int, Way]
    relations: dict[int, Relation]
    building_points: int
    extent: Bbox | None
    misplaced_nodes: int = 0
    duplicates: int = 0


def read_elements(path: Path, bbox: Bbox) -> Elements:
    """Read the tagged ways and multipolygons that reach into a bounding box.

    Parameters
    ----------
    path
        An ``.osm``, ``.osm.gz``, ``.osm.bz2`` or ``.osm.pbf`` file.
    bbox
        West, south, east, north [deg].

    Raises
    ------
    GeodataError
        If the file is missing, of another format, too large, truncated or broken.
    """
    check_source(path)
    try:
        return _read(path, bbox)
    except _BROKEN as error:
        held = mismatch(path)
        raise GeodataError(
            f"the extract is truncated or broken ({held or error or type(error).__name__})",
            where=str(path),
            remedy="Download it again.",
        ) from error


def _read(path: Path, bbox: Bbox) -> Elements:
    relations: dict[int, Relation] = {}
    duplicates = 0
    for relation in osmium.FileProcessor(path, RELATION):
        if _is_area(relation):
            duplicates += relation.id in relations
            relations[relation.id] = _relation(relation)
    members = {ref for relation in relations.values() for ref, _ in relation.members}
    # nodes have a pass of their own: in some files they stand behind the ways
    places = osmium.NodeLocationsForWays(osmium.index.create_map("flex_mem"))
    places.ignore_errors()
    building = osmium.filter.KeyFilter("building")
    points = osmium.FileProcessor(path, NODE).with_filter(places).with_filter(building)
    building_points = sum(_inside(n.location, bbox) for n in points)
    locations: dict[int, tuple[float, float]] = {}
    ways: dict[int, Way] = {}
    extents: list[Bbox] = []
    misplaced: set[int] = set()
    for way in osmium.FileProcessor(path, WAY).with_filter(places):
        tagged = any(key in way.tags for key in FEATURE_KEYS)
        if not tagged and way.id not in members:
            continue
        found = {n.ref: (n.lon, n.lat) for n in way.nodes if n.location.valid()}
        extent = _extent(found.values())
        extents += [extent] if extent and tagged else []
        if way.id in members or (extent and _meet(extent, bbox)):
            misplaced.update(n.ref for n in way.nodes if _is_misplaced(n.location))
            duplicates += way.id in ways
            locations |= found
            ways[way.id] = Way(_tags(way), tuple(n.ref for n in way.nodes))
    extent = _union(extents)
    return Elements(locations, ways, relations, building_points, extent, len(misplaced), duplicates)


def _is_misplaced(location: Any) -> bool:
    """Whether the file holds a node at a place that is not on Earth."""
    return not location.valid() and location.x != _UNKNOWN


def _tags(element: Any) -> dict[str, str]:
    return {tag.k: tag.v for tag in element.tags if tag.k in KEPT_KEYS}


def _is_coast(tags: dict[str, str]) -> bool:
    return tags.get("natural") == "coastline"


def _is_area(relation: Any) -> bool:
    return bool(relation.tags.get("type") == "multipolygon")


def _relation(relation: Any) -> Relation:
    members = ((m.ref, m.role or "outer") for m in relation.members if m.type == "w")
    return Relation(_tags(relation), tuple(members))


def _inside(location: Any, bbox: Bbox) -> bool:
    if not location.valid():
        return False
    return bool(bbox[0] <= location.lon <= bbox[2] and bbox[1] <= location.lat <= bbox[3])


def _meet(a: Bbox, b: Bbox) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def _extent(points: Iterable[tuple[float, float]]) -> Bbox | None:
    points = list(points)
    if not points:
        return None
    lon, lat = zip(*points, strict=True)
    return min(lon), min(lat), max(lon), max(lat)


def _union(extents: list[Bbox]) -> Bbox | None:
    if not extents:
        return None
    west, south, east, north = zip(*extents, strict=True)
    return min(west), min(south), max(east), max(north)


def repair(elements: Elements) -> tuple[Elements, Counter[str]]:
    """Mend or drop what is broken, and count each kind.

    Counted are: ``rings_closed`` (a ring whose last node is missing or only lies on the first),
    ``clipped_rings_closed`` (a ring that lost nodes beyond the edge of the extract, closed
    along the cut), ``clipped_rings_dropped``, ``clipped_lines_cut`` (the longest run of known
    nodes is kept), ``lines_dropped``, ``relation_members_missing``, ``relations_dropped``,
    ``relations_tagged_by_outer_way`` (old-style multipolygons), ``outer_ways_tagged_twice``,
    ``misplaced_nodes_dropped`` (not on Earth) and ``duplicate_elements_dropped``.
    """
    counts: Counter[str] = Counter()
    counts["misplaced_nodes_dropped"] += elements.misplaced_nodes
    counts["duplicate_elements_dropped"] += elements.duplicates
    members = {ref for relation in elements.relations.values() for ref, _ in relation.members}
    ways = {}
    for way_id, way in elements.ways.items():
        mended = _mended_way(way, elements.locations, counts, is_member=way_id in members)
        if mended is not None:
            ways[way_id] = mended
    relations = {}
    for relation_id, relation in elements.relations.items():
        known = [ref in elements.ways for ref, _ in relation.members]
        if not any(known):
            continue  # it lies wholly beyond the extract
        kept = tuple((ref, role) for ref, role in relation.members if ref in ways)
        counts["relation_members_missing"] += len(relation.members) - len(kept)
        mended_relation = _tagged_relation(replace(relation, members=kept), ways, counts)
        if not mended_relation.outer:
            counts["relations_dropped"] += 1
        elif any(key in mended_relation.tags for key in FEATURE_KEYS):
            relations[relation_id] = mended_relation
    return replace(elements, ways=ways, relations=relations), counts


def _mended_way(
    way: Way,
    locations: dict[int, tuple[float, float]],
    counts: Counter[str],
    *,
    is_member: bool,
) -> Way | None:
    present = [node for node in way.nodes if node in locations]
    complete = len(present) == len(way.nodes)
    if way.is_closed and (complete or not way.is_line):
        ring = tuple(dict.fromkeys(present))
        if len(ring) < _CLOSED_NODES - 1:
            counts["clipped_rings_dropped"] += 1
            return None
        counts["clipped_rings_closed"] += not complete
        return way if complete else replace(way, nodes=(*ring, ring[0]))
    run = present if complete else _longest_run(_opened(way, locations), locations)
    if len(run) < 2:
        counts["lines_dropped"] += 1
        return None
    counts["clipped_lines_cut"] += not complete
    first, last = locations[run[0]], locations[run[-1]]
    if not way.is_line and not is_member and first == last and len(run) >= _CLOSED_NODES:
        counts["rings_closed"] += 1
        run = [*run[:-1], run[0]]
    return replace(way, nodes=tuple(run))


def _opened(way: Way, known: dict[int, tuple[float, float]]) -> tuple[int, ...]:
    """Nodes of a line that lost some; a closed one is opened where the first is missing."""
    if not way.is_closed:
        return way.nodes
    start = next(index for index, node in enumerate(way.nodes) if node not in known)
    return way.nodes[start:-1] + way.nodes[: start + 1]


def _longest_run(nodes: tuple[int, ...], known: dict[int, tuple[float, float]]) -> list[int]:
    runs: list[list[int]] = [[]]
    for node in nodes:
        if node in known:
            runs[-1].append(node)
        else:
            runs.append([])
    return max(runs, key=len)


def _tagged_relation(relation: Relation, ways: dict[int, Way], counts: Counter[str]) -> Relation:
    """The relation with its tags on itself alone, not on its outer ways.

    Coastlines stay what they are: the outer ways of an island or a bay still part land and sea.
    """
    for key in FEATURE_KEYS:
        outer = [ref for ref in relation.outer if key in ways[ref].tags]
        coast = key == "natural" and any(_is_coast(ways[ref].tags) for ref in outer)
        if not outer or key == "highway" or coast:
            continue
        is_untagged = not any(k in relation.tags for k in FEATURE_KEYS)
        if is_untagged and len(outer) == len(relation.outer):
            counts["relations_tagged_by_outer_way"] += 1
            relation = replace(relation, tags={**ways[outer[0]].tags, **relation.tags})
        elif key in relation.tags:
            counts["outer_ways_tagged_twice"] += len(outer)
        else:
            continue
        for ref in outer:
            tags = {k: v for k, v in ways[ref].tags.items() if k != key}
            ways[ref] = replace(ways[ref], tags=tags)
    return relation


def to_geometries(elements: Elements, counts: Counter[str]) -> Any:
    """Geometry and tags of the features, built by OSMnx.

    Returns
    -------
    GeoDataFrame in EPSG:4326, one column a tag, indexed by (element, id). Elements that no
    geometry can be built of are counted as ``ways_without_geometry`` and
    ``relations_without_geometry``.

    Raises
    ------
    GeodataError
        If no geometry at all can be built.
    """
    import osmnx  # noqa: PLC0415 - takes seconds, and the definitions only need the rest

    with tempfile.TemporaryDirectory(prefix="ueloc-") as folder:
        path = Path(folder) / "repaired.osm"
        with path.open("w", encoding="utf-8") as stream:
            stream.writelines(_xml_lines(elements))
        try:
            features = osmnx.features_from_xml(path, tags=dict.fromkeys(FEATURE_KEYS, True))
        except ValueError as error:  # osmnx's InsufficientResponseError is one
            raise GeodataError(f"no feature of the extract has a geometry ({error})") from error
    for name, group in (("way", elements.ways), ("relation", elements.relations)):
        tagged = sum(any(key in e.tags for key in FEATURE_KEYS) for e in group.values())
        built = sum(element == name for element, _ in features.index)
        counts[f"{name}s_without_geometry"] += tagged - built
    return features


def _xml_lines(elements: Elements) -> Iterator[str]:
    yield '<?xml version="1.0" encoding="UTF-8"?>\n<osm version="0.6">\n'
    used = {node for way in elements.ways.values() for node in way.nodes}
    for node in sorted(used):
        lon, lat = elements.locations[node]
        yield f'<node id="{node}" lat="{lat:.7f}" lon="{lon:.7f}"/>\n'
    for way_id, way in sorted(elements.ways.items()):
        yield f'<way id="{way_id}">\n'
        yield from (f'<nd ref="{node}"/>\n' for node in way.nodes)
        yield from _tag_lines(way.tags)
        yield "</way>\n"
    for relation_id, relation in sorted(elements.relations.items()):
        yield f'<relation id="{relation_id}">\n'
        for ref, role in relation.members:
            yield f'<member type="way" ref="{ref}" role={quoteattr(role)}/>\n'
        yield from _tag_lines(relation.tags)
        yield "</relation>\n"
    yield "</osm>\n"


def _tag_lines(tags: dict[str, str]) -> Iterator[str]:
    for key, value in sorted(tags.items()):
        held = _NOT_XML.sub("", value)
        yield f"<tag k={quoteattr(key)} v={quoteattr(held)}/>\n"
