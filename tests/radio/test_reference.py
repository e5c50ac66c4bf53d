"""Exact paths against formulas, and radio maps against exact paths."""

import numpy as np
import pytest
import trimesh

from ueloc_core.errors import RadioError
from ueloc_core.radio.antennas import Antenna, antenna_named, element_gain_db
from ueloc_core.radio.ray_tracing import (
    Interactions,
    Plane,
    RayScene,
    RaySet,
    Sector,
    SiteTracer,
    sionna_rt,
)
from ueloc_core.radio.ray_tracing.reference import reference_paths
from ueloc_core.units import SPEED_OF_LIGHT_M_S, free_space_gain_db

pytestmark = pytest.mark.slow

FREQUENCY_HZ, MAST, TERMINAL_M = 3.5e9, (0.0, 0.0, 30.0), 1.5
ISOTROPIC = Sector(antenna_named("iso"), 0.0, 0.0)
TILTED = Sector(antenna_named("tr38901"), 70.0, 20.0)
SECTORS = (ISOTROPIC, TILTED)
SEEN = np.array([(30.0, 0.0, TERMINAL_M), (-70.0, 40.0, TERMINAL_M), (20.0, -90.0, TERMINAL_M)])
HIDDEN = np.array([(60.0, 5.0, TERMINAL_M), (52.0, -8.0, TERMINAL_M), (66.0, 14.0, TERMINAL_M)])
EVERYTHING = Interactions(max_depth=3, diffraction=True)
STRAIGHT = Interactions(max_depth=0, diffraction=False)
SAMPLES = 200_000


def scene_of(folder, **boxes):
    """A scene of boxes of concrete, each (low corner, high corner) [m]."""
    text = (
        '<scene version="2.1.0"><bsdf type="itu-radio-material" id="mat-itu_concrete">'
        '<string name="type" value="concrete"/><float name="thickness" value="0.3"/></bsdf>'
    )
    for name, (low, high) in boxes.items():
        box = trimesh.creation.box(bounds=(low, high))
        box.export(folder / f"{name}.ply", vertex_normal=False)
        text += (
            f'<shape type="ply" id="mesh-{name}"><string name="filename" value="{name}.ply"/>'
            '<boolean name="face_normals" value="true"/>'
            '<ref id="mat-itu_concrete" name="bsdf"/></shape>'
        )
    (folder / "scene.xml").write_text(text + "</scene>")
    return RayScene(folder / "scene.xml", FREQUENCY_HZ)


@pytest.fixture(scope="module")
def free_space(tmp_path_factory):
    far = ((-10, -10, -5001), (10, 10, -5000))
    return scene_of(tmp_path_factory.mktemp("free"), far=far)


@pytest.fixture(scope="module")
def yard(tmp_path_factory):
    """A block that hides some of the ground, and a wall that reflects."""
    return scene_of(
        tmp_path_factory.mktemp("yard"),
        ground=((-200, -200, -1), (200, 200, 0)),
        block=((38, -40, 0), (42, 40, 20)),
        wall=((-100, 60, 0), (100, 64, 25)),
    )


def turn_deg(a, b):
    """Smallest angle between azimuths."""
    return np.abs((np.asarray(a) - b + 180) % 360 - 180)


def azimuth_deg(direction):
    return np.degrees(np.arctan2(direction[..., 0], direction[..., 1])) % 360


def zenith_deg(direction):
    return np.degrees(np.arccos(direction[..., 2]))


def point_map(scene, place, interactions):
    """Maps of a grid cell of two centimetres around a place: what is evaluated at points."""
    grid = Plane((place[0] - 0.01, place[1] - 0.01), 1, 1, 0.02, TERMINAL_M)
    maps = SiteTracer(scene, interactions).maps(MAST, SECTORS, grid, RaySet(400, 3))
    return maps.sectors


