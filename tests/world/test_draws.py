"""What is drawn follows its distribution, and from the seed and the name alone."""

import numpy as np
import pytest
from scipy import stats

from ueloc_core.world.draws import CAP, building_draw, capped_normals, height_factor, stream

LEVEL = 1e-3


def test_the_same_name_draws_the_same_and_another_does_not():
    one, again, other = (stream(*names).random() for names in ((1, "a"), (1, "a"), (1, "b")))
    assert one == again != other
    assert stream(2, "a").random() != one


def test_names_are_kept_apart():
    assert stream(1, "site", 12).random() != stream(1, "sector", 12).random()


def test_shifts_have_variance_one_and_end_at_the_cap():
    rng = np.random.default_rng(1)
    values = capped_normals(rng, 20_000)
    assert np.abs(values).max() < CAP * 1.02
    # the variance of a sample mean of squares
    error = np.sqrt(np.var(values**2) / len(values))
    assert abs(np.mean(values**2) - 1) < stats.norm.ppf(1 - LEVEL / 2) * error


@pytest.mark.parametrize("error", [0.02, 0.1, 0.4, 1.0])
def test_a_factor_on_a_height_has_the_error_that_was_asked_for(error):
    """By quadrature over the normal, not by drawing."""
    z, weights = np.polynomial.hermite_e.hermegauss(60)
    squared = (weights / weights.sum()) @ (height_factor(error, z) - 1) ** 2
    assert np.sqrt(squared) == pytest.approx(error, rel=2e-4)


def test_a_factor_is_positive_and_its_median_is_one():
    z = np.linspace(-5, 5, 101)
    assert (height_factor(0.8, z) > 0).all()
    assert height_factor(0.8, 0.0) == 1.0
    assert (height_factor(0.0, z) == 1.0).all()


def test_what_is_drawn_for_buildings_is_independent():
    draws = [building_draw(1, f"way/{number}") for number in range(2000)]
    heights = np.array([draw.height for draw in draws])
    missing = np.array([draw.missing for draw in draws])
    shifts = np.array([draw.shift for draw in draws])
    assert stats.kstest(heights, "norm").pvalue > LEVEL
    assert stats.kstest(missing, "uniform").pvalue > LEVEL
    for other in (missing, *shifts.T):
        assert stats.pearsonr(heights, other).pvalue > LEVEL
