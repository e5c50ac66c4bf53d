"""What the losses ask for is the posterior: a linear-Gaussian one is found by training.

A terminal stands around the window's centre (Gaussian prior), and its report holds its place
with Gaussian noise. So the posterior is Gaussian, its mean a multiple of the report. What learns
has numbers for both stages, all wrong at the start.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_up_training import city_with
from scipy import stats
from torch import nn

from ueloc_core.evaluation.diagnostics import Calibration, diagnose_coverage
from ueloc_core.evaluation.ranks import hpd_level
from ueloc_core.localization.losses import coarse_loss, nll_loss
from ueloc_core.localization.posterior import EVEN_SHARE, Posterior
from ueloc_core.localization.trainer import PosteriorTask

CELL_M, CELLS, SIDE = 4.0, 32, 8
BLOCK_M, HALF_M = 16.0, 64.0
PRIOR_M, NOISE_M = 14.0, 12.0
SHRINK = PRIOR_M**2 / (PRIOR_M**2 + NOISE_M**2)
SIGMA_M = PRIOR_M * NOISE_M / (PRIOR_M**2 + NOISE_M**2) ** 0.5
STEPS, BATCH = 250, 128


class Toy(nn.Module):
    """Blocks by their distance from one multiple of the report, a component on another."""

    def __init__(self):
        super().__init__()
        self.coarse = nn.Parameter(torch.tensor([0.3, 6.5]))  # multiple, logarithm of a variance
        self.fine = nn.Parameter(torch.tensor([0.3, 6.5]))

    def forward(self, batch):
        count = len(batch.tokens)
        axis = (torch.arange(SIDE) + 0.5 - SIDE / 2) * BLOCK_M
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        centre = torch.stack([x, y], dim=-1).reshape(1, -1, 2)
        off = centre - self.coarse[0] * batch.tokens[:, None]
        logit = -off.square().sum(dim=2) / 2 / self.coarse[1].exp()
        outside = torch.full((count, 1), -12.0)
        mass = torch.log_softmax(torch.cat([logit, outside + logit.logsumexp(1, True)], 1), dim=1)
        blocks = SIDE**2
        mean = (self.fine[0] * batch.tokens)[:, None].expand(-1, blocks, -1)
        covariance = self.fine[1].exp() * torch.eye(2).expand(count, blocks, 2, 2)
        posterior = Posterior(
            log_mass=mass[:, :-1].reshape(count, SIDE, SIDE),
            log_outside=mass[:, -1],
            top=torch.arange(blocks).expand(count, -1),
            mean_m=mean,
            covariance_m2=covariance,
            outdoor=torch.ones(count, CELLS, CELLS, dtype=torch.bool),
            outside_m2=torch.full((count,), 1e4),
            cell_m=CELL_M,
        )
        return posterior, mass


def reports(count, seed):
    """What a batch holds: reported places as tokens, and the true ones."""
    rng = np.random.default_rng(seed)
    truth = PRIOR_M * rng.standard_normal((count, 2))
    told = truth + NOISE_M * rng.standard_normal((count, 2))
    tokens, truth = (torch.from_numpy(v).float() for v in (told, truth))
    return SimpleNamespace(tokens=tokens, truth_m=truth)


@pytest.fixture(scope="module")
def toy():
    """Trained by the stage's own losses, optimiser and schedule."""
    config = city_with(physics_weight=0.0, learning_rate=0.1, weight_decay=0.0).training
    network = Toy()
    task = PosteriorTask(network, config, STEPS)
    made = task.configure_optimizers()
    optimiser, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    for step in range(STEPS):
        loss = task.training_step(reports(BATCH, [1, step]), step)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval()


def test_both_stages_find_the_exact_posterior(toy):
    multiple, log_variance = (v.tolist() for v in torch.stack([toy.coarse, toy.fine]).T)
    assert multiple == pytest.approx([SHRINK, SHRINK], abs=0.03)
    assert log_variance[1] == pytest.approx(np.log(SIGMA_M**2), abs=0.08)
    # a block's centre stands for all of it
    assert log_variance[0] == pytest.approx(np.log(SIGMA_M**2 + BLOCK_M**2 / 12), abs=0.15)


@torch.no_grad()
def test_the_loss_is_the_exact_posterior_s(toy):
    """But for the share that is spread over blocks, and blocks' masses to a hundredth of a nat."""
    held_back = reports(4000, 7)
    posterior, coarse = toy(held_back)
    off = (held_back.truth_m - SHRINK * held_back.tokens).double().numpy()
    exact = -stats.norm(0, SIGMA_M).logpdf(off).sum(axis=1).mean()
    found = float(nll_loss(posterior, held_back.truth_m))
    assert exact - 0.01 < found < exact - np.log(1 - EVEN_SHARE) + 0.02
    edges = torch.linspace(-HALF_M, HALF_M, SIDE + 1).numpy()
    place = [SHRINK * held_back.tokens[:, a, None].numpy() for a in (0, 1)]
    along = [np.diff(stats.norm.cdf((edges - p) / SIGMA_M), axis=1) for p in place]
    blocks = (along[1][:, :, None] * along[0][:, None, :]).reshape(len(off), -1)
    beyond = (1 - blocks.sum(axis=1)).clip(1e-12)
    mass = torch.from_numpy(np.log(np.c_[blocks, beyond].clip(1e-30)))
    best = float(coarse_loss(mass, held_back.truth_m, CELL_M))
    assert best - 0.02 < float(coarse_loss(coarse, held_back.truth_m, CELL_M)) < best + 0.03


@torch.no_grad()
@pytest.mark.parametrize(
    ("scale", "verdict"),
    [
        (1.0, Calibration.CALIBRATED),
        (4.0, Calibration.CONSERVATIVE),
        (0.25, Calibration.OVERCONFIDENT),
    ],
)
def test_what_is_learned_is_calibrated_and_other_widths_are_not(toy, scale, verdict):
    """By the coverage of fresh terminals, with the component as it is, too wide and too narrow."""
    held_back = reports(250, 8)
    inside = (held_back.truth_m.abs() < HALF_M).all(dim=1)
    mass = toy(held_back)[0].calibrated(1.0, scale).raster().double().numpy()
    column, row = ((held_back.truth_m + HALF_M) / CELL_M).floor().long()[inside].T.numpy()
    u = np.random.default_rng(9).random(int(inside.sum()))
    assert diagnose_coverage(hpd_level(mass[inside.numpy()], row, column, u)) is verdict
