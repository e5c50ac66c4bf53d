"""The filter of tracks on posteriors that are made up: what it must keep, and what it must find."""

import json
from dataclasses import replace

import numpy as np
import pytest

from ueloc_core.errors import ModelError, ReportError, StoreError
from ueloc_core.evaluation.diagnostics import Calibration, diagnose_coverage
from ueloc_core.evaluation.ranks import hpd_level
from ueloc_core.grid import Window
from ueloc_core.localization.track_evidence import TrackEvidence
from ueloc_core.localization.tracking import TrackFilter, TrackParameters, TrackRasters
from ueloc_core.measurement.motion import MotionPrior, Paths
from ueloc_core.measurement.movers import WALKING_M_S
from ueloc_core.measurement.settings import TracksConfig

CELL_M, SIDE = 4.0, 40
FRAME = Window(100, 200, SIDE, SIDE, CELL_M)
STANDING, WALKING, DRIVING = np.eye(3).tolist()
OUTSIDE, OUTSIDE_M2 = 0.02, 4000.0


def everywhere(window):
    return np.ones(window.shape, dtype=bool)


def streets(window):
    """Every fourth row and column of the grid is built up."""
    row, column = (
        np.arange(n) + start
        for n, start in zip(window.shape, (window.row, window.column), strict=True)
    )
    return (row[:, None] % 4 != 0) & (column[None] % 4 != 0)


def bump(frame, x_m, y_m, sigma_m, outside=OUTSIDE):
    """A Gaussian posterior on a floor that is nowhere zero."""
    east, north = frame.x_centres_m - x_m, frame.y_centres_m[:, None] - y_m
    mass = np.exp(-(east**2 + north**2) / (2 * sigma_m**2)) + 1e-6
    return (1 - outside) * mass / mass.sum()


def located(masses, times_s, shares, outdoor=everywhere, frames=None, **redundancy):
    own = TrackFilter(TrackParameters(shares=tuple(shares), **redundancy))
    frames = frames or [FRAME] * len(masses)
    return own.posterior(masses, frames, times_s, outdoor, [OUTSIDE_M2] * len(masses))


MIDDLE = FRAME.centre_m


def test_one_report_keeps_its_posterior():
    mass = bump(FRAME, *MIDDLE, 9.0)
    found, outside = located([mass], [3.0], (0.4, 0.4, 0.2), streets)
    np.testing.assert_array_equal(found, mass)
    assert outside == pytest.approx(OUTSIDE)


@pytest.mark.parametrize("count", [2, 4])
def test_reports_that_are_one_say_what_one_says(count):
    """Redundancy 1: the exponents of the same evidence add up to one."""
    mass = bump(FRAME, *MIDDLE, 9.0)
    found, outside = located([mass] * count, range(count), STANDING, standing=1.0)
    np.testing.assert_allclose(found, mass, rtol=1e-3)
    assert outside == pytest.approx(OUTSIDE, rel=1e-2)


def test_reports_of_their_own_multiply():
    """Redundancy 0 and a flat prior: the product of the posteriors."""
    first, second = bump(FRAME, *MIDDLE, 9.0), bump(FRAME, MIDDLE[0] + 8, MIDDLE[1], 12.0)
    found, outside = located([first, second], [0.0, 1.0], STANDING, standing=0.0)
    expected = first * second
    far = OUTSIDE**2 / (OUTSIDE_M2 / CELL_M**2)
    expected, far = expected / (expected.sum() + far), far / (expected.sum() + far)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-9)
    assert outside == pytest.approx(far, rel=1e-2)


