"""SINR to CQI to throughput against TS 38.214."""

import numpy as np
import pytest
import torch

from ueloc_core.radio.link import (
    MCS_TABLE,
    block_error_rate,
    cqi_efficiency,
    cqi_of_sinr,
    cqi_thresholds_db,
    downlink_overhead_share,
    interference_mw,
    mcs_efficiency,
    mcs_of_sinr,
    received_power_mw,
    rsrq_db,
    rssi_dbm,
    throughput_mbps,
    timing_advance,
    timing_advance_step_m,
    timing_advance_step_ns,
)
from ueloc_core.units import SPEED_OF_LIGHT_M_S

# TS 38.214 V17, table 5.2.2.1-2, column "efficiency".
EFFICIENCY = (
    *(0.1523, 0.2344, 0.3770, 0.6016, 0.8770, 1.1758),
    *(1.4766, 1.9141, 2.4063, 2.7305, 3.3223, 3.9023, 4.5234, 5.1152, 5.5547),
)
# TS 38.214 V17, table 5.1.3.1-1, column "spectral efficiency".
MCS_EFFICIENCY = (
    *(0.2344, 0.3066, 0.3770, 0.4902, 0.6016, 0.7402, 0.8770, 1.0273, 1.1758, 1.3262),
    *(1.3281, 1.4766, 1.6953, 1.9141, 2.1602, 2.4063, 2.5703, 2.5664, 2.7305, 3.0293),
    *(3.3223, 3.6094, 3.9023, 4.2129, 4.5234, 4.8164, 5.1152, 5.3320, 5.5547),
)
# SINR [dB] at which MCS 3 to 28 lose half of their blocks of 2000 bits in coded AWGN: the tables
# of Sionna SYS 2.2.0 (PDSCH, MCS table 1), linear between their steps of 1.8 dB.
SIONNA_HALF_LOST_DB = (
    *(-2.38, -2.32, -0.54, -0.30, 1.25, 1.81, 3.04, 3.04, 3.97, 4.82, 5.98, 6.61, 8.26, 8.39),
    *(8.43, 9.81, 10.18, 11.89, 11.99, 13.73, 13.80, 15.52, 15.69, 17.32, 17.63, 19.11),
)


def test_efficiencies_are_those_of_the_table():
    np.testing.assert_allclose(cqi_efficiency(), EFFICIENCY, atol=5.1e-5)


def test_thresholds_rise():
    thresholds = cqi_thresholds_db()
    assert thresholds.shape == (15,)
    assert (np.diff(thresholds) > 0).all()
    # Published link curves ask for -7 to -6 dB at CQI 1 and 19 to 23 dB at CQI 15.
    assert -9 < thresholds[0] < -5
    assert 18 < thresholds[-1] < 24


def test_no_cqi_beats_shannon():
    bound = np.log2(1 + 10 ** (cqi_thresholds_db() / 10))
    assert (cqi_efficiency() < bound).all()


def test_a_cqi_starts_at_its_threshold():
    thresholds = cqi_thresholds_db()
    np.testing.assert_array_equal(cqi_of_sinr(thresholds), np.arange(1, 16))
    np.testing.assert_array_equal(cqi_of_sinr(thresholds - 1e-9), np.arange(15))
    assert cqi_of_sinr(-100) == 0
    assert cqi_of_sinr(100) == 15


def test_throughput_rises_and_scales():
    sinr = np.linspace(-20, 40, 200)
    speed = throughput_mbps(sinr, resource_blocks=273, numerology=1)
    assert (np.diff(speed) >= 0).all()
    assert speed[0] == 0
    # 5.5547 bit x 273 x 12 x 14 x 2000 / s x 0.86
    assert speed[-1] == pytest.approx(438.2, rel=1e-3)
    np.testing.assert_allclose(throughput_mbps(sinr, resource_blocks=273, numerology=2), 2 * speed)
    np.testing.assert_allclose(throughput_mbps(sinr, resource_blocks=91, numerology=1), speed / 3)


# -- received power -------------------------------------------------------------------------


