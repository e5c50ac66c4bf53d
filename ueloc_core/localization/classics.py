"""Classic locators with the network's inputs: serving ground, centroid, fingerprints.

Each takes one report and gives a point. What they have to choose is chosen on reports from known
places (`KnownReports`), never on test reports. `trilateration` holds the one that solves for the
position by ranges and angles.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from ueloc_core.city import SPLITS
from ueloc_core.errors import ReportError
from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.dataset import to_batch
from ueloc_core.measurement.place_maps import PlaceMaps
from ueloc_core.measurement.reports import INT16_MISSING, MISSING, decode_rsrp
from ueloc_core.radio.atlas import MapAtlas
from ueloc_core.radio.link import timing_advance_step_ns
from ueloc_core.units import SPEED_OF_LIGHT_M_S

_SCALE_FLOOR_DB = 1.0
_MISSING_FINGERPRINT_DBM = -130.0
_NEIGHBOURS = (1, 2, 4, 8, 16, 32, 64)
_TIMING_DB_PER_M = (0.0, 0.03, 0.1, 0.3, 1.0)
_EXPONENTS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5)
_REACHES_M = (0.0, 20.0, 40.0, 60.0, 80.0, 100.0, 130.0, 160.0, 200.0, 250.0, 300.0)
_MOST_REPORTS = 2000
_MOST_FINGERPRINTS = 200  # each is compared with every grid cell of a window
_LEAST_REPORTS = 10
_SEED = 14  # of the choice of reports, beside the city's


@dataclass(frozen=True)
class KnownReports:
    """Reports from known places, which a locator is tuned on.

    Attributes
    ----------
    reports
        n reports.
    place_m
        Where they come from (x, y) [m], shape (n, 2).
    """

    reports: ReportBatch
    place_m: NDArray[np.float64]

    @classmethod
    def drawn(cls, atlas: MapAtlas, data: xr.Dataset, split: str, most: int) -> "KnownReports":
        """A seeded choice of a split's reports, `most` at most, in the order of the data set.

        Raises
        ------
        ReportError
            If fewer than ten of them come from known places.
        """
        known = np.isfinite(data.x_m.values) & np.isfinite(data.y_m.values)
        found = np.flatnonzero((data.split.values == SPLITS.index(split)) & known)
        if len(found) < _LEAST_REPORTS:
            raise ReportError(
                f"{len(found)} {split} reports from known places are too few to tune a locator",
                where=f"{atlas.city.name}: splits",
                remedy=f"At least {_LEAST_REPORTS} are needed: name more tiles for {split}.",
            )
        rng = np.random.default_rng([atlas.city.seed, _SEED, SPLITS.index(split)])
        chosen = data.isel(report=np.sort(rng.permutation(found)[:most]))
        place_m = np.stack([chosen.x_m.values, chosen.y_m.values], axis=1)
        return cls(to_batch(chosen, atlas), place_m)

    def __len__(self) -> int:
        return len(self.reports)


def path_length_m(reports: ReportBatch, numerology: int) -> NDArray[np.float64]:
    """Length of the first path [m] by timing advance and its offset, NaN where none, shape (n,).

    The offset (SCF 222, int16 [ns] of the round trip) makes the timing advance's step (TS 38.213,
    4.2) finer where it is reported.
    """
    ta = reports.ta.numpy().astype(float)
    offset_ns = reports.ta_offset.numpy().astype(float)
    offset_ns = np.where(offset_ns == INT16_MISSING, 0.0, offset_ns)
    trip_ns = ta * timing_advance_step_ns(numerology) + offset_ns
    length_m = np.maximum(trip_ns, 0.0) / 2 * SPEED_OF_LIGHT_M_S / 1e9
    return np.where(ta == MISSING, np.nan, length_m)


def level_or_threshold_dbm(reports: ReportBatch, threshold_dbm: float) -> NDArray[np.float64]:
    """Reported RSRP [dBm], shape (n, slot): a heard sector without one counts as just detected."""
    level = reports.level_dbm.nan_to_num(threshold_dbm)
    return np.asarray(torch.where(reports.heard, level, torch.nan).double().numpy())


class StrongestSector:
    """The centre of the outdoor ground where the twin says that the serving sector is best."""

    def __init__(self, atlas: MapAtlas) -> None:
        self.atlas = atlas
        self._centres: dict[int, tuple[float, float]] = {}

    def locate(self, report: ReportBatch) -> tuple[float, float]:
        """Estimated (x, y) [m] of one report."""
        serving = int(report.sector[0, 0])
        if serving not in self._centres:
            self._centres[serving] = self._centre(serving)
        return self._centres[serving]

    def _centre(self, serving: int) -> tuple[float, float]:
        window = self.atlas.windows[serving]
        rsrp, _ = self.atlas.maps_in(window)
        filled = np.nan_to_num(rsrp, nan=-np.inf)
        best = (filled.argmax(axis=0) == serving) & np.isfinite(filled[serving])
        row, column = np.nonzero(best & self.atlas.outdoor_in(window))
        if not len(row):
            site: Any = self.atlas.sectors.iloc[serving]
            return float(site.x_m), float(site.y_m)
        return float(window.x_centres_m[column].mean()), float(window.y_centres_m[row].mean())


class WeightedCentroid:
    """Mean of points in front of the heard sectors, weighted by a power of their RSRP.

    ``sum_s w_s (p_s + reach_m b_s) / sum_s w_s`` with ``w_s = (RSRP_s / mW)^exponent``, p the
    sectors' positions and b their boresights.

    Parameters
    ----------
    places
        Positions and boresights of the sectors.
    exponent
        Of the linear RSRP.
    reach_m
        How far the points lie in front of the sectors [m].
    """

    def __init__(self, places: PlaceMaps, exponent: float, reach_m: float) -> None:
        self.exponent, self.reach_m = exponent, reach_m
        self._position_m = places.position_m
        self._boresight = boresights(places.atlas)
        self._threshold_dbm = places.settings.detection_threshold_dbm

    @classmethod
    def fit(cls, places: PlaceMaps, data: xr.Dataset) -> "WeightedCentroid":
        """Exponent and reach of least mean error on the training reports of a measurement set.

        Raises
        ------
        ReportError
            If there are too few of them.
        """
        known = KnownReports.drawn(places.atlas, data, "train", _MOST_REPORTS)

        def error_m(exponent: float, reach_m: float) -> float:
            found = cls(places, exponent, reach_m).locate_all(known.reports)
            return float(np.hypot(*(found - known.place_m).T).mean())

        candidates = [(e, r) for e in _EXPONENTS for r in _REACHES_M]
        return cls(places, *min(candidates, key=lambda pair: error_m(*pair)))

    def locate(self, report: ReportBatch) -> tuple[float, float]:
        """Estimated (x, y) [m] of one report."""
        x_m, y_m = self.locate_all(report)[0]
        return float(x_m), float(y_m)

    def locate_all(self, reports: ReportBatch) -> NDArray[np.float64]:
        """Estimated (x, y) [m] of n reports, shape (n, 2)."""
        sector = np.maximum(reports.sector.numpy(), 0)
        level = level_or_threshold_dbm(reports, self._threshold_dbm)
        relative = np.nan_to_num(level - level[:, :1], nan=-np.inf)  # a common factor falls away
        weight = 10.0 ** (relative / 10.0 * self.exponent)
        point = self._position_m[sector] + self.reach_m * self._boresight[sector]
        total = (weight[..., None] * point).sum(axis=1)
        return np.asarray(total / weight.sum(axis=1, keepdims=True))


class Fingerprints:
    """k nearest neighbours in signal space among the twin's outdoor grid cells.

    The distance is the root mean square difference over the features: RSRP [dB] of the reported
    sectors, an unmapped one counting as -130 dBm, and, where a timing advance is reported, the
    length of the first path, `timing_db_per_m` to the metre; where none is mapped it is the
    straight line. The estimate weighs the k nearest by inverse distance.

    Parameters
    ----------
    atlas
        The twin's radio maps.
    neighbours
        k.
    timing_db_per_m
        What a metre of path counts [dB/m]; 0 leaves timing out.
    """

    def __init__(self, atlas: MapAtlas, neighbours: int, timing_db_per_m: float = 0.0) -> None:
        self.atlas, self.neighbours = atlas, neighbours
        self.timing_db_per_m = timing_db_per_m

    @classmethod
    def fit(cls, places: PlaceMaps, data: xr.Dataset) -> "Fingerprints":
        """Neighbours and weight of timing of least mean error on a set's validation reports.

        Raises
        ------
        ReportError
            If there are too few of them.
        """
        known = KnownReports.drawn(places.atlas, data, "validation", _MOST_FINGERPRINTS)
        total = np.zeros((len(_TIMING_DB_PER_M), len(_NEIGHBOURS)))
        untuned = cls(places.atlas, max(_NEIGHBOURS), max(_TIMING_DB_PER_M))
        for i, place_m in enumerate(known.place_m):
            compared = untuned._compare(known.reports[i : i + 1])
            for t, timing in enumerate(_TIMING_DB_PER_M):
                nearest = compared.nearest(untuned.neighbours, timing)
                for k, count in enumerate(_NEIGHBOURS):
                    total[t, k] += np.hypot(*(nearest.estimate(count) - place_m))
        best = int(total.argmin())
        neighbours = _NEIGHBOURS[best % len(_NEIGHBOURS)]
        return cls(places.atlas, neighbours, _TIMING_DB_PER_M[best // len(_NEIGHBOURS)])

    def locate(self, report: ReportBatch) -> tuple[float, float]:
        """Estimated (x, y) [m] of one report."""
        nearest = self._compare(report).nearest(self.neighbours, self.timing_db_per_m)
        x_m, y_m = nearest.estimate(self.neighbours)
        return float(x_m), float(y_m)

    def _compare(self, report: ReportBatch) -> "_Comparison":
        sectors = report.sector[0].numpy()
        level = decode_rsrp(report.rsrp[0].numpy())
        serving, told = int(sectors[0]), (sectors >= 0) & np.isfinite(level)
        window = self.atlas.windows[serving]
        outdoor = self.atlas.outdoor_in(window)
        rsrp, _ = self.atlas.maps_in(window, sectors[told])
        stored = np.nan_to_num(rsrp[:, outdoor], nan=_MISSING_FINGERPRINT_DBM)
        row, column = np.nonzero(outdoor)
        place_m = np.stack([window.x_centres_m[column], window.y_centres_m[row]], axis=1)
        length_m = float(path_length_m(report, self.atlas.city.radio.numerology)[0])
        gap_m = None
        if self.timing_db_per_m > 0 and np.isfinite(length_m):
            gap_m = self._mapped_length_m(serving, outdoor, place_m) - length_m
        squares = ((stored - level[told, None]) ** 2).sum(axis=0)
        return _Comparison(place_m, squares, int(told.sum()), gap_m)

    def _mapped_length_m(
        self, serving: int, outdoor: NDArray[np.bool_], place_m: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Length of the first path [m] at the outdoor cells of a sector's own window."""
        delay_ns = self.atlas.layer("first_arrival_ns")[serving][outdoor].astype(float)
        site: Any = self.atlas.sectors.iloc[serving]
        drop_m = site.height_m - self.atlas.city.ray_tracing.terminal_height_m
        offset_m = place_m - np.array([site.x_m, site.y_m])
        straight_m = np.sqrt((offset_m**2).sum(axis=1) + drop_m**2)
        mapped_m = delay_ns * SPEED_OF_LIGHT_M_S / 1e9
        return np.asarray(np.where(np.isnan(delay_ns), straight_m, mapped_m))


