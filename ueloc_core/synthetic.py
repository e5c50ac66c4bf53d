"""Small made-up cities, and edits of real extracts, for trials and tests.

Both write OpenStreetMap files, so that they enter the pipeline where real data does.
"""

import bz2
import gzip
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import osmium

from ueloc_core.city import City
from ueloc_core.errors import GeodataError
from ueloc_core.geodata.formats import check_source

_METRES_PER_DEGREE = 111_320.0

Point = tuple[float, float]


class _OsmFile:
    """Collects nodes, ways and relations placed in metres from a south-west corner."""

    def __init__(self, bbox: tuple[float, float, float, float]) -> None:
        self.bbox = bbox
        west, south, east, north = bbox
        self._lat_scale = 1 / _METRES_PER_DEGREE
        self._lon_scale = self._lat_scale / math.cos(math.radians((south + north) / 2))
        self.width_m = (east - west) / self._lon_scale
        self.depth_m = (north - south) / self._lat_scale
        self._nodes: list[Point] = []
        self._ways: list[tuple[list[int], dict[str, str]]] = []
        self._relations: list[tuple[list[tuple[int, str]], dict[str, str]]] = []

    def add_line(self, points: Sequence[Point], tags: dict[str, str]) -> None:
        """Add an open way through points [m]."""
        self._ways.append((self._add_nodes(points), tags))

    def add_ring(self, points: Sequence[Point], tags: dict[str, str]) -> int:
        """Add a closed way through points [m] and return its id."""
        ids = self._add_nodes(points)
        self._ways.append(([*ids, ids[0]], tags))
        return len(self._ways)

    def add_multipolygon(
        self, outer: Sequence[Point], inner: Sequence[Point], tags: dict[str, str]
    ) -> None:
        """Add a multipolygon with one hole, rings in points [m]."""
        members = [(self.add_ring(outer, {}), "outer"), (self.add_ring(inner, {}), "inner")]
        self._relations.append((members, {"type": "multipolygon", **tags}))

    def _add_nodes(self, points: Sequence[Point]) -> list[int]:
        west, south = self.bbox[:2]
        start = len(self._nodes) + 1
        self._nodes += [
            (west + x * self._lon_scale, south + y * self._lat_scale) for x, y in points
        ]
        return list(range(start, start + len(points)))

    def lines(self) -> Iterator[str]:
        """Lines of the OSM XML."""
        west, south, east, north = self.bbox
        yield '<?xml version="1.0" encoding="UTF-8"?>\n<osm version="0.6" generator="ueloc">\n'
        yield f'<bounds minlat="{south}" minlon="{west}" maxlat="{north}" maxlon="{east}"/>\n'
        for number, (lon, lat) in enumerate(self._nodes, start=1):
            yield f'<node id="{number}" version="1" lat="{lat:.7f}" lon="{lon:.7f}"/>\n'
        for number, (ids, tags) in enumerate(self._ways, start=1):
            references = "".join(f'<nd ref="{node}"/>' for node in ids)
            yield f'<way id="{number}" version="1">{references}{_tags(tags)}</way>\n'
        for number, (members, tags) in enumerate(self._relations, start=1):
            parts = "".join(f'<member type="way" ref="{r}" role="{role}"/>' for r, role in members)
            yield f'<relation id="{number}" version="1">{parts}{_tags(tags)}</relation>\n'
        yield "</osm>\n"


def _tags(tags: dict[str, str]) -> str:
    return "".join(f"<tag k={quoteattr(k)} v={quoteattr(v)}/>" for k, v in tags.items())


