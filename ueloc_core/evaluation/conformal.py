"""Conformal regions: levels that hold on new reports, whatever is wrong with the posteriors.

The level of highest density at which a region reaches the truth is uniform where posteriors are
exact. Its quantiles over held-back reports give regions of a stated coverage (split conformal:
Vovk, Gammerman and Shafer 2005, "Algorithmic Learning in a Random World", section 4.3) on
reports that are exchangeable with those. Test areas are not: their mix of easy and hard reports
is another. So the level of each report is first bent by what its features predict (conformal
scores normalised by difficulty: Papadopoulos, Vovk and Gammerman 2011, "Regression conformal
prediction with nearest neighbours", J. Artif. Intell. Res. 40), and one curve of levels is
taken for all.

On made-up posteriors whose misfit is linear in a feature, with 1,600 calibration reports and an
easier mix of test reports (40 draws), 90% regions held 0.902 (standard deviation 0.010) and were
off by 0.02 in the worst stratum. With one level for all they held 0.94 to 0.95 and were off by
0.08. Two alternatives were tried. Levels by group of reports (Mondrian: sectors heard by entropy,
150 reports at least) held 0.907 to 0.918 and were off by 0.04 to 0.07, because the mix changes
within groups too. Levels weighted by the likelihood ratio of the two sets of features (Tibshirani
and others 2019, "Conformal prediction under covariate shift") held 0.90 on the whole but were off
by 0.08 to 0.09 in the worst stratum, and need the reports of an area before its first can be
located. Where misfit jumps at both ends of a feature groups are better: off by 0.03, here 0.05.
None corrects what features do not tell: with a misfit that they show in part, this held 0.92.
"""

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

from ueloc_core.errors import ReportError
from ueloc_core.localization.calibrated import (
    BEND_TERMS,
    FEATURES,
    Calibration,
    bend_terms,
    bent,
)

Array = NDArray[np.float64]

FOLDS = 5
_SHAPE = 4.0  # of the gamma that a bend varies by between reports of equal features
_PRIOR_SD = 0.3  # of each slope of the bend's logarithm
_EDGE = 1e-9
_PAYS_SE = 1.0


def conformal_levels(raw: Array, levels: tuple[float, ...]) -> tuple[float, ...]:
    """Posterior mass whose region holds the truth with at least each nominal probability.

    Split conformal: the ceil((n + 1) q)-th smallest level of n held-back reports.
    """
    ordered = np.sort(raw)
    ranks = [min(math.ceil((len(raw) + 1) * level), len(raw)) for level in levels]
    return tuple(float(np.clip(ordered[rank - 1], 1e-6, 1 - 1e-6)) for rank in ranks)


def conform(
    calibration: Calibration,
    features: Array,
    raw: Array,
    track: NDArray[np.int64],
    rng: np.random.Generator,
    levels: tuple[float, ...],
) -> tuple[Calibration, Array]:
    """Fit the bend and the curve of levels on held-back reports.

    Cross-conformal (Vovk 2015, "Cross-conformal predictors", Ann. Math. Artif. Intell. 74): the
    level of each report is unbent by slopes that are fitted to other tracks. There are slopes only
    where they predict other tracks better than none, and for curved terms only where these do
    better than the features alone. Without slopes this is split conformal.

    Parameters
    ----------
    calibration
        Scales and the features' centres, fitted on other reports.
    features
        Shape (report, feature).
    raw
        Levels of highest density at the truths under `calibration`'s scales, shape (report,).
    track
        Track of each report, shape (report,).
    rng
        Draws the folds.
    levels
        Nominal levels of the curve.

    Returns
    -------
    The whole calibration, and the nominal level at each truth, shape (report,), under slopes and
    levels that other tracks gave: what to judge coverage by.
    """
    terms = bend_terms(calibration.standardised(torch.from_numpy(features))).numpy()
    fold = folds_by_track(track, rng)
    count, scores, surprise = 0, *_on_other_tracks(terms[:, :0], raw, fold)
    for richer in (len(FEATURES), BEND_TERMS):
        unbent, own = _on_other_tracks(terms[:, :richer], raw, fold)
        if pays(surprise - own, track):
            count, scores, surprise = richer, unbent, own
    slopes = fit_bend(terms[:, :count], raw)[1:]
    nominal = levels_by_others(scores, fold, levels)
    return (
        replace(
            calibration,
            levels=levels,
            adjusted=conformal_levels(scores, levels),
            bend_slopes=tuple(float(v) for v in slopes),
        ),
        nominal,
    )


