"""Clipped and broken extracts."""

import bz2
import gzip
from collections import Counter

import pytest

from ueloc_core.city import load_city
from ueloc_core.errors import GeodataError
from ueloc_core.geodata.osm import source_path
from ueloc_core.geodata.repair import read_elements, repair, to_geometries

BBOX = (24.0, 60.0, 24.1, 60.1)
HERE = {number: (24.05 + (number % 4) * 1e-3, 60.05 + (number // 4) * 1e-3) for number in range(16)}


def _write(path, *, ways=(), relations=(), nodes=range(16), tagged_node=""):
    lines = ['<osm version="0.6">']
    for number in nodes:
        lon, lat = HERE[number]
        lines.append(f'<node id="{number + 1}" lat="{lat}" lon="{lon}">{tagged_node}</node>')
    for number, (references, tags) in enumerate(ways, start=1):
        refs = "".join(f'<nd ref="{ref + 1}"/>' for ref in references)
        lines.append(f'<way id="{number}">{refs}{_tags(tags)}</way>')
    for number, (members, tags) in enumerate(relations, start=1):
        refs = "".join(f'<member type="way" ref="{r}" role="{role}"/>' for r, role in members)
        typed = {"type": "multipolygon", **tags}
        lines.append(f'<relation id="{number}">{refs}{_tags(typed)}</relation>')
    path.write_text("\n".join([*lines, "</osm>"]))
    return path


def _tags(tags):
    return "".join(f'<tag k="{key}" v="{value}"/>' for key, value in tags.items())


def _repaired(path):
    elements, counts = repair(read_elements(path, BBOX))
    return to_geometries(elements, counts), Counter({k: n for k, n in counts.items() if n})


RING = (0, 1, 5, 4, 0)
OUTER = (0, 3, 15, 12, 0)
INNER = (5, 6, 10, 9, 5)


def test_a_whole_extract_needs_no_repair(tmp_path):
    path = _write(tmp_path / "a.osm", ways=[(RING, {"building": "yes"})])
    features, counts = _repaired(path)
    assert counts == {}
    assert list(features.geom_type) == ["Polygon"]


def test_a_ring_that_lost_a_node_is_closed_along_the_cut(tmp_path):
    ways = [((0, 1, 2, 6, 5, 4, 0), {"building": "yes"})]
    path = _write(tmp_path / "a.osm", ways=ways, nodes=[n for n in range(16) if n != 2])
    features, counts = _repaired(path)
    assert counts == {"clipped_rings_closed": 1}
    assert features.geometry.iloc[0].is_valid
    assert len(features.geometry.iloc[0].exterior.coords) == 6


def test_a_ring_whose_first_node_is_missing_is_closed(tmp_path):
    path = _write(tmp_path / "a.osm", ways=[(RING, {"building": "yes"})], nodes=range(1, 16))
    features, counts = _repaired(path)
    assert counts == {"clipped_rings_closed": 1}
    assert features.geometry.iloc[0].is_valid


def test_a_ring_with_two_nodes_left_is_dropped(tmp_path):
    ways = [(RING, {"building": "yes"}), (INNER, {"building": "yes"})]
    path = _write(tmp_path / "a.osm", ways=ways, nodes=[1, 5, 6, 9, 10])
    features, counts = _repaired(path)
    assert counts["clipped_rings_dropped"] == 1
    assert len(features) == 1


def test_a_road_with_a_gap_keeps_its_longest_run(tmp_path):
    ways = [((0, 1, 2, 3, 7, 11), {"highway": "primary"}), (RING, {"building": "yes"})]
    path = _write(tmp_path / "a.osm", ways=ways, nodes=[n for n in range(16) if n != 2])
    features, counts = _repaired(path)
    assert counts == {"clipped_lines_cut": 1}
    assert len(features.loc[("way", 1)].geometry.coords) == 3


def test_courtyard_of_a_relation_is_a_hole(tmp_path):
    ways = [(OUTER, {}), (INNER, {})]
    relations = [([(1, "outer"), (2, "inner")], {"building": "yes"})]
    features, counts = _repaired(_write(tmp_path / "a.osm", ways=ways, relations=relations))
    assert counts == {}
    assert list(features.index) == [("relation", 1)]
    assert len(features.geometry.iloc[0].interiors) == 1


def test_a_relation_with_an_empty_role_and_a_missing_member(tmp_path):
    relations = [([(1, ""), (99, "inner")], {"building": "yes"})]
    path = _write(tmp_path / "a.osm", ways=[(OUTER, {})], relations=relations)
    features, counts = _repaired(path)
    assert counts == {"relation_members_missing": 1}
    assert list(features.index) == [("relation", 1)]


def test_a_relation_without_outer_way_is_dropped_and_counted(tmp_path):
    ways = [(INNER, {}), (RING, {"building": "yes"})]
    relations = [([(99, "outer"), (1, "inner")], {"building": "yes"})]
    features, counts = _repaired(_write(tmp_path / "a.osm", ways=ways, relations=relations))
    assert counts == {"relation_members_missing": 1, "relations_dropped": 1}
    assert list(features.index) == [("way", 2)]


def test_a_relation_that_cannot_close_is_counted(tmp_path):
    ways = [((0, 3, 15), {}), (RING, {"building": "yes"})]
    relations = [([(1, "outer")], {"building": "yes"})]
    features, counts = _repaired(_write(tmp_path / "a.osm", ways=ways, relations=relations))
    assert counts == {"relations_without_geometry": 1}
    assert len(features) == 1


def test_tags_on_the_outer_way_move_to_the_relation(tmp_path):
    ways = [(OUTER, {"building": "yes", "height": "9"}), (INNER, {})]
    relations = [([(1, "outer"), (2, "inner")], {})]
    features, counts = _repaired(_write(tmp_path / "a.osm", ways=ways, relations=relations))
    assert counts == {"relations_tagged_by_outer_way": 1}
    assert features.loc[("relation", 1), "height"] == "9"
    assert features["building"].notna().sum() == 1


def test_a_building_tagged_twice_is_built_once(tmp_path):
    ways = [(OUTER, {"building": "yes"}), (INNER, {})]
    relations = [([(1, "outer"), (2, "inner")], {"building": "yes"})]
    features, counts = _repaired(_write(tmp_path / "a.osm", ways=ways, relations=relations))
    assert counts == {"outer_ways_tagged_twice": 1}
    assert features["building"].notna().sum() == 1


def test_points_tagged_as_buildings_are_counted(tmp_path):
    path = _write(tmp_path / "a.osm", ways=[(RING, {"building": "yes"})], tagged_node=_POINT)
    assert read_elements(path, BBOX).building_points == 16


_POINT = '<tag k="building" v="yes"/>'


def _broken_files(folder):
    whole = _write(folder / "whole.osm", ways=[(RING, {"building": "yes"})]).read_bytes()
    pbf = source_path(load_city("helsinki")).read_bytes()
    return {
        "cut.osm": whole[: len(whole) // 2],
        "cut.osm.gz": gzip.compress(whole)[:-8],
        "cut.osm.bz2": bz2.compress(whole)[:-8],
        "cut.osm.pbf": pbf[: len(pbf) // 2],
        "empty.osm": b"",
        "empty.osm.gz": b"",
        "empty.osm.pbf": b"",
        "page.osm": b"<html><body>too many requests</body></html>",
        "noise.osm.pbf": b"no protocol buffer at all" * 50,
        "coordinates.osm": whole.replace(b'lat="60.05"', b'lat="north"'),
    }


@pytest.mark.parametrize(
    "name",
    [
        *("cut.osm", "cut.osm.gz", "cut.osm.bz2", "cut.osm.pbf", "empty.osm", "empty.osm.gz"),
        *("empty.osm.pbf", "page.osm", "noise.osm.pbf", "coordinates.osm"),
    ],
)
def test_a_broken_file_is_named_with_a_remedy(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(_broken_files(tmp_path)[name])
    with pytest.raises(GeodataError, match="truncated or broken") as caught:
        read_elements(path, BBOX)
    assert caught.value.where == str(path)
    assert caught.value.remedy


def test_a_missing_file_and_an_unknown_format(tmp_path):
    with pytest.raises(GeodataError, match="no such extract"):
        read_elements(tmp_path / "nowhere.osm.pbf", BBOX)
    (tmp_path / "roads.shp").touch()
    with pytest.raises(GeodataError, match=r"\.osm\.pbf"):
        read_elements(tmp_path / "roads.shp", BBOX)
