"""Timing advance and its offset: from the first path, the clock and the map's error."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up_places import FITTED, LEVEL, RADIO, chi_square, model, report, surroundings

from ueloc_core.measurement.accuracy import uplink_sinr_db
from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.levels import MapError
from ueloc_core.measurement.reports import INT16_MISSING, MISSING
from ueloc_core.measurement.simulate import Terminals
from ueloc_core.measurement.timing import DelayMaps
from ueloc_core.radio.link import (
    TIMING_ADVANCE_LAST,
    timing_advance,
    timing_advance_step_ns,
)
from ueloc_core.units import SPEED_OF_LIGHT_M_S

ERRORS = pytest.mark.parametrize("error", [MapError.none(), FITTED], ids=["none", "fitted"])
COUNT = 40_000
STEP_NS = timing_advance_step_ns(RADIO.numerology)
SINR_DB = torch.tensor([12.0])


def delays(first_arrival_ns, sight=1.0, straight_ns=None):
    """Maps of one report over places."""
    first = torch.as_tensor(first_arrival_ns, dtype=torch.float32).reshape(1, -1)
    straight = first if straight_ns is None else torch.full_like(first, straight_ns)
    return DelayMaps(first, torch.full_like(first, sight), straight)


def timed(ta, offset=INT16_MISSING):
    return report([0], [76], ta=ta, ta_offset=offset)


def offsets_log_prob(m, ta, offsets, maps, sinr_db):
    """Log-likelihood of a timing advance with many offsets, shape (offset,)."""
    count = len(offsets)
    many = replace(
        timed(ta)[torch.zeros(count, dtype=torch.int64)], ta_offset=torch.as_tensor(offsets)
    )
    repeated = DelayMaps(*(v.expand(count, -1) for v in vars(maps).values()))
    return m.direct(many, repeated, sinr_db.expand(count))[:, 0]


def sinr_of(m):
    """Expected uplink SINR [dB] of the drawn reports."""
    power = m.settings.terminal.power_dbm
    return uplink_sinr_db(torch.tensor([-80.5]), 10.85, power, RADIO.numerology)


def drawn(m, clock_ns=None, **serving):
    """Reports of terminals at one place whose serving sector has code 76."""
    rng = np.random.default_rng(31)
    around = surroundings(m, [-80.5], [0], COUNT, rng, lasting=False, serving=serving)
    sigma = m.settings.terminal.clock_sigma_ns
    clock = sigma * rng.standard_normal(COUNT) if clock_ns is None else clock_ns
    reports = m.sample(around, rng, Terminals.unrelated(COUNT, clock))
    return reports[reports.rsrp[:, 0] == 76]


# -- probabilities ------------------------------------------------------------------------


@ERRORS
@pytest.mark.parametrize("delay_ns", [0.0, 130.0, 611.0, float("nan")])
@pytest.mark.parametrize("sight", [0.0, 1.0])
def test_timing_advances_sum_to_one(error, delay_ns, sight):
    m, codes = model(error).timing, torch.arange(60)
    maps = delays([delay_ns], sight, straight_ns=500.0)
    repeated = DelayMaps(*(v.expand(len(codes), -1) for v in vars(maps).values()))
    many = replace(timed(0)[torch.zeros_like(codes)], ta=codes)
    found = m.direct(many, repeated, SINR_DB.expand(len(codes)))
    assert float(found.double().exp().sum()) == pytest.approx(1, abs=1e-4)


@ERRORS
def test_offsets_sum_to_the_timing_advance_s_probability(error):
    """Over all offsets, for each timing advance near the mapped one."""
    m, maps = model(error).timing, delays([640.0], 0.3)
    for ta in (4, 5, 6):
        alone = float(m.direct(timed(ta), maps, SINR_DB).exp())
        found = offsets_log_prob(m, ta, np.arange(-1600, 3200), maps, SINR_DB)
        assert float(found.double().exp().sum()) == pytest.approx(alone, rel=0.02)


@pytest.mark.parametrize("sight", [1.0, 0.0], ids=["in sight", "hidden"])
def test_sampled_timing_advances_follow_their_probability(sight):
    m = model()
    reports = drawn(m, first_arrival_ns=640.0, line_of_sight=sight)
    maps = delays([640.0], sight)
    probability = [float(m.timing.direct(timed(ta), maps, sinr_of(m)).exp()) for ta in range(20)]
    counts = np.bincount(reports.ta.numpy(), minlength=20)
    assert chi_square(counts, probability) > LEVEL


@pytest.mark.parametrize("sight", [1.0, 0.0], ids=["in sight", "hidden"])
def test_sampled_offsets_follow_their_probability(sight):
    """Given the timing advance; with a clock, so that the distribution is 40 ns wide and more."""
    m = model()
    reports = drawn(m, first_arrival_ns=640.0, line_of_sight=sight)
    ta, maps = 5, delays([640.0], sight)
    offsets = reports.ta_offset[reports.ta == ta].numpy()
    grid = np.arange(-600, 2500)
    log_prob = offsets_log_prob(m.timing, ta, grid, maps, sinr_of(m))
    width = 12  # ns, put together: about 100 bins
    probability = log_prob.double().exp().numpy()
    bins = (np.arange(len(grid)) // width).astype(int)
    counts = np.bincount(bins[offsets - grid[0]], minlength=bins.max() + 1)
    expected = np.bincount(bins, probability)
    assert chi_square(counts, expected / expected.sum()) > LEVEL


@ERRORS
@pytest.mark.parametrize("offset", [INT16_MISSING, 60])
def test_tables_give_what_each_place_gives_on_its_own(error, offset):
    """Within 0.05 nats down to 12 nats below the best place."""
    m = model(error).timing
    first = torch.linspace(200.0, 1500.0, 400)
    first[::17] = torch.nan
    straight = torch.linspace(180.0, 1400.0, 400)
    sight = torch.linspace(0, 1, 400)[
        torch.randperm(400, generator=torch.Generator().manual_seed(1))
    ]
    maps = DelayMaps(first[None], sight[None], straight[None])
    one = timed(5, offset)
    direct, looked_up = m.direct(one, maps, SINR_DB), m.log_prob(one, maps, SINR_DB)
    near = direct > direct.max() - 12
    assert near.sum() > 20
    assert float((direct - looked_up)[near].abs().max()) < 0.05


# -- in closed form -----------------------------------------------------------------------


def many_places(unknown=17):
    """A hundred metres to half a kilometre away, of every sight, some of unknown delay."""
    first = torch.linspace(200.0, 1500.0, 400)
    first[::unknown] = torch.nan
    order = torch.randperm(400, generator=torch.Generator().manual_seed(1))
    sight = torch.linspace(0, 1, 400)[order]
    return DelayMaps(first[None], sight[None], torch.linspace(180.0, 1400.0, 400)[None])


@ERRORS
@pytest.mark.parametrize("offset", [INT16_MISSING, -110, -45, 60])
@pytest.mark.parametrize("sinr_db", [0.0, 12.0, 25.0])
def test_the_closed_form_is_the_likelihood(error, offset, sinr_db):
    """In sight and late, known and unknown: 0.02 nats by the posterior, 0.1 down to 12 nats."""
    m, maps, sinr = model(error).timing, many_places(), torch.tensor([sinr_db])
    one = timed(5, offset)
    exact, closed = m.direct(one, maps, sinr).double(), m.closed(one, maps, sinr).double()
    weight = torch.softmax(exact, dim=1)
    difference = closed - exact
    mean = (weight * difference).sum()
    assert float((weight * (difference - mean) ** 2).sum().sqrt()) < 0.02
    near = exact > exact.max() - 12
    assert near.sum() > 20
    assert near[maps.first_arrival_ns.isnan()].any()
    assert float((difference - mean)[near].abs().max()) < 0.1


@ERRORS
def test_the_closed_form_is_what_tables_give(error):
    """The two ways in which maps are looked up: of exact posteriors, and of the network."""
    m, maps = model(error).timing, many_places()
    for one in (timed(5), timed(5, 60)):
        tables, closed = m.log_prob(one, maps, SINR_DB), m.closed(one, maps, SINR_DB)
        near = tables > tables.max() - 12
        assert float((tables - closed)[near].abs().max()) < 0.1


@ERRORS
@pytest.mark.parametrize("delay_ns", [0.0, 130.0, 611.0, float("nan")])
@pytest.mark.parametrize("sight", [0.0, 1.0])
def test_timing_advances_sum_to_one_in_closed_form(error, delay_ns, sight):
    m, codes = model(error).timing, torch.arange(80)
    maps = delays([delay_ns], sight, straight_ns=500.0)
    many = replace(timed(0)[torch.zeros_like(codes)], ta=codes)
    repeated = DelayMaps(*(v.expand(len(codes), -1) for v in vars(maps).values()))
    found = m.closed(many, repeated, SINR_DB.expand(len(codes)))
    assert float(found.double().exp().sum()) == pytest.approx(1, abs=1e-4)


@ERRORS
def test_offsets_in_closed_form_sum_to_the_timing_advance_s_probability(error):
    """Of the timing advances that the path makes likely."""
    m, maps = model(error).timing, delays([640.0], 0.3)
    total = 0.0
    for ta in range(3, 12):
        offsets = np.arange(-1600, 1600)
        count = len(offsets)
        many = replace(
            timed(ta)[torch.zeros(count, dtype=torch.int64)], ta_offset=torch.as_tensor(offsets)
        )
        repeated = DelayMaps(*(v.expand(count, -1) for v in vars(maps).values()))
        found = m.closed(many, repeated, SINR_DB.expand(count))
        total += float(found.double().exp().sum())
    assert total == pytest.approx(1, abs=0.02)


def test_the_last_timing_advance_holds_all_that_is_farther():
    m = model(FITTED).timing
    last = timed(TIMING_ADVANCE_LAST)
    far = delays([2e6], straight_ns=2e6)
    assert float(m.closed(last, far, SINR_DB)) == pytest.approx(0, abs=0.2)
    assert float(m.closed(timed(0), delays([0.0]), SINR_DB)) > -1.5


def test_reports_in_closed_form_do_not_depend_on_each_other():
    """With offsets and without, timed and not, in one go and one by one."""
    m, maps = model(FITTED).timing, many_places()
    parts = [timed(5), timed(5, -45), timed(MISSING), timed(4, 30), timed(MISSING, 30)]
    reports = ReportBatch.cat(parts)
    repeated = DelayMaps(*(v.expand(len(parts), -1) for v in vars(maps).values()))
    sinr = torch.tensor([3.0, 12.0, 7.0, 25.0, 0.0])
    together = m.closed(reports, repeated, sinr)
    for n, one in enumerate(parts):
        torch.testing.assert_close(together[n : n + 1], m.closed(one, maps, sinr[n : n + 1]))
    assert (together[[2, 4]] == 0).all()
    assert (together[[0, 1, 3]].std(dim=1) > 1).all()


@pytest.mark.parametrize("offset", [INT16_MISSING, 60])
def test_a_further_error_is_one_of_the_map(offset):
    """30 ns more make an error of 30 ns where the map had none."""
    maps, one = many_places(unknown=1000), timed(5, offset)
    maps = maps.rows(slice(None))
    exact = model(MapError(delay_core_ns=30.0)).timing
    plain = model().timing
    expected = exact.in_time_and_late(one, maps.delay_ns, maps.known, SINR_DB)
    found = plain.in_time_and_late(one, maps.delay_ns, maps.known, SINR_DB, 30.0)
    for value, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(value[maps.known], wanted[maps.known])


def test_a_delay_far_beyond_the_straight_line_is_looked_up_all_the_same():
    m = model().timing
    maps = delays([4000.0], straight_ns=300.0)
    ta = int(timing_advance(4000.0, RADIO.numerology))
    found = m.log_prob(timed(ta), maps, SINR_DB)
    assert float(found) == pytest.approx(float(m.direct(timed(ta), maps, SINR_DB)), abs=0.02)


def test_gradients_are_the_slopes():
    m = model(FITTED).timing
    first = torch.tensor([[500.0, 640.0, 700.0]])
    for how in (m.direct, m.log_prob, m.closed):
        at = first.clone().requires_grad_()
        (slope,) = torch.autograd.grad(how(timed(5, -40), delays(at, 0.4), SINR_DB).sum(), at)
        with torch.no_grad():
            up, down = (how(timed(5, -40), delays(first + d, 0.4), SINR_DB) for d in (4.0, -4.0))
        torch.testing.assert_close(slope, (up - down) / 8.0, atol=2e-3, rtol=0.05)


# -- what it follows ----------------------------------------------------------------------


def test_without_sight_it_follows_the_first_path_not_the_straight_line():
    """The first path is 400 ns longer than the straight line: three steps of the timing advance."""
    m = model()
    reports = drawn(m, clock_ns=0.0, first_arrival_ns=1000.0, line_of_sight=0.0)
    on_time = int(timing_advance(1000.0, RADIO.numerology))
    straight = int(timing_advance(600.0, RADIO.numerology))
    assert on_time > straight
    share = (reports.ta == on_time).double().mean()
    assert share > 1 - m.settings.timing.late_share_nlos
    assert float((reports.ta == straight).double().mean()) == 0
    maps = delays([1000.0, 600.0], 0.0)
    here, there = m.timing.log_prob(timed(on_time), maps, SINR_DB)[0].tolist()
    assert here > there + 3


def test_late_paths_are_as_rare_as_the_settings_say():
    """Where the offset is more than 30 ns above the mapped delay's."""
    m = model()
    for sight, share in ((1.0, 0.02), (0.0, 0.2), (0.5, 0.11)):
        reports = drawn(m, clock_ns=0.0, first_arrival_ns=640.0, line_of_sight=sight)
        trip = reports.ta * STEP_NS + reports.ta_offset
        expected = share * np.exp(-15.0 / m.settings.timing.late_mean_ns)
        found = float((trip > 1280 + 30).double().mean())
        assert found == pytest.approx(expected, abs=4 * np.sqrt(expected / len(reports)))


