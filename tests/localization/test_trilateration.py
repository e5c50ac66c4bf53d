"""Ranges and angles: noise-free reports give the terminal back, and fits their own law."""

import numpy as np
import pytest
import torch
from made_up_world import default_atlas, draw_dataset, made_up_city

from ueloc_core.localization.classics import KnownReports, WeightedCentroid
from ueloc_core.localization.trilateration import (
    PathLoss,
    RangeScales,
    Trilateration,
    measured_bearing_deg,
    pattern_loss_db,
    wrapped_deg,
)
from ueloc_core.measurement.dataset import Truth, to_dataset
from ueloc_core.measurement.model import ReportBatch
from ueloc_core.measurement.place_maps import PlaceMaps
from ueloc_core.measurement.reports import SS_RSRP, UL_AOA, ul_aoa_of_compass_deg
from ueloc_core.measurement.schemas import SLOTS
from ueloc_core.radio.link import timing_advance_step_ns

LAW = PathLoss(intercept_db=30.0, exponent=3.2, pattern_share=0.7, ratio_db=6.0, common_db=4.0)
SHARP = RangeScales(coarse_m=10.0, fine_m=0.1, bearing_deg=0.1)
SCENARIOS = {"nr_rsrp_only": 0.3, "nr_rsrp_ta": 0.4, "full": 0.3}


@pytest.fixture(scope="module")
def places():
    atlas = default_atlas()
    return PlaceMaps(atlas, made_up_city(measurements={"scenarios": SCENARIOS}).measurements)


def seen(places, place_m):
    """Slant range, bearing and angle off the boresight from every sector."""
    offset = np.asarray(place_m) - places.position_m
    drop = places.height_m - places.atlas.city.ray_tracing.terminal_height_m
    bearing = np.degrees(np.arctan2(offset[:, 0], offset[:, 1]))
    azimuth = places.atlas.sectors.azimuth_deg.to_numpy()
    return np.hypot(np.hypot(*offset.T), drop), bearing, wrapped_deg(bearing - azimuth)


def noise_free(places, place_m, *, heard=6, timing=True, angle=True, law=LAW):
    """What a terminal in the open reports if levels follow the law; the strongest sector serves."""
    range_m, bearing, off_deg = seen(places, place_m)
    level = law.level_dbm(range_m, off_deg, places.reference_dbm)
    order = np.argsort(-level)[:heard]
    sectors, codes = np.full(SLOTS, -1), np.full(SLOTS, -1)
    sectors[:heard], codes[:heard] = order, SS_RSRP.encode(level[order])
    serving = order[0]
    fields = {}
    if timing:
        trip_ns = 2 * range_m[serving] / 0.299792458
        step_ns = timing_advance_step_ns(places.atlas.city.radio.numerology)
        code = round(trip_ns / step_ns)
        fields |= {"ta": [code], "ta_offset": [round(trip_ns - code * step_ns)]}
    if angle:
        fields["aoa"] = [int(UL_AOA.encode(ul_aoa_of_compass_deg(bearing[serving])))]
    return ReportBatch.of(sectors[None], codes[None], **fields)


def points(places, count):
    """Points in the middle of the city, well off the sites."""
    rng = np.random.default_rng(1)
    x0, y0, x1, y1 = places.atlas.city.bounds_m
    while count:
        place_m = np.array([rng.uniform(x0, x1), rng.uniform(y0, y1)])
        if seen(places, place_m)[0].min() > 45:
            count -= 1
            yield place_m


def distance_m(found, place_m):
    return float(np.hypot(*(np.array(found) - place_m)))


# -- finding a terminal -------------------------------------------------------------------


def test_timing_and_angle_find_the_terminal(places):
    """0.15 m of timing and 0.05 deg of angle at 200 m at most."""
    method = Trilateration(places, LAW, SHARP)
    for place_m in points(places, 6):
        for heard in (1, 6):
            assert distance_m(method.locate(noise_free(places, place_m, heard=heard)), place_m) < 1


def test_levels_alone_find_the_terminal(places):
    """Multilateration from codes of 1 dB, the deviation of the errors being small as well."""
    law = PathLoss(30.0, 3.2, 0.7, ratio_db=0.3, common_db=0.3)
    method = Trilateration(places, law, RangeScales(served_ratio=5.0, served_deg=500.0))
    found = [
        distance_m(
            method.locate(noise_free(places, p, heard=8, timing=False, angle=False, law=law)), p
        )
        for p in points(places, 6)
    ]
    assert np.median(found) < 6


def test_a_timing_advance_puts_it_on_its_ring(places):
    method = Trilateration(places, LAW, SHARP)
    for place_m in points(places, 4):
        report = noise_free(places, place_m, angle=False)
        serving = int(report.sector[0, 0])
        found = method.locate(report)
        expected = seen(places, place_m)[0][serving]
        assert seen(places, found)[0][serving] == pytest.approx(expected, abs=0.5)


