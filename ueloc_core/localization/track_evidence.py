"""Evidence of a track's reports on one grid, tempered and carried to the time of the last one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from ueloc_core.errors import ReportError
from ueloc_core.grid import BLOCK_CELLS, Window
from ueloc_core.measurement.motion import MotionPrior, Paths

Array = NDArray[np.float64]
Mass = NDArray[np.floating[Any]]
Values = NDArray[np.float32]
Outdoor = Callable[[Window], NDArray[np.bool_]]

_INDOORS = 1e-3  # prior of an indoor grid cell over that of an outdoor one
_DIRECTIONS, _VEHICLE_SPEEDS = 64, 16
_WIDEST_CELLS = 64  # around the last window
_FAR_NATS = 60.0
_LEAST, _LEAST_GROUND, _LEAST_OUTSIDE = 1e-30, 1e-6, 1e-9


def motions() -> tuple[MotionPrior, MotionPrior, MotionPrior]:
    """How a terminal moves that stands, walks or drives."""
    return (
        MotionPrior.static(),
        MotionPrior.pedestrian(directions=_DIRECTIONS),
        MotionPrior.vehicle(_VEHICLE_SPEEDS, _DIRECTIONS),
    )


@dataclass(frozen=True)
class TrackRasters:
    """Posteriors of the T reports of one terminal, in order of time.

    Attributes
    ----------
    masses
        Posterior of each report: mass of the grid cells of its frame, shape of the frame. What
        it lacks to one lies beyond.
    frames
        Window of each report's serving sector.
    times_s
        Times [s].
    outside_m2
        Outdoor area beyond each frame that the sector may serve [m2].
    outdoor
        Where terminals can stand, over any window.

    Raises
    ------
    ReportError
        If they are not as many, a raster has another shape than its frame, or times fall.
    """

    masses: Sequence[Mass]
    frames: Sequence[Window]
    times_s: Sequence[float]
    outside_m2: Sequence[float]
    outdoor: Outdoor

    def __post_init__(self) -> None:
        count = len(self.masses)
        alike = {len(self.frames), len(self.times_s), len(self.outside_m2)} == {count}
        shapes = [np.shape(mass) for mass in self.masses]
        if not count or not alike or shapes != [frame.shape for frame in self.frames]:
            raise ReportError(
                f"{count} rasters of shapes {', '.join(map(str, shapes))}",
                where="track",
                remedy="Give one raster, frame, time and area a report, of the frame's shape.",
            )
        if (np.diff(self.times_s) < 0).any():
            raise ReportError("times of a track fall", where="track", remedy="Order them by time.")

    def __len__(self) -> int:
        return len(self.masses)


@dataclass(frozen=True)
class _Evidence:
    """Logarithm of one report's posterior over the uniform prior.

    `ratio` over the canvas, `own` over the report's frame and `beyond` it; `prior` is the prior
    mass of the frame's grid cells, `prior_beyond` that beyond it.
    """

    ratio: Values
    own: Values
    beyond: float
    prior: Values
    prior_beyond: float

    @classmethod
    def of(
        cls, mass: Mass, frame: Window, outside_m2: float, canvas: Window, outdoor: Outdoor
    ) -> "_Evidence":
        ground = np.where(outdoor(frame), 1.0, _INDOORS)
        far = max(outside_m2 / frame.cell_m**2, 1.0)
        cells = float(ground.sum()) + far
        own = np.log(np.maximum(mass / ground * cells, _LEAST)).astype(np.float32)
        outside = max(1.0 - float(np.sum(mass)), _LEAST_OUTSIDE)
        beyond = float(np.log(outside / far * cells))
        ratio = np.full(canvas.shape, beyond, dtype=np.float32)
        shared = canvas.intersection(frame)
        if shared is not None:
            ratio[shared.slices_in(canvas)] = own[shared.slices_in(frame)]
        prior = (ground / cells).astype(np.float32)
        return cls(ratio, own, beyond, prior, far / cells)

    def log_norm(self, exponent: float) -> float:
        """Logarithm of the tempered evidence's mean under the prior."""
        inside = float((self.prior * np.exp(np.float32(exponent) * self.own)).sum(dtype=np.float64))
        return float(np.log(inside + self.prior_beyond * np.exp(exponent * self.beyond)))


@dataclass(frozen=True)
class _Kernel:
    """Where a terminal was one report earlier.

    `transform` of the shifts' weights, `ground` their sum over the ground that they lead to from
    each grid cell of the canvas, and `beyond` that of the shifts that the canvas does not reach.
    """

    transform: NDArray[np.complex64]
    ground: Values
    beyond: float


def nll_nats(mass: Array, frame: Window, outside_m2: float, truth_m: tuple[float, float]) -> float:
    """Negative log-density [nats, 1/m2] of a posterior at a point.

    Parameters
    ----------
    mass
        Mass of the grid cells of a frame; what it lacks to one is even over the area beyond.
    frame, outside_m2
        The frame, and the outdoor area beyond it [m2].
    truth_m
        The point (x, y) [m].
    """
    if frame.contains(*truth_m):
        row, column = (int(v) for v in frame.indices(*truth_m))
        return float(-np.log(max(float(mass[row, column]), _LEAST) / frame.cell_m**2))
    outside = max(1.0 - float(mass.sum()), _LEAST_OUTSIDE)
    return float(-np.log(outside / max(outside_m2, frame.cell_m**2)))


