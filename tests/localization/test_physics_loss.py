"""The physics term: lookups of the maps, what it is by hand, and its gradient."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up_windows import ERROR, FITTED, inside, model_of, reader_of, silenced
from made_up_world import default_atlas
from scipy.special import ndtr

from ueloc_core.localization.physics import CellLookup, physics_loss
from ueloc_core.localization.posterior import Posterior
from ueloc_core.localization.windows import WindowReader
from ueloc_core.measurement.model import MapError
from ueloc_core.measurement.reports import SS_RSRP

COUNT, COMPONENTS = 8, 8
HALF_M = 128.0
ERRORS = {"no map error": MapError.none(), "map error": ERROR, "fitted": FITTED}


def reports_of(reader):
    """Windows of reports that hold everything, of terminals well inside."""
    batch, truth = inside(reader, 3 * COUNT, 6, "full", least_heard=3, most_m=110)
    timed = torch.nonzero(batch.ta >= 0)[:COUNT, 0]
    assert len(timed) == COUNT
    return reader.read(batch[timed], truth[timed.numpy()])


@pytest.fixture(scope="module")
def read():
    return reports_of(reader_of())


def of_error(read, error):
    """The same reports seen with another error of the maps."""
    return reader_of(error).read(read.reports, read.truth_m.double().numpy())


@pytest.fixture(scope="module")
def posterior(read):
    """Posteriors whose components, of like masses, lie some way from the terminals."""
    generator = torch.Generator().manual_seed(4)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    mean = (read.truth_m[:, None].double() + 20 * normal(COUNT, COMPONENTS, 2)).clamp(-120, 120)
    log_mass = torch.log_softmax(normal(COUNT, 256), dim=1).reshape(COUNT, 16, 16)
    return Posterior(
        log_mass=log_mass,
        log_outside=torch.full((COUNT,), -5.0, dtype=torch.float64),
        top=log_mass.flatten(1).topk(COMPONENTS, dim=1).indices,
        mean_m=mean,
        covariance_m2=(100 * torch.eye(2)).double().expand(COUNT, COMPONENTS, 2, 2),
        outdoor=torch.ones(COUNT, 64, 64, dtype=torch.bool),
        outside_m2=read.outside_m2.double(),
        cell_m=4.0,
    )


# -- the lookup ------------------------------------------------------------------------------


def test_pixel_centres_have_the_values_of_their_cells(read):
    """Of the atlas, of every heard sector, wherever its window lies."""
    atlas, reader = default_atlas(), reader_of()
    cell = np.random.default_rng(5).integers(0, 64, (COUNT, 30, 2))
    points = torch.from_numpy((cell + 0.5 - 32) * 4.0)
    levels = read.maps.levels
    found, hit = CellLookup(read, points).at(read.reports.sector, levels.mean_dbm, levels.hit)
    for i in range(COUNT):
        frame = reader.frames[int(read.reports.sector[i, 0])]
        place = frame.x_centres_m[cell[i, :, 0]], frame.y_centres_m[cell[i, :, 1]]
        heard = read.reports.sector[i][read.present[i]]
        mapped = atlas.maps_at(*place)[0].T[heard.numpy()]
        known = np.isfinite(mapped)
        np.testing.assert_array_equal(hit[i, : len(heard)] > 0.5, known)
        np.testing.assert_allclose(found[i, : len(heard)][known], mapped[known], rtol=1e-6)


def test_registration_is_within_a_twentieth_of_a_cell():
    """A plane over the city is looked up where it is, at any place of any window."""
    atlas = default_atlas()
    slopes = np.array([0.03, -0.05])  # dB a metre, east and north
    origin_m = np.array(atlas.ground.bounds_m[:2])

    def plane(place_m):
        return -80 + (place_m - origin_m) @ slopes

    layers = []
    for window in atlas.windows:
        x, y = np.meshgrid(window.x_centres_m, window.y_centres_m)
        layers.append(plane(np.stack([x, y], axis=-1)))
    tilted = replace(atlas, rsrp_dbm=np.array(layers, np.float32))
    reader = WindowReader(tilted, model_of())
    batch = reports_of(reader)
    generator = torch.Generator().manual_seed(7)
    points = (torch.rand(COUNT, 50, 2, generator=generator, dtype=torch.float64) - 0.5) * 248
    points.requires_grad_()
    serving = batch.reports.sector[:, :1]
    (found,) = CellLookup(batch, points).at(serving, batch.maps.levels.mean_dbm)
    centre_m = np.array([reader.frames[int(s)].centre_m for s in serving[:, 0]])
    expected = plane(centre_m[:, None] + points.detach().numpy())
    off_cells = np.abs(found[:, 0].detach().numpy() - expected) / (4 * np.abs(slopes).min())
    assert off_cells.max() < 0.05
    found.sum().backward()
    expected = torch.from_numpy(slopes).expand_as(points)
    torch.testing.assert_close(points.grad, expected, atol=1e-3, rtol=0.02)


def test_the_gradient_of_a_lookup_is_that_of_differences(read):
    """Where the four cells around a point differ, and across the borders of blocks."""
    generator = torch.Generator().manual_seed(8)
    points = (torch.rand(COUNT, 12, 2, generator=generator, dtype=torch.float64) - 0.5) * 240

    def looked_up(at_m):
        return CellLookup(read, at_m).at(read.reports.sector, read.maps.levels.mean_dbm)[0]

    points.requires_grad_()
    (slope,) = torch.autograd.grad(looked_up(points).sum(), points)
    step_m = 1e-4
    for axis in (0, 1):
        move = step_m * torch.eye(2, dtype=torch.float64)[axis]
        with torch.no_grad():
            change = looked_up(points + move) - looked_up(points - move)
        expected = change.sum(dim=1) / (2 * step_m)
        torch.testing.assert_close(slope[..., axis], expected, atol=1e-3, rtol=1e-4)
    assert float(slope.abs().median()) > 0.1


def test_beyond_its_window_a_sector_is_mapped_nowhere(read):
    far = torch.tensor([[[5000.0, 0.0], [0.0, -5000.0]]]).expand(COUNT, -1, -1)
    levels = read.maps.levels
    mean, hit = CellLookup(read, far).at(read.reports.sector, levels.mean_dbm, levels.hit)
    torch.testing.assert_close(mean, torch.full_like(mean, levels.unhit[0]))
    assert (hit == 0).all()


# -- the term --------------------------------------------------------------------------------


def test_by_hand_at_centres_of_grid_cells(read, posterior):
    """One component on one cell: its map values alone, without an error of the map.

    Each level is Gaussian around the mapped one; its variance is that of fading and accuracy, of
    the gain offset and of shadowing. Where no ray arrives the probability is the least there is.
    """
    batch, reader = of_error(read, MapError.none()), reader_of(MapError.none())
    settings = batch.model.settings
    shared = settings.terminal.gain_sigma_db**2 + settings.shadowing.sigma_db**2
    row, column = np.random.default_rng(5).integers(0, 64, (2, COUNT))
    centre = torch.from_numpy((np.stack([column, row], axis=1) + 0.5 - 32) * 4.0)
    mean = centre[:, None].expand(COUNT, COMPONENTS, 2)
    found = physics_loss(replace(posterior, mean_m=mean), batch)
    expected, unknown = [], 0
    for i in range(COUNT):
        one = batch.reports[i : i + 1]
        serving = int(one.sector[0, 0])
        frame = reader.frames[serving]
        x_m, y_m = frame.x_centres_m[column[i : i + 1]], frame.y_centres_m[row[i : i + 1]]
        heard = one.heard[0]
        maps = reader.places.levels_at(x_m, y_m)
        mapped, noise = (
            v[0, one.sector[0][heard], 0].numpy() for v in (maps.rsrp_dbm, maps.noise_db)
        )
        sigma = np.sqrt(noise.astype(float) ** 2 + shared)
        low = SS_RSRP.lower_edge(one.rsrp[0][heard].numpy())
        within = ndtr((low + 1 - mapped) / sigma) - ndtr((low - mapped) / sigma)
        unknown += np.isnan(mapped).sum()
        total = np.log(np.maximum(np.nan_to_num(within), 1e-20)).sum()
        at = reader.places.serving_at(np.array([serving]), x_m, y_m)
        sinr = batch.model.expected_uplink_db(one, at)
        total += float(batch.model.timing.closed(one, at.delays, sinr)[0, 0])
        expected.append(-total / int(heard.sum()))
    assert 0 < unknown < 20
    assert float(found) == pytest.approx(np.mean(expected), rel=2e-3)  # noise is stored in halves


def test_it_is_least_where_the_report_fits(read, posterior):
    """Components put on the truth explain the report better than components put elsewhere."""
    place = read.truth_m[:, None].double().expand_as(posterior.mean_m)
    on_truth = physics_loss(replace(posterior, mean_m=place), read)
    away = physics_loss(replace(posterior, mean_m=-place), read)
    assert on_truth < away - 0.5


def test_timing_adds_its_value_at_the_means(read, posterior):
    """Per reported sector, weighed as the components are; at centres of cells."""
    reader = reader_of()
    cell = (posterior.mean_m / 4 + 32).floor().long()
    at_centres = replace(posterior, mean_m=((cell + 0.5 - 32) * 4).double())
    silent = replace(read, reports=silenced(read.reports, ("ta", "ta_offset")))
    added = physics_loss(at_centres, read) - physics_loss(at_centres, silent)
    weight = posterior.weights / posterior.weights.sum(dim=1, keepdim=True)
    expected = torch.zeros((), dtype=torch.float64)
    everywhere = np.ones((64, 64), dtype=bool)
    for i in range(COUNT):
        one = read.reports[i : i + 1]
        serving = int(one.sector[0, 0])
        maps = reader.places.serving_in(serving, reader.frames[serving], everywhere)
        told = read.model.timing.log_prob(
            one, maps.delays, read.model.expected_uplink_db(one, maps)
        )
        at = cell[i, :, 1] * 64 + cell[i, :, 0]
        expected -= (weight[i] * told[0, at]).sum() / int(one.heard.sum()) / COUNT
    assert float(expected) > 0.1
    torch.testing.assert_close(added, expected, atol=0.01, rtol=0.01)


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("told", [True, False], ids=["timing", "levels alone"])
def test_its_gradient_is_that_of_differences(read, posterior, error, told):
    """By the means and by the masses, central differences in double precision."""
    batch = of_error(read, error)
    if not told:
        batch = replace(batch, reports=silenced(batch.reports, ("ta", "ta_offset")))
    mean = posterior.mean_m.clone().requires_grad_()
    log_mass = posterior.log_mass.clone().requires_grad_()

    def loss(mean_m, log_mass):
        return physics_loss(replace(posterior, mean_m=mean_m, log_mass=log_mass), batch)

    by_mean, by_mass = torch.autograd.grad(loss(mean, log_mass), (mean, log_mass))
    assert torch.isfinite(by_mean).all()
    assert torch.isfinite(by_mass).all()
    step, rng = 1e-5, np.random.default_rng(6)
    with torch.no_grad():
        for _ in range(10):
            i, k, axis = rng.integers([COUNT, COMPONENTS, 2])
            moved = torch.zeros_like(mean)
            moved[i, k, axis] = step
            slope = (loss(mean + moved, log_mass) - loss(mean - moved, log_mass)) / (2 * step)
            torch.testing.assert_close(by_mean[i, k, axis], slope, atol=1e-6, rtol=1e-4)
            block = divmod(int(posterior.top[i, k]), log_mass.shape[-1])
            moved = torch.zeros_like(log_mass)
            moved[(i, *block)] = step
            slope = (loss(mean, log_mass + moved) - loss(mean, log_mass - moved)) / (2 * step)
            torch.testing.assert_close(by_mass[(i, *block)], slope, atol=1e-6, rtol=1e-4)
    assert (by_mean.abs().sum(dim=2) > 1e-5).double().mean() > 0.5
    assert float(by_mass.abs().sum()) == pytest.approx(
        float(by_mass.flatten(1).gather(1, posterior.top).abs().sum())
    )


def test_a_step_along_the_gradient_makes_the_timing_likelier(read, posterior):
    """With levels that say nothing the means climb to where the timing fits."""
    mute = replace(read.reports, rsrp=torch.full_like(read.reports.rsrp, -1))
    bare = replace(read, reports=mute)
    mean = posterior.mean_m.clone().requires_grad_()
    physics_loss(replace(posterior, mean_m=mean), bare).backward()
    size = mean.grad.norm(dim=2, keepdim=True)
    assert (size[..., 0] > 1e-9).float().mean() > 0.5
    stepped = mean.detach() - 0.05 * mean.grad / size.clamp_min(1e-12)
    for i in range(COUNT):
        one = bare[i : i + 1]
        of_one = posterior[i : i + 1]
        before, after = (
            physics_loss(replace(of_one, mean_m=m[i : i + 1]), one)
            for m in (mean.detach(), stepped)
        )
        assert after <= before
