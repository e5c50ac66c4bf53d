"""Diffraction over a roof whose material is not that of the walls."""

from collections import Counter

import numpy as np
import pytest
import shapely
import trimesh
from one_thread import one_thread

from ueloc_core.radio.ray_tracing import Plane, RaySet, RayTracer, Transmitter
from ueloc_core.scene.meshes import building_mesh
from ueloc_core.scene.roofs import Roof

pytestmark = pytest.mark.slow

MATERIAL = (
    '<bsdf type="itu-radio-material" id="mat-{0}"><string name="type" value="concrete"/>'
    '<float name="thickness" value="0.3"/></bsdf>'
)
SHAPE = (
    '<shape type="ply" id="mesh-all-{0}"><string name="filename" value="{0}.ply"/>'
    '<boolean name="face_normals" value="true"/><ref id="mat-{0}" name="bsdf"/></shape>'
)
PLANE = Plane((80.0, 0.0), 16, 16, 4.0, 1.5)
MAST = Transmitter((0.0, 0.0, 30.0), 90.0, 0.0, "iso")


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


def shadow(folder, **meshes):
    """Mean gain behind the block, by diffraction alone."""
    folder.mkdir()
    for name, mesh in meshes.items():
        mesh.export(folder / f"{name}.ply", vertex_normal=False)
    text = "".join(part.format(name) for part in (MATERIAL, SHAPE) for name in meshes)
    (folder / "scene.xml").write_text(f'<scene version="2.1.0">{text}</scene>')
    tracer = RayTracer(folder / "scene.xml", frequency_hz=3.5e9, max_depth=1, diffraction=True)
    gain = tracer.path_gain([MAST], PLANE, RaySet(2_000_000, 5))[0]
    return gain[:, :4].mean()  # 48 to 64 m away, in the shadow of a block at 40 m


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
    whole = shadow(tmp_path / "whole", walls=part(block, everything))
    seam_below = shadow(
        tmp_path / "below", walls=part(block, ~block.is_roof), roofs=part(block, block.is_roof)
    )
    seam_on_edge = shadow(tmp_path / "edge", walls=part(block, ~lid), roofs=part(block, lid))
    assert whole > 0
    assert abs(10 * np.log10(seam_below / whole)) < 1.0
    assert seam_on_edge < whole / 100
