"""How good and how sharp one posterior is: energy score and area of a region.

A posterior over a window is a raster of masses, spread evenly within each grid cell, as in its
log-density. What the raster lacks to one lies outside of the window.

The energy score is a proper score in metres (Gneiting and Raftery 2007, "Strictly proper scoring
rules, prediction, and estimation", J. Am. Stat. Assoc. 102, eq. 22 with beta = 1, turned so that
less is better): E|X - y| - E|X - X'| / 2 with X and X' drawn from the posterior and y the true
position. That of a single point is its distance to the truth, so methods with and without a
density stand on one scale.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from ueloc_core.errors import UelocError
from ueloc_core.localization.regions import hpd_cells

Array = NDArray[np.float64]

OUTSIDE_MARGIN_M = 256.0
"""Width of the border around a window over which the mass outside of it is laid."""

_MASS_TOLERANCE = 1e-6
_BATCH_VALUES = 1 << 22  # numbers in a temporary array: 32 MiB
_NODES, _NODES_NEAR, _NEAR_CELLS = 4, 24, 3


@dataclass(frozen=True)
class EnergyScore:
    """Energy scores of a batch of posteriors.

    Attributes
    ----------
    score_m
        E|X - y| - E|X - X'| / 2 [m].
    sharpness_m
        E|X - X'| / 2 [m]: the mean score that the posterior expects of itself. Where posteriors
        are exact the scores have this mean.
    """

    score_m: Array
    sharpness_m: Array


def energy_score(
    mass: NDArray[np.floating[Any]],
    east_m: Any,
    north_m: Any,
    cell_m: float,
    *,
    outside_margin_m: float = OUTSIDE_MARGIN_M,
) -> EnergyScore:
    """Energy score of posteriors that are constant within each grid cell.

    Both expectations are exact, but for rounding and for a quadrature error below 1e-6 of a grid
    cell: the first from the closed form of the mean distance to a square, the second as the
    product of the masses' power spectrum with that of the mean distance between two cells
    (Wiener-Khinchin), which costs one Fourier transform a report.

    Parameters
    ----------
    mass
        Posterior mass per grid cell, shape (..., rows, columns), row 0 in the south.
    east_m, north_m
        True position, from the window's west and south edge [m], of the leading shape; may lie
        outside of the window.
    cell_m
        Side of a grid cell [m].
    outside_margin_m
        The mass outside of the window is laid evenly over a border of this width [m].

    Raises
    ------
    UelocError
        If a mass is negative or not a number, or a raster holds nothing or more than one.
    """
    lead = np.shape(mass)[:-2]
    stack = np.asarray(mass, dtype=np.float64).reshape(-1, *np.shape(mass)[-2:])
    place = np.stack(
        [np.broadcast_to(np.asarray(v, dtype=np.float64), lead).ravel() for v in (east_m, north_m)],
        axis=1,
    )
    outside = 1.0 - _held(stack)
    margin = 0
    if (outside > _MASS_TOLERANCE).any():
        margin = max(1, round(outside_margin_m / cell_m))
    to_truth, between = np.empty(len(stack)), np.empty(len(stack))
    count = max(1, _BATCH_VALUES // _spectrum_size(stack.shape[1] + 2 * margin) ** 2)
    for start in range(0, len(stack), count):
        part = slice(start, start + count)
        whole = _with_border(stack[part], outside[part], margin)
        to_truth[part] = _mean_distance(whole, place[part] / cell_m + margin)
        between[part] = _mean_difference(whole)
    sharpness_m = cell_m * between / 2
    return EnergyScore((cell_m * to_truth - sharpness_m).reshape(lead), sharpness_m.reshape(lead))


def energy_score_of_samples(samples_m: Any, truth_m: Any, *, fair: bool = False) -> EnergyScore:
    """Energy score of posteriors that are given as equally likely positions.

    Parameters
    ----------
    samples_m
        Positions [m], shape (..., sample, 2).
    truth_m
        True positions [m], shape (..., 2).
    fair
        Take the positions as draws from the posterior, and leave the pairs of a draw with itself
        out, so that the mean score does not depend on their number. Else the positions
        themselves are the posterior; one alone has its distance to the truth as its score.

    Raises
    ------
    UelocError
        If there are too few samples.
    """
    samples = np.asarray(samples_m, dtype=np.float64)
    count = samples.shape[-2]
    if count < (2 if fair else 1):
        raise UelocError(
            f"{count} samples have no {'fair ' if fair else ''}energy score",
            remedy="Draw at least two samples of each posterior.",
        )
    to_truth = _length(samples - np.asarray(truth_m)[..., None, :]).mean(axis=-1)
    total = np.zeros(samples.shape[:-2])
    for shift in range(1, count):  # pairs (i, i + shift): no (sample, sample) array
        total += 2 * _length(samples[..., shift:, :] - samples[..., :-shift, :]).sum(axis=-1)
    sharpness_m = total / (count * (count - 1 if fair else count)) / 2
    return EnergyScore(np.asarray(to_truth - sharpness_m), np.asarray(sharpness_m))


def expected_distance_cells(mass: NDArray[np.floating[Any]]) -> Array:
    """Mean distance between a draw from the posterior and a point of each grid cell.

    Parameters
    ----------
    mass
        Posterior mass per grid cell, shape (..., rows, columns). What it lacks to one is left
        out.

    Returns
    -------
    The integral of the distance over the masses [cells], of the shape of `mass`.
    """
    rows, columns = np.shape(mass)[-2:]
    shape = _spectrum_size(rows), _spectrum_size(columns)
    spectrum = fft.rfft2(np.asarray(mass, dtype=np.float64), s=shape)
    around = fft.irfft2(spectrum * _distance_spectrum(rows, columns), s=shape)
    return np.asarray(around[..., :rows, :columns])


def hpd_area_m2(mass: NDArray[np.floating[Any]], level: float, cell_m: float) -> Any:
    """Area [m^2] of the smallest set of grid cells that holds a share of the posterior.

    Where the window holds less than `level` it is the area of the window: a lower bound.
    The result has the leading shape of `mass` (..., rows, columns).
    """
    return hpd_cells(mass, level).sum(axis=(-2, -1)) * cell_m**2


def _held(stack: Array) -> Array:
    """Mass in each raster, shape (n,)."""
    held = stack.sum(axis=(1, 2))
    if not (stack >= 0).all() or not ((held > 0) & (held <= 1 + _MASS_TOLERANCE)).all():
        raise UelocError(
            "a raster of masses is negative, not a number, empty, or holds more than one",
            remedy="Give posterior masses, not densities or logarithms.",
        )
    return np.asarray(held)


def _with_border(stack: Array, outside: Array, margin: int) -> Array:
    """The rasters with their outside mass laid over `margin` cells around; they sum to one."""
    if margin == 0:
        return np.asarray(stack / (1.0 - outside)[:, None, None])
    rows, columns = stack.shape[1:]
    whole = np.pad(stack, ((0, 0), (margin, margin), (margin, margin)))
    border = np.ones(whole.shape[1:], dtype=bool)
    border[margin : margin + rows, margin : margin + columns] = False
    whole[:, border] = (np.maximum(outside, 0.0) / border.sum())[:, None]
    total = np.maximum(1.0, 1.0 - outside)[:, None, None]  # rounding may leave a little too much
    return np.asarray(whole / total)


def _mean_distance(stack: Array, place: Array) -> Array:
    """E|X - y| [cells] for y at `place` (n, 2) [cells] from the raster's lower-left corner."""
    rows, columns = stack.shape[1:]
    x = np.arange(columns + 1) - place[:, 0, None]
    y = np.arange(rows + 1) - place[:, 1, None]
    corner = _corner_integral(x[:, None, :], y[:, :, None])
    cell = np.diff(np.diff(corner, axis=1), axis=2)
    return np.asarray((stack * cell).sum(axis=(1, 2)))


