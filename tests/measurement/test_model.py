"""The measurement model as a whole: bins, both halves alike, and what makes up a likelihood."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from made_up_places import FITTED, model, report, surroundings
from made_up_world import default_atlas, draw_reports, population
from scipy import stats

from ueloc_core.measurement import accuracy
from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.bins import bin_probability, decode, edges, log_bin, log_code, widened
from ueloc_core.measurement.levels import MapError
from ueloc_core.measurement.quality import RateLaws
from ueloc_core.measurement.reports import MISSING, SS_RSRP, SS_RSRQ, SS_SINR
from ueloc_core.measurement.scenarios import SCENARIOS
from ueloc_core.measurement.settings import DirectionConfig, FadingConfig
from ueloc_core.radio.link import rsrq_db

ERRORS = pytest.mark.parametrize("error", [MapError.none(), FITTED], ids=["none", "fitted"])
QUANTISED = pytest.mark.parametrize("field", [SS_RSRP, SS_RSRQ, SS_SINR], ids=lambda f: f.name)

# -- bins ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.5, 1.0, 5.0, 20.0])
def test_log_bin_is_accurate_in_both_tails(scale):
    """Against scipy in double precision, down to the floor of 1e-20."""
    low = np.arange(-40.0, 40.0, 0.5) * scale / 5
    exact = np.log(
        np.where(
            low > 0,
            stats.norm.sf(low / scale) - stats.norm.sf((low + 0.5) / scale),
            stats.norm.cdf((low + 0.5) / scale) - stats.norm.cdf(low / scale),
        )
    )
    found = log_bin(*(torch.tensor(v, dtype=torch.float32) for v in (low, low + 0.5, 0.0)), scale)
    ours = found.double().numpy()
    known = exact > np.log(1e-19)
    assert known.sum() > 50
    np.testing.assert_allclose(ours[known], exact[known], atol=2e-3)
    assert (ours[~known] >= np.log(1e-20) - 1e-3).all()


@QUANTISED
@pytest.mark.parametrize("loc", [-200.0, -95.3, -20.0, 0.2, 39.9, 80.0])
def test_codes_of_a_field_sum_to_one(field, loc):
    codes = torch.arange(field.last + 1)
    log_prob = log_code(field, codes, torch.tensor(loc), 1.7)
    assert float(log_prob.double().exp().sum()) == pytest.approx(1, abs=1e-5)
    assert float(log_code(field, torch.tensor(MISSING), torch.tensor(loc), 1.7)) == 0


@QUANTISED
def test_the_likelihood_s_bins_are_the_encoder_s(field):
    """What numpy encodes lies between the edges that torch takes for the code."""
    values = np.linspace(field.low - 5, field.lower_edge(field.last) + 5, 4001)
    codes = torch.from_numpy(field.encode(values).astype(np.int64))
    low, high = (v.numpy() for v in edges(field, codes))
    assert (values >= low - 1e-4).all()
    assert (values < high + 1e-4).all()
    middle = decode(field, codes).numpy()
    np.testing.assert_allclose(middle, field.decode(codes.numpy()), atol=1e-4)
    np.testing.assert_array_equal(field.encode(middle), codes)


def test_widening_is_a_convolution_with_a_gaussian():
    """Of a Gaussian it leaves a wider one, of a sum the sum."""
    node = torch.arange(400, dtype=torch.float64)
    narrow, wide = (torch.exp(-0.5 * ((node - 200) / s) ** 2) / s for s in (6.0, 10.0))
    torch.testing.assert_close(widened(narrow, 8.0), wide, atol=1e-9, rtol=1e-9)
    both = widened(torch.stack([narrow, 2 * wide]), torch.tensor([[8.0], [0.0]]).double())
    torch.testing.assert_close(both, torch.stack([wide, 2 * wide]), atol=1e-9, rtol=1e-9)


def test_a_bin_s_probability_is_symmetric():
    low = torch.linspace(-30, 30, 121)
    torch.testing.assert_close(
        bin_probability(low, low + 1, 0.0, 3.0),
        bin_probability(-low - 1, -low, 0.0, 3.0),
        atol=1e-9,
        rtol=1e-4,
    )


# -- numpy and torch ----------------------------------------------------------------------

RNG = np.random.default_rng(101)
SINR_DB = RNG.uniform(-40, 60, 200)
SPREAD_NS = np.where(RNG.random(200) < 0.1, np.nan, RNG.gamma(1.0, 80.0, 200))
SPREAD_DEG = np.where(RNG.random(200) < 0.1, np.nan, RNG.gamma(1.0, 8.0, 200))
SIGHT = np.where(RNG.random(200) < 0.1, np.nan, RNG.uniform(0, 1, 200))
LEVEL_DBM = RNG.uniform(-140, -50, 200)
TWINS = {
    "fading": (accuracy.fading_db, (SPREAD_NS, SIGHT), (FadingConfig(), 1)),
    "timing": (accuracy.timing_sigma_ns, (SINR_DB,), (40e6, 3.0)),
    "direction": (accuracy.direction_sigma_deg, (SINR_DB, SPREAD_DEG), (DirectionConfig(),)),
    "uplink": (accuracy.uplink_sinr_db, (LEVEL_DBM, np.full(200, 10.85)), (23.0, 1)),
    "rsrq": (rsrq_db, (LEVEL_DBM, LEVEL_DBM + 11.0), ()),
}


@pytest.mark.parametrize("name", TWINS)
def test_means_and_scatter_are_the_same_in_numpy_and_torch(name):
    """Simulation calls them with arrays, the likelihood with tensors."""
    function, values, settings = TWINS[name]
    arrays = function(*values, *settings)
    tensors = function(*(torch.from_numpy(v) for v in values), *settings)
    assert isinstance(tensors, torch.Tensor)
    np.testing.assert_allclose(tensors.numpy(), arrays, rtol=1e-12)
    assert np.isfinite(arrays).all()


def test_loads_and_received_power_are_the_same_in_numpy_and_torch():
    quality = model().quality
    deviation = RNG.normal(0, 4, 200)
    load = quality.loads(deviation)
    np.testing.assert_allclose(quality.loads(torch.from_numpy(deviation)).numpy(), load)
    assert load.max() == 1
    levels_mw = 10 ** (LEVEL_DBM / 10)
    arrays = quality.received_dbm(levels_mw, load)
    tensors = quality.received_dbm(torch.from_numpy(levels_mw), torch.from_numpy(load))
    np.testing.assert_allclose(tensors.numpy(), arrays, rtol=1e-12)


def test_rates_are_the_same_in_numpy_and_torch():
    """Both halves read one table: medians of the throughput, and lost shares."""
    laws = RateLaws(model().radio)
    lost = np.exp(laws.log_errors(torch.zeros(200), torch.from_numpy(SINR_DB)).numpy() / 100)
    np.testing.assert_allclose(1 - lost, laws.lost_share(SINR_DB), atol=1e-12)
    median = np.floor(laws.median_kbps(SINR_DB)).astype(np.int64)
    below = [
        laws.log_throughput(torch.from_numpy(median + d), torch.from_numpy(SINR_DB), 0.05)
        for d in (-(median // 2), 0 * median)
    ]
    assert (below[1] >= below[0]).all()


def test_timing_noise_is_the_same_in_numpy_and_torch():
    m = model().timing
    for found, tensor in zip(
        m.sigmas_ns(SINR_DB), m.sigmas_ns(torch.from_numpy(SINR_DB)), strict=True
    ):
        np.testing.assert_allclose(tensor.numpy(), found, rtol=1e-12)
    share = m.late_share(np.nan_to_num(SIGHT))
    np.testing.assert_allclose(m.late_share(torch.from_numpy(np.nan_to_num(SIGHT))), share)


# -- whole reports ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world():
    """Full reports of the made-up world with the maps of their own places."""
    atlas = default_atlas()
    batch, x_m, y_m = draw_reports(atlas, 5, seed=8, scenarios={"full": 1.0})
    places = population(atlas, scenarios={"full": 1.0}).places
    return (
        batch,
        places.levels_at(x_m, y_m),
        places.serving_at(batch.sector[:, 0].numpy(), x_m, y_m),
    )


@ERRORS
def test_a_likelihood_is_the_sum_of_its_parts(world, error):
    batch, maps, serving = world
    m = model(error, dropout_probability=0.05)
    parts = [
        m.levels.direct(batch, maps),
        m.quality_log_prob(batch, maps),
        m.timing.log_prob(batch, serving.delays, m.expected_uplink_db(batch, serving)),
        m.directions(batch, serving, m.expected_uplink_db(batch, serving)),
        m.constants(batch)[:, None],
    ]
    found = m.log_prob(batch, maps, serving)
    torch.testing.assert_close(found, sum(parts), atol=0.06, rtol=1e-4)
    without = m.log_prob(batch, maps)
    torch.testing.assert_close(found - without, parts[2] + parts[3], atol=1e-3, rtol=1e-4)


@ERRORS
def test_reports_in_a_batch_are_located_one_by_one(world, error):
    batch, maps, serving = world
    m = model(error, dropout_probability=0.05)
    together = m.log_prob(batch, maps, serving)
    for n in range(len(batch)):
        alone = m.log_prob(batch[n : n + 1], maps.row(n), serving.row(n))
        torch.testing.assert_close(alone, together[n : n + 1], atol=1e-3, rtol=1e-5)


@ERRORS
def test_the_order_of_neighbours_never_matters(world, error):
    batch, maps, serving = world
    order = [0, 5, 3, 1, 7, 2, 6, 4]
    names = ("sector", "rsrp", "rsrq", "sinr")
    turned = replace(batch, **{name: getattr(batch, name)[:, order] for name in names})
    m = model(error, dropout_probability=0.05)
    torch.testing.assert_close(
        m.log_prob(turned, maps, serving), m.log_prob(batch, maps, serving), atol=2e-3, rtol=1e-5
    )


def test_the_exponent_weighs_the_levels_alone(world):
    batch, maps, _ = world
    half = replace(FITTED, level_exponent=0.5)
    whole, weighed = (model(e, dropout_probability=0.05) for e in (FITTED, half))
    levels = whole.levels.direct(batch, maps)
    difference = whole.log_prob(batch, maps) - weighed.log_prob(batch, maps)
    torch.testing.assert_close(difference, 0.5 * levels, atol=0.05, rtol=1e-3)


def test_gradients_reach_the_maps_of_all_parts(world):
    """Levels through tables, quality through the unreported ones, delays: all finite."""
    batch, maps, serving = world
    m = model(FITTED, dropout_probability=0.05)
    rsrp = maps.rsrp_dbm.clone().requires_grad_()
    delay = serving.delays.first_arrival_ns.clone().requires_grad_()
    at = replace(maps, rsrp_dbm=rsrp)
    there = replace(serving, delays=replace(serving.delays, first_arrival_ns=delay))
    m.log_prob(batch, at, there).sum().backward()
    for gradient in (rsrp.grad, delay.grad):
        assert torch.isfinite(gradient).all()
        assert float(gradient.abs().max()) > 0


# -- what is missing ----------------------------------------------------------------------


def test_lost_fields_have_the_probability_of_being_lost():
    """Each optional field of the scenario, the neighbours' too."""
    m, full = model(dropout_probability=0.1), SCENARIOS.index("full")
    kept, lost = np.log(0.9), np.log(0.1)
    nothing = report([0, 1], [76, 60], scenario=full)
    assert float(m.constants(nothing)) == pytest.approx(4 * lost + 9 * lost)
    some = report([0, 1], [76, 60], scenario=full, ta=3, cqi=9, rsrq=[50, MISSING])
    assert float(m.constants(some)) == pytest.approx(10 * lost + 3 * kept)
    plain = report([0, 1], [76, 60], scenario=SCENARIOS.index("nr_rsrp_only"))
    assert float(m.constants(plain)) == 0
    unknown = report([0, 1], [76, 60], ta=3)
    assert float(m.constants(unknown)) == 0


