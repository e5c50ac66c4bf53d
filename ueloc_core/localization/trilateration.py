"""Position by ranges and angles: timing advance, angle of arrival, and log-distance path loss.

Robust nonlinear least squares over what a report holds:

- the path's length by timing advance (`classics.path_length_m`) against the slant range to the
  serving sector, with the mean excess of paths over straight lines;
- the bearing by UL-AoA against that from the serving site;
- levels against a log-distance path loss with the sectors' horizontal pattern: the ratios of the
  heard levels (each to their geometric mean, so what the terminal adds to all falls away), and,
  with its own larger deviation, the mean itself;
- where terminals of a sector stand: range (its logarithm) and angle off the boresight of the
  serving sector, each with mean and deviation of the training reports.

A report without timing and angle is left with the last two: multilateration by path loss, in
front of the serving antenna. No map of buildings is read.
"""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.optimize import least_squares

from ueloc_core.localization.classics import (
    KnownReports,
    level_or_threshold_dbm,
    path_length_m,
)
from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.place_maps import PlaceMaps
from ueloc_core.measurement.reports import INT16_MISSING, MISSING, UL_AOA, ul_aoa_of_compass_deg

Array = NDArray[np.float64]

_MOST_REPORTS = 2000
_BEAM_WIDTH_DEG, _PATTERN_FLOOR_DB = 65.0, 30.0  # TR 38.901, table 7.3-1
_STARTS_DEG = (0.0, -45.0, 45.0)  # off the boresight
_STEP_M, _TOLERANCE = 50.0, 1e-5  # of the solver
_LEAST_RANGE_M, _MOST_RANGE_M = 5.0, 2000.0
_NEAREST_M = 1.0  # logarithms stay finite at the antenna
_MAD_TO_SIGMA = 1.4826  # of a Gaussian
_FEWEST = 8  # reports that a scale is learned from


@dataclass(frozen=True)
class PathLoss:
    """Log-distance path loss with a sector's horizontal pattern.

    ``level = reference - intercept_db - 10 exponent log10(d / m) - pattern_share A(phi)``, d the
    slant range and A the pattern of TR 38.901, table 7.3-1, ``min(12 (phi / 65 deg)^2, 30) dB``;
    its share is below one where reflections fill it.

    Attributes
    ----------
    intercept_db, exponent, pattern_share
        The law.
    ratio_db
        Standard deviation of a level around the mean of its report's [dB].
    common_db
        Standard deviation of that mean [dB], beyond what `ratio_db` puts into it.
    """

    intercept_db: float
    exponent: float
    pattern_share: float
    ratio_db: float
    common_db: float

    def level_dbm(self, range_m: Array, off_boresight_deg: Array, reference_dbm: Array) -> Array:
        """Expected RSRP [dBm] at slant ranges [m] and angles off the boresight [deg]."""
        loss_db = self.intercept_db + 10.0 * self.exponent * np.log10(range_m)
        pattern_db = self.pattern_share * pattern_loss_db(off_boresight_deg)
        return np.asarray(reference_dbm - loss_db - pattern_db)

    def range_m(self, level_dbm: float, reference_dbm: float) -> float:
        """Slant range [m] on the boresight that a level stands for, 5 to 2000 m."""
        loss_db = reference_dbm - level_dbm - self.intercept_db
        range_m = 10.0 ** (loss_db / (10.0 * self.exponent))
        return float(np.clip(range_m, _LEAST_RANGE_M, _MOST_RANGE_M))


@dataclass(frozen=True)
class RangeScales:
    """Errors of ranges and bearings, learned on training reports.

    Attributes
    ----------
    excess_m
        Median of path length less slant range [m].
    coarse_m, fine_m
        Standard deviation of the length by timing advance alone, and with its offset [m].
    bearing_deg
        Standard deviation of the bearing by UL-AoA [deg].
    served_m, served_ratio
        Geometric mean of slant ranges to serving sectors [m], and the standard deviation of
        their natural logarithm.
    served_deg
        Standard deviation of the angle off the serving sector's boresight [deg].
    """

    excess_m: float = 0.0
    coarse_m: float = 20.0
    fine_m: float = 10.0
    bearing_deg: float = 5.0
    served_m: float = 100.0
    served_ratio: float = 1.0
    served_deg: float = 60.0


