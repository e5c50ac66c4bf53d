"""Where the last report of a track came from, however its terminal got there."""

from functools import lru_cache

import numpy as np
import pytest
import torch
from made_up_world import Population, outdoor_points, population, quarter_atlas
from scipy import stats

from ueloc_core.errors import ReportError
from ueloc_core.evaluation.diagnostics import Calibration, diagnose_coverage
from ueloc_core.evaluation.ranks import hpd_level
from ueloc_core.measurement.mobility import Tracks
from ueloc_core.measurement.motion import MotionPrior, Paths, moving_log_prob
from ueloc_core.measurement.movers import VEHICLE, WALKING_M_S
from ueloc_core.measurement.settings import TracksConfig
from ueloc_core.measurement.track_maps import TrackMaps

LEVEL = 1e-3
TRACKS, GAP_S = 48, 2.0
DRIVING = MotionPrior((0.0, 6.0, 9.0), (0.15, 0.45, 0.4))


# -- the prior ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prior",
    [
        MotionPrior.static(),
        MotionPrior.pedestrian(),
        MotionPrior.vehicle(),
        MotionPrior.of(TracksConfig()),
        MotionPrior.of(TracksConfig(static_share=1.0, pedestrian_share=0.0)),
    ],
    ids=["static", "pedestrian", "vehicle", "mixture", "static alone"],
)
def test_a_prior_is_isotropic_and_ends_at_the_last_report(prior):
    times_s = [0.0, 1.5, 4.0]
    path, weight = prior.displacements_m(times_s)
    assert weight.sum() == pytest.approx(1)
    assert (path[:, -1] == 0).all()
    np.testing.assert_allclose(np.tensordot(weight, path, 1), 0, atol=1e-9)
    gone_m = np.hypot(*path.T)
    np.testing.assert_allclose(gone_m[0] * 2.5, gone_m[1] * 4.0)  # one speed all along
    np.testing.assert_allclose(gone_m[0] / 4.0, np.repeat(prior.speed_m_s, prior.directions))


def test_a_prior_that_bends_turns_stops_and_starts():
    """One bend at most, the likelier the longer the way; the rest goes straight on."""
    straight, times_s = MotionPrior((0.0, 1.0, 10.0), (0.5, 0.25, 0.25)), [0.0, 1.0, 3.0, 4.0]
    path, weight = straight.bending(40.0).displacements_m(times_s)
    assert weight.sum() == pytest.approx(1)
    np.testing.assert_allclose(np.tensordot(weight, path, 1), 0, atol=1e-9)
    gap_m = np.diff(path, axis=1)
    gone_m = np.linalg.norm(gap_m, axis=2)
    speed_m_s = gone_m / np.diff(times_s)
    assert speed_m_s.max() == pytest.approx(10)
    bent = np.abs(gap_m / np.diff(times_s)[:, None] - path[:, :1] / -4.0).max(axis=(1, 2)) > 1e-6
    assert weight[bent].sum() == pytest.approx(0.25 * (1 - np.exp(-1)))  # a way of 4 m never bends
    stops = bent & (speed_m_s.min(axis=1) < 1e-9)
    assert weight[stops].sum() == pytest.approx(0.4 * weight[bent].sum())
    turns = bent & ~stops
    first, last = gap_m[turns, 0], gap_m[turns, -1]
    np.testing.assert_allclose((first * last).sum(axis=1), 0, atol=1e-9)
    same, _ = straight.displacements_m(times_s)
    np.testing.assert_array_equal(path[: len(same)], same)


def test_speeds_are_those_of_the_simulation():
    walking, driving = MotionPrior.pedestrian(21), MotionPrior.vehicle(20)
    assert np.mean(walking.speed_m_s) == pytest.approx(WALKING_M_S[0])
    assert np.std(walking.speed_m_s) == pytest.approx(WALKING_M_S[1], rel=0.1)
    assert driving.speed_m_s[0] == 0
    assert 4.9 < min(driving.speed_m_s[1:]) < 5.5
    assert 13 < max(driving.speed_m_s) < 13.8
    mixture = MotionPrior.of(TracksConfig())
    still = sum(w for v, w in zip(mixture.speed_m_s, mixture.weight, strict=True) if v == 0)
    assert still == pytest.approx(0.4 + 0.2 * 0.15)


