"""The sea lies to the right of a coastline."""

from collections import Counter

import pytest
import shapely

from ueloc_core.geodata.coastline import sea_polygons

BOX = shapely.box(0, 0, 1000, 1000)
NORTHWARDS = shapely.LineString([(400, -50), (400, 1050)])


def _sea(*lines, boxes=(BOX,), buildings=()):
    counts = Counter()
    return sea_polygons(lines, boxes, buildings, counts), counts


def test_land_is_on_the_left():
    east, counts = _sea(NORTHWARDS)
    assert east.bounds == (400, 0, 1000, 1000)
    assert not counts
    west, _ = _sea(NORTHWARDS.reverse())
    assert west.bounds == (0, 0, 400, 1000)


def test_ways_of_one_coast_are_joined_in_any_order():
    lower = shapely.LineString([(400, -50), (450, 500)])
    upper = shapely.LineString([(450, 500), (400, 1050)])
    one, _ = _sea(lower, upper)
    other, _ = _sea(upper, lower)
    assert one.equals(other)
    assert one.contains(shapely.Point(900, 500))


def test_an_island_is_a_hole_and_a_lone_island_is_surrounded():
    island = shapely.LineString([(600, 400), (700, 400), (700, 500), (600, 500), (600, 400)])
    sea, _ = _sea(NORTHWARDS, island)
    assert sea.area == pytest.approx(600 * 1000 - 100 * 100)
    alone, _ = _sea(island)
    assert alone.area == pytest.approx(1000 * 1000 - 100 * 100)


def test_the_first_box_that_the_coast_crosses_is_filled():
    larger = shapely.box(-500, -500, 1500, 1500)
    sea, counts = _sea(NORTHWARDS, boxes=(larger, BOX))
    assert sea.bounds == (400, 0, 1000, 1000)
    assert not counts


def test_short_gaps_are_bridged_and_counted():
    lower = shapely.LineString([(400, -50), (400, 450)])
    upper = shapely.LineString([(400, 550), (400, 900)])
    sea, counts = _sea(lower, upper)
    assert sea.area == pytest.approx(600 * 1000, rel=1e-6)
    assert counts["coastline_gaps_bridged"] == 2


def test_a_coast_that_ends_at_sea_is_counted_and_gives_none():
    wide = shapely.box(0, 0, 3000, 3000)
    sea, counts = _sea(shapely.LineString([(1500, 1000), (1500, 2000)]), boxes=(wide,))
    assert sea is None
    assert counts["coastlines_unclosed"] == 2


def test_a_sea_full_of_buildings_is_land_whose_coast_is_lost():
    town = [shapely.box(x, y, x + 50, y + 50) for x in (500, 700) for y in (200, 400, 600)]
    sea, counts = _sea(NORTHWARDS, buildings=town)
    assert sea is None
    assert counts["seas_with_buildings_dropped"] == 1
    pier, _ = _sea(NORTHWARDS, buildings=town[:1])
    assert pier.area == pytest.approx(600 * 1000)


def test_without_coastlines_there_is_no_sea():
    assert _sea() == (None, Counter())
    beyond = shapely.LineString([(5000, 0), (5000, 10)])
    assert _sea(beyond) == (None, Counter())
