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
from ueloc_core.measurement.batch import ReportBatch, missing_code
from ueloc_core.measurement.model import MapError, MeasurementModel
from ueloc_core.measurement.scenarios import SCENARIOS, features_of, scenario_code

COUNT = 6
PER_SLOT = ("sector", "rsrp", "rsrq", "sinr")
EVERY_SCENARIO = dict.fromkeys(SCENARIOS, 1.0)
ERROR = MapError(core_db=1.0, unhit_dbm=-135.0, unhit_db=8.0, tail_logit=-3.0, tail_db=10.0)


def model_of(city, error=None):
    settings = city.measurements.model_copy(update={"scenarios": EVERY_SCENARIO})
    return MeasurementModel(settings, city.radio, error or MapError.none())


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


def rich_reports(reader, scenario):
    """Reports of a scenario with two neighbours at least, and where their terminals are."""
    batch, x_m, y_m = draw_reports(reader.atlas, 60, seed=6, scenarios={scenario: 1.0})
    rich = (batch.heard.sum(dim=1) > 2).nonzero()[:COUNT, 0]
    assert len(rich) == COUNT
    truth = reader.frame_positions(batch.sector[:, 0].numpy(), x_m, y_m)
    return batch[rich], truth[rich.numpy()]


@pytest.fixture(scope="module")
def reports(reader):
    return rich_reports(reader, "full")


@pytest.fixture(scope="module", params=SCENARIOS)
def of_scenario(request, reader):
    """A scenario's name, and reports of it."""
    return request.param, *rich_reports(reader, request.param)


