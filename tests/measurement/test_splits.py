"""Splits by space: the guard band, and that every kind of leak is found."""

import json

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_reports import batch_and_truth
from made_up_world import default_atlas, made_up_city

from ueloc_core.city import SPLITS
from ueloc_core.errors import ReportError
from ueloc_core.measurement.data_card import data_card
from ueloc_core.measurement.dataset import empty_reports, load_reports, to_dataset, write_reports
from ueloc_core.measurement.random_reads import RandomReads
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


def in_tracks(seed, count=300):
    """Walks of up to five reports over the city, each with the split of a random tile."""
    rng = np.random.default_rng(seed)
    x0, y0, x1, y1 = CITY.window_cells.bounds_m
    track = np.repeat(np.arange(count), rng.integers(1, 6, count))
    steps = rng.normal(0, 15, (2, len(track)))
    start = rng.uniform((x0 + 90, y0 + 90), (x1 - 90, y1 - 90), (count, 2))[track]
    turn = np.arange(len(track)) - np.searchsorted(track, track)
    x_m, y_m = (start.T + steps * turn).clip([[x0], [y0]], [[x1 - 0.01], [y1 - 0.01]])
    return x_m, y_m, rng.integers(0, 4, count).astype(np.int8)[track], track


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_track_is_used_as_a_whole_or_not_at_all(seed):
    x_m, y_m, split, track = in_tracks(seed)
    guarded = apply_guard(CITY, x_m, y_m, split, track)
    assert split_violations(reports_at(x_m, y_m, guarded, track), CITY) == {}
    for terminal in np.unique(track):
        mine = track == terminal
        assert len(np.unique(guarded[mine])) == 1
        assert guarded[mine][0] in (UNUSED, split[mine][0])
    np.testing.assert_array_equal(guarded == TEST, split == TEST)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_no_track_is_lost_without_need(seed):
    """Some report of each unused track is near a more protected label, or near a test tile."""
    x_m, y_m, split, track = in_tracks(seed, 120)
    guarded = apply_guard(CITY, x_m, y_m, split, track)
    cells = np.stack([np.floor(v / 4.0) for v in (x_m, y_m)], 1)
    for terminal in np.unique(track[guarded != split]):
        mine = track == terminal
        protected = cells[guarded > split[mine][0]]
        apart_m = 4 * np.linalg.norm(protected[:, None] - cells[mine][None], axis=2)
        near_tile = any(
            CITY.tile(n).window.buffered(GUARD_M).contains(x_m[mine], y_m[mine]).any()
            for n in CITY.splits.test
        )
        assert (apart_m <= GUARD_M).any() or near_tile


@pytest.mark.parametrize("x", [np.nan, CITY.window_cells.bounds_m[0] - 1.0])
def test_a_track_whose_place_is_unknown_is_not_used(x):
    x0, y0, _, _ = CITY.tile("e3013n52125").window.bounds_m
    x_m = np.array([x0 + 20, x, x0 + 40])
    split, track = np.full(3, TRAIN, np.int8), np.array([0, 0, 1])
    guarded = apply_guard(CITY, x_m, np.full(3, y0 + 20), split, track)
    assert guarded.tolist() == [UNUSED, UNUSED, TRAIN]


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


@pytest.mark.parametrize("x", [np.nan, CITY.window_cells.bounds_m[2] + 1.0])
def test_a_label_off_the_tiles_is_found(clean, x):
    clean["x_m"][0] = x
    assert split_violations(clean, CITY) == {"labels_off_the_tiles": 1}


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
    """Whole tracks by the tile of the first serving sector, as the measurements stage does it."""
    atlas = default_atlas()
    reports = to_dataset(CITY, atlas, *batch_and_truth(atlas, 1500))
    tile = atlas.sectors.set_index("sector_id").tile
    first = np.searchsorted(reports.track, reports.track)
    owner = tile[reports.sector_id.values[first, 0]].to_numpy()
    folders = {}
    for name in CITY.tile_names:
        folders[name] = tmp_path_factory.mktemp(name)
        mine = reports.isel(report=owner == name)
        write_reports(mine if mine.sizes["report"] else empty_reports(CITY), folders[name])
    return folders


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    """The sectors of each tile, as the sites stage leaves them."""
    sectors, folders = default_atlas().sectors, {}
    for name in CITY.tile_names:
        folders[name] = tmp_path_factory.mktemp(f"sites_{name}")
        sectors[sectors.tile == name].to_parquet(folders[name] / "sectors.parquet")
    return folders


