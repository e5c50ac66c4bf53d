"""The physics term: what it is at places that can be computed by hand, and its gradient."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up_world import default_atlas, draw_reports
from scipy.special import ndtr

from ueloc_core.localization.network import PosteriorNetwork
from ueloc_core.localization.physics import bilinear, physics_loss
from ueloc_core.localization.windows import WindowReader
from ueloc_core.measurement.model import MapError, MeasurementModel
from ueloc_core.measurement.reports import SS_RSRP
from ueloc_core.measurement.scenarios import SCENARIOS

COUNT, COMPONENTS = 8, 8
ERROR = MapError(core_db=1.0, unhit_dbm=-135.0, unhit_db=8.0, tail_logit=-3.0, tail_db=10.0)
FLOATS = ("level_dbm", "rsrp_dbm", "se_db", "noise_db", "evidence")


def model_of(error):
    city = default_atlas().city
    settings = city.measurements.model_copy(update={"scenarios": dict.fromkeys(SCENARIOS, 1.0)})
    return MeasurementModel(settings, city.radio, error)


@pytest.fixture(scope="module")
def reader():
    return WindowReader(default_atlas(), model_of(MapError.none()))


@pytest.fixture(scope="module")
def read(reader):
    """Windows of reports that hold everything, of terminals inside, in double precision."""
    batch, x_m, y_m = draw_reports(reader.atlas, 40, seed=6, scenarios={"full": 1.0})
    truth = reader.frame_positions(batch.sector[:, 0].numpy(), x_m, y_m)
    inside = (np.abs(truth) < 110).all(axis=1) & (batch.heard.sum(dim=1) > 2).numpy()
    inside &= (batch.ta >= 0).numpy() & (batch.aoa >= 0).numpy() & (batch.beam[:, 0] >= 0).numpy()
    chosen = np.flatnonzero(inside)[:COUNT]
    assert len(chosen) == COUNT
    found = reader.read(batch[torch.from_numpy(chosen)], truth[chosen])
    assert (found.evidence.amin(dim=(1, 2)) < -5).all()
    return replace(found, **{name: getattr(found, name).double() for name in FLOATS})


@pytest.fixture(scope="module")
def posterior(read):
    """Posteriors whose components, of like masses, lie some way from the terminals."""
    torch.manual_seed(3)
    network = PosteriorNetwork(channels=12, components=COMPONENTS, cell_m=4.0).eval()
    with torch.no_grad():
        found, _ = network(replace(read, **{n: getattr(read, n).float() for n in FLOATS}))
    generator = torch.Generator().manual_seed(4)
    away = torch.randn(COUNT, COMPONENTS, 2, generator=generator, dtype=torch.float64)
    mean = (read.truth_m[:, None] + 20 * away).clamp(-120, 120)
    mass = torch.randn(COUNT, 256, generator=generator, dtype=torch.float64)
    log_mass = torch.log_softmax(mass, dim=1).reshape(COUNT, 16, 16)
    return replace(found, mean_m=mean, log_mass=log_mass)


def test_by_hand_at_centres_of_grid_cells(read, posterior):
    """One component on one cell: its map values alone, without an error of the map.

    Each level is Gaussian around the mapped one; its variance is that of fading and accuracy, of
    the gain offset and of shadowing. Where no ray arrives the probability is the least there is.
    """
    model = model_of(MapError.none())
    settings = model.settings
    shared = settings.terminal.gain_sigma_db**2 + settings.shadowing.sigma_db**2
    row, column = np.random.default_rng(5).integers(0, 64, (2, COUNT))
    centre = torch.from_numpy((np.stack([column, row], axis=1) + 0.5 - 32) * 4.0)
    mean = centre[:, None].expand(COUNT, COMPONENTS, 2)
    found = physics_loss(replace(posterior, mean_m=mean), read, model)
    expected, unknown = [], 0
    for i in range(COUNT):
        at = (i, slice(None), row[i], column[i])
        mapped, noise = (getattr(read, n)[at].numpy() for n in ("rsrp_dbm", "noise_db"))
        code, present = read.rsrp_code[i].numpy(), read.present[i].numpy()
        sigma = np.sqrt(noise**2 + shared)
        low = SS_RSRP.lower_edge(code)
        inside = ndtr((low + 1 - mapped) / sigma) - ndtr((low - mapped) / sigma)
        unknown += np.isnan(mapped[present]).sum()
        log_prob = np.log(np.maximum(np.nan_to_num(inside), 1e-20))[present].sum()
        total = log_prob + float(read.evidence[i, row[i], column[i]])
        expected.append(-total / present.sum())
    assert 0 < unknown < 20
    assert float(found) == pytest.approx(np.mean(expected), rel=1e-4)


def test_it_is_least_where_the_report_fits(read, posterior):
    """Components put on the truth explain the report better than components put elsewhere."""
    model = model_of(ERROR)
    place = read.truth_m[:, None].double().expand_as(posterior.mean_m)
    on_truth = physics_loss(replace(posterior, mean_m=place), read, model)
    away = physics_loss(replace(posterior, mean_m=-place), read, model)
    assert on_truth < away - 0.5


def test_evidence_adds_its_value_at_the_means(read, posterior):
    """Per reported sector, weighed as the components are."""
    model = model_of(ERROR)
    silent = replace(read, evidence=torch.zeros_like(read.evidence))
    added = physics_loss(posterior, read, model) - physics_loss(posterior, silent, model)
    told = bilinear(read.evidence[:, None], posterior.mean_m, 4.0)[:, 0]
    weight = posterior.weights / posterior.weights.sum(dim=1, keepdim=True)
    expected = -((weight * told).sum(dim=1) / read.present.sum(dim=1)).mean()
    assert float(expected) > 0.1
    torch.testing.assert_close(added, expected)


@pytest.mark.parametrize("error", [MapError.none(), ERROR], ids=["no map error", "map error"])
@pytest.mark.parametrize("told", [True, False], ids=["evidence", "levels alone"])
def test_its_gradient_is_that_of_differences(read, posterior, error, told):
    """By the means and by the masses, central differences in double precision."""
    model = model_of(error)
    batch = read if told else replace(read, evidence=torch.zeros_like(read.evidence))
    mean = posterior.mean_m.clone().requires_grad_()
    log_mass = posterior.log_mass.clone().requires_grad_()

    def loss(mean_m, log_mass):
        return physics_loss(replace(posterior, mean_m=mean_m, log_mass=log_mass), batch, model)

    by_mean, by_mass = torch.autograd.grad(loss(mean, log_mass), (mean, log_mass))
    assert torch.isfinite(by_mean).all()
    assert torch.isfinite(by_mass).all()
    step = 1e-5
    with torch.no_grad():
        for index in np.ndindex(COUNT, COMPONENTS, 2):
            moved = torch.zeros_like(mean)
            moved[index] = step
            slope = (loss(mean + moved, log_mass) - loss(mean - moved, log_mass)) / (2 * step)
            torch.testing.assert_close(by_mean[index], slope, atol=1e-6, rtol=1e-4)
        for i in range(COUNT):
            for k in range(COMPONENTS):
                block = divmod(int(posterior.top[i, k]), log_mass.shape[-1])
                moved = torch.zeros_like(log_mass)
                moved[(i, *block)] = step
                slope = (loss(mean, log_mass + moved) - loss(mean, log_mass - moved)) / (2 * step)
                torch.testing.assert_close(by_mass[(i, *block)], slope, atol=1e-6, rtol=1e-4)
    assert (by_mean.abs().sum(dim=2) > 1e-5).double().mean() > 0.5
    assert float(by_mass.abs().sum()) == pytest.approx(
        float(by_mass.flatten(1).gather(1, posterior.top).abs().sum())
    )


def test_a_step_along_the_gradient_raises_the_evidence(read, posterior):
    """With levels that say nothing the means climb to where timing, angle and beams fit."""
    model = model_of(ERROR)
    bare = replace(read, rsrp_code=torch.full_like(read.rsrp_code, -1))
    mean = posterior.mean_m.clone().requires_grad_()
    physics_loss(replace(posterior, mean_m=mean), bare, model).backward()
    size = mean.grad.norm(dim=2, keepdim=True)
    sloped = size[..., 0] > 1e-9
    stepped = mean.detach() - 0.05 * mean.grad / size.clamp_min(1e-12)
    before, after = (
        bilinear(read.evidence[:, None], place, 4.0)[:, 0] for place in (mean.detach(), stepped)
    )
    assert sloped.float().mean() > 0.5
    assert ((after - before)[sloped] > 0).float().mean() > 0.95
