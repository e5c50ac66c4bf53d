"""MAP refinement: lookups, gradients, the ascent, and what is left alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up_world import default_atlas, draw_reports, made_up_city

from ueloc_core.errors import ReportError
from ueloc_core.localization.block_grid import take
from ueloc_core.localization.posterior import Posterior
from ueloc_core.localization.rasters import evidence_raster, to_raster
from ueloc_core.localization.refinement import LevelLookup, Refiner, ascend
from ueloc_core.localization.refinement_rule import RefinementRule
from ueloc_core.localization.windows import WindowReader
from ueloc_core.measurement.model import MapError, MeasurementModel

CITY = made_up_city(measurements={"scenarios": {"full": 1.0}})
ERROR = MapError(core_db=1.0, tail_logit=-3.0, tail_db=10.0, unhit_dbm=-135.0, unhit_db=8.0)
SIDE = 16  # blocks of a window


@pytest.fixture(scope="module")
def reader():
    return WindowReader(default_atlas(), MeasurementModel(CITY.measurements, CITY.radio, ERROR))


@pytest.fixture(scope="module")
def drawn(reader):
    reports, x_m, y_m = draw_reports(default_atlas(), 6, seed=41, scenarios={"full": 1.0})
    truth_m = reader.frame_positions(reports.sector[:, 0].numpy(), x_m, y_m)
    return reports, reader.read(reports, truth_m)


def outdoor_of(batch):
    """Where terminals can stand in the windows, shape (report, n, n)."""
    rows = batch.maps.grid.ground_rows(*batch.all_blocks())
    return to_raster(take(batch.maps.outdoor, rows), batch.blocks)


def posterior_at(means_m, batch, sigma_m=25.0, shares=None):
    """A posterior of Gaussians at the given means (report, component, 2) in equal shares."""
    count, components = means_m.shape[:2]
    mass = torch.full((count, SIDE * SIDE), 1e-6)
    top = torch.arange(components).expand(count, -1)
    mass.scatter_(1, top, (torch.ones(components) if shares is None else shares).expand(count, -1))
    mass = mass / mass.sum(dim=1, keepdim=True) * 0.98
    return Posterior(
        log_mass=mass.log().reshape(count, SIDE, SIDE),
        log_outside=torch.full((count,), 0.02).log(),
        top=top,
        mean_m=means_m,
        covariance_m2=(sigma_m**2 * torch.eye(2)).expand(count, components, 2, 2),
        outdoor=outdoor_of(batch),
        outside_m2=batch.outside_m2,
        cell_m=4.0,
    )


def rule(**changes):
    return replace(RefinementRule(True, 1.0, 0.0, 0.0, "made up"), **changes)


# -- the lookup ---------------------------------------------------------------------------


def test_pixel_centres_give_the_maps_values(reader, drawn):
    """In each sector's own window, whatever frame the points are told in."""
    reports, _ = drawn
    lookup, atlas = LevelLookup(reader.places), reader.atlas
    frames = [reader.frames[int(s)] for s in reports.sector[:, 0]]
    rng = np.random.default_rng(0)
    cell = rng.integers(0, 64, (len(frames), 9, 2))
    points = torch.from_numpy((cell + 0.5 - 32) * 4.0)
    maps = lookup.at(frames, points, torch.arange(18))
    for k, frame in enumerate(frames):
        x_m, y_m = frame.x_centres_m[cell[k, :, 0]], frame.y_centres_m[cell[k, :, 1]]
        rsrp, error = atlas.maps_at(x_m, y_m)
        np.testing.assert_allclose(maps.rsrp_dbm[k].T, rsrp, rtol=1e-6)
        np.testing.assert_allclose(maps.se_db[k].T, error, rtol=1e-6)
        expected = reader.places.levels_at(x_m, y_m).noise_db[..., 0]
        np.testing.assert_allclose(maps.noise_db[k].T, expected, rtol=1e-3)


