"""Angles of arrival and beams of the serving sector."""

from dataclasses import replace
from itertools import combinations, permutations, product

import numpy as np
import pytest
import torch
from made_up_places import FITTED, LEVEL, chi_square, model, report, surroundings
from made_up_world import default_atlas, population

from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.direction import DepartureMaps, SamePlaceDirections
from ueloc_core.measurement.levels import MapError
from ueloc_core.measurement.reports import L1_RSRP, MISSING, UL_AOA, ul_aoa_of_compass_deg
from ueloc_core.measurement.schemas import BEAMS

ERRORS = pytest.mark.parametrize("error", [MapError.none(), FITTED], ids=["none", "fitted"])
COUNT = 40_000
SINR_DB = torch.tensor([12.0])
NAN = float("nan")


def departures(azimuth_deg, spread_deg=4.0, beams=()):
    """Maps of one report over places; beams' offsets of shape (beam, place)."""
    azimuth = torch.as_tensor(azimuth_deg, dtype=torch.float32).reshape(1, -1)
    offset = torch.as_tensor(beams, dtype=torch.float32).reshape(1, -1, azimuth.shape[1])
    bearing = torch.full_like(azimuth, 70.0)
    return DepartureMaps(azimuth, torch.full_like(azimuth, spread_deg), bearing, offset)


def repeated(maps, count):
    return DepartureMaps(*(v.expand(count, *v.shape[1:]) for v in vars(maps).values()))


def angles(codes):
    codes = torch.as_tensor(codes)
    return replace(report([0], [76])[torch.zeros(len(codes), dtype=torch.int64)], aoa=codes)


# -- angles -------------------------------------------------------------------------------


@ERRORS
@pytest.mark.parametrize("azimuth_deg", [0.02, 77.0, 359.97, NAN])
@pytest.mark.parametrize("spread_deg", [0.0, 30.0])
def test_angles_sum_to_one(error, azimuth_deg, spread_deg):
    codes = torch.arange(UL_AOA.last + 1)
    maps = repeated(departures([azimuth_deg], spread_deg), len(codes))
    m = model(error).direction
    found = m.azimuth_log_prob(angles(codes), maps, SINR_DB.expand(len(codes)))
    assert float(found.double().exp().sum()) == pytest.approx(1, abs=1e-4)
    assert (m.azimuth_log_prob(angles([MISSING]), departures([azimuth_deg]), SINR_DB) == 0).all()


