"""What exact paths make of levels and beams, with no law of fading in between.

The fields of all paths to a terminal are added up in phase on every subcarrier of an SS block,
so paths that the band or the terminal's small movements tell apart average out and the others
interfere: fast fading. Each path counts with the root of its gain and one phase, so paths
interfere as if they arrived in one polarization.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ueloc_core.city_sections import RadioConfig
from ueloc_core.measurement.beam_gains import SectorPose
from ueloc_core.measurement.settings import BeamsConfig, FadingConfig
from ueloc_core.radio.antennas import (
    Antenna,
    antenna_named,
    element_gain_db,
    ssb_beams,
    tilt_weights,
)
from ueloc_core.radio.beams import Departures, beam_gain_db
from ueloc_core.units import (
    SPEED_OF_LIGHT_M_S,
    SUBCARRIERS_PER_RB,
    db_to_linear,
    linear_to_db,
    subcarrier_spacing_hz,
    wavelength_m,
)

MOVEMENT_WAVELENGTHS = 5.0
"""Radius of the disc that a terminal moves in while one level is averaged: 0.4 m at 3.5 GHz."""

_FLOOR_DB = -30.0  # deepest null of a real array, below its peak: as in `beam_gains`


@dataclass(frozen=True)
class Tones:
    """Subcarriers that a level is averaged over.

    Attributes
    ----------
    carrier_hz
        The middle of them [Hz].
    offset_hz
        Each one's distance from it [Hz], shape (tone,).
    """

    carrier_hz: float
    offset_hz: NDArray[np.float64]

    @classmethod
    def of_ss_block(cls, radio: RadioConfig, fading: FadingConfig) -> "Tones":
        """All subcarriers of ``fading.resource_blocks`` around the carrier (TS 38.211, 7.4.3.1)."""
        count = SUBCARRIERS_PER_RB * fading.resource_blocks
        middle = (count - 1) / 2
        spacing_hz = subcarrier_spacing_hz(radio.numerology)
        offset_hz = spacing_hz * (np.arange(count, dtype=np.float64) - middle)
        return cls(radio.frequency_hz, offset_hz)


def coherent_gain(
    gain: NDArray[Any], delay_ns: NDArray[Any], phase_rad: NDArray[Any], tones: Tones
) -> NDArray[np.float64]:
    """Mean power gain of the sum of the paths' fields, shape (sector,).

    ``|sum_i sqrt(g_i) exp(-2 pi j f t_i + j phi_i)|^2``, averaged over the tones f and over
    the sets of phases. The mean over evenly distributed phases is the sum of the gains.

    Parameters
    ----------
    gain
        Path gain of each sector along each path, shape (sector, path).
    delay_ns
        Travel times [ns], shape (path,).
    phase_rad
        What is added to the phases that follow from the delays [rad], shape (sample, path).
    tones
        The subcarriers.
    """
    if not len(delay_ns):
        return np.zeros(len(gain))
    delay_s = np.asarray(delay_ns, dtype=np.float64) * 1e-9
    late_s = delay_s - delay_s.min()  # what all paths share has no effect
    carrier = np.exp(1j * (phase_rad - 2 * np.pi * tones.carrier_hz * delay_s))
    tone = np.exp(-2j * np.pi * late_s[:, None] * tones.offset_hz)
    amplitude = np.sqrt(np.asarray(gain, dtype=np.float64))
    field = (amplitude[:, None] * carrier) @ tone  # (sector, sample, tone)
    return np.asarray((np.abs(field) ** 2).mean(axis=(1, 2)))


def interaction_phases(
    line_of_sight: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Phases that the chains of interactions add to paths [rad], shape (path,).

    Even over the circle, one for each chain and so for all sectors of a site; none in sight.
    """
    drawn = rng.uniform(0.0, 2 * np.pi, len(line_of_sight))
    return np.where(line_of_sight, 0.0, drawn)