def test_ten_metres_of_clock_bias_show_as_such():
    """33 ns one way: the round trip is 20 m, 66.7 ns, longer."""
    m = model()
    bias_ns = 1e9 * 10.0 / SPEED_OF_LIGHT_M_S
    trips = []
    for clock_ns in (0.0, bias_ns):
        reports = drawn(m, clock_ns=clock_ns, first_arrival_ns=640.0, line_of_sight=1.0)
        trips.append((reports.ta * STEP_NS + reports.ta_offset).median())
    assert float(trips[1] - trips[0]) == pytest.approx(2 * bias_ns, abs=0.5)


# -- tracks -------------------------------------------------------------------------------

TWO = ((4, -45), (4, -41))  # timing advances and offsets of two reports
SINRS = torch.tensor([12.0, 5.0])


def two_reports():
    return ReportBatch.cat([timed(*values) for values in TWO])


def two_places(first_ns, second_ns, sight=0.4):
    rows = [delays(v, sight) for v in (first_ns, second_ns)]
    return DelayMaps(*(torch.cat(v) for v in zip(*(vars(r).values() for r in rows), strict=True)))


def integrated(maps, clock_ns, shifts_ns, weights):
    """Two reports of one place by plain sums: over the clock, and over the map's error."""
    like = model(terminal={"clock_sigma_ns": 0.0}).timing
    nodes = np.linspace(-5, 5, 201)
    density = np.exp(-0.5 * nodes**2)
    clock = torch.tensor(clock_ns * nodes, dtype=torch.float32)
    shifts = torch.as_tensor(shifts_ns, dtype=torch.float32)
    delay = (maps.delay_ns[0, 0] + shifts[:, None] + clock).reshape(1, -1)
    value = 0.0
    for t in range(2):
        at = DelayMaps(delay, maps.line_of_sight[t, 0].expand(delay.shape), delay)
        value = value + like.direct(two_reports()[t : t + 1], at, SINRS[t : t + 1])[0].double()
    value = value.exp().numpy().reshape(len(shifts_ns), -1) @ (density / density.sum())
    return np.log(value @ weights)


