"""Free space, the antenna's pattern and shadows against their formulas."""

import numpy as np
import pytest
import trimesh
from one_thread import one_thread

from ueloc_core.radio.ray_tracing import Plane, RaySet, RayTracer, Transmitter
from ueloc_core.units import free_space_gain_db

pytestmark = pytest.mark.slow

FREQUENCY_HZ = 3.5e9
CELLS, CELL_M, MAST_M, TERMINAL_M = 64, 4.0, 41.5, 1.5
PLANE = Plane((0.0, 0.0), CELLS, CELLS, CELL_M, TERMINAL_M)
DENSE = RaySet(4_000_000, 1)
SPARSE = RaySet(1_000_000, 1)

# Five kilometres under the terminals: Sionna wants a surface, no ray of interest meets it.
NOTHING = (
    '<shape type="rectangle" id="mesh-far"><transform name="to_world">{}</transform>{}</shape>'
)
BLOCK = '<shape type="ply" id="mesh-block"><string name="filename" value="block.ply"/>{}</shape>'
CONCRETE = '<ref id="mat-itu_concrete" name="bsdf"/>'


def write_scene(path, *shapes):
    """A scene of shapes of concrete."""
    path.write_text(
        '<scene version="2.1.0"><bsdf type="itu-radio-material" id="mat-itu_concrete">'
        '<string name="type" value="concrete"/><float name="thickness" value="0.3"/></bsdf>'
        + "".join(shapes)
        + "</scene>"
    )
    return path


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def free_space(tmp_path_factory):
    far = NOTHING.format('<translate z="-5000"/>', CONCRETE)
    scene = write_scene(tmp_path_factory.mktemp("free") / "scene.xml", far)
    return RayTracer(scene, frequency_hz=FREQUENCY_HZ, max_depth=1, diffraction=False)


@pytest.fixture(scope="module")
def behind_a_block(tmp_path_factory):
    """Tracers, without and with diffraction, of a block: x = 38..42, y = -40..40, z = 0..20 m."""
    folder = tmp_path_factory.mktemp("block")
    block = trimesh.creation.box(extents=(4, 80, 20))
    block.apply_translation((40, 0, 10))
    block.export(folder / "block.ply", vertex_normal=False)
    scene = write_scene(folder / "scene.xml", BLOCK.format(CONCRETE))
    return [
        RayTracer(scene, frequency_hz=FREQUENCY_HZ, max_depth=1, diffraction=diffraction)
        for diffraction in (False, True)
    ]


def places(parts=1):
    """East and north [m] of `parts` x `parts` points of each grid cell, the parts last."""
    axis = (np.arange(CELLS * parts) + 0.5) / parts * CELL_M - CELLS * CELL_M / 2
    x, y = np.meshgrid(axis, axis)
    split = (CELLS, parts, CELLS, parts)
    return (v.reshape(split).swapaxes(1, 2).reshape(CELLS, CELLS, -1) for v in (x, y))


def gain_db(tracer, *transmitters, rays=SPARSE):
    with np.errstate(divide="ignore"):
        return 10 * np.log10(tracer.path_gain(transmitters, PLANE, rays))


def mast(azimuth_deg=0.0, downtilt_deg=0.0, pattern="tr38901", x_m=0.0, y_m=0.0):
    return Transmitter((x_m, y_m, MAST_M), azimuth_deg, downtilt_deg, pattern)


def pattern_db(azimuth_deg, downtilt_deg):
    """TR 38.901, table 7.3-1, at the grid cells' centres, the antenna at the origin."""
    x, y = (v[..., 0] for v in places())
    direction = np.stack([x, y, np.full_like(x, TERMINAL_M - MAST_M)])
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
    traced = gain_db(free_space, mast(pattern="iso", x_m=2.0, y_m=2.0), rays=DENSE)[0]
    x, y = places(parts=5)
    distance = np.sqrt((x - 2) ** 2 + (y - 2) ** 2 + (MAST_M - TERMINAL_M) ** 2)
    mean = 10 * np.log10((10 ** (free_space_gain_db(distance, FREQUENCY_HZ) / 10)).mean(-1))
    error = traced - mean
    assert np.abs(error[distance.mean(-1) < 100]).max() < 0.3
    blocks = error.reshape(16, 4, 16, 4).mean(axis=(1, 3))
    assert np.abs(blocks).max() < 0.3
    assert abs(error.mean()) < 0.01


def test_twice_the_frequency_loses_six_db(free_space):
    one, two = free_space_gain_db(100.0, 3.5e9), free_space_gain_db(100.0, 7e9)
    assert one - two == pytest.approx(20 * np.log10(2))
    assert one == pytest.approx(-32.45 - 20 * np.log10(3500) - 20 * np.log10(0.1), abs=0.01)
    assert gain_db(free_space, mast(pattern="iso"))[0].max() < free_space_gain_db(39.9, 3.5e9)


@pytest.mark.parametrize(("azimuth_deg", "downtilt_deg"), [(0, 0), (30, 12), (250, 30), (135, -5)])
def test_pattern_is_that_of_38901(free_space, azimuth_deg, downtilt_deg):
    """The same rays through both patterns: their ratio has no Monte-Carlo noise."""
    isotropic = gain_db(free_space, mast(pattern="iso"))[0]
    sector = gain_db(free_space, mast(azimuth_deg, downtilt_deg))[0]
    x, y = (v[..., 0] for v in places())
    beside = np.hypot(x, y) > 20
    error = (sector - isotropic - pattern_db(azimuth_deg, downtilt_deg))[beside]
    assert np.quantile(np.abs(error), 0.98) < 0.3  # the rest: kinks of the pattern in a cell
    assert abs(np.median(error)) < 0.02