def levels_by_others(scores: Array, fold: NDArray[np.int64], levels: tuple[float, ...]) -> Array:
    """Nominal level of each score on the curve that the other folds give, shape (report,)."""
    nominal = np.empty(len(scores))
    for k in range(FOLDS):
        own = fold == k
        adjusted = conformal_levels(scores[~own], levels)
        nominal[own] = np.interp(scores[own], [0.0, *adjusted, 1.0], [0.0, *levels, 1.0])
    return nominal


def fit_bend(terms: Array, raw: Array) -> Array:
    """Intercept and slopes of the bend's logarithm, shape (1 + term,).

    -log(1 - level) is exponential with mean one where posteriors are exact. Here its mean is the
    bend, times a gamma variable that stands for what features do not tell, so a few reports far
    out have little pull: a Lomax distribution, maximised with a normal prior on the slopes.
    """

    def loss(found: Array) -> tuple[float, Array]:
        surprise, pull = _surprise(found, terms, raw)
        slopes = found[1:]
        gradient = np.concatenate([[pull.sum()], terms.T @ pull + slopes / _PRIOR_SD**2])
        return float(surprise.sum() + (slopes**2).sum() / (2 * _PRIOR_SD**2)), gradient

    return np.asarray(minimize(loss, np.zeros(1 + terms.shape[1]), jac=True, method="L-BFGS-B").x)


def folds_by_track(track: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Fold 0..`FOLDS` - 1 of each report, whole tracks in one, shape (report,).

    Raises
    ------
    ReportError
        If there are fewer tracks than folds.
    """
    own, index = np.unique(track, return_inverse=True)
    if len(own) < FOLDS:
        raise ReportError(
            f"{len(own)} calibration tracks cannot be divided into {FOLDS} parts",
            where="splits.calibration",
            remedy="Name more tiles.",
        )
    return np.asarray((rng.permutation(len(own)) % FOLDS)[index])


def pays(gain: Array, track: NDArray[np.int64]) -> bool:
    """Whether a gain [nats] on reports that a fit has not seen is more than its standard error.

    Tracks are independent, their reports are not.
    """
    _, index = np.unique(track, return_inverse=True)
    by_track = np.bincount(index, weights=gain)
    return bool(by_track.sum() > _PAYS_SE * by_track.std() * math.sqrt(len(by_track)))


def _on_other_tracks(terms: Array, raw: Array, fold: NDArray[np.int64]) -> tuple[Array, Array]:
    """Unbent level and surprise [nats] of each report under the fit to the other folds."""
    scores, surprise = np.empty(len(raw)), np.empty(len(raw))
    for k in range(FOLDS):
        out = fold == k
        found = fit_bend(terms[~out], raw[~out])
        surprise[out] = _surprise(found, terms[out], raw[out])[0]
        scores[out] = bent(raw[out], np.exp(-terms[out] @ found[1:]))
    return scores, surprise


def _surprise(found: Array, terms: Array, raw: Array) -> tuple[Array, Array]:
    """Negative log-likelihood of each level [nats] up to a constant, and its derivative."""
    log_bend = found[0] + terms @ found[1:]
    ratio = -np.log1p(-np.clip(raw, 0.0, 1 - _EDGE)) * np.exp(-log_bend)
    surprise = log_bend + (_SHAPE + 1) * np.log1p(ratio / _SHAPE)
    return surprise, 1 - (_SHAPE + 1) * ratio / (_SHAPE + ratio)
