"""Fields of paths added up in phase, and beams along paths."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ueloc_core.city_sections import RadioConfig
from ueloc_core.measurement.accuracy import fading_db
from ueloc_core.measurement.beam_gains import SectorPose, beam_offsets_db
from ueloc_core.measurement.path_levels import (
    MOVEMENT_WAVELENGTHS,
    Tones,
    beam_offsets_of_paths_db,
    coherent_gain,
    interaction_phases,
    movement_m,
    movement_phases,
)
from ueloc_core.measurement.settings import BeamsConfig, FadingConfig
from ueloc_core.radio.antennas import direction_of
from ueloc_core.units import SPEED_OF_LIGHT_M_S, wavelength_m

RADIO = RadioConfig()
TONES = Tones.of_ss_block(RADIO, FadingConfig())
CARRIER = Tones(RADIO.frequency_hz, np.zeros(1))
WAVELENGTH_M = wavelength_m(RADIO.frequency_hz)
POSE = SectorPose("tr38901", 40.0, 8.0, 0.0)
gains = st.lists(st.floats(1e-12, 1e-6), min_size=1, max_size=6)


def delay_ns(length_m):
    return np.asarray(length_m) / SPEED_OF_LIGHT_M_S * 1e9


def dirichlet(late_ns):
    """Mean over the tones of a path's phase: the sum of a geometric series."""
    step = 2 * np.pi * late_ns * 1e-9 * (TONES.offset_hz[1] - TONES.offset_hz[0])
    count = len(TONES.offset_hz)
    return np.sin(count * step / 2) / (count * np.sin(step / 2))


def test_tones_are_those_of_an_ss_block():
    """240 subcarriers (TS 38.211, 7.4.3.1) of 30 kHz around the carrier."""
    assert len(TONES.offset_hz) == 240
    np.testing.assert_allclose(np.diff(TONES.offset_hz), 30e3)
    assert TONES.offset_hz.sum() == pytest.approx(0.0, abs=1e-6)


@given(st.floats(1e-14, 1.0), st.floats(1.0, 5e4), st.floats(-9.0, 9.0))
def test_one_path_keeps_its_gain(gain, delay, phase):
    found = coherent_gain(np.array([[gain]]), np.array([delay]), np.array([[phase]]), TONES)
    np.testing.assert_allclose(found, [gain], rtol=1e-9)


def test_no_path_has_no_power():
    nothing = coherent_gain(np.zeros((3, 0)), np.zeros(0), np.zeros((4, 0)), TONES)
    assert nothing.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("distance_m", [60.0, 200.0, 700.0])
def test_two_paths_over_ground_make_the_two_ray_model(distance_m):
    """Direct and reflected with a phase of pi: lobes over the distance, smoothed by the band."""
    mast_m, terminal_m = 25.0, 1.5
    length_m = np.hypot(distance_m, [mast_m - terminal_m, mast_m + terminal_m])
    gain = (WAVELENGTH_M / (4 * np.pi * length_m)) ** 2
    turn = 2 * np.pi * (length_m[1] - length_m[0]) / WAVELENGTH_M
    phase = np.array([[0.0, np.pi]])
    on_carrier = coherent_gain(gain[None], delay_ns(length_m), phase, CARRIER)[0]
    amplitudes = np.sqrt(gain)
    exact = gain.sum() - 2 * amplitudes.prod() * np.cos(turn)
    assert on_carrier == pytest.approx(exact, rel=1e-6)
    # far away both gains are equal, and the detour is 2 h1 h2 / d
    if distance_m > 500:
        lobe = (
            4 * gain[0] * np.sin(2 * np.pi * mast_m * terminal_m / (WAVELENGTH_M * distance_m)) ** 2
        )
        assert 10 * np.log10(on_carrier / lobe) == pytest.approx(0.0, abs=0.05)
    in_band = coherent_gain(gain[None], delay_ns(length_m), phase, TONES)[0]
    smoothed = dirichlet(np.diff(delay_ns(length_m))[0]) * np.cos(turn)
    assert in_band == pytest.approx(gain.sum() - 2 * amplitudes.prod() * smoothed, rel=1e-6)