def test_free_space_is_friis_and_straight(free_space):
    paths = reference_paths(free_space, MAST, SECTORS, SEEN, EVERYTHING, samples=SAMPLES)
    assert paths.position.tolist() == [0, 1, 2]
    assert set(paths.kind) == {"los"}
    way = SEEN - np.array(MAST)
    distance = np.linalg.norm(way, axis=1)
    friis = free_space_gain_db(distance, FREQUENCY_HZ)
    np.testing.assert_allclose(10 * np.log10(paths.gain[0]), friis, atol=1e-3)
    np.testing.assert_allclose(paths.delay_ns, distance / SPEED_OF_LIGHT_M_S * 1e9, atol=1e-3)
    for direction in (paths.departure, paths.arrival):
        np.testing.assert_allclose(direction, way / distance[:, None], atol=1e-5)
    turn, drop = azimuth_deg(way) - 70.0, np.radians(20.0)
    local = np.stack([np.cos(np.radians(turn)), -np.sin(np.radians(turn))], axis=1)
    local = np.column_stack([local * np.hypot(*way[:, :2].T)[:, None], way[:, 2]])
    ahead = local[:, 0] * np.cos(drop) - local[:, 2] * np.sin(drop)
    above = local[:, 0] * np.sin(drop) + local[:, 2] * np.cos(drop)
    zenith = np.degrees(np.arccos(above / distance))
    azimuth = np.degrees(np.arctan2(local[:, 1], ahead))
    pattern = element_gain_db(zenith, azimuth, "tr38901")
    # the pattern is read from a table
    np.testing.assert_allclose(10 * np.log10(paths.gain[1]), friis + pattern, atol=0.02)


def test_kinds_of_paths(yard):
    """Seen: direct, over the ground, the wall and the block. Hidden: over the roof's edge."""
    paths = reference_paths(
        yard, MAST, [ISOTROPIC], np.concatenate([SEEN, HIDDEN]), EVERYTHING, samples=SAMPLES
    )
    kinds = [set(paths.kind[paths.position == k]) for k in range(6)]
    assert kinds[:3] == [{"los", "reflected"}] * 3
    assert kinds[3:] == [{"diffracted", "mixed"}] * 2 + [{"diffracted", "mixed", "reflected"}]
    assert paths.line_of_sight.sum() == 3
    assert np.all(np.diff(paths.position) >= 0)
    for k in range(6):
        assert np.all(np.diff(paths.delay_ns[paths.position == k]) >= 0)
    some = paths[~paths.mixed]
    assert some.positions == 6
    assert not some.mixed.any()
    assert len(some) < len(paths)
    assert paths.reflections.max() == 3


def test_a_place_without_paths(free_space):
    """Below the far floor, no line of sight; and no position at all."""
    below = np.array([(0.0, 0.0, -6000.0)])
    paths = reference_paths(free_space, MAST, SECTORS, below, EVERYTHING, samples=1000)
    assert len(paths) == 0
    assert paths.gain.shape == (2, 0)
    summary = paths.summary()
    assert np.isnan(summary.sectors[1].path_gain_db).tolist() == [True]
    assert summary.line_of_sight.tolist() == [0.0]
    nowhere = reference_paths(free_space, MAST, SECTORS, below[:0], EVERYTHING, samples=1000)
    assert (nowhere.positions, len(nowhere)) == (0, 0)
    with pytest.raises(RadioError, match="shape"):
        reference_paths(free_space, MAST, SECTORS, below[0], EVERYTHING)


def test_more_positions_than_are_solved_at_a_time(free_space):
    places = np.column_stack([np.linspace(10, 90, 70), np.zeros(70), np.full(70, 1.5)])
    paths = reference_paths(free_space, MAST, [ISOTROPIC], places, STRAIGHT, samples=1000)
    assert paths.position.tolist() == list(range(70))
    assert np.all(np.diff(paths.delay_ns) > 0)
    assert not free_space.sionna.transmitters  # the scene is left as it was
    assert not free_space.sionna.receivers


@pytest.mark.parametrize("sector", [1, 2])
def test_the_far_field_is_applied_as_sionna_applies_its_own(yard, sector):
    """Antennas that look down radiate both polarizations: their phases matter at reflections."""
    sectors = [
        ISOTROPIC,
        Sector(antenna_named("tr38901"), 60.0, 25.0),
        Sector(Antenna("dual", polarization="slant"), 60.0, 25.0),
    ]
    ours = reference_paths(yard, MAST, sectors, SEEN[:1], EVERYTHING, samples=SAMPLES)
    rt = sionna_rt()
    scene = RayScene(yard.file, FREQUENCY_HZ).sionna
    polarization = "V" if sector == 1 else "cross"
    scene.tx_array = rt.PlanarArray(
        num_rows=1, num_cols=1, pattern="tr38901", polarization=polarization
    )
    scene.rx_array = rt.PlanarArray(num_rows=1, num_cols=1, pattern="iso", polarization="VH")
    looks = [float(np.radians(30)), float(np.radians(25)), 0.0]
    scene.add(rt.Transmitter("t", list(MAST), orientation=looks))
    scene.add(rt.Receiver("r", [float(v) for v in SEEN[0]]))
    found = rt.PathSolver()(
        scene,
        max_depth=3,
        samples_per_src=SAMPLES,
        refraction=False,
        diffraction=True,
        diffraction_lit_region=False,
    )
    real, imaginary = (np.array(part)[0, :, 0] for part in found.a)
    power = (real**2 + imaginary**2).sum(axis=0).mean(axis=0)  # terminal's ports, mean over ours
    order = np.argsort(np.array(found.tau)[0, 0])
    np.testing.assert_allclose(
        10 * np.log10(ours.gain[sector]), 10 * np.log10(power[order]), atol=0.03
    )


