"""Gains of beams, at single departure directions and over the radio map of a sector.

The gain of a beam at a grid cell is derived from the *mean* departure angles of a sector's map
(and their spread, where it is known), not traced ray by ray: where a grid cell is reached by a
few paths of very different departure, the mean angle may be one that no path has. Rays that carry
their own field (`antennas.beam_field_components`) need no such approximation.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ueloc_core.errors import RadioError
from ueloc_core.radio.antennas import (
    Antenna,
    beam_field_components,
    direction_of,
    tilt_weights,
)
from ueloc_core.units import db_to_linear, linear_to_db

_AZIMUTH_NODES = 31
_AZIMUTH_REACH = 3.2  # standard deviations
_ZENITH_NODES = 3  # on each side
_ONE_NODE = (np.zeros(1), np.ones(1))
_BATCH = 16_384  # directions at once: bounds the memory of large arrays
_DEEPEST_NULL = 1e-3  # of the array's own gain, 30 dB


@dataclass(frozen=True)
class Departures:
    """Mean departure angles of a sector's paths, arrays of one shape; NaN where unknown.

    Attributes
    ----------
    azimuth_deg
        Compass azimuth, clockwise from north [deg].
    zenith_deg
        Zenith angle, 90 on the horizon, more below it [deg].
    azimuth_spread_deg, zenith_spread_deg
        RMS angular spreads [deg] (TR 38.901 V17.0.0, annex A.1), or None. A NaN counts as 0.
    """

    azimuth_deg: NDArray[Any]
    zenith_deg: NDArray[Any]
    azimuth_spread_deg: NDArray[Any] | None = None
    zenith_spread_deg: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        shapes = {
            np.shape(value)
            for value in (
                self.azimuth_deg,
                self.zenith_deg,
                self.azimuth_spread_deg,
                self.zenith_spread_deg,
            )
            if value is not None
        }
        if len(shapes) != 1:
            raise RadioError(f"departure angles of different shapes {sorted(shapes)}")

    @property
    def is_spread(self) -> bool:
        """Whether any spread is given."""
        return self.azimuth_spread_deg is not None or self.zenith_spread_deg is not None


def beam_gain_db(
    antenna: Antenna,
    weights: NDArray[np.complex128],
    departures: Departures,
    *,
    azimuth_deg: float,
    downtilt_deg: float,
) -> NDArray[np.float64]:
    """Power gain [dBi] of beams at departure angles, shape (beam, ...), mean over ports.

    Where spreads are given, the linear gain is averaged over the angular power distribution of
    TR 38.901 V17.0.0, 7.5, step 7: wrapped Gaussian in azimuth, Laplacian in zenith (zenith
    angles end at the poles), by quadrature: within 0.2 dB for spreads up to 40 degrees, 0.7 dB at
    70, of the beams of eight columns.

    Parameters
    ----------
    antenna
        The array.
    weights
        Precoding weights, shape (beam, element): `antennas.ssb_beams`, `antennas.tilt_weights`.
    departures
        Departure angles of shape (...); a NaN gives NaN.
    azimuth_deg, downtilt_deg
        Of the sector [deg], as in `antennas.field_components`.
    """

    def power(directions: NDArray[np.float64]) -> NDArray[np.float64]:
        fields = beam_field_components(
            antenna,
            weights,
            azimuth_deg=azimuth_deg,
            downtilt_deg=downtilt_deg,
            direction=directions,
        )
        return np.asarray((np.abs(fields) ** 2).sum(axis=-1).mean(axis=-1))

    shape = np.shape(departures.azimuth_deg)
    known = np.isfinite(departures.azimuth_deg) & np.isfinite(departures.zenith_deg)
    gain = np.full((len(weights), *shape), np.nan)
    of_known = _spread_gain if departures.is_spread else _plain_gain
    gain[:, known] = of_known(power, departures, known).T
    return np.asarray(linear_to_db(gain))


def beam_gains_over_map(
    antenna: Antenna,
    weights: NDArray[np.complex128],
    path_gain_db: NDArray[Any],
    departures: Departures,
    *,
    azimuth_deg: float,
    downtilt_deg: float,
    electrical_tilt_deg: float,
) -> NDArray[np.float64]:
    """Path gain [dB] of each beam over a sector's map, shape (beam, y, x).

    The sector's path gain, less the gain of the sector's pattern at the mean departure angles,
    plus the beam's there. Both are averaged over the departure spreads where they are given.
    It is derived from mean angles (see the module).

    Parameters
    ----------
    antenna
        The array.
    weights
        Precoding weights of the beams, shape (beam, element).
    path_gain_db
        Path gain with the sector's own pattern (`antennas.field_components`) in it [dB], shape
        (y, x).
    departures
        Mean departure angles, shape (y, x).
    azimuth_deg, downtilt_deg, electrical_tilt_deg
        Of the sector [deg].

    Returns
    -------
    NDArray
        NaN where gain or angles are unknown, and where the mean departure lies in a null of the
        sector's own array factor (30 dB or more below its peak): the power that arrives there
        has left in other directions.

    Raises
    ------
    RadioError
        If shapes differ, or the antenna cannot be tilted so.
    """
    if np.shape(path_gain_db) != np.shape(departures.azimuth_deg):
        raise RadioError(
            f"path gain of shape {np.shape(path_gain_db)} with departure angles of shape "
            f"{np.shape(departures.azimuth_deg)}"
        )
    own = tilt_weights(antenna, electrical_tilt_deg)[None]
    alone = Antenna(antenna.name, antenna.pattern, antenna.polarization)
    pose = {"azimuth_deg": azimuth_deg, "downtilt_deg": downtilt_deg}
    gain_db = beam_gain_db(antenna, np.concatenate([own, weights]), departures, **pose)
    element_db = beam_gain_db(alone, np.ones((1, 1), dtype=np.complex128), departures, **pose)[0]
    sector_db, beams_db = gain_db[0], gain_db[1:]
    null = db_to_linear(sector_db - element_db) < _DEEPEST_NULL * antenna.elements
    return np.where(null, np.nan, np.asarray(path_gain_db) - sector_db + beams_db)


def radiated_share(antenna: Antenna, weights: NDArray[np.complex128]) -> NDArray[np.float64]:
    """Power that beams radiate over the power that they are fed, shape (beam,), first port.

    The integral of the power gain over the sphere, divided by 4 pi. It is 1 for a lossless
    antenna and 0.657 for the element of TR 38.901. Weights of norm 1 add up to a gain of the
    element's plus 10 log10(elements), as in TR 38.901, which leaves out that close elements
    couple: above 1, the gain is too high by so much, and no real array has it.

    Parameters
    ----------
    antenna
        The array.
    weights
        Precoding weights, shape (beam, element).
    """
    cosine, share = np.polynomial.legendre.leggauss(181)
    azimuth, zenith = np.meshgrid(np.arange(0.5, 360.0), np.degrees(np.arccos(cosine)))
    one_port = dataclasses.replace(antenna, polarization="V")
    gain_db = beam_gain_db(
        one_port, weights, Departures(azimuth, zenith), azimuth_deg=90.0, downtilt_deg=0.0
    )
    return np.asarray((db_to_linear(gain_db).mean(axis=2) * share).sum(axis=1) / 2)


def best_beam(beam_gains_db: NDArray[np.float64]) -> NDArray[np.int64]:
    """Index of the strongest beam at each place, -1 where none is known, shape (...).

    Parameters
    ----------
    beam_gains_db
        Gains of shape (beam, ...).
    """
    filled = np.where(np.isnan(beam_gains_db), -np.inf, beam_gains_db)
    return np.where(np.isneginf(filled).all(axis=0), -1, filled.argmax(axis=0))


def _plain_gain(
    power: Any, departures: Departures, known: NDArray[np.bool_]
) -> NDArray[np.float64]:
    azimuth, zenith = departures.azimuth_deg[known], departures.zenith_deg[known]
    return _in_batches(power, azimuth, zenith)


def _in_batches(
    power: Any, azimuth_deg: NDArray[Any], zenith_deg: NDArray[Any]
) -> NDArray[np.float64]:
    parts = [
        power(direction_of(azimuth_deg[k : k + _BATCH], zenith_deg[k : k + _BATCH]))
        for k in range(0, max(len(azimuth_deg), 1), _BATCH)
    ]
    return np.concatenate(parts)


def _spread_gain(
    power: Any, departures: Departures, known: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Mean linear gain over the spreads, shape (place, beam), from a table of 1 degree."""
    zenith, azimuth = np.meshgrid(np.arange(181.0), np.arange(361.0), indexing="ij")
    table = _in_batches(power, azimuth.ravel(), zenith.ravel()).reshape(181, 361, -1)
    mean_azimuth, mean_zenith = departures.azimuth_deg[known], departures.zenith_deg[known]
    azimuth_spread = _known_spread(departures.azimuth_spread_deg, known)
    zenith_spread = _known_spread(departures.zenith_spread_deg, known)
    total = np.zeros((len(mean_azimuth), table.shape[-1]))
    turns = _ONE_NODE if departures.azimuth_spread_deg is None else _gaussian_nodes()
    tips = _ONE_NODE if departures.zenith_spread_deg is None else _laplacian_nodes()
    for turn, turn_weight in zip(*turns, strict=True):
        for tip, tip_weight in zip(*tips, strict=True):
            total += (turn_weight * tip_weight) * _bilinear(
                table,
                np.clip(mean_zenith + tip * zenith_spread, 0.0, 180.0),
                (mean_azimuth + turn * azimuth_spread) % 360.0,
            )
    return total


