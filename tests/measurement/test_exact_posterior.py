"""Simulation-based calibration: the exact grid posterior of what the model itself sampled."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.ndimage import gaussian_filter

from ueloc_core.city_sections import MeasurementConfig, RadioConfig
from ueloc_core.evaluation.metrics import Calibration, diagnose_coverage, hpd_level
from ueloc_core.measurement.model import MapError, MeasurementModel

CELLS, SECTORS, REPORTS = 40, 6, 300
ALPHA = 0.001


@pytest.fixture(scope="module")
def maps():
    """Smooth levels [dBm] of a few sectors, shape (sector, cell)."""
    rng = np.random.default_rng(11)
    noise = gaussian_filter(rng.standard_normal((SECTORS, CELLS, CELLS)), (0, 4, 4))
    level = -105 + 12 * noise / noise.std()
    return torch.from_numpy(level.reshape(SECTORS, -1).astype(np.float32))


def model(**settings):
    return MeasurementModel(MeasurementConfig(**settings), RadioConfig(), MapError.none())


@pytest.fixture(scope="module")
def simulated(maps):
    """Reports that hear something, and the cells they come from."""
    rng = np.random.default_rng(12)
    truth = rng.integers(CELLS**2, size=REPORTS + 100)
    batch = model().sample(maps[:, truth].T, torch.Generator().manual_seed(13))
    heard = batch.heard[:, 0].nonzero()[:REPORTS, 0]
    assert len(heard) == REPORTS
    assert batch.heard[heard].sum(dim=1).unique().numel() > 3
    return batch[heard], truth[heard.numpy()]


def masses(believed, batch, maps):
    log_prob = torch.cat(
        [
            believed.log_prob(batch[i : i + 50], maps[None], torch.zeros_like(maps)[None])
            for i in range(0, len(batch), 50)
        ]
    )
    return torch.softmax(log_prob.double(), dim=1).numpy().reshape(-1, CELLS, CELLS)


@pytest.fixture(scope="module")
def exact(simulated, maps):
    return masses(model(), simulated[0], maps)


def levels(mass, truth):
    u = np.random.default_rng(14).uniform(size=len(truth))
    return hpd_level(mass, truth // CELLS, truth % CELLS, u)


def test_levels_of_the_true_cell_are_uniform(simulated, exact):
    _, truth = simulated
    found = levels(exact, truth)
    assert stats.kstest(found, "uniform").pvalue > ALPHA
    assert diagnose_coverage(found) is Calibration.CALIBRATED
    # And the reports tell something: a cell of 1600 is found with far more than 1/1600.
    own = exact.reshape(len(truth), -1)[np.arange(len(truth)), truth]
    assert np.median(own) > 10 / CELLS**2


@pytest.mark.parametrize(
    ("wrong", "verdict"),
    [
        (
            {"rsrp_sigma_db": 5 / 3, "quality_sigma_db": 0.5, "interference_sigma_db": 1.0},
            "overconfident",
        ),
        (
            {"rsrp_sigma_db": 15.0, "quality_sigma_db": 3.0, "interference_sigma_db": 9.0},
            "conservative",
        ),
    ],
    ids=["three times too narrow", "three times too wide"],
)
def test_a_wrong_spread_is_found_out(simulated, maps, wrong, verdict):
    batch, truth = simulated
    found = levels(masses(model(**wrong), batch, maps), truth)
    assert stats.kstest(found, "uniform").pvalue < ALPHA
    assert diagnose_coverage(found) == verdict


def test_silence_is_needed(simulated, exact, maps):
    """Leaving the unheard sectors out of the likelihood gives another, worse answer."""
    batch, truth = simulated
    rows = np.arange(len(truth))
    deaf = []
    for i in range(len(batch)):
        heard = batch.sector[i, batch.heard[i]]
        log_prob = model().heard_log_prob(
            batch.rsrp[i, batch.heard[i]][:, None], maps[heard], torch.zeros_like(maps[heard])
        )
        deaf.append(torch.softmax(log_prob.double().sum(dim=0), 0).numpy())
    nll = [
        -np.log(mass.reshape(len(truth), -1)[rows, truth]).mean()
        for mass in (exact, np.array(deaf))
    ]
    assert nll[0] < nll[1] - 0.1
