"""Real paths with their fields added up: Friis, the two-ray model, and a wall's standing wave."""

import numpy as np
import pytest
from small_scenes import (
    FREQUENCY_HZ,
    ISO,
    WAVELENGTH_M,
    box,
    delay_ns,
    friis,
    ground,
    nothing,
    permittivity,
    reflectivity,
    small_scene,
)

from ueloc_core.measurement.path_levels import Tones, coherent_gain, movement_phases
from ueloc_core.measurement.path_propagation import SiteWork, site_paths
from ueloc_core.radio.ray_tracing import Interactions

pytestmark = pytest.mark.slow

MAST = 0.0, 0.0, 25.0
CARRIER = Tones(FREQUENCY_HZ, np.zeros(1))
BAND = Tones(FREQUENCY_HZ, 30e3 * (np.arange(240) - 119.5))
PLACES = np.array([(40.0, 10.0, 1.5), (-90.0, 60.0, 1.5), (150.0, -200.0, 1.5)])


def paths_of(scene, *places_m, max_depth=1):
    interactions = Interactions(max_depth=max_depth, diffraction=True)
    work = SiteWork(scene.file, FREQUENCY_HZ, interactions, MAST, (ISO,), np.array(places_m), 1)
    (paths,) = site_paths([work])
    return paths


def of_place(paths, place, phase, tones):
    own = paths.position == place
    return coherent_gain(paths.gain[:, own], paths.delay_ns[own], phase, tones)[0]


@pytest.fixture(autouse=True)
def few_rays(monkeypatch):
    """Enough for a body or two."""
    monkeypatch.setattr("ueloc_core.measurement.path_propagation.SAMPLES", 20_000)


@pytest.fixture(scope="module")
def free_space(tmp_path_factory):
    return small_scene(tmp_path_factory.mktemp("free"), far=(nothing(), "concrete"))


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    return small_scene(tmp_path_factory.mktemp("field"), ground=(ground(400), "metal"))


@pytest.fixture(scope="module")
def wall(tmp_path_factory):
    """A wall whose face is the plane x = 100 m."""
    body = box((100, 101), (-80, 80), (-10, 60))
    return small_scene(tmp_path_factory.mktemp("wall"), wall=(body, "metal"))


@pytest.mark.parametrize("tones", [CARRIER, BAND], ids=["carrier", "band"])
def test_free_space_is_friis_at_any_phase(free_space, tones):
    paths = paths_of(free_space, *PLACES)
    length_m = np.linalg.norm(PLACES - np.array(MAST), axis=1)
    for place in range(len(PLACES)):
        found = of_place(paths, place, np.array([[1.7]]), tones)
        assert 10 * np.log10(found / friis(length_m[place])) == pytest.approx(0.0, abs=1e-3)


def test_level_ground_is_the_two_ray_model(field):
    """Direct and reflected path, the metal's reflection with a phase of pi."""
    paths = paths_of(field, *PLACES)
    assert np.bincount(paths.position).tolist() == [2, 2, 2]
    flat_m = np.hypot(*PLACES[:, :2].T)
    direct_m, image_m = np.hypot(flat_m, 23.5), np.hypot(flat_m, 26.5)
    metal = permittivity(1.0, 1e7)
    for place, (near_m, far_m) in enumerate(zip(direct_m, image_m, strict=True)):
        image = PLACES[place] * [1, 1, -1]
        share = reflectivity(MAST, image, (0.0, 0.0, 1.0), metal, 0.01)
        amplitude = np.sqrt([friis(near_m), friis(far_m) * share])
        turn = 2 * np.pi * (far_m - near_m) / WAVELENGTH_M
        expected = (amplitude**2).sum() - 2 * amplitude.prod() * np.cos(turn)
        found = of_place(paths, place, np.array([[0.0, np.pi]]), CARRIER)
        # single precision keeps the lengths to 0.02 mm: 0.1 degrees
        assert found == pytest.approx(expected, rel=0.02, abs=0.004 * (amplitude**2).sum())


def test_a_wall_makes_a_standing_wave(wall):
    """Along the wave the level found from one position is that of paths to each place."""
    place = np.array([90.0, 0.0, 25.0])
    step_m = np.array([[WAVELENGTH_M * part, 0.0, 0.0] for part in (0.0, 0.125, 0.25, 0.375)])
    one = paths_of(wall, place)
    assert len(one) == 2
    every = paths_of(wall, *(place + step_m))
    for k, moved_m in enumerate(step_m):
        phase = movement_phases(one.arrival, moved_m[None], FREQUENCY_HZ)
        moved = coherent_gain(one.gain, one.delay_ns, phase, CARRIER)[0]
        there = of_place(every, k, np.zeros((1, 2)), CARRIER)
        assert moved == pytest.approx(there, rel=0.02, abs=float(0.01 * one.gain.sum()))


def test_paths_that_the_band_tells_apart_add_up_their_powers(wall):
    """The detour over the wall, 180 m, is 600 ns, more than four periods of the band's 7.2 MHz."""
    paths = paths_of(wall, (0.5, 0.0, 5.0))
    assert len(paths) == 2
    apart_ns = np.diff(paths.delay_ns)[0]
    assert apart_ns == pytest.approx(delay_ns(180.0), rel=0.1)
    found = [of_place(paths, 0, np.array([[0.0, p]]), BAND) for p in np.linspace(0, 6, 13)]
    side = abs(np.sinc(7.2e-3 * apart_ns))
    most = 2 * side * np.sqrt(paths.gain.prod())
    np.testing.assert_allclose(found, paths.gain.sum(), atol=1.05 * most)


def test_the_same_seed_finds_the_same_paths(wall):
    one, two = (paths_of(wall, *PLACES, max_depth=3) for _ in range(2))
    np.testing.assert_array_equal(one.gain, two.gain)
    np.testing.assert_array_equal(one.delay_ns, two.delay_ns)
