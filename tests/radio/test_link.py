"""SINR to CQI to throughput against TS 38.214."""

import numpy as np
import pytest

from ueloc_core.radio.link import (
    cqi_efficiency,
    cqi_of_sinr,
    cqi_thresholds_db,
    throughput_mbps,
)

# TS 38.214 V17, table 5.2.2.1-2, column "efficiency".
EFFICIENCY = (
    *(0.1523, 0.2344, 0.3770, 0.6016, 0.8770, 1.1758),
    *(1.4766, 1.9141, 2.4063, 2.7305, 3.3223, 3.9023, 4.5234, 5.1152, 5.5547),
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
