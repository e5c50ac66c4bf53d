"""The measurement model: what it samples is what it gives the likelihood of."""

import numpy as np
import pytest
import torch
from scipy import stats

from ueloc_core.city_sections import MeasurementConfig, RadioConfig
from ueloc_core.measurement.model import (
    MapError,
    MeasurementModel,
    ReportBatch,
    log_bin,
    log_code,
)
from ueloc_core.measurement.reports import MISSING, SS_RSRP, SS_RSRQ, SS_SINR
from ueloc_core.measurement.schemas import SLOTS

FITTED = MapError(
    core_db=1.5,
    core_per_se=1.1,
    tail_logit=-1.5,
    tail_per_se=0.2,
    tail_per_10db=0.3,
    tail_db=11.0,
    tail_bias_db=-4.0,
    unhit_dbm=-133.0,
    unhit_db=9.0,
    total_db=2.0,
    level_exponent=1.0,
)
ERRORS = pytest.mark.parametrize("error", [MapError.none(), FITTED], ids=["none", "fitted"])
RADIO = RadioConfig()


def model(error=None, **settings):
    return MeasurementModel(MeasurementConfig(**settings), RADIO, error or MapError.none())


def report(sector, rsrp, rsrq=None, sinr=None, cqi=MISSING):
    """One report from lists; empty slots are filled up."""

    def slots(values):
        values = list(values or [])
        return torch.tensor([[*values, *[MISSING] * (SLOTS - len(values))]])

    return ReportBatch(slots(sector), slots(rsrp), slots(rsrq), slots(sinr), torch.tensor([cqi]))


def chi_square(counts, probability):
    """p-value of counts against probabilities, rare bins put together."""
    counts, expected = np.asarray(counts, float), np.asarray(probability) * np.sum(counts)
    rare = expected < 8
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    if expected[-1] < 1:
        assert counts[-1] <= 10
        counts, expected = counts[:-1], expected[:-1]
    return stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue


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


def test_log_bin_is_symmetric():
    low = torch.linspace(-30, 30, 121)
    loc = torch.zeros(())
    torch.testing.assert_close(
        log_bin(low, low + 1, loc, 3.0), log_bin(-low - 1, -low, loc, 3.0), atol=1e-4, rtol=1e-5
    )


@pytest.mark.parametrize("field", [SS_RSRP, SS_RSRQ, SS_SINR], ids=lambda f: f.name)
@pytest.mark.parametrize("loc", [-200.0, -95.3, -20.0, 0.2, 39.9, 80.0])
def test_codes_of_a_field_sum_to_one(field, loc):
    codes = torch.arange(field.last + 1)
    log_prob = log_code(field, codes, torch.tensor(loc), 1.7)
    assert float(log_prob.double().exp().sum()) == pytest.approx(1, abs=1e-5)
    assert float(log_code(field, torch.tensor(MISSING), torch.tensor(loc), 1.7)) == 0


# -- levels -------------------------------------------------------------------------------


@ERRORS
@pytest.mark.parametrize("level", [-160.0, -123.4, -95.0, -60.2, -20.0, float("nan")])
@pytest.mark.parametrize("se", [0.0, 0.7, 6.0, float("nan")])
def test_levels_of_a_heard_sector_sum_to_one(error, level, se):
    codes = torch.arange(SS_RSRP.last + 1)
    log_prob = model(error).heard_log_prob(codes, torch.tensor(level), torch.tensor(se))
    assert float(log_prob.double().exp().sum()) == pytest.approx(1, abs=1e-5)
    assert (
        float(model(error).heard_log_prob(torch.tensor(MISSING), codes[:1] * 0.0, codes[:1] * 0.0))
        == 0
    )


@ERRORS
@pytest.mark.parametrize("level", [-125.0, -112.3, -95.0, float("nan")])
def test_heard_and_unheard_sum_to_one(error, level):
    """Without dropouts a sector is unheard if, and only if, its code is under the threshold."""
    m = model(error, dropout_probability=0.0)
    level, se = torch.tensor(level), torch.tensor(1.3)
    heard = m.heard_log_prob(torch.arange(m.threshold_code, SS_RSRP.last + 1), level, se)
    edge = torch.tensor(float(SS_RSRP.lower_edge(m.threshold_code)))
    unheard = m.unheard_log_prob(edge, torch.tensor(-50.0), level, se)
    assert float(heard.double().exp().sum() + unheard.double().exp()) == pytest.approx(1, abs=1e-5)