@pytest.mark.parametrize("place", SEEN.tolist())
def test_the_direct_path_is_that_of_the_map(yard, place):
    paths = reference_paths(yard, MAST, SECTORS, [place], STRAIGHT, samples=1000)
    assert paths.kind.tolist() == ["los"]
    agree(paths, point_map(yard, place, STRAIGHT))


@pytest.mark.parametrize("place", HIDDEN.tolist())
def test_the_path_over_an_edge_is_that_of_the_map(yard, place):
    """In place, delay, directions and gain."""
    interactions = Interactions(max_depth=1, reflection=False)
    paths = reference_paths(yard, MAST, SECTORS, [place], interactions, samples=SAMPLES)
    assert paths.kind.tolist() == ["diffracted"]
    agree(paths, point_map(yard, place, interactions))


def agree(paths, maps):
    """One path, and maps that hold nothing else."""
    for gain, found in zip(paths.gain, maps, strict=True):
        wanted_db = 10 * np.log10(gain[0])
        assert float(found.path_gain_db[0, 0]) == pytest.approx(wanted_db, abs=0.03)
        assert float(found.first_arrival_ns[0, 0]) == pytest.approx(paths.delay_ns[0], abs=0.02)
        for end, toward in (("departure", paths.departure), ("arrival", -paths.arrival)):
            azimuth, zenith = (
                float(getattr(found, f"{end}_{angle}_deg")[0, 0]) for angle in ("azimuth", "zenith")
            )
            assert turn_deg(azimuth, azimuth_deg(toward)[0]) < 0.05
            assert zenith == pytest.approx(zenith_deg(toward)[0], abs=0.05)


def test_reflections_over_a_grid_cell_are_those_of_the_map(yard):
    """All sums of a map against the mean over positions in the same grid cells."""
    interactions = Interactions(max_depth=3, diffraction=False)
    cells, side, cell_m = 60, 5, 4.0
    corner_m = -cells * cell_m / 2
    grid = Plane((corner_m, corner_m), cells, cells, cell_m, TERMINAL_M)
    ray_set = RaySet(4_000_000, 5)
    maps = SiteTracer(yard, interactions).maps(MAST, SECTORS, grid, ray_set)
    rows, columns = np.array([(30, 37), (40, 20), (36, 46), (10, 35), (41, 32)]).T
    within = (np.arange(side) + 0.5) / side
    east, north = np.meshgrid(within, within)
    x = corner_m + cell_m * (columns[:, None] + east.ravel())
    y = corner_m + cell_m * (rows[:, None] + north.ravel())
    places = np.stack([x, y, np.full_like(x, TERMINAL_M)], axis=-1).reshape(-1, 3)
    paths = reference_paths(yard, MAST, SECTORS, places, interactions, samples=SAMPLES)
    summary = paths.summary(np.repeat(np.arange(len(rows)), side**2))
    np.testing.assert_allclose(maps.line_of_sight[rows, columns], summary.line_of_sight, atol=0.02)
    for found, exact in zip(maps.sectors, summary.sectors, strict=True):
        ours = {name: getattr(found, name)[rows, columns] for name in found.__dataclass_fields__}
        np.testing.assert_allclose(ours["path_gain_db"], exact.path_gain_db, atol=0.3)
        np.testing.assert_allclose(ours["mean_delay_ns"], exact.mean_delay_ns, rtol=0.02, atol=3)
        np.testing.assert_allclose(ours["delay_spread_ns"], exact.delay_spread_ns, rtol=0.06)
        assert turn_deg(ours["departure_azimuth_deg"], exact.departure_azimuth_deg).max() < 2
        assert turn_deg(ours["arrival_azimuth_deg"], exact.arrival_azimuth_deg).max() < 2
        # exact delays are those of the positions, a map's those of the cell's centre
        half_ns = cell_m / np.sqrt(2) / SPEED_OF_LIGHT_M_S * 1e9
        np.testing.assert_allclose(
            ours["first_arrival_ns"], exact.first_arrival_ns, atol=1.1 * half_ns
        )