@given(st.integers(1, 500), st.floats(0.0, 2 * np.pi))
def test_paths_a_whole_inverse_band_apart_do_not_interfere(turns, phase):
    """Their mean over the tones is orthogonal: 1 / 7.2 MHz is 139 ns."""
    apart_ns = turns * 1e9 / (len(TONES.offset_hz) * 30e3)
    if turns % len(TONES.offset_hz) == 0:
        return  # there the tones alias
    found = coherent_gain(
        np.array([[1.0, 0.3]]), np.array([0.0, apart_ns]), np.array([[0.0, phase]]), TONES
    )
    np.testing.assert_allclose(found, [1.3], rtol=1e-6)


@given(gains, st.integers(0, 2**31))
def test_the_mean_over_even_phases_is_the_sum_of_powers(gain, seed):
    """Exact where each path's phase runs around the circle at a rate of its own."""
    gain = np.array(gain)
    rng = np.random.default_rng(seed)
    samples = 2 ** (len(gain) + 1)
    turns = 2 * np.pi * np.arange(samples)[:, None] / samples * 2 ** np.arange(len(gain))
    found = coherent_gain(gain[None], rng.uniform(0, 3000, len(gain)), turns, TONES)
    np.testing.assert_allclose(found, [gain.sum()], rtol=1e-6)


def test_the_mean_over_random_phases_is_the_sum_of_powers():
    """Within four standard errors; each of the samples has a deviation below the mean."""
    rng = np.random.default_rng(1)
    gain, samples = rng.exponential(1.0, 12), 20_000
    seen = np.zeros(12, dtype=bool)
    phases = np.stack([interaction_phases(seen, rng) for _ in range(samples)])
    found = coherent_gain(gain[None], np.zeros(12), phases, CARRIER)[0]
    assert found == pytest.approx(gain.sum(), rel=4 / np.sqrt(samples))


def test_a_direct_path_has_no_phase_but_that_of_its_delay():
    seen = np.array([True, False, False])
    phase = interaction_phases(seen, np.random.default_rng(1))
    assert phase[0] == 0.0
    assert len(np.unique(phase)) == 3


def test_sectors_share_the_phases_of_paths():
    """Proportional gains fade alike."""
    rng = np.random.default_rng(2)
    gain, delays = rng.exponential(1.0, 8), rng.uniform(0, 100, 8)
    phase = rng.uniform(0, 6, (4, 8))
    found = coherent_gain(np.stack([gain, 0.1 * gain]), delays, phase, TONES)
    assert found[1] == pytest.approx(0.1 * found[0])


def test_opposite_paths_make_a_standing_wave():
    """Nodes stand half a wavelength apart; across the wave nothing changes."""
    arrival = np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    along = np.linspace(0, WAVELENGTH_M, 41)[:, None] * [1.0, 0.0, 0.0]
    gain = np.ones((1, 2))

    def power(place):
        phase = movement_phases(arrival, place[None], RADIO.frequency_hz)
        return coherent_gain(gain, np.zeros(2), phase, CARRIER)[0]

    found = np.array([power(place) for place in along])
    np.testing.assert_allclose(
        found, 4 * np.cos(2 * np.pi * along[:, 0] / WAVELENGTH_M) ** 2, atol=1e-9
    )
    assert power(np.array([0.0, 3.0, 0.0])) == pytest.approx(4.0)


def test_moving_along_a_path_makes_it_longer():
    """The phase is that of the delay to where the terminal went."""
    arrival, moved = np.array([[0.6, 0.0, -0.8]]), np.array([[0.05, 0.02, 0.0]])
    phase = movement_phases(arrival, moved, RADIO.frequency_hz)[0, 0]
    assert phase == pytest.approx(-2 * np.pi * 0.6 * 0.05 / WAVELENGTH_M)