class TrackEvidence:
    """The reports of a track on one canvas: the last frame and what is within reach of it.

    Parameters
    ----------
    track
        The reports' posteriors.
    """

    def __init__(self, track: TrackRasters) -> None:
        self.times_s = np.asarray(track.times_s, dtype=float)
        self.frame, self.outside_m2 = track.frames[-1], track.outside_m2[-1]
        self._motions = motions()
        fastest = max(max(motion.speed_m_s) for motion in self._motions)
        cells = int(np.ceil(fastest * np.ptp(self.times_s) / self.frame.cell_m))
        self._reach = min(max(cells, BLOCK_CELLS), _WIDEST_CELLS)
        self._canvas = self.frame.buffered(self._reach * self.frame.cell_m)
        self._ground = np.where(track.outdoor(self._canvas), 1.0, _INDOORS).astype(np.float32)
        each = zip(track.masses, track.frames, track.outside_m2, strict=True)
        self._evidence = [_Evidence.of(*one, self._canvas, track.outdoor) for one in each]

    def posterior(self, shares: Sequence[float], exponents: Sequence[Array]) -> tuple[Array, float]:
        """Mass of each grid cell of the last frame, and the mass beyond it.

        Parameters
        ----------
        shares
            Prior probability of each of `motions`.
        exponents
            Of each report's evidence under each of them, shape (report,).
        """
        inner, last = self.frame.slices_in(self._canvas), self._evidence[-1]
        beyond = self._ground.copy()
        beyond[inner] = 0.0
        beyond /= beyond.sum()
        masses, outsides, scales = [], [], []
        for kind, (share, exponent) in enumerate(zip(shares, exponents, strict=True)):
            if share == 0:
                continue
            carried, scale = self._carried(kind, exponent)
            own = last.prior * np.exp(np.float32(exponent[-1]) * last.own)
            masses.append(own.astype(np.float64) * carried[inner])
            far = last.prior_beyond * np.exp(exponent[-1] * last.beyond)
            outsides.append(far * float((beyond * carried).sum()))
            scales.append(np.log(share) + scale - last.log_norm(exponent[-1]))
        weight = np.exp(np.array(scales) - max(scales))
        mass, outside = np.tensordot(weight, np.array(masses), 1), float(weight @ outsides)
        total = float(mass.sum()) + outside
        return mass / total, outside / total

    def _carried(self, kind: int, exponent: Array) -> tuple[Values, float]:
        """What the earlier reports say of the last place: on the canvas, and log of a scale."""
        value, scale = np.ones(self._canvas.shape, dtype=np.float32), 0.0
        for t, evidence in enumerate(self._evidence[:-1]):
            log_value = np.float32(exponent[t]) * evidence.ratio
            log_value += np.log(np.maximum(value, _LEAST))
            peak = float(log_value.max())
            scale += peak - evidence.log_norm(exponent[t])
            value = np.exp(log_value - np.float32(peak))
            if (kind, t) in self._kernels:
                value = self._moved(value, scale, self._kernels[kind, t])
        return value, scale

    def _moved(self, value: Values, scale: float, kernel: _Kernel) -> Values:
        """Mean of a value over where the terminal was one report earlier.

        What was farther away than the canvas reaches has the value's mean under the prior, one
        but for its scale.
        """
        elsewhere = np.float32(kernel.beyond * np.exp(-np.clip(scale, -_FAR_NATS, _FAR_NATS)))
        found = self._convolved(self._ground * value, kernel.transform) + elsewhere
        return np.asarray(found / np.maximum(kernel.ground, _LEAST_GROUND))

    @cached_property
    def _shape(self) -> tuple[int, int]:
        """Of the transforms: what wraps around does not reach the canvas."""
        rows, columns = (fft.next_fast_len(n + self._reach, real=True) for n in self._canvas.shape)
        return rows, columns

    @cached_property
    def _kernels(self) -> dict[tuple[int, int], _Kernel]:
        """How a terminal moved, by motion and gap."""
        return {
            (kind, gap): self._kernel(motion, float(gap_s))
            for gap, gap_s in enumerate(np.diff(self.times_s))
            for kind, motion in enumerate(self._motions)
            if max(motion.speed_m_s) > 0
        }

    def _kernel(self, motion: MotionPrior, gap_s: float) -> _Kernel:
        paths = Paths.of(*motion.displacements_m([0.0, gap_s]), self.frame.cell_m)
        shift = paths.shift[:, 0]
        near = (np.abs(shift) <= self._reach).all(axis=1)
        weights = np.zeros(self._shape, dtype=np.float32)
        # what is at x + shift counts at x
        column, row = -shift[near].T
        np.add.at(weights, (row % self._shape[0], column % self._shape[1]), paths.weight[near])
        transform = np.asarray(fft.rfft2(weights))
        beyond = float(paths.weight[~near].sum() * self._ground.mean())
        ground = self._convolved(self._ground, transform) + np.float32(beyond)
        return _Kernel(transform, ground, beyond)

    def _convolved(self, values: Values, kernel: NDArray[np.complex64]) -> Values:
        rows, columns = self._canvas.shape
        whole = np.asarray(fft.irfft2(fft.rfft2(values, self._shape) * kernel, self._shape))
        return np.asarray(np.maximum(whole[:rows, :columns], np.float32(0.0)))
