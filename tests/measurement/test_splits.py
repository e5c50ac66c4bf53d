"""Splits by space: the guard band, and that every kind of leak is found."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_world import default_atlas, draw_reports, made_up_city

from ueloc_core.city import SPLITS
from ueloc_core.errors import ReportError
from ueloc_core.measurement.dataset import empty_reports, load_reports, to_dataset, write_reports
from ueloc_core.measurement.schemas import MeasurementSetSchema
from ueloc_core.measurement.splits import (
    UNUSED,
    apply_guard,
    build_measurement_set,
    split_violations,
)

TRAIN, VALIDATION, CALIBRATION, TEST = range(4)
GUARD_M = 16.0
CITY = made_up_city(
    splits={
        "validation": ["e3013n52127"],
        "calibration": ["e3014n52127"],
        "test": ["e3015n52127", "e3015n52126"],
        "guard_m": GUARD_M,
    }
)


def reports_at(x_m, y_m, split, track=None):
    count = len(x_m)
    return xr.Dataset(
        {
            "x_m": ("report", np.asarray(x_m, float)),
            "y_m": ("report", np.asarray(y_m, float)),
            "split": ("report", np.asarray(split, np.int8)),
            "track": ("report", np.arange(count) if track is None else np.asarray(track)),
        }
    )


def scattered(seed, count=400):
    """Points over the whole city, splits drawn by a noisy map of tiles."""
    rng = np.random.default_rng(seed)
    x0, y0, x1, y1 = CITY.window_cells.bounds_m
    x_m, y_m = rng.uniform(x0, x1, count), rng.uniform(y0, y1, count)
    return x_m, y_m, rng.integers(0, 4, count).astype(np.int8)


def on_test_tiles(x_m, y_m):
    return np.any([CITY.tile(n).window.contains(x_m, y_m) for n in CITY.splits.test], axis=0)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_guard_leaves_no_violation(seed):
    x_m, y_m, split = scattered(seed)
    guarded = apply_guard(CITY, x_m, y_m, split)
    assert split_violations(reports_at(x_m, y_m, guarded), CITY) == {}
    changed = guarded != split
    assert (guarded[changed] == UNUSED).all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_test_reports_are_all_kept(seed):
    """The most protected split keeps its natural population, wherever its terminals stand."""
    x_m, y_m, split = scattered(seed)
    guarded = apply_guard(CITY, x_m, y_m, split)
    np.testing.assert_array_equal(guarded == TEST, split == TEST)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_nothing_else_stands_on_a_test_tile_or_beside_a_test_label(seed):
    x_m, y_m, split = scattered(seed, 150)
    guarded = apply_guard(CITY, x_m, y_m, split)
    others = np.isin(guarded, (TRAIN, VALIDATION, CALIBRATION))
    assert not (others & on_test_tiles(x_m, y_m)).any()
    cells = [np.floor(v / 4.0) for v in (x_m, y_m)]
    for less, more in (
        (TRAIN, VALIDATION),
        (TRAIN, CALIBRATION),
        (TRAIN, TEST),
        (VALIDATION, TEST),
    ):
        first, second = (np.stack([c[guarded == s] for c in cells], 1) for s in (less, more))
        if len(first) and len(second):
            apart_m = 4 * np.linalg.norm(first[:, None] - second[None], axis=2)
            assert apart_m.min() > GUARD_M


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_no_report_is_lost_without_need(seed):
    """Each unused one stands near a kept label that is more protected, or near a test tile."""
    x_m, y_m, split = scattered(seed)
    guarded = apply_guard(CITY, x_m, y_m, split)
    cells = np.stack([np.floor(v / 4.0) for v in (x_m, y_m)], 1)
    for lost in np.flatnonzero(guarded != split):
        protected = cells[guarded > split[lost]]
        near_label = (4 * np.linalg.norm(protected - cells[lost], axis=1) <= GUARD_M).any()
        x, y = x_m[lost], y_m[lost]
        near_tile = any(
            CITY.tile(n).window.buffered(GUARD_M).contains(x, y) for n in CITY.splits.test
        )
        assert near_label or near_tile


def test_the_guard_band_is_as_wide_as_it_says():
    """Training labels east to west through the edge of a test tile."""
    x0, y0, _, _ = CITY.tile("e3015n52126").window.bounds_m
    x_m = x0 - np.arange(2.0, 60, 4)
    y_m = np.full(len(x_m), y0 + 10)
    split = np.full(len(x_m), TRAIN, np.int8)
    kept = apply_guard(CITY, x_m, y_m, split) == TRAIN
    # Distances between cells' centres: the cell beside the tile is 4 m from its first cell.
    distance_m = 4 * np.arange(1, len(x_m) + 1)
    np.testing.assert_array_equal(kept, distance_m > GUARD_M)


def test_far_from_everything_nothing_is_lost():
    x0, y0, _, _ = CITY.tile("e3013n52125").window.bounds_m
    x_m, y_m = np.full(5, x0 + 20.0), y0 + np.arange(5) * 4.0 + 2
    split = np.full(5, TRAIN, np.int8)
    np.testing.assert_array_equal(apply_guard(CITY, x_m, y_m, split), split)


@pytest.fixture
def clean():
    """Two labels of each split, far apart, each where it may stand."""
    places = {
        TRAIN: "e3013n52125",
        VALIDATION: "e3013n52127",
        CALIBRATION: "e3014n52127",
        TEST: "e3015n52127",
    }
    x_m, y_m, split = [], [], []
    for index, name in places.items():
        x, y = CITY.tile(name).window.centre_m
        x_m += [x, x + 8]
        y_m += [y, y]
        split += [index, index]
    return reports_at(x_m, y_m, split)


def test_a_clean_set_has_no_violation(clean):
    assert split_violations(clean, CITY) == {}


def test_a_cell_of_two_splits_is_found(clean):
    for name in ("x_m", "y_m"):
        clean[name][0] = float(clean[name][2]) + 0.5
    assert split_violations(clean, CITY) == {"grid_cells_in_two_splits": 1}


def test_a_terminal_of_two_splits_is_found(clean):
    clean["track"][1] = int(clean.track[3])
    assert split_violations(clean, CITY) == {"terminals_in_two_splits": 1}


@pytest.mark.parametrize("intruder", [0, 2, 4])
def test_a_label_on_a_test_tile_is_found(clean, intruder):
    x, y = CITY.tile("e3015n52126").window.centre_m
    clean["x_m"][intruder], clean["y_m"][intruder] = x, y
    assert split_violations(clean, CITY) == {"others_on_test_tiles": 1}


def test_unused_reports_violate_nothing(clean):
    x, y = CITY.tile("e3015n52126").window.centre_m
    clean["x_m"][0], clean["y_m"][0] = x, y
    clean["track"][0] = int(clean.track[6])
    clean["split"][0] = UNUSED
    assert split_violations(clean, CITY) == {}


def test_all_leaks_are_counted_at_once(clean):
    for name in ("x_m", "y_m"):
        clean[name][0] = float(clean[name][6])
    clean["track"][0] = int(clean.track[6])
    assert split_violations(clean, CITY) == {
        "grid_cells_in_two_splits": 1,
        "terminals_in_two_splits": 1,
        "others_on_test_tiles": 1,
    }


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    """Reports of each tile's sectors, as the measurements stage leaves them."""
    atlas = default_atlas()
    batch, x_m, y_m = draw_reports(atlas, 1500)
    owner = atlas.sectors.tile.to_numpy()[batch.sector[:, 0].numpy()]
    folders = {}
    for name in CITY.tile_names:
        mine = np.flatnonzero(owner == name)
        folders[name] = tmp_path_factory.mktemp(name)
        reports = to_dataset(CITY, atlas, batch[mine], x_m[mine], y_m[mine], mine)
        write_reports(reports if len(mine) else empty_reports(CITY), folders[name])
    return folders


