"""The exact posterior of a track: simulation-based calibration, and what it must agree with."""

import numpy as np
import pytest
import torch
from made_up_tracks import draw_tracks
from made_up_world import quarter_atlas
from scipy import stats

from ueloc_core.errors import ReportError
from ueloc_core.evaluation.diagnostics import Calibration, diagnose_coverage
from ueloc_core.evaluation.ranks import hpd_level
from ueloc_core.localization.baselines import GridBayes, GridPosterior
from ueloc_core.localization.track_oracle import TrackBayes
from ueloc_core.measurement.motion import MotionPrior
from ueloc_core.measurement.settings import TracksConfig

LEVEL = 1e-3
TRACKS = 60
TIMES_S = [0.0, 0.4, 1.9, 2.6]
LONGER_S = [0.0, 0.4, 1.1, 1.9, 2.6, 3.3]
LEVELS_ALONE = {"scenarios": {"nr_rsrp_only": 1.0}, "shadowing": {"sigma_db": 6.0}}
STANDING = MotionPrior.static()
MOVING = MotionPrior((1.2, 1.5, 4.0, 6.5, 9.0), (0.25, 0.25, 0.2, 0.2, 0.1), 32).bending(20.0)


@pytest.fixture(scope="module")
def standing():
    """Six reports each, which say the less new the more they share."""
    return draw_tracks(quarter_atlas(), STANDING, LONGER_S, TRACKS, seed=81, **LEVELS_ALONE)


@pytest.fixture(scope="module")
def moving():
    return draw_tracks(quarter_atlas(), MOVING, TIMES_S, TRACKS, seed=82)


def ranks(drawn, posterior_of):
    """Share of each posterior that is denser than the truth."""
    world, tracks = drawn
    u, levels = np.random.default_rng(83).random(len(tracks)), []
    for n, (reports, place_m) in enumerate(tracks):
        found = posterior_of(world, reports)
        row, column = (int(v) for v in found.window.indices(*place_m))
        levels.append(hpd_level(found.mass, row, column, u[n]))
    return np.array(levels)


def exact(prior, times_s):
    return lambda world, reports: TrackBayes(world.places, world.model, prior).posterior(
        reports, times_s
    )


def independent(world, reports):
    """What the reports say, one by one, of one place."""
    around = world.places.around(int(reports.sector[-1, 0]))
    value = 0.0
    for sector in torch.unique(reports.sector[:, 0]).tolist():
        mine = reports[reports.sector[:, 0] == sector]
        serving = world.places.serving_in(sector, around.window, around.outdoor)
        serving = type(serving).cat([serving] * len(mine))
        value = value + world.model.log_prob(mine, around.levels, serving).sum(dim=0)
    mass = np.zeros(around.window.shape)
    mass[around.outdoor] = torch.softmax(value.double(), dim=0)
    return GridPosterior(around.window, mass)


@pytest.mark.slow
@pytest.mark.parametrize("motion", ["standing", "moving"])
def test_posteriors_of_tracks_are_calibrated(motion, request):
    """Ranks of the true last place are uniform."""
    how = {"standing": (STANDING, LONGER_S), "moving": (MOVING, TIMES_S)}[motion]
    levels = ranks(request.getfixturevalue(motion), exact(*how))
    assert stats.kstest(levels, "uniform").pvalue > LEVEL
    assert diagnose_coverage(levels, LEVEL) == Calibration.CALIBRATED
    for share in (0.5, 0.9):
        inside = int((levels < share).sum())
        assert stats.binomtest(inside, len(levels), share).pvalue > LEVEL


@pytest.mark.slow
@pytest.mark.parametrize("motion", ["standing", "moving"])
def test_independent_reports_of_one_place_are_found_out(motion, request):
    levels = ranks(request.getfixturevalue(motion), independent)
    assert diagnose_coverage(levels, LEVEL) == Calibration.OVERCONFIDENT


def test_one_report_has_the_posterior_of_one_report(moving):
    world, tracks = moving
    bayes = TrackBayes.of(world.places, world.model, TracksConfig())
    for reports, _ in tracks[:3]:
        alone = GridBayes(world.places, world.model).posterior(reports[3:])
        found = bayes.posterior(reports[3:], [7.0])
        assert found.window == alone.window
        np.testing.assert_allclose(found.mass, alone.mass, atol=1e-5)
        assert found.mass.sum() == pytest.approx(1)


def test_times_tell_differences_alone(moving):
    world, tracks = moving
    bayes = TrackBayes(world.places, world.model, MOVING)
    reports, _ = tracks[0]
    early, late = (
        bayes.posterior(reports[2:], [t, t + 0.7]).mass for t in (TIMES_S[2], TIMES_S[2] + 50.0)
    )
    np.testing.assert_allclose(early, late, atol=1e-6)


@pytest.mark.parametrize("times_s", [[0.0, 1.0], [0.0, 2.0, 1.0, 3.0]], ids=["few", "falling"])
def test_times_that_do_not_fit_are_refused(moving, times_s):
    world, tracks = moving
    with pytest.raises(ReportError, match="one time a report"):
        TrackBayes(world.places, world.model, MOVING).posterior(tracks[0][0], times_s)