def test_weights_that_do_not_fit_are_refused():
    with pytest.raises(ReportError, match="add up to 0.9"):
        MotionPrior((0.0, 1.0), (0.5, 0.4))


def test_paths_keep_probability_and_mean_displacement():
    """Whole grid cells, from anywhere in one: on average the displacement itself."""
    path, _ = MotionPrior((3.3,), (1.0,), 7).displacements_m([0.0, 1.0])
    for node in range(7):
        found = Paths.of(path[node : node + 1], np.ones(1), 4.0, parts=64)
        assert found.weight.sum() == pytest.approx(1)
        mean = 4.0 * np.tensordot(found.weight, found.shift[:, 0], 1)
        np.testing.assert_allclose(mean, path[node, 0], atol=0.04)
        assert (found.shift[:, -1] == 0).all()


def test_reports_of_a_path_are_put_together_by_grid_cell():
    shift = np.array([[[0, 0], [1, 0], [0, 0], [0, 0]]])
    paths = Paths(shift, np.ones(1))
    assert paths.groups(0) == ((0, 2, 3), (1,))
    assert paths.mean_correlation(0, 4.0, 13.0) == pytest.approx(np.exp(-4 / 13))
    assert Paths(0 * shift, np.ones(1)).mean_correlation(0, 4.0, 13.0) == 1


# -- the likelihood -----------------------------------------------------------------------


def driven_tracks(atlas, count, rng):
    """Two reports of terminals that drive or stand, last places uniform, never indoors."""
    ends, starts = [], []
    while len(ends) < count:
        x_m, y_m = (v[0] for v in outdoor_points(atlas, 1, rng))
        for _ in range(50):  # any way that leads there over outdoor ground
            speed = rng.choice(DRIVING.speed_m_s, p=DRIVING.weight)
            angle = rng.uniform(0, 2 * np.pi)
            x0, y0 = x_m - speed * GAP_S * np.sin(angle), y_m - speed * GAP_S * np.cos(angle)
            row, column = atlas.ground.indices(x0, y0)
            if atlas.ground.contains(x0, y0) and atlas.outdoor[row, column]:
                ends.append((x_m, y_m))
                starts.append((x0, y0))
                break
    place = np.stack([starts, ends], axis=1).reshape(-1, 2)
    zeros = np.zeros(2 * count, np.float32)
    kind = np.full(2 * count, VEHICLE, np.int8)
    return Tracks(
        np.repeat(np.arange(count), 2),
        np.tile([0.0, GAP_S], count),
        place[:, 0],
        place[:, 1],
        zeros,
        zeros,
        kind,
        np.zeros(2 * count, np.int8),
    )


@pytest.fixture(scope="module")
def driven():
    """Tracks of two reports, each pair of tracks from a city with shadowing of its own."""
    atlas, rng = quarter_atlas(), np.random.default_rng(61)
    world = population(atlas)
    world.places.around = lru_cache(len(atlas.windows))(world.places._around)
    found = []
    while len(found) < TRACKS:
        city = Population(world.model, world.places, world.audible, int(rng.integers(2**31)))
        batch, truth = city.sample(driven_tracks(atlas, 2, rng), rng)
        for track in np.unique(truth.track):
            mine = np.flatnonzero(truth.track == track)
            if len(mine) == 2:
                found.append((batch[mine], truth.x_m[mine[-1]], truth.y_m[mine[-1]]))
    return world, found[:TRACKS]


def log_prob_of(world, reports, prior, **given):
    around = world.places.around(int(reports.sector[-1, 0]))
    value = moving_log_prob(
        world.model, world.places, reports, [0.0, GAP_S], around, prior, **given
    )
    return around, torch.softmax(value.double(), dim=0)


def ranks(driven, prior, count=TRACKS):
    world, tracks = driven
    u = np.random.default_rng(62).random(count)
    levels = []
    for n, (reports, x_m, y_m) in enumerate(tracks[:count]):
        around, posterior = log_prob_of(world, reports, prior)
        mass = np.zeros(around.window.shape)
        mass[around.outdoor] = posterior
        row, column = (int(v) for v in around.window.indices(x_m, y_m))
        levels.append(hpd_level(mass, row, column, u[n]))
    return np.array(levels)