def movement_m(samples: int, carrier_hz: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Where a terminal is when its samples are taken [m], shape (sample, 3), on level ground."""
    radius_m = MOVEMENT_WAVELENGTHS * wavelength_m(carrier_hz)
    distance_m = radius_m * np.sqrt(rng.uniform(0.0, 1.0, samples))
    angle = rng.uniform(0.0, 2 * np.pi, samples)
    return np.stack(
        [distance_m * np.cos(angle), distance_m * np.sin(angle), np.zeros(samples)], axis=1
    )


def movement_phases(
    arrival: NDArray[Any], moved_m: NDArray[np.float64], carrier_hz: float
) -> NDArray[np.float64]:
    """Phases of paths to places near the position that they were found for [rad].

    Parameters
    ----------
    arrival
        Unit vectors of propagation at the position, shape (path, 3).
    moved_m
        Places relative to it [m], shape (sample, 3).
    carrier_hz
        Carrier frequency [Hz].

    Returns
    -------
    NDArray
        Shape (sample, path); waves count as plane.
    """
    longer_m = moved_m @ np.asarray(arrival, dtype=np.float64).T
    return np.asarray(-2 * np.pi * carrier_hz / SPEED_OF_LIGHT_M_S * longer_m)


def beam_offsets_of_paths_db(
    settings: BeamsConfig,
    pose: SectorPose,
    gain: NDArray[Any],
    departure: NDArray[Any],
    position: NDArray[np.int64],
    positions: int,
) -> NDArray[np.float64]:
    """Gain of each beam of the panel over the sector's own pattern [dB], shape (position, beam).

    The power that each path would carry from a beam, added up over the paths to a position, over
    what the sector's own pattern sends along them. Nulls are filled up to 30 dB below the peaks.

    Parameters
    ----------
    settings
        The panel and its beams.
    pose
        The sector.
    gain
        Path gain of the sector along each path, shape (path,).
    departure
        Unit vectors of propagation at the mast, shape (path, 3).
    position
        Position that each path ends at, shape (path,), counted from 0.
    positions
        How many there are; those that no power reaches get NaN.

    Raises
    ------
    RadioError
        If an antenna is unknown or cannot form the beams.
    """
    own_antenna, panel = antenna_named(pose.antenna), antenna_named(settings.antenna)
    weights = ssb_beams(
        panel,
        settings.count,
        half_width_deg=settings.width_deg / 2,
        electrical_tilt_deg=settings.tilt_deg,
    )
    own_weights = tilt_weights(own_antenna, pose.electrical_tilt_deg)[None]
    own, beams = (
        _filled_gain(antenna, of_antenna, pose, departure)
        for antenna, of_antenna in ((own_antenna, own_weights), (panel, weights))
    )
    sent = np.asarray(gain, dtype=np.float64) / own[0]
    total = np.bincount(position, weights=gain, minlength=positions)
    by_beam = [np.bincount(position, weights=sent * beam, minlength=positions) for beam in beams]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.stack(by_beam, axis=1) / total[:, None]
    return np.asarray(linear_to_db(share))


def _filled_gain(
    antenna: Antenna, weights: NDArray[Any], pose: SectorPose, departure: NDArray[Any]
) -> NDArray[np.float64]:
    """Power gain of beams along paths, shape (beam, path), nulls filled."""
    x, y, z = np.asarray(departure, dtype=np.float64).reshape(-1, 3).T
    directions = Departures(
        np.degrees(np.arctan2(x, y)) % 360.0, np.degrees(np.arccos(np.clip(z, -1.0, 1.0)))
    )
    turned = {"azimuth_deg": pose.azimuth_deg, "downtilt_deg": pose.downtilt_deg}
    gain = db_to_linear(beam_gain_db(antenna, weights, directions, **turned))
    peak_db = float(element_gain_db(90.0, 0.0, antenna.pattern)) + linear_to_db(antenna.elements)
    return np.asarray(np.maximum(gain, db_to_linear(peak_db + _FLOOR_DB)))
