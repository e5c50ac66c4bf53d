"""How far a terminal's and a base station's measurements scatter, from bandwidth and SNR.

The functions serve numpy arrays (simulation) and torch tensors (likelihood) alike: they take
the namespace of what they are given.
"""

import math
from types import ModuleType
from typing import Any

import numpy as np
import torch

from ueloc_core.measurement.settings import DirectionConfig, FadingConfig
from ueloc_core.units import SUBCARRIERS_PER_RB, subcarrier_spacing_hz

_DB_PER_NEPER = 10.0 / math.log(10.0)
_RICIAN_K = 10.0 ** (9.0 / 10.0)  # TR 38.901 V17.0.0, table 7.5-6, UMi in sight: mean 9 dB
_UNKNOWN_SPREAD_NS = 100.0
_SMALLEST_PRODUCT = 1e-3  # of delay spread and bandwidth: below it the channel is flat
_MAX_ROOT = 30.0  # dB of SNR beyond which other errors rule
_RMS_BANDWIDTH = 1.0 / math.sqrt(12.0)  # of a flat spectrum, over its bandwidth

# Open-loop power control (TS 38.213, 7.1.1) as assumed for all terminals.
UPLINK_BLOCKS = 16
_TARGET_DBM = -80.0  # P0 of one resource block
_COMPENSATION = 0.8  # alpha
_INTERFERENCE_RISE_DB = 3.0
_UPLINK_NOISE_FIGURE_DB = 5.0
_THERMAL_DBM_HZ = -173.975
PREAMBLE_SUBCARRIERS = 139  # short preambles: TS 38.211, table 6.3.3.1-2


def namespace(values: Any) -> ModuleType:
    """numpy or torch, whichever holds the values."""
    return torch if isinstance(values, torch.Tensor) else np


def fading_db(
    delay_spread_ns: Any, line_of_sight: Any, settings: FadingConfig, numerology: int
) -> Any:
    """Standard deviation [dB] of a level's fast fading after averaging.

    The power of Rayleigh fading averaged over a bandwidth B of a channel whose power falls
    exponentially with delay (RMS spread s) has the squared coefficient of variation
    ``2 / a^2 (a atan a - ln(1 + a^2) / 2)`` with ``a = 2 pi s B``: the mean of the squared
    frequency correlation ``1 / (1 + (2 pi s f)^2)`` over all pairs in the band. In sight it is
    that of a Rician channel, ``(1 + 2 K) / (1 + K)^2`` times as large, K = 9 dB; samples in
    time divide it. In dB it is the spread of a gamma distribution of that variation (the series
    of its trigamma function, within 1.5%).

    Parameters
    ----------
    delay_spread_ns
        RMS delay spread [ns]; NaN counts as 100 ns.
    line_of_sight
        Share of the place that sees the antenna, 0 to 1; NaN counts as 0.
    settings
        What is averaged over.
    numerology
        Of the carrier.
    """
    xp = namespace(delay_spread_ns)
    bandwidth_hz = settings.resource_blocks * SUBCARRIERS_PER_RB * subcarrier_spacing_hz(numerology)
    spread = xp.where(xp.isnan(delay_spread_ns), _UNKNOWN_SPREAD_NS, delay_spread_ns)
    a = (2e-9 * math.pi * bandwidth_hz * spread).clip(_SMALLEST_PRODUCT)
    variation = 2.0 / a**2 * (a * xp.atan(a) - 0.5 * xp.log1p(a**2))
    seen = xp.where(xp.isnan(line_of_sight), 0.0, line_of_sight)
    rician = (1.0 + 2.0 * _RICIAN_K) / (1.0 + _RICIAN_K) ** 2
    variation = variation * (1.0 - seen * (1.0 - rician)) / settings.averaged_samples
    return _DB_PER_NEPER * xp.sqrt(variation + variation**2 / 2 + variation**3 / 6)


def timing_sigma_ns(snr_db: Any, bandwidth_hz: float, floor_ns: float) -> Any:
    """Standard deviation [ns] of an arrival time: the Cramer-Rao bound, and a floor.

    ``1 / (2 pi beta sqrt(2 SNR))``, beta the RMS bandwidth of a flat spectrum, B / sqrt(12)
    (Kay, Fundamentals of Statistical Signal Processing: Estimation Theory, 3.11).
    """
    snr = 10.0 ** (snr_db.clip(-_MAX_ROOT, _MAX_ROOT) / 10.0)
    bound_ns = 1e9 / (2.0 * math.pi * _RMS_BANDWIDTH * bandwidth_hz) / (2.0 * snr) ** 0.5
    return (bound_ns**2 + floor_ns**2) ** 0.5


def direction_sigma_deg(snr_db: Any, spread_deg: Any, settings: DirectionConfig) -> Any:
    """Standard deviation [deg] of an angle of arrival at a uniform linear array.

    The Cramer-Rao bound at broadside, ``sqrt(6 / (SNR N (N^2 - 1))) / pi`` radians for N
    columns half a wavelength apart (Stoica and Nehorai 1989, one source), with the array's
    calibration error and a share of the paths' own angular spread.

    Parameters
    ----------
    snr_db
        SNR of one column [dB].
    spread_deg
        RMS azimuth spread of the paths [deg]; NaN counts as 0.
    settings
        The array.
    """
    xp = namespace(spread_deg)
    n = settings.columns
    snr = 10.0 ** (snr_db.clip(-_MAX_ROOT, _MAX_ROOT) / 10.0)
    bound_deg = math.degrees(math.sqrt(6.0 / (n * (n**2 - 1))) / math.pi) / snr**0.5
    spread = settings.spread_share * xp.where(xp.isnan(spread_deg), 0.0, spread_deg)
    return (bound_deg**2 + settings.floor_deg**2 + spread**2) ** 0.5


def uplink_sinr_db(level_dbm: Any, reference_dbm: Any, power_dbm: float, numerology: int) -> Any:
    """Uplink SINR [dB] under open-loop power control, from the downlink level.

    Power control wants -80 dBm a resource block at full compensation, pays back 0.8 of the path
    loss (TS 38.213, 7.1.1), and the terminal's largest power bounds it; 3 dB of interference
    over noise. These figures are assumed for all cells.

    Parameters
    ----------
    level_dbm
        RSRP of the serving sector [dBm].
    reference_dbm
        Power that the sector sends in one resource element [dBm].
    power_dbm
        The terminal's largest power [dBm].
    numerology
        Of the uplink.
    """
    loss_db = reference_dbm - level_dbm
    blocks_db = 10.0 * math.log10(UPLINK_BLOCKS)
    sent = (_TARGET_DBM + blocks_db + _COMPENSATION * loss_db).clip(max=power_dbm) - blocks_db
    block_hz = SUBCARRIERS_PER_RB * subcarrier_spacing_hz(numerology)
    noise_dbm = _THERMAL_DBM_HZ + 10.0 * math.log10(block_hz) + _UPLINK_NOISE_FIGURE_DB
    return sent - loss_db - noise_dbm - _INTERFERENCE_RISE_DB


def preamble_bandwidth_hz(numerology: int) -> float:
    """Bandwidth [Hz] of a short random-access preamble at a numerology."""
    return PREAMBLE_SUBCARRIERS * subcarrier_spacing_hz(numerology)


def sounding_bandwidth_hz(resource_blocks: int, numerology: int) -> float:
    """Bandwidth [Hz] of a sounding reference signal over all resource blocks."""
    return resource_blocks * SUBCARRIERS_PER_RB * subcarrier_spacing_hz(numerology)
