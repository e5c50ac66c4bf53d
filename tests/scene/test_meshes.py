"""Closed meshes: volumes, areas and topology against the polygons they come from."""

from collections import Counter

import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from ueloc_core.grid import Window
from ueloc_core.scene.meshes import extrude, ground_plane, is_closed, resolve_overlaps

ORIGIN = (386_000.0, 6_672_000.0)
SQUARE = shapely.box(0, 0, 20, 20)
COURTYARD = SQUARE.difference(shapely.box(5, 5, 15, 15))


def _at_origin(shape):
    return shapely.transform(shape, lambda xy: xy + np.asarray(ORIGIN))


def _mesh(shape, base_m=0.0, top_m=12.5):
    return extrude(_at_origin(shape), base_m, top_m, ORIGIN)


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


def test_the_ground_faces_up_and_covers_window_and_margin():
    window = Window(10, 20, 30, 40, 4.0)
    ground = ground_plane(window, (40.0, 80.0), margin_m=100.0)
    np.testing.assert_allclose(ground.face_normals, [[0, 0, 1]] * 2)
    np.testing.assert_allclose(ground.bounds, [[-100, -100, 0], [220, 260, 0]])


def _buildings(*rows):
    return gpd.GeoDataFrame(
        {
            "osm_id": [f"way/{index}" for index in range(len(rows))],
            "height_m": [float(row[1]) for row in rows],
            "min_height_m": [float(row[2]) for row in rows],
        },
        geometry=[row[0] for row in rows],
        crs="EPSG:32635",
    )


def test_the_higher_building_keeps_the_overlap():
    low, high = shapely.box(0, 0, 10, 10), shapely.box(5, 0, 15, 10)
    counts = Counter()
    resolved = resolve_overlaps(_buildings((low, 8, 0), (high, 20, 0)), counts)
    assert list(resolved.area) == pytest.approx([50, 100])
    assert counts["overlaps_cut"] == 1


def test_a_buried_building_is_dropped_and_counted():
    counts = Counter()
    inner = shapely.box(2, 2, 8, 8)
    resolved = resolve_overlaps(_buildings((inner, 8, 0), (SQUARE, 20, 0)), counts)
    assert list(resolved["osm_id"]) == ["way/1"]
    assert counts["overlapped_buildings_dropped"] == 1


def test_buildings_above_each_other_are_left_alone():
    counts = Counter()
    resolved = resolve_overlaps(_buildings((SQUARE, 10, 0), (SQUARE, 30, 10)), counts)
    assert list(resolved.area) == [400, 400]
    assert not counts


def test_neighbours_that_share_a_wall_are_left_alone():
    counts = Counter()
    resolve_overlaps(_buildings((SQUARE, 10, 0), (shapely.box(20, 0, 30, 20), 30, 0)), counts)
    assert not counts


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(*(st.integers(0, 60) for _ in range(2)), *(st.integers(2, 30) for _ in range(3))),
        min_size=2,
        max_size=10,
    )
)
def test_no_two_buildings_share_space_and_none_is_lost(boxes):
    rows = [(shapely.box(x, y, x + w, y + h), top, 0) for x, y, w, h, top in boxes]
    before = _buildings(*rows)
    after = resolve_overlaps(before, Counter())
    assert after.area.sum() == pytest.approx(after.union_all().area, abs=1e-3)
    assert before.union_all().area == pytest.approx(after.union_all().area, abs=10)
