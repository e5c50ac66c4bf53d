import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from ueloc_core.city import load_city
from ueloc_core.errors import UelocError
from ueloc_core.grid import Window
from ueloc_core.localization.regions import (
    containing_radius_m,
    hpd_cells,
    hpd_region,
    to_wgs84,
)

WINDOW = Window(column=96_000, row=1_668_000, columns=12, rows=9, cell_m=4.0)


def random_mass(seed: int, window: Window = WINDOW, total: float = 1.0) -> np.ndarray:
    mass = np.random.default_rng(seed).gamma(0.3, size=window.shape)
    return total * mass / mass.sum()


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.99))
def test_the_cells_hold_the_level_and_no_cell_can_be_spared(seed, level):
    mass = random_mass(seed)
    cells = hpd_cells(mass, level)
    assert mass[cells].sum() >= level - 1e-9
    assert mass[cells].sum() - mass[cells].min() < level
    assert mass[cells].min() >= mass[~cells].max(initial=0)


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.99))
def test_a_region_has_exactly_the_area_of_its_cells(seed, level):
    mass = random_mass(seed)
    region = hpd_region(mass, WINDOW, level)
    assert region.is_valid
    assert region.area == hpd_cells(mass, level).sum() * 16.0


def test_a_region_lies_where_its_cells_lie():
    mass = random_mass(3)
    region = hpd_region(mass, WINDOW, 0.6)
    x_m, y_m = np.meshgrid(WINDOW.x_centres_m, WINDOW.y_centres_m)
    inside = shapely.contains_xy(region, x_m, y_m)
    np.testing.assert_array_equal(inside, hpd_cells(mass, 0.6))


def test_regions_are_nested():
    mass = random_mass(4)
    assert hpd_region(mass, WINDOW, 0.9).covers(hpd_region(mass, WINDOW, 0.5))


def test_a_courtyard_is_a_hole():
    mass = np.zeros(WINDOW.shape)
    mass[2:5, 2:5] = 1 / 8
    mass[3, 3] = 0
    (ring,) = hpd_region(mass, WINDOW, 0.99).geoms
    assert len(ring.interiors) == 1
    assert ring.area == 8 * 16


def test_ties_take_no_more_cells_than_needed():
    mass = np.full((10, 10), 0.01)
    assert hpd_cells(mass, 0.5).sum() == 50
    assert hpd_cells(mass, 0.0).sum() == 0
    assert hpd_cells(mass, 1.0).sum() == 100


def test_a_window_that_holds_too_little_is_taken_whole():
    assert hpd_cells(random_mass(5, total=0.7), 0.9).all()


def test_a_stack_is_cut_one_by_one():
    stack = np.stack([random_mass(s) for s in range(4)]).reshape(2, 2, *WINDOW.shape)
    np.testing.assert_array_equal(hpd_cells(stack, 0.8)[1, 0], hpd_cells(stack[1, 0], 0.8))


@pytest.mark.parametrize("level", [-0.1, 1.1, float("nan")])
def test_a_level_is_a_probability(level):
    with pytest.raises(UelocError, match="level"):
        hpd_cells(random_mass(0), level)


@pytest.mark.parametrize("bad", [-1e-3, float("nan")])
def test_a_bad_mass_is_refused(bad):
    mass = random_mass(0)
    mass[1, 1] = bad
    with pytest.raises(UelocError, match="mass"):
        hpd_cells(mass, 0.5)


def test_a_raster_of_another_shape_is_refused():
    with pytest.raises(UelocError, match="shape"):
        hpd_region(random_mass(0).T, WINDOW, 0.5)


def test_radius_of_a_gaussian_is_that_of_theory():
    window = Window(0, 0, 200, 200, 2.0)
    sigma_m = 25.0
    x_m, y_m = np.meshgrid(window.x_centres_m - 200, window.y_centres_m - 200)
    mass = np.exp(-(x_m**2 + y_m**2) / (2 * sigma_m**2))
    mass /= mass.sum()
    for level in (0.5, 0.9):
        radius_m = containing_radius_m(mass, window, 200, 200, level)
        assert radius_m == pytest.approx(sigma_m * np.sqrt(-2 * np.log(1 - level)), abs=1)
        area_m2 = hpd_region(mass, window, level).area
        assert area_m2 == pytest.approx(np.pi * radius_m**2, rel=0.04)


def test_radius_is_infinite_where_the_window_holds_too_little():
    assert containing_radius_m(random_mass(1, total=0.8), WINDOW, 0, 0, 0.9) == float("inf")


def test_wgs84_lies_in_the_city_and_keeps_the_area():
    city = load_city("helsinki")
    x0, y0, x1, y1 = city.bounds_m
    window = Window.centred((x0 + x1) / 2, (y0 + y1) / 2, 400, 4)
    region = hpd_region(random_mass(2, window), window, 0.5)
    lonlat = to_wgs84(region, city)
    west, south, east, north = city.bbox
    assert shapely.box(west, south, east, north).covers(lonlat)
    metres_per_degree = 111_320
    area_m2 = lonlat.area * metres_per_degree**2 * np.cos(np.radians((south + north) / 2))
    assert area_m2 == pytest.approx(region.area, rel=0.01)
    assert all(shapely.is_ccw(polygon.exterior) for polygon in lonlat.geoms)
