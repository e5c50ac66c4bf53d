"""Diffraction over a roof whose material is not that of the walls."""

from collections import Counter

import numpy as np
import pytest
import shapely
import trimesh
from small_scenes import small_scene, trace

from ueloc_core.radio.ray_tracing import Plane
from ueloc_core.scene.meshes import building_mesh
from ueloc_core.scene.roofs import Roof

pytestmark = pytest.mark.slow

GRID = Plane((48.0, -32.0), 4, 16, 4.0, 1.5)  # in the shadow of a block at 40 m


def shadow(folder, **bodies):
    """Gain behind the block, by diffraction alone."""
    scene = small_scene(folder, **bodies)
    return trace(scene, (0.0, 0.0, 30.0), GRID, diffraction=True).sectors[0].path_gain_db


def part(mesh, chosen):
    used, faces = np.unique(mesh.faces[chosen], return_inverse=True)
    return trimesh.Trimesh(mesh.vertices_m[used], faces.reshape(-1, 3), process=False)


def test_a_seam_below_the_edge_keeps_the_diffraction_and_one_along_it_would_not(tmp_path):
    block = building_mesh(
        shapely.box(38, -60, 42, 60),
        base_m=0.0,
        top_m=20.0,
        roof=Roof(),
        origin_m=(0.0, 0.0, 0.0),
        counts=Counter(),
    )
    everything = np.ones(len(block.faces), dtype=bool)
    normal_z = block.to_trimesh().face_normals[:, 2]
    lid = (normal_z > 0.5) & block.is_roof
    whole = shadow(tmp_path / "whole", all=(part(block, everything), "concrete"))
    seam_below = shadow(
        tmp_path / "below",
        walls=(part(block, ~block.is_roof), "concrete"),
        roofs=(part(block, block.is_roof), "tiles"),
    )
    seam_on_edge = shadow(
        tmp_path / "edge", walls=(part(block, ~lid), "concrete"), roofs=(part(block, lid), "tiles")
    )
    assert np.isfinite(whole).all()
    np.testing.assert_allclose(seam_below, whole, atol=0.05)
    assert np.isnan(seam_on_edge).all()
