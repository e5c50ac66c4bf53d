"""No two buildings fill the same space, whatever the extract says."""

from collections import Counter

import geopandas as gpd
import pandas as pd
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from ueloc_core.geodata.building_table import build_buildings
from ueloc_core.geodata.buildings import clean_polygons
from ueloc_core.geodata.overlaps import overlapping_pairs, resolve_overlaps

SQUARE = shapely.box(0, 0, 20, 20)
CRS = "EPSG:32635"


class _Level:
    def lowest_within(self, geometry):
        assert not geometry.is_empty
        return 0.0


def _frame(*rows):
    """Buildings of (footprint, top, underside, ground)."""
    shapes, tops, bases, grounds = zip(*rows, strict=True)
    return gpd.GeoDataFrame(
        {
            "osm_id": [f"way/{index}" for index in range(1, len(rows) + 1)],
            "height_m": [float(value) for value in tops],
            "min_height_m": [float(value) for value in bases],
            "ground_m": [float(value) for value in grounds],
            "roof_height_m": 0.0,
        },
        geometry=list(shapes),
        crs=CRS,
    )


def _resolved(*rows):
    counts = Counter()
    resolved = resolve_overlaps(_frame(*rows), counts)
    assert overlapping_pairs(resolved) == []
    return resolved.set_index("osm_id"), counts


def test_the_higher_of_two_keeps_the_overlap():
    resolved, counts = _resolved((SQUARE, 8, 0, 0), (shapely.box(10, 0, 30, 20), 20, 0, 0))
    assert resolved.area.to_dict() == {"way/1": pytest.approx(200), "way/2": 400}
    assert counts["overlaps_cut"] == 1


def test_what_stands_above_each_other_is_left_alone():
    resolved, counts = _resolved((SQUARE, 10, 0, 0), (SQUARE, 30, 10, 0))
    assert list(resolved.area) == [400, 400]
    assert counts["overlaps_cut"] == 0


def test_heights_are_compared_above_the_same_level():
    beside, _ = _resolved((SQUARE, 10, 0, 0), (SQUARE, 30, 10, 50))
    assert len(beside) == 2
    resolved, _ = _resolved((SQUARE, 10, 0, 50), (SQUARE, 55, 0, 0))
    assert list(resolved.index) == ["way/1"]


def test_a_raised_building_is_lifted_onto_what_it_reaches_into():
    resolved, counts = _resolved((SQUARE, 10, 0, 0), (shapely.box(5, 5, 15, 15), 30, 8, 0))
    assert list(resolved.area) == [400, 100]
    assert resolved.loc["way/2", "min_height_m"] == 10
    assert counts["raised_buildings_lifted"] == 1


def test_duplicates_and_slivers_vanish():
    nearly = shapely.box(0, 0, 20, 20.2)
    resolved, counts = _resolved((SQUARE, 10, 0, 0), (SQUARE, 10, 0, 0), (nearly, 9, 0, 0))
    assert list(resolved.index) == ["way/1"]
    assert counts["overlapped_buildings_dropped"] == 2


def test_the_check_names_the_pair_and_its_area():
    frame = _frame((SQUARE, 8, 0, 0), (shapely.box(10, 0, 30, 20), 20, 0, 0))
    assert overlapping_pairs(frame) == [("way/1", "way/2", 200.0)]
    assert overlapping_pairs(frame, 300) == []
    assert overlapping_pairs(frame.iloc[::-1]) == [("way/1", "way/2", 200.0)]


def test_nothing_stays_nothing():
    empty = _frame((SQUARE, 8, 0, 0)).iloc[:0]
    assert len(resolve_overlaps(empty, Counter())) == 0


METRES = st.integers(0, 60_000).map(lambda value: value / 1000)
RINGS = st.lists(st.tuples(METRES, METRES), min_size=3, max_size=8).map(shapely.Polygon)
BOXES = st.tuples(METRES, METRES, st.floats(0.01, 40), st.floats(0.01, 40)).map(
    lambda box: shapely.box(box[0], box[1], box[0] + box[2], box[1] + box[3])
)
NESTED = BOXES.map(lambda box: box.difference(box.buffer(-2)) if box.area > 100 else box)
PLANS = RINGS | BOXES | NESTED
NUMBERS = st.sampled_from(
    ["", "0", "3", "3.2", "12", "12 m", "40'", "-5", "1e9", "tall", "5;30", "9" * 40]
)
TAGS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(
            (
                *("height", "building:levels", "min_height", "building:min_level"),
                *("roof:height", "roof:levels", "roof:direction"),
            ),
            NUMBERS,
        ),
        "roof:shape": st.sampled_from(["gabled", "hipped", "pyramidal", "skillion", "onion", "?"]),
    },
)
THING = st.tuples(PLANS, TAGS, st.sampled_from(["building", "building:part"]))


@given(st.lists(THING, min_size=1, max_size=9), st.integers(0, 2))
def test_absurd_cities_become_valid_ones(things, copies):
    things = things + things[:copies]
    rows = [{**tags, kind: "yes"} for _, tags, kind in things]
    names = [f"way/{index}" for index in range(len(rows))]
    raw = gpd.GeoDataFrame(rows, geometry=[plan for plan, _, _ in things], index=names, crs=CRS)
    table = build_buildings(raw, _Level(), Counter(), outline_of={}, seed=1)
    turned = build_buildings(raw.iloc[::-1], _Level(), Counter(), outline_of={}, seed=1)
    if table is None:
        assert turned is None
        assert all(clean_polygons(plan) is None for plan, _, _ in things)
        return
    frame = table.frame
    assert frame.is_valid.all()
    assert frame.geom_type.isin(["Polygon", "MultiPolygon"]).all()
    assert (frame.area >= 1).all()
    assert overlapping_pairs(frame) == []
    assert ((frame["min_height_m"] >= 0) & (frame["height_m"] <= 1000)).all()
    span_m = frame["height_m"] - frame["min_height_m"]
    assert (span_m > 0).all()
    assert (frame["height_sigma_m"] > 0).all()
    assert ((frame["roof_height_m"] >= 0) & (frame["roof_height_m"] < span_m)).all()
    assert ((frame["roof_height_m"] == 0) == (frame["roof_shape"] == "flat")).all()
    pd.testing.assert_frame_equal(pd.DataFrame(frame.to_wkb()), pd.DataFrame(turned.frame.to_wkb()))
