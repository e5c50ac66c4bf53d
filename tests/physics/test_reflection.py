"""Reflections at the ground, at a wall and in a corner against images and Fresnel."""

import numpy as np
import pytest
from small_scenes import (
    BOTH,
    CONCRETE_M,
    ISO,
    PANE,
    azimuth_deg,
    box,
    concrete,
    delay_ns,
    friis,
    ground,
    permittivity,
    places,
    reflectivity,
    small_scene,
    square,
    trace,
    turn_deg,
    zenith_deg,
)

from ueloc_core.radio.ray_tracing import Plane

pytestmark = pytest.mark.slow

SLABS = {
    "concrete": (concrete(), CONCRETE_M),
    "pane": (permittivity(*PANE[:2]), PANE[2]),
    "metal": (permittivity(1.0, 1e7), 0.01),
}


def distance(place_m, grid, parts=1):
    return np.linalg.norm(places(grid, parts) - place_m, axis=-1)


@pytest.fixture(scope="module")
def open_ground(tmp_path_factory):
    return small_scene(tmp_path_factory.mktemp("ground"), ground=(ground(400), "concrete"))


def test_two_rays_over_the_ground(open_ground):
    """Powers of the direct and the reflected path add up, in mean over each grid cell."""
    mast, image = (1.0, 2.0, 20.0), (1.0, 2.0, -20.0)
    grid = square((60.0, 0.0), 16, 4.0, 1.5)
    site = trace(open_ground, mast, grid, ISO, BOTH, rays=100_000)
    direct, other = distance(mast, grid, 6), distance(image, grid, 6)
    for found, polarization in zip(site.sectors, ("V", "VH"), strict=True):
        share = reflectivity(
            image, places(grid, 6), (0, 0, 1), *SLABS["concrete"], polarization=polarization
        )
        power = (friis(direct) + friis(other) * share).mean(axis=-1)
        error = found.path_gain_db - 10 * np.log10(power)
        assert abs(error.mean()) < 0.005
        assert np.abs(error).max() < 0.5
        # without the reflection the error would be far above that
        assert np.mean(10 * np.log10(power / friis(direct).mean(axis=-1))) > 0.02
    assert (site.sectors[1].path_gain_db > site.sectors[0].path_gain_db).all()  # Brewster


def test_delays_of_two_rays(open_ground):
    """Mean delay and delay spread are the moments of two known powers at two known delays."""
    mast, image = (0.0, 0.0, 30.0), (0.0, 0.0, -30.0)
    grid = square((50.0, 0.0), 8, 4.0, 12.0)
    site = trace(open_ground, mast, grid, BOTH, rays=200_000)
    found = site.sectors[0]
    first, second = (delay_ns(distance(place, grid)[..., 0]) for place in (mast, image))
    share = reflectivity(
        image, places(grid)[:, :, 0], (0, 0, 1), *SLABS["concrete"], polarization="VH"
    )
    weight = friis(distance(image, grid)[..., 0]) * share
    weight = weight / (weight + friis(distance(mast, grid)[..., 0]))
    np.testing.assert_allclose(found.first_arrival_ns, first, atol=0.03)
    late = found.mean_delay_ns - first
    spread = np.sqrt(weight * (1 - weight)) * (second - first)
    assert (second - first).min() > 20
    np.testing.assert_allclose(late, weight * (second - first), rtol=0.25)
    np.testing.assert_allclose(found.delay_spread_ns, spread, rtol=0.15)
    assert np.mean(late / (weight * (second - first))) == pytest.approx(1, abs=0.02)
    assert np.mean(found.delay_spread_ns / spread) == pytest.approx(1, abs=0.02)


def test_a_weak_reflection_is_late_but_never_first(open_ground):
    """20 dB below the strongest path a path is not detected; none is earlier than the first."""
    grid = square((50.0, 0.0), 8, 4.0, 1.5)
    found = trace(open_ground, (0.0, 0.0, 30.0), grid, BOTH).sectors[0]
    assert (found.mean_delay_ns >= found.first_arrival_ns).all()
    assert (found.delay_spread_ns >= 0).all()


@pytest.fixture(scope="module")
def walls(tmp_path_factory):
    """A wall along x at y = 40, and a screen that reflects nothing, by material of the wall."""
    wall, screen = box((0, 100), (40, 42), (-60, 60)), box((30, 31), (-25, 12), (-60, 60))
    return {
        material: small_scene(
            tmp_path_factory.mktemp(material), wall=(wall, material), screen=(screen, "black")
        )
        for material in SLABS
    }


WALL_MAST, WALL_IMAGE = (0.0, 0.0, 10.0), (0.0, 80.0, 10.0)
WALL_GRID = square((60.0, 0.0), 6, 4.0, 1.5)


