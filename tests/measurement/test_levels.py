"""Likelihood of which sectors are reported and how strong they are."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up_places import (
    FITTED,
    LEVEL,
    chi_square,
    level_maps,
    model,
    report,
    simulated_log_prob,
    surroundings,
)
from made_up_world import default_atlas, draw_reports, population
from scipy import stats

from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.level_tables import LevelTables, TrackLevels, log_prob_over
from ueloc_core.measurement.levels import LevelLikelihood, MapError
from ueloc_core.measurement.reports import MISSING, SS_RSRP
from ueloc_core.measurement.schemas import SLOTS

ERRORS = pytest.mark.parametrize("error", [MapError.none(), FITTED], ids=["none", "fitted"])
THRESHOLD = int(SS_RSRP.encode(-120.0))


# -- one sector ---------------------------------------------------------------------------


@ERRORS
@pytest.mark.parametrize("hit", [True, False])
@pytest.mark.parametrize("mean", [-200.0, -156.3, -95.0, -60.2, -20.0])
def test_codes_of_a_sector_sum_to_one(error, hit, mean):
    codes = torch.arange(SS_RSRP.last + 1)
    args = (torch.tensor(mean), torch.tensor(2.2), torch.tensor(hit))
    found = model(error).levels.reported(codes, *args).double().exp()
    assert float(found.sum()) == pytest.approx(1, abs=1e-5)
    assert float(model(error).levels.reported(torch.tensor(MISSING), *args)) == 0


@ERRORS
@pytest.mark.parametrize("lost", [0.0, 0.2])
@pytest.mark.parametrize("mean", [-128.0, -118.3, -95.0])
def test_reported_and_unreported_sum_to_one(error, lost, mean):
    """A neighbour far below the serving sector: reported if detected and not lost."""
    m = model(error, dropout_probability=lost).levels
    args = (torch.tensor(mean), torch.tensor(2.2), torch.tensor(True))
    codes = torch.arange(THRESHOLD, SS_RSRP.last + 1)
    there = (1 - lost) * m.reported(codes, *args).double().exp().sum()
    edge = torch.tensor(float(SS_RSRP.lower_edge(THRESHOLD)))
    silent = m.unreported((edge, torch.tensor(1e4)), *args).double().exp()
    assert float(there + silent) == pytest.approx(1, abs=1e-5)


def test_the_marginal_of_a_level_is_its_mixture():
    """Gain, both parts of the shadowing, the map's core and tail: against independent draws."""
    m, rng, count = model(FITTED).levels, np.random.default_rng(1), 100_000
    maps = level_maps([[-92.0]], [0], se_db=1.0)
    mean, spread, _ = (float(v) for v in m.mean_and_spread(maps))
    shared = np.sqrt(2.0**2 + 4.0**2 + 1.5**2 + 2.0**2)
    level = mean + shared * rng.standard_normal(count)
    # the tail's share follows the level that arrives: in the marginal, that of the mean
    wide = float(np.hypot(spread, shared))
    share = float(m.tail_share(torch.tensor(mean), torch.tensor(wide)))
    tail = rng.random(count) < share
    level = level + spread * rng.standard_normal(count)
    level += tail * (FITTED.tail_bias_db + FITTED.tail_db * rng.standard_normal(count))
    counts = np.bincount(SS_RSRP.encode(level), minlength=SS_RSRP.last + 1)
    codes = torch.arange(SS_RSRP.last + 1).reshape(-1, 1, 1)
    probability = m.marginal(codes, maps).double().exp()[:, 0, 0]
    assert float(probability.sum()) == pytest.approx(1, abs=1e-5)
    assert chi_square(counts, probability.numpy()) > LEVEL


def test_more_standard_error_widens_the_level():
    m = model(FITTED).levels
    spreads = [
        float(m.mean_and_spread(level_maps([[-90.0]], [0], se_db=se))[1]) for se in (0.0, 3.0, 8.0)
    ]
    assert spreads == pytest.approx([np.hypot(1.5, np.hypot(1.5, 1.1 * v)) for v in (0, 3, 8)])


# -- reports of two sectors: all that can be reported, counted out ------------------------

COUNT = 40_000


def outcomes(code_range):
    """All reports of two sectors that a first choice of the strongest allows."""
    sector, rsrp = [], []
    for serving in (0, 1):
        for own in code_range:
            sector.append([serving, -1])
            rsrp.append([own, MISSING])
            # of equal codes the first sector serves
            for other in range(code_range.start, own + (serving == 0)):
                sector.append([serving, 1 - serving])
                rsrp.append([own, other])
    spare = ((0, 0), (0, SLOTS - 2))
    sector, rsrp = (np.pad(v, spare, constant_values=-1) for v in (sector, rsrp))
    return ReportBatch.of(sector, rsrp, selected=np.ones(len(sector)))


