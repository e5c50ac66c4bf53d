"""Centroids, fingerprints and the serving sector's ground: identities, and what tuning buys."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_world import default_atlas, draw_dataset

from ueloc_core.errors import ReportError
from ueloc_core.localization.classics import (
    Fingerprints,
    KnownReports,
    StrongestSector,
    WeightedCentroid,
    boresights,
    path_length_m,
)
from ueloc_core.measurement.model import ReportBatch
from ueloc_core.measurement.place_maps import PlaceMaps
from ueloc_core.measurement.reports import SS_RSRP
from ueloc_core.measurement.schemas import SLOTS
from ueloc_core.radio.link import timing_advance, timing_advance_step_m, timing_advance_step_ns


@pytest.fixture(scope="module")
def places():
    atlas = default_atlas()
    return PlaceMaps(atlas, atlas.city.measurements)


@pytest.fixture(scope="module")
def data():
    reports = draw_dataset(default_atlas(), 160, seed=21)
    split = np.repeat([0, 1, 3], [80, 40, 40]).astype(np.int8)
    return reports.assign(split=("report", split))


def report_of(levels_dbm, **fields):
    """A report of sectors and their levels, the serving one first."""
    sectors = [*levels_dbm, *[-1] * (SLOTS - len(levels_dbm))]
    codes = np.full(SLOTS, -1)
    codes[: len(levels_dbm)] = SS_RSRP.encode(list(levels_dbm.values()))
    return ReportBatch.of([sectors], codes[None], **fields)


def errors_m(method, known):
    found = [method.locate(known.reports[i : i + 1]) for i in range(len(known))]
    return np.hypot(*(np.array(found) - known.place_m).T)


# -- which reports ------------------------------------------------------------------------


def test_tuning_sees_its_own_split_alone(data):
    """Whatever the other splits hold, the same reports are drawn."""
    atlas = default_atlas()
    drawn = KnownReports.drawn(atlas, data, "train", 30)
    others = np.where(data.split.values == 0, 0.0, 1e4)
    moved = data.assign(x_m=data.x_m + others)
    again = KnownReports.drawn(atlas, moved, "train", 30)
    np.testing.assert_array_equal(drawn.place_m, again.place_m)
    assert torch.equal(drawn.reports.rsrp, again.reports.rsrp)
    assert len(drawn) == 30
    with pytest.raises(ReportError, match="0 calibration reports"):
        KnownReports.drawn(atlas, data, "calibration", 30)


def test_reports_from_unknown_places_teach_nothing(data):
    unknown = data.assign(x_m=data.x_m.where(data.report > 20))
    drawn = KnownReports.drawn(default_atlas(), unknown, "train", 100)
    assert np.isfinite(drawn.place_m).all()
    assert len(drawn) == 80 - 21


# -- path lengths -------------------------------------------------------------------------


@given(length_m=st.floats(0, 3000), numerology=st.integers(0, 3))
def test_a_timing_advance_tells_the_length_to_half_a_step(length_m, numerology):
    delay_ns = length_m / 0.299792458
    code = int(timing_advance(delay_ns, numerology))
    report = report_of({0: -80.0}, ta=[code])
    half_step_m = timing_advance_step_m(numerology) / 2
    assert abs(path_length_m(report, numerology)[0] - length_m) <= half_step_m * (1 + 1e-6)
    rest_ns = round(2 * delay_ns - code * timing_advance_step_ns(numerology))
    finer = replace(report, ta_offset=torch.tensor([rest_ns]))
    assert path_length_m(finer, numerology)[0] == pytest.approx(length_m, abs=0.08)


def test_no_timing_advance_no_length():
    assert np.isnan(path_length_m(report_of({0: -80.0}), 1)[0])


# -- the weighted centroid ----------------------------------------------------------------


def test_one_sector_is_the_point_in_front_of_it(places):
    method = WeightedCentroid(places, exponent=0.5, reach_m=70.0)
    expected = places.position_m[4] + 70.0 * boresights(places.atlas)[4]
    for level_dbm in (-70.0, -110.0):
        assert method.locate(report_of({4: level_dbm})) == pytest.approx(tuple(expected))


@pytest.mark.parametrize("exponent", [0.05, 0.3, 1.5])
def test_equal_levels_are_the_mean_whatever_the_exponent(places, exponent):
    method = WeightedCentroid(places, exponent, reach_m=40.0)
    points = places.position_m + 40.0 * boresights(places.atlas)
    found = method.locate(report_of({0: -92.0, 7: -92.0, 11: -92.0}))
    assert found == pytest.approx(tuple(points[[0, 7, 11]].mean(axis=0)))


def test_ten_db_count_as_ten_to_the_exponent(places):
    method = WeightedCentroid(places, exponent=0.5, reach_m=0.0)
    share = np.sqrt(10) / (1 + np.sqrt(10))
    expected = share * places.position_m[3] + (1 - share) * places.position_m[9]
    assert method.locate(report_of({3: -80.0, 9: -90.0})) == pytest.approx(tuple(expected))


@settings(max_examples=20, deadline=None)
@given(shift_db=st.integers(-20, 20), order=st.permutations([1, 2, 3]))
def test_gain_and_order_of_neighbours_do_not_count(places, shift_db, order):
    method = WeightedCentroid(places, 0.3, 60.0)
    levels = {0: -85.0, 5: -91.0, 9: -97.0, 14: -102.0}
    names = list(levels)
    other = {n: levels[n] + shift_db for n in [names[0], *(names[k] for k in order)]}
    assert method.locate(report_of(other)) == pytest.approx(method.locate(report_of(levels)))


def test_the_tuned_centroid_is_the_best_of_its_kind_on_training_reports(places, data):
    known = KnownReports.drawn(places.atlas, data, "train", 1000)
    tuned = errors_m(WeightedCentroid.fit(places, data), known).mean()
    for exponent, reach_m in ((0.05, 0.0), (1.0, 100.0), (1.5, 300.0), (0.3, 60.0)):
        other = WeightedCentroid(places, exponent, reach_m)
        assert tuned <= errors_m(other, known).mean() + 1e-9


# -- fingerprints -------------------------------------------------------------------------


def noise_free(places, x_m, y_m, **fields):
    """What a terminal reports of the sectors that maps let it hear."""
    level = places.atlas.maps_at(np.array([x_m]), np.array([y_m]))[0][0]
    order = np.argsort(-np.nan_to_num(level, nan=-np.inf))[:SLOTS]
    return report_of({int(s): level[s] for s in order if np.isfinite(level[s])}, **fields)


def outdoor_cells(places, count):
    ground = places.atlas.ground
    row, column = np.nonzero(places.atlas.outdoor)
    chosen = np.random.default_rng(3).choice(len(row), count, replace=False)
    return ground.x_centres_m[column[chosen]], ground.y_centres_m[row[chosen]]


def test_a_noise_free_fingerprint_is_found(places):
    """Eight levels in steps of 1 dB now and then have a twin elsewhere."""
    knn = Fingerprints(places.atlas, neighbours=1)
    x_m, y_m = outdoor_cells(places, 25)
    exact = 0
    for x, y in zip(x_m, y_m, strict=True):
        exact += knn.locate(noise_free(places, x, y)) == pytest.approx((x, y))
    assert exact >= 20


def test_timing_tells_twins_apart(places):
    """Of one level alone many cells have a match; the path's length leaves those of one ring."""
    x_m, y_m = outdoor_cells(places, 20)
    errors = {0.0: [], 1.0: []}
    for x, y in zip(x_m, y_m, strict=True):
        full = noise_free(places, x, y)
        serving = int(full.sector[0, 0])
        window = places.atlas.windows[serving]
        row, column = (int(v) for v in window.indices(x, y))
        trip_ns = 2 * places.atlas.layer("first_arrival_ns")[serving, row, column]
        step_ns = timing_advance_step_ns(places.atlas.city.radio.numerology)
        code = round(trip_ns / step_ns)
        alone = report_of(
            {serving: float(full.level_dbm[0, 0])},
            ta=[code],
            ta_offset=[round(trip_ns - code * step_ns)],
        )
        for timing, found in errors.items():
            point = Fingerprints(places.atlas, 8, timing).locate(alone)
            found.append(np.hypot(point[0] - x, point[1] - y))
    assert np.mean(errors[1.0]) < 0.9 * np.mean(errors[0.0])


