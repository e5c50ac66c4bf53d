"""Clipped and broken extracts."""

import bz2
import gzip
import tempfile
from collections import Counter
from pathlib import Path

import osmium
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ueloc_core.city import load_city
from ueloc_core.errors import GeodataError
from ueloc_core.geodata.formats import SUFFIXES
from ueloc_core.geodata.repair import (
    FEATURE_KEYS,
    Elements,
    Relation,
    Way,
    read_elements,
    repair,
    to_geometries,
)
from ueloc_core.geodata.sources import source_path

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


def test_nodes_that_are_not_on_earth_are_dropped_and_counted(tmp_path):
    ways = [((0, 1, 2, 6, 5, 4, 0), {"building": "yes"}), ((0, 1, 2), {"highway": "path"})]
    path = _write(tmp_path / "a.osm", ways=ways, tagged_node=_POINT)
    lon, lat = HERE[2]
    text = path.read_text().replace(f'id="3" lat="{lat}" lon="{lon}"', 'id="3" lat="95" lon="24"')
    path.write_text(text)
    assert read_elements(path, BBOX).building_points == 15
    features, counts = _repaired(path)
    assert counts["misplaced_nodes_dropped"] == 1
    assert counts["clipped_rings_closed"] == counts["clipped_lines_cut"] == 1
    assert features.geometry.is_valid.all()


def test_elements_that_come_twice_are_counted_and_the_last_one_counts(tmp_path):
    ways = [(RING, {"building": "yes"}), (INNER, {"building": "no"})]
    path = _write(tmp_path / "a.osm", ways=ways)
    path.write_text(path.read_text().replace('<way id="2">', '<way id="1">'))
    elements = read_elements(path, BBOX)
    assert elements.duplicates == 1
    assert elements.ways[1].tags == {"building": "no"}
    assert repair(elements)[1]["duplicate_elements_dropped"] == 1


def test_nodes_may_stand_behind_the_ways(tmp_path):
    path = _write(tmp_path / "a.osm", ways=[(RING, {"building": "yes"})])
    whole = read_elements(path, BBOX)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *lines[17:-1], *lines[1:17], lines[-1]]))
    assert lines[17].startswith("<way")
    assert read_elements(path, BBOX) == whole


def test_characters_that_xml_cannot_hold_are_left_out(tmp_path):
    path = tmp_path / "a.osm.pbf"
    nodes = [osmium.osm.mutable.Node(id=n + 1, location=HERE[n], tags={}) for n in range(16)]
    tags = {"building": "ho\x01use", "height": '9 \n<&>"m'}
    with osmium.SimpleWriter(str(path)) as writer:
        for node in nodes:
            writer.add_node(node)
        writer.add_way(osmium.osm.mutable.Way(id=1, nodes=[n + 1 for n in RING], tags=tags))
    features, _ = _repaired(path)
    assert features["building"].tolist() == ["house"]
    assert features["height"].tolist() == ['9 \n<&>"m']


COAST = {"natural": "coastline"}


def test_the_coastline_stays_a_line_of_its_own(tmp_path):
    ways = [((0, 3, 15), COAST), ((15, 12, 0), COAST), (INNER, COAST)]
    relations = [
        ([(1, "outer"), (2, "outer")], {"natural": "bay"}),
        ([(3, "outer")], {"place": "island"}),
    ]
    features, counts = _repaired(_write(tmp_path / "a.osm", ways=ways, relations=relations))
    assert counts == {}
    coast = features[features["natural"] == "coastline"]
    assert coast.index.tolist() == [("way", 1), ("way", 2), ("way", 3)]
    assert set(coast.geom_type) == {"LineString"}
    assert coast.geometry.iloc[2].is_closed
    assert features.loc[("relation", 1)].geometry.geom_type == "Polygon"


@pytest.mark.parametrize("tags", [COAST, {"highway": "residential"}])
def test_a_closed_line_that_lost_a_node_is_not_closed_along_the_cut(tmp_path, tags):
    ways = [((0, 1, 2, 6, 5, 4, 0), tags), (RING, {"building": "yes"})]
    path = _write(tmp_path / "a.osm", ways=ways, nodes=[n for n in range(16) if n != 2])
    features, counts = _repaired(path)
    assert counts == {"clipped_lines_cut": 1}
    line = features.loc[("way", 1)].geometry
    assert line.geom_type == "LineString"
    assert [tuple(round(v, 7) for v in p) for p in line.coords] == [
        tuple(round(v, 7) for v in HERE[n]) for n in (6, 5, 4, 0, 1)
    ]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.osm.pbf", '<osm version="0.6"></osm>', "content looks like .osm"),
        ("a.osm", gzip.compress(b'<osm version="0.6"></osm>'), "content looks like .osm.gz"),
        ("a.osm", bz2.compress(b'<osm version="0.6"></osm>'), "content looks like .osm.bz2"),
        ("a.osm.gz", b"<!DOCTYPE html><p>Not found", "web page"),
        ("a.osm.bz2", b"", "it is empty"),
        ("a.osm.pbf", b"PK\x03\x04", "PBF"),
    ],
    # names of our own: those made of the content hold the time in gzip's header, and workers differ
    ids=["xml as pbf", "gzip as xml", "bzip2 as xml", "html", "empty", "zip as pbf"],
)
def test_what_a_file_holds_instead_is_told(tmp_path, name, content, told):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(GeodataError, match=told):
        read_elements(path, BBOX)