def test_boresight_gains_8_dbi(free_space):
    """A tilt of 30 degrees meets the ground 69 m ahead."""
    isotropic, sector = (
        gain_db(free_space, mast(90, 30, pattern))[0] for pattern in ("iso", "tr38901")
    )
    assert (sector - isotropic).max() == pytest.approx(8, abs=0.02)
    column = round((40 / np.tan(np.radians(30)) + 128) / CELL_M - 0.5)
    assert (sector - isotropic)[31:33, column] == pytest.approx(8, abs=0.02)


@pytest.mark.parametrize("azimuth_deg", [0, 45, 90, 200, 315])
def test_strongest_direction_is_the_azimuth(free_space, azimuth_deg):
    """Clockwise from north: east is 90 degrees."""
    isotropic, sector = (
        gain_db(free_space, mast(azimuth_deg, 25, pattern))[0] for pattern in ("iso", "tr38901")
    )
    row, column = np.unravel_index(np.argmax(sector - isotropic), sector.shape)
    x, y = (column + 0.5) * CELL_M - 128, (row + 0.5) * CELL_M - 128
    turn = (np.degrees(np.arctan2(x, y)) - azimuth_deg + 180) % 360 - 180
    assert abs(turn) < 5
    power = 10 ** (sector / 10)
    x, y = (v[..., 0] for v in places())
    turn = np.degrees(np.arctan2((power * x).sum(), (power * y).sum())) - azimuth_deg
    assert abs((turn + 180) % 360 - 180) < 2


def test_a_sector_turned_by_90_degrees_has_the_turned_map(free_space):
    """Sectors of one site, traced together; row 0 is in the south, so numpy's left is right."""
    isotropic = gain_db(free_space, mast(pattern="iso"))[0]
    maps = gain_db(free_space, *(mast(20 + 90 * k, 8) for k in range(4))) - isotropic
    for k in range(1, 4):
        np.testing.assert_allclose(maps[k], np.rot90(maps[0], k), atol=0.3)
        assert np.abs(maps[k] - maps[0]).max() > 15
    alone = gain_db(free_space, mast(110, 8))[0] - isotropic
    np.testing.assert_allclose(alone, maps[1], atol=1e-3)


def test_positive_downtilt_points_down(free_space):
    flat, tilted = gain_db(free_space, mast(0, 0), mast(0, 12))
    x, y = (v[..., 0] for v in places())
    ahead = (np.abs(np.degrees(np.arctan2(x, y))) < 20) & (y > 0)
    near = ahead & (np.hypot(x, y) > 20) & (np.hypot(x, y) < 60)
    assert (tilted - flat)[near].min() > 1.5
    # The ground is below the horizon everywhere: at 40 m over 128 m a tilt of 12 still gains.
    up = gain_db(free_space, mast(0, -12))[0]
    assert (up - flat)[ahead].max() < 0
    behind = (np.abs(np.degrees(np.arctan2(x, -y))) < 20) & (np.hypot(x, y) > 30)
    assert np.abs((tilted - flat)[behind]).max() < 12


def test_too_much_tilt_starves_the_edge(free_space):
    """A boresight 40 degrees down looks 48 m ahead; 120 m ahead is 22 degrees above it."""
    slight, steep = gain_db(free_space, mast(0, 18), mast(0, 40))
    x, y = (v[..., 0] for v in places())
    edge = (np.abs(x) < 10) & (y > 110)
    foot = (np.abs(x) < 10) & (y > 20) & (y < 40)
    assert (steep - slight)[edge].max() < -0.5
    assert (steep - slight)[foot].min() > 0.5


def test_power_falls_by_six_db_per_doubling(free_space):
    """Over the slant range: the terminals are 40 m below the mast."""
    traced = gain_db(free_space, mast(pattern="iso"), rays=DENSE)[0]
    x, y = (v[..., 0] for v in places())
    slant = np.sqrt(x**2 + y**2 + 40**2)
    slope = np.polyfit(np.log2(slant.ravel()), traced.ravel(), 1)[0]
    assert slope == pytest.approx(-20 * np.log10(2), abs=0.02)


def test_a_block_casts_a_shadow(behind_a_block):
    """Nothing arrives behind a block but what its far edge bends down, weaker the deeper."""
    sender = mast(90, 0, "iso")
    dark, bent = (tracer.path_gain([sender], PLANE, SPARSE)[0] for tracer in behind_a_block)
    x, y = (v[..., 0] for v in places())
    # Over the far upper edge (42 m away, 20 m high) light comes down at x = 78 m.
    hidden = (x > 46) & (x < 74) & (np.abs(y) < 30)
    lit = (x < 34) | (x > 86)
    assert dark[hidden].max() == 0
    assert dark[lit].min() > 0
    friis = free_space_gain_db(np.sqrt(x**2 + y**2 + 40**2), FREQUENCY_HZ)
    with np.errstate(divide="ignore"):
        loss = friis - 10 * np.log10(bent)
    reached = hidden & (bent > 0)
    assert reached.sum() > 0.8 * hidden.sum()
    assert loss[reached].min() > 5
    deep, shallow = (np.median(loss[reached & side]) for side in (x < 56, x > 66))
    assert deep > shallow + 3
    before = (np.abs(y) < 15) & (x > 15) & (x < 34)
    assert -3 < loss[before].mean() < -0.15  # its wall reflects
    assert np.median(np.abs(loss[x < -20])) < 0.3