def test_quality_of_one_sector_alone():
    """Without noise, RSRQ is 1/12 of the reciprocal load: -10.79 dB when all is sent on."""
    for load, expected in ((1.0, -10.79), (0.5, -7.78), (0.1, -0.79)):
        total = received_power_mw(np.array(1e-9), load=load, noise_mw=0.0)
        assert rsrq_db(-90.0, 10 * np.log10(total)) == pytest.approx(expected, abs=0.005)


def test_quality_is_the_ratio_that_the_standard_defines():
    """N_RB x RSRP / RSSI, whatever the number of resource blocks."""
    for blocks in (24, 106, 273):
        assert 10 * np.log10(blocks) + -95.0 - rssi_dbm(-88.0, blocks) == pytest.approx(
            rsrq_db(-95.0, -88.0)
        )


def test_no_reported_quality_is_out_of_range():
    """Two sectors at most equal, any noise and load of at least a tenth: -43 to 20 dB holds."""
    level = 10 ** (np.linspace(-14, -3, 50) / 1)
    for load in (0.1, 0.5, 1.0):
        total = received_power_mw(2 * level, load=load, noise_mw=1e-11)
        quality = rsrq_db(10 * np.log10(level), 10 * np.log10(total))
        assert (quality > -43).all()
        assert (quality < 20).all()


def test_interference_is_what_others_send():
    levels = np.array([3e-9, 1e-9, 5e-10])
    noise = 1e-12
    total = received_power_mw(levels.sum(), load=0.4, noise_mw=noise)
    rest = interference_mw(total, levels, load=0.4, noise_mw=noise)
    np.testing.assert_allclose(rest, 0.4 * (levels.sum() - levels) + noise)
    # never below the noise, also where rounding would have it so
    assert interference_mw(np.array(1e-9), 3e-9, load=0.4, noise_mw=noise) == noise
    # SINR is at most SNR, and equal to it where nobody else sends
    assert (levels / rest <= levels / noise).all()
    alone = received_power_mw(levels[0], load=0.4, noise_mw=noise)
    assert interference_mw(alone, levels[0], load=0.4, noise_mw=noise) == pytest.approx(noise)


def test_arrays_and_tensors_give_the_same():
    levels = np.random.default_rng(0).uniform(1e-12, 1e-8, 100)
    results = []
    for values in (levels, torch.from_numpy(levels)):
        total = received_power_mw(values.sum(), load=0.3, noise_mw=1e-12)
        rest = interference_mw(total, values, load=0.3, noise_mw=1e-12)
        results.append((total, rest, rsrq_db(values, total)))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


# -- modulation and coding ------------------------------------------------------------------


def test_mcs_efficiencies_are_those_of_the_table():
    np.testing.assert_allclose(mcs_efficiency(), MCS_EFFICIENCY, atol=5.1e-5)
    assert [sum(order == q for order, _ in MCS_TABLE) for q in (2, 4, 6)] == [10, 7, 12]


def test_block_errors_fall_from_all_to_none_through_a_tenth():
    sinr = np.arange(-15, 35, 0.01)
    rate = block_error_rate(np.arange(29)[:, None], sinr)
    assert rate.shape == (29, len(sinr))
    assert (np.diff(rate, axis=1) <= 0).all()
    np.testing.assert_allclose(rate[:, 0], 1, atol=1e-6)
    np.testing.assert_allclose(rate[:, -1], 0, atol=1e-6)
    thresholds = 10 * np.log10(2 ** (mcs_efficiency() / 0.75) - 1)
    np.testing.assert_allclose(block_error_rate(np.arange(29), thresholds), 0.1, rtol=1e-9)
    assert np.isnan(block_error_rate(3, np.nan))


def test_block_errors_fall_as_steeply_as_code_blocks_allow():
    """From 90% to 1% within a decibel and more than a twentieth (8448 bits)."""
    for mcs in (0, 10, 28):
        sinr = np.arange(-15, 35, 0.001)
        rate = block_error_rate(mcs, sinr)
        width = sinr[rate < 0.01][0] - sinr[rate > 0.9][-1]
        assert 0.05 < width < 1.0