class Trilateration:
    """Least squares over ranges, angles and level ratios, with a soft-L1 loss.

    The solver starts on the boresight at the range of the timing advance (of the serving level
    where there is none) and 45 degrees to either side of it, or at the measured bearing alone
    where an angle is reported; the least cost wins. The position stays in the serving sector's
    traced window.

    Parameters
    ----------
    places
        Positions, heights and powers of the sectors.
    path_loss, scales
        As `fit` learns them.
    """

    def __init__(self, places: PlaceMaps, path_loss: PathLoss, scales: RangeScales) -> None:
        self.places, self.path_loss, self.scales = places, path_loss, scales
        self._geometry = _Geometry(places)

    @classmethod
    def fit(cls, places: PlaceMaps, data: xr.Dataset) -> "Trilateration":
        """Path loss and scales by the training reports of a measurement set.

        The scales are robust (medians), so that outliers of angle and late paths do not set them;
        those of a field that fewer than eight reports hold stay at their defaults. The path loss
        knows nothing of the sectors that were too weak to be heard.

        Raises
        ------
        ReportError
            If there are too few training reports.
        """
        known = KnownReports.drawn(places.atlas, data, "train", _MOST_REPORTS)
        geometry = _Geometry(places)
        return cls(places, _fit_path_loss(geometry, known), _fit_scales(geometry, known))

    def locate(self, report: ReportBatch) -> tuple[float, float]:
        """Estimated (x, y) [m] of one report."""
        serving = int(report.sector[0, 0])
        site_m = self.places.position_m[serving]
        x0_m, y0_m, x1_m, y1_m = self.places.atlas.windows[serving].bounds_m
        low, high = np.array([x0_m, y0_m]) - site_m, np.array([x1_m, y1_m]) - site_m
        residuals = _Residuals(self._geometry, self.path_loss, self.scales, report)
        inside_m = 1e-3 * (high - low)
        found = [
            least_squares(
                residuals,
                np.clip(start_m, low + inside_m, high - inside_m),
                bounds=(low, high),
                loss="soft_l1",
                x_scale=_STEP_M,
                xtol=_TOLERANCE,
                ftol=_TOLERANCE,
            )
            for start_m in residuals.starts_m()
        ]
        best = min(found, key=lambda result: float(result.cost))
        x_m, y_m = site_m + best.x
        return float(x_m), float(y_m)


class _Geometry:
    """Ranges and angles between sectors and places."""

    def __init__(self, places: PlaceMaps) -> None:
        atlas = places.atlas
        self.position_m, self.reference_dbm = places.position_m, places.reference_dbm
        self.drop_m = places.height_m - atlas.city.ray_tracing.terminal_height_m
        self.azimuth_deg = atlas.sectors.azimuth_deg.to_numpy(dtype=float)
        self.numerology = atlas.city.radio.numerology
        self.threshold_dbm = places.settings.detection_threshold_dbm

    def seen(self, sector: NDArray[np.int64], place_m: Array) -> tuple[Array, Array, Array]:
        """Slant range [m], bearing and angle off the boresight [deg] of places from sectors."""
        offset_m = place_m - self.position_m[sector]
        range_m = np.sqrt((offset_m**2).sum(axis=-1) + self.drop_m[sector] ** 2)
        range_m = np.maximum(range_m, _NEAREST_M)
        bearing = np.degrees(np.arctan2(offset_m[..., 0], offset_m[..., 1]))
        return range_m, bearing, wrapped_deg(bearing - self.azimuth_deg[sector])


class _Residuals:
    """Scaled residuals of one report at a position from the serving site [m]."""

    def __init__(
        self, geometry: _Geometry, path_loss: PathLoss, scales: RangeScales, report: ReportBatch
    ) -> None:
        self.geometry, self.path_loss, self.scales = geometry, path_loss, scales
        heard = report.heard[0].numpy()
        self.sector = report.sector[0].numpy()[heard]
        self.level_dbm = level_or_threshold_dbm(report, geometry.threshold_dbm)[0][heard]
        self.length_m = float(path_length_m(report, geometry.numerology)[0]) - scales.excess_m
        fine = int(report.ta_offset[0]) != INT16_MISSING
        self.length_sigma_m = scales.fine_m if fine else scales.coarse_m
        self.bearing_deg = float(measured_bearing_deg(report)[0])
        self.site_m = geometry.position_m[self.sector[0]]
        mean_db = np.hypot(path_loss.common_db, path_loss.ratio_db / np.sqrt(len(self.sector)))
        self._mean_db = float(mean_db)

    def __call__(self, offset_m: Array) -> Array:
        range_m, bearing, turned = self.geometry.seen(self.sector, self.site_m + offset_m)
        reference = self.geometry.reference_dbm[self.sector]
        gap = self.level_dbm - self.path_loss.level_dbm(range_m, turned, reference)
        scales = self.scales
        own = [np.log(range_m[0] / scales.served_m) / scales.served_ratio]
        own.append(turned[0] / scales.served_deg)
        parts = [(gap - gap.mean()) / self.path_loss.ratio_db, [gap.mean() / self._mean_db], own]
        if np.isfinite(self.length_m):
            parts.append([(range_m[0] - self.length_m) / self.length_sigma_m])
        if np.isfinite(self.bearing_deg):
            parts.append([wrapped_deg(bearing[0] - self.bearing_deg) / scales.bearing_deg])
        return np.concatenate(parts)

    def starts_m(self) -> list[Array]:
        """Where to start from, as offsets from the serving site [m]."""
        serving = self.sector[0]
        range_m = self.length_m
        if not np.isfinite(range_m):
            reference = float(self.geometry.reference_dbm[serving])
            range_m = self.path_loss.range_m(float(self.level_dbm[0]), reference)
        drop_m = float(self.geometry.drop_m[serving])
        ground_m = np.sqrt(max(range_m**2 - drop_m**2, _LEAST_RANGE_M**2))
        bearings = self.geometry.azimuth_deg[serving] + np.array(_STARTS_DEG)
        if np.isfinite(self.bearing_deg):
            bearings = np.array([self.bearing_deg])
        angle = np.radians(bearings)
        return list(ground_m * np.stack([np.sin(angle), np.cos(angle)], axis=1))


