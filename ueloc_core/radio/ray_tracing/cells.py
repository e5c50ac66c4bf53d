"""From paths to grid cells: gain and its error, delays, angles and line of sight of each sector."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ueloc_core.radio.ray_tracing.contributions import Contributions
from ueloc_core.units import SPEED_OF_LIGHT_M_S

DETECTION_RANGE_DB = 20.0
"""The first arrival is that of the first path no weaker than the strongest by more than this."""

_DB_PER_NEPER = 10.0 / math.log(10.0)
_SMALLEST_GAIN = 1e-18  # -180 dB
_LEAST_RESULTANT = 1e-6


@dataclass(frozen=True)
class CellMap:
    """What one sector's paths make of each grid cell; NaN where no path arrives.

    Attributes are arrays of one shape, that of the grid, float32 but for `ray_hits` (uint32):
    gains [dB], delays [ns], angles [deg]; compass azimuths, zenith 0 is up. Angles of arrival
    tell whence the power comes. Spreads are those of TR 38.901, annex A.
    """

    path_gain_db: NDArray[np.float32]
    path_gain_se_db: NDArray[np.float32]
    first_arrival_ns: NDArray[np.float32]
    mean_delay_ns: NDArray[np.float32]
    delay_spread_ns: NDArray[np.float32]
    departure_azimuth_deg: NDArray[np.float32]
    departure_zenith_deg: NDArray[np.float32]
    departure_spread_deg: NDArray[np.float32]
    arrival_azimuth_deg: NDArray[np.float32]
    arrival_zenith_deg: NDArray[np.float32]
    arrival_spread_deg: NDArray[np.float32]
    ray_hits: NDArray[np.uint32]


class CellStatistics:
    """Paths in order of their grid cells, ready to be weighted by the power of any sector.

    Parameters
    ----------
    paths
        The paths.
    shape
        (rows, columns) of the grid.
    batches
        Number of independent batches.
    """

    def __init__(self, paths: Contributions, shape: tuple[int, int], batches: int) -> None:
        self._shape, self._batches = shape, batches
        cells = shape[0] * shape[1]
        count = len(paths)
        # turning coordinates to rows is a stable sort in linear time
        by_cell = sparse.coo_array(
            (np.ones(count, dtype=np.int8), (paths.cell, np.arange(count))), shape=(cells, count)
        ).tocsr()
        self._order, self._bounds = by_cell.indices, by_cell.indptr
        self._hits = np.diff(self._bounds)
        self._filled = np.flatnonzero(self._hits)
        self._starts = self._bounds[self._filled]
        self._weight = paths.weight[self._order].astype(np.float64)
        self._slot = (paths.cell * batches + paths.batch)[self._order]
        nanoseconds = paths.length_m.astype(np.float64) * (1e9 / SPEED_OF_LIGHT_M_S)
        self._delay_ns = nanoseconds[self._order]
        earliest = np.zeros(cells)
        if len(self._starts):
            earliest[self._filled] = np.minimum.reduceat(self._delay_ns, self._starts)
        self._earliest_ns = earliest
        excess = self._delay_ns - np.repeat(earliest, self._hits)
        angles = [_features(d[self._order]) for d in (paths.departure, -paths.arrival)]
        self._features = np.stack(
            [np.ones(count), excess, excess**2, *angles[0], *angles[1]], axis=1
        )

    def of(self, gain: NDArray[np.float32]) -> CellMap:
        """Statistics weighted by the path gain of one sector along each path, shape (n,)."""
        cells, batches = len(self._hits), self._batches
        gain = gain[self._order]
        power = self._weight * gain
        slots = np.bincount(self._slot, weights=power, minlength=cells * batches)
        batch_gain = slots.astype(np.float64).reshape(cells, batches)
        mean_db, error_db = combine_batches(batch_gain.T)
        known = np.isfinite(mean_db)
        by_cell = sparse.csr_array(
            (power, np.arange(len(power)), self._bounds), shape=(cells, len(power))
        )
        sums = by_cell @ self._features
        total = np.where(known, sums[:, 0], np.nan)[:, None]
        late, square, *angles = (sums[:, 1:] / total).T
        departure, arrival = _angles(*angles[:3]), _angles(*angles[3:])
        first = self._first_arrival(gain)

        def out(values: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
            return np.where(known, values, np.nan).astype(np.float32).reshape(self._shape)

        return CellMap(
            path_gain_db=out(mean_db),
            path_gain_se_db=out(error_db),
            first_arrival_ns=out(first),
            mean_delay_ns=out(np.maximum(self._earliest_ns + late, first)),
            delay_spread_ns=out(np.sqrt(np.maximum(square - late**2, 0.0))),
            departure_azimuth_deg=out(departure[0]),
            departure_zenith_deg=out(departure[1]),
            departure_spread_deg=out(departure[2]),
            arrival_azimuth_deg=out(arrival[0]),
            arrival_zenith_deg=out(arrival[1]),
            arrival_spread_deg=out(arrival[2]),
            ray_hits=np.where(known, self._hits, 0).astype(np.uint32).reshape(self._shape),
        )

    def _first_arrival(self, gain: NDArray[np.float32]) -> NDArray[np.float64]:
        """Delay of the first path in each grid cell that is strong enough [ns]."""
        first = np.full(len(self._hits), np.nan)
        if len(self._starts):
            strongest = np.maximum.reduceat(gain, self._starts)
            least = np.repeat(strongest, self._hits[self._filled])
            detected = gain >= least * 10.0 ** (-DETECTION_RANGE_DB / 10.0)
            delay_ns = np.where(detected, self._delay_ns, np.inf)
            first[self._filled] = np.minimum.reduceat(delay_ns, self._starts)
        return first


def combine_batches(
    gains: NDArray[np.float64],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean gain and its standard error from independent batches.

    Parameters
    ----------
    gains
        Linear gains of shape (batch, ...).

    Returns
    -------
    tuple
        Gain [dB], NaN below -180 dB, and its standard error [dB] (first order: 10/ln 10 times the
        relative error), NaN where fewer than two batches have power.
    """
    count = len(gains)
    mean = gains.mean(axis=0)
    heard = mean > _SMALLEST_GAIN
    spread = gains.std(axis=0, ddof=min(1, count - 1)) / math.sqrt(count)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_db = np.where(heard, 10.0 * np.log10(mean), np.nan)
        told = heard & ((gains > 0).sum(axis=0) > 1)
        error_db = np.where(told, _DB_PER_NEPER * spread / mean, np.nan)
    return mean_db.astype(np.float32), error_db.astype(np.float32)


def _features(direction: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """East and north part of the azimuth's unit vector, and zenith angle [deg], of directions."""
    x, y, z = direction.T
    across = np.maximum(np.hypot(x, y), 1e-6)
    return [x / across, y / across, np.degrees(np.arccos(np.clip(z, -1.0, 1.0)))]


def _angles(
    east: NDArray[np.float64], north: NDArray[np.float64], zenith: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Compass azimuth, zenith and azimuth spread [deg] of mean features."""
    azimuth = np.degrees(np.arctan2(east, north)) % 360.0
    resultant = np.clip(np.hypot(east, north), _LEAST_RESULTANT, 1.0)
    spread = np.degrees(np.sqrt(-2.0 * np.log(resultant)))
    return azimuth, zenith, np.minimum(spread, 180.0)
