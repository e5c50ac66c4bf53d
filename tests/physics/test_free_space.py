"""Free space, the antenna's pattern and shadows against their formulas."""

import numpy as np
import pytest
from small_scenes import (
    FREQUENCY_HZ,
    ISO,
    azimuth_deg,
    box,
    delay_ns,
    friis,
    nothing,
    places,
    small_scene,
    square,
    trace,
    turn_deg,
    zenith_deg,
)

from ueloc_core.radio.antennas import antenna_named
from ueloc_core.radio.ray_tracing import Plane, Sector
from ueloc_core.units import free_space_gain_db

pytestmark = pytest.mark.slow

CELLS, CELL_M, MAST_M, TERMINAL_M = 64, 4.0, 41.5, 1.5
GRID = square((0.0, 0.0), CELLS, CELL_M, TERMINAL_M)
MAST = 0.0, 0.0, MAST_M
X, Y = (places(GRID)[:, :, 0, axis] for axis in (0, 1))


@pytest.fixture(scope="module")
def free_space(tmp_path_factory):
    return small_scene(tmp_path_factory.mktemp("free"), far=(nothing(), "concrete"))


@pytest.fixture(scope="module")
def block(tmp_path_factory):
    """A block: x = 38..42, y = -40..40, z = 0..20 m."""
    body = box((38, 42), (-40, 40), (0, 20))
    return small_scene(tmp_path_factory.mktemp("block"), block=(body, "concrete"))


def sector(azimuth_deg=0.0, downtilt_deg=0.0):
    return Sector(antenna_named("tr38901"), azimuth_deg, downtilt_deg)


def maps(scene, *sectors, mast_m=MAST, **options):
    """Maps of sectors at a mast in free space; no rays are needed there."""
    return trace(scene, mast_m, GRID, *sectors, max_depth=0, **options).sectors


def relative_db(scene, *sectors):
    """Gains over that of an isotropic antenna: the same points, so no Monte-Carlo noise."""
    isotropic, *others = maps(scene, ISO, *sectors)
    return [found.path_gain_db - isotropic.path_gain_db for found in others]


def pattern_db(azimuth_deg, downtilt_deg):
    """TR 38.901, table 7.3-1, at the grid cells' centres."""
    direction = np.stack([X, Y, np.full_like(X, TERMINAL_M - MAST_M)])
    direction /= np.linalg.norm(direction, axis=0)
    azimuth, tilt = np.radians(azimuth_deg), np.radians(downtilt_deg)
    ahead = np.array([np.sin(azimuth), np.cos(azimuth), 0])
    left = np.array([-np.cos(azimuth), np.sin(azimuth), 0])
    up = np.array([0, 0, 1.0])
    forward = np.cos(tilt) * ahead - np.sin(tilt) * up
    above = np.sin(tilt) * ahead + np.cos(tilt) * up
    along, aside, raised = (np.tensordot(v, direction, 1) for v in (forward, left, above))
    theta = np.degrees(np.arccos(raised.clip(-1, 1)))
    phi = np.degrees(np.arctan2(aside, along))
    vertical = np.minimum(12 * ((theta - 90) / 65) ** 2, 30)
    horizontal = np.minimum(12 * (phi / 65) ** 2, 30)
    return 8 - np.minimum(vertical + horizontal, 30)


def test_free_space_is_friis(free_space):
    """The mean over each grid cell, and its error bar."""
    (found,) = maps(free_space, mast_m=(2.0, 2.0, MAST_M))
    distance = np.linalg.norm(places(GRID, 8) - (2.0, 2.0, MAST_M), axis=-1)
    error = found.path_gain_db - 10 * np.log10(friis(distance).mean(axis=-1))
    assert np.abs(error).max() < 0.1
    assert abs(error.mean()) < 1e-3
    assert 0 < np.median(found.path_gain_se_db) < 0.02
    assert (np.abs(error) < 2 * found.path_gain_se_db).mean() > 0.8  # 0.86 of 4 batches


def test_everything_is_seen_and_outdoors(free_space):
    site = trace(free_space, MAST, GRID, max_depth=0)
    assert (site.line_of_sight == 1).all()
    assert (site.outdoor_share == 1).all()
    assert (site.sectors[0].ray_hits == 4 * 4).all()  # points of each of four batches


def test_twice_the_frequency_loses_six_db():
    one, two = free_space_gain_db(100.0, 3.5e9), free_space_gain_db(100.0, 7e9)
    assert one - two == pytest.approx(20 * np.log10(2))
    assert one == pytest.approx(-32.45 - 20 * np.log10(3500) - 20 * np.log10(0.1), abs=0.01)


def test_no_gain_is_above_that_of_the_nearest_point(free_space):
    (found,) = maps(free_space)
    assert found.path_gain_db.max() < free_space_gain_db(MAST_M - TERMINAL_M, FREQUENCY_HZ)