def measured_bearing_deg(reports: ReportBatch) -> Array:
    """Compass bearing of the terminal from its serving site by UL-AoA [deg], NaN where none."""
    code = reports.aoa.numpy()
    bearing = ul_aoa_of_compass_deg(UL_AOA.decode(code))
    return np.where(code == MISSING, np.nan, bearing)


def wrapped_deg(angle_deg: Array) -> Array:
    """Angles [deg] in -180 to 180."""
    return np.asarray((angle_deg + 180.0) % 360.0 - 180.0)


def pattern_loss_db(off_boresight_deg: Array) -> Array:
    """Horizontal pattern's loss [dB] at angles off the boresight (TR 38.901, table 7.3-1)."""
    return np.asarray(
        np.minimum(12.0 * (off_boresight_deg / _BEAM_WIDTH_DEG) ** 2, _PATTERN_FLOOR_DB)
    )


def _fit_path_loss(geometry: _Geometry, known: KnownReports) -> PathLoss:
    heard = known.reports.heard.numpy()
    report, _ = np.nonzero(heard)
    sector = known.reports.sector.numpy()[heard]
    level = level_or_threshold_dbm(known.reports, geometry.threshold_dbm)[heard]
    range_m, _, turned = geometry.seen(sector, known.place_m[report])
    log_range, pattern = 10.0 * np.log10(range_m), pattern_loss_db(turned)
    loss = geometry.reference_dbm[sector] - level

    def misfit(law: Array) -> Array:
        return np.asarray(law[0] + law[1] * log_range + law[2] * pattern - loss)

    start = np.array([float(np.median(loss - 3.0 * log_range)), 3.0, 0.5])
    bounds = ([-np.inf, 1.0, 0.0], [np.inf, 8.0, 1.5])
    law = least_squares(misfit, start, bounds=bounds, loss="soft_l1", f_scale=6.0).x
    residual = misfit(law)
    count = np.bincount(report)
    mean = np.bincount(report, residual) / count
    many = count[report] > 1
    if not many.any():
        ratio_db = robust_sigma(residual)
    else:  # the mean takes one degree of freedom out of each report
        spread = (residual - mean[report])[many] / np.sqrt(1.0 - 1.0 / count[report][many])
        ratio_db = robust_sigma(spread)
    excess = robust_sigma(mean) ** 2 - float((ratio_db**2 / count).mean())
    return PathLoss(
        intercept_db=float(law[0]),
        exponent=float(law[1]),
        pattern_share=float(law[2]),
        ratio_db=max(ratio_db, 1.0),
        common_db=float(np.sqrt(max(excess, 1.0))),
    )


def _fit_scales(geometry: _Geometry, known: KnownReports) -> RangeScales:
    serving = known.reports.sector.numpy()[:, 0]
    range_m, bearing, off_deg = geometry.seen(serving, known.place_m)
    served = np.log(range_m)
    scales = RangeScales()
    excess = path_length_m(known.reports, geometry.numerology) - range_m
    timed = np.isfinite(excess)
    excess_m = float(np.median(excess[timed])) if timed.sum() >= _FEWEST else scales.excess_m
    fine = timed & (known.reports.ta_offset.numpy() != INT16_MISSING)

    def scale(errors: Array, default: float, least: float) -> float:
        return max(robust_sigma(errors), least) if len(errors) >= _FEWEST else default

    turned = wrapped_deg(bearing - measured_bearing_deg(known.reports))
    return RangeScales(
        excess_m=excess_m,
        coarse_m=scale(excess[timed & ~fine] - excess_m, scales.coarse_m, 1.0),
        fine_m=scale(excess[fine] - excess_m, scales.fine_m, 1.0),
        bearing_deg=scale(turned[np.isfinite(turned)], scales.bearing_deg, 0.5),
        served_m=float(np.exp(served.mean())),
        served_ratio=max(float(served.std()), 0.05),
        served_deg=max(float(np.sqrt((off_deg**2).mean())), 5.0),
    )


def robust_sigma(errors: Array) -> float:
    """Standard deviation by the median distance from the median, that of a Gaussian."""
    return float(_MAD_TO_SIGMA * np.median(np.abs(errors - np.median(errors))))