@pytest.mark.slow
def test_posteriors_of_moving_terminals_are_calibrated(driven):
    levels = ranks(driven, DRIVING)
    assert stats.kstest(levels, "uniform").pvalue > LEVEL
    for share in (0.5, 0.9):
        inside = int((levels < share).sum())
        assert stats.binomtest(inside, len(levels), share).pvalue > LEVEL


@pytest.mark.slow
def test_taking_them_to_stand_still_is_overconfident(driven):
    levels = ranks(driven, MotionPrior.static())
    assert diagnose_coverage(levels, LEVEL) == Calibration.OVERCONFIDENT


def test_more_directions_and_speeds_change_little(driven):
    """Twice the nodes move 0.05 of a posterior's mass at most, for walkers less."""
    world, tracks = driven
    for prior, finer, most in (
        (MotionPrior.pedestrian(), MotionPrior.pedestrian(6, 48), 0.01),
        (DRIVING, MotionPrior(DRIVING.speed_m_s, DRIVING.weight, 48), 0.05),
        (MotionPrior.vehicle(), MotionPrior.vehicle(12, 48), 0.1),
    ):
        for reports, _, _ in tracks[:2]:
            once, twice = (log_prob_of(world, reports, p)[1] for p in (prior, finer))
            assert float((once - twice).abs().sum()) / 2 < most


def test_what_is_left_out_has_no_mass(driven):
    """Places 25 nats and paths 20 nats below the best, against all of them."""
    world, tracks = driven
    every = {"depth_nats": 300.0, "place_depth_nats": 300.0}
    for reports, _, _ in tracks[4:6]:
        usual, whole = (log_prob_of(world, reports, DRIVING, **d)[1] for d in ({}, every))
        assert float((usual - whole).abs().sum()) / 2 < 1e-3


def test_places_are_given_up_by_any_report(driven):
    """What is left can send each report; what is not is below its bound, and keeps no mass."""
    world, tracks = driven
    reports = tracks[0][0]
    around = world.places.around(int(reports.sector[-1, 0]))
    shift = np.array([[[1, 0], [0, 0]], [[0, 1], [0, 0]], [[0, 0], [0, 0]]])
    track = TrackMaps(world.model, world.places, reports, around, shift)
    worst, each = track.narrow(6.0)
    assert 0 < len(track.place) < len(worst)
    gone = torch.ones(len(worst), dtype=torch.bool)
    gone[track.place] = False
    assert (worst[gone] <= -6.0).all()
    assert (worst[track.place] > -6.0).all()
    for t in range(2):
        reached = each[t][track.stand_in[torch.unique(track.of[:, t])]]
        assert (reached.amax(dim=0) > each[t].max() - 6.0).all()
    one = reports[1:]
    alone = world.model.log_prob(one, around.levels, around.serving)[0]
    torch.testing.assert_close(each[1][track.stand_in[track._still]], alone[track.place])


def test_a_terminal_that_stands_is_a_track_at_one_place(driven):
    world, tracks = driven
    reports = tracks[0][0]
    around, found = log_prob_of(world, reports, MotionPrior.static())
    serving = [
        world.places.serving_in(int(s), around.window, around.outdoor) for s in reports.sector[:, 0]
    ]
    expected = world.model.track_log_prob(reports, around.levels, type(serving[0]).cat(serving))
    torch.testing.assert_close(found, torch.softmax(expected.double(), dim=0), atol=1e-4, rtol=1e-2)


def test_paths_do_not_lead_through_buildings(driven):
    """Where one of two ways leads indoors, the terminal came the other one."""
    world, tracks = driven
    reports = tracks[0][0]
    around = world.places.around(int(reports.sector[-1, 0]))
    paths = Paths(np.array([[[4, 0], [0, 0]], [[-4, 0], [0, 0]]]), np.array([0.5, 0.5]))
    track = TrackMaps(world.model, world.places, reports, around, paths.shift)
    weights = track.log_weights(paths.weight).exp()
    np.testing.assert_allclose(weights.sum(dim=0), 1, atol=1e-6)
    outdoor = world.places.atlas.outdoor_in(around.window)
    row, column = np.nonzero(around.outdoor)
    inner = (column >= 4) & (column < around.window.columns - 4)
    row, column = row[inner], column[inner]
    east, west = outdoor[row, column + 4], outdoor[row, column - 4]
    expected = np.where(east == west, 0.5, east)
    np.testing.assert_allclose(weights[0, inner], expected, atol=1e-6)
    assert (east != west).any()