def test_fields_go_missing_as_often_as_the_constants_say():
    m, count = model(dropout_probability=0.2), 4000
    rng = np.random.default_rng(102)
    drawn = m.sample(surroundings(m, [-70.0], [0], count, rng), rng)
    for name in ("rsrq", "sinr", "cqi", "ri", "throughput", "bler", "ta", "aoa"):
        values = getattr(drawn, name)
        values = values if values.ndim == 1 else values[:, 0]
        lost = int((values == MISSING).sum())
        assert stats.binomtest(lost, count, 0.2).pvalue > 1e-4


def test_the_same_generator_gives_the_same_reports():
    m = model()

    def drawn(seed):
        rng = np.random.default_rng(seed)
        return m.sample(surroundings(m, [-80.0, -90.0, -100.0], [0, 0, 1], 50, rng), rng)

    first, second, other = (drawn(s) for s in (1, 1, 2))
    assert all(torch.equal(getattr(first, f.name), getattr(second, f.name)) for f in fields(first))
    assert not torch.equal(first.rsrp, other.rsrp)


def test_terminals_that_hear_nothing_have_empty_reports():
    m, rng = model(), np.random.default_rng(103)
    drawn = m.sample(surroundings(m, [-200.0, np.nan], [0, 1], 30, rng), rng)
    assert isinstance(drawn, ReportBatch)
    assert (drawn.sector == -1).all()
    assert (drawn.ta == MISSING).all()
    assert (drawn.beam == MISSING).all()