def test_a_walker_is_as_far_away_as_it_went():
    """An exact first report and a second one that tells nothing: a ring of the walker's speed."""
    first, flat = bump(FRAME, *MIDDLE, 3.0), bump(FRAME, *MIDDLE, 1e6)
    gap_s = 25.0
    found, _ = located([first, flat], [5.0, 5.0 + gap_s], WALKING, moving=0.0)
    away = np.hypot(FRAME.x_centres_m - MIDDLE[0], FRAME.y_centres_m[:, None] - MIDDLE[1])
    assert (found * away).sum() / found.sum() == pytest.approx(WALKING_M_S[0] * gap_s, rel=0.05)
    assert found[away < 0.6 * WALKING_M_S[0] * gap_s].sum() < 0.01


def test_evidence_is_carried_over_outdoor_ground():
    """The kernel's mean over where the terminal can have been, cell by cell."""
    track = TrackEvidence(
        TrackRasters(
            [bump(FRAME, *MIDDLE, 9.0)] * 2, [FRAME] * 2, [0.0, 4.0], [OUTSIDE_M2] * 2, streets
        )
    )
    value = np.random.default_rng(1).random(track._canvas.shape).astype(np.float32)
    found = track._moved(value, 0.0, track._kernels[1, 0])
    paths = Paths.of(*MotionPrior.pedestrian(directions=64).displacements_m([0.0, 4.0]), CELL_M)
    open_to = np.where(streets(track._canvas), 1.0, 1e-3)
    for row, column in ((20, 20), (33, 41), (28, 36)):
        at = row + paths.shift[:, 0, 1], column + paths.shift[:, 0, 0]
        weight = paths.weight * open_to[at]
        expected = (weight * value[at]).sum() / weight.sum()
        assert found[row, column] == pytest.approx(expected, rel=1e-3)


def test_frames_may_differ_by_grid_cells():
    """The same evidence in another frame, where both see it, gives the same place."""
    other = replace(FRAME, column=FRAME.column + 6, row=FRAME.row - 4)
    place = (MIDDLE[0] + 10, MIDDLE[1] - 6)
    last = bump(FRAME, *MIDDLE, 12.0)
    found = [
        located(
            [bump(frame, *place, 8.0), last], [0.0, 1.0], (0.4, 0.4, 0.2), frames=[frame, FRAME]
        )
        for frame in (FRAME, other)
    ]
    inner = (slice(4, -4), slice(10, -10))
    np.testing.assert_allclose(found[0][0][inner], found[1][0][inner], rtol=0.02, atol=1e-6)


@pytest.mark.parametrize("outdoor", [everywhere, streets])
def test_mass_is_one_and_outdoors(outdoor):
    masses = [
        np.where(outdoor(FRAME), bump(FRAME, MIDDLE[0] + 3 * k, MIDDLE[1], 10.0), 1e-9)
        for k in range(3)
    ]
    masses = [(1 - OUTSIDE) * mass / mass.sum() for mass in masses]
    found, outside = located(masses, [0.0, 0.7, 2.0], (0.4, 0.4, 0.2), outdoor)
    assert found.sum() + outside == pytest.approx(1)
    assert found[~outdoor(FRAME)].sum() < 0.01
    assert 0 < outside < OUTSIDE


def test_long_waits_leave_the_last_report():
    """Nobody knows where a terminal was that walked or drove for a quarter of an hour."""
    first, last = bump(FRAME, *MIDDLE, 5.0), bump(FRAME, MIDDLE[0] + 30, MIDDLE[1], 10.0)
    found, _ = located([first, last], [0.0, 900.0], WALKING, moving=0.0)
    np.testing.assert_allclose(found, last, rtol=0.01)
    found, _ = located([first, last], [0.0, 900.0], DRIVING, moving=0.0)
    stood, cells = MotionPrior.vehicle().weight[0], SIDE**2 + OUTSIDE_M2 / CELL_M**2
    expected = last * (stood * cells * first + 1 - stood)
    np.testing.assert_allclose(found, found.sum() * expected / expected.sum(), rtol=0.01)


# -- what is fitted -----------------------------------------------------------------------

SIGMA_M, TRACKS = 10.0, 120
POPULATION = TracksConfig(static_share=1.0, pedestrian_share=0.0)


