"""Dirty tags, heights, materials, parts against outlines."""

from collections import Counter

import geopandas as gpd
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from ueloc_core.geodata.buildings import (
    LEVEL_M,
    building_height,
    building_material,
    clean_polygons,
    parse_length_m,
    resolve_parts,
)


@pytest.mark.parametrize(
    ("text", "length_m"),
    [
        ("12", 12.0),
        ("12.13 m", 12.13),
        ("12,5", 12.5),
        ("12m", 12.0),
        ("12 metres", 12.0),
        ("~20", 20.0),
        ("ca. 20 m", 20.0),
        ("3;4", 3.5),
        ("10-12", 11.0),
        ("10 m - 12 m", 11.0),
        ("40'", 12.192),
        ("40'6\"", 12.3444),
        ("40 ft", 12.192),
        ("40 feet 6 in", 12.3444),
        ("-3", None),
        ("tall", None),
        ("", None),
        ("12 km", None),
        ("3;tall", None),
        (None, None),
        (float("nan"), None),
    ],
)
def test_lengths_in_every_form_that_occurs(text, length_m):
    assert parse_length_m(text) == (None if length_m is None else pytest.approx(length_m))


@given(st.text())
def test_no_text_breaks_the_parser(text):
    length_m = parse_length_m(text)
    assert length_m is None or length_m >= 0


@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            ("height", "building:levels", "min_height", "building:min_level", "roof:levels"),
            st.text(alphabet="0123456789.,;-~ m'\"ft", max_size=8),
        ),
    ),
    st.floats(1, 1e5),
)
def test_every_building_has_a_height_above_its_underside(tags, area_m2):
    height = building_height(tags, area_m2, "way/1", seed=1)
    assert 0 < height.height_m <= 2000
    assert 0 <= height.min_height_m < height.height_m
    assert height.sigma_m > 0


def test_height_prefers_the_tag_then_levels():
    assert building_height({"height": "18"}, 100, "way/1", 1).source == "tag"
    both = building_height({"height": "18", "building:levels": "3"}, 100, "way/1", 1)
    assert (both.height_m, both.source) == (18.0, "tag")
    levels = building_height({"building:levels": "3", "roof:levels": "1"}, 100, "way/1", 1)
    assert (levels.height_m, levels.source) == (4 * LEVEL_M, "levels")
    unusable = building_height({"height": "99999", "building:levels": "2"}, 100, "way/1", 1)
    assert unusable.source == "levels"
    raised = building_height({"height": "20", "building:min_level": "2"}, 100, "way/1", 1)
    assert raised.min_height_m == 2 * LEVEL_M


def test_imputed_height_depends_on_type_footprint_seed_and_id_alone():
    first = building_height({"building": "yes"}, 300, "way/1", 1)
    assert first == building_height({"building": "yes", "name": "x"}, 300, "way/1", 1)
    assert first.source == "imputed"
    assert first != building_height({"building": "yes"}, 300, "way/2", 1)
    assert first != building_height({"building": "yes"}, 300, "way/1", 2)
    garage = building_height({"building": "garage"}, 300, "way/1", 1)
    church = building_height({"building": "church"}, 300, "way/1", 1)
    assert garage.height_m < first.height_m < church.height_m
    assert church.sigma_m > garage.sigma_m


@pytest.mark.parametrize(
    ("tags", "material"),
    [
        ({"building:material": "brick"}, "brick"),
        ({"building:material": "Glass;steel"}, "glass"),
        ({"building:facade:material": "stone", "building:material": "brick"}, "marble"),
        ({"building:material": "unobtainium"}, "concrete"),
        ({"building": "shed"}, "wood"),
        ({"building": "house"}, "brick"),
        ({"building": "yes"}, "concrete"),
    ],
)
def test_material_of_the_walls(tags, material):
    assert building_material(tags) == material


def test_self_intersection_becomes_valid_polygons():
    bow_tie = shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])
    cleaned = clean_polygons(bow_tie)
    assert cleaned.is_valid
    assert cleaned.geom_type == "MultiPolygon"
    assert cleaned.area == pytest.approx(50)


def test_slivers_vanish_and_courtyards_stay():
    assert clean_polygons(shapely.box(0, 0, 50, 0.05)) is None
    assert clean_polygons(shapely.box(0, 0, 0.5, 0.5)) is None
    ring = shapely.box(0, 0, 20, 20).difference(shapely.box(5, 5, 15, 15))
    assert len(clean_polygons(ring).interiors) == 1
    assert clean_polygons(ring).area == pytest.approx(300)


def _frame(shapes, **tags):
    columns = {"building": "yes", "height": None, "building:levels": None, **tags}
    names = [f"way/{index}" for index in range(len(shapes))]
    return gpd.GeoDataFrame(columns, index=names, geometry=shapes, crs="EPSG:32635")


def test_parts_that_cover_their_outline_replace_it():
    outline = _frame([shapely.box(0, 0, 10, 10)], height="12")
    parts = _frame([shapely.box(0, 0, 10, 5), shapely.box(0, 5, 10, 10)], height=[None, "30"])
    counts = Counter()
    buildings, kept = resolve_parts(outline, parts, counts)
    assert len(buildings) == 0
    assert list(kept["height"]) == ["12", "30"]
    assert counts == {"outlines_replaced_by_parts": 1, "parts_dropped": 0}


def test_parts_that_cover_little_are_dropped():
    outline = _frame([shapely.box(0, 0, 10, 10)])
    counts = Counter()
    buildings, kept = resolve_parts(outline, _frame([shapely.box(0, 0, 5, 5)]), counts)
    assert (len(buildings), len(kept)) == (1, 0)
    assert counts["parts_dropped"] == 1


def test_parts_without_an_outline_stay():
    lonely = _frame([shapely.box(50, 50, 60, 60)])
    buildings, kept = resolve_parts(_frame([shapely.box(0, 0, 10, 10)]), lonely, Counter())
    assert (len(buildings), len(kept)) == (1, 1)
