"""Antennas against TR 38.901, against Sionna RT, and against what physics asks of them."""

import math

import numpy as np
import pytest

from ueloc_core.errors import RadioError
from ueloc_core.radio.antennas import (
    ANTENNAS,
    Antenna,
    antenna_named,
    array_factor,
    beam_field_components,
    direction_of,
    element_field,
    element_gain_db,
    field_components,
    orientation_matrix,
    spherical_basis,
    ssb_beams,
    tilt_weights,
)
from ueloc_core.radio.beams import (
    Departures,
    beam_gain_db,
    beam_gains_over_map,
    best_beam,
    radiated_share,
)
from ueloc_core.units import azimuth_to_math_angle_rad

COLUMN = Antenna("column", rows=8, polarization="slant")
PANEL = Antenna("panel", rows=4, columns=8, polarization="VH")
POSES = [(0.0, 0.0), (37.0, 8.0), (200.0, -12.0), (315.0, 60.0)]
# Share of the power that the element of table 7.3-1 radiates: 8 dBi and a directivity of 9.83 dBi,
# as Sionna RT documents it (AntennaPattern.compute_gain).
ELEMENT_EFFICIENCY = 0.65678


def random_directions(count, seed=0):
    direction = np.random.default_rng(seed).standard_normal((count, 3))
    return direction / np.linalg.norm(direction, axis=1, keepdims=True)


def power(fields):
    return (np.abs(fields) ** 2).sum(axis=-1)


def sector_gain_db(antenna, direction, azimuth_deg=0.0, downtilt_deg=0.0, electrical_tilt_deg=0.0):
    """Gain of the first port."""
    fields = field_components(
        antenna,
        azimuth_deg=azimuth_deg,
        downtilt_deg=downtilt_deg,
        electrical_tilt_deg=electrical_tilt_deg,
        direction=direction,
    )
    return 10 * np.log10(power(fields)[..., 0])


def mean_over_sphere(antenna, **pose):
    """Integral of the first port's gain over the sphere, divided by 4 pi."""
    cosine, weight = np.polynomial.legendre.leggauss(180)
    azimuth = np.arange(720) / 2 + 0.25
    directions = direction_of(azimuth[None], np.degrees(np.arccos(cosine))[:, None])
    gain = 10 ** (sector_gain_db(antenna, directions, **pose) / 10)
    return float((gain.mean(axis=1) * weight).sum() / 2)


# -- elements -------------------------------------------------------------------------------


def test_the_element_is_that_of_the_table():
    """Peak, half-power widths of 65 degrees, front-to-back ratio and floor of 30 dB."""
    assert element_gain_db(90, 0, "tr38901") == 8
    half = element_gain_db([90, 90, 57.5, 122.5], [32.5, -32.5, 0, 0], "tr38901")
    np.testing.assert_allclose(half, 5, atol=1e-12)
    np.testing.assert_allclose(
        element_gain_db([90, 90, 0, 180, 0], [180, 120, 0, 0, 180], "tr38901"),
        [-22, -22, 8 - 12 * (90 / 65) ** 2, 8 - 12 * (90 / 65) ** 2, -22],
    )
    np.testing.assert_allclose(
        element_gain_db(90, [20, 380, -340], "tr38901"), 8 - 12 * (20 / 65) ** 2
    )
    assert (element_gain_db(np.arange(0, 181), 77, "iso") == 0).all()


def test_gain_and_directivity_of_the_element_differ_by_its_losses():
    """TR 38.901 quotes 8 dBi for a pattern whose directivity is 9.8 dBi."""
    share = mean_over_sphere(Antenna("one"))
    assert share == pytest.approx(ELEMENT_EFFICIENCY, rel=2e-3)
    assert 8 - 10 * math.log10(share) == pytest.approx(9.826, abs=0.01)


