"""Radio maps that follow the ground, against planes, Friis and shadows."""

import numpy as np
import pytest
import trimesh
from one_thread import one_thread

from ueloc_core.radio.ray_tracing import Plane, RaySet, RayTracer, Surface, Transmitter
from ueloc_core.units import free_space_gain_db

pytestmark = pytest.mark.slow

FREQUENCY_HZ, CELLS, CELL_M = 3.5e9, 48, 4.0
HALF_M = CELLS * CELL_M / 2
RAYS = RaySet(1_000_000, 3)
CONCRETE = (
    '<bsdf type="itu-radio-material" id="mat-itu_concrete"><string name="type" value="concrete"/>'
    '<float name="thickness" value="0.3"/></bsdf>'
)
SHAPE = (
    '<shape type="ply" id="mesh-{0}"><string name="filename" value="{0}.ply"/>'
    '<ref id="mat-itu_concrete" name="bsdf"/></shape>'
)


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


def surface(height):
    """A surface of heights [m] as a function of x and y [m]."""
    edge = np.linspace(-HALF_M, HALF_M, CELLS + 1)
    return Surface((-HALF_M, -HALF_M), CELL_M, np.asarray(height(*np.meshgrid(edge, edge)), float))


def tracer(folder, *, diffraction=False, **meshes):
    for name, mesh in meshes.items():
        mesh.export(folder / f"{name}.ply", vertex_normal=False)
    shapes = "".join(SHAPE.format(name) for name in meshes)
    (folder / "scene.xml").write_text(f'<scene version="2.1.0">{CONCRETE}{shapes}</scene>')
    return RayTracer(
        folder / "scene.xml", frequency_hz=FREQUENCY_HZ, max_depth=1, diffraction=diffraction
    )


def far_below():
    floor = trimesh.creation.box(extents=(10, 10, 1))
    floor.apply_translation((0, 0, -5000))
    return floor


def block():
    mesh = trimesh.creation.box(extents=(4, 80, 20))
    mesh.apply_translation((40, 0, 10))
    return mesh


def test_the_triangles_tile_the_grid_with_the_diagonal_of_the_ground():
    ground = surface(lambda x, y: 0.1 * x - 0.2 * y)
    vertices, faces = ground.triangles()
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert (normals[:, 2] > 0).all()
    assert np.allclose(normals[:, 2] / 2, CELL_M**2 / 2)
    assert np.allclose(ground.tilt(), np.sqrt(1 + 0.1**2 + 0.2**2), rtol=1e-4)
    first = corners[:2, :, :2].reshape(-1, 2).tolist()
    assert first.count([-HALF_M, -HALF_M]) == 2  # lower left and upper right lie on both
    assert first.count([-HALF_M + CELL_M, -HALF_M + CELL_M]) == 2


@pytest.mark.parametrize("diffraction", [False, True])
def test_a_level_surface_is_the_plane(tmp_path, diffraction):
    traced = tracer(tmp_path, diffraction=diffraction, block=block())
    mast = [Transmitter((0.5, 0.3, 31.5), azimuth, 8.0) for azimuth in (0.0, 120.0)]
    plane = Plane((0.0, 0.0), CELLS, CELLS, CELL_M, 1.5)
    on_plane = traced.path_gain(mast, plane, RAYS)
    on_surface = traced.path_gain(mast, surface(lambda x, _: 0 * x + 1.5), RAYS)
    hit = (on_plane > 0) & (on_surface > 0)
    assert ((on_plane > 0) != (on_surface > 0)).mean() < 0.01
    ratio_db = np.abs(10 * np.log10(on_surface[hit] / on_plane[hit]))
    assert np.median(ratio_db) < 1e-3
    assert np.quantile(ratio_db, 0.98) < 0.5


@pytest.mark.parametrize("slope", [(0.3, 0.0), (-0.2, 0.25)])
def test_free_space_over_a_slope_is_friis(tmp_path, slope):
    def height(x, y):
        return slope[0] * x + slope[1] * y

    traced = tracer(tmp_path, far=far_below())
    mast = Transmitter((2.0, 2.0, 60.0), 0.0, 0.0, "iso")
    gain = traced.path_gain([mast], surface(height), RaySet(4_000_000, 1))[0]
    centre = (np.arange(CELLS) + 0.5) * CELL_M - HALF_M
    x, y = np.meshgrid(centre, centre)
    distance = np.sqrt((x - 2) ** 2 + (y - 2) ** 2 + (60 - height(x, y)) ** 2)
    error = 10 * np.log10(gain) - free_space_gain_db(distance, FREQUENCY_HZ)
    assert abs(error.mean()) < 0.02
    assert np.abs(error.reshape(12, 4, 12, 4).mean(axis=(1, 3))).max() < 0.3


def test_a_hill_casts_a_shadow_and_diffraction_reaches_into_it(tmp_path):
    """A ridge whose top is above the mast hides the far side."""

    def height(x, _):
        return np.maximum(0.0, 50 - 2 * np.abs(x - 40))

    edge = np.arange(-30, 31) * 10.0
    x, y = np.meshgrid(edge, edge)
    ground = Surface((-300.0, -300.0), 10.0, height(x, y))
    vertices, faces = ground.triangles()
    hill = trimesh.Trimesh(vertices, faces, process=False)
    mast = [Transmitter((-60.0, 0.0, 20.0), 90.0, 0.0, "iso")]
    terminals = surface(lambda x, y: height(x, y) + 1.5)
    lit, bent = (
        tracer(tmp_path, diffraction=diffraction, hill=hill).path_gain(mast, terminals, RAYS)[0]
        for diffraction in (False, True)
    )
    behind = np.arange(CELLS) * CELL_M - HALF_M > 70
    assert (lit[:, behind] == 0).all()
    assert (lit[:, : CELLS // 2] > 0).mean() > 0.95
    assert (bent[:, behind] > 0).mean() > 0.5
    assert bent[:, behind].max() < lit[:, ~behind].max() / 100
