"""Radio maps that follow the ground, against planes, Friis, images and shadows."""

import numpy as np
import pytest
import trimesh
from small_scenes import (
    CONCRETE_M,
    ISO,
    box,
    concrete,
    delay_ns,
    friis,
    nothing,
    places,
    reflectivity,
    sheet,
    small_scene,
    trace,
)

from ueloc_core.radio.antennas import antenna_named
from ueloc_core.radio.ray_tracing import Plane, Sector, Surface

pytestmark = pytest.mark.slow

CELLS, CELL_M = 48, 4.0
HALF_M = CELLS * CELL_M / 2


def surface(height):
    """A surface of heights [m] as a function of x and y [m]."""
    edge = np.linspace(-HALF_M, HALF_M, CELLS + 1)
    return Surface((-HALF_M, -HALF_M), CELL_M, np.asarray(height(*np.meshgrid(edge, edge)), float))


def hill(height, step_m=10.0, steps=30):
    """A ground of heights [m] as a function of x and y [m]."""
    edge = np.arange(-steps, steps + 1) * step_m
    corner = -steps * step_m
    vertices, faces = Surface(
        (corner, corner), step_m, height(*np.meshgrid(edge, edge))
    ).triangles()
    return trimesh.Trimesh(vertices, faces, process=False)


def test_the_triangles_tile_the_grid_with_the_diagonal_of_the_ground():
    ground = surface(lambda x, y: 0.1 * x - 0.2 * y)
    vertices, faces = ground.triangles()
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert (normals[:, 2] > 0).all()
    assert np.allclose(normals[:, 2] / 2, CELL_M**2 / 2)
    tilt = np.linalg.norm(normals, axis=1) / normals[:, 2]
    assert np.allclose(tilt, np.sqrt(1 + 0.1**2 + 0.2**2), rtol=1e-4)
    first = corners[:2, :, :2].reshape(-1, 2).tolist()
    assert first.count([-HALF_M, -HALF_M]) == 2  # lower left and upper right lie on both
    assert first.count([-HALF_M + CELL_M, -HALF_M + CELL_M]) == 2


def test_heights_between_corners_lie_on_the_triangles():
    rng = np.random.default_rng(0)
    ground = Surface((5.0, -7.0), 2.0, rng.uniform(0, 3, (6, 9)))
    vertices, faces = ground.triangles()
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    weights = rng.dirichlet((1, 1, 1), len(faces))
    inside = np.einsum("fc,fcx->fx", weights, mesh.vertices[mesh.faces])
    np.testing.assert_allclose(ground.height_at(*inside[:, :2].T), inside[:, 2], atol=1e-4)


@pytest.mark.parametrize("diffraction", [False, True])
def test_a_level_surface_is_the_plane(tmp_path, diffraction):
    """The same points and rays: the same paths, but for what single precision moves."""
    scene = small_scene(tmp_path, block=(box((38, 42), (-40, 40), (0, 20)), "concrete"))
    sectors = [Sector(antenna_named("tr38901"), azimuth, 8.0) for azimuth in (0.0, 120.0)]
    mast = 0.5, 0.3, 31.5
    plane = Plane((-HALF_M, -HALF_M), CELLS, CELLS, CELL_M, 1.5)
    level = surface(lambda x, _: 0 * x + 1.5)
    on_plane, on_surface = (
        trace(scene, mast, grid, *sectors, rays=50_000, diffraction=diffraction)
        for grid in (plane, level)
    )
    np.testing.assert_array_equal(on_plane.line_of_sight, on_surface.line_of_sight)
    np.testing.assert_array_equal(on_plane.outdoor_share, on_surface.outdoor_share)
    for one, other in zip(on_plane.sectors, on_surface.sectors, strict=True):
        known = np.isfinite(one.path_gain_db)
        np.testing.assert_array_equal(known, np.isfinite(other.path_gain_db))
        difference = np.abs(one.path_gain_db - other.path_gain_db)[known]
        assert np.quantile(difference, 0.9) < 0.02
        assert difference.max() < 1.5


@pytest.mark.parametrize("slope", [(0.3, 0.0), (-0.2, 0.25)])
def test_free_space_over_a_slope_is_friis(tmp_path, slope):
    scene = small_scene(tmp_path, far=(nothing(), "concrete"))
    grid = surface(lambda x, y: slope[0] * x + slope[1] * y)
    found = trace(scene, (2.0, 2.0, 60.0), grid, max_depth=0).sectors[0]
    power = friis(np.linalg.norm(places(grid, 6) - (2.0, 2.0, 60.0), axis=-1)).mean(axis=-1)
    error = found.path_gain_db - 10 * np.log10(power)
    assert abs(error.mean()) < 1e-3
    assert np.abs(error).max() < 0.1


