"""Paths over an edge against the knife edge and the theory of diffraction."""

import numpy as np
import pytest
import trimesh
from scipy.special import fresnel
from small_scenes import (
    BOTH,
    CONCRETE_M,
    ISO,
    WAVELENGTH_M,
    azimuth_deg,
    box,
    concrete,
    delay_ns,
    friis,
    knife_edge_gain,
    places,
    slab,
    small_scene,
    square,
    trace,
    turn_deg,
    zenith_deg,
)

from ueloc_core.radio.ray_tracing import Plane

pytestmark = pytest.mark.slow

RIDGE_M, TOP_M, BASE_M = 200.0, 40.0, 0.1
MAST = 0.0, 0.0, 25.0


def ridge(x_m=RIDGE_M, top_m=TOP_M, half_m=1000.0):
    """A wall along y whose cross-section is a thin triangle: one edge at its top."""
    section = [(x_m - BASE_M, 0.0), (x_m + BASE_M, 0.0), (x_m, top_m)]
    vertices = [(x, y, z) for y in (-half_m, half_m) for x, z in section]
    faces = [(0, 1, 2), (3, 5, 4), (0, 2, 5), (0, 5, 3), (1, 4, 5), (1, 5, 2), (0, 3, 4), (0, 4, 1)]
    return trimesh.Trimesh(vertices, faces, process=False)


@pytest.fixture(scope="module")
def ridges(tmp_path_factory):
    return {
        material: small_scene(tmp_path_factory.mktemp(material), ridge=(ridge(), material))
        for material in ("black", "concrete", "metal")
    }


def over(place_m, mast_m=MAST):
    """Length before and behind the ridge, and the bend, of the shortest path over it [m, rad]."""
    first = np.hypot(RIDGE_M - mast_m[0], TOP_M - mast_m[2])
    second = np.hypot(place_m[..., 0] - RIDGE_M, place_m[..., 2] - TOP_M)
    scale = np.hypot(first + second, place_m[..., 1] - mast_m[1]) / (first + second)
    rise = np.arctan2(TOP_M - mast_m[2], RIDGE_M - mast_m[0])
    fall = np.arctan2(TOP_M - place_m[..., 2], place_m[..., 0] - RIDGE_M)
    return first * scale, second * scale, rise + fall


def straight(place_m, mast_m=MAST):
    return np.linalg.norm(place_m - mast_m, axis=-1)


def in_db(power):
    return 10 * np.log10(power)


@pytest.mark.parametrize("material", ["black", "concrete", "metal"])
def test_a_thin_wall_is_a_knife_edge(ridges, material):
    """Bends of 9 to 18 degrees, 28 to 36 dB below free space."""
    grid = Plane((360.0, -8.0), 60, 4, 4.0, 1.5)
    site = trace(ridges[material], MAST, grid, ISO, BOTH, diffraction=True)
    assert (site.line_of_sight == 0).all()
    fine = places(grid, 3)
    before, behind, bend = over(fine)
    assert np.degrees(bend).max() < 18
    free = friis(straight(fine))
    wanted = in_db((free * knife_edge_gain(before + behind - straight(fine))).mean(axis=-1))
    loss = in_db(free.mean(axis=-1)) - wanted
    assert loss.min() > 28
    # a knife edge absorbs; faces that reflect a grazing field leave up to a decibel more or less
    margin_db = {"black": 0.25, "concrete": 0.6, "metal": 1.2}[material]
    for found in site.sectors:
        assert np.abs(found.path_gain_db - wanted).max() < margin_db


def transition(x):
    """The transition function of Kouyoumjian and Pathak (1974), eq. 28."""
    sine, cosine = fresnel(np.sqrt(2 * x / np.pi))
    rest = np.sqrt(np.pi / 2) * ((0.5 - cosine) - 1j * (0.5 - sine))
    return 2j * np.sqrt(x) * np.exp(1j * x) * rest