def standing_tracks(shared, seed):
    """Four reports each, whose errors have a share in common; each posterior alone is right."""
    rng = np.random.default_rng(seed)
    tracks, truths = [], []
    for _ in range(TRACKS):
        truth = np.array(MIDDLE) + rng.uniform(-20, 20, 2)
        common = np.sqrt(shared) * rng.normal(0, SIGMA_M, 2)
        errors = common + np.sqrt(1 - shared) * rng.normal(0, SIGMA_M, (4, 2))
        masses = [bump(FRAME, *(truth + error), SIGMA_M, outside=1e-4) for error in errors]
        tracks.append(
            TrackRasters(masses, [FRAME] * 4, [0.0, 1.0, 2.0, 3.0], [OUTSIDE_M2] * 4, everywhere)
        )
        truths.append(tuple(truth.tolist()))
    return tracks, truths


def levels(own, tracks, truths):
    u, found = np.random.default_rng(2).random(len(tracks)), []
    for n, (track, truth) in enumerate(zip(tracks, truths, strict=True)):
        mass, _ = own.posterior(
            track.masses, track.frames, track.times_s, track.outdoor, track.outside_m2
        )
        row, column = (int(v) for v in FRAME.indices(*truth))
        found.append(hpd_level(mass, row, column, u[n]))
    return np.array(found)


@pytest.mark.parametrize("shared", [0.0, 0.6, 1.0])
def test_the_redundancy_is_found_and_makes_tracks_calibrated(shared):
    """For Gaussians it is the share of the errors' variance that reports have in common."""
    own = TrackFilter.fit(*standing_tracks(shared, 3), POPULATION)
    assert own.parameters.standing == pytest.approx(shared, abs=0.2)
    assert own.parameters.shares == (1.0, 0.0, 0.0)
    tracks, truths = standing_tracks(shared, 4)
    assert diagnose_coverage(levels(own, tracks, truths), 1e-3) == Calibration.CALIBRATED
    naive = TrackFilter(replace(own.parameters, standing=0.0))
    if shared > 0:
        verdict = diagnose_coverage(levels(naive, tracks, truths), 1e-3)
        assert verdict == Calibration.OVERCONFIDENT
        assert own.nll_nats(tracks, truths).mean() < naive.nll_nats(tracks, truths).mean()


def test_tracks_of_one_report_cannot_be_fitted():
    track = TrackRasters([bump(FRAME, *MIDDLE, 9.0)], [FRAME], [0.0], [OUTSIDE_M2], everywhere)
    with pytest.raises(ModelError, match="two reports"):
        TrackFilter.fit([track], [MIDDLE], POPULATION)


# -- files and bad input ------------------------------------------------------------------


def test_what_is_saved_is_loaded(tmp_path):
    own = TrackFilter(TrackParameters(0.31, 0.62, 17.0, (0.5, 0.3, 0.2)))
    own.save(tmp_path)
    assert TrackFilter.load(tmp_path) == own


@pytest.mark.parametrize(
    "change", [{"standing": 1.5}, {"decay_m": 0.0}, {"shares": [0.5, 0.6, 0.2]}, {"more": 1}]
)
def test_unusable_files_are_refused(tmp_path, change):
    path = tmp_path / "tracking.json"
    TrackFilter().save(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(StoreError, match="Materialize calibration"):
        TrackFilter.load(tmp_path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(StoreError, match="cannot be read"):
        TrackFilter.load(tmp_path)


@pytest.mark.parametrize(
    ("count", "times_s", "message"),
    [(1, [0.0, 1.0], "2 rasters"), (2, [1.0, 0.0], "times of a track fall")],
)
def test_reports_that_do_not_fit_are_refused(count, times_s, message):
    masses = [bump(FRAME, *MIDDLE, 9.0)] * 2
    with pytest.raises(ReportError, match=message):
        TrackFilter().posterior(masses, [FRAME] * count, times_s, everywhere, [OUTSIDE_M2] * 2)