def test_a_tilted_ground_reflects_from_its_image(tmp_path):
    """Rays cross the surface at any slope: their share of each cell is that of the cell in plan."""
    slope = 0.3
    ground = hill(lambda x, _: slope * x, step_m=20.0)
    scene = small_scene(tmp_path, ground=(ground, "concrete"))
    mast = np.array((0.0, 0.0, 40.0))
    normal = np.array((-slope, 0.0, 1.0)) / np.hypot(slope, 1)
    image = mast - 2 * (mast @ normal) * normal
    grid = surface(lambda x, _: slope * x + 1.5)
    found = trace(scene, tuple(mast), grid, rays=400_000).sectors[0]
    fine = places(grid, 4)
    share = reflectivity(image, fine, normal, concrete(), CONCRETE_M)
    direct = friis(np.linalg.norm(fine - mast, axis=-1))
    power = (direct + friis(np.linalg.norm(fine - image, axis=-1)) * share).mean(axis=-1)
    error = found.path_gain_db - 10 * np.log10(power)
    only_direct = 10 * np.log10(direct.mean(axis=-1) / power)
    assert abs(error.mean()) < 0.01
    assert only_direct.mean() < -0.15
    # downhill, uphill and beneath the mast alike
    blocks = error.reshape(6, 8, 6, 8).mean(axis=(1, 3))
    assert np.abs(blocks).max() < 0.05


def ridge(x, _):
    return np.maximum(0.0, 50 - 2 * np.abs(x - 40))


def test_a_hill_casts_a_shadow_and_diffraction_reaches_into_it(tmp_path):
    """A ridge whose top is above the mast hides the far side."""
    scene = small_scene(tmp_path, hill=(hill(ridge), "concrete"))
    terminals = surface(lambda x, y: ridge(x, y) + 1.5)
    mast = -60.0, 0.0, 20.0
    lit, bent = (
        trace(scene, mast, terminals, rays=50_000, diffraction=diffraction)
        for diffraction in (False, True)
    )
    behind = np.arange(CELLS) * CELL_M - HALF_M > 70
    assert (lit.line_of_sight[:, behind] == 0).all()
    assert np.isnan(lit.sectors[0].path_gain_db[:, behind]).all()
    assert (lit.line_of_sight[:, : CELLS // 2] == 1).all()
    shadow = bent.sectors[0].path_gain_db[:, behind]
    assert np.isfinite(shadow).all()
    assert np.nanmax(shadow) < np.nanmax(lit.sectors[0].path_gain_db) - 20


def test_a_mast_below_a_hill_lights_the_slope_above_it(tmp_path):
    """Whose terminals stand higher than the antenna: by sight, and by a wall behind it."""

    def slope(x, _):
        return np.maximum(0.0, x)

    bodies = {
        "hill": (hill(slope), "black"),
        "wall": (box((-21, -20), (-90, 90), (-1, 200)), "metal"),
    }
    scene = small_scene(tmp_path, **bodies)
    mast, image = (-10.0, 0.0, 12.0), (-30.0, 0.0, 12.0)
    grid = surface(lambda x, y: slope(x, y) + 1.5)
    site = trace(scene, mast, grid, ISO, rays=800_000)
    fine = places(grid, 4)
    x, y = (fine[..., axis] for axis in (0, 1))
    above = ((x > 30) & (x < 70) & (np.abs(y) < 40)).all(axis=-1)
    assert (site.line_of_sight[above] == 1).all()
    power = sum(friis(np.linalg.norm(fine - place, axis=-1)) for place in (mast, image))
    error = site.sectors[0].path_gain_db - 10 * np.log10(power.mean(axis=-1))
    assert above.sum() > 150
    assert abs(error[above].mean()) < 0.03
    assert np.abs(error[above]).max() < 0.8
    late = site.sectors[0].mean_delay_ns - site.sectors[0].first_arrival_ns
    detour = np.linalg.norm(fine - image, axis=-1) - np.linalg.norm(fine - mast, axis=-1)
    assert (late[above] > 0.2 * delay_ns(detour.mean(axis=-1))[above]).all()


def test_a_terrace_is_seen_over_its_edge_only_where_the_edge_allows(tmp_path):
    """A flat roof of ground, 20 m up: what lies far behind its edge is hidden from below."""
    corners = [(-300, -300), (0, -300), (0, 300), (-300, 300)]
    low = sheet([(x, y, 0.0) for x, y in corners])
    high = sheet([(x + 300, y, 20.0) for x, y in corners])
    face = sheet([(0, 300, 0), (0, -300, 0), (0, -300, 20), (0, 300, 20)])
    scene = small_scene(
        tmp_path, low=(low, "concrete"), high=(high, "concrete"), face=(face, "concrete")
    )
    grid = surface(lambda x, _: np.where(x >= 0, 20.0, 0.0) + 1.5)
    site = trace(scene, (-40.0, 0.0, 10.0), grid, max_depth=0)
    x = places(grid)[:, :, 0, 0]
    # the line of sight over the edge rises 10 m in 40 m: 1.5 m above the terrace after 6 m
    assert (site.line_of_sight[x > 12] == 0).all()
    assert (site.line_of_sight[x < -8] == 1).all()
    assert np.isnan(site.sectors[0].path_gain_db[x > 12]).all()
