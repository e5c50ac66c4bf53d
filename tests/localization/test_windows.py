"""What the network sees: frames, crops and the symmetries of the square."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from made_up_world import default_atlas, draw_reports

from ueloc_core.grid import Window
from ueloc_core.localization.windows import (
    SYMMETRIES,
    WindowReader,
    _turn_raster,
    _turn_vectors,
)
from ueloc_core.measurement.model import MapError, MeasurementModel
from ueloc_core.units import azimuth_to_math_angle_rad

COUNT = 24
EVERY_SYMMETRY = pytest.mark.parametrize("symmetry", range(SYMMETRIES))


@pytest.fixture(scope="module")
def reader():
    atlas = default_atlas()
    city = atlas.city
    return WindowReader(atlas, MeasurementModel(city.measurements, city.radio, MapError.none()))


@pytest.fixture(scope="module")
def samples(reader):
    """Reports whose terminals stand in their windows, and where."""
    batch, x_m, y_m = draw_reports(reader.atlas, 2 * COUNT, seed=5)
    truth = reader.frame_positions(batch.sector[:, 0].numpy(), x_m, y_m)
    inside = np.flatnonzero((np.abs(truth) < 125).all(axis=1))[:COUNT]
    assert len(inside) == COUNT
    return batch[torch.from_numpy(inside)], truth[inside], x_m[inside], y_m[inside]


def cell_of(truth_m, count, cell_m):
    """(row, column) of places in a frame of `count` cells a side."""
    place = np.floor((np.asarray(truth_m) + count * cell_m / 2) / cell_m).astype(int)
    return place[:, 1], place[:, 0]


def at(raster, row, column):
    """Values of rasters (report, ..., n, n) at one cell a report."""
    return raster.numpy()[np.arange(len(row)), ..., row, column]


def test_the_frame_holds_what_the_atlas_holds(reader, samples):
    batch, truth, x_m, y_m = samples
    read = reader.read(batch, truth)
    rsrp, error = reader.atlas.maps_at(x_m, y_m)
    row, column = cell_of(truth, reader.cells, reader.cell_m)
    mapped, se = at(read.rsrp_dbm, row, column), at(read.se_db, row, column)
    for i in range(COUNT):
        for k in range(8):
            sector = int(batch.sector[i, k])
            assert np.isnan(mapped[i, k]) if sector < 0 else True
            if sector >= 0:
                np.testing.assert_equal(mapped[i, k], rsrp[i, sector])
                np.testing.assert_equal(se[i, k], error[i, sector])
    assert at(read.outdoor, row, column).all()
    np.testing.assert_array_equal(read.rsrp_code, batch.rsrp)
    assert torch.equal(read.present, batch.heard)


def test_the_frame_is_the_sector_s_window(reader):
    for sector, row in enumerate(reader.atlas.sectors.itertuples()):
        frame = reader.frames[sector]
        angle = azimuth_to_math_angle_rad(row.azimuth_deg)
        wanted = row.x_m + 40 * np.cos(angle), row.y_m + 40 * np.sin(angle)
        assert np.abs(np.subtract(frame.centre_m, wanted)).max() <= 8
        assert frame.intersection(reader.atlas.windows[sector]) == frame
        assert frame.column % 4 == frame.row % 4 == 0


def test_positions_are_metres_from_the_centre(reader):
    x_m, y_m = reader.frames[4].centre_m
    found = reader.frame_positions(
        np.array([4, 4]), np.array([x_m, x_m + 3]), np.array([y_m, y_m - 7])
    )
    np.testing.assert_allclose(found, [[0, 0], [3, -7]])


@EVERY_SYMMETRY
def test_maps_and_labels_turn_alike(reader, samples, symmetry):
    """At the turned truth the turned maps have the values that the maps have at the truth."""
    batch, truth, _, _ = samples
    turn = np.full(COUNT, symmetry)
    plain, turned = reader.read(batch, truth), reader.read(batch, truth, turn)
    places = [(p.truth_m.numpy(), p) for p in (plain, turned)]
    full = ("rsrp_dbm", "se_db", "outdoor")
    half = (
        "half_rsrp_dbm",
        "half_se_db",
        "half_unheard_dbm",
        "half_silence",
        "half_height_m",
    )
    for names, cells, cell_m in (
        (full, reader.cells, reader.cell_m),
        (half, reader.cells // 2, 2 * reader.cell_m),
    ):
        (row, column), (turned_row, turned_column) = (
            cell_of(place, cells, cell_m) for place, _ in places
        )
        for name in names:
            np.testing.assert_array_equal(
                at(getattr(turned, name), turned_row, turned_column),
                at(getattr(plain, name), row, column),
                err_msg=name,
            )
    for name in ("level_dbm", "rsrp_code", "present", "ceiling_dbm", "outside_m2"):
        assert torch.equal(getattr(plain, name), getattr(turned, name))
    np.testing.assert_allclose(turned.truth_m, _turn_vectors(truth, symmetry), rtol=1e-6, atol=1e-5)


@EVERY_SYMMETRY
def test_geometry_turns_with_the_maps(reader, samples, symmetry):
    """Sites and boresights of the tokens are vectors; their lengths and angles stay."""
    batch, truth, _, _ = samples
    plain, turned = (
        reader.read(batch, truth, np.full(COUNT, s)).tokens.double().numpy() for s in (0, symmetry)
    )
    for east in (9, 12):
        expected = _turn_vectors(plain[..., east : east + 2], symmetry)
        np.testing.assert_allclose(turned[..., east : east + 2], expected, atol=1e-6)
    others = [k for k in range(plain.shape[-1]) if k not in (9, 10, 12, 13)]
    np.testing.assert_allclose(turned[..., others], plain[..., others], atol=1e-6)
    np.testing.assert_allclose(np.hypot(plain[..., 9], plain[..., 10]), plain[..., 11], atol=1e-6)


def test_the_symmetries_are_the_eight_of_the_square():
    mark = np.arange(16.0).reshape(4, 4)
    turned = {_turn_raster(mark, s).tobytes() for s in range(SYMMETRIES)}
    assert len(turned) == SYMMETRIES
    vector = np.array([2.0, 1.0])
    assert len({tuple(_turn_vectors(vector, s)) for s in range(SYMMETRIES)}) == SYMMETRIES
    np.testing.assert_array_equal(_turn_raster(mark, 0), mark)
    # Symmetry 1 turns left: east becomes north.
    np.testing.assert_allclose(_turn_vectors(np.array([1.0, 0.0]), 1), [0, 1])
    # Symmetry 4 mirrors west and east.
    np.testing.assert_allclose(_turn_vectors(vector, 4), [-2, 1])


def test_half_resolution_is_the_mean_of_what_is_known(reader, samples):
    batch, truth, _, _ = samples
    read = reader.read(batch, truth)
    full = read.rsrp_dbm.numpy().reshape(COUNT, 8, 32, 2, 32, 2)
    known = np.isfinite(full).any(axis=(3, 5))
    np.testing.assert_array_equal(np.isfinite(read.half_rsrp_dbm.numpy()), known)
    mean = np.nanmean(np.where(known[:, :, :, None, :, None], full, 0.0), axis=(3, 5))
    np.testing.assert_allclose(read.half_rsrp_dbm.numpy()[known], mean[known], rtol=1e-5)


def test_the_strongest_unreported_sector_is_not_reported(reader, samples):
    batch, truth, _, _ = samples
    read = reader.read(batch, truth)
    for i in range(0, COUNT, 5):
        frame = reader.frames[int(batch.sector[i, 0])]
        half = Window(frame.column // 2, frame.row // 2, 32, 32, 8.0)
        best = np.full(half.shape, -200.0)
        reported = set(batch.sector[i].tolist())
        for sector, (own, values) in enumerate(
            zip(reader._half_windows, reader._half_rsrp, strict=True)
        ):
            shared = half.intersection(own)
            if sector in reported or shared is None:
                continue
            target = shared.slices_in(half)
            level = np.nan_to_num(values[shared.slices_in(own)], nan=-200.0)
            best[target] = np.maximum(best[target], level)
        np.testing.assert_allclose(read.half_unheard_dbm[i], best, atol=0.1)  # stored as float16
        assert float(read.half_silence[i].max()) <= 0


def test_outside_is_the_rest_of_the_traced_ground(reader):
    for sector in (0, 7):
        own, frame = reader.atlas.windows[sector], reader.frames[sector]
        traced, inside = (reader.atlas.outdoor_in(w).sum() for w in (own, frame))
        assert reader.outside_m2(sector) == max(traced - inside, 1) * 16


def test_missing_values_have_flags(reader, samples):
    batch, truth, _, _ = samples
    tokens = reader.read(batch, truth).tokens.numpy()
    for value, codes in ((0, batch.rsrp), (2, batch.rsrq), (4, batch.sinr)):
        missing = codes.numpy() < 0
        np.testing.assert_array_equal(tokens[..., value + 1] == 0, missing)
        assert (tokens[..., value][missing] == 0).all()
    assert (tokens[~batch.heard.numpy()] == 0).all()
    np.testing.assert_array_equal(tokens[:, 0, 7] == 0, batch.cqi.numpy() < 0)
    assert np.isfinite(tokens).all()
    assert np.abs(tokens).max() < 10


def test_without_truth_it_is_unknown(reader, samples):
    read = reader.read(samples[0])
    assert read.truth_m.isnan().all()
    moved = read.to(torch.device("cpu"))
    assert len(moved) == COUNT
    assert all(getattr(moved, f.name).shape[0] == COUNT for f in fields(moved))