def test_block_errors_stand_near_those_of_a_link_simulator():
    """At the simulator's or above it by a receiver's losses, more at high rates."""
    sinr = np.arange(-15, 35, 0.001)
    half = [sinr[np.argmin(np.abs(block_error_rate(m, sinr) - 0.5))] for m in range(3, 29)]
    excess = np.array(half) - SIONNA_HALF_LOST_DB
    assert excess.min() > -0.4
    assert excess.max() < 3.6
    assert 0.2 < excess[:14].mean() < 1.2


def test_mcs_rises_with_the_sinr_within_the_target():
    sinr = np.arange(-20, 40, 0.01)
    mcs = mcs_of_sinr(sinr)
    chosen = mcs >= 0
    assert mcs[0] == -1
    assert mcs[-1] == 28
    assert (np.diff(np.append(0, mcs_efficiency())[mcs + 1]) >= 0).all()
    assert (block_error_rate(mcs[chosen], sinr[chosen]) <= 0.1 + 1e-12).all()
    assert mcs_of_sinr(np.nan) == -1


def test_peak_throughput_is_that_of_the_formula():
    """TS 38.306, 4.1.2: v Q R N 12 / T (1 - OH), for MCS 28."""
    for layers, blocks, numerology, overhead in ((1, 273, 1, 0.14), (4, 132, 3, 0.18)):
        symbol_s = 1e-3 / (14 * 2**numerology)
        peak = layers * 6 * 948 / 1024 * blocks * 12 / symbol_s * (1 - overhead) / 1e6
        speed = throughput_mbps(
            60.0,
            resource_blocks=blocks,
            numerology=numerology,
            layers=layers,
            overhead_share=overhead,
        )
        assert speed == pytest.approx(peak, rel=1e-9)
    assert [downlink_overhead_share(f) for f in (3.5e9, 7e9, 26e9)] == [0.14, 0.14, 0.18]


def test_throughput_never_beats_shannon():
    sinr = np.linspace(-20, 40, 500)
    bits = throughput_mbps(sinr, resource_blocks=1, numerology=0, overhead_share=0.0) * 1e6
    assert (bits <= 12 * 14_000 * np.log2(1 + 10 ** (sinr / 10))).all()


def test_unknown_quality_stays_unknown():
    assert np.isnan(throughput_mbps(np.nan, resource_blocks=273, numerology=1))
    np.testing.assert_array_equal(cqi_of_sinr([np.nan, -30.0, 30.0]), [-1, 0, 15])


# -- timing advance -------------------------------------------------------------------------


def test_steps_of_the_timing_advance():
    """TS 38.213, 4.2: 16 x 64 / 2^mu x Tc, or 78.07 m one way at 15 kHz."""
    steps = [timing_advance_step_m(numerology) for numerology in range(4)]
    np.testing.assert_allclose(steps, [78.07, 39.04, 19.52, 9.76], atol=0.005)
    assert timing_advance_step_ns(0) == pytest.approx(16 * 64 / (480e3 * 4096) * 1e9)


@pytest.mark.parametrize("numerology", [0, 1, 3])
def test_timing_advance_changes_halfway_between_steps(numerology):
    one_way_ns = timing_advance_step_ns(numerology) / 2
    k = np.arange(1, 3847)
    np.testing.assert_array_equal(timing_advance(k * one_way_ns, numerology), k)
    edge = (k - 0.5) * one_way_ns
    np.testing.assert_array_equal(timing_advance(edge + 1e-3, numerology), k)
    np.testing.assert_array_equal(timing_advance(edge - 1e-3, numerology), k - 1)
    ends = timing_advance([0.0, 1e9, np.nan], numerology)
    assert ends.tolist() == [0, 3846, -1]


def test_timing_advance_tells_the_length_of_the_path():
    """To half a step, 19.5 m at 30 kHz."""
    path_m = np.random.default_rng(0).uniform(0, 3000, 1000)
    told = timing_advance(path_m / SPEED_OF_LIGHT_M_S * 1e9, 1) * timing_advance_step_m(1)
    assert np.abs(told - path_m).max() < timing_advance_step_m(1) / 2 + 1e-6