def same(first, second, tolerance=1e-4):
    """The same posterior, whatever the order of its components."""
    torch.testing.assert_close(first.log_mass, second.log_mass, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(
        first.log_outside, second.log_outside, atol=tolerance, rtol=tolerance
    )
    torch.testing.assert_close(first.raster(), second.raster(), atol=1e-5, rtol=1e-2)


def in_slots(reports, order):
    """The reports with other slots, or the same in another order."""
    return replace(reports, **{n: getattr(reports, n)[:, order] for n in PER_SLOT})


def padded(reports):
    """The reports in eight slots."""
    empty = (0, 8 - reports.sector.shape[1])
    return replace(
        reports,
        **{n: torch.nn.functional.pad(getattr(reports, n), empty, value=-1) for n in PER_SLOT},
    )


def silenced(reports, names):
    """The reports as if some fields had not been measured."""
    gone = {n: torch.full_like(getattr(reports, n), missing_code(n)) for n in names}
    return replace(reports, **gone)


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
def test_order_of_neighbours_never_matters(reader, of_scenario, seed):
    _, batch, truth = of_scenario
    order = [0, *(1 + np.random.default_rng(seed).permutation(7))]
    made = network()
    plain, turned = reader.read(batch, truth), reader.read(in_slots(batch, order), truth)
    torch.testing.assert_close(turned.tokens, plain.tokens[:, order])
    for name in ("rsrp_dbm", "se_db", "noise_db"):
        np.testing.assert_array_equal(getattr(turned, name), getattr(plain, name)[:, order])
    np.testing.assert_array_equal(turned.evidence, plain.evidence)
    (first, _), (second, _) = made(plain), made(turned)
    same(first, second)
    losses = [physics_loss(p, read, reader.model) for p, read in ((first, plain), (second, turned))]
    torch.testing.assert_close(*losses, atol=1e-3, rtol=1e-3)


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


def cut(read, slots):
    """A batch with its first slots alone."""
    of_slots = ("tokens", "present", "level_dbm", "rsrp_code")
    rasters = ("rsrp_dbm", "se_db", "noise_db", "half_rsrp_dbm", "half_se_db")
    return replace(read, **{n: getattr(read, n)[:, :slots] for n in (*of_slots, *rasters)})


@torch.no_grad()
@pytest.mark.parametrize("slots", range(1, 9))
def test_any_number_of_slots(reader, reports, slots):
    """A report of k sectors is the same in k slots as in eight of which the rest is empty."""
    batch, truth = reports
    made = network()
    read = reader.read(padded(in_slots(batch, list(range(slots)))), truth)
    first, second = (made(r)[0] for r in (cut(read, slots), read))
    assert torch.isfinite(first.log_mass).all()
    same(first, second)


# -- what a report lacks ----------------------------------------------------------------------

FIELDS = {"beams": ("beam", "beam_level")}  # the others are named as their features are


def check_sound(posterior, read, model):
    """A posterior that sums to one, is finite everywhere, and has a finite physics loss."""
    count = len(read)
    total = posterior.raster().double().sum(dim=(1, 2)) + posterior.log_outside.double().exp()
    torch.testing.assert_close(total, torch.ones(count).double(), atol=1e-5, rtol=0)
    for place in (torch.zeros(count, 2), read.truth_m, torch.full((count, 2), 1e4)):
        assert torch.isfinite(posterior.log_density(place)).all()
    assert torch.isfinite(physics_loss(posterior, read, model))


@torch.no_grad()
def test_every_scenario_is_taken(reader, of_scenario):
    """The reports hold what their scenario has and lack the rest; the network takes them all."""
    name, batch, truth = of_scenario
    assert (batch.scenario == scenario_code(name)).all()
    for feature in ("sinr", "ta", "aoa", "beams", "ul_sinr", "bler"):
        field = FIELDS.get(feature, (feature,))[0]
        measured = bool((getattr(batch, field) != missing_code(field)).any())
        assert measured == (feature in features_of(name)), feature
    read = reader.read(batch, truth)
    check_sound(network()(read)[0], read, model_of(reader.atlas.city, ERROR))


@torch.no_grad()
@pytest.mark.parametrize(
    "feature", [f for f in features_of("full") if f != "rsrp"] + ["everything but rsrp"]
)
def test_any_feature_may_be_missing(reader, of_scenario, feature):
    """One that the scenario reports is lost, or all of them are."""
    _, batch, truth = of_scenario
    every = [n for f in features_of("full") if f != "rsrp" for n in FIELDS.get(f, (f,))]
    lost = silenced(
        batch, FIELDS.get(feature, (feature,)) if feature in features_of("full") else every
    )
    read = reader.read(lost, truth)
    check_sound(network()(read)[0], read, model_of(reader.atlas.city, ERROR))


@torch.no_grad()
@pytest.mark.parametrize("first", [0, 1])
def test_levels_may_be_missing(reader, reports, first):
    """Of the neighbours or of all sectors; timing and angle are still read."""
    batch, truth = reports
    level = torch.where(torch.arange(8) >= first, -1, batch.rsrp)
    lost = silenced(replace(batch, rsrp=level), FIELDS["beams"] if first == 0 else ())
    read = reader.read(lost, truth)
    assert float(read.evidence.abs().amax()) > 1
    check_sound(network()(read)[0], read, model_of(reader.atlas.city, ERROR))


@torch.no_grad()
def test_fields_of_one_report_bear_on_no_other(reader, of_scenario):
    """A report that lacks everything changes nothing for the one beside it in the batch."""
    _, batch, truth = of_scenario
    bare = ReportBatch.of(batch.sector[1:2], batch.rsrp[1:2])
    mixed = ReportBatch.cat([batch[:1], bare, batch[2:]])
    made = network()
    first, second = (made(reader.read(r, truth))[0] for r in (batch, mixed))
    others = [0, *range(2, COUNT)]
    torch.testing.assert_close(
        first.log_mass[others], second.log_mass[others], atol=1e-4, rtol=1e-4
    )


@torch.no_grad()
def test_the_answer_depends_on_timing_angle_and_beams(reader, reports):
    batch, truth = reports
    made = network()
    whole = made(reader.read(batch, truth))[0].log_mass
    for names in (("ta", "ta_offset"), ("aoa",), ("beam", "beam_level")):
        there = (getattr(batch, names[0]) >= 0).reshape(COUNT, -1)[:, 0]
        change = made(reader.read(silenced(batch, names), truth))[0].log_mass - whole
        assert there.any()
        assert float(change[there].abs().mean()) > 0.02, names


@torch.no_grad()
def test_an_untrained_network_weighs_the_evidence_as_bayes_does(reader, reports):
    """Evidence multiplies the blocks' masses by its exponential, all else being equal.

    Constant over blocks, and with what the context says of it silenced, for that is random
    before anything is learned; the corrections start at zero.
    """
    batch, truth = reports
    torch.manual_seed(3)
    made = PosteriorNetwork(channels=12, components=8, cell_m=4.0).eval()
    torch.nn.init.zeros_(made.local_logit.weight)
    read = reader.read(batch, truth)
    flat = replace(read, evidence=torch.zeros_like(read.evidence))
    smooth = replace(read, evidence=block_means(read.evidence))
    with_it, without = (made(r)[1][:, :-1] for r in (smooth, flat))
    known = (read.outdoor.reshape(COUNT, 16, 4, 16, 4).any(dim=4).any(dim=2)).flatten(1)
    ratio = with_it - without - smooth.evidence[:, ::4, ::4].flatten(1)
    for i in range(COUNT):
        of_report = ratio[i][known[i]]
        assert float(of_report.max() - of_report.min()) < 1e-2


def block_means(evidence):
    """Evidence made constant over blocks of 4 x 4 grid cells."""
    mean = torch.nn.functional.avg_pool2d(evidence[:, None], 4)[:, 0]
    return mean.repeat_interleave(4, 1).repeat_interleave(4, 2)


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


def test_batches_keep_their_fields():
    assert {f.name for f in fields(WindowBatch)} >= {"tokens", "rsrp_dbm", "outdoor", "truth_m"}