def test_the_clock_is_one_for_a_track():
    """Two reports against a sum over the clock; each on its own would be far off."""
    m = model()
    maps = two_places([480.0], [480.0])
    found = float(m.timing.track_log_prob(two_reports(), maps, SINRS))
    assert found == pytest.approx(integrated(maps, 20.0, [0.0], [1.0]), abs=0.03)
    alone = float(m.timing.log_prob(two_reports(), maps, SINRS).sum())
    assert abs(found - alone) > 1.0


def test_the_map_s_error_is_one_for_a_place_and_another_elsewhere():
    """Core and tail, two reports of one place and of two places, against sums over both."""
    error = replace(FITTED, delay_core_ns=15.0, delay_tail_share=0.1, delay_tail_ns=60.0)
    m = model(error)
    maps = two_places([500.0], [500.0])
    z = np.linspace(-4, 4, 17)
    gauss = np.exp(-0.5 * z**2) / np.exp(-0.5 * z**2).sum()
    shift = np.r_[15.0 * z, 60.0 * z]
    weight = np.r_[0.9 * gauss, 0.1 * gauss]
    found = float(m.timing.track_log_prob(two_reports(), maps, SINRS, ((0, 1),)))
    assert found == pytest.approx(integrated(maps, 20.0, shift, weight), abs=0.05)
    apart = float(m.timing.track_log_prob(two_reports(), maps, SINRS))
    assert found > apart + 0.3  # they agree better than two independent errors would have it


def test_what_is_missing_says_nothing():
    m = model(FITTED).timing
    maps = delays([480.0, 900.0])
    assert (m.log_prob(timed(MISSING), maps, SINR_DB) == 0).all()
    assert (m.track_log_prob(timed(MISSING), maps, SINR_DB) == 0).all()
    reports = two_reports()
    reports = replace(reports, ta=torch.tensor([4, MISSING]))
    both = m.track_log_prob(reports, two_places([480.0], [480.0]), SINRS)
    first = m.log_prob(timed(*TWO[0]), two_places([480.0], [480.0]).rows(slice(0, 1)), SINRS[:1])
    torch.testing.assert_close(both, first[0])
