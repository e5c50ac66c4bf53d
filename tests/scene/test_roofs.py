"""Roofs and the meshes under them: volumes, topology, orientation, repetition."""

import io
from collections import Counter

import numpy as np
import pytest
import shapely
import trimesh
from hypothesis import given
from hypothesis import strategies as st

from ueloc_core.geodata.buildings import clean_polygons
from ueloc_core.scene.meshes import FASCIA_M, building_mesh, is_closed
from ueloc_core.scene.roofs import Roof, roof_surface

HOUSE = shapely.box(0, 0, 20, 10)
COURT = HOUSE.difference(shapely.box(8, 4, 12, 6))
ELL = shapely.Polygon([(0, 0), (20, 0), (20, 6), (14, 6), (14, 10), (0, 10)])
PITCHED = ("skillion", "gabled", "hipped", "pyramidal")


def mesh(footprint, shape="flat", rise=4.0, *, base=0.0, top=12.0, direction=None, counts=None):
    return building_mesh(
        footprint,
        base_m=base,
        top_m=top,
        roof=Roof(shape, rise if shape != "flat" else 0.0, direction),
        origin_m=(0.0, 0.0, 0.0),
        counts=Counter() if counts is None else counts,
    )


@pytest.mark.parametrize(
    ("shape", "attic"),
    [
        ("flat", 200 * 4),
        ("skillion", 200 * 4 / 2),
        ("gabled", 200 * 4 / 2),
        ("hipped", 4 * 10 * (3 * 20 - 10) / 6),
        ("pyramidal", 200 * 4 / 3),
    ],
)
def test_the_volume_under_a_roof_is_the_formulas(shape, attic):
    made = mesh(HOUSE, shape)
    assert made.volume_m3 == pytest.approx(200 * 8 + attic, rel=1e-9)
    assert made.vertices_m[:, 2].max() == pytest.approx(12.0)
    assert is_closed(made.to_trimesh())


@pytest.mark.parametrize("shape", ["flat", *PITCHED])
@pytest.mark.parametrize("footprint", [HOUSE, COURT, ELL], ids=["house", "court", "ell"])
@pytest.mark.parametrize("turn_deg", [0, 33.3])
def test_a_mesh_is_closed_and_its_volume_is_the_integral_of_its_roof(shape, footprint, turn_deg):
    turned = shapely.set_precision(
        shapely.transform(footprint, lambda xy: xy @ _rotation(turn_deg)), 0.001
    )
    made = mesh(turned, shape)
    solid = made.to_trimesh()
    assert is_closed(solid)
    holes = len(turned.interiors)
    assert solid.euler_number == 2 - 2 * holes
    surface = roof_surface(turned, Roof(shape, 4.0 if shape != "flat" else 0.0), 12.0, Counter())
    axes = (np.linspace(low, high, 801) for low, high in zip(*_ranges(turned), strict=True))
    x, y = np.meshgrid(*axes)
    inside = shapely.contains_xy(turned, x, y)
    heights = surface.height_at(np.column_stack([x[inside], y[inside]]))
    assert made.volume_m3 == pytest.approx(heights.mean() * turned.area, rel=2e-3)


def _rotation(turn_deg):
    turn = np.radians(turn_deg)
    return np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])


def _ranges(footprint):
    x0, y0, x1, y1 = footprint.bounds
    return (x0, y0), (x1, y1)


def test_the_ridge_runs_along_the_longer_side_or_where_it_is_told_to():
    across = mesh(HOUSE, "gabled")
    ridge = across.vertices_m[np.isclose(across.vertices_m[:, 2], 12.0)]
    assert np.allclose(ridge[:, 1], 5.0)
    told = mesh(HOUSE, "gabled", direction=90.0)
    ridge = told.vertices_m[np.isclose(told.vertices_m[:, 2], 12.0)]
    assert np.allclose(ridge[:, 0], 10.0)


@pytest.mark.parametrize(
    ("direction", "low"), [(0, (10, 10)), (90, (20, 5)), (180, (10, 0)), (270, (0, 5))]
)
def test_a_skillion_roof_slopes_down_towards_its_direction(direction, low):
    surface = roof_surface(HOUSE, Roof("skillion", 3.0, float(direction)), 10.0, Counter())
    assert surface.height_at(np.array([low], dtype=float))[0] == pytest.approx(7.0)
    opposite = np.array([[20 - low[0], 10 - low[1]]], dtype=float)
    assert surface.height_at(opposite)[0] == pytest.approx(10.0)


