"""The ground's meshes: no gaps, no folds, the same border from both sides."""

import numpy as np
import pytest
import trimesh

from ueloc_core.errors import SceneError
from ueloc_core.geodata.schemas import GROUND_MATERIALS
from ueloc_core.geodata.terrain import Terrain
from ueloc_core.scene.ground import ground_meshes

STEP_M = 16.0


def terrain(rows=12, columns=15, seed=0):
    heights = np.random.default_rng(seed).uniform(0, 30, (rows + 1, columns + 1))
    return Terrain(np.round(heights, 3), 300, 200, STEP_M)


def classes(rows=12, columns=15, seed=1):
    return np.random.default_rng(seed).integers(0, len(GROUND_MATERIALS), (rows, columns), np.uint8)


def test_together_they_cover_the_ground_once():
    meshes = ground_meshes(terrain(), classes(), (4800.0, 3200.0, 0.0))
    assert list(meshes) == [n for n in GROUND_MATERIALS if n in meshes]
    normals = np.vstack([mesh.face_normals for mesh in meshes.values()])
    areas = np.concatenate([mesh.area_faces for mesh in meshes.values()])
    assert (normals[:, 2] > 0).all()
    assert areas @ normals[:, 2] == pytest.approx(12 * 15 * STEP_M**2)
    whole = trimesh.util.concatenate(list(meshes.values()))
    whole.merge_vertices()
    uses = np.bincount(whole.edges_unique_inverse)
    assert set(uses.tolist()) == {1, 2}
    border = whole.vertices[np.unique(whole.edges_unique[uses == 1])]
    low, high = whole.bounds
    outer = np.isclose(border[:, :2], low[:2]) | np.isclose(border[:, :2], high[:2])
    assert outer.any(axis=1).all()
    assert whole.body_count == 1


def test_each_material_lies_where_its_class_is():
    codes = classes()
    for name, mesh in ground_meshes(terrain(), codes, (4800.0, 3200.0, 0.0)).items():
        column, row = (mesh.triangles_center[:, :2] // STEP_M).astype(int).T
        assert (codes[row, column] == GROUND_MATERIALS.index(name)).all()
        assert len(mesh.faces) == 2 * (codes == GROUND_MATERIALS.index(name)).sum()


def test_two_tiles_meet_at_their_seam():
    whole = terrain()
    west = Terrain(whole.heights_m[:, :9], 300, 200, STEP_M)
    east = Terrain(whole.heights_m[:, 8:], 308, 200, STEP_M)
    borders = []
    for part, origin in ((west, (4800.0, 3200.0, 2.0)), (east, (4928.0, 3200.0, 5.0))):
        shape = tuple(size - 1 for size in part.heights_m.shape)
        (mesh,) = ground_meshes(part, np.zeros(shape, np.uint8), origin).values()
        absolute = mesh.vertices + np.array(origin)
        seam = absolute[np.isclose(absolute[:, 0], 308 * STEP_M)]
        borders.append(seam[np.argsort(seam[:, 1])])
    np.testing.assert_allclose(borders[0], borders[1], atol=1e-9)
    assert len(borders[0]) == 13


def test_classes_of_another_shape_are_refused():
    with pytest.raises(SceneError, match="12 x 15"):
        ground_meshes(terrain(), classes(3, 4), (0.0, 0.0, 0.0))
