"""One building: extent and roof of its tags, materials, clean polygons."""

from collections import Counter

import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from ueloc_core.geodata.buildings import (
    LEVEL_M,
    MATERIALS,
    clean_polygons,
    cut_polygons,
    described,
    roof_material,
    wall_material,
)
from ueloc_core.geodata.roof_tags import direction_deg, fitted_rise_m, read_roof, roof_rise_m

HOUSE = shapely.box(0, 0, 20, 10)
TEXT = st.text(alphabet="0123456789.,;-~ m'\"ft", max_size=8)
SHAPES = st.sampled_from(["flat", "gabled", "hipped", "dome", "skillion", "many", ""])
ABSURD_TAGS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(
            (
                *("height", "building:levels", "min_height", "building:min_level"),
                *("roof:levels", "roof:height", "roof:angle", "roof:direction"),
            ),
            TEXT,
        ),
        "roof:shape": SHAPES,
        "roof:orientation": st.sampled_from(["along", "across", "upwards"]),
        "building": st.sampled_from(["yes", "roof", "church", "garage"]),
    },
)


def _described(counts=None, shape=HOUSE, **tags):
    tags = {key.replace("__", ":"): value for key, value in tags.items()}
    return described("way/1", "building", tags, shape, Counter() if counts is None else counts)


@given(ABSURD_TAGS)
def test_absurd_tags_give_an_underside_below_the_top_and_a_roof_that_fits(tags):
    building = described("way/1", "building", tags, HOUSE, Counter())
    assert 0 <= building.base_m < 1000
    if building.top_m is None:
        assert building.source == "imputed"
        return
    assert building.base_m < building.top_m <= 1000
    assert building.sigma_m > 0
    span_m = building.top_m - building.base_m
    rise_m = fitted_rise_m(building.roof, building.rise_m, span_m)
    assert 0 <= rise_m < span_m
    direction = direction_deg(building.roof, HOUSE)
    assert direction is None or 0 <= direction < 360


def test_height_is_the_tag_then_the_levels_and_the_roof_upon_them():
    both = _described(height="18", building__levels="3")
    assert (both.top_m, both.source) == (18.0, "tag")
    levels = _described(building__levels="3", roof__levels="1")
    assert (levels.top_m, levels.source) == (pytest.approx(4 * LEVEL_M), "levels")
    pitched = _described(building__levels="3", roof__shape="gabled", roof__height="4")
    assert pitched.top_m == pytest.approx(3 * LEVEL_M + 4)
    counts = Counter()
    assert _described(counts, height="99999", building__levels="2").source == "levels"
    assert counts["unreadable_height"] == 1
    assert _described(height="~18").sigma_m > _described(height="18").sigma_m
    assert _described().top_m is None


def test_undersides_and_their_repair():
    assert _described(height="20", building__min_level="2").base_m == 2 * LEVEL_M
    assert _described(height="20", min_height="5").base_m == 5
    counts = Counter()
    measured_from_below = _described(counts, height="5", min_height="20")
    assert (measured_from_below.base_m, measured_from_below.top_m) == (20, 25)
    slab = _described(counts, height="12", min_height="12")
    assert (slab.base_m, slab.top_m) == (11.5, 12)
    assert counts["min_heights_repaired"] == 2


def test_a_roof_on_pillars_starts_at_its_eaves():
    canopy = _described(building="roof", height="6")
    assert canopy.base_m == 5.5
    pitched = _described(building="carport", height="6", roof__shape="gabled", roof__height="2")
    assert pitched.base_m == 3.5


@pytest.mark.parametrize(
    ("shape", "drawn", "counted"),
    [
        ("flat", "flat", None),
        ("gabled", "gabled", None),
        ("half-hipped", "hipped", "roof_shapes_approximated"),
        ("mansard", "hipped", "roof_shapes_approximated"),
        ("gambrel", "gabled", "roof_shapes_approximated"),
        ("dome", "pyramidal", "roof_shapes_approximated"),
        ("onion", "pyramidal", "roof_shapes_approximated"),
        ("lean_to", "skillion", None),
        ("many", "flat", "unreadable_roof_shape"),
        ("9.0", "flat", "unreadable_roof_shape"),
    ],
)
def test_roof_shapes(shape, drawn, counted):
    counts = Counter()
    assert read_roof({"roof:shape": shape}, counts).shape == drawn
    assert counts == ({} if counted is None else {counted: 1})


