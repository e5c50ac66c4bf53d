"""The network: that it starts as Bayes' rule, what its answer may not depend on, what it takes."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from made_up_windows import (
    ANGLE,
    BEAMS,
    ERROR,
    FITTED,
    QUALITY,
    TIMING,
    as_raster,
    drawn,
    in_slots,
    inside,
    model_of,
    reader_of,
    silenced,
)
from made_up_world import build_atlas, default_atlas, draw_reports, made_up_city

from ueloc_core.localization.baselines import GridBayes
from ueloc_core.localization.losses import coarse_loss
from ueloc_core.localization.network import INPUTS, PosteriorNetwork
from ueloc_core.localization.physics import physics_loss
from ueloc_core.localization.windows import SYMMETRIES, WindowReader, turn_raster
from ueloc_core.measurement.batch import ReportBatch, missing_code
from ueloc_core.measurement.scenarios import SCENARIOS, features_of, scenario_code

COUNT = 6
SIDE, BLOCK_M, HALF_M = 16, 16.0, 128.0
CHANNELS, COMPONENTS = 12, 8
FEATURES = tuple(f for f in features_of("full") if f != "rsrp")
FIELDS = {"beams": BEAMS}  # the others are named as their features are


def untrained(inputs="all", **options):
    torch.manual_seed(3)
    return PosteriorNetwork(CHANNELS, COMPONENTS, inputs=inputs, **options).eval()


@cache
def network(inputs="all"):
    """One whose corrections, zero at the start, do take part."""
    made = untrained(inputs)
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.abs().max() == 0:
                parameter.normal_(std=0.05)
    return made


@pytest.fixture(scope="module")
def reader():
    return reader_of()


@cache
def rich_reports(scenario, count=COUNT):
    """Reports of a scenario with two neighbours at least, and where their terminals are."""
    return inside(reader_of(), count, 6, scenario, least_heard=3)


@pytest.fixture(scope="module")
def reports():
    return rich_reports("full")


@pytest.fixture(scope="module")
def mixed():
    """Two reports of each scenario."""
    parts = [rich_reports(name, 2) for name in SCENARIOS]
    return ReportBatch.cat([batch for batch, _ in parts]), np.concatenate([t for _, t in parts])


def same(first, second, tolerance=1e-4):
    """The same posterior, whatever the order of its components."""
    torch.testing.assert_close(first.log_mass, second.log_mass, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(
        first.log_outside, second.log_outside, atol=tolerance, rtol=tolerance
    )
    torch.testing.assert_close(first.raster(), second.raster(), atol=1e-5, rtol=1e-2)


def is_one(posterior):
    total = posterior.raster().double().sum(dim=(1, 2)) + posterior.log_outside.double().exp()
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-5, rtol=0)


def check_sound(posterior, read):
    """A posterior that sums to one, is finite everywhere, and has a finite physics loss."""
    is_one(posterior)
    count = len(read)
    for place in (torch.zeros(count, 2), read.truth_m, torch.full((count, 2), 1e4)):
        assert torch.isfinite(posterior.log_density(place)).all()
    assert torch.isfinite(physics_loss(posterior, read))


# -- Bayes' rule -----------------------------------------------------------------------------

BAYES = 24  # reports of each scenario


@cache
def beside_bayes(error, scenario):
    """An untrained network beside the exact posterior, which is nine tenths in the window.

    Divergence of block masses and both NLLs, shape (3, report); and how far [m] the means of
    components are from the exact ones in their blocks, shape (component, 2), where these hold
    a hundredth of the mass.
    """
    reader = reader_of(error)
    batch, x_m, y_m = drawn(BAYES, 9, scenario)
    truth_m = reader.frame_positions(batch.sector[:, 0].numpy(), x_m, y_m)
    with torch.no_grad():
        posterior, _ = untrained()(reader.read(batch, truth_m))
    nll = -posterior.log_density(torch.from_numpy(truth_m).float()).numpy()
    bayes, found, off_m = GridBayes(reader.places, reader.model), [], []
    for i in range(BAYES):
        exact = bayes.posterior(batch[i : i + 1])
        mass = exact.in_frame(reader.frames[int(batch.sector[i, 0])])
        if mass.sum() < 0.9:
            continue
        blocks = mass.reshape(SIDE, 4, SIDE, 4).sum(axis=(1, 3)) / mass.sum()
        mine = torch.log_softmax(posterior.log_mass[i].double().flatten(), dim=0).numpy()
        divergence = (blocks.flatten() * (np.log(blocks.flatten()) - mine)).sum()
        found.append((divergence, nll[i], exact.nll_nats(x_m[i], y_m[i])))
        for top, mean_m in zip(posterior.top[i].tolist(), posterior.mean_m[i], strict=True):
            row, column = 4 * (top // SIDE), 4 * (top % SIDE)
            cells = mass[row : row + 4, column : column + 4]
            if cells.sum() > 0.01:
                inner = np.arange(4) + 0.5
                share = cells / cells.sum()
                place = (column + share.sum(axis=0) @ inner, row + share.sum(axis=1) @ inner)
                off_m.append(mean_m.numpy() - (4.0 * np.array(place) - HALF_M))
    assert len(found) > 0.8 * BAYES
    return np.array(found).T, np.array(off_m)


@pytest.mark.parametrize("error", [ERROR, FITTED], ids=["error", "fitted"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_an_untrained_network_is_bayes_rule(error, scenario):
    """On maps of any error: which block it is, and how likely the truth is on average."""
    (divergence, nll, exact), _ = beside_bayes(error, scenario)
    assert np.median(divergence) < 0.15
    assert divergence.mean() < 0.3
    assert abs(nll.mean() - exact.mean()) < 0.6


def test_components_are_registered_within_a_twentieth_of_a_cell():
    """On average; a single one is a fraction of a cell off."""
    off_m = np.concatenate([beside_bayes(ERROR, scenario)[1] for scenario in SCENARIOS])
    assert len(off_m) > 100
    assert np.abs(off_m.mean(axis=0)).max() < 0.05 * 4.0
    assert np.median(np.hypot(*off_m.T)) < 0.25 * 4.0


def test_it_is_far_from_knowing_the_window_alone(reader):
    """What the bound above is worth: mass even over the outdoor ground is nats away."""
    even = np.log(0.4 * (2 * HALF_M) ** 2)
    (_, _, exact), _ = beside_bayes(ERROR, "full")
    assert even - exact.mean() > 4


# -- a posterior -----------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("inputs", INPUTS)
def test_the_posterior_is_one(reader, reports, inputs):
    posterior, coarse = network(inputs)(reader.read(*reports))
    is_one(posterior)
    torch.testing.assert_close(coarse.exp().sum(dim=1), torch.ones(COUNT), atol=1e-5, rtol=0)
    assert coarse.shape == (COUNT, SIDE**2 + 1)
    assert posterior.mean_m.shape == (COUNT, COMPONENTS, 2)
    eigenvalues = torch.linalg.eigvalsh(posterior.covariance_m2)
    assert float(eigenvalues.min()) > 0


@torch.no_grad()
def test_means_lie_in_their_blocks(reader, reports):
    posterior, _ = network()(reader.read(*reports))
    corner = torch.stack([posterior.top % SIDE, posterior.top // SIDE], dim=-1) * BLOCK_M - HALF_M
    inner = posterior.mean_m - corner
    assert float(inner.min()) >= 0
    assert float(inner.max()) <= BLOCK_M


@torch.no_grad()
def test_components_are_its_heaviest_blocks(reader, reports):
    """But for what is not looked at, which is little."""
    posterior, _ = untrained()(reader.read(*reports))
    heaviest = posterior.log_mass.flatten(1).topk(COMPONENTS, dim=1).values.exp().sum(dim=1)
    assert (posterior.weights.sum(dim=1) > 0.97 * heaviest).all()
    assert all(len(set(top.tolist())) == COMPONENTS for top in posterior.top)


@torch.no_grad()
def test_indoors_is_next_to_impossible(reader, reports):
    posterior, _ = network()(reader.read(*reports))
    blocks = posterior.outdoor.reshape(COUNT, SIDE, 4, SIDE, 4).any(dim=4).any(dim=2)
    assert float((posterior.log_mass.exp() * ~blocks).sum(dim=(1, 2)).max()) < 0.01
    for i in range(COUNT):
        frame = reader.frames[int(reports[0].sector[i, 0])]
        np.testing.assert_array_equal(posterior.outdoor[i], reader.atlas.outdoor_in(frame))


# -- what it does not depend on --------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("seed", [0, 1])
def test_order_of_neighbours_never_matters(reader, mixed, seed):
    batch, truth = mixed
    order = [0, *(1 + np.random.default_rng(seed).permutation(7))]
    plain, turned = reader.read(batch, truth), reader.read(in_slots(batch, order), truth)
    torch.testing.assert_close(turned.tokens, plain.tokens[:, order])
    (first, _), (second, _) = (network()(r) for r in (plain, turned))
    same(first, second)
    losses = [physics_loss(p, r) for p, r in ((first, plain), (second, turned))]
    torch.testing.assert_close(*losses, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_a_batch_is_its_reports_one_by_one(reader, mixed):
    batch, truth = mixed
    together = network()(reader.read(batch, truth))[0]
    for i in range(0, len(batch), 2):
        alone = network()(reader.read(batch[i : i + 1], truth[i : i + 1]))[0]
        same(alone, together[i : i + 1])


@torch.no_grad()
@pytest.mark.parametrize("slots", range(1, 9))
def test_any_number_of_slots(reader, reports, slots):
    """A report of k sectors is the same in k slots as in eight of which the rest is empty."""
    batch, truth = reports
    few = in_slots(batch, list(range(slots)))
    padded = in_slots(batch, list(range(8)))
    gone = torch.arange(8) >= slots
    padded = replace(
        padded,
        **{
            n: torch.where(gone, -1, getattr(padded, n)) for n in ("sector", "rsrp", "rsrq", "sinr")
        },
    )
    first, second = (network()(reader.read(b, truth))[0] for b in (few, padded))
    assert torch.isfinite(first.log_mass).all()
    same(first, second)


@torch.no_grad()
def test_fields_of_one_report_bear_on_no_other(reader, mixed):
    """A report that lacks everything changes nothing for the ones beside it in the batch."""
    batch, truth = mixed
    bare = ReportBatch.of(batch.sector[1:2], batch.rsrp[1:2])
    first, second = (
        network()(reader.read(b, truth))[0]
        for b in (batch, ReportBatch.cat([batch[:1], bare, batch[2:]]))
    )
    others = [0, *range(2, len(batch))]
    torch.testing.assert_close(
        first.log_mass[others], second.log_mass[others], atol=1e-4, rtol=1e-4
    )


@torch.no_grad()
@pytest.mark.parametrize("inputs", INPUTS)
def test_the_truth_is_not_read(reader, reports, inputs):
    batch, truth = reports
    with_truth, without = (
        network(inputs)(r)[0] for r in (reader.read(batch, truth), reader.read(batch))
    )
    torch.testing.assert_close(with_truth.log_mass, without.log_mass, atol=0, rtol=0)
    torch.testing.assert_close(with_truth.mean_m, without.mean_m, atol=0, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("symmetry", range(1, SYMMETRIES))
def test_bayes_rule_is_the_same_in_every_symmetry(reader, reports, symmetry):
    """Nothing is learned yet: in which symmetry it is seen makes no difference at all."""
    batch, truth = reports
    plain = untrained()(reader.read(batch, truth))[0]
    turned = untrained()(reader.read(batch, truth, np.full(COUNT, symmetry)))[0]
    for name in ("log_mass", "log_outside", "mean_m", "covariance_m2"):
        torch.testing.assert_close(getattr(turned, name), getattr(plain, name), atol=0, rtol=0)


def from_all_sides(made):
    """Make a network's kernels look alike from all sides, and its tokens' vectors count nothing."""
    with torch.no_grad():
        for module in made.modules():
            if isinstance(module, torch.nn.Conv2d):
                every = [turn_raster(module.weight, s) for s in range(SYMMETRIES)]
                module.weight.copy_(torch.stack(every).mean(dim=0))
        made.measurements.inward.weight[:, [9, 10, 12, 13]] = 0.0
    return made


@torch.no_grad()
@pytest.mark.parametrize("inputs", INPUTS)
def test_what_is_learned_is_learned_in_every_symmetry(reader, reports, inputs):
    """Kernels that look alike from all sides give the same answer, which lies in the true frame.

    Others do not: what the convolutions see is turned.
    """
    batch, truth = reports
    made = network(inputs)
    alike = from_all_sides(PosteriorNetwork(CHANNELS, COMPONENTS, inputs=inputs).eval())
    alike.load_state_dict(made.state_dict())
    from_all_sides(alike)
    plain, of_others = (n(reader.read(batch, truth))[0] for n in (alike, made))
    change = 0.0
    for symmetry in range(1, SYMMETRIES):
        read = reader.read(batch, truth, np.full(COUNT, symmetry))
        same(alike(read)[0], plain, tolerance=2e-4)
        change += float((made(read)[0].log_mass - of_others.log_mass).abs().mean())
    assert change > 0.01


# -- what it depends on ----------------------------------------------------------------------


@torch.no_grad()
def test_the_answer_depends_on_the_neighbours(reader, reports):
    batch, truth = reports
    alone = in_slots(batch, [0])
    change = [network()(reader.read(b, truth))[0].log_mass for b in (batch, alone)]
    assert float((change[0] - change[1]).abs().mean()) > 0.05


@torch.no_grad()
@pytest.mark.parametrize(
    "names", [TIMING, ANGLE, BEAMS, QUALITY], ids=["timing", "angle", "beams", "quality"]
)
def test_the_answer_depends_on_every_kind_of_field(reader, reports, names):
    """Before anything is learned, too."""
    batch, truth = reports
    whole, without = (
        untrained()(reader.read(b, truth))[0].log_mass for b in (batch, silenced(batch, names))
    )
    there = (getattr(batch, names[0]) >= 0).reshape(COUNT, -1)[:, 0]
    assert there.any()
    assert float((without - whole)[there].abs().mean()) > 0.02


# -- what it takes ---------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_is_taken(reader, name):
    """The reports hold what their scenario has and lack the rest; the network takes them all."""
    batch, truth = rich_reports(name)
    assert (batch.scenario == scenario_code(name)).all()
    for feature in ("sinr", "ta", "aoa", "beams", "ul_sinr", "bler"):
        field = FIELDS.get(feature, (feature,))[0]
        measured = bool((getattr(batch, field) != missing_code(field)).any())
        assert measured == (feature in features_of(name)), feature
    read = reader.read(batch, truth)
    check_sound(network()(read)[0], read)


@torch.no_grad()
@pytest.mark.parametrize("feature", [*FEATURES, "everything but rsrp"])
def test_any_feature_may_be_missing(reader, mixed, feature):
    """One that the scenario reports is lost, or all of them are."""
    batch, truth = mixed
    gone = FEATURES if feature not in FEATURES else (feature,)
    names = [n for f in gone for n in FIELDS.get(f, (f,))]
    read = reader.read(silenced(batch, names), truth)
    check_sound(network()(read)[0], read)


@torch.no_grad()
@pytest.mark.parametrize("first", [0, 1])
def test_levels_may_be_missing(reader, reports, first):
    """Of the neighbours or of all sectors; timing and angle still count."""
    batch, truth = reports
    lost = replace(batch, rsrp=torch.where(torch.arange(8) >= first, -1, batch.rsrp))
    read = reader.read(lost, truth)
    found = network()(read)[0]
    check_sound(found, read)
    silent = network()(reader.read(silenced(lost, (*TIMING, *ANGLE)), truth))[0]
    assert float((found.log_mass - silent.log_mass).abs().mean()) > 0.05


@torch.no_grad()
@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("size_m", [64, 128, 160, 224, 384])
def test_any_window_size(size_m, inputs):
    """One network for windows of any size that a city may have."""
    batch, read = of_size(size_m)
    posterior, coarse = network(inputs)(read)
    side = size_m // 16
    assert coarse.shape == (len(batch), side**2 + 1)
    assert posterior.raster().shape == (len(batch), size_m // 4, size_m // 4)
    is_one(posterior)


@cache
def of_size(size_m):
    """Reports in windows of another size."""
    atlas = build_atlas(made_up_city(window={"size_m": size_m, "shift_m": 40}))
    batch, _, _ = draw_reports(atlas, 3)
    return batch, WindowReader(atlas, model_of(ERROR, atlas)).read(batch)


@torch.no_grad()
@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("candidates", [1, 2, 10_000])
def test_any_number_of_candidates(reader, reports, inputs, candidates):
    """More than there are blocks, or one; and more components than candidates."""
    torch.manual_seed(1)
    made = PosteriorNetwork(CHANNELS, 20_000, candidates=candidates, inputs=inputs).eval()
    read = reader.read(*reports)
    found = made(read)[0]
    check_sound(found, read)
    assert found.top.shape == (COUNT, min(candidates, SIDE**2))


@torch.no_grad()
def test_more_candidates_are_more_exact(reader, reports):
    """Every block looked at: where the coarse stage looks makes no difference any more."""
    read = reader.read(*reports)
    few, many, every = (
        untrained(candidates=n)(read)[0].log_mass.flatten(1) for n in (4, 32, 10_000)
    )

    def divergence(mine):
        exact = torch.log_softmax(every.double(), dim=1)
        return float(
            (exact.exp() * (exact - torch.log_softmax(mine.double(), 1))).sum(dim=1).mean()
        )

    assert divergence(many) <= divergence(few) + 1e-3
    assert divergence(many) < 0.1


# -- what it may see -------------------------------------------------------------------------


def with_maps(change):
    """A reader of the made-up maps with some of them changed."""
    return WindowReader(replace(default_atlas(), **change), model_of())


@pytest.fixture(scope="module")
def other_maps():
    """The same sectors over another city."""
    other = build_atlas(default_atlas().city, seed=5)
    names = ("rsrp_dbm", "rsrp_se_db", "building_height_m", "layers")
    change = {n: getattr(other, n) for n in names}
    return with_maps({**change, "outdoor": default_atlas().outdoor[::-1].copy()})


def answers(made, first, second, batch):
    with torch.no_grad():
        return [made(r.read(batch))[0] for r in (first, second)]


def test_without_maps_the_maps_do_not_count(reader, reports, other_maps):
    """Neither levels, delays and angles nor the ground; with them they do."""
    found, other = answers(network("no_maps"), reader, other_maps, reports[0])
    for name in ("log_mass", "log_outside", "top", "mean_m", "covariance_m2", "outdoor"):
        torch.testing.assert_close(getattr(found, name), getattr(other, name), atol=0, rtol=0)
    for inputs in ("all", "no_residuals"):
        found, other = answers(network(inputs), reader, other_maps, reports[0])
        assert float((found.log_mass - other.log_mass).abs().mean()) > 0.1


def test_without_residuals_the_maps_of_the_heard_do_not_count(reader, reports):
    """But for the serving sector's, and for which sector is the strongest at a place.

    The maps of all others are lowered by 10 dB wherever another sector is stronger.
    """
    batch, atlas = reports[0][:1], default_atlas()
    levels, grid = reader.maps.levels, reader.maps.grid
    lowered = atlas.rsrp_dbm.copy()
    for s in range(len(lowered)):
        if s != int(batch.sector[0, 0]):
            strongest = levels.ranked[grid.ground_rows(*grid.window_of(s))[0], 0]
            weaker = ((strongest >= 0) & (strongest != s))[:, None].expand(-1, 16)
            lowered[s] -= 10.0 * as_raster(weaker, grid.side, grid.side)
    changed = with_maps({"rsrp_dbm": lowered})
    assert (batch.heard.sum(dim=1) > 2).all()
    found, other = answers(network("no_residuals"), reader, changed, batch)
    torch.testing.assert_close(found.log_mass, other.log_mass, atol=1e-5, rtol=1e-5)
    found, other = answers(network(), reader, changed, batch)
    assert float((found.log_mass - other.log_mass).abs().mean()) > 0.1


@torch.no_grad()
@pytest.mark.parametrize("inputs", ["no_residuals", "no_maps"])
def test_without_residuals_angle_and_beams_do_not_count(reader, reports, inputs):
    """They say something of a place by the maps alone; what a token holds still counts."""
    batch, truth = reports
    made = network(inputs)
    whole = made(reader.read(batch, truth))[0]
    bare = made(reader.read(silenced(batch, (*ANGLE, *BEAMS, "ta_offset")), truth))[0]
    torch.testing.assert_close(whole.log_mass, bare.log_mass, atol=0, rtol=0)
    untimed = made(reader.read(silenced(batch, TIMING), truth))[0]
    assert float((whole.log_mass - untimed.log_mass).abs().max()) > 1e-4


def test_other_inputs_are_refused():
    with pytest.raises(ValueError, match="no_residuals"):
        PosteriorNetwork(CHANNELS, COMPONENTS, inputs="half")


# -- learning --------------------------------------------------------------------------------


def loss_of(made, batch):
    posterior, coarse = made(batch)
    loss = coarse_loss(coarse, batch.truth_m, 4.0) - posterior.log_density(batch.truth_m).mean()
    return loss + physics_loss(posterior, batch)


@pytest.mark.parametrize("inputs", INPUTS)
def test_gradients_reach_every_parameter(reader, reports, inputs):
    """Of what takes part: without residuals nothing weighs or encodes them."""
    torch.manual_seed(5)
    made = PosteriorNetwork(CHANNELS, COMPONENTS, inputs=inputs).train()
    made.load_state_dict(network(inputs).state_dict())
    symmetry = np.arange(COUNT) % SYMMETRIES
    loss_of(made, reader.read(*reports, symmetry)).backward()
    unused = () if inputs == "all" else ("moves.", "weights.", "residuals.")
    for name, parameter in made.named_parameters():
        if name.startswith(unused) and unused:
            assert parameter.grad is None or not parameter.grad.any(), name
            continue
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


def test_the_corrections_can_be_learned_from_the_start(reader, reports):
    """Before anything is learned they have a slope, or nothing ever would be."""
    made = untrained().train()
    loss_of(made, reader.read(*reports)).backward()
    for layer in (made.moves, made.weights, made.correction, made.fine[-1], made.outside[-1]):
        assert layer.bias.grad.any()
        assert torch.isfinite(layer.bias.grad).all()


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


# -- on a device -----------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("inputs", INPUTS)
def test_a_gpu_gives_the_same_posterior(reader, mixed, inputs):
    batch, truth = mixed
    read = reader.read(batch, truth, np.arange(len(batch)) % SYMMETRIES)
    device = torch.device("cuda")
    made = untrained(inputs)
    made.load_state_dict(network(inputs).state_dict())
    here, there = made(read)[0], made.to(device)(read.to(device))[0]
    torch.testing.assert_close(there.log_mass.cpu(), here.log_mass, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(there.raster().cpu(), here.raster(), atol=1e-4, rtol=1e-2)
