"""Ratios, rank and rates, given the reported levels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up_places import FITTED, LEVEL, RADIO, chi_square, model, report, surroundings
from scipy import stats

from ueloc_core.measurement.accuracy import uplink_sinr_db
from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.reports import MISSING, SS_RSRP, SS_RSRQ, SS_SINR

CODE = 76
OTHERS_DBM = (-91.0, -94.0, -97.5)
SILENT_MW = sum(10 ** (v / 10) for v in OTHERS_DBM)
COUNT = 20_000
FIELDS = {  # every code of a field, and how it stands in a report
    "rsrq": (SS_RSRQ.last + 1, 0),
    "sinr": (SS_SINR.last + 1, 0),
    "cqi": (16, 0),
    "ri": (4, 1),
    "bler": (101, 0),
}


def with_codes(field, codes):
    """One report of code 76 for each code of a field, which is all that it holds."""
    codes = torch.as_tensor(codes)
    one = report([0], [CODE])[torch.zeros(len(codes), dtype=torch.int64)]
    if field in ("rsrq", "sinr"):
        values = torch.full_like(one.rsrp, MISSING)
        values[:, 0] = codes
    else:
        values = codes
    return replace(one, **{field: values})


def serving_sinr_db(m, deviation_db):
    """SINR of the serving sector amid all others, under loads that deviate."""
    load = np.minimum(m.quality.load * 10 ** (deviation_db / 10), 1.0)
    return float(SS_RSRP.decode(CODE)) - 10 * np.log10(load * SILENT_MW + m.quality.noise_mw)


def log_prob(m, reports, silent_mw=SILENT_MW):
    quality = m.quality
    silent = torch.full((len(reports),), silent_mw)
    return quality.log_prob(quality.table(reports), silent).double()


@pytest.fixture(scope="module")
def drawn():
    """Reports of code 76 amid interferers that are never reported."""
    m, rng = model(max_neighbours=0), np.random.default_rng(51)
    level = [-80.5, *OTHERS_DBM]
    around = surroundings(m, level, [0, 1, 2, 3], 4 * COUNT, rng, lasting=False)
    reports = m.sample(around, rng)
    mine = (reports.sector[:, 0] == 0) & (reports.rsrp[:, 0] == CODE)
    assert mine.sum() > COUNT
    return m, reports[mine.nonzero()[:COUNT, 0]]


@pytest.mark.parametrize(
    ("field", "error"),
    [*((field, None) for field in FIELDS), ("sinr", FITTED), ("cqi", FITTED)],
)
def test_codes_of_a_field_sum_to_one(field, error):
    count, first = FIELDS[field]
    found = log_prob(model(error), with_codes(field, torch.arange(first, first + count)))
    assert float(found.exp().sum()) == pytest.approx(1, abs=5e-3)


@pytest.mark.parametrize("field", FIELDS)
def test_sampled_codes_follow_their_probability(drawn, field):
    m, reports = drawn
    count, first = FIELDS[field]
    count = 40 if field == "bler" else count  # more lost blocks are never drawn
    values = getattr(reports, field)
    values = values[:, 0] if values.ndim > 1 else values
    probability = log_prob(m, with_codes(field, torch.arange(first, first + count))).exp()
    counts = np.bincount(values.numpy() - first, minlength=count)
    assert chi_square(counts, probability.numpy() / float(probability.sum())) > LEVEL


def test_throughputs_sum_to_one_and_are_drawn_so(drawn):
    """Up to 2 Gbit/s, counted in 60 bins of equal ratio; inside a bin every rate is summed."""
    m, reports = drawn
    deviation = np.linspace(-6, 6, 2001)
    weight = stats.norm.pdf(deviation) / stats.norm.pdf(deviation).sum()
    sinr = serving_sinr_db(m, m.settings.quality.interference_sigma_db * deviation)
    laws, spread = m.quality.rates, m.settings.quality.throughput_sigma
    median = laws.median_kbps(sinr)

    def below(rate):  # floors are reported
        return stats.norm.cdf(np.log(np.maximum(rate, 1e-300)[:, None] / median) / spread) @ weight

    codes = torch.arange(3000)
    found = laws.log_throughput(codes[:, None], torch.tensor(sinr)[None], spread).exp().numpy()
    np.testing.assert_allclose((found @ weight).sum(), below(np.array([3000])), atol=1e-6)
    edges = np.floor(np.geomspace(1, 2_000_000, 61))
    total = np.diff(below(edges))
    assert total.sum() == pytest.approx(1, abs=1e-3)
    counts = np.histogram(reports.throughput.numpy(), edges)[0]
    assert chi_square(counts, total / total.sum()) > LEVEL
    codes = torch.tensor([20_000, 100_000, 250_000])
    found = laws.log_throughput(codes[:, None], torch.tensor(sinr)[None], spread).exp().numpy()
    looked_up = log_prob(m, with_codes("throughput", codes)).numpy()
    np.testing.assert_allclose(looked_up, np.log(found @ weight), atol=0.1)


def test_uplink_sinr_sums_to_one_and_is_drawn_so(drawn):
    """In bins of half a dB of its 0.002 dB codes."""
    m, reports = drawn
    power = m.settings.terminal.power_dbm
    expected = uplink_sinr_db(torch.tensor([-80.5]), 10.85, power, RADIO.numerology)
    codes = torch.arange(-32767, 32768)
    many = replace(report([0], [CODE])[torch.zeros_like(codes)], ul_sinr=codes)
    probability = m.uplink_log_prob(many, expected.expand(len(codes))).double().exp().numpy()
    assert probability.sum() == pytest.approx(1, abs=2e-3)
    bins = (codes.numpy() + 32767) // 250
    counts = np.bincount((reports.ul_sinr.numpy() + 32767) // 250, minlength=bins.max() + 1)
    grouped = np.bincount(bins, probability)
    assert chi_square(counts, grouped / grouped.sum()) > LEVEL


def test_ratios_of_a_report_share_their_interference():
    """RSRQ and SINR of one report against the integral over their common deviation."""
    m = model()
    settings, level = m.settings.quality, float(SS_RSRP.decode(CODE))
    deviation = np.linspace(-6, 6, 4001)
    weight = stats.norm.pdf(deviation) / stats.norm.pdf(deviation).sum()
    load = np.minimum(m.quality.load * 10 ** (settings.interference_sigma_db * deviation / 10), 1)
    total = load * (10 ** (level / 10) + SILENT_MW) + m.quality.noise_mw
    rest = load * SILENT_MW + m.quality.noise_mw
    ratios = {
        SS_RSRQ: level - 10 * np.log10(12 * total),
        SS_SINR: level - 10 * np.log10(rest),
    }

    def mass(field, code):
        low = field.lower_edge(code)
        upper = stats.norm.cdf((low + field.step - ratios[field]) / settings.sigma_db)
        return upper - stats.norm.cdf((low - ratios[field]) / settings.sigma_db)

    middle = {field: int(field.encode(v[2000])) for field, v in ratios.items()}
    checked = 0
    for dq in (-12, -5, 0, 4, 9):
        for ds in (-15, -4, 0, 6):
            rsrq, sinr = middle[SS_RSRQ] + dq, middle[SS_SINR] + ds
            exact = np.log((weight * mass(SS_RSRQ, rsrq) * mass(SS_SINR, sinr)).sum())
            if exact > -30:
                one = report([0], [CODE], rsrq=[rsrq], sinr=[sinr])
                assert float(log_prob(m, one)) == pytest.approx(exact, abs=0.1)
                checked += 1
    assert checked > 8
    apart = report([0], [CODE], rsrq=[middle[SS_RSRQ] - 8], sinr=[middle[SS_SINR] + 8])
    alone = (
        replace(apart, rsrq=torch.full_like(apart.rsrq, MISSING)),
        replace(apart, sinr=torch.full_like(apart.sinr, MISSING)),
    )
    assert float(log_prob(m, apart)) < sum(float(log_prob(m, r)) for r in alone) - 3


def test_link_adaptation_keeps_to_its_target():
    """10% of the blocks, more below the lowest MCS and fewer above the highest."""
    laws = model().quality.rates
    sinr = np.array([-20.0, -5.0, 5.0, 15.0, 20.0, 45.0])
    lost = laws.lost_share(sinr)
    np.testing.assert_allclose(lost[1:5], 0.1)
    assert lost[0] > 0.99
    assert lost[5] < 0.01
    assert (np.diff(laws.lost_share(np.arange(-30, 60, 0.1))) <= 1e-12).all()


def test_no_report_meets_less_than_noise(drawn):
    """However low the load: at most the SNR, give or take the errors of a field."""
    m, reports = drawn
    snr_db = float(SS_RSRP.decode(CODE)) - 10 * np.log10(m.quality.noise_mw)
    light = serving_sinr_db(m, -12.0)
    assert light < snr_db
    sinr = SS_SINR.decode(reports.sinr[:, 0].numpy())
    assert (sinr < light + 5).mean() > 0.999
    assert (sinr > serving_sinr_db(m, 99.0) - 5).mean() > 0.999  # and no more than full load


def test_interference_that_is_wrong_is_noticed(drawn):
    _, reports = drawn
    wrong = model(max_neighbours=0, quality={"interference_sigma_db": 4.0})
    probability = log_prob(wrong, with_codes("rsrq", torch.arange(128))).exp().numpy()
    counts = np.bincount(reports.rsrq[:, 0].numpy(), minlength=128)
    assert chi_square(counts, probability / probability.sum()) < 1e-6


def test_more_interference_is_less_quality():
    m = model()
    weak = report([0], [CODE], rsrq=[30], sinr=[30], cqi=4)
    good = report([0], [CODE], rsrq=[64], sinr=[90], cqi=14)
    near, far = 1e-7, 1e-11
    assert float(log_prob(m, weak, near)) > float(log_prob(m, weak, far))
    assert float(log_prob(m, good, far)) > float(log_prob(m, good, near))


def test_without_quality_fields_nothing_is_said():
    for error in (None, FITTED):
        value = log_prob(model(error), report([0, 1], [CODE, 60]), 1e-9)
        assert float(value) == pytest.approx(0, abs=1e-5)


def test_the_map_s_error_is_one_for_a_place():
    """Three reports against a sum over the error of the total power."""
    m, exact = model(FITTED), model()
    one = report([0], [CODE], rsrq=[64], sinr=[62])
    reports = ReportBatch.cat([one, report([0], [CODE], rsrq=[65], sinr=[61]), one])
    silent = torch.full((3, 1), SILENT_MW)
    error = np.linspace(-5, 5, 401) * FITTED.total_db
    weight = np.exp(-0.5 * (error / FITTED.total_db) ** 2)
    table = exact.quality.table(reports)
    given = [
        float(exact.quality.log_prob(table, silent * 10 ** (e / 10)).double().sum()) for e in error
    ]
    expected = np.log(np.exp(given) @ (weight / weight.sum()))
    found = float(m.quality.same_place_log_prob(reports, silent))
    assert found == pytest.approx(expected, abs=0.02)
    alone = float(m.quality.log_prob(m.quality.table(reports), silent).sum())
    assert abs(found - alone) > 0.2