def test_more_standard_error_widens_the_level():
    codes, level = torch.arange(SS_RSRP.last + 1), torch.tensor(-90.0)
    spreads = []
    for se in (0.0, 3.0, 8.0):
        mass = model(FITTED).heard_log_prob(codes, level, torch.tensor(se)).double().exp().numpy()
        mean = (mass * codes.numpy()).sum()
        spreads.append(np.sqrt((mass * (codes.numpy() - mean) ** 2).sum()))
    assert spreads == sorted(spreads)
    assert spreads[2] > spreads[0] + 3


def levels(count, *dbm):
    return torch.tensor(dbm, dtype=torch.float32).repeat(count, 1)


@pytest.mark.parametrize("level", [-118.2, -95.0, -33.0])
def test_sampled_levels_follow_their_probability(level):
    """One sector alone: its code given that it is heard."""
    m = model(dropout_probability=0.3)
    batch = m.sample(levels(20_000, level), torch.Generator().manual_seed(1))
    codes = torch.arange(m.threshold_code, SS_RSRP.last + 1)
    log_prob = m.heard_log_prob(codes, torch.tensor(level), torch.tensor(0.0)).double()
    heard = batch.heard[:, 0]
    counts = np.bincount(batch.rsrp[heard, 0].numpy(), minlength=SS_RSRP.last + 1)
    assert counts[: m.threshold_code].sum() == 0
    probability = torch.softmax(log_prob, 0).numpy()
    assert chi_square(counts[m.threshold_code :], probability) > 1e-3
    share = min(float(log_prob.exp().sum()), 1.0)
    assert abs(heard.double().mean() - share) < 4 * np.sqrt(share * (1 - share) / 20_000) + 1e-9


@pytest.mark.parametrize(("level", "dropout"), [(-117.0, 0.0), (-117.0, 0.2), (-90.0, 0.2)])
def test_how_often_a_sector_is_unheard(level, dropout):
    """A weak or lost neighbour beside a serving sector far above it."""
    m = model(dropout_probability=dropout)
    count = 20_000
    batch = m.sample(levels(count, -50.0, level), torch.Generator().manual_seed(2))
    assert (batch.sector[:, 0] == 0).all()
    missing = float((batch.sector[:, 1] < 0).double().mean())
    edge = torch.tensor(float(SS_RSRP.lower_edge(m.threshold_code)))
    expected = float(
        m.unheard_log_prob(edge, torch.tensor(-50.0), torch.tensor(level), torch.tensor(0.0)).exp()
    )
    assert abs(missing - expected) < 4 * np.sqrt(expected * (1 - expected) / count)


def test_a_sector_that_no_ray_reaches_is_never_heard():
    m = model()
    batch = m.sample(levels(500, -80.0, float("nan")), torch.Generator().manual_seed(3))
    assert (batch.sector[:, 1:] < 0).all()
    nothing = torch.tensor(float("nan"))
    args = (torch.tensor(-120.0), torch.tensor(-80.0), nothing, nothing)
    assert float(m.unheard_log_prob(*args)) == pytest.approx(0, abs=1e-6)


def test_the_strongest_serves_and_neighbours_fall():
    m = model(max_neighbours=4)
    rng = np.random.default_rng(0)
    maps = torch.from_numpy(rng.uniform(-125, -70, (500, 12)).astype(np.float32))
    batch = m.sample(maps, torch.Generator().manual_seed(4))
    rsrp = batch.rsrp.numpy()
    assert batch.sector.shape == (500, SLOTS)
    assert (batch.heard.sum(dim=1) <= 5).all()
    assert (rsrp[:, 0] >= rsrp.max(axis=1)).all()
    assert (np.diff(rsrp[:, 1:], axis=1) <= 0).all()
    assert ((batch.sector >= 0) == (batch.rsrp >= 0)).all()
    empty = ~batch.heard.numpy()
    for field in (batch.rsrq, batch.sinr):
        assert (field.numpy()[empty] == MISSING).all()
    assert float((batch.sinr == MISSING)[batch.heard].double().mean()) == pytest.approx(
        0.05, abs=0.02
    )


