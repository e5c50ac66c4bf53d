"""Is the stated uncertainty true? Verdicts on many posteriors, each at a stated significance.

Every diagnosis must pass an exact posterior, call one that is too wide conservative and one that
is too narrow overconfident (the pattern of LAMPE's coverage test). None is sufficient alone:
each orders the places of the posterior in its own way, and a fault that another order shows may
leave it uniform.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from ueloc_core.errors import UelocError

Array = NDArray[np.float64]

NOMINAL_LEVELS: tuple[float, ...] = tuple(round(0.05 * i, 2) for i in range(1, 20))
SIGNIFICANCE = 0.01
"""Probability with which a diagnosis calls exact posteriors anything but calibrated."""


class Calibration(StrEnum):
    """What ranks or scores say about a method's posteriors."""

    CALIBRATED = "calibrated"
    CONSERVATIVE = "conservative"
    OVERCONFIDENT = "overconfident"
    UNEVEN = "uneven"
    BIASED = "biased"


def diagnose_coverage(levels: Any, significance: float = SIGNIFICANCE) -> Calibration:
    """Judge whether the levels of `ueloc_core.evaluation.ranks.hpd_level` are uniform.

    A Kolmogorov-Smirnov test decides whether they are; if not, their mean tells whether the
    regions are too large (conservative) or too small (overconfident). ``uneven`` means neither:
    too small at some levels and too large at others. A bias moves the truth out of the regions,
    so it shows as overconfident.

    Raises
    ------
    UelocError
        If there is no level or one is NaN.
    """
    values = _finite(levels)
    if stats.kstest(values, "uniform").pvalue >= significance:
        return Calibration.CALIBRATED
    return _by_width(values, significance)


def diagnose_pit(transforms: Any, significance: float = SIGNIFICANCE) -> Calibration:
    """Judge whether the transforms of one coordinate (`ranks.pit`) are uniform.

    They crowd in the middle where posteriors are too wide, and at both ends where they are too
    narrow. Two Kolmogorov-Smirnov tests decide, each at half the significance: of the transforms
    p, and of |2 p - 1|, the level of the central interval that reaches the truth, because
    crowding barely moves the distribution of p itself. If one of them fails, a shifted mean of p
    (t-test) is called ``biased``, and else the mean of |2 p - 1| tells the width.

    Raises
    ------
    UelocError
        If there are fewer than two transforms or one is NaN (a truth outside of its window).
    """
    values = _finite(transforms, fewest=2)
    central = np.abs(2 * values - 1)
    tests = (stats.kstest(values, "uniform"), stats.kstest(central, "uniform"))
    if min(test.pvalue for test in tests) >= significance / 2:
        return Calibration.CALIBRATED
    if np.ptp(values) == 0 or stats.ttest_1samp(values, 0.5).pvalue < significance / 2:
        return Calibration.BIASED
    return _by_width(central, significance)


def diagnose_tarp(ranks: Any, significance: float = SIGNIFICANCE) -> Calibration:
    """Judge whether the ranks of `ranks.tarp_rank` are uniform, as `diagnose_pit` does.

    A rank is the transform of the distance to the reference point. A bias shows as overconfident
    where reference points lie on all sides, and as biased where they lie on one.

    Raises
    ------
    UelocError
        If there are fewer than two ranks or one is NaN.
    """
    return diagnose_pit(ranks, significance)


def diagnose_energy(ranks: Any, significance: float = SIGNIFICANCE) -> Calibration:
    """Judge whether the ranks of `ranks.energy_rank` are uniform, as `diagnose_coverage` does.

    A test of the energy scores themselves, against the mean that the posteriors expect, would
    not hold its significance: a distant mode of small mass makes them heavy-tailed.

    Raises
    ------
    UelocError
        If there is no rank or one is NaN.
    """
    return diagnose_coverage(ranks, significance)