@pytest.mark.parametrize(("azimuth", "downtilt"), [(0, 0), (30, 12), (250, 30), (135, -5)])
def test_pattern_is_that_of_38901(free_space, azimuth, downtilt):
    (found,) = relative_db(free_space, sector(azimuth, downtilt))
    error = (found - pattern_db(azimuth, downtilt))[np.hypot(X, Y) > 20]
    assert np.quantile(np.abs(error), 0.98) < 0.3  # the rest: kinks of the pattern in a cell
    assert abs(np.median(error)) < 0.02


def test_boresight_gains_8_dbi(free_space):
    """A tilt of 30 degrees meets the ground 69 m ahead."""
    (found,) = relative_db(free_space, sector(90, 30))
    assert found.max() == pytest.approx(8, abs=0.02)
    column = round((40 / np.tan(np.radians(30)) + 128) / CELL_M - 0.5)
    assert found[31:33, column] == pytest.approx(8, abs=0.02)


@pytest.mark.parametrize("azimuth", [0, 45, 90, 200, 315])
def test_strongest_direction_is_the_azimuth(free_space, azimuth):
    """Clockwise from north: east is 90 degrees."""
    isotropic, found = maps(free_space, ISO, sector(azimuth, 25))
    relative = found.path_gain_db - isotropic.path_gain_db
    strongest = np.unravel_index(np.argmax(relative), relative.shape)
    assert turn_deg(np.degrees(np.arctan2(X[strongest], Y[strongest])), azimuth) < 5
    power = 10 ** (found.path_gain_db.astype(float) / 10)
    assert turn_deg(np.degrees(np.arctan2((power * X).sum(), (power * Y).sum())), azimuth) < 2


def test_a_sector_turned_by_90_degrees_has_the_turned_map(free_space):
    """Sectors of one site, traced together; row 0 is in the south, so numpy's left is right."""
    found = relative_db(free_space, *(sector(20 + 90 * k, 8) for k in range(4)))
    beside = np.hypot(X, Y) > 20
    for k in range(1, 4):
        error = np.abs(found[k] - np.rot90(found[0], k))[beside]
        assert np.quantile(error, 0.99) < 0.3  # the rest: kinks of the pattern in a cell
        assert error.max() < 1
        assert np.abs(found[k] - found[0]).max() > 15


def test_sectors_of_a_site_do_not_know_of_each_other(free_space):
    """Traced alone, a sector has the same bits."""
    together = maps(free_space, *(sector(20 + 90 * k, 8) for k in range(4)))
    (alone,) = maps(free_space, sector(110, 8))
    for name, values in vars(alone).items():
        np.testing.assert_array_equal(values, getattr(together[1], name))


def test_positive_downtilt_points_down(free_space):
    flat, tilted, raised = (
        m.path_gain_db for m in maps(free_space, *map(sector, (0, 0, 0), (0, 12, -12)))
    )
    ahead = (np.abs(np.degrees(np.arctan2(X, Y))) < 20) & (Y > 0)
    near = ahead & (np.hypot(X, Y) > 20) & (np.hypot(X, Y) < 60)
    assert (tilted - flat)[near].min() > 1.5
    # The ground is below the horizon everywhere: at 40 m over 128 m a tilt of 12 still gains.
    assert (raised - flat)[ahead].max() < 0
    behind = (np.abs(np.degrees(np.arctan2(X, -Y))) < 20) & (np.hypot(X, Y) > 30)
    assert np.abs((tilted - flat)[behind]).max() < 12


def test_too_much_tilt_starves_the_edge(free_space):
    """A boresight 40 degrees down looks 48 m ahead; 120 m ahead is 22 degrees above it."""
    slight, steep = relative_db(free_space, sector(0, 18), sector(0, 40))
    edge = (np.abs(X) < 10) & (Y > 110)
    foot = (np.abs(X) < 10) & (Y > 20) & (Y < 40)
    assert (steep - slight)[edge].max() < -0.5
    assert (steep - slight)[foot].min() > 0.5


def test_power_falls_with_the_square_of_the_distance(free_space):
    """Over the slant range: the terminals are 40 m below the mast."""
    (found,) = maps(free_space)
    slant = np.sqrt(X**2 + Y**2 + 40**2)
    slope = np.polyfit(np.log2(slant.ravel()), found.path_gain_db.ravel(), 1)[0]
    assert slope == pytest.approx(-20 * np.log10(2), abs=0.01)


def test_delays_are_those_of_the_straight_line(free_space):
    """To the centre of each grid cell, for any antenna; a single path has no spread."""
    for found in maps(free_space, ISO, sector(40, 10)):
        straight = delay_ns(np.linalg.norm(places(GRID)[:, :, 0] - MAST, axis=-1))
        np.testing.assert_allclose(found.first_arrival_ns, straight, atol=1e-3)
        np.testing.assert_allclose(found.mean_delay_ns, straight, atol=1e-3)
        assert found.delay_spread_ns.max() < 1e-2


