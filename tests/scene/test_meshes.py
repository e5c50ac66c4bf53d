"""Closed meshes: volumes, areas and topology against the polygons they come from."""

from collections import Counter

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from ueloc_core.scene.meshes import building_mesh, is_closed
from ueloc_core.scene.roofs import Roof

ORIGIN = (386_000.0, 6_672_000.0)
SQUARE = shapely.box(0, 0, 20, 20)
COURTYARD = SQUARE.difference(shapely.box(5, 5, 15, 15))


def _at_origin(shape):
    return shapely.transform(shape, lambda xy: xy + np.asarray(ORIGIN))


def _mesh(shape, base_m=0.0, top_m=12.5):
    made = building_mesh(
        _at_origin(shape),
        base_m=base_m,
        top_m=top_m,
        roof=Roof(),
        origin_m=(*ORIGIN, 0.0),
        counts=Counter(),
    )
    return None if made is None else made.to_trimesh()


@pytest.mark.parametrize(
    ("shape", "euler_number"),
    [
        (SQUARE, 2),
        (shapely.Point(10, 10).buffer(8), 2),
        (COURTYARD, 0),
        (COURTYARD.difference(shapely.box(1, 1, 3, 3)), -2),
        (shapely.MultiPolygon([SQUARE, shapely.box(30, 0, 40, 10)]), 4),
    ],
    ids=["solid", "round", "courtyard", "two courtyards", "two parts"],
)
def test_volume_area_and_topology(shape, euler_number):
    mesh = _mesh(shape, base_m=3.0, top_m=15.5)
    assert is_closed(mesh)
    assert mesh.volume == pytest.approx(shape.area * 12.5, rel=1e-5)
    walls_m2 = shape.length * 12.5
    assert mesh.area == pytest.approx(2 * shape.area + walls_m2, rel=1e-5)
    assert mesh.euler_number == euler_number
    up = mesh.face_normals[:, 2] > 0.5
    assert mesh.area_faces[up].sum() == pytest.approx(shape.area, rel=1e-5)
    np.testing.assert_allclose(mesh.bounds[:, 2], [3.0, 15.5])


def test_normals_point_outwards():
    mesh = _mesh(SQUARE)
    outwards = np.einsum("ij,ij->i", mesh.triangles_center - mesh.centroid, mesh.face_normals)
    assert (outwards > 0).all()


def test_a_footprint_that_touches_itself_is_still_closed():
    diamond = shapely.Polygon([(0, 10), (5, 5), (10, 10), (5, 15)])
    pinched = SQUARE.difference(diamond)
    assert pinched.is_valid
    mesh = _mesh(pinched)
    assert is_closed(mesh)
    assert mesh.volume == pytest.approx(pinched.area * 12.5, rel=0.01)


def test_points_along_a_wall_leave_no_crack():
    dense = shapely.segmentize(COURTYARD, 0.7)
    mesh = _mesh(dense)
    assert is_closed(mesh)
    assert mesh.volume == pytest.approx(COURTYARD.area * 12.5, rel=1e-5)


SPANS = ((-300, 300), (-300, 300), (1, 40), (1, 40))  # x, y, width, height [m], in millimetres


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            *(st.integers(low * 1000, high * 1000).map(lambda mm: mm / 1000) for low, high in SPANS)
        ),
        min_size=1,
        max_size=6,
    )
)
def test_any_union_of_boxes_gives_a_closed_mesh_or_none(boxes):
    shape = shapely.union_all([shapely.box(x, y, x + w, y + h) for x, y, w, h in boxes])
    mesh = _mesh(shapely.set_precision(shape, 0.001))
    if mesh is not None:
        assert is_closed(mesh)
        assert mesh.volume == pytest.approx(shape.area * 12.5, rel=0.02, abs=1.0)
