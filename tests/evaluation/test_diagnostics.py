"""Every diagnosis passes the exact posterior and finds out a wide, a narrow and a biased one."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ueloc_core.errors import UelocError
from ueloc_core.evaluation.diagnostics import (
    Calibration,
    calibration_error,
    coverage_curve,
    diagnose_coverage,
    diagnose_energy,
    diagnose_pit,
    diagnose_tarp,
    share_interval,
    verdicts,
)

EXACT, WIDE, NARROW, BIASED = (
    Calibration.CALIBRATED,
    Calibration.CONSERVATIVE,
    Calibration.OVERCONFIDENT,
    Calibration.BIASED,
)
DIAGNOSES = {
    "hpd_level": lambda f: diagnose_coverage(f["hpd_level"]),
    "pit_x": lambda f: diagnose_pit(f["pit_x"]),
    "pit_y": lambda f: diagnose_pit(f["pit_y"]),
    "tarp": lambda f: diagnose_tarp(f["tarp"]),
    "energy_rank": lambda f: diagnose_energy(f["energy_rank"]),
}


@pytest.fixture(scope="module")
def judged(gaussian_world):
    sigma_m = gaussian_world.sigma_m
    return {
        "exact": gaussian_world.judged(),
        "wide": gaussian_world.judged(sigma_m=2 * sigma_m),
        "narrow": gaussian_world.judged(sigma_m=0.5 * sigma_m),
        "biased": gaussian_world.judged(shift_m=sigma_m),
    }


@pytest.mark.parametrize("diagnosis", DIAGNOSES)
@pytest.mark.parametrize(
    ("belief", "verdict"), [("exact", EXACT), ("wide", WIDE), ("narrow", NARROW)]
)
def test_width_is_judged(judged, diagnosis, belief, verdict):
    assert DIAGNOSES[diagnosis](judged[belief]) is verdict


@pytest.mark.parametrize("diagnosis", DIAGNOSES)
def test_bias_is_found(judged, diagnosis):
    verdict = DIAGNOSES[diagnosis](judged["biased"])
    assert verdict is (BIASED if diagnosis.startswith("pit") else NARROW)


@pytest.mark.parametrize("diagnose", [diagnose_coverage, diagnose_pit])
def test_exact_ranks_are_called_otherwise_as_rarely_as_stated(diagnose):
    rng = np.random.default_rng(1)
    called = sum(diagnose(rng.random(200), 0.05) is not EXACT for _ in range(400))
    # Two tests of one transform at half the significance each overlap, so fewer.
    assert called <= stats.binom.isf(0.001, 400, 0.05)


def test_a_shifted_and_an_uneven_transform():
    rng = np.random.default_rng(3)
    assert diagnose_pit(rng.beta(2.0, 1.2, 500)) is BIASED
    assert diagnose_pit(rng.beta(2.0, 2.0, 500)) is WIDE
    assert diagnose_pit(rng.beta(0.5, 0.5, 500)) is NARROW
    assert diagnose_pit(np.full(30, 0.9)) is BIASED
    central = rng.beta(0.4, 0.4, 2000)
    sign = rng.choice([-1, 1], 2000)
    assert diagnose_pit((1 + sign * central) / 2) is Calibration.UNEVEN


def test_scores_are_as_large_as_an_exact_posterior_expects(judged):
    """Given a report the mean score is the sharpness; a ratio tells width without a test."""
    score_m, sharpness_m = (judged["exact"][k] for k in ("energy_score_m", "sharpness_m"))
    error_m = score_m.std() / len(score_m) ** 0.5
    assert abs(score_m.mean() - sharpness_m.mean()) < 3.3 * error_m
    ratio = {k: v["energy_score_m"].mean() / v["sharpness_m"].mean() for k, v in judged.items()}
    assert ratio["wide"] < 0.8
    assert min(ratio["narrow"], ratio["biased"]) > 1.3
    # And the exact posterior has the best score: the score is proper.
    best_m = score_m.mean()
    assert all(v["energy_score_m"].mean() > best_m for k, v in judged.items() if k != "exact")


@pytest.mark.parametrize(
    ("diagnose", "message"),
    [
        (lambda: diagnose_coverage([]), "at least 1 level"),
        (lambda: diagnose_pit([0.2, np.nan]), "no NaN"),
        (lambda: diagnose_tarp([0.2]), "at least 2 levels"),
        (lambda: diagnose_energy([np.nan, 0.3]), "no NaN"),
    ],
)
def test_what_cannot_be_diagnosed_is_an_error(diagnose, message):
    with pytest.raises(UelocError, match=message):
        diagnose()


def test_verdicts_of_a_table(judged):
    table = pd.concat(
        [pd.DataFrame(columns).assign(method=method) for method, columns in judged.items()]
        + [pd.DataFrame({"method": "knn", "hpd_level": np.nan}, index=range(5))],
        ignore_index=True,
    )
    table.loc[table.index[:7], "pit_x"] = np.nan  # truths outside of their window
    found = verdicts(table).set_index(["method", "diagnosis"])
    assert set(found.index.get_level_values(0)) == set(judged)
    assert found.loc[("exact", "pit_x"), "n"] == 593
    for name, diagnose in DIAGNOSES.items():
        assert found.loc[("narrow", name), "verdict"] == diagnose(judged["narrow"])
    assert verdicts(table[["method", "hpd_level"]])["diagnosis"].eq("hpd_level").all()


def test_expected_coverage_of_a_narrow_posterior_is_steep_at_the_ends(judged):
    """Its balls hold all or nothing; those of a wide one hold about half of it."""
    curves = {k: coverage_curve(v["tarp"]).set_index("nominal") for k, v in judged.items()}
    for level, narrow_is_above in ((0.2, True), (0.8, False)):
        narrow, wide = (curves[k].loc[level, "empirical"] for k in ("narrow", "wide"))
        assert (narrow > level > wide) == narrow_is_above
        assert (narrow < level < wide) != narrow_is_above


class TestCalibrationError:
    def test_of_even_levels_is_nothing(self):
        assert calibration_error((np.arange(1000) + 0.5) / 1000) == pytest.approx(0.0, abs=1e-3)

    def test_is_the_largest_distance(self):
        assert calibration_error(np.zeros(10)) == pytest.approx(0.95)
        assert calibration_error(np.ones(10)) == pytest.approx(0.95)
        levels = np.random.default_rng(0).random(50) ** 2
        curve = coverage_curve(levels)
        expected = (curve["empirical"] - curve["nominal"]).abs().max()
        assert calibration_error(levels) == pytest.approx(expected)
        assert calibration_error(np.stack([levels, np.zeros(50)])) == pytest.approx(
            [expected, 0.95]
        )

    def test_of_exact_posteriors_falls_as_stated(self):
        levels = np.random.default_rng(1).random((300, 400))
        assert calibration_error(levels).mean() * 400**0.5 == pytest.approx(0.8, abs=0.1)

    def test_of_no_density_is_nan(self):
        assert np.isnan(calibration_error([0.1, np.nan]))


def test_interval_of_a_share_is_the_exact_binomial_one():
    for hits, n in ((0, 20), (3, 20), (20, 20), (450, 500)):
        low, high = share_interval(hits / n, n)
        exact = stats.binomtest(hits, n).proportion_ci(method="exact")
        assert (low, high) == pytest.approx((exact.low, exact.high))


def test_interval_of_a_share_holds_it_as_often_as_stated():
    rng = np.random.default_rng(4)
    found = rng.binomial(60, 0.9, 2000) / 60
    low, high = share_interval(found, 60, 0.9)
    assert ((low <= 0.9) & (high >= 0.9)).mean() >= 0.9