def test_the_set_keeps_its_contract(tiles, tmp_path):
    metadata = build_measurement_set(CITY, tiles, tmp_path)
    reports = load_reports(tmp_path)
    MeasurementSetSchema.validate(reports)
    assert split_violations(reports, CITY) == {}
    assert metadata["reports"] == reports.sizes["report"] == 1500
    assert metadata["test_kept_share"] == 1
    assert 0 < metadata["train_kept_share"] < 1
    counts = {name: int((reports.split == i).sum()) for i, name in enumerate(SPLITS)}
    assert all(metadata[f"{name}_reports"] == count > 0 for name, count in counts.items())
    assert sum(counts.values()) + metadata["unused"] == 1500
    # A report belongs to the split of the tile that owns its serving sector.
    owner = default_atlas().sectors.set_index("sector_id").tile
    for split, sector in zip(reports.split.values, reports.sector_id.values[:, 0], strict=True):
        assert split in (UNUSED, SPLITS.index(CITY.split_of(owner[sector])))


def test_a_split_without_reports_is_named(tiles, tmp_path):
    empty = CITY.model_copy(
        update={"splits": CITY.splits.model_copy(update={"calibration": ("e3013n52125",)})}
    )
    with pytest.raises(ReportError, match="calibration"):
        build_measurement_set(empty, tiles, tmp_path)