def wedge_terms(source, place, exterior, before, behind):
    """The four terms of the diffraction coefficient (eq. 25), for paths square to the edge.

    Parameters
    ----------
    source, place
        Angles of both ends from the lit face [rad].
    exterior
        Angle between the faces, outside [rad].
    before, behind
        Lengths of the path before and behind the edge [m].
    """
    wave, n = 2 * np.pi / WAVELENGTH_M, exterior / np.pi
    distance = before * behind / (before + behind)
    terms = []
    for angle in (place - source, place + source):
        for sign in (1, -1):
            turns = np.round((angle + sign * np.pi) / (2 * exterior))
            spread = 2 * np.cos(exterior * turns - angle / 2) ** 2
            cotangent = 1 / np.tan((np.pi + sign * angle) / (2 * n))
            terms.append(cotangent * transition(wave * distance * spread))
    return np.array(terms) / (2 * n * np.sqrt(2 * np.pi * wave))


def over_edge(coefficient, before, behind):
    """Gain along a path over an edge."""
    spreading = (before + behind) / (before * behind)
    return friis(before + behind) * np.abs(coefficient) ** 2 * spreading


@pytest.mark.parametrize("material", ["black", "concrete"])
def test_an_edge_follows_the_theory_at_any_angle(ridges, material):
    """A field across the edge, square to it: four terms, two with the faces' reflections."""
    grid = Plane((202.0, -1.0), 40, 1, 2.0, 1.5)
    found = trace(ridges[material], MAST, grid, points=16, diffraction=True).sectors[0]
    before, behind, bend = over(places(grid, 8))
    # the lit face points down
    source = np.pi / 2 - np.arctan2(TOP_M - MAST[2], RIDGE_M)
    exterior = 2 * np.pi - 2 * np.arctan2(BASE_M, TOP_M)
    place = source + np.pi + bend
    d1, d2, d3, d4 = wedge_terms(source, place, exterior, before, behind)
    lit, dark = (
        0.0 if material == "black" else slab(np.sin(angle), concrete(), CONCRETE_M)[0][1]
        for angle in (source, exterior - place)
    )
    wanted = over_edge(d1 + d2 + lit * d4 + dark * d3, before, behind)
    error = found.path_gain_db - in_db(wanted.mean(axis=-1))
    assert np.degrees(bend).max() > 80
    assert np.abs(error[0, 1:]).max() < 0.3
    assert abs(error[0, 1:].mean()) < 0.05


@pytest.mark.parametrize("material", ["metal", "concrete"])
def test_a_roof_bends_both_polarizations_as_the_wedge_of_theory_does(tmp_path, material):
    """The mast grazes the roof: along the edge a field is nearly zero on it, and little is left.

    For metal both reflections are -1 along the edge and 1 across it, which is the exact solution.
    """
    roof = small_scene(tmp_path, roof=(box((-30, 20), (-400, 400), (0, 20)), material))
    mast, place = (-150.0, 0.0, 40.0), (32.0, 0.0, 10.0)
    before, behind = np.hypot(170, 20), np.hypot(12, 10)
    source, end = np.arctan2(20, 170), np.pi + np.arctan2(10, 12)
    d1, d2, d3, d4 = wedge_terms(source, end, 1.5 * np.pi, before, behind)
    site = trace(roof, mast, square(place[:2], 1, 0.05, place[2]), ISO, BOTH, diffraction=True)
    upright, both = (10 ** (found.path_gain_db[0, 0] / 10) for found in site.sectors)
    if material == "metal":
        reflections = (-1.0, 1.0), (-1.0, 1.0)
    else:
        reflections = [
            slab(np.sin(angle), concrete(), CONCRETE_M)[0] for angle in (source, 1.5 * np.pi - end)
        ]
    for number, power in enumerate((2 * both - upright, upright)):
        lit, dark = (of_face[number] for of_face in reflections)
        wanted = over_edge(d1 + d2 + lit * d4 + dark * d3, before, behind)
        assert in_db(power / wanted) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("material", ["black", "concrete", "metal"])