def test_directions_are_those_of_the_straight_line(free_space):
    """Departure points from the mast, arrival back to it; there is no other path."""
    (found,) = maps(free_space)
    way = places(GRID)[:, :, 0] - MAST
    far = np.hypot(X, Y) > 40
    for azimuth, zenith, ahead in (
        (found.departure_azimuth_deg, found.departure_zenith_deg, way),
        (found.arrival_azimuth_deg, found.arrival_zenith_deg, -way),
    ):
        assert turn_deg(azimuth, azimuth_deg(ahead))[far].max() < 1
        assert np.abs(zenith - zenith_deg(ahead)).max() < 1
        assert turn_deg(azimuth, azimuth_deg(ahead))[far].mean() < 0.2
    opposite = turn_deg(found.departure_azimuth_deg + 180, found.arrival_azimuth_deg)
    assert opposite.max() < 1e-3
    np.testing.assert_allclose(
        found.departure_zenith_deg + found.arrival_zenith_deg, 180, atol=1e-3
    )
    # what is left of a spread is the size of the cell, seen from the mast
    assert found.departure_spread_deg[far].max() < np.degrees(CELL_M / 40)
    np.testing.assert_allclose(found.departure_spread_deg, found.arrival_spread_deg, atol=0.1)


def test_a_block_casts_a_shadow(block):
    """Nothing arrives behind a block but what its far edge bends down, weaker the deeper."""
    dark = trace(block, MAST, GRID)
    bent = trace(block, MAST, GRID, diffraction=True).sectors[0].path_gain_db
    # Over the far upper edge (42 m away, 20 m high) light comes down at x = 78 m.
    hidden = (X > 46) & (X < 74) & (np.abs(Y) < 30)
    lit = (X < 34) | (X > 86)
    assert np.isnan(dark.sectors[0].path_gain_db[hidden]).all()
    assert (dark.line_of_sight[hidden] == 0).all()
    assert np.isfinite(dark.sectors[0].path_gain_db[lit]).all()
    assert (dark.line_of_sight[lit] == 1).all()
    loss = free_space_gain_db(np.sqrt(X**2 + Y**2 + 40**2), FREQUENCY_HZ) - bent
    assert np.isfinite(loss[hidden]).all()
    assert loss[hidden].min() > 5
    deep, shallow = (np.median(loss[hidden & side]) for side in (X < 56, X > 66))
    assert deep > shallow + 3
    before = (np.abs(Y) < 15) & (X > 15) & (X < 34)
    assert -3 < loss[before].mean() < -0.15  # its wall reflects
    assert np.median(np.abs(loss[X < -20])) < 0.02


def test_a_block_is_indoors(block):
    """Grid cells of the block hold no terminals; those cut by its wall count their outer part."""
    site = trace(block, MAST, square((40.0, 0.0), 8, 4.0, TERMINAL_M))  # x = 24..56: a wall at 38
    columns = site.outdoor_share[4]
    np.testing.assert_array_equal(columns, [1, 1, 1, 0.5, 0.5, 1, 1, 1])
    assert not np.isnan(site.line_of_sight).any()
    inner = trace(block, MAST, square((40.0, 0.0), 4, 1.0, TERMINAL_M))  # x = 38..42: all indoors
    assert (inner.outdoor_share == 0).all()
    assert np.isnan(inner.line_of_sight).all()
    assert np.isnan(inner.sectors[0].path_gain_db).all()
    assert (inner.sectors[0].ray_hits == 0).all()
    # the half outdoors has the gain of the open, not half of it
    open_db = free_space_gain_db(np.sqrt(37.0**2 + 2**2 + 40**2), FREQUENCY_HZ)
    reflected_and_direct = site.sectors[0].path_gain_db[4, 3] - open_db
    assert 0 < reflected_and_direct < 3


@pytest.mark.parametrize("share", [0.2, 0.3, 0.45, 0.7, 0.9, 0.95])
def test_a_grid_cell_that_a_wall_cuts_has_the_mean_of_its_outer_part(tmp_path, share):
    """However little of it is outdoors, and in full sight of the mast."""
    wall = box((60 + CELL_M * share, 90), (-40, 40), (0, 20))
    scene = small_scene(tmp_path, wall=(wall, "concrete"))
    grid = Plane((60.0, -20.0), 2, 10, CELL_M, TERMINAL_M)
    site = trace(scene, (0.0, 0.0, 20.0), grid, max_depth=0, points=16)
    cut = np.s_[:, 0]
    fine = places(grid, 8) - (0.0, 0.0, 20.0)
    open_db = 10 * np.log10(friis(np.linalg.norm(fine, axis=-1)).mean(axis=-1))
    error = site.sectors[0].path_gain_db - open_db
    assert np.abs(error[cut]).max() < 0.25  # half of a cell nearer to the mast
    assert (site.line_of_sight[cut] == 1).all()
    assert np.abs(site.outdoor_share[cut] - share).max() < 0.13
    assert np.isnan(site.line_of_sight[:, 1]).all()