def _whole_files():
    with tempfile.TemporaryDirectory() as folder:
        ways = [(OUTER, {"building": "yes"}), (INNER, {}), ((0, 5, 10), {"highway": "path"})]
        relations = [([(1, "outer"), (2, "inner")], {"building": "yes"})]
        path = _write(Path(folder) / "a.osm", ways=ways, relations=relations)
        text = path.read_bytes()
        packed = Path(folder) / "a.osm.pbf"
        with osmium.SimpleWriter(str(packed)) as writer:
            for element in osmium.FileProcessor(path):
                writer.add(element)
        return {
            ".osm": text,
            ".osm.gz": gzip.compress(text, mtime=0),
            ".osm.bz2": bz2.compress(text),
            ".osm.pbf": packed.read_bytes(),
        }


WHOLE = _whole_files()


def _read_all(content, suffix):
    """What a file gives, None where it is refused; any other exception is a failure."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        path.write_bytes(content)
        try:
            elements, counts = repair(read_elements(path, BBOX))
            return to_geometries(elements, counts)
        except GeodataError:
            return None


@given(st.sampled_from(SUFFIXES), st.floats(0, 1, exclude_max=True))
@settings(max_examples=150)
def test_a_file_may_be_cut_anywhere(suffix, share):
    whole = WHOLE[suffix]
    found = _read_all(whole[: int(share * len(whole))], suffix)
    assert found is None or len(found) == 2  # the gzip and bzip2 trailers may be what is missing


@given(st.sampled_from(SUFFIXES), st.binary(max_size=300))
@example(".osm", b"\xff\xfe")
@settings(max_examples=100)
def test_any_bytes_may_be_in_a_file(suffix, content):
    assert _read_all(content, suffix) is None


@given(
    st.sampled_from(SUFFIXES),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1),
)
@settings(max_examples=150)
def test_any_bytes_of_a_file_may_be_wrong(suffix, changes):
    content = bytearray(WHOLE[suffix])
    for share, value in changes:
        content[int(share * len(content))] = value
    _read_all(bytes(content), suffix)


@given(
    st.lists(
        st.sampled_from(
            [
                *("<way id='7'>", "</way>", "<nd ref='1'/>", "<nd ref='99'/>", "<nd/>", "</osm>"),
                *(
                    "<tag k='building' v='yes'/>",
                    "<tag k='type' v='multipolygon'/>",
                    "<tag k='x'/>",
                ),
                *("<relation id='7'>", "</relation>", "<member type='way' ref='7' role=''/>"),
                *("<member type='node' ref='1' role='outer'/>", "<member type='way'/>", "&amp;"),
                *("<node id='1' lat='60.05' lon='24.05'/>", "<node id='1'/>", "<node id='x'/>"),
                "<",
            ]
        ),
        max_size=12,
    )
)
@settings(max_examples=150)
def test_broken_xml(pieces):
    _read_all(("<osm version='0.6'>" + "".join(pieces) + "</osm>").encode(), ".osm")


def _closed(nodes):
    return (*nodes, *nodes[:1])


_tags_of_anything = st.dictionaries(
    st.sampled_from([*FEATURE_KEYS, "area", "type", "height", "roof:shape"]),
    st.sampled_from(["yes", "no", "coastline", "water", "residential", "multipolygon"])
    | st.text(max_size=8),
    max_size=3,
)
_nodes_of_anything = st.lists(st.integers(0, 19), min_size=0, max_size=7).map(tuple)
_ways = st.builds(Way, _tags_of_anything, _nodes_of_anything | _nodes_of_anything.map(_closed))
_relations = st.builds(
    Relation,
    _tags_of_anything,
    st.lists(
        st.tuples(st.integers(0, 6), st.sampled_from(["outer", "inner", "", "x"])), max_size=5
    ).map(tuple),
)


@given(
    st.dictionaries(st.integers(0, 5), _ways, max_size=5),
    st.dictionaries(st.integers(0, 5), _relations, max_size=3),
)
@settings(max_examples=200)
def test_any_ways_and_relations_are_mended_or_dropped(ways, relations):
    elements, counts = repair(Elements(HERE, ways, relations, 0, BBOX))
    for way in elements.ways.values():
        assert len(way.nodes) >= 2
        assert all(node in HERE for node in way.nodes)
    for relation in elements.relations.values():
        assert relation.outer
        assert all(ref in elements.ways for ref, _ in relation.members)
    assert all(count >= 0 for count in counts.values())
    try:
        features = to_geometries(elements, counts)
    except GeodataError:
        return
    assert not features.geometry.isna().any()
    assert all(count >= 0 for count in counts.values())