def test_the_same_generator_gives_the_same_reports():
    maps = levels(50, -80.0, -90.0, -100.0)
    first, second, other = (
        model().sample(maps, torch.Generator().manual_seed(s)) for s in (1, 1, 2)
    )
    for name in ("sector", "rsrp", "rsrq", "sinr", "cqi"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert not torch.equal(first.rsrp, other.rsrp)


def test_the_ceiling_is_the_weakest_neighbour_where_slots_are_full():
    m = model(max_neighbours=2)
    full, short = report([3, 1, 2], [80, 70, 60]), report([3, 1], [80, 70])
    assert float(m.ceiling_dbm(full)) == SS_RSRP.decode(60)
    assert float(m.ceiling_dbm(short)) == SS_RSRP.lower_edge(m.threshold_code) == -120


# -- quality ------------------------------------------------------------------------------

SERVING_DBM, OTHERS_DBM = -80.0, (-91.0, -94.0, -97.5)


def quality_reports(count, **settings):
    """Reports of one serving sector with code 76 amid interferers that are never reported."""
    m = model(max_neighbours=0, dropout_probability=0.0, **settings)
    maps = levels(40 * count, SERVING_DBM, *OTHERS_DBM)
    batch = m.sample(maps, torch.Generator().manual_seed(5))
    code = int(SS_RSRP.encode(SERVING_DBM))
    chosen = (batch.sector[:, 0] == 0) & (batch.rsrp[:, 0] == code)
    batch = batch[chosen.nonzero()[:count, 0]]
    assert len(batch) == count
    unreported = torch.tensor([sum(10 ** (v / 10) for v in OTHERS_DBM)])
    return m, batch, code, unreported


@pytest.mark.parametrize(
    ("field", "last"), [("rsrq", SS_RSRQ.last), ("sinr", SS_SINR.last), ("cqi", 15)]
)
def test_sampled_quality_follows_its_probability(field, last):
    """Each quality field alone, the serving level and the interferers known."""
    m, batch, code, unreported = quality_reports(4000)
    values = getattr(batch, field)
    values = values if field == "cqi" else values[:, 0]
    log_prob = []
    for k in range(last + 1):
        one = report([0], [code], **{field: k if field == "cqi" else [k]})
        log_prob.append(float(m.quality_log_prob(m.quality_table(one), unreported)))
    probability = np.exp(log_prob)
    assert probability.sum() == pytest.approx(1, abs=2e-3)
    counts = np.bincount(values.numpy(), minlength=last + 1)
    assert chi_square(counts, probability) > 1e-3


def test_quality_shares_its_interference():
    """RSRQ and SINR of one report against the integral over their common deviation."""
    m, _, code, unreported = quality_reports(1)
    sigma = m.config.interference_sigma_db
    level = float(SS_RSRP.decode(code))
    known_mw = m.load * 10 ** (level / 10) + m.noise_mw
    expected_dbm = 10 * np.log10(known_mw + m.load * float(unreported))
    deviation = np.linspace(-6, 6, 4001) * sigma
    weight = stats.norm.pdf(deviation, scale=sigma)
    weight /= weight.sum()
    total = expected_dbm + deviation
    rest = np.maximum(10 ** (total / 10) - m.load * 10 ** (level / 10), m.noise_mw)
    rsrq = level - total - 10 * np.log10(12)
    sinr = level - 10 * np.log10(rest)

    def bin_mass(field, value, k):
        low = field.lower_edge(k)
        scale = m.config.quality_sigma_db
        upper = stats.norm.cdf((low + field.step - value) / scale)
        return upper - stats.norm.cdf((low - value) / scale)

    middle = int(SS_RSRQ.encode(level - expected_dbm - 10 * np.log10(12)))
    centre = int(SS_SINR.encode(np.interp(expected_dbm, total, sinr)))
    for dq in (-12, -5, 0, 4, 9):
        for ds in (-15, -4, 0, 6):
            one = report([0], [code], [middle + dq], [centre + ds])
            exact = np.log(
                (
                    weight
                    * bin_mass(SS_RSRQ, rsrq, middle + dq)
                    * bin_mass(SS_SINR, sinr, centre + ds)
                ).sum()
            )
            found = float(m.quality_log_prob(m.quality_table(one), unreported))
            if exact > -40:
                assert found == pytest.approx(exact, abs=0.03)
    # They go together: far less likely in opposite directions than if they were independent.
    both, rsrq_only, sinr_only = (
        float(m.quality_log_prob(m.quality_table(r), unreported))
        for r in (
            report([0], [code], [middle - 8], [centre + 8]),
            report([0], [code], [middle - 8]),
            report([0], [code], None, [centre + 8]),
        )
    )
    assert both < rsrq_only + sinr_only - 3


def test_more_interference_is_less_quality():
    m, _, code, _ = quality_reports(1)
    one = report([0], [code], [30], [30], 4)
    near, far = (torch.tensor([10 ** (v / 10)]) for v in (-70.0, -110.0))
    table = m.quality_table(one)
    assert float(m.total_dbm(table, near)) > float(m.total_dbm(table, far))
    weak = report([0], [code], [70], [90], 14)
    assert m.quality_log_prob(m.quality_table(weak), far) > m.quality_log_prob(
        m.quality_table(weak), near
    )


def test_without_quality_fields_nothing_is_said():
    m = model(FITTED)
    empty = report([0, 1], [76, 60])
    value = m.quality_log_prob(m.quality_table(empty), torch.tensor([1e-9]))
    assert float(value) == pytest.approx(0, abs=1e-5)


def test_cqi_alone_sums_to_one_under_a_map_error():
    m = model(FITTED)
    values = [
        float(
            m.quality_log_prob(
                m.quality_table(report([0], [76], cqi=k)), torch.tensor([1e-10])
            ).exp()
        )
        for k in range(16)
    ]
    assert sum(values) == pytest.approx(1, abs=2e-3)


# -- whole reports ------------------------------------------------------------------------


@pytest.fixture
def places():
    rng = np.random.default_rng(3)
    maps = rng.uniform(-130, -75, (1, 6, 9)).astype(np.float32)
    maps[0, 4, :4] = np.nan
    errors = rng.gamma(1.0, 1.0, maps.shape).astype(np.float32)
    errors[np.isnan(maps) | (rng.random(maps.shape) < 0.1)] = np.nan
    return torch.from_numpy(maps), torch.from_numpy(errors)


REPORT = report([2, 0, 5], [75, 60, 55], [60, 40, MISSING], [50, MISSING, 20], 7)


@ERRORS
def test_order_of_neighbours_never_matters(places, error):
    m = model(error)
    expected = m.log_prob(REPORT, *places)
    turned = ReportBatch(
        *(
            getattr(REPORT, n)[:, [0, 2, 1, 3, 4, 5, 6, 7]]
            for n in ("sector", "rsrp", "rsrq", "sinr")
        ),
        REPORT.cqi,
    )
    torch.testing.assert_close(m.log_prob(turned, *places), expected, atol=1e-3, rtol=1e-5)
    spread = ReportBatch(
        *(
            getattr(REPORT, n)[:, [0, 3, 1, 4, 5, 2, 6, 7]]
            for n in ("sector", "rsrp", "rsrq", "sinr")
        ),
        REPORT.cqi,
    )
    torch.testing.assert_close(m.log_prob(spread, *places), expected, atol=1e-3, rtol=1e-5)


@ERRORS
def test_reports_in_a_batch_are_located_one_by_one(places, error):
    m = model(error)
    other = report([1], [50], None, [30])
    both = ReportBatch(
        *(
            torch.cat([getattr(REPORT, n), getattr(other, n)])
            for n in ("sector", "rsrp", "rsrq", "sinr", "cqi")
        )
    )
    together = m.log_prob(both, *places)
    alone = torch.cat([m.log_prob(r, *places) for r in (REPORT, other)])
    torch.testing.assert_close(together, alone)
    own = m.log_prob(both, *(v.expand(2, -1, -1) for v in places))
    torch.testing.assert_close(together, own)


@ERRORS
def test_log_prob_is_the_sum_of_its_parts(places, error):
    """Levels of the heard, silence of the others, quality given the others' power."""
    m = model(error)
    maps, errors = places
    heard, silent = [2, 0, 5], [1, 3, 4]
    level = m.heard_log_prob(REPORT.rsrp[0, :3, None], maps[0, heard], errors[0, heard])
    silence = m.unheard_log_prob(
        m.ceiling_dbm(REPORT), REPORT.level_dbm[:, 0], maps[0, silent], errors[0, silent]
    )
    unreported = (10 ** (maps[0, silent] / 10)).nan_to_num(0.0).sum(dim=0)
    quality = m.quality_log_prob(m.quality_table(REPORT), unreported[None])[0]
    expected = level.sum(dim=0) + silence.sum(dim=0) + quality
    torch.testing.assert_close(m.log_prob(REPORT, *places)[0], expected)


def test_missing_neighbours_change_the_answer(places):
    """A neighbour left out of a report is evidence that it is weak here."""
    m = model()
    maps, errors = torch.full((1, 2, 2), -80.0), torch.zeros(1, 2, 2)
    maps[0, 1] = torch.tensor([-90.0, -130.0])  # the second sector: strong here, weak there
    alone = m.log_prob(report([0], [76]), maps, errors)[0]
    both = m.log_prob(report([0, 1], [76, 67]), maps, errors)[0]
    assert alone[1] - alone[0] > 2.5
    assert both[0] - both[1] > 10
    cut = MeasurementModel(
        MeasurementConfig(dropout_probability=0.9), RADIO, MapError.none()
    ).log_prob(report([0], [76]), maps, errors)[0]
    assert 0 < cut[1] - cut[0] < 0.2


@ERRORS
def test_gradients_are_finite_everywhere(error):
    """End codes, missing fields, unmapped sectors, levels far off the report."""
    m = model(error)
    maps = torch.tensor([[[-300.0, -156.0, -90.0, -31.0, 60.0]] * 4], dtype=torch.float32).clone()
    maps[0, 3] = torch.nan
    maps = maps.requires_grad_()
    errors = torch.tensor([0.0, 1.0, 30.0, torch.nan]).reshape(1, 4, 1).expand(1, 4, 5)
    for one in (
        report([0, 1, 2, 3], [126, 126, 0, 0], [127, 0, MISSING, 127], [0, 127, 0, MISSING], 0),
        report([3, 2], [126, 0], [0, 127], [127, 0], 15),
        report([1], [70]),
    ):
        maps.grad = None
        value = m.log_prob(one, maps, errors)
        assert torch.isfinite(value).all()
        value.sum().backward()
        assert torch.isfinite(maps.grad[~maps.isnan()]).all()
    codes = torch.tensor([-1, 0, 1, 63, 125, 126])[:, None]
    level = torch.linspace(-400, 100, 41, requires_grad=True)
    m.heard_log_prob(codes, level, torch.tensor(2.0)).sum().backward()
    assert torch.isfinite(level.grad).all()


def test_the_map_error_has_finite_gradients():
    """It is fitted by gradient: every field, at heard and unheard and unmapped places."""
    names = ("core_db", "core_per_se", "tail_logit", "tail_per_se", "tail_per_10db")
    names = (*names, "tail_db", "tail_bias_db", "unhit_dbm", "unhit_db")
    raw = {n: torch.tensor(float(getattr(FITTED, n)), requires_grad=True) for n in names}
    m = model(MapError(**raw, total_db=2.0))
    maps = torch.tensor([-90.0, -120.0, torch.nan])
    se = torch.tensor([0.5, torch.nan, torch.nan])
    value = m.heard_log_prob(torch.tensor([66, 0, 40]), maps, se).sum()
    value = value + m.unheard_log_prob(torch.tensor(-120.0), torch.tensor(-80.0), maps, se).sum()
    value.backward()
    assert all(torch.isfinite(v.grad) for v in raw.values())
    assert all(abs(float(v.grad)) > 0 for v in raw.values())


def test_the_exponent_tempers_the_levels_only(places):
    full, half = (
        model(MapError(**{**FITTED.as_dict(), "level_exponent": e})).log_prob(REPORT, *places)
        for e in (1.0, 0.5)
    )
    none = model(MapError(**{**FITTED.as_dict(), "level_exponent": 0.0})).log_prob(REPORT, *places)
    torch.testing.assert_close(half - none, (full - none) / 2, atol=1e-3, rtol=1e-4)
