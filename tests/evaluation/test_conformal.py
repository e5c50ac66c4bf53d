"""Conformal levels hold on exchangeable reports, and on another mix of easy and hard ones."""

import numpy as np
import pytest
import torch
from scipy import stats

from ueloc_core.errors import ReportError
from ueloc_core.evaluation.conformal import (
    FOLDS,
    conform,
    conformal_levels,
    fit_bend,
    folds_by_track,
    levels_by_others,
    pays,
)
from ueloc_core.localization.calibrated import BEND_TERMS, FEATURES, Calibration

LEVELS = (0.1, 0.5, 0.9, 0.95)
HEARD, ENTROPY, SIGHT = (FEATURES.index(n) for n in ("heard", "entropy_nats", "line_of_sight"))


@pytest.mark.parametrize("count", [60, 400])
@pytest.mark.parametrize("skew", [0.5, 1.0, 3.0], ids=["conservative", "exact", "overconfident"])
def test_conformal_levels_cover_exchangeable_data(count, skew):
    """Whatever the posterior's fault, new reports fall inside as often as promised."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        held_back, new = rng.uniform(size=(2, count)) ** (1 / skew)
        adjusted = np.array(conformal_levels(held_back, LEVELS))
        covered.append((new[:, None] <= adjusted).mean(axis=0))
    mean = np.mean(covered, axis=0)
    tolerance = 4 * np.std(covered, axis=0) / 20
    assert (mean > np.array(LEVELS) - tolerance).all()
    assert (mean < np.array(LEVELS) + 1 / (count + 1) + tolerance).all()


def test_conformal_levels_are_order_statistics():
    raw = np.random.default_rng(1).permutation(np.arange(1, 20) / 20)  # 19 reports
    assert conformal_levels(raw, (0.05, 0.5, 0.95)) == pytest.approx((0.05, 0.5, 0.95))
    assert conformal_levels(raw, (0.91,)) == pytest.approx((0.95,))
    assert conformal_levels(raw, (0.999,)) == pytest.approx((0.95,))  # no rank beyond the last


def test_exact_levels_need_no_adjustment():
    raw = np.random.default_rng(2).uniform(size=20_000)
    assert conformal_levels(raw, LEVELS) == pytest.approx(LEVELS, abs=0.012)


def test_adjusted_levels_rise_and_stay_inside():
    raw = np.array([0.0] * 30 + [1.0] * 30)
    adjusted = conformal_levels(raw, LEVELS)
    assert list(adjusted) == sorted(adjusted)
    assert 0 < adjusted[0] < adjusted[-1] < 1


# -- posteriors that are made up ----------------------------------------------------------


def made_up(rng, count, ease, misfit, per_track=1):
    """Features and levels of Gaussian posteriors whose width is off by exp(misfit(features)).

    `ease` moves all features towards open ground: more sectors, less entropy, more sight.
    """
    tracks = count // per_track
    latent = rng.normal(ease, 1, tracks).repeat(per_track) + 0.3 * rng.normal(size=count)
    features = rng.normal(size=(count, len(FEATURES)))
    heard = np.clip(np.round(3.5 + 1.5 * latent + 0.7 * rng.normal(size=count)), 1, 8)
    sight = 1 / (1 + np.exp(-(0.8 * latent + rng.normal(size=count))))
    features[:, HEARD], features[:, SIGHT] = heard, sight
    features[:, ENTROPY] = 8 - 0.35 * heard - 0.8 * sight + 0.5 * rng.normal(size=count)
    luck = 0.15 * rng.normal(size=tracks).repeat(per_track)
    log_width = 0.15 + misfit(features) + luck
    far = np.where(rng.uniform(size=count) < 0.04, 9.0, 1.0)  # a few in a mode that was missed
    level = -np.expm1(-rng.exponential(size=count) * np.exp(2 * log_width) * far)
    return features, np.clip(level, 0, 1 - 1e-12), np.arange(tracks).repeat(per_track)


def no_misfit(features):
    return 0.0 * features[:, HEARD]


MISFITS = {
    "heard": lambda f: -0.13 * (f[:, HEARD] - 3.5),
    "entropy": lambda f: 0.3 * (f[:, ENTROPY] - 6.5),
    "sight": lambda f: -1.0 * (f[:, SIGHT] - 0.5),
    "both ends": lambda f: 0.35 * ((f[:, HEARD] <= 1) | (f[:, ENTROPY] < 5.6)),
}


def conformed(rng, count, ease, misfit, per_track=1):
    features, raw, track = made_up(rng, count, ease, misfit, per_track)
    start = Calibration(centre=tuple(features.mean(axis=0)), spread=tuple(features.std(axis=0)))
    calibration, nominal = conform(start, features, raw, track, rng, LEVELS)
    return calibration, nominal, raw


def coverage90(calibration, features, raw):
    return calibration.of(torch.from_numpy(features)).nominal_level(raw) <= 0.9


@pytest.mark.parametrize("misfit", [no_misfit, *MISFITS.values()], ids=["none", *MISFITS])
def test_exchangeable_reports_are_covered(misfit):
    """Mean over 20 draws of 600 calibration reports, within four standard errors."""
    covered = []
    for seed in range(20):
        rng = np.random.default_rng([seed, 1])
        calibration, _, _ = conformed(rng, 600, 0.0, misfit)
        features, raw, _ = made_up(rng, 2000, 0.0, misfit)
        covered.append(coverage90(calibration, features, raw).mean())
    spread = np.sqrt(0.09 / 600 + 0.09 / 2000)  # binomial, of both draws
    assert abs(np.mean(covered) - 0.9) < 4 * spread / np.sqrt(20)
    assert np.abs(np.array(covered) - 0.9).max() < 5 * spread


@pytest.mark.parametrize("name", ["heard", "entropy", "sight"])
def test_another_mix_of_difficulties_is_covered_where_one_level_misses(name):
    """Calibration reports are harder than test reports: 0.89 to 0.91, and 0.03 in strata."""
    ours, one_level, strata = [], [], []
    for seed in range(12):
        rng = np.random.default_rng([seed, 2])
        calibration, _, held = conformed(rng, 1600, -0.6, MISFITS[name])
        features, raw, _ = made_up(rng, 4000, 0.6, MISFITS[name])
        hit = coverage90(calibration, features, raw)
        ours.append(hit.mean())
        one_level.append((raw <= conformal_levels(held, (0.9,))[0]).mean())
        heard, sight = features[:, HEARD], features[:, SIGHT]
        parts = [heard <= 3, (heard > 3) & (heard < 7), heard >= 7, sight > 0.5, sight <= 0.5]
        assert all(part.sum() > 300 for part in parts)
        strata.append([hit[part].mean() for part in parts])
    assert np.mean(ours) == pytest.approx(0.9, abs=0.01)
    assert np.abs(np.mean(strata, axis=0) - 0.9).max() < 0.03
    assert np.mean(one_level) > 0.93


def test_a_misfit_at_both_ends_is_seen():
    """Curved terms halve what one level leaves in the reports that hear one sector."""
    ours, one_level = [], []
    for seed in range(8):
        rng = np.random.default_rng([seed, 3])
        calibration, _, held = conformed(rng, 1600, -0.6, MISFITS["both ends"])
        assert len(calibration.bend_slopes) == BEND_TERMS
        features, raw, _ = made_up(rng, 4000, 0.6, MISFITS["both ends"])
        alone = (features[:, HEARD] <= 1) | (features[:, ENTROPY] < 5)
        ours.append(coverage90(calibration, features, raw)[alone].mean())
        one_level.append((raw[alone] <= conformal_levels(held, (0.9,))[0]).mean())
    assert np.mean(one_level) < 0.86
    assert abs(np.mean(ours) - 0.9) < abs(np.mean(one_level) - 0.9) / 2


def test_features_that_do_not_matter_leave_split_conformal():
    """In at least 18 of 20 draws, and then exactly."""
    kept = 0
    for seed in range(20):
        rng = np.random.default_rng([seed, 4])
        calibration, _, raw = conformed(rng, 600, 0.0, no_misfit, per_track=2)
        if not calibration.bend_slopes:
            kept += 1
            assert calibration.adjusted == conformal_levels(raw, LEVELS)
            regions = calibration.of(torch.randn(5, len(FEATURES))).region_level(0.9)
            np.testing.assert_array_equal(regions, calibration.adjusted[2])
    assert kept >= 18


def test_nominal_levels_by_other_tracks_are_uniform():
    """By a Kolmogorov-Smirnov test at 1% on the levels that the curve tells apart."""
    rng = np.random.default_rng(5)
    fine = tuple(np.round(np.arange(0.02, 1, 0.02), 2))
    features, raw, track = made_up(rng, 2000, 0.0, MISFITS["heard"])
    start = Calibration(centre=tuple(features.mean(axis=0)), spread=tuple(features.std(axis=0)))
    _, nominal = conform(start, features, raw, track, rng, fine)
    assert stats.kstest(nominal, "uniform").pvalue > 0.01
    assert stats.kstest(raw, "uniform").pvalue < 1e-6
    few = features[:, HEARD] <= 2
    assert abs((nominal[few] <= 0.9).mean() - 0.9) < 0.03
    assert abs((raw[few] <= 0.9).mean() - 0.9) > 0.1


# -- the fit ------------------------------------------------------------------------------


def test_slopes_are_found():
    """Levels from the fitted distribution itself: the slopes within four standard errors."""
    rng = np.random.default_rng(6)
    terms = rng.normal(size=(8000, 3))
    slopes = np.array([0.4, 0.0, -0.2])
    varied = stats.invgamma(4.0, scale=4.0).rvs(8000, random_state=rng)
    bend = np.exp(0.3 + terms @ slopes) * varied
    level = -np.expm1(-rng.exponential(size=8000) * bend)
    found = fit_bend(terms, level)
    error = np.sqrt((4.0 + 2) / 4.0 / 8000)  # Fisher information of a Lomax scale: a / (a + 2)
    assert np.abs(found - [0.3, *slopes]).max() < 4 * error


def test_levels_of_zero_and_one_do_not_break_the_fit():
    rng = np.random.default_rng(7)
    level = rng.uniform(size=200)
    level[:3], level[3:6] = 0.0, 1.0
    found = fit_bend(rng.normal(size=(200, 2)), level)
    assert np.isfinite(found).all()
    assert np.abs(found[1:]).max() < 0.5


def test_no_report_is_judged_by_its_own_track():
    """Levels that are the same within tracks, and another fold's curve for each."""
    rng = np.random.default_rng(8)
    track = np.arange(50).repeat(4)
    fold = folds_by_track(track, rng)
    assert all(len(set(fold[track == t])) == 1 for t in range(50))
    assert np.ptp(np.bincount(fold, minlength=FOLDS)) == 0
    scores = np.where(fold == 0, 0.9, 0.1)
    nominal = levels_by_others(scores, fold, (0.5,))
    assert (nominal[fold == 0] > 0.9).all()  # all others lie below
    with pytest.raises(ReportError, match="tracks"):
        folds_by_track(np.arange(FOLDS - 1), rng)


def test_a_gain_must_exceed_its_error_by_track():
    """Copies of a report in its track do not make a gain surer."""
    rng = np.random.default_rng(9)
    gain = rng.normal(0.05, 1, 200)
    by_track = gain.mean() / gain.std() * np.sqrt(200)
    assert pays(gain, np.arange(200)) == (by_track > 1)
    assert pays(gain.repeat(50), np.arange(200).repeat(50)) == (by_track > 1)
    assert not pays(np.zeros(10), np.arange(10))
    assert pays(np.ones(10), np.arange(10))