def test_between_known_pixels_it_is_bilinear_and_beside_a_wall_it_stays_known(reader):
    """A plane is exact; where neighbours are unknown their weight goes to the known ones."""
    atlas = default_atlas()
    window = atlas.windows[0]
    x, y = np.meshgrid(np.arange(window.columns), np.arange(window.rows))
    plane = np.broadcast_to(-80 + 0.1 * x - 0.2 * y, atlas.rsrp_dbm.shape).astype(np.float32)
    wall = plane.copy()
    wall[:, :, window.columns // 2 :] = np.nan
    frame = replace(window, column=window.column + 4, row=window.row + 4, columns=64, rows=64)
    edge_m = (window.columns // 2 - 4 - 32) * 4.0  # of the wall, in the frame
    points = torch.tensor([[[edge_m - 9.0, 3.0], [edge_m - 0.5, 7.0], [edge_m + 0.5, 7.0]]])
    flat, walled = (
        LevelLookup(with_maps(reader, values)).at([frame], points, torch.tensor([0])).rsrp_dbm[0, 0]
        for values in (plane, wall)
    )
    pixel = points[0] / 4 + 32 + 4 - 0.5
    torch.testing.assert_close(flat, -80 + 0.1 * pixel[:, 0] - 0.2 * pixel[:, 1])
    torch.testing.assert_close(walled[0], flat[0])
    last = window.columns // 2 - 1
    torch.testing.assert_close(walled[1], -80 + 0.1 * last - 0.2 * pixel[1, 1])
    assert walled[2].isnan()


def with_maps(reader, rsrp_dbm):
    return type(reader.places)(replace(reader.atlas, rsrp_dbm=rsrp_dbm), CITY.measurements)


# -- the objective ------------------------------------------------------------------------


def test_its_gradient_is_that_of_differences(reader, drawn):
    reports, batch = drawn
    generator = torch.Generator().manual_seed(2)
    points = (torch.rand(6, 2, 2, generator=generator, dtype=torch.float64) - 0.5) * 120
    posterior = posterior_at(batch.truth_m[:, None], batch)
    joint = Refiner(reader, rule()).objective((posterior, batch, reports), 0.7, points)
    points.requires_grad_()
    (gradient,) = torch.autograd.grad(joint(points).sum(), points)
    step_m = 0.02
    with torch.no_grad():
        for axis in (0, 1):
            shift = step_m * torch.eye(2, dtype=torch.float64)[axis]
            slope = (joint(points + shift) - joint(points - shift)) / (2 * step_m)
            # single precision within, and now and then a step crosses an edge of the lookup
            near = torch.isclose(slope, gradient[..., axis], rtol=0.05, atol=0.01)
            assert near.float().mean() >= 10 / 12


def test_at_temperature_zero_it_is_the_posterior(reader, drawn):
    reports, batch = drawn
    posterior = posterior_at(batch.truth_m[:, None], batch)
    joint = Refiner(reader, rule()).objective(
        (posterior, batch, reports), 0.0, batch.truth_m[:, None]
    )
    point = batch.truth_m + 7.0
    torch.testing.assert_close(joint(point[:, None])[:, 0], posterior.log_density(point))


def test_what_it_adds_is_the_models_likelihood(reader, drawn):
    """At pixel centres: levels and evidence as the measurement model gives them."""
    reports, batch = drawn
    frames = [reader.frames[int(s)] for s in reports.sector[:, 0]]
    cell = torch.tensor([[30, 30], [34, 41]]).expand(6, -1, -1)
    points = (cell + 0.5 - 32) * 4.0
    posterior = posterior_at(batch.truth_m[:, None], batch)
    refiner = Refiner(reader, rule())
    low, high = (refiner.objective((posterior, batch, reports), t, points)(points) for t in (0, 1))
    evidence = evidence_raster(batch)
    for k, frame in enumerate(frames):
        x_m = frame.x_centres_m[cell[k, :, 0]]
        y_m = frame.y_centres_m[cell[k, :, 1]]
        one = reports[k : k + 1]
        maps = [reader.places.levels_at(x_m[i : i + 1], y_m[i : i + 1]) for i in range(2)]
        levels = torch.stack([reader.model.levels.direct(one, m)[0, 0] for m in maps])
        expected = levels + evidence[k, cell[k, :, 1], cell[k, :, 0]]
        torch.testing.assert_close((high - low)[k], expected, atol=0.15, rtol=0.01)


# -- the ascent ---------------------------------------------------------------------------


def test_displaced_starts_come_back_to_the_top_of_a_quadratic():
    top = torch.tensor([[12.0, -7.0], [-30.0, 4.0]])
    curvature = torch.tensor([[0.05, 0.01], [0.01, 0.02]])

    def hill(points):
        d = points - top[:, None]
        return 3.0 - torch.einsum("npi,ij,npj->np", d, curvature, d)

    starts = top[:, None] + torch.tensor([[25.0, 10.0], [-18.0, -20.0]])
    place, value = ascend(hill, starts, 500.0)
    assert (place - top).norm(dim=1).max() < 1.0
    torch.testing.assert_close(value, hill(place[:, None])[:, 0])


def test_the_scale_of_the_objective_does_not_count():
    def hill(points):
        return -((points - 9.0) ** 2).sum(dim=-1)

    start = torch.zeros(1, 1, 2)
    one, other = (ascend(lambda p, c=c: c * hill(p), start, 50.0)[0] for c in (1e-2, 1e2))
    torch.testing.assert_close(one, other, atol=0.02, rtol=0.01)


def test_the_higher_of_two_hills_wins_and_nothing_gets_worse():
    tops, heights = torch.tensor([[-40.0, 0.0], [40.0, 0.0]]), torch.tensor([1.0, 2.0])

    def hills(points):
        d2 = ((points[..., None, :] - tops) ** 2).sum(dim=-1)
        return (heights * torch.exp(-d2 / 800)).sum(dim=-1)

    starts = torch.tensor([[[-40.0, 0.0], [30.0, 10.0]]])
    place, value = ascend(hills, starts, 100.0)
    assert (place[0] - tops[1]).norm() < 2
    assert value[0] >= hills(starts)[0].max()
    still, _ = ascend(lambda p: -p.abs().sum(dim=-1), torch.zeros(1, 1, 2), 100.0)
    torch.testing.assert_close(still, torch.zeros(1, 2))


def test_it_stays_in_the_window():
    place, _ = ascend(lambda p: p.sum(dim=-1), torch.zeros(1, 1, 2), 20.0)
    torch.testing.assert_close(place, torch.full((1, 2), 20.0))


# -- refinement ---------------------------------------------------------------------------


def test_a_displaced_posterior_is_moved_towards_the_terminal(reader, drawn):
    """A wide posterior 30 m off; the maps know better."""
    reports, batch = drawn
    off = torch.tensor([21.0, -21.0])
    posterior = posterior_at((batch.truth_m + off)[:, None], batch, sigma_m=40.0)
    found = Refiner(reader, rule()).refine(posterior, batch, reports)
    assert found.acted.all()
    before = (found.unrefined_m - batch.truth_m).norm(dim=1)
    after = (found.point_m - batch.truth_m).norm(dim=1)
    assert after.median() < 0.6 * before.median()
    torch.testing.assert_close(found.moved_m, (found.point_m - found.unrefined_m).norm(dim=1))
    assert (found.gain_nats > 0).all()


def test_sure_posteriors_and_small_gains_are_left_alone(reader, drawn):
    reports, batch = drawn
    means = (batch.truth_m + 15.0)[:, None]
    sharp, wide = (posterior_at(means, batch, sigma_m=s) for s in (5.0, 40.0))
    both = Posterior(
        *(
            torch.cat([a[:3], b[3:]]) if isinstance(a, torch.Tensor) else a
            for a, b in zip(vars(sharp).values(), vars(wide).values(), strict=True)
        )
    )
    spread = both.point_and_spread()[1]
    threshold = float((spread[:3].max() + spread[3:].min()) / 2)
    found = Refiner(reader, rule(spread_m=threshold)).refine(both, batch, reports)
    assert found.acted.tolist() == [False] * 3 + [True] * 3
    torch.testing.assert_close(found.point_m[:3], found.unrefined_m[:3])
    greedy = Refiner(reader, rule(gain_nats=1e6)).refine(both, batch, reports)
    assert not greedy.acted.any()
    torch.testing.assert_close(greedy.point_m, greedy.unrefined_m)


def test_a_fix_does_not_depend_on_its_batch(reader, drawn):
    reports, batch = drawn
    posterior = posterior_at((batch.truth_m + 15.0)[:, None], batch, sigma_m=40.0)
    refiner = Refiner(reader, rule())
    together = refiner.refine(posterior, batch, reports)
    one = slice(2, 3)
    alone = refiner.refine(posterior[one], batch[one], reports[one])
    torch.testing.assert_close(alone.point_m[0], together.point_m[2], atol=0.5, rtol=0)


def test_a_rule_that_never_acts_moves_nothing(reader, drawn):
    reports, batch = drawn
    posterior = posterior_at((batch.truth_m + 15.0)[:, None], batch, sigma_m=40.0)
    found = Refiner(reader, RefinementRule.never()).refine(posterior, batch, reports)
    assert not found.acted.any()
    torch.testing.assert_close(found.point_m, posterior.point_and_spread()[0])


def test_few_reports_teach_it_to_keep_still(reader, drawn):
    """Six fixes cannot show that under 5% of them get worse, however well they fare."""
    reports, batch = drawn
    posterior = posterior_at((batch.truth_m + 21.0)[:, None], batch, sigma_m=40.0)
    steps = []
    refiner = Refiner.fit(reader, [(posterior, batch, reports)], lambda *s: steps.append(s))
    assert not refiner.rule.acts
    assert "none of" in refiner.rule.note
    assert "6 calibration reports" in refiner.rule.note
    assert [s[0] for s in steps] == list(range(1, len(steps) + 1))
    with pytest.raises(ReportError, match="calibration"):
        Refiner.fit(reader, [])


def test_where_none_is_wide_enough_all_are_left_alone(reader, drawn):
    reports, batch = drawn
    posterior = posterior_at((batch.truth_m + 15.0)[:, None], batch, sigma_m=5.0)
    found = Refiner(reader, rule(spread_m=1e4)).refine(posterior, batch, reports)
    assert not found.acted.any()
    torch.testing.assert_close(found.point_m, found.unrefined_m)