def _known_spread(spread_deg: NDArray[Any] | None, known: NDArray[np.bool_]) -> Any:
    return 0.0 if spread_deg is None else np.nan_to_num(spread_deg[known], nan=0.0)


def _gaussian_nodes() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes and weights of the standard normal distribution: even steps, exact variance."""
    nodes = np.linspace(-_AZIMUTH_REACH, _AZIMUTH_REACH, _AZIMUTH_NODES)
    weights = np.exp(-0.5 * nodes**2)
    weights /= weights.sum()
    return nodes / np.sqrt((weights * nodes**2).sum()), weights


def _laplacian_nodes() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes and weights of the Laplacian of variance 1: Gauss-Laguerre on each side."""
    nodes, weights = np.polynomial.laguerre.laggauss(_ZENITH_NODES)
    both = np.concatenate([-nodes[::-1], nodes]) / np.sqrt(2.0)
    return both, np.concatenate([weights[::-1], weights]) / 2


def _bilinear(
    table: NDArray[np.float64], zenith_deg: NDArray[Any], azimuth_deg: NDArray[Any]
) -> NDArray[np.float64]:
    row = np.minimum(zenith_deg.astype(np.int64), table.shape[0] - 2)
    column = np.minimum(azimuth_deg.astype(np.int64), table.shape[1] - 2)
    down, right = (zenith_deg - row)[:, None], (azimuth_deg - column)[:, None]
    upper = (1 - right) * table[row, column] + right * table[row, column + 1]
    lower = (1 - right) * table[row + 1, column] + right * table[row + 1, column + 1]
    return np.asarray((1 - down) * upper + down * lower)
