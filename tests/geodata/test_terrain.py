"""The ground: one piecewise linear surface for everything that stands on it."""

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from ueloc_core.errors import GeodataError
from ueloc_core.geodata.terrain import (
    Terrain,
    build_terrain,
    flat_terrain,
    load_terrain,
    save_terrain,
)
from ueloc_core.grid import Window
from ueloc_core.provenance import digest_folder
from ueloc_core.scene.ground import ground_meshes
from ueloc_core.synthetic import synthetic_city

STEP_M = 16.0


def rough(rows=9, columns=11, seed=0, column=24_000, row=417_000):
    heights = np.random.default_rng(seed).uniform(0, 60, (rows, columns))
    return Terrain(np.round(heights, 3), column, row, STEP_M)


def points_in(terrain, count, seed=1):
    x0, y0, x1, y1 = terrain.bounds_m
    rng = np.random.default_rng(seed)
    return rng.uniform(x0, x1, count), rng.uniform(y0, y1, count)


def test_heights_are_those_of_the_grounds_mesh():
    terrain = rough()
    rows, columns = (size - 1 for size in terrain.heights_m.shape)
    origin = (*terrain.bounds_m[:2], 0.0)
    (mesh,) = ground_meshes(terrain, np.zeros((rows, columns), np.uint8), origin).values()
    x, y = points_in(terrain, 500)
    z = terrain.height_at(x, y)
    local = np.column_stack([x - origin[0], y - origin[1]])
    corners = np.asarray(mesh.triangles)
    found = np.full(len(x), np.nan)
    for triangle in corners:  # barycentric coordinates in plan
        (ax, ay, _), (bx, by, _), (cx, cy, _) = triangle
        area = (by - cy) * (ax - cx) + (cx - bx) * (ay - cy)
        first = ((by - cy) * (local[:, 0] - cx) + (cx - bx) * (local[:, 1] - cy)) / area
        second = ((cy - ay) * (local[:, 0] - cx) + (ax - cx) * (local[:, 1] - cy)) / area
        weights = np.column_stack([first, second, 1 - first - second])
        inside = (weights >= -1e-9).all(axis=1)
        found[inside] = weights[inside] @ triangle[:, 2]
    np.testing.assert_allclose(found, z, atol=1e-6)


def test_a_plane_is_reproduced():
    terrain = rough()
    x = (terrain.column + np.arange(11)) * STEP_M
    y = (terrain.row + np.arange(9)) * STEP_M
    plane = Terrain(0.2 * x[None] - 0.1 * y[:, None], terrain.column, terrain.row, STEP_M)
    u, v = points_in(plane, 300)
    np.testing.assert_allclose(plane.height_at(u, v), 0.2 * u - 0.1 * v, atol=1e-6)


def test_a_crop_is_the_same_ground_and_two_crops_meet():
    terrain = rough(20, 20)
    cells = Window(terrain.column * 4 + 10, terrain.row * 4 + 6, 22, 30, 4.0)
    part = terrain.crop(cells)
    x0, y0, x1, y1 = cells.bounds_m
    px0, py0, px1, py1 = part.bounds_m
    assert px0 <= x0
    assert py0 <= y0
    assert px1 >= x1
    assert py1 >= y1
    x, y = points_in(part, 200)
    np.testing.assert_array_equal(part.height_at(x, y), terrain.height_at(x, y))
    left = terrain.crop(Window(terrain.column * 4, terrain.row * 4, 32, 64, 4.0))
    right = terrain.crop(Window(terrain.column * 4 + 32, terrain.row * 4, 32, 64, 4.0))
    np.testing.assert_array_equal(left.heights_m[:, -1], right.heights_m[:, 0])


def test_what_lies_beyond_is_an_error():
    terrain = rough()
    x0, y0, x1, _ = terrain.bounds_m
    with pytest.raises(GeodataError, match="beyond the terrain"):
        terrain.height_at([x0 + 1, x1 + 1], [y0 + 1, y0 + 1])
    with pytest.raises(GeodataError, match="the terrain covers"):
        terrain.crop(Window(terrain.column * 4 - 1, terrain.row * 4, 8, 8, 4.0))


@given(
    seed=st.integers(0, 10_000),
    corners=st.lists(
        st.tuples(st.integers(1, 159), st.integers(1, 127)), min_size=3, max_size=7, unique=True
    ),
)
def test_the_lowest_ground_under_a_polygon_is_below_every_point_and_at_one_of_them(seed, corners):
    terrain = rough(seed=seed)
    x0, y0, _, _ = terrain.bounds_m
    hull = shapely.MultiPoint([(x0 + x, y0 + y) for x, y in corners]).convex_hull
    if hull.area < 5:
        return
    lowest = terrain.lowest_within(hull)
    left, bottom, right, top = hull.bounds
    x, y = np.meshgrid(np.linspace(left, right, 90), np.linspace(bottom, top, 90))
    inside = shapely.intersects_xy(hull, x, y)
    sampled = terrain.height_at(x[inside], y[inside])
    assert lowest <= sampled.min() + 1e-9
    step = max(right - left, top - bottom) / 89
    steepest = 2 * 60 / STEP_M * np.sqrt(2)
    assert lowest >= sampled.min() - steepest * step * 1.5 - 2e-3


def test_the_lowest_ground_of_several_polygons_is_that_of_the_lowest():
    terrain = rough()
    x0, y0, _, _ = terrain.bounds_m
    parts = [
        shapely.box(x0 + 3, y0 + 5, x0 + 40, y0 + 33),
        shapely.box(x0 + 70, y0 + 40, x0 + 99, y0 + 90),
    ]
    both = shapely.MultiPolygon(parts)
    assert terrain.lowest_within(both) == min(terrain.lowest_within(part) for part in parts)


def test_the_digest_follows_the_content():
    terrain = rough()
    assert terrain.digest == rough().digest
    assert terrain.digest != rough(seed=1).digest
    assert terrain.digest != rough(column=1).digest


def test_what_is_written_is_read_and_repeats_itself(tmp_path):
    terrain = rough()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_terrain(terrain, tmp_path / name, "EPSG:32635")
    again = load_terrain(tmp_path / "a")
    np.testing.assert_array_equal(again.heights_m, terrain.heights_m)
    assert again.digest == terrain.digest
    assert digest_folder(tmp_path / "a") == digest_folder(tmp_path / "b")


def test_a_missing_or_broken_terrain_is_named(tmp_path):
    with pytest.raises(GeodataError, match="Materialize osm_extract"):
        load_terrain(tmp_path)
    save_terrain(rough(), tmp_path, "EPSG:32635")
    (tmp_path / "terrain.zarr" / "elevation_m" / "zarr.json").write_text("{")
    with pytest.raises(GeodataError, match=r"terrain\.zarr"):
        load_terrain(tmp_path)


def test_a_flat_city_is_level_ground(tmp_path):
    city = synthetic_city(tmp_path)
    terrain, metadata = build_terrain(city)
    assert terrain.is_flat
    assert metadata["source"] == "flat"
    level = flat_terrain(city.ground_window, STEP_M)
    assert terrain.digest == level.digest
    x0, y0, x1, y1 = terrain.bounds_m
    wx0, wy0, wx1, wy1 = city.ground_window.bounds_m
    assert (x0, y0, x1, y1) == (wx0, wy0, wx1, wy1)
    for tile in city.tile_list:
        terrain.crop(city.scene_ground(tile))