def test_an_isotropic_element_radiates_all_of_its_power():
    assert mean_over_sphere(Antenna("iso", pattern="iso")) == pytest.approx(1, rel=1e-9)


# -- frames and polarization ----------------------------------------------------------------


@pytest.mark.parametrize(("azimuth_deg", "downtilt_deg"), POSES)
def test_the_boresight_points_where_it_is_told_to(azimuth_deg, downtilt_deg):
    rotation = orientation_matrix(azimuth_deg, downtilt_deg)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)
    boresight = direction_of(azimuth_deg, 90 + downtilt_deg)
    np.testing.assert_allclose(rotation[:, 0], boresight, atol=1e-12)
    assert sector_gain_db(Antenna("one"), boresight, azimuth_deg, downtilt_deg) == pytest.approx(8)


def test_compass_directions():
    np.testing.assert_allclose(direction_of(0, 90), [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(direction_of(90, 90), [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(direction_of(0, 180), [0, 0, -1], atol=1e-12)
    np.testing.assert_allclose(direction_of([0, 90], [[90], [180]]).shape, (2, 2, 3))


def test_the_spherical_basis_is_right_handed_also_at_the_poles():
    directions = np.concatenate([random_directions(200), [[0, 0, 1], [0, 0, -1]]])
    theta, phi = spherical_basis(directions)
    np.testing.assert_allclose(np.cross(directions, theta), phi, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(theta, axis=1), 1)


@pytest.mark.parametrize("polarization", ["V", "VH", "slant"])
def test_fields_are_those_of_sionna(polarization):
    """Zenith and azimuth components of the one-element antenna, in any orientation."""
    from ueloc_core.radio.ray_tracing import sionna_rt

    rt = sionna_rt()
    from sionna.rt.antenna_pattern import (
        antenna_pattern_registry,
        antenna_pattern_to_world_implicit,
    )
    from sionna.rt.utils import rotation_matrix

    name = {"V": "V", "VH": "VH", "slant": "cross"}[polarization]
    patterns = antenna_pattern_registry.get("tr38901")(polarization=name).patterns
    directions = random_directions(2000)
    wave = rt.mi.Vector3f(*directions.T.astype(np.float32))
    for azimuth_deg, downtilt_deg in POSES:
        angles = (azimuth_to_math_angle_rad(azimuth_deg), math.radians(downtilt_deg), 0.0)
        to_world = rotation_matrix(rt.mi.Point3f(*angles))
        ours = field_components(
            Antenna("one", polarization=polarization),
            azimuth_deg=azimuth_deg,
            downtilt_deg=downtilt_deg,
            electrical_tilt_deg=0.0,
            direction=directions,
        )
        assert ours.shape == (2000, len(patterns), 2)
        for port, pattern in enumerate(patterns):
            theirs = antenna_pattern_to_world_implicit(pattern, to_world, wave, "out")
            parts = np.array(theirs).T
            np.testing.assert_allclose(ours[:, port], parts[:, :2] + 1j * parts[:, 2:], atol=1e-4)


def test_ports_are_orthogonal_and_of_equal_power():
    for polarization in ("VH", "slant"):
        fields = element_field(
            Antenna("two", polarization=polarization),
            azimuth_deg=70.0,
            downtilt_deg=15.0,
            direction=random_directions(300),
        )
        np.testing.assert_allclose(power(fields[:, 0]), power(fields[:, 1]))
        np.testing.assert_allclose((fields[:, 0] * fields[:, 1]).sum(axis=-1), 0, atol=1e-12)


def test_an_upright_vertical_antenna_has_no_horizontal_field():
    fields = element_field(
        Antenna("one"), azimuth_deg=123.0, downtilt_deg=0.0, direction=random_directions(100)
    )
    np.testing.assert_allclose(fields[..., 1], 0, atol=1e-12)
    assert (fields[..., 0] > 0).all()


@pytest.mark.parametrize("antenna", [COLUMN, PANEL])
def test_turning_sector_and_direction_together_changes_nothing(antenna):
    zenith = np.linspace(5, 175, 40)
    azimuth = np.linspace(0, 350, 40)
    still, turned = (
        field_components(
            antenna,
            azimuth_deg=20.0 + turn,
            downtilt_deg=6.0,
            electrical_tilt_deg=4.0,
            direction=direction_of(azimuth + turn, zenith),
        )
        for turn in (0.0, 141.0)
    )
    np.testing.assert_allclose(turned, still, atol=1e-9)


def test_co_located_sectors_differ():
    directions = direction_of(np.arange(0, 360, 5.0), 95.0)
    gains = np.array([sector_gain_db(COLUMN, directions, azimuth) for azimuth in (30, 150, 270)])
    best = gains.argmax(axis=0)
    assert [int((best == k).sum()) for k in range(3)] == [24, 24, 24]
    # each is the other, turned by 120 degrees
    np.testing.assert_allclose(np.roll(gains[0], 24), gains[1], atol=1e-9)


def test_a_direction_without_unit_length_is_refused():
    with pytest.raises(RadioError, match="length 2"):
        sector_gain_db(Antenna("one"), np.array([[1.0, 0, 0], [0, 2.0, 0]]))


# -- arrays ---------------------------------------------------------------------------------


def test_each_doubling_of_elements_gains_three_decibels():
    boresight = direction_of(0.0, 90.0)
    for rows, columns in [(1, 1), (2, 1), (4, 1), (8, 1), (8, 2), (8, 4), (8, 8)]:
        gain = sector_gain_db(Antenna("array", rows=rows, columns=columns), boresight)
        assert gain == pytest.approx(8 + 10 * math.log10(rows * columns))


@pytest.mark.parametrize("tilt_deg", [0.0, 7.0, -20.0])
@pytest.mark.parametrize(("rows", "columns"), [(2, 1), (8, 1), (1, 4)])
def test_a_lossless_line_of_half_wavelengths_radiates_all_of_its_power(rows, columns, tilt_deg):
    """Half a wavelength apart, isotropic elements on a line do not couple: exactly 4 pi."""
    line = Antenna("line", pattern="iso", rows=rows, columns=columns)
    tilt = tilt_deg if rows > 1 else 0.0
    assert mean_over_sphere(line, electrical_tilt_deg=tilt) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("tilt_deg", [0.0, 6.0])
def test_the_radiated_share_is_the_integral_of_the_gain(tilt_deg):
    """Whatever way the sector looks."""
    for antenna in (COLUMN, ANTENNAS["panel8x8"]):
        share = radiated_share(antenna, tilt_weights(antenna, tilt_deg)[None])
        turned = mean_over_sphere(
            antenna, azimuth_deg=33.0, downtilt_deg=12.0, electrical_tilt_deg=tilt_deg
        )
        assert share == pytest.approx([turned], rel=1e-3)


def test_elements_far_apart_do_not_couple():
    """Many wavelengths apart, the gain of norm-one weights keeps the element's losses."""
    sparse = Antenna("sparse", rows=4, vertical_spacing=9.3)
    share = radiated_share(sparse, tilt_weights(sparse, 3.0)[None])
    assert share == pytest.approx([ELEMENT_EFFICIENCY], rel=0.02)


@pytest.mark.parametrize(("name", "share"), [("tr38901", 0.657), ("iso", 1.0), ("column8", 0.746)])
def test_passive_antennas_radiate_no_more_than_they_are_fed(name, share):
    weights = tilt_weights(antenna_named(name), 0.0)[None]
    assert radiated_share(antenna_named(name), weights) == pytest.approx([share], abs=2e-3)


def test_close_elements_are_flattered():
    """8 dBi per element within half a wavelength squared exceed the aperture: TR 38.901's way."""
    panel = Antenna("close", rows=8, columns=8)
    share = float(radiated_share(panel, tilt_weights(panel, 0.0)[None])[0])
    directivity_dbi = 8 + 10 * math.log10(64 / share)
    aperture_dbi = 10 * math.log10(4 * math.pi * (8 * 0.5) ** 2)
    assert share > 1.5
    assert directivity_dbi == pytest.approx(aperture_dbi, abs=0.5)


def test_weights_have_norm_one():
    for weights in (tilt_weights(PANEL, 9.0)[None], ssb_beams(PANEL, 8, electrical_tilt_deg=5.0)):
        np.testing.assert_allclose(np.linalg.norm(weights, axis=1), 1)


def peak_tilt_deg(**tilts):
    below = np.arange(-30, 45, 0.01)
    gain = sector_gain_db(COLUMN, direction_of(0.0, 90 + below), **tilts)
    return float(below[gain.argmax()])


def test_electrical_and_mechanical_tilt_turn_the_peak_down():
    assert peak_tilt_deg() == pytest.approx(0, abs=0.02)
    assert peak_tilt_deg(downtilt_deg=10.0) == pytest.approx(10, abs=0.02)
    # the element, which stays upright, pulls the peak a little back to its normal
    assert 9.5 < peak_tilt_deg(electrical_tilt_deg=10.0) < 10
    assert 17.5 < peak_tilt_deg(downtilt_deg=8.0, electrical_tilt_deg=10.0) < 18


def test_only_electrical_tilt_goes_down_behind_and_aside():
    """A tilted mast part looks up behind itself; a phase progression is a cone all around."""
    line = Antenna("line", pattern="iso", rows=8)
    below = np.arange(-45, 45, 0.01)
    for azimuth, mechanical in ((90.0, 0.0), (180.0, -10.0)):
        directions = direction_of(azimuth, 90 + below)
        electrical = sector_gain_db(line, directions, electrical_tilt_deg=10.0)
        tilted = sector_gain_db(line, directions, downtilt_deg=10.0)
        assert below[electrical.argmax()] == pytest.approx(10, abs=0.02)
        assert below[tilted.argmax()] == pytest.approx(mechanical, abs=0.02)


def test_half_power_width_of_a_column():
    """0.886 wavelengths over the length of the array, for uniform weights."""
    line = Antenna("line", pattern="iso", rows=16)
    below = np.arange(-10, 10, 0.001)
    gain = sector_gain_db(line, direction_of(0.0, 90 + below))
    width = np.ptp(below[gain > gain.max() - 10 * math.log10(2)])
    assert width == pytest.approx(math.degrees(0.886 / 8), rel=5e-3)


def test_one_row_cannot_be_tilted_electrically():
    with pytest.raises(RadioError, match="needs more than one row"):
        tilt_weights(Antenna("one"), 4.0)
    with pytest.raises(RadioError, match="needs more than one row"):
        ssb_beams(Antenna("line", columns=8), 4, electrical_tilt_deg=4.0)


@pytest.mark.parametrize(
    "wrong",
    [{"rows": 0}, {"columns": -1}, {"pattern": "horn"}, {"polarization": "H"},
     {"vertical_spacing": 0.0}, {"horizontal_spacing": math.nan}],
)  # fmt: skip
def test_an_impossible_antenna_is_refused(wrong):
    with pytest.raises(RadioError, match="antenna odd"):
        Antenna("odd", **wrong)


def test_antennas_have_names():
    assert antenna_named("tr38901") == Antenna("tr38901")
    assert antenna_named("panel8x8").elements == 64
    assert [antenna_named(n).ports for n in ("iso", "column8")] == [1, 2]
    with pytest.raises(RadioError, match="Known: tr38901"):
        antenna_named("dish")


# -- beams ----------------------------------------------------------------------------------


def test_beams_point_from_left_to_right():
    beams = ssb_beams(PANEL, 8, electrical_tilt_deg=6.0)
    azimuth = np.arange(-90, 90.25, 0.25)
    fields = beam_field_components(
        Antenna("line", pattern="iso", rows=4, columns=8),
        beams,
        azimuth_deg=50.0,
        downtilt_deg=0.0,
        direction=direction_of(50.0 + azimuth, 96.0),
    )
    peaks = azimuth[power(fields)[:, :, 0].argmax(axis=0)]
    expected = np.degrees(np.arcsin(math.sin(math.radians(60)) * (np.arange(8) - 3.5) / 4))
    np.testing.assert_allclose(peaks, expected, atol=0.26)
    np.testing.assert_allclose(power(fields)[..., 0].max(axis=0), 32, rtol=1e-3)


def test_beams_of_as_many_columns_over_the_half_space_are_orthogonal():
    """Over ±90 degrees the codebook is the DFT matrix itself."""
    beams = ssb_beams(Antenna("line", columns=8), 8, half_width_deg=90.0)
    np.testing.assert_allclose(beams @ beams.conj().T, np.eye(8), atol=1e-12)


def test_beams_cover_the_sector():
    """Nowhere within ±60 degrees is the best beam 4.5 dB below the full array's gain."""
    azimuth = np.arange(-60, 60.5, 0.5)
    departures = Departures(azimuth, np.full(azimuth.shape, 90.0))
    gains = beam_gain_db(PANEL, ssb_beams(PANEL), departures, azimuth_deg=0.0, downtilt_deg=0.0)
    lost = element_gain_db(90, azimuth, "tr38901") + 10 * math.log10(32) - gains.max(axis=0)
    assert gains.shape == (8, 241)
    assert -1e-9 < lost.min() < 0.05
    assert lost.max() < 4.5
    assert (np.diff(best_beam(gains)) >= 0).all()


@pytest.mark.parametrize(
    ("antenna", "arguments", "message"),
    [
        (Antenna("one"), {}, "one column forms no 8 beams"),
        (PANEL, {"beams": 0}, "0 SSB beams"),
        (PANEL, {"beams": 65}, "65 SSB beams"),
        (PANEL, {"half_width_deg": 120.0}, "120 degrees"),
    ],
)
def test_impossible_beams_are_refused(antenna, arguments, message):
    with pytest.raises(RadioError, match=message):
        ssb_beams(antenna, **arguments)


def test_weights_must_fit_the_array():
    with pytest.raises(RadioError, match="32 elements"):
        array_factor(PANEL, np.ones((1, 8), dtype=complex), direction_of(0.0, 90.0))


def test_the_sectors_own_weights_are_a_beam():
    azimuth, zenith = np.arange(0, 360, 10.0), np.linspace(60, 130, 36)
    gain = beam_gain_db(
        COLUMN,
        tilt_weights(COLUMN, 5.0)[None],
        Departures(azimuth, zenith),
        azimuth_deg=80.0,
        downtilt_deg=3.0,
    )[0]
    own = sector_gain_db(COLUMN, direction_of(azimuth, zenith), 80.0, 3.0, 5.0)
    np.testing.assert_allclose(gain, own, atol=1e-9)


def test_the_spread_averages_over_its_distribution():
    """Against draws from a wrapped Gaussian in azimuth and a Laplacian in zenith."""
    rng = np.random.default_rng(1)
    azimuth, zenith, across, down = 35.0, 97.0, 14.0, 4.0
    beams = ssb_beams(PANEL)
    pose = {"azimuth_deg": 20.0, "downtilt_deg": 5.0}
    drawn = Departures(
        azimuth + across * rng.standard_normal(200_000),
        zenith + rng.laplace(0, down / math.sqrt(2), 200_000),
    )
    expected = (10 ** (beam_gain_db(PANEL, beams, drawn, **pose) / 10)).mean(axis=1)
    spread = Departures(*(np.array([v]) for v in (azimuth, zenith, across, down)))
    smoothed = beam_gain_db(PANEL, beams, spread, **pose)[:, 0]
    np.testing.assert_allclose(smoothed, 10 * np.log10(expected), atol=0.2)


def test_no_spread_is_the_limit_of_spreads():
    azimuth, zenith = np.arange(-60, 61, 7.3), np.linspace(80, 110, 17)
    beams = ssb_beams(PANEL, 4)
    none = np.zeros(azimuth.shape)
    pose = {"azimuth_deg": 0.0, "downtilt_deg": 4.0}
    sharp = 10 ** (beam_gain_db(PANEL, beams, Departures(azimuth, zenith), **pose) / 10)
    spread = Departures(azimuth, zenith, none, none)
    table = 10 ** (beam_gain_db(PANEL, beams, spread, **pose) / 10)
    np.testing.assert_allclose(table, sharp, atol=0.01 * sharp.max())


def lit_plane(antenna, tilt_deg):
    """Path gain of a sector over open ground, and its departure angles; north is up."""
    east, north = np.meshgrid(np.arange(-200, 201, 10.0), np.arange(-200, 201, 10.0))
    distance = np.hypot(east, north) + 1e-3
    departures = Departures(
        np.degrees(np.arctan2(east, north)) % 360, 90 + np.degrees(np.arctan2(25, distance))
    )
    fading = -80 - 20 * np.log10(np.hypot(distance, 25))
    weights = tilt_weights(antenna, tilt_deg)[None]
    pattern = beam_gain_db(antenna, weights, departures, azimuth_deg=0.0, downtilt_deg=8.0)[0]
    return fading, fading + pattern, departures


def test_beam_maps_replace_the_sectors_pattern():
    """In the open, the map of a beam is free space with the beam's gain."""
    fading, gain, departures = lit_plane(PANEL, 2.0)
    gain[0, 0] = np.nan
    beams = ssb_beams(PANEL, 8, electrical_tilt_deg=2.0)
    pose = {"azimuth_deg": 0.0, "downtilt_deg": 8.0}
    maps = beam_gains_over_map(PANEL, beams, gain, departures, electrical_tilt_deg=2.0, **pose)
    assert maps.shape == (8, 41, 41)
    known = np.isfinite(maps[0])
    assert not known[0, 0]
    assert 0.3 < known.mean() < 1
    expected = fading + beam_gain_db(PANEL, beams, departures, **pose)
    np.testing.assert_allclose(maps[:, known], expected[:, known], atol=1e-6)
    # the two outermost beams serve the two sides
    best = best_beam(maps)
    assert best[30, 0] < 2
    assert best[30, -1] > 5
    assert best[0, 0] == -1


def test_a_null_of_the_sector_tells_nothing_about_beams():
    """Where the array factor of the sector vanishes, power has left in other directions."""
    zenith = np.array([[90.0, 90 + math.degrees(math.asin(2 / 8))]])  # the first null of 8 rows
    departures = Departures(np.zeros((1, 2)), zenith)
    maps = beam_gains_over_map(
        COLUMN,
        tilt_weights(COLUMN, 10.0)[None],
        np.array([[-90.0, -120.0]]),
        departures,
        azimuth_deg=0.0,
        downtilt_deg=0.0,
        electrical_tilt_deg=0.0,
    )
    assert np.isfinite(maps[0, 0, 0])
    assert np.isnan(maps[0, 0, 1])


def test_maps_of_different_shapes_are_refused():
    with pytest.raises(RadioError, match="different shapes"):
        Departures(np.zeros(3), np.zeros(4))
    with pytest.raises(RadioError, match="path gain of shape"):
        beam_gains_over_map(
            PANEL,
            ssb_beams(PANEL),
            np.zeros((2, 2)),
            Departures(np.zeros(3), np.zeros(3)),
            azimuth_deg=0.0,
            downtilt_deg=0.0,
            electrical_tilt_deg=0.0,
        )
