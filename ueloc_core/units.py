"""The only place where units are converted.

Quantities carry their unit in their name (``_m``, ``_db``, ``_dbm``, ``_hz``, ``_deg``).
Functions accept floats, numpy arrays and torch tensors where the arithmetic allows it.
"""

import math
from typing import Any

import numpy as np

SPEED_OF_LIGHT_M_S = 299_792_458.0
THERMAL_NOISE_DBM_HZ = -173.975  # k * 290 K, in dBm per Hz
VACUUM_PERMITTIVITY_F_PER_M = 8.8541878128e-12
SUBCARRIERS_PER_RB = 12


def db_to_linear(value_db: Any) -> Any:
    """Power ratio of a value in dB (or mW of a value in dBm)."""
    return 10.0 ** (value_db / 10.0)


def linear_to_db(value: Any) -> Any:
    """dB of a power ratio (or dBm of a value in mW); zero gives minus infinity."""
    with np.errstate(divide="ignore"):
        return 10.0 * np.log10(value)


def wavelength_m(frequency_hz: float) -> float:
    """Wavelength in vacuum [m] of a frequency [Hz]."""
    return SPEED_OF_LIGHT_M_S / frequency_hz


def free_space_gain_db(distance_m: Any, frequency_hz: float) -> Any:
    """Free-space path gain [dB] between isotropic antennas (Friis; ITU-R P.525-4, eq. 3).

    Parameters
    ----------
    distance_m
        Distance [m], a float or an array of any shape.
    frequency_hz
        Carrier frequency [Hz].
    """
    return 20.0 * np.log10(wavelength_m(frequency_hz) / (4.0 * math.pi * distance_m))


def subcarrier_spacing_hz(numerology: int) -> float:
    """Subcarrier spacing [Hz] of an NR numerology (TS 38.211, table 4.2-1)."""
    return float(15e3 * 2**numerology)


def noise_per_resource_element_dbm(numerology: int, noise_figure_db: float) -> float:
    """Thermal noise [dBm] that a receiver sees in one resource element."""
    spacing_db = 10.0 * math.log10(subcarrier_spacing_hz(numerology))
    return THERMAL_NOISE_DBM_HZ + spacing_db + noise_figure_db


def power_per_resource_element_dbm(power_dbm: Any, resource_blocks: int) -> Any:
    """Power of one resource element [dBm] of a sector's total power [dBm]."""
    return power_dbm - 10.0 * math.log10(SUBCARRIERS_PER_RB * resource_blocks)


def azimuth_to_math_angle_rad(azimuth_deg: float) -> float:
    """Angle from the x axis (east), counter-clockwise [rad], of a compass azimuth [deg]."""
    return math.radians(90.0 - azimuth_deg)