def probabilities(m, reports, maps):
    """Probability of each, that of a neighbour not lost included."""
    neighbours = reports.heard[:, 1:].sum(dim=1).double()
    kept = neighbours * np.log1p(-m.settings.dropout_probability)
    return (m.levels.direct(reports, maps)[:, 0].double() + kept).exp().numpy()


def counted(reports, drawn):
    """How often each was drawn."""
    wide = 1000
    keys = [(r.sector[:, :2] + 1) * wide + r.rsrp[:, :2] + 1 for r in (reports, drawn)]
    keys = [(k[:, 0] * wide**2 + k[:, 1]).numpy() for k in keys]
    order = np.argsort(keys[0])
    assert np.isin(keys[1], keys[0]).all()
    found = order[np.searchsorted(keys[0][order], keys[1])]
    return np.bincount(found, minlength=len(reports))


@pytest.fixture(scope="module", params=[(0, 0), (0, 1)], ids=["one site", "two sites"])
def pair(request):
    """Two sectors near the threshold: the reports they send, and how probable each is."""
    m = model(dropout_probability=0.05)
    level, rng = [-109.0, -112.0], np.random.default_rng(2)
    around = surroundings(m, level, request.param, COUNT, rng)
    drawn = m.sample(around, rng)
    reports = outcomes(range(THRESHOLD, THRESHOLD + 45))
    maps = level_maps(np.array(level)[:, None], request.param)
    return m, reports, drawn, maps


def test_all_reports_together_have_probability_one(pair):
    m, reports, _, maps = pair
    silence = model().levels.direct(report([], []), maps).double().exp()
    total = probabilities(m, reports, maps).sum() + float(silence)
    assert total == pytest.approx(1, abs=2e-3)


def test_sampled_reports_have_their_probability(pair):
    m, reports, drawn, maps = pair
    heard = drawn.heard[:, 0]
    expected = probabilities(m, reports, maps)
    assert chi_square(counted(reports, drawn[heard]), expected / expected.sum()) > LEVEL
    share = expected.sum()
    assert abs(float(heard.double().mean()) - share) < 4 * np.sqrt(share * (1 - share) / COUNT)


@pytest.mark.parametrize(
    "wrong",
    [
        {"shadowing": {"sigma_db": 5.5}},
        {"shadowing": {"inter_site": 0.9}},
        {"terminal": {"gain_sigma_db": 0.0}},
        {"dropout_probability": 0.1},
        {"detection_threshold_dbm": -119.0},
    ],
    ids=lambda w: next(iter(w)),
)
def test_a_wrong_model_is_noticed(pair, wrong):
    """The same counts reject other settings, wherever these change what two sectors do."""
    _, reports, drawn, maps = pair
    other = model(**{"dropout_probability": 0.05, **wrong})
    expected = probabilities(other, reports, maps)
    counts = counted(reports, drawn[drawn.heard[:, 0]])
    found = chi_square(counts, expected / expected.sum())
    if "inter_site" in wrong.get("shadowing", {}) and int(maps.site.max()) == 0:
        assert found > LEVEL  # one site's sectors share all of the shadowing in any case
    else:
        assert found < 1e-6


def test_sectors_of_a_site_go_together_more():
    """Correlation of two reported levels: common variance over the whole."""
    m, count = model(), 20_000
    for site, shared in (((0, 0), 4 + 16), ((0, 1), 4 + 8)):
        rng = np.random.default_rng(3)
        drawn = m.sample(surroundings(m, [-80.0, -80.5], site, count, rng), rng)
        order = drawn.sector[:, :2].argsort(dim=1)
        level = drawn.level_dbm[:, :2].gather(1, order).numpy()
        # rounding to 1 dB adds 1/12 dB2
        expected = shared / (20 + 1.5**2 + 1 / 12)
        found = np.corrcoef(level.T)[0, 1]
        assert np.arctanh(found) == pytest.approx(np.arctanh(expected), abs=4 / np.sqrt(count))


# -- what was not reported ----------------------------------------------------------------