def test_what_the_terminal_adds_to_all_levels_hardly_counts(places):
    """Ratios alone where the mean of the levels is not trusted."""
    law = PathLoss(30.0, 3.2, 0.7, ratio_db=1.0, common_db=1e3)
    method = Trilateration(places, law, SHARP)
    report = noise_free(places, next(points(places, 1)), law=law)
    louder = ReportBatch.of(
        report.sector,
        torch.where(report.heard, report.rsrp + 9, -1),
        ta=report.ta,
        ta_offset=report.ta_offset,
        aoa=report.aoa,
    )
    assert distance_m(method.locate(louder), np.array(method.locate(report))) < 0.1


def test_a_report_of_one_level_is_in_front_of_its_sector(places):
    """No timing, no angle, no neighbour: the law's range on the boresight decides."""
    law = PathLoss(30.0, 3.2, 0.7, ratio_db=0.5, common_db=0.5)
    method = Trilateration(places, law, RangeScales(served_ratio=3.0))
    azimuth = np.radians(float(places.atlas.sectors.azimuth_deg.iloc[0]))
    place_m = places.position_m[0] + 60.0 * np.array([np.sin(azimuth), np.cos(azimuth)])
    level = law.level_dbm(*(v[:1] for v in seen(places, place_m)[::2]), places.reference_dbm[:1])
    report = ReportBatch.of([[0, *[-1] * 7]], [[int(SS_RSRP.encode(level)[0]), *[-1] * 7]])
    assert distance_m(method.locate(report), place_m) < 5


def test_an_angle_counts_clockwise_from_north_at_the_serving_site(places):
    code = int(UL_AOA.encode(ul_aoa_of_compass_deg(37.0)))
    report = ReportBatch.of([[0, *[-1] * 7]], [[70, *[-1] * 7]], aoa=[code])
    assert wrapped_deg(measured_bearing_deg(report) - 37.0)[0] == pytest.approx(0, abs=0.051)
    assert np.isnan(measured_bearing_deg(ReportBatch.of([[0]], [[70]]))[0])


# -- the fits -----------------------------------------------------------------------------


def test_the_pattern_is_that_of_the_table():
    """TR 38.901, table 7.3-1: 3 dB at half of 65 degrees, 30 dB at the back."""
    loss = pattern_loss_db(np.array([0.0, 32.5, -32.5, 65.0, 180.0]))
    np.testing.assert_allclose(loss, [0.0, 3.0, 3.0, 12.0, 30.0])


def test_range_inverts_the_law(places):
    for range_m in (12.0, 150.0, 900.0):
        level = LAW.level_dbm(np.array([range_m]), np.zeros(1), np.array([12.0]))
        assert LAW.range_m(float(level[0]), 12.0) == pytest.approx(range_m)


def test_the_fit_finds_the_law_that_reports_follow(places):
    """Levels by the law, with 3 dB of noise and 2 dB of each terminal's own."""
    rng = np.random.default_rng(5)
    rows = []
    for place_m in points(places, 300):
        range_m, _, off_deg = seen(places, place_m)
        level = LAW.level_dbm(range_m, off_deg, places.reference_dbm) + rng.normal(0, 2)
        chosen = rng.permutation(len(level))[:SLOTS]  # none is left out because it is weak
        rows.append((chosen, SS_RSRP.encode(level[chosen] + rng.normal(0, 3, SLOTS)), place_m))
    sector, code, place = (np.stack(v) for v in zip(*rows, strict=True))
    data = dataset_of(places, sector, code, place)
    law = Trilateration.fit(places, data).path_loss
    assert law.exponent == pytest.approx(LAW.exponent, abs=0.25)
    assert law.pattern_share == pytest.approx(LAW.pattern_share, abs=0.05)
    assert law.ratio_db == pytest.approx(3.0, abs=0.4)
    assert law.common_db == pytest.approx(2.0, abs=0.6)


def dataset_of(places, sector, code, place):
    truth, batch = Truth.standing(*place.T), ReportBatch.of(sector, code)
    data = to_dataset(places.atlas.city, places.atlas, batch, truth)
    return data.assign(split=("report", np.zeros(len(place), dtype=np.int8)))


def test_fitted_on_reports_it_beats_the_centroid_where_timing_and_angle_are_told(places):
    data = draw_dataset(default_atlas(), 320, seed=31, scenarios=SCENARIOS)
    data = data.assign(split=("report", np.repeat([0, 3], 160).astype(np.int8)))
    test = KnownReports.drawn(places.atlas, data, "test", 200)
    told = np.flatnonzero((test.reports.aoa >= 0) & (test.reports.ta >= 0))
    assert len(told) > 20
    means = [
        np.mean([distance_m(m.locate(test.reports[i : i + 1]), test.place_m[i]) for i in told])
        for m in (Trilateration.fit(places, data), WeightedCentroid.fit(places, data))
    ]
    assert means[0] < 0.7 * means[1]