def test_the_height_of_a_roof_by_tag_levels_slope_and_width():
    def rise_m(**tags):
        tags = {f"roof:{key}": value for key, value in tags.items()}
        return roof_rise_m(read_roof(tags, Counter()), HOUSE)

    assert rise_m(shape="gabled", height="3", angle="45") == 3
    assert rise_m(shape="gabled", levels="2", angle="45") == 6.4
    assert rise_m(shape="gabled", angle="45") == pytest.approx(5)
    assert rise_m(shape="gabled", angle="45", orientation="across") == pytest.approx(10)
    assert rise_m(shape="skillion", angle="45", direction="E") == pytest.approx(20)
    assert rise_m(shape="gabled") == pytest.approx(5 * 3**-0.5)
    assert rise_m(height="3") == 0


def test_directions_of_roofs():
    def direction(**tags):
        tags = {f"roof:{key}": value for key, value in tags.items()}
        return direction_deg(read_roof(tags, Counter()), HOUSE)

    assert direction(shape="skillion", direction="SW") == 225
    assert direction(shape="gabled", direction="360") == 0
    assert direction(shape="gabled") is None
    assert direction(shape="gabled", orientation="along") is None
    assert direction(shape="gabled", orientation="across") == pytest.approx(90)
    assert direction(shape="gabled", direction="across") == pytest.approx(90)
    assert direction(shape="pyramidal", direction="SW") is None
    assert direction(direction="SW") is None


@pytest.mark.parametrize(
    ("tags", "material"),
    [
        ({"building:material": "brick"}, ("brick", "tag")),
        ({"building:material": "Glass;steel"}, ("glass", "tag")),
        (
            {"building:facade:material": "stone", "building:material": "brick"},
            ("marble", "tag"),
        ),
        ({"building:cladding": "steel"}, ("metal", "tag")),
        ({"building:material": "unobtainium"}, ("concrete", "type")),
        ({"building": "shed"}, ("wood", "type")),
        ({"building": "house"}, ("brick", "type")),
        ({"building": "yes"}, ("concrete", "type")),
    ],
)
def test_material_of_the_walls(tags, material):
    counts = Counter()
    assert wall_material(tags, counts) == material
    unknown = tags.get("building:material") == "unobtainium"
    assert counts == ({"unreadable_building_material": 1} if unknown else {})


@pytest.mark.parametrize(
    ("value", "material"),
    [
        *(("roof_tiles", "brick"), ("copper", "metal"), ("zinc", "metal"), ("glass", "glass")),
        *(("tar_paper", "concrete"), ("gravel", "concrete"), ("grass", "concrete")),
        *(("slate", "marble"), ("stone", "marble"), ("thatch", "wood"), ("metal", "metal")),
    ],
)
def test_material_of_the_roof(value, material):
    assert roof_material({"roof:material": value}, "flat", Counter()) == (material, "tag")
    assert material in MATERIALS


def test_material_of_a_roof_without_a_tag():
    assert roof_material({}, "flat", Counter()) == ("concrete", "type")
    assert roof_material({}, "gabled", Counter()) == ("brick", "type")
    assert roof_material({"building": "industrial"}, "flat", Counter()) == ("metal", "type")


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


def test_a_cut_leaves_no_thin_tail():
    shape, cover = shapely.box(0, 0, 20, 10), shapely.box(10, -1, 21, 9.9)
    assert cut_polygons(shape, cover, 0.3).area == pytest.approx(100, abs=0.1)
    assert cut_polygons(shape, shapely.box(-1, -1, 21, 9.9), 0.3) is None
    assert cut_polygons(shape, shapely.box(50, 50, 60, 60), 0.3).equals(shape)


COORDINATE = st.integers(-300_000, 300_000).map(lambda value: value / 10_000)


@given(st.lists(st.tuples(COORDINATE, COORDINATE), min_size=3, max_size=12))
def test_any_ring_becomes_valid_or_nothing(points):
    cleaned = clean_polygons(shapely.Polygon(points))
    if cleaned is not None:
        assert cleaned.is_valid
        assert cleaned.geom_type in ("Polygon", "MultiPolygon")
        assert min(part.area for part in shapely.get_parts(cleaned)) >= 1
