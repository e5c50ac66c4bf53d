"""Where the truth ranks in a posterior: numbers that are uniform when the posterior is exact.

Each function orders the places of a posterior in its own way, and gives the share of the
posterior that comes before the truth: by falling density (`hpd_level`), along a coordinate
(`pit`), by the distance to a reference point (`tarp_rank`), or by the distance to the rest of the
posterior (`energy_rank`). A diagnosis of many such ranks is
in `ueloc_core.evaluation.diagnostics`.

A posterior is a raster of masses over a window, or a set of samples. On a grid the mass of the
truth's own cell would make a rank too coarse, so it is randomised within that cell.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ueloc_core.errors import UelocError
from ueloc_core.evaluation.scores import expected_distance_cells

Array = NDArray[np.float64]
Masses = NDArray[np.floating[Any]]


def hpd_level(mass: Masses, row: Any, column: Any, u: Any) -> Any:
    """Smallest share of the posterior whose region of highest density reaches the truth.

    It is uniform over [0, 1) when the posterior is exact. The rank within the truth's own cell
    (and within all cells that are exactly as dense) is randomised.

    Parameters
    ----------
    mass
        Posterior mass per grid cell, shape (..., rows, columns). What it lacks to one lies
        outside of the window and counts as the least dense place.
    row, column
        Grid cell of the truth, of the leading shape; may lie outside of the window.
    u
        Uniform random numbers in [0, 1), of the leading shape.

    Returns
    -------
    The level, of the leading shape (a float for a single raster).
    """
    flat = np.asarray(mass, dtype=np.float64).reshape(*np.shape(mass)[:-2], -1)
    rows, columns = np.shape(mass)[-2:]
    row, column, inside = _cell(row, column, rows, columns)
    own = np.take_along_axis(flat, (row * columns + column)[..., None], axis=-1)
    return _rank(flat, flat > own, flat == own, inside, u)


def tarp_rank(
    mass: Masses, row: Any, column: Any, u: Any, *, reference_cells: NDArray[np.floating[Any]]
) -> Any:
    """Share of the posterior that lies nearer to a reference point than the truth.

    The expected coverage test of Lemos, Coogan, Hezaveh and Perreault-Levasseur 2023, "Sampling-
    based accuracy testing of posterior estimators for general inference" (TARP, algorithm 2), on
    a grid: cells are ordered by the distance of their centres, and what lies outside of the
    window comes last.

    Parameters
    ----------
    mass, row, column, u
        As for `hpd_level`.
    reference_cells
        Reference points (x, y) in grid cells from the window's lower-left corner, shape
        (..., 2). They may depend on the report, never on the truth: see `tarp_references`.

    Returns
    -------
    The rank, of the leading shape (a float for a single raster).
    """
    rows, columns = np.shape(mass)[-2:]
    reference = np.asarray(reference_cells, dtype=np.float64)
    along_x = (np.arange(columns) + 0.5 - reference[..., 0, None]) ** 2
    along_y = (np.arange(rows) + 0.5 - reference[..., 1, None]) ** 2
    squared = along_y[..., :, None] + along_x[..., None, :]
    squared = squared.reshape(*squared.shape[:-2], -1)
    row, column, inside = _cell(row, column, rows, columns)
    own = np.take_along_axis(squared, (row * columns + column)[..., None], axis=-1)
    flat = np.asarray(mass, dtype=np.float64).reshape(*np.shape(mass)[:-2], -1)
    return _rank(flat, squared < own, squared == own, inside, u)


def tarp_references(count: int, rows: int, columns: int, seed: int) -> Array:
    """Seeded reference points for `tarp_rank`, uniform over the window, shape (count, 2)."""
    return np.random.default_rng(seed).random((count, 2)) * (columns, rows)


def energy_rank(mass: Masses, row: Any, column: Any, u: Any) -> Any:
    """Share of the posterior that is more central than the truth.

    Cells are ordered by their mean distance to a draw from the posterior, E|X - y|, which is the
    part of the energy score that depends on the truth; what lies outside of the window comes
    last. So it tells whether energy scores are as small as the posterior says, and unlike their
    mean it has a known distribution: uniform when the posterior is exact. It differs from
    `hpd_level` where a posterior has several modes: a place between them is central.

    Parameters
    ----------
    mass, row, column, u
        As for `hpd_level`.

    Returns
    -------
    The rank, of the leading shape (a float for a single raster).
    """
    flat = np.asarray(mass, dtype=np.float64).reshape(*np.shape(mass)[:-2], -1)
    rows, columns = np.shape(mass)[-2:]
    distance = expected_distance_cells(mass).reshape(flat.shape)
    row, column, inside = _cell(row, column, rows, columns)
    own = np.take_along_axis(distance, (row * columns + column)[..., None], axis=-1)
    return _rank(flat, distance < own, distance == own, inside, u)


def pit(mass: Masses, row: Any, column: Any, u: Any) -> tuple[Any, Any]:
    """Probability integral transform of each coordinate: the marginal distribution at the truth.

    The posterior is taken given that the terminal stands in the window, because mass outside of
    it has no side. The transform is randomised within the truth's column or row of cells.

    Parameters
    ----------
    mass, row, column
        As for `hpd_level`.
    u
        Uniform random numbers in [0, 1) for x and y, shape (..., 2).

    Returns
    -------
    The transforms of x and y, each of the leading shape; NaN where the truth lies outside.

    Raises
    ------
    UelocError
        If a window that the truth lies in holds no mass.
    """
    cells = np.asarray(mass, dtype=np.float64)
    held = cells.sum(axis=(-2, -1))
    row, column, inside = _cell(row, column, *cells.shape[-2:])
    if (inside & ~(held > 0)).any():
        raise UelocError(
            "a window with a terminal in it holds no mass",
            remedy="Give the posterior a mass for every place a terminal can stand.",
        )
    draws = np.asarray(u)
    found = []
    for index, axis, draw in ((column, -2, draws[..., 0]), (row, -1, draws[..., 1])):
        marginal = cells.sum(axis=axis)
        own = np.take_along_axis(marginal, index[..., None], axis=-1)[..., 0]
        before = np.where(np.arange(marginal.shape[-1]) < index[..., None], marginal, 0.0)
        share = (before.sum(axis=-1) + draw * own) / np.where(held > 0, held, np.nan)
        found.append(np.where(inside, np.clip(share, 0.0, 1.0), np.nan)[()])
    return found[0], found[1]


def rank_among(samples: Any, own: Any, u: Any) -> Any:
    """Randomised rank of a number among samples: uniform when it is drawn like them.

    With the samples of a posterior it is the level of highest density (numbers: minus the
    density), the transform of a coordinate (the coordinate), the rank of TARP (the distance to a
    reference point) or that of the energy (the mean distance to the samples).

    Parameters
    ----------
    samples
        Numbers, shape (..., sample).
    own
        The truth's number, of the leading shape.
    u
        Uniform random numbers in [0, 1), of the leading shape.

    Returns
    -------
    The rank in [0, 1), of the leading shape.
    """
    numbers = np.asarray(samples)
    value = np.asarray(own)[..., None]
    below = (numbers < value).sum(axis=-1)
    tied = (numbers == value).sum(axis=-1) + 1
    return ((below + u * tied) / (numbers.shape[-1] + 1))[()]


def _cell(
    row: Any, column: Any, rows: int, columns: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Row and column, 0 where the cell lies outside of the window, and whether it is inside."""
    row, column = np.asarray(row), np.asarray(column)
    inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    return np.where(inside, row, 0), np.where(inside, column, 0), np.asarray(inside)


def _rank(flat: Array, before: Any, tied: Any, inside: Any, u: Any) -> Any:
    """Mass before the truth and a random share of what ties with it; outside comes last."""
    held = flat.sum(axis=-1)
    first = np.where(before, flat, 0.0).sum(axis=-1)
    level = np.where(
        inside,
        first + u * np.where(tied, flat, 0.0).sum(axis=-1),
        held + u * (1.0 - held),
    )
    return np.clip(level, 0.0, 1.0)[()]