def test_movements_are_even_over_a_level_disc():
    moved = movement_m(40_000, RADIO.frequency_hz, np.random.default_rng(3))
    radius = np.hypot(*moved[:, :2].T) / (MOVEMENT_WAVELENGTHS * WAVELENGTH_M)
    assert radius.max() <= 1.0
    assert not moved[:, 2].any()
    # of a disc, the mean of the squared radius is one half, with variance 1 / 12
    assert (radius**2).mean() == pytest.approx(0.5, abs=4 / np.sqrt(12 * len(moved)))


@pytest.mark.parametrize("spread_ns", [20.0, 60.0, 200.0])
def test_rich_scattering_fades_as_the_law_for_maps_says(spread_ns):
    """Where the law's assumptions hold (many paths, exponential delays), both agree within 10%."""
    rng = np.random.default_rng([4, int(spread_ns)])
    settings, draws, count = FadingConfig(), 700, 60
    levels = []
    for _ in range(draws):
        delays = rng.exponential(spread_ns, count)
        phase = rng.uniform(0, 2 * np.pi, (settings.averaged_samples, count))
        levels.append(coherent_gain(np.ones((1, count)), delays, phase, TONES)[0])
    law = float(fading_db(np.array(spread_ns), np.array(0.0), settings, RADIO.numerology))
    assert np.std(10 * np.log10(levels)) == pytest.approx(law, rel=0.1)


def beams_towards(azimuth_deg, gain=None, position=None, zenith_deg=100.0):
    azimuth_deg = np.atleast_1d(np.asarray(azimuth_deg, dtype=float))
    gain = np.ones(len(azimuth_deg)) if gain is None else np.asarray(gain)
    position = np.arange(len(azimuth_deg)) if position is None else np.asarray(position)
    return beam_offsets_of_paths_db(
        BeamsConfig(),
        POSE,
        gain,
        direction_of(azimuth_deg, zenith_deg),
        position,
        int(position.max()) + 1,
    )


def test_the_strongest_beam_points_at_the_terminal():
    """Beams cut sin(azimuth) between -60 and 60 degrees into equal parts, left to right."""
    turn = np.arange(-55.0, 56.0, 4.0)
    found = beams_towards(POSE.azimuth_deg + turn, zenith_deg=98.0).argmax(axis=1)
    edge = np.sin(np.radians(60.0))
    expected = np.floor((np.sin(np.radians(turn)) / edge + 1) / 2 * 8)
    assert found.tolist() == expected.astype(int).tolist()


def test_one_path_has_the_offset_that_maps_read_at_its_angles():
    azimuth = POSE.azimuth_deg + np.arange(-60.0, 61.0, 5.0)
    zenith = np.full(len(azimuth), 100.0)
    mapped = beam_offsets_db(BeamsConfig(), POSE, azimuth, zenith, np.zeros(len(azimuth)))
    floor_db = 0.15  # nulls end 30 dB below the panel's peak, not its highest beam's
    np.testing.assert_allclose(beams_towards(azimuth), mapped.T, atol=floor_db)


def test_beams_of_several_paths_are_the_mean_by_power():
    """Not the beam towards their mean direction: there may be no path at all."""
    one, other = beams_towards(POSE.azimuth_deg + np.array([-40.0, 40.0]))
    both = beams_towards(POSE.azimuth_deg + np.array([-40.0, 40.0]), [3.0, 1.0], [0, 0])[0]
    expected = 10 * np.log10(0.75 * 10 ** (one / 10) + 0.25 * 10 ** (other / 10))
    np.testing.assert_allclose(both, expected, atol=1e-9)
    middle = beams_towards(POSE.azimuth_deg)[0]
    assert both.argmax() == one.argmax() != middle.argmax()


def test_positions_without_power_have_no_beams():
    found = beams_towards([POSE.azimuth_deg] * 2, [1.0, 0.0], [0, 2])
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1:]).all()