def verdicts(fixes: pd.DataFrame, significance: float = SIGNIFICANCE) -> pd.DataFrame:
    """Every diagnosis that the columns of a table of fixes allow, for methods with a density.

    Returns
    -------
    One row per method and diagnosis: method, diagnosis (``hpd_level``, ``pit_x``, ``pit_y``,
    ``tarp``, ``energy_rank``), n and verdict. Transforms of truths outside of their window are left
    out. Each test stands at the stated significance by itself.
    """
    by_column = {
        "hpd_level": diagnose_coverage,
        "pit_x": diagnose_pit,
        "pit_y": diagnose_pit,
        "tarp": diagnose_tarp,
        "energy_rank": diagnose_energy,
    }
    rows = []
    for method, own in fixes.groupby("method", sort=False):
        for column, diagnose in by_column.items():
            values = own[column].dropna() if column in own else own.index[:0]
            if len(values) > 1:
                rows.append((method, column, len(values), diagnose(values, significance)))
    return pd.DataFrame(rows, columns=["method", "diagnosis", "n", "verdict"])


def coverage_curve(
    levels: Any, nominal: Sequence[float] = NOMINAL_LEVELS, *, confidence: float = 0.95
) -> pd.DataFrame:
    """Nominal against empirical coverage.

    Parameters
    ----------
    levels
        Ranks, one per fix: of `ranks.hpd_level`, or of `ranks.tarp_rank` for the expected
        coverage of TARP.
    nominal
        Levels to look at.
    confidence
        Of the binomial band in which a calibrated method stays at each level.

    Returns
    -------
    One row per level: nominal, empirical, low, high (the band around the nominal level).
    """
    values = _finite(levels)
    q = np.asarray(nominal)
    low, high = stats.binom.interval(confidence, len(values), q)
    return pd.DataFrame(
        {
            "nominal": q,
            "empirical": (values[:, None] <= q).mean(axis=0),
            "low": low / len(values),
            "high": high / len(values),
        }
    )


def calibration_error(levels: Any, nominal: Sequence[float] = NOMINAL_LEVELS) -> Any:
    """Largest distance between nominal and empirical coverage over the nominal levels.

    Parameters
    ----------
    levels
        Ranks of `ranks.hpd_level`, shape (..., n); NaN gives NaN. Exact posteriors have about
        0.8 / sqrt(n), not zero.
    nominal
        Levels to look at.
    """
    values = np.asarray(levels, dtype=np.float64)
    far = [np.abs((values <= q).mean(axis=-1) - q) for q in nominal]
    return np.where(np.isnan(values).any(axis=-1), np.nan, np.max(far, axis=0))[()]


def share_interval(share: Any, n: Any, confidence: float = 0.95) -> tuple[Array, Array]:
    """Exact interval of a probability, given the share found in n independent trials.

    Clopper and Pearson 1934, "The use of confidence or fiducial limits illustrated in the case of
    the binomial", Biometrika 26: never shorter than its confidence.
    """
    trials = np.asarray(n, dtype=np.float64)
    hits = np.round(np.asarray(share, dtype=np.float64) * trials)
    tail = (1 - confidence) / 2
    with np.errstate(invalid="ignore"):
        low = np.where(hits == 0, 0.0, stats.beta.ppf(tail, hits, trials - hits + 1))
        high = np.where(hits == trials, 1.0, stats.beta.isf(tail, hits + 1, trials - hits))
    return low, high


def _by_width(levels: Array, significance: float) -> Calibration:
    z = (levels.mean() - 0.5) * np.sqrt(12 * len(levels))
    if abs(z) < stats.norm.isf(significance / 2):
        return Calibration.UNEVEN
    return Calibration.OVERCONFIDENT if z > 0 else Calibration.CONSERVATIVE


def _finite(numbers: Any, fewest: int = 1) -> Array:
    values = np.asarray(numbers, dtype=np.float64)
    if values.size < fewest or not np.isfinite(values).all():
        raise UelocError(
            f"coverage needs at least {fewest} level{'s' * (fewest > 1)} and no NaN",
            remedy="Leave out the methods that have no density.",
        )
    return values
