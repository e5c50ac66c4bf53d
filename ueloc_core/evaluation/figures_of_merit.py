"""What is measured of a method: each figure of merit reduces one column of its fixes.

One row of the fixes is one method and report, see `ueloc_core.evaluation.schemas.FixSchema`. A
method without a density has NaN there, and NaN comes out.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from ueloc_core.evaluation.diagnostics import calibration_error

Array = NDArray[np.float64]


class Metric(Protocol):
    """Reduces the last axis of one column of the fixes to a number."""

    @property
    def column(self) -> str:
        """Column of the fixes that is reduced."""

    @property
    def name(self) -> str:
        """Column of the summary; ends in its unit."""

    def reduce(self, values: Array) -> Array:
        """The metric along the last axis of `values`."""


@dataclass(frozen=True)
class ErrorQuantile:
    """Quantile of the distance between estimate and truth [m]."""

    q: float
    column: ClassVar[str] = "error_m"

    @property
    def name(self) -> str:
        """``median_m``, or ``p90_m`` and the like."""
        return "median_m" if self.q == 0.5 else f"p{100 * self.q:g}_m"

    def reduce(self, values: Array) -> Array:
        """The quantile, interpolated linearly."""
        return np.asarray(np.quantile(values, self.q, axis=-1))


@dataclass(frozen=True)
class MeanError:
    """Mean distance between estimate and truth [m]."""

    column: ClassVar[str] = "error_m"
    name: str = "mean_m"

    def reduce(self, values: Array) -> Array:
        """The mean."""
        return np.asarray(values.mean(axis=-1))


@dataclass(frozen=True)
class RootMeanSquareError:
    """Root mean square distance between estimate and truth [m]."""

    column: ClassVar[str] = "error_m"
    name: str = "rms_m"

    def reduce(self, values: Array) -> Array:
        """The root of the mean square."""
        return np.asarray(np.sqrt((values**2).mean(axis=-1)))


@dataclass(frozen=True)
class NegativeLogLikelihood:
    """Mean of -log p(truth), with p the posterior density in 1/m^2 [nats]."""

    column: ClassVar[str] = "nll_nats"
    name: str = "nll_nats"

    def reduce(self, values: Array) -> Array:
        """The mean."""
        return np.asarray(values.mean(axis=-1))


@dataclass(frozen=True)
class Coverage:
    """Share of truths inside the region of highest density that holds `level` of the posterior."""

    level: float
    column: ClassVar[str] = "hpd_level"

    @property
    def name(self) -> str:
        """``coverage_90`` and the like."""
        return f"coverage_{100 * self.level:g}"

    def reduce(self, values: Array) -> Array:
        """The share."""
        return np.asarray(np.where(np.isnan(values), np.nan, values <= self.level).mean(axis=-1))


@dataclass(frozen=True)
class Success:
    """Share of fixes within a distance [m] of the truth."""

    radius_m: float
    column: ClassVar[str] = "error_m"

    @property
    def name(self) -> str:
        """``success_10m`` and the like."""
        return f"success_{self.radius_m:g}m"

    def reduce(self, values: Array) -> Array:
        """The share."""
        return np.asarray((values <= self.radius_m).mean(axis=-1))


@dataclass(frozen=True)
class MedianArea90:
    """Median area of the region of highest density that holds 90% of the posterior [m^2]."""

    column: ClassVar[str] = "area90_m2"
    name: str = "area90_m2"

    def reduce(self, values: Array) -> Array:
        """The median."""
        return np.asarray(np.median(values, axis=-1))


@dataclass(frozen=True)
class CalibrationError:
    """Largest distance between nominal and empirical coverage: `diagnostics.calibration_error`."""

    column: ClassVar[str] = "hpd_level"
    name: str = "calibration_error"

    def reduce(self, values: Array) -> Array:
        """The largest distance over the nominal levels."""
        return np.asarray(calibration_error(values))


@dataclass(frozen=True)
class MeanEnergyScore:
    """Mean energy score [m]; that of a point is its error."""

    column: ClassVar[str] = "energy_score_m"
    name: str = "energy_score_m"

    def reduce(self, values: Array) -> Array:
        """The mean."""
        return np.asarray(values.mean(axis=-1))


@dataclass(frozen=True)
class MeanSharpness:
    """Mean of half the distance between two draws from the posterior [m]: the score it expects."""

    column: ClassVar[str] = "sharpness_m"
    name: str = "sharpness_m"

    def reduce(self, values: Array) -> Array:
        """The mean."""
        return np.asarray(values.mean(axis=-1))


@dataclass(frozen=True)
class LatencyQuantile:
    """Quantile of the time that one fix takes [ms]."""

    q: float
    column: ClassVar[str] = "latency_ms"

    @property
    def name(self) -> str:
        """``latency_p50_ms`` and the like."""
        return f"latency_p{100 * self.q:g}_ms"

    def reduce(self, values: Array) -> Array:
        """The quantile, interpolated linearly."""
        return np.asarray(np.quantile(values, self.q, axis=-1))


@dataclass(frozen=True)
class ShareInWindow:
    """Share of truths that lie in the window of their serving sector."""

    column: ClassVar[str] = "in_window"
    name: str = "share_in_window"

    def reduce(self, values: Array) -> Array:
        """The share."""
        return np.asarray(values.mean(axis=-1))


HEADLINE_METRICS: tuple[Metric, ...] = (
    ErrorQuantile(0.5),
    ErrorQuantile(0.67),
    ErrorQuantile(0.9),
    MeanError(),
    NegativeLogLikelihood(),
    Coverage(0.5),
    Coverage(0.9),
)
METRICS: tuple[Metric, ...] = (
    *HEADLINE_METRICS,
    ErrorQuantile(0.8),
    ErrorQuantile(0.95),
    RootMeanSquareError(),
    CalibrationError(),
    *(Success(radius_m) for radius_m in (5.0, 10.0, 20.0, 50.0)),
    MedianArea90(),
    ShareInWindow(),
)
SCORE_METRICS: tuple[Metric, ...] = (
    MeanEnergyScore(),
    MeanSharpness(),
    LatencyQuantile(0.5),
    LatencyQuantile(0.95),
)
"""Metrics of columns that fixes may lack."""