def write_synthetic_city(
    path: Path,
    *,
    bbox: tuple[float, float, float, float],
    seed: int,
    block_m: float = 70.0,
    street_m: float = 18.0,
) -> None:
    """Write a made-up city: streets on a lattice, blocks of buildings, a courtyard, a park.

    The same arguments give the same file. Some buildings carry a height, some levels, some
    neither. The middle block is one building with a courtyard (``relation/1``, 20 m high); the
    block at the south-west corner is a park where there is more than one block.

    Parameters
    ----------
    path
        File to write, ``.osm``, ``.osm.gz`` or ``.osm.bz2``.
    bbox
        West, south, east, north [deg].
    seed
        What the buildings are drawn from.
    block_m, street_m
        Side of a block and width of a street [m].

    Raises
    ------
    GeodataError
        If the bounding box is smaller than one block and its streets.
    """
    city = _OsmFile(bbox)
    pitch_m = block_m + street_m
    columns = int((city.width_m - street_m) // pitch_m)
    rows = int((city.depth_m - street_m) // pitch_m)
    if columns < 1 or rows < 1:
        raise GeodataError(
            f"bbox is {city.width_m:.0f} x {city.depth_m:.0f} m; one block needs "
            f"{pitch_m + street_m:.0f} m",
            where=str(path),
            remedy="Enlarge bbox, or lower block_m and street_m.",
        )
    rng = np.random.default_rng(seed)
    _add_streets(city, columns, rows, pitch_m, street_m)
    for row in range(rows):
        for column in range(columns):
            corner = (street_m + column * pitch_m, street_m + row * pitch_m)
            if (column, row) == (columns // 2, rows // 2):
                _add_courtyard(city, corner, block_m)
            elif (column, row) == (0, 0):
                city.add_ring(_rectangle(*corner, block_m, block_m), {"leisure": "park"})
            else:
                _add_row_of_buildings(city, corner, block_m, rng)
    _write_text(path, "".join(city.lines()))


def _write_text(path: Path, text: str) -> None:
    content = text.encode()
    if path.suffix == ".gz":
        content = gzip.compress(content, mtime=0)
    elif path.suffix == ".bz2":
        content = bz2.compress(content)
    path.write_bytes(content)


def _rectangle(x: float, y: float, width_m: float, depth_m: float) -> list[Point]:
    return [(x, y), (x + width_m, y), (x + width_m, y + depth_m), (x, y + depth_m)]


def _add_streets(city: _OsmFile, columns: int, rows: int, pitch_m: float, street_m: float) -> None:
    for row in range(rows + 1):
        y = row * pitch_m + street_m / 2
        kind = "secondary" if row == 0 else "residential"
        city.add_line([(0, y), (city.width_m, y)], {"highway": kind})
    for column in range(columns + 1):
        x = column * pitch_m + street_m / 2
        city.add_line([(x, 0), (x, city.depth_m)], {"highway": "residential", "width": "8 m"})


def _add_courtyard(city: _OsmFile, corner: Point, block_m: float) -> None:
    wall_m = block_m / 4
    inner = _rectangle(corner[0] + wall_m, corner[1] + wall_m, block_m / 2, block_m / 2)
    outer = _rectangle(*corner, block_m, block_m)
    city.add_multipolygon(outer, inner, {"building": "apartments", "height": "20 m"})


def _add_row_of_buildings(
    city: _OsmFile, corner: Point, block_m: float, rng: np.random.Generator
) -> None:
    gap_m = 6.0
    count = int(rng.integers(2, 4))
    width_m = (block_m - gap_m * (count - 1)) / count
    for index in range(count):
        depth_m = float(rng.uniform(0.5, 1.0)) * block_m
        x = corner[0] + index * (width_m + gap_m)
        tags = {"building": str(rng.choice(["yes", "apartments", "office", "retail"]))}
        levels = int(rng.integers(2, 9))
        known = rng.random()
        if known < 0.4:
            tags["height"] = f"{levels * 3.4:.1f} m"
        elif known < 0.8:
            tags["building:levels"] = str(levels)
        if rng.random() < 0.2:
            tags["building:material"] = str(rng.choice(["brick", "glass", "wood"]))
        city.add_ring(_rectangle(x, corner[1], width_m, depth_m), tags)


def synthetic_city(folder: Path, *, seed: int = 1, **sections: Any) -> City:
    """Write the extract of a made-up city of about 300 x 300 m and return the city.

    Parameters
    ----------
    folder
        Where ``synthetic.osm.gz`` is written.
    seed
        Seed of the extract and of the city.
    sections
        Keys of the city file that replace the small defaults: tiles of 128 m, windows of 256 m.
    """
    path = folder / "synthetic.osm.gz"
    content = {
        "name": "synthetic",
        "title": "Made-up city",
        "source": {"kind": "file", "path": path},
        "bbox": (24.940, 60.170, 24.9455, 60.1727),
        "seed": seed,
        "tiles": {"size_m": 128},
        "window": {"size_m": 256, "shift_m": 40},
        **sections,
    }
    city = City.model_validate(content)
    write_synthetic_city(path, bbox=city.bbox, seed=seed)
    return city


def edit_building_height(source: Path, target: Path, osm_id: str, height_m: float) -> None:
    """Copy an extract with the height of one building changed [m], as `edit_tags` does."""
    edit_tags(source, target, osm_id, {"height": f"{height_m:g}"})


def edit_tags(source: Path, target: Path, osm_id: str, tags: dict[str, str]) -> None:
    """Copy an extract with tags of one element changed, all else kept.

    Parameters
    ----------
    source
        Extract of any format that is read, ``.osm.pbf`` included.
    target
        File to write; its suffix chooses the format, ``.osm.gz`` for example.
    osm_id
        The element, such as ``way/123`` or ``relation/45``.
    tags
        What is set.

    Raises
    ------
    GeodataError
        If the extract is missing or holds no such element, or the target's name has no
        suffix that is known.
    """
    check_source(source)
    kind, _, number = osm_id.partition("/")
    entity = {"way": "w", "relation": "r"}.get(kind)
    found = False
    target.unlink(missing_ok=True)
    try:
        with osmium.SimpleWriter(target) as writer:
            for element in osmium.FileProcessor(source):
                if element.type_str() == entity and str(element.id) == number:
                    kept = {tag.k: tag.v for tag in element.tags}
                    writer.add(element.replace(tags=kept | tags))
                    found = True
                else:
                    writer.add(element)
    except RuntimeError as error:
        raise GeodataError(f"cannot copy the extract ({error})", where=str(source)) from error
    if not found:
        target.unlink()
        raise GeodataError(
            f"no element '{osm_id}'",
            where=str(source),
            remedy="Give it as way/<id> or relation/<id>, as in the column osm_id.",
        )