@pytest.mark.parametrize("material", SLABS)
def test_a_wall_reflects_as_fresnel_says(walls, material):
    """Behind the screen nothing arrives but the wall's reflection."""
    site = trace(walls[material], WALL_MAST, WALL_GRID, ISO, BOTH, rays=300_000)
    assert (site.line_of_sight == 0).all()
    free = friis(distance(WALL_IMAGE, WALL_GRID, 6))
    by_polarization = {}
    for found, polarization in zip(site.sectors, ("V", "VH"), strict=True):
        share = reflectivity(
            WALL_IMAGE,
            places(WALL_GRID, 6),
            (0, 1, 0),
            *SLABS[material],
            polarization=polarization,
        )
        error = found.path_gain_db - 10 * np.log10((free * share).mean(axis=-1))
        assert abs(error.mean()) < 0.05
        assert np.abs(error).max() < 0.6
        by_polarization[polarization] = share.mean()
    if material == "metal":
        assert by_polarization["V"] == pytest.approx(1, abs=1e-3)
    else:  # the vertical field is parallel to the wall: TE, which reflects more
        assert by_polarization["V"] > 1.2 * by_polarization["VH"]


def test_a_reflection_comes_from_the_image(walls):
    """Delay, direction of arrival and, mirrored, of departure."""
    found = trace(walls["concrete"], WALL_MAST, WALL_GRID, rays=300_000).sectors[0]
    way = places(WALL_GRID)[:, :, 0] - WALL_IMAGE
    length = np.linalg.norm(way, axis=-1)
    np.testing.assert_allclose(found.first_arrival_ns, delay_ns(length), atol=0.03)
    np.testing.assert_allclose(found.mean_delay_ns, delay_ns(length), atol=0.03)
    assert found.delay_spread_ns.max() < 0.01
    assert turn_deg(found.arrival_azimuth_deg, azimuth_deg(-way)).max() < 0.3
    assert np.abs(found.arrival_zenith_deg - zenith_deg(-way)).max() < 0.1
    mirrored = way * (1, -1, 1)
    assert turn_deg(found.departure_azimuth_deg, azimuth_deg(mirrored)).max() < 0.3
    assert np.abs(found.departure_zenith_deg - zenith_deg(mirrored)).max() < 0.1


def test_depth_zero_is_the_direct_path_alone(walls):
    found = trace(walls["metal"], WALL_MAST, WALL_GRID, max_depth=0, diffraction=True).sectors[0]
    assert np.isnan(found.path_gain_db).all()
    assert (found.ray_hits == 0).all()


def test_no_reflection_without_reflections(walls):
    found = trace(walls["metal"], WALL_MAST, WALL_GRID, reflection=False).sectors[0]
    assert np.isnan(found.path_gain_db).all()


def test_a_corner_of_metal_reflects_twice(tmp_path):
    """Behind a screen: one image in each wall, and one in both, whose path has two reflections."""
    scene = small_scene(
        tmp_path,
        north=(box((-100, 41), (40, 41), (-200, 200)), "metal"),
        east=(box((40, 41), (-100, 40), (-200, 200)), "metal"),
        screen=(box((-30, -29), (-60, 8), (-200, 200)), "black"),
    )
    mast = -50.0, 0.0, 10.0
    # the rays reach twice as far, unfolded, as the grid's farthest corner
    grid = Plane((-200.0, -6.0), 53, 3, 4.0, 1.5)
    inner = np.s_[:, -3:]
    images = {1: [(-50.0, 80.0, 10.0)], 2: [(-50.0, 80.0, 10.0), (130.0, 80.0, 10.0)]}
    for depth, seen in images.items():
        found = trace(scene, mast, grid, rays=400_000, max_depth=depth).sectors[0]
        power = sum(friis(distance(image, grid, 4)).mean(axis=-1) for image in seen)
        error = (found.path_gain_db - 10 * np.log10(power))[inner]
        assert abs(error.mean()) < 0.15
        assert np.abs(error).max() < 1
    third = trace(scene, mast, grid, rays=400_000, max_depth=5).sectors[0]
    assert np.abs(third.path_gain_db - found.path_gain_db)[inner].max() < 1e-3


def test_terminals_above_the_mast_are_reached_by_way_of_ground_and_wall(tmp_path):
    """As a drone is: its plane lies above the antenna."""
    scene = small_scene(
        tmp_path,
        ground=(ground(400), "metal"),
        wall=(box((-200, 200), (60, 61), (0, 300)), "metal"),
    )
    mast = np.array((0.0, 0.0, 10.0))
    grid = Plane((20.0, -80.0), 6, 25, 4.0, 60.0)
    images = [mast, mast * (1, 1, -1)]
    images += [image * (1, -1, 1) + (0, 120, 0) for image in images]
    power = sum(friis(distance(image, grid, 4)).mean(axis=-1) for image in images)
    found = trace(scene, tuple(mast), grid, rays=400_000, max_depth=2).sectors[0]
    error = (found.path_gain_db - 10 * np.log10(power))[-6:]
    assert abs(error.mean()) < 0.05
    assert np.abs(error).max() < 0.5
    directly = 10 * np.log10(friis(distance(mast, grid)[..., 0]))
    assert (found.path_gain_db - directly)[-6:].mean() > 1