def test_without_timing_advance_its_weight_does_not_count(places):
    x_m, y_m = outdoor_cells(places, 3)
    for x, y in zip(x_m, y_m, strict=True):
        report = noise_free(places, x, y)
        with_timing = Fingerprints(places.atlas, 8, 1.0).locate(report)
        assert with_timing == Fingerprints(places.atlas, 8).locate(report)


def test_tuned_fingerprints_are_the_best_on_validation_reports(places, data):
    known = KnownReports.drawn(places.atlas, data, "validation", 1000)
    tuned = errors_m(Fingerprints.fit(places, data), known).mean()
    for neighbours, timing in ((1, 0.0), (8, 0.0), (64, 0.1), (16, 1.0)):
        other = Fingerprints(places.atlas, neighbours, timing)
        assert tuned <= errors_m(other, known).mean() + 1e-9


def test_a_missing_level_is_no_feature(places):
    """A heard sector without RSRP changes nothing."""
    x_m, y_m = outdoor_cells(places, 1)
    report = noise_free(places, x_m[0], y_m[0])
    codes, sectors = report.rsrp.clone(), report.sector.clone()
    codes[0, 2] = sectors[0, 2] = -1
    knn = Fingerprints(places.atlas, 4)
    without = knn.locate(replace(report, rsrp=codes, sector=sectors))
    assert knn.locate(replace(report, rsrp=codes)) == without


# -- the serving sector's ground ----------------------------------------------------------


def test_the_strongest_sectors_ground_holds_its_mean(places):
    """The mean error of a centre is least among constant estimates, by squares."""
    method = StrongestSector(places.atlas)
    atlas = places.atlas
    window = atlas.windows[2]
    maps = np.nan_to_num(atlas.maps_in(window)[0], nan=-np.inf)
    own = (maps.argmax(axis=0) == 2) & np.isfinite(maps[2]) & atlas.outdoor_in(window)
    row, column = np.nonzero(own)
    place = np.stack([window.x_centres_m[column], window.y_centres_m[row]], axis=1)
    centre = np.array(method.locate(report_of({2: -80.0})))
    np.testing.assert_allclose((place - centre).sum(axis=0), 0.0, atol=1e-4)