@dataclass(frozen=True)
class _Comparison:
    """A report beside the outdoor grid cells.

    Attributes
    ----------
    place_m
        Centres of the cells [m], shape (cell, 2).
    squares
        Sum of the squared differences of levels [dB^2], shape (cell,).
    levels
        How many levels these are.
    length_gap_m
        Difference of the first path's length [m], shape (cell,); None if not to be compared.
    """

    place_m: NDArray[np.float64]
    squares: NDArray[np.float64]
    levels: int
    length_gap_m: NDArray[np.float64] | None

    def nearest(self, most: int, timing_db_per_m: float) -> "_Nearest":
        """The best matches, nearest first."""
        squares, features = self.squares, self.levels
        if self.length_gap_m is not None and timing_db_per_m > 0:
            squares = squares + (timing_db_per_m * self.length_gap_m) ** 2
            features += 1
        distance = np.sqrt(squares / max(features, 1))
        count = min(most, distance.size)
        best = np.argpartition(distance, count - 1)[:count]
        best = best[np.argsort(distance[best], kind="stable")]
        return _Nearest(distance[best], self.place_m[best])


@dataclass(frozen=True)
class _Nearest:
    """Matches of a report, nearest first: distance [dB] and place [m], shape (cell, 2)."""

    distance_db: NDArray[np.float64]
    place_m: NDArray[np.float64]

    def estimate(self, neighbours: int) -> NDArray[np.float64]:
        weight = 1.0 / np.maximum(self.distance_db[:neighbours], _SCALE_FLOOR_DB)
        return np.asarray(weight @ self.place_m[:neighbours] / weight.sum())


def boresights(atlas: MapAtlas) -> NDArray[np.float64]:
    """Unit vectors (east, north) of the sectors' azimuths, shape (sector, 2)."""
    azimuth = np.radians(atlas.sectors.azimuth_deg.to_numpy(dtype=float))
    return np.stack([np.sin(azimuth), np.cos(azimuth)], axis=1)