def test_a_footprint_without_one_ridge_gets_a_flat_roof_of_the_mean_height():
    cross = shapely.union_all([shapely.box(0, 9, 30, 12), shapely.box(13, 0, 16, 30)])
    counts = Counter()
    made = mesh(cross, "gabled", counts=counts)
    assert counts["roofs_flattened"] == 1
    assert made.volume_m3 == pytest.approx(cross.area * 10)


def test_the_roofs_material_takes_the_top_of_the_walls():
    """The seam must not lie on the roof's edge, where rays diffract."""
    made = mesh(HOUSE)
    roof = made.vertices_m[np.unique(made.faces[made.is_roof])]
    wall = made.vertices_m[np.unique(made.faces[~made.is_roof])]
    assert roof[:, 2].min() == pytest.approx(12 - FASCIA_M)
    assert wall[:, 2].max() == pytest.approx(12 - FASCIA_M)


@pytest.mark.parametrize("shape", ["flat", *PITCHED])
def test_a_footprint_that_touches_itself_is_shrunk(shape):
    pinched = shapely.Polygon(
        [(0, 0), (10, 0), (10, 10), (0, 10)], [[(0, 5), (3, 3), (6, 5), (3, 7)]]
    )
    counts = Counter()
    made = mesh(pinched, shape, counts=counts)
    assert is_closed(made.to_trimesh())
    assert counts["pinched_footprints_shrunk"] == 1
    bowtie = shapely.MultiPolygon([shapely.box(0, 0, 5, 5), shapely.box(5, 5, 10, 10)])
    assert mesh(bowtie, shape).is_closed


def test_the_shape_does_not_depend_on_the_origin_or_on_single_precision():
    footprint = shapely.transform(COURT, lambda xy: xy @ _rotation(17.0) + (385_000, 6_671_000))
    footprint = shapely.set_precision(footprint, 0.001)
    made = [
        building_mesh(
            footprint,
            base_m=4.2,
            top_m=16.7,
            roof=Roof("hipped", 3.3),
            origin_m=origin,
            counts=Counter(),
        )
        for origin in ((384_512.0, 6_670_848.0, 0.0), (385_024.0, 6_670_848.0, 4.0))
    ]
    assert np.array_equal(made[0].faces, made[1].faces)
    shift = made[0].vertices_m - made[1].vertices_m
    assert np.allclose(shift, (512, 0, 4), atol=1e-6)
    stored = made[0].vertices_m.astype(np.float32)
    solid = trimesh.Trimesh(stored, made[0].faces, process=False)
    content = solid.export(file_type="ply", vertex_normal=False)
    again = trimesh.load(io.BytesIO(content), file_type="ply", process=False)
    assert is_closed(again)
    assert again.volume == pytest.approx(made[0].volume_m3, rel=1e-4)


@given(
    angles=st.lists(st.integers(0, 359), min_size=3, max_size=9, unique=True),
    radius=st.floats(2, 60),
    shape=st.sampled_from(["flat", *PITCHED]),
    rise=st.floats(0.1, 30),
    court=st.booleans(),
)
def test_any_footprint_gives_a_closed_mesh_of_the_right_volume_or_none(
    angles, radius, shape, rise, court
):
    ring = [
        (radius * np.cos(a), radius * np.sin(a) * (1 + 0.4 * np.sin(5 * a))) for a in sorted(angles)
    ]
    cleaned = clean_polygons(shapely.Polygon(ring))
    if cleaned is None:
        return
    footprint = shapely.get_parts(cleaned)[0]
    if court:
        hollow = footprint.difference(footprint.centroid.buffer(radius / 9, quad_segs=2))
        footprint = clean_polygons(hollow)
        if footprint is None:
            return
    counts = Counter()
    made = mesh(footprint, shape, rise, counts=counts)
    if made is None:
        assert footprint.buffer(-0.02).geom_type != "Polygon"
        return
    assert is_closed(made.to_trimesh())
    assert made.vertices_m[:, 2].max() <= 12 + 1e-6
    area = footprint.area
    assert area * (12 - min(rise, 11.95)) * 0.98 <= made.volume_m3 <= area * 12 * 1.001
    if shape == "flat" and not counts:
        assert made.volume_m3 == pytest.approx(area * 12, rel=1e-6)