def test_ceilings_of_what_is_not_reported():
    """Threshold, weakest neighbour, offset below the serving sector; and if it was lost."""
    m = model(max_neighbours=2, neighbour_offset_db=20).levels
    cases = [  # sectors, codes, selected: under what not lost, and under what lost
        ([3, 1], [80, 70], 1, (-97.0, -76.5)),  # not full: 20 dB below the bin of code 80
        ([3, 1], [50, 45], 1, (-120.0, -106.5)),  # the detection threshold
        ([3, 1, 2], [80, 70, 66], 1, (-90.5, -76.5)),  # full: middle of the weakest neighbour
        ([3, 1, 2], [80, 70, 66], 0, (-90.5, -73.0)),  # kept: up to 3 dB better
        ([3, 1, 2], [64, 67, 66], 0, (-90.5, -89.0)),  # the serving sector is no neighbour
    ]
    for sector, rsrp, selected, expected in cases:
        found = m.ceilings(report(sector, rsrp, selected=selected))
        assert tuple(float(v) for v in found) == expected
    alone = model(max_neighbours=0).levels.ceilings(report([3], [80], selected=0))
    assert [float(v) for v in alone] == [-73.0, -73.0]


def test_reports_without_slots_for_neighbours_are_those_of_empty_slots():
    m = model(FITTED).levels
    empty = report([3], [80], selected=0)
    bare = ReportBatch.of([[3]], [[80]], selected=[0])
    for found, wanted in zip(m.ceilings(bare), m.ceilings(empty), strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("offset", [10.0, 10.7])
def test_a_neighbour_s_offset_counts_whole_steps(offset):
    """Codes are whole numbers: 10.7 dB below are 10 steps, drawn and judged alike."""
    m = model(neighbour_offset_db=offset)
    rng = np.random.default_rng(4)
    drawn = m.sample(surroundings(m, [-80.0, -90.0], [0, 1], 4000, rng), rng)
    two = drawn.heard[:, 1]
    gap = drawn.rsrp[two, 0] - drawn.rsrp[two, 1]
    assert int(gap.max()) == 10
    one = report([0], [76], selected=1)
    assert float(m.levels.ceilings(one)[0]) == float(SS_RSRP.lower_edge(66))


def test_how_often_a_neighbour_is_lost():
    m = model(dropout_probability=0.2)
    rng = np.random.default_rng(5)
    drawn = m.sample(surroundings(m, [-60.0, -85.0], [0, 0], 20_000, rng), rng)
    lost = int((~drawn.heard[:, 1]).sum())
    assert stats.binomtest(lost, 20_000, 0.2).pvalue > LEVEL


def test_a_sector_that_no_ray_reaches_is_never_reported():
    m = model(dropout_probability=0.05)
    rng = np.random.default_rng(6)
    level = [-80.0, np.nan]
    drawn = m.sample(surroundings(m, level, [0, 1], 500, rng), rng)
    assert (drawn.sector[:, 1:] < 0).all()
    with_it, without = (
        m.levels.direct(report([0], [76]), level_maps(np.array(v)[:, None], [0, 1][: len(v)]))
        for v in (level, level[:1])
    )
    torch.testing.assert_close(with_it, without)


# -- whole reports ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world():
    """Reports of the made-up world, and maps of its sectors over many places."""
    atlas = default_atlas()
    batch, x_m, y_m = draw_reports(atlas, 6, seed=7)
    places = population(atlas).places
    chosen = np.zeros(atlas.ground.shape, dtype=bool)
    chosen.ravel()[np.flatnonzero(atlas.outdoor)[::40]] = True
    return batch, places.levels_in(atlas.ground, chosen), places.levels_at(x_m, y_m)


@ERRORS
def test_the_order_of_neighbours_never_matters(world, error):
    batch, maps, _ = world
    few = maps.places(torch.arange(20))
    order = [0, 6, 3, 1, 7, 2, 5, 4]
    turned = {n: getattr(batch, n)[:, order] for n in ("sector", "rsrp", "rsrq", "sinr")}
    levels = model(error).levels
    found = levels.direct(replace(batch, **turned), few)
    torch.testing.assert_close(found, levels.direct(batch, few), atol=1e-3, rtol=1e-5)


def posterior(log_prob):
    return torch.softmax(log_prob.double(), dim=1)


def apart(first, second):
    """Total variation of the posteriors that two likelihoods make, the most over reports."""
    return float((posterior(first) - posterior(second)).abs().sum(dim=1).max() / 2)


def directly(levels, batch, maps):
    return torch.cat([levels.direct(batch[n : n + 1], maps) for n in range(len(batch))])


@ERRORS
def test_tables_give_what_each_place_gives_on_its_own(world, error):
    """Bilinear tables against the model, within 0.05 nats where the posterior has its mass."""
    batch, maps, _ = world
    levels = model(error, dropout_probability=0.05).levels
    direct = directly(levels, batch, maps)
    looked_up = log_prob_over(levels, batch, maps, exact=True)
    near = direct > direct.amax(dim=1, keepdim=True) - 10
    assert near.sum() > 15
    assert float((looked_up - direct)[near].abs().max()) < 0.05
    assert apart(looked_up, direct) < 0.005


@ERRORS
def test_the_step_of_the_shifts_is_fine_enough(world, error):
    """A quarter of the step moves no posterior by more than 0.005, half of it less so."""
    batch, maps, _ = world
    config = model(dropout_probability=0.05).settings
    usual, half, quarter = (
        directly(LevelLikelihood(config, error, step_db), batch, maps)
        for step_db in (None, 0.625, 0.3125)
    )
    assert apart(usual, quarter) < 0.005
    assert apart(half, quarter) < 0.001
    near = quarter > quarter.amax(dim=1, keepdim=True) - 5
    assert float((half - quarter)[near].abs().max()) < 0.02


def test_the_step_follows_the_accuracy_of_a_level():
    """Four times as accurate levels, a quarter of the step."""
    usual, fine = (model(terminal={"level_sigma_db": v}).levels.step_db for v in (1.2, 0.3))
    assert usual == 1.25
    assert fine == pytest.approx(0.375)


@ERRORS
def test_places_that_are_left_out_have_no_mass(world, error):
    """Above all where the maps are exact: there the sectors' errors are nearly all shared."""
    batch, maps, _ = world
    levels = model(error, dropout_probability=0.05).levels
    pruned, exact = (log_prob_over(levels, batch, maps, exact=e) for e in (False, True))
    assert apart(pruned, exact) < 1e-3


SMALL = (
    level_maps([[-90.0], [-97.0], [-101.0]], [0, 0, 1], se_db=1.0),
    report([0, 2], [68, 54], selected=1),
)


@ERRORS
def test_nested_sums_equal_plain_monte_carlo(error):
    """Three sectors at two sites, one of them silent."""
    m = model(error, dropout_probability=0.05)
    maps, one = SMALL
    expected, spread = simulated_log_prob(m, one, maps, 400_000, np.random.default_rng(8))
    assert spread < 0.01
    assert float(m.levels.direct(one, maps)) == pytest.approx(expected, abs=4 * spread + 0.002)


# -- gradients ----------------------------------------------------------------------------


@ERRORS
@pytest.mark.parametrize(("how", "within"), [("direct", 0.03), ("tables", 0.1)])
def test_gradients_are_the_slopes(world, error, how, within):
    """d log p / d level of every sector against central differences of half a dB.

    Tables are straight between nodes a quarter of a dB apart: their slope is a node's.
    """
    batch, _, own = world
    levels = model(error, dropout_probability=0.05).levels
    one, maps = batch[2:3], own.row(2)

    def value(rsrp_dbm):
        at = replace(maps, rsrp_dbm=rsrp_dbm)
        found = levels.direct(one, at) if how == "direct" else TrackLevels(levels, one).at(at)
        return found.sum()

    rsrp_dbm = maps.rsrp_dbm.nan_to_num(-150.0)
    at = rsrp_dbm.clone().requires_grad_()
    (slope,) = torch.autograd.grad(value(at), at)
    step = 0.5
    for sector in range(rsrp_dbm.shape[1]):
        moved = torch.zeros_like(rsrp_dbm)
        moved[0, sector] = step
        finite = float(value(rsrp_dbm + moved) - value(rsrp_dbm - moved)) / (2 * step)
        assert float(slope[0, sector, 0]) == pytest.approx(finite, abs=within)
    assert float(slope.abs().max()) > 0.1


def test_the_nearest_entries_of_all_sectors_are_summed():
    """As they are looked up one by one; a sector that nothing tells apart counts too."""
    likelihood, one = model(FITTED).levels, report([0, 1], [69, 60])
    tables = LevelTables(likelihood, one, 3)
    mean = torch.tensor([[-88.0, -95.5, -120.2], [-97.0, -90.1, -101.0], [-94.0] * 3])
    spread = torch.tensor([[2.0, 3.0, 6.0], [4.0, 2.5, 2.0], [5.0] * 3])
    hit = torch.tensor([[True] * 3, [True, False, True], [True] * 3])
    offsets = torch.tensor([-10, 0, 5])
    found = tables.nearest(mean, spread, hit, offsets)
    shifted = mean[..., None] + likelihood.step_db / 5 * offsets
    exact = [
        likelihood.reported(code, shifted[k], spread[k, :, None], hit[k, :, None])
        for k, code in enumerate(one.rsrp[one.heard])
    ]
    exact.append(
        likelihood.unreported(
            likelihood.ceilings(one), shifted[2], spread[2, :, None], hit[2, :, None]
        )
    )
    assert float(exact[2].max()) < -1.0  # it would be missed
    np.testing.assert_allclose(found, torch.stack(exact).sum(dim=0), rtol=0.1, atol=0.1)