def test_half_of_the_field_arrives_at_the_boundary_of_the_shadow(ridges, material):
    """A quarter of the power, whatever the wall is made of; all of it in the light."""
    mast = 0.0, 0.0, 60.0
    edge_m = TOP_M - 20.0  # the straight line over the ridge, 200 m behind it
    for offset_m, wanted_db, margin_db in ((-0.06, -6.02, 0.4), (0.06, 0.0, 0.01)):
        grid = square((400.0, 0.0), 1, 0.01, edge_m + offset_m)
        site = trace(ridges[material], mast, grid, ISO, BOTH, diffraction=True)
        assert site.line_of_sight[0, 0] == (offset_m > 0)
        for found in site.sectors:
            free = friis(straight(places(grid)[0, 0, 0], mast))
            gain_db = found.path_gain_db[0, 0] - in_db(free)
            assert gain_db == pytest.approx(wanted_db, abs=margin_db)


def test_the_deeper_in_the_shadow_the_weaker(ridges):
    grid = Plane((204.0, -2.0), 80, 1, 4.0, 1.5)
    found = trace(ridges["concrete"], MAST, grid, diffraction=True).sectors[0]
    loss = in_db(friis(straight(places(grid)[:, :, 0]))) - found.path_gain_db
    assert (np.diff(loss[0]) < 0.02).all()


def test_delays_and_directions_are_those_of_the_path_over_the_edge(ridges):
    """Later than the straight line by the detour; azimuths of oblique paths bend too."""
    grid = Plane((240.0, 80.0), 20, 20, 4.0, 1.5)
    site = trace(ridges["concrete"], MAST, grid, diffraction=True)
    found, place = site.sectors[0], places(grid)[:, :, 0]
    before, behind, _ = over(place)
    np.testing.assert_allclose(found.first_arrival_ns, delay_ns(before + behind), atol=0.05)
    np.testing.assert_allclose(found.mean_delay_ns, delay_ns(before + behind), atol=0.05)
    detour = found.first_arrival_ns - delay_ns(straight(place))
    assert detour.min() > 1
    share = before / (before + behind)
    turn = np.stack(
        [
            np.full_like(share, RIDGE_M),
            MAST[1] + share * (place[..., 1] - MAST[1]),
            np.full_like(share, TOP_M),
        ],
        axis=-1,
    )
    for way, azimuth, zenith in (
        (turn - MAST, found.departure_azimuth_deg, found.departure_zenith_deg),
        (turn - place, found.arrival_azimuth_deg, found.arrival_zenith_deg),
    ):
        assert turn_deg(azimuth, azimuth_deg(way)).max() < 0.5
        assert np.abs(zenith - zenith_deg(way)).max() < 0.5


def test_an_edge_bends_around_a_corner_of_a_house(tmp_path):
    """Over an upright edge, in the plane: the same field as over a level one, turned."""
    tall = small_scene(tmp_path / "tall", house=(box((50, 90), (0, 80), (-400, 400)), "black"))
    grid = Plane((100.0, 12.0), 1, 8, 4.0, 10.0)
    site = trace(tall, (0.0, -20.0, 10.0), grid, points=16, diffraction=True)
    assert (site.line_of_sight == 0).all()
    laid = small_scene(tmp_path / "laid", house=(box((50, 90), (-400, 400), (-80, 0)), "black"))
    for row in range(8):
        other = trace(
            laid,
            (0.0, 0.0, 20.0),
            Plane((100.0, -2.0), 1, 1, 4.0, -14.0 - 4 * row),
            points=16,
            diffraction=True,
        )
        assert site.sectors[0].path_gain_db[row, 0] == pytest.approx(
            other.sectors[0].path_gain_db[0, 0], abs=0.3
        )


def test_no_diffraction_without_depth_or_wish(ridges):
    grid = Plane((240.0, 0.0), 4, 4, 4.0, 1.5)
    for options in ({"diffraction": False}, {"diffraction": True, "max_depth": 0}):
        found = trace(ridges["metal"], MAST, grid, **options).sectors[0]
        assert np.isnan(found.path_gain_db).all()