@pytest.fixture(scope="module")
def built(tiles, sites, tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    return folder, build_measurement_set(CITY, tiles, sites, folder)


def test_the_set_keeps_its_contract(built, tiles):
    folder, metadata = built
    reports = load_reports(folder)
    MeasurementSetSchema.validate(reports)
    assert split_violations(reports, CITY) == {}
    count = sum(load_reports(f, ["track"]).sizes["report"] for f in tiles.values())
    assert metadata["reports"] == reports.sizes["report"] == count
    assert metadata["test_kept_share"] == 1
    assert 0 < metadata["train_kept_share"] < 1
    counts = {name: int((reports.split == i).sum()) for i, name in enumerate(SPLITS)}
    assert all(metadata[f"{name}_reports"] == count > 0 for name, count in counts.items())
    assert sum(counts.values()) + metadata["unused"] == count


def test_the_set_has_a_data_card(built):
    folder, metadata = built
    reports, rows = load_reports(folder), default_atlas().sectors.itertuples()
    card = json.loads((folder / "data_card.json").read_text())
    assert card.items() <= metadata.items()
    windows = {r.sector_id: CITY.sector_window(r.x_m, r.y_m, r.azimuth_deg) for r in rows}
    assert card == data_card(reports, windows, folder)
    assert card["outside_window_share"] > 0
    assert (folder / "data_card.png").read_bytes()[:4] == b"\x89PNG"


def test_a_track_belongs_to_the_split_of_its_first_serving_sector(built):
    """Later reports may be served from a tile of another split."""
    reports = load_reports(built[0])
    tile = default_atlas().sectors.set_index("sector_id").tile
    split_of = np.array([SPLITS.index(CITY.split_of(t)) for t in tile[reports.sector_id[:, 0]]])
    split, first = reports.split.values, reports.time_s.values == 0
    np.testing.assert_array_equal(split[first & (split != UNUSED)],
                                  split_of[first & (split != UNUSED)])  # fmt: skip
    assert (split_of != split)[~first & (split != UNUSED)].any()


def test_the_reports_of_all_tiles_are_kept(built, tiles):
    """Sorted by track and time, the set is the tiles' reports."""
    whole = load_reports(built[0]).drop_vars("split")
    parts = xr.concat([load_reports(f) for f in tiles.values()], "report", combine_attrs="override")
    first, second = (r.isel(report=np.lexsort((r.time_s, r.track))) for r in (whole, parts))
    xr.testing.assert_identical(first, second)


def test_tracks_of_a_split_stand_in_random_order(built, tiles, sites, tmp_path):
    reports = load_reports(built[0])
    assert (np.diff(reports.split) >= 0).all()
    _, first = np.unique(reports.track, return_index=True)
    order = reports.track.values[np.sort(first)]
    for split in (TRAIN, TEST):
        mine = order[np.isin(order, reports.track[reports.split == split])]
        # z of a rank correlation is r sqrt(n - 1)
        assert abs(np.corrcoef(mine[1:], mine[:-1])[0, 1]) * np.sqrt(len(mine) - 2) < 4
    (tmp_path / "again").mkdir()
    build_measurement_set(CITY, tiles, sites, tmp_path / "again")
    xr.testing.assert_identical(load_reports(tmp_path / "again"), reports)


def test_training_reads_only_its_split(built):
    split = load_reports(built[0], ["split"]).split.values
    reads = RandomReads(built[0], ["split", "track"], 64, seed=0, where=split == TRAIN)
    found = np.concatenate([batch.split.values for batch in reads.epoch(0)])
    assert (found == TRAIN).all()
    assert len(found) == built[1]["train_reports"]


def test_a_split_without_reports_is_named(tiles, sites, tmp_path):
    empty = CITY.model_copy(
        update={"splits": CITY.splits.model_copy(update={"calibration": ("e3013n52125",)})}
    )
    with pytest.raises(ReportError, match="calibration"):
        build_measurement_set(empty, tiles, sites, tmp_path)


def test_a_track_in_two_tiles_is_refused(tiles, sites, tmp_path):
    full = [f for f in tiles.values() if load_reports(f, ["track"]).sizes["report"]]
    names = dict(zip(CITY.tile_names, [full[0], full[0]], strict=False))
    with pytest.raises(ReportError, match="track .* has reports in"):
        build_measurement_set(CITY, names, sites, tmp_path)