@pytest.mark.parametrize("azimuth_deg", [77.0, 359.5])
def test_sampled_angles_follow_their_probability(azimuth_deg):
    m, rng = model(), np.random.default_rng(41)
    serving = {"azimuth_deg": azimuth_deg, "spread_deg": 4.0}
    around = surroundings(m, [-80.5], [0], COUNT, rng, lasting=False, serving=serving)
    drawn = m.sample(around, rng)
    drawn = drawn[drawn.rsrp[:, 0] == 76]
    sinr = m.expected_uplink_db(drawn[:1], _Reference)
    codes = torch.arange(UL_AOA.last + 1)
    maps = repeated(departures([azimuth_deg]), len(codes))
    found = m.direction.azimuth_log_prob(angles(codes), maps, sinr.expand(len(codes)))
    probability = found.double().exp()[:, 0].reshape(-1, 5).sum(dim=1)  # by half degrees
    counts = np.bincount(drawn.aoa.numpy() // 5, minlength=len(probability))
    assert chi_square(counts, probability.numpy()) > LEVEL


class _Reference:
    reference_dbm = torch.tensor([10.85])


def test_angles_turn_against_the_compass():
    """TS 38.215, 5.2.4: counter-clockwise from north."""
    m = model().direction
    east = departures([90.0])
    right, wrong = (
        float(m.azimuth_log_prob(angles([int(UL_AOA.encode(v))]), east, SINR_DB))
        for v in (270.05, 90.05)
    )
    assert right > wrong + 5


# -- beams --------------------------------------------------------------------------------

OFFSETS = (3.0, 1.5, -2.0, 0.0)


def lists(first_codes, steps, beams, reported):
    """Every list of the strongest beams that can be reported."""
    found = []
    for count in (reported,):
        for chosen in permutations(range(beams), count):
            for first in first_codes:
                for drops in product(range(steps), repeat=count - 1):
                    pairs = list(zip(drops, chosen[1:], strict=True))
                    if pairs == sorted(pairs):  # equal codes by their index
                        found.append((chosen, (first, *drops)))
    return found


def beam_reports(found):
    spare = [MISSING] * BEAMS
    beam = [[*c, *spare][:BEAMS] for c, _ in found]
    level = [[*v, *spare][:BEAMS] for _, v in found]
    one = report([0], [76])[torch.zeros(len(found), dtype=torch.int64)]
    return replace(one, beam=torch.tensor(beam), beam_level=torch.tensor(level))


@pytest.fixture(scope="module", params=[1, 2])
def counted_lists(request):
    """All lists of 1 or 2 out of 4 beams, and how often each was drawn."""
    beams = {"count": 4, "reported": request.param}
    m, rng = model(beams=beams), np.random.default_rng(42)
    around = surroundings(
        m, [-80.5], [0], COUNT, rng, lasting=False, serving={"beam_offset_db": OFFSETS}
    )
    drawn = m.sample(around, rng)
    drawn = drawn[drawn.rsrp[:, 0] == 76]
    found = lists(range(68, 92), 16, 4, request.param)
    index = {key: k for k, key in enumerate(found)}
    counts = np.zeros(len(found))
    for beam, level in zip(drawn.beam.tolist(), drawn.beam_level.tolist(), strict=True):
        key = (tuple(beam[: request.param]), tuple(level[: request.param]))
        counts[index[key]] += 1
    return m, beam_reports(found), counts


def test_lists_of_beams_sum_to_one_and_are_drawn_so(counted_lists):
    m, reports, counts = counted_lists
    maps = repeated(departures([77.0], beams=np.array(OFFSETS)[:, None]), len(reports))
    probability = m.direction.beams_log_prob(reports, maps)[:, 0].double().exp().numpy()
    assert probability.sum() == pytest.approx(1, abs=1e-3)
    assert chi_square(counts, probability) > LEVEL


def test_beams_that_scatter_more_are_noticed(counted_lists):
    _, reports, counts = counted_lists
    wrong = model(beams={"count": 4, "sigma_db": 3.0}).direction
    maps = repeated(departures([77.0], beams=np.array(OFFSETS)[:, None]), len(reports))
    probability = wrong.beams_log_prob(reports, maps)[:, 0].double().exp().numpy()
    assert chi_square(counts, probability / probability.sum()) < 1e-6


def test_the_ends_of_the_absolute_code_are_open():
    """A beam far above -44 dBm, and far below -140 dBm."""
    m = model(beams={"count": 2, "reported": 1})
    for level, code in ((-20.0, L1_RSRP.last), (-170.0, L1_RSRP.first)):
        own = report([0], [76], beam=[0, *[MISSING] * 3], beam_level=[code, *[MISSING] * 3])
        offset = level + 80.5
        maps = departures([77.0], beams=[[offset], [offset - 40.0]])
        assert float(m.direction.beams_log_prob(own, maps)) == pytest.approx(0, abs=0.01)


def test_sectors_of_one_mast_have_beams_of_their_own():
    """Where two sectors of a site overlap, the beams that lead differ from sector to sector."""
    atlas = default_atlas()
    places = population(atlas, scenarios={"full": 1.0}).places
    row, column = np.nonzero(atlas.outdoor)
    x_m = atlas.ground.x_centres_m[column[::29]]
    y_m = atlas.ground.y_centres_m[row[::29]]
    site = atlas.site
    for first, second in combinations(np.flatnonzero(site == 1), 2):
        offsets = [
            places.serving_arrays(np.full(len(x_m), s), x_m, y_m)[1] for s in (first, second)
        ]
        known = np.isfinite(offsets[0]).all(axis=1) & np.isfinite(offsets[1]).all(axis=1)
        assert known.sum() > 30
        leading = [o[known].argmax(axis=1) for o in offsets]
        assert (leading[0] != leading[1]).mean() > 0.5
        assert np.abs(offsets[0][known] - offsets[1][known]).mean() > 3


# -- several reports from one place -------------------------------------------------------


def test_one_report_of_a_place_is_a_report():
    """The tables of places against the direct likelihood, map errors and all."""
    m = model(FITTED, beams={"count": 4}).direction
    azimuth = torch.linspace(0, 359, 200)
    azimuth[::11] = NAN
    beams = np.random.default_rng(43).normal(0, 6, (4, 200))
    beams[:, ::11] = np.nan
    maps = replace(departures(azimuth, beams=beams), spread_deg=torch.linspace(0, 30, 200)[None])
    one = report([0], [76], aoa=2831, beam=[1, 0, 3, 2], beam_level=[80, 1, 2, 6])
    expected = m.azimuth_log_prob(one, maps, SINR_DB) + m.beams_log_prob(one, maps)
    found = SamePlaceDirections(m, one, SINR_DB).log_prob(maps)
    difference = (found - expected[0]).abs()
    assert float(difference[expected[0] > expected.max() - 8].max()) < 0.05
    assert float(difference[expected[0] > expected.max() - 15].max()) < 0.2


def two_reports():
    return ReportBatch.cat(
        [
            report([0], [76], aoa=2790, beam=[1, 0, 3, 2], beam_level=[80, 1, 2, 6]),
            report([0], [74], aoa=2812, beam=[1, 3, 0, 2], beam_level=[79, 1, 1, 7]),
        ]
    )


def test_the_error_of_an_azimuth_is_one_for_a_place():
    """Two angles against a sum over the map's error, core and tail."""
    m, exact = model(FITTED).direction, model().direction
    reports, sinr = two_reports(), torch.tensor([12.0, 9.0])
    mapped = 76.0
    shift = np.arange(-180, 180, 0.25)
    core = np.exp(-0.5 * (shift / FITTED.azimuth_core_deg) ** 2)
    tail = FITTED.azimuth_tail_share
    weight = (1 - tail) * core / core.sum() + tail / len(shift)
    maps = repeated(departures((mapped + shift) % 360), 2)
    given = exact.azimuth_log_prob(reports, maps, sinr).sum(dim=0).double().exp().numpy()
    none = replace(reports, beam=torch.full_like(reports.beam, MISSING))
    found = float(SamePlaceDirections(m, none, sinr).log_prob(departures([mapped])))
    assert found == pytest.approx(np.log((given * weight).sum()), abs=0.02)
    alone = m.azimuth_log_prob(reports, repeated(departures([mapped]), 2), sinr).sum()
    assert found > float(alone) + 0.2


def test_the_errors_of_beams_are_one_for_a_place():
    """Beam by beam against a sum over the map's error."""
    settings = {"beams": {"count": 4}}
    m, exact = model(FITTED, **settings).direction, model(**settings).direction
    reports = replace(two_reports(), aoa=torch.full((2,), MISSING))
    offsets = torch.tensor([1.0, 4.0, -2.0, 0.0])
    error = np.linspace(-5, 5, 401) * FITTED.beam_db
    weight = np.exp(-0.5 * (error / FITTED.beam_db) ** 2)
    loc = reports.level_dbm[:, :1, None] + offsets[:, None] + torch.tensor(error).float()
    given = exact.beam_probability(reports, loc, 2.5).prod(dim=0).double().numpy()
    expected = np.log(given @ (weight / weight.sum())).sum()
    found = SamePlaceDirections(m, reports, SINR_DB.expand(2)).log_prob(
        departures([77.0], beams=offsets[:, None])
    )
    assert float(found) == pytest.approx(expected, abs=0.02)


def test_compass_azimuths_are_their_own_inverse():
    azimuth = torch.linspace(0, 359, 30)
    torch.testing.assert_close(ul_aoa_of_compass_deg(ul_aoa_of_compass_deg(azimuth)), azimuth)
