"""Parts against their outlines: nothing is extruded twice."""

from collections import Counter

import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from ueloc_core.geodata.buildings import LEVEL_M, described
from ueloc_core.geodata.parts import resolve_parts

OUTLINE = shapely.box(0, 0, 20, 10)
WEST, EAST = shapely.box(0, 0, 10, 10), shapely.box(10, 0, 20, 10)


def _outline(shape=OUTLINE, name="way/1", **tags):
    tags = {key.replace("__", ":"): value for key, value in {"building": "yes", **tags}.items()}
    return described(name, "building", tags, shape, Counter())


def _part(shape, name="way/2", **tags):
    tags = {key.replace("__", ":"): value for key, value in tags.items()} | {"building:part": "yes"}
    return described(name, "building_part", tags, shape, Counter())


def _resolve(outlines, parts, outline_of=None):
    counts = Counter()
    resolved = resolve_parts(outlines, parts, outline_of or {}, counts)
    return {building.osm_id: building for building in resolved}, counts


def test_parts_that_cover_their_outline_replace_it_and_inherit_from_it():
    outline = _outline(height="12", building__material="brick", roof__material="slate")
    west = _part(WEST)
    east = _part(EAST, "way/3", height="30", building__material="glass")
    found, counts = _resolve([outline], [west, east])
    assert set(found) == {"way/2", "way/3"}
    assert (found["way/2"].top_m, found["way/3"].top_m) == (12, 30)
    assert found["way/2"].tags["building:material"] == "brick"
    assert found["way/3"].tags["building:material"] == "glass"
    assert found["way/3"].tags["roof:material"] == "slate"
    assert {part.building_id for part in found.values()} == {"way/1"}
    assert counts["outlines_replaced_by_parts"] == 1


def test_what_parts_leave_of_an_outline_stays_a_building():
    hole = shapely.box(5, 2, 15, 8)
    found, counts = _resolve([_outline(height="8")], [_part(hole, height="30")])
    rest = found["way/1"]
    assert (rest.kind, rest.building_id, rest.top_m) == ("building", "way/1", 8)
    assert len(rest.shape.interiors) == 1
    assert rest.shape.area == pytest.approx(200 - 60)
    assert counts["outlines_cut_by_parts"] == 1


def test_the_height_of_the_whole_is_not_that_of_the_rest():
    tower = _part(EAST, height="30")
    assert _resolve([_outline(height="30")], [tower])[0]["way/1"].top_m is None
    by_levels = _resolve([_outline(height="30", building__levels="4")], [tower])[0]["way/1"]
    assert (by_levels.top_m, by_levels.source) == (4 * LEVEL_M, "levels")
    of_the_whole = _outline(height="30", building__levels="9")
    assert _resolve([of_the_whole], [tower])[0]["way/1"].top_m is None
    annex = _part(EAST, height="5")
    assert _resolve([_outline(height="30")], [annex])[0]["way/1"].top_m == 30


def test_below_a_raised_part_the_outline_stays_only_where_it_carries_it():
    bridge = _part(EAST, height="15", min_height="5")
    open_below = _resolve([_outline(height="15")], [bridge])[0]
    assert open_below["way/1"].shape.equals(shapely.normalize(WEST))
    assert open_below["way/2"].base_m == 5
    taller = _resolve([_outline(height="20")], [bridge])[0]
    assert taller["way/1"].shape.area == pytest.approx(100)
    tower = _part(EAST, height="40", min_height="12")
    carried, counts = _resolve([_outline(building__levels="4")], [tower])
    assert carried["way/1"].shape.area == 200
    assert carried["way/2"].base_m == carried["way/1"].top_m == 4 * LEVEL_M
    assert counts["raised_parts_set_on_outline"] == 1


def test_a_part_on_a_part_leaves_nothing_of_the_outline_between_them():
    base = _part(EAST, height="10")
    top = _part(EAST, "way/3", height="30", min_height="10")
    found, _ = _resolve([_outline(height="30")], [base, top])
    assert found["way/1"].shape.area == pytest.approx(100)
    assert found["way/3"].base_m == found["way/2"].top_m == 10


def test_a_part_belongs_to_the_outline_that_shares_most_or_that_a_relation_names():
    inner = _outline(EAST, "way/9", building="church")
    part = _part(shapely.box(11, 1, 14, 4), height="30")
    found, _ = _resolve([_outline(), inner], [part])
    assert found["way/2"].building_id == "way/9"
    assert found["way/2"].type == "church"
    named, _ = _resolve([_outline(), inner], [part], {"way/2": "way/1"})
    assert named["way/2"].building_id == "way/1"


def test_parts_without_an_outline_stay():
    lonely = _part(shapely.box(50, 50, 60, 60))
    overhanging = _part(shapely.box(19, 0, 29, 10), "way/3", height="9")
    found, counts = _resolve([_outline()], [lonely, overhanging])
    assert found["way/2"].building_id == "way/2"
    assert found["way/3"].building_id == "way/3"
    assert found["way/1"].shape.equals(OUTLINE)
    assert counts["parts_without_outline"] == 2


def test_an_inherited_height_below_the_underside_is_not_taken():
    found, _ = _resolve([_outline(height="10")], [_part(EAST, min_height="20")])
    assert found["way/2"].top_m is None
    assert found["way/2"].base_m == 20


SIDE = st.integers(1, 12)


@given(
    st.lists(
        st.tuples(st.integers(0, 19), st.integers(0, 9), SIDE, SIDE, st.integers(1, 40)),
        min_size=1,
        max_size=5,
    ),
    st.integers(1, 40),
)
def test_parts_and_rest_cover_the_outline_once(boxes, height):
    parts = [
        _part(shapely.box(x, y, x + w, y + d), f"way/{i}", height=str(h))
        for i, (x, y, w, d, h) in enumerate(boxes, start=2)
    ]
    found, _ = _resolve([_outline(height=str(height))], parts)
    again, _ = _resolve([_outline(height=str(height))], parts[::-1])
    assert {n: b.shape.wkb for n, b in found.items()} == {n: b.shape.wkb for n, b in again.items()}
    own = [b.shape for b in found.values() if b.building_id == "way/1" and b.osm_id != "way/1"]
    covered = shapely.union_all(own)
    rest = found["way/1"].shape if "way/1" in found else shapely.Polygon()
    assert rest.intersection(covered).area < 0.01
    whole = shapely.union_all([covered, rest])
    assert whole.intersection(OUTLINE).area == pytest.approx(200, abs=2.5)
