"""Simulation-based calibration: the exact grid posterior of what the model itself draws.

The rank of the true place is uniform when likelihood and simulation are one model, and is not
when they differ.
"""

from functools import lru_cache

import numpy as np
import pytest
import torch
from made_up_world import draw_apart, population, quarter_atlas
from scipy import stats

from ueloc_core.evaluation.diagnostics import Calibration, diagnose_coverage
from ueloc_core.evaluation.ranks import hpd_level
from ueloc_core.measurement.level_tables import log_prob_over

LEVEL = 1e-3
REPORTS, REPORTS_OF_WRONG_ONES = 160, 100
FULL = {"scenarios": {"full": 1.0}}
PARTS = ("levels", "levels and quality", "everything")


@pytest.fixture(scope="module")
def drawn():
    """Reports of all fields, each pair of them from a city with shadowing of its own."""
    return draw_apart(quarter_atlas(), REPORTS, seed=3, **FULL)


def ranks(drawn, count, parts, **settings):
    """Level of the true place in each report's posterior, shape (part, report)."""
    batch, x_m, y_m = drawn
    atlas = quarter_atlas()
    world = population(atlas, **FULL, **settings)
    model, places = world.model, world.places
    around_of = lru_cache(len(atlas.windows))(places._around)
    u = np.random.default_rng(4).random(count)
    found = []
    for n in range(count):
        report, around = batch[n : n + 1], around_of(int(batch.sector[n, 0]))
        terms = [log_prob_over(model.levels, report, around.levels)]
        if parts > 1:
            terms.append(model.quality_log_prob(report, around.levels))
        if parts > 2:
            terms.append(model.serving_log_prob(report, around.serving))
        row, column = (int(v) for v in around.window.indices(x_m[n], y_m[n]))
        levels = []
        for log_prob in torch.cat(terms).double().cumsum(dim=0):
            mass = np.zeros(around.window.shape)
            mass[around.outdoor] = torch.softmax(log_prob, dim=0)
            levels.append(hpd_level(mass, row, column, u[n]))
        found.append(levels)
    return np.array(found).T


@pytest.fixture(scope="module")
def exact(drawn):
    return dict(zip(PARTS, ranks(drawn, REPORTS, len(PARTS)), strict=True))


@pytest.mark.parametrize("part", PARTS)
def test_the_exact_posterior_is_calibrated(exact, part):
    levels = exact[part]
    assert stats.kstest(levels, "uniform").pvalue > LEVEL
    for share in (0.5, 0.9):
        inside = int((levels < share).sum())
        assert stats.binomtest(inside, len(levels), share).pvalue > LEVEL


@pytest.mark.parametrize(
    ("wrong", "verdict"),
    [
        ({"shadowing": {"sigma_db": 1.0}}, Calibration.OVERCONFIDENT),
        ({"shadowing": {"inter_site": 0.95}}, Calibration.OVERCONFIDENT),
        ({"terminal": {"level_sigma_db": 4.0}}, Calibration.CONSERVATIVE),
    ],
    ids=["too little shadowing", "sites too alike", "too much noise"],
)
def test_a_wrong_model_is_found_out(drawn, wrong, verdict):
    (levels,) = ranks(drawn, REPORTS_OF_WRONG_ONES, 1, **wrong)
    assert diagnose_coverage(levels, LEVEL) == verdict
