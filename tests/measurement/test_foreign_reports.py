"""No report of the ground on which a city is tested reaches what its model learns from."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_world import made_up_city
from pyproj import Transformer

from ueloc_core.measurement.splits import (
    UNUSED,
    apply_guard,
    off_tested_ground,
    training_violations,
)

TRAIN, VALIDATION, CALIBRATION, TEST = range(4)
GUARD_M = 16.0
SPLITS = {
    "validation": ["e3013n52127"],
    "calibration": ["e3014n52127"],
    "test": ["e3015n52127", "e3015n52126"],
    "guard_m": GUARD_M,
}
SEEN = made_up_city(splits=SPLITS, training={"cities": ["made_up", "other"]})
UNSEEN = made_up_city(splits=SPLITS, training={"cities": ["other"]})
OTHER = made_up_city(name="other")  # the same ground, so that anything may happen


def reports_at(x_m, y_m, split):
    x_m = np.atleast_1d(np.asarray(x_m, float))
    return xr.Dataset(
        {
            "x_m": ("report", x_m),
            "y_m": ("report", np.atleast_1d(np.asarray(y_m, float))),
            "split": ("report", np.broadcast_to(np.int8(split), x_m.shape).copy()),
            "track": ("report", np.arange(len(x_m))),
        }
    )


def own_reports(seed=0, count=200):
    """A set of the city whose splits are apart."""
    rng = np.random.default_rng(seed)
    x0, y0, x1, y1 = SEEN.window_cells.bounds_m
    x_m, y_m = rng.uniform(x0, x1, count), rng.uniform(y0, y1, count)
    split = apply_guard(SEEN, x_m, y_m, rng.integers(0, 4, count).astype(np.int8))
    return reports_at(x_m, y_m, split)


def middle(name):
    return SEEN.tile(name).window.centre_m


FREE = middle("e3013n52126")  # of a tile that trains, where no own test report stands
ON_TEST = middle("e3015n52126")


def seen(foreign, own=None):
    own = reports_at(*FREE, TRAIN) if own is None else own
    return training_violations(SEEN, [(SEEN, own), (OTHER, foreign)])


def test_reports_elsewhere_are_nobodys_business():
    assert seen(reports_at(*FREE, TRAIN)) == {}


@pytest.mark.parametrize("split", [TRAIN, VALIDATION, CALIBRATION])
def test_a_foreign_report_on_a_test_tile_is_counted(split):
    found = seen(reports_at(*ON_TEST, split))
    assert found == {"reports_of_other_on_tested_ground": 1}


@pytest.mark.parametrize("split", [TEST, UNUSED])
def test_one_that_nothing_learns_from_is_not(split):
    assert seen(reports_at(*ON_TEST, split)) == {}


@pytest.mark.parametrize(("distance_m", "count"), [(0.0, 1), (GUARD_M, 1), (GUARD_M + 4.1, 0)])
def test_beside_a_test_label_and_its_guard_band(distance_m, count):
    x_m, y_m = FREE
    own = reports_at(x_m, y_m, TEST)
    found = seen(reports_at(x_m, y_m + distance_m, TRAIN), own)
    assert sum(found.values()) == count


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_tracks_that_come_onto_tested_ground_are_set_aside(seed):
    """What is left breaks nothing, and no track that keeps off it loses a report."""
    rng = np.random.default_rng(seed)
    own = own_reports(seed)
    x0, y0, x1, y1 = SEEN.window_cells.bounds_m
    foreign = reports_at(rng.uniform(x0, x1, 60), rng.uniform(y0, y1, 60), rng.integers(-1, 4, 60))
    foreign["track"].values[:] = np.arange(60) // 3
    alone = foreign.assign(track=("report", np.arange(60)))
    left, found = off_tested_ground(SEEN, [(SEEN, own), (OTHER, foreign)])
    assert left is own
    assert training_violations(SEEN, [(SEEN, own), (OTHER, found)]) == {}
    standing = off_tested_ground(SEEN, [(OTHER, alone), (SEEN, own)])[0].split != alone.split
    gone = np.isin(foreign.track, foreign.track[standing])
    np.testing.assert_array_equal(found.split, np.where(gone, UNUSED, foreign.split))
    assert found.split.dtype == foreign.split.dtype


def test_nothing_of_an_unseen_city_is_set_aside():
    """It would hide that another city shares its ground, which `training_violations` tells."""
    here = reports_at(*ON_TEST, TRAIN)
    (left,) = off_tested_ground(UNSEEN, [(OTHER, here)])
    assert left is here


def test_its_own_splits_are_looked_at_too():
    leaky = own_reports()
    leaky["split"][int((leaky.split.values == TEST).argmax())] = TRAIN
    leaky["track"][:] = 0
    found = seen(reports_at(*FREE, TRAIN), leaky)
    assert "terminals_in_two_splits" in found


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_an_unseen_city_is_tested_everywhere(seed):
    """Every report on its tiles, whatever the split would have been; none of far away."""
    rng = np.random.default_rng(seed)
    x0, y0, x1, y1 = UNSEEN.window_cells.bounds_m
    here = reports_at(rng.uniform(x0, x1, 40), rng.uniform(y0, y1, 40), rng.integers(0, 3, 40))
    far = reports_at(here.x_m.values + (x1 - x0) + 30.0, here.y_m.values, TRAIN)
    both = xr.concat([here, far], dim="report")
    assert training_violations(UNSEEN, [(OTHER, far)]) == {}
    found = training_violations(UNSEEN, [(OTHER, both)])
    assert found == {"reports_of_other_on_tested_ground": 40}


def test_its_own_reports_under_its_own_name_are_found():
    """Whatever the lists say: what counts is where reports stand."""
    found = training_violations(UNSEEN, [(OTHER, reports_at(*FREE, TRAIN))])
    assert found == {"reports_of_other_on_tested_ground": 1}


def test_a_city_in_another_crs_is_brought_to_this_one():
    neighbour = made_up_city(name="zone", crs="EPSG:3067")  # the same ground, other eastings
    to = Transformer.from_crs(UNSEEN.crs_code, neighbour.crs_code, always_xy=True)
    here = reports_at(*(np.atleast_1d(v) for v in to.transform(*ON_TEST)), TRAIN)
    assert training_violations(UNSEEN, [(neighbour, here)])
    away = reports_at(here.x_m.values + 2000.0, here.y_m.values, TRAIN)
    assert training_violations(UNSEEN, [(neighbour, away)]) == {}


def test_reports_half_a_world_away_are_no_error():
    far = made_up_city(name="far", crs="EPSG:32635")
    tokyo = far.model_copy(update={"crs": "EPSG:32654", "bbox": (139.7, 35.6, 139.705, 35.603)})
    assert training_violations(UNSEEN, [(tokyo, reports_at(383000.0, 3940000.0, TRAIN))]) == {}