def _corner_integral(x: Array, y: Array) -> Array:
    """Integral of sqrt(u^2 + v^2) over the rectangle from the origin to (x, y), signed."""
    length = np.hypot(x, y)
    with np.errstate(divide="ignore", invalid="ignore"):
        by_x = np.where(x == 0, 0.0, x**3 * np.arcsinh(y / np.abs(x)))
        by_y = np.where(y == 0, 0.0, y**3 * np.arcsinh(x / np.abs(y)))
    return np.asarray((2 * x * y * length + by_x + by_y) / 6)


def _mean_difference(stack: Array) -> Array:
    """E|X - X'| [cells]."""
    rows, columns = stack.shape[1:]
    shape = _spectrum_size(rows), _spectrum_size(columns)
    weight = _distance_spectrum(rows, columns).copy()
    weight[:, 1 : (shape[1] + 1) // 2] *= 2  # the half of the spectrum that rfft2 leaves out
    power = np.abs(fft.rfft2(stack, s=shape)) ** 2
    return np.asarray(np.einsum("nij,ij->n", power, weight) / (shape[0] * shape[1]))


def _spectrum_size(cells: int) -> int:
    return int(fft.next_fast_len(2 * cells - 1, real=True))


@lru_cache(maxsize=8)
def _distance_spectrum(rows: int, columns: int) -> Array:
    """Spectrum of the mean distance between two cells; real, because the distance is even."""
    shape = _spectrum_size(rows), _spectrum_size(columns)
    near = [np.minimum(np.arange(n), n - np.arange(n)) for n in shape]
    # Offsets that no pair of cells has meet a correlation of zero: any value does.
    table = cell_distances(max(shape) // 2 + 1)[np.ix_(*near)]
    return np.asarray(fft.rfft2(table).real)


@lru_cache(maxsize=8)
def cell_distances(count: int) -> Array:
    """Mean distance between points of two unit squares that lie (row, column) squares apart.

    The difference of two uniform draws has a triangular density, so this is an integral over two
    dimensions: Gauss-Legendre on its four smooth quarters.

    Returns
    -------
    Shape (count, count), in sides of the square; entry (0, 0) is (2 + sqrt(2) + 5 asinh(1)) / 15.
    """
    table = _triangular_mean(np.arange(count), _NODES)
    near = min(count, _NEAR_CELLS)
    table[:near, :near] = _triangular_mean(np.arange(near), _NODES_NEAR)  # the kink at zero
    return table


def _triangular_mean(offsets: NDArray[np.int64], nodes: int) -> Array:
    node, weight = np.polynomial.legendre.leggauss(nodes)
    half = (node + 1) / 2
    shift = np.concatenate([half - 1, half])
    density = np.tile(weight / 2, 2) * (1 - np.abs(shift))
    along = offsets[:, None] + shift
    table = np.zeros((len(offsets), len(offsets)))
    for k, share in enumerate(density):
        squared = along[:, k, None, None] ** 2 + along[None] ** 2
        table += share * (np.sqrt(squared) @ density)
    return table


def _length(vectors: Array) -> Array:
    return np.asarray(np.hypot(vectors[..., 0], vectors[..., 1]))
