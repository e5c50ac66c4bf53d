"""Gains of beams against their sector's own pattern, looked up at departure angles.

The patterns are tabulated once in the antenna's frame, in steps of a degree, and averaged over
azimuth as wide as the paths' own spread (TR 38.901 V17.0.0, 7.5, step 7: wrapped Gaussian).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from ueloc_core.measurement.settings import BeamsConfig
from ueloc_core.radio.antennas import antenna_named, ssb_beams, tilt_weights
from ueloc_core.radio.beams import Departures, beam_gain_db
from ueloc_core.units import db_to_linear

_SPREADS_DEG = (0.0, 3.0, 6.0, 12.0, 24.0, 48.0)
_FLOOR_DB = -30.0  # deepest null that real arrays and walls leave, below the pattern's own peak


@dataclass(frozen=True)
class SectorPose:
    """What the patterns of a sector depend on."""

    antenna: str
    azimuth_deg: float
    downtilt_deg: float
    electrical_tilt_deg: float


def beam_offsets_db(
    settings: BeamsConfig,
    pose: SectorPose,
    azimuth_deg: NDArray[Any],
    zenith_deg: NDArray[Any],
    spread_deg: NDArray[Any],
) -> NDArray[np.float32]:
    """Gain of each beam of the panel over the sector's own pattern [dB], shape (beam, ...).

    Parameters
    ----------
    settings
        The panel and its beams.
    pose
        The sector.
    azimuth_deg, zenith_deg, spread_deg
        Mean compass azimuth and zenith of departure and RMS azimuth spread [deg], shape (...).

    Returns
    -------
    NDArray
        NaN where azimuth or zenith is; an unknown spread counts as none.

    Raises
    ------
    RadioError
        If an antenna is unknown or cannot form the beams.
    """
    table = _offset_table(settings, pose.antenna, pose.downtilt_deg, pose.electrical_tilt_deg)
    known = np.isfinite(azimuth_deg) & np.isfinite(zenith_deg)
    turn = np.round(np.nan_to_num(azimuth_deg) - pose.azimuth_deg).astype(np.int64) % 360
    tip = np.round(np.nan_to_num(zenith_deg)).astype(np.int64).clip(0, 180)
    middles = (np.array(_SPREADS_DEG[1:]) + np.array(_SPREADS_DEG[:-1])) / 2
    row = np.searchsorted(middles, np.nan_to_num(spread_deg))
    return np.where(known, table[:, row, tip, turn], np.float32(np.nan))


@lru_cache(maxsize=64)
def _offset_table(
    settings: BeamsConfig, antenna: str, downtilt_deg: float, electrical_tilt_deg: float
) -> NDArray[np.float32]:
    """Offsets over (beam, spread, zenith, azimuth against the boresight) [dB]."""
    zenith, azimuth = np.meshgrid(np.arange(181.0), np.arange(360.0), indexing="ij")
    grid, pose = Departures(azimuth, zenith), {"azimuth_deg": 0.0, "downtilt_deg": downtilt_deg}
    own_antenna = antenna_named(antenna)
    tilted = tilt_weights(own_antenna, electrical_tilt_deg)[None]
    own = beam_gain_db(own_antenna, tilted, grid, **pose)
    panel = antenna_named(settings.antenna)
    weights = ssb_beams(
        panel,
        settings.count,
        half_width_deg=settings.width_deg / 2,
        electrical_tilt_deg=settings.tilt_deg,
    )
    beams = beam_gain_db(panel, weights, grid, **pose)
    tables = []
    for spread in _SPREADS_DEG:
        smooth = [_averaged(gain_db, spread) for gain_db in (own, beams)]
        tables.append(10 * np.log10(smooth[1] / smooth[0]))
    return np.stack(tables, axis=1).astype(np.float32)


def _averaged(gain_db: NDArray[np.float64], spread_deg: float) -> NDArray[np.float64]:
    power = np.maximum(db_to_linear(gain_db), db_to_linear(gain_db.max() + _FLOOR_DB))
    if spread_deg == 0.0:
        return np.asarray(power)
    return np.asarray(gaussian_filter1d(power, spread_deg, axis=-1, mode="wrap"))
