"""The network: what its answer may not depend on, and what it must take."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from made_up_world import build_atlas, default_atlas, draw_reports, made_up_city

from ueloc_core.localization.network import PosteriorNetwork
from ueloc_core.localization.physics import physics_loss
from ueloc_core.localization.training import coarse_loss
from ueloc_core.localization.windows import WindowBatch, WindowReader
from ueloc_core.measurement.model import MapError, MeasurementModel, ReportBatch

COUNT = 6


def model_of(city):
    return MeasurementModel(city.measurements, city.radio, MapError.none())


def network(cell_m=4.0):
    """An untrained network whose corrections, zero at the start, do take part."""
    torch.manual_seed(3)
    made = PosteriorNetwork(channels=12, components=8, cell_m=cell_m)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.abs().max() == 0:
                parameter.normal_(std=0.05)
    return made.eval()


@pytest.fixture(scope="module")
def reader():
    atlas = default_atlas()
    return WindowReader(atlas, model_of(atlas.city))


@pytest.fixture(scope="module")
def reports(reader):
    """Reports with two neighbours at least."""
    batch, x_m, y_m = draw_reports(reader.atlas, 60, seed=6)
    rich = (batch.heard.sum(dim=1) > 2).nonzero()[:COUNT, 0]
    assert len(rich) == COUNT
    truth = reader.frame_positions(batch.sector[:, 0].numpy(), x_m, y_m)
    return batch[rich], truth[rich.numpy()]


def same(first, second, tolerance=1e-4):
    """The same posterior, whatever the order of its components."""
    torch.testing.assert_close(first.log_mass, second.log_mass, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(
        first.log_outside, second.log_outside, atol=tolerance, rtol=tolerance
    )
    torch.testing.assert_close(first.raster(), second.raster(), atol=1e-5, rtol=1e-2)


def slots_only(reports, order):
    return ReportBatch(
        *(getattr(reports, n)[:, order] for n in ("sector", "rsrp", "rsrq", "sinr")), reports.cqi
    )


@torch.no_grad()
def test_the_posterior_is_one(reader, reports):
    posterior, coarse = network()(reader.read(*reports))
    total = posterior.raster().double().sum(dim=(1, 2)) + posterior.log_outside.double().exp()
    torch.testing.assert_close(total, torch.ones(COUNT).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(coarse.exp().sum(dim=1), torch.ones(COUNT), atol=1e-5, rtol=0)
    assert coarse.shape == (COUNT, 16 * 16 + 1)
    assert posterior.mean_m.shape == (COUNT, 8, 2)
    eigenvalues = torch.linalg.eigvalsh(posterior.covariance_m2)
    assert float(eigenvalues.min()) > 0


@torch.no_grad()
def test_means_lie_in_their_blocks(reader, reports):
    posterior, _ = network()(reader.read(*reports))
    block_m = 16.0
    corner = torch.stack([posterior.top % 16, posterior.top // 16], dim=-1) * block_m - 128
    inner = posterior.mean_m - corner
    assert float(inner.min()) >= 0
    assert float(inner.max()) <= block_m


@torch.no_grad()
@pytest.mark.parametrize("seed", [0, 1])
def test_order_of_neighbours_never_matters(reader, reports, seed):
    batch, truth = reports
    order = [0, *(1 + np.random.default_rng(seed).permutation(7))]
    made = network()
    plain, turned = reader.read(batch, truth), reader.read(slots_only(batch, order), truth)
    torch.testing.assert_close(turned.tokens, plain.tokens[:, order])
    np.testing.assert_array_equal(turned.rsrp_dbm, plain.rsrp_dbm[:, order])
    same(made(plain)[0], made(turned)[0])


@torch.no_grad()
def test_the_answer_depends_on_the_neighbours(reader, reports):
    batch, truth = reports
    made = network()
    alone = replace(batch, sector=torch.where(torch.arange(8) > 0, -1, batch.sector))
    alone = replace(
        alone,
        **{n: torch.where(alone.heard, getattr(batch, n), -1) for n in ("rsrp", "rsrq", "sinr")},
    )
    change = (
        made(reader.read(batch, truth))[0].log_mass - made(reader.read(alone, truth))[0].log_mass
    )
    assert float(change.abs().mean()) > 0.05


@torch.no_grad()
def test_a_batch_is_its_reports_one_by_one(reader, reports):
    batch, truth = reports
    made = network()
    together = made(reader.read(batch, truth))[0]
    for i in range(COUNT):
        alone = made(reader.read(batch[i : i + 1], truth[i : i + 1]))[0]
        torch.testing.assert_close(alone.log_mass[0], together.log_mass[i], atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("slots", range(1, 9))
def test_any_number_of_slots(reader, reports, slots):
    """A report of k sectors is the same in k slots as in eight of which the rest is empty."""
    batch, truth = reports
    short = slots_only(batch, list(range(slots)))
    padded = ReportBatch(
        *(
            torch.nn.functional.pad(getattr(short, n), (0, 8 - slots), value=-1)
            for n in ("sector", "rsrp", "rsrq", "sinr")
        ),
        batch.cqi,
    )
    made = network()
    first, second = (made(reader.read(r, truth))[0] for r in (short, padded))
    assert torch.isfinite(first.log_mass).all()
    same(first, second)


@torch.no_grad()
def test_missing_features(reader, reports):
    """Neither RSRQ nor SINR nor CQI, and a serving sector without a level."""
    batch, truth = reports
    none = torch.full_like(batch.rsrq, -1)
    bare = replace(batch, rsrq=none, sinr=none, cqi=torch.full_like(batch.cqi, -1))
    posterior, _ = network()(reader.read(bare, truth))
    assert torch.isfinite(posterior.log_density(torch.zeros(COUNT, 2))).all()


@torch.no_grad()
def test_the_truth_is_not_read(reader, reports):
    batch, truth = reports
    made = network()
    with_truth, without = made(reader.read(batch, truth))[0], made(reader.read(batch))[0]
    torch.testing.assert_close(with_truth.log_mass, without.log_mass, atol=0, rtol=0)
    torch.testing.assert_close(with_truth.mean_m, without.mean_m, atol=0, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("size_m", [128, 160, 224, 384])
def test_any_window_size(size_m):
    """One network for windows of any whole number of blocks, odd ones included."""
    city = made_up_city(window={"size_m": size_m, "shift_m": 40})
    atlas = build_atlas(city)
    reader = WindowReader(atlas, model_of(city))
    batch, _, _ = draw_reports(atlas, 3)
    posterior, coarse = network()(reader.read(batch))
    side = size_m // 16
    assert coarse.shape == (3, side**2 + 1)
    assert posterior.raster().shape == (3, size_m // 4, size_m // 4)
    total = posterior.raster().double().sum(dim=(1, 2)) + posterior.log_outside.double().exp()
    torch.testing.assert_close(total, torch.ones(3).double(), atol=1e-5, rtol=0)


@torch.no_grad()
def test_indoors_is_next_to_impossible(reader, reports):
    posterior, _ = network()(reader.read(*reports))
    blocks = posterior.outdoor.reshape(COUNT, 16, 4, 16, 4).any(dim=4).any(dim=2)
    assert float((posterior.log_mass.exp() * ~blocks).sum(dim=(1, 2)).max()) < 0.01


def test_gradients_reach_every_parameter(reader, reports):
    batch = reader.read(*reports)
    made = network().train()
    posterior, coarse = made(batch)
    loss = coarse_loss(coarse, batch.truth_m, 4.0) - posterior.log_density(batch.truth_m).mean()
    loss = loss + physics_loss(posterior, batch, model_of(reader.atlas.city))
    loss.backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_coarse_loss_knows_north_and_east():
    """Row counts north, column counts east."""
    truth = torch.tensor([[-128 + 2.5 * 16, -128 + 11.5 * 16]])  # third from the west
    log_mass = torch.full((1, 257), -50.0)
    log_mass[0, 11 * 16 + 2] = 0.0
    assert float(coarse_loss(log_mass, truth, 4.0)) == 0
    assert float(coarse_loss(log_mass, truth.flip(1), 4.0)) == 50


def test_coarse_loss_of_edges():
    """Its lower and left edge belong to the window; the last class lies beyond it."""
    log_mass = torch.arange(257, dtype=torch.float32)[None]
    for truth, index in (((-128.0, -128.0), 0), ((127.99, 127.99), 255), ((128.0, 0.0), 256)):
        assert float(coarse_loss(log_mass, torch.tensor([truth]), 4.0)) == -index


@torch.no_grad()
def test_physics_loss_is_least_where_the_report_fits(reader, reports):
    """Components put on the truth explain the levels better than components put elsewhere."""
    batch, truth = reports
    inside = (np.abs(truth) < 120).all(axis=1)
    chosen = torch.from_numpy(np.flatnonzero(inside))
    read = reader.read(batch[chosen], truth[inside])
    posterior, _ = network()(read)
    model = MeasurementModel(
        reader.atlas.city.measurements,
        reader.atlas.city.radio,
        MapError(core_db=1.0, unhit_dbm=-135.0, unhit_db=8.0, tail_logit=-3.0, tail_db=10.0),
    )
    place = read.truth_m[:, None].expand_as(posterior.mean_m)
    on_truth = physics_loss(replace(posterior, mean_m=place), read, model)
    away = physics_loss(replace(posterior, mean_m=-place), read, model)
    assert on_truth < away - 0.5


def test_batches_keep_their_fields():
    assert {f.name for f in fields(WindowBatch)} >= {"tokens", "rsrp_dbm", "outdoor", "truth_m"}
