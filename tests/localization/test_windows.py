"""What the network sees of a report: its frame, its tokens, and the symmetries of the square."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from made_up_windows import as_raster, inside, reader_of

from ueloc_core.localization.block_grid import take
from ueloc_core.localization.windows import (
    SYMMETRIES,
    TOKEN_FEATURES,
    WindowBatch,
    turn_back,
    turn_raster,
    turn_vectors,
)
from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.units import azimuth_to_math_angle_rad

COUNT = 24
EVERY_SYMMETRY = pytest.mark.parametrize("symmetry", range(SYMMETRIES))
EAST_OF_SITE, EAST_OF_BORESIGHT = 9, 12  # places of the tokens' vectors


@pytest.fixture(scope="module")
def reader():
    return reader_of()


@pytest.fixture(scope="module")
def samples(reader):
    """Reports of all scenarios whose terminals stand in their windows, and where."""
    return inside(reader, COUNT, seed=5)


# -- frames ----------------------------------------------------------------------------------


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


def test_the_blocks_of_a_batch_hold_what_the_atlas_holds_in_their_frames(reader, samples):
    """Levels of every heard sector and the ground, cell by cell."""
    batch = reader.read(*samples)
    grid, side = batch.maps.grid, batch.blocks
    row, column = batch.all_blocks()
    rows = grid.slot_rows(batch.reports.sector, row, column)
    ground = grid.ground_rows(row, column)
    assert batch.cells == 4 * side == reader.cells
    for i in range(0, COUNT, 3):
        frame = reader.frames[int(batch.reports.sector[i, 0])]
        outdoor = as_raster(take(batch.maps.outdoor, ground[i]), side, side)
        np.testing.assert_array_equal(outdoor, reader.atlas.outdoor_in(frame))
        heard = batch.reports.sector[i][batch.present[i]]
        mapped, _ = reader.atlas.maps_in(frame, heard.numpy())
        level, hit = (
            as_raster(take(table, rows[i, : len(heard)]), side, side)
            for table in (batch.maps.levels.mean_dbm, batch.maps.levels.hit)
        )
        np.testing.assert_array_equal(hit, np.isfinite(mapped))
        np.testing.assert_array_equal(level[hit], mapped[hit])


def test_outside_is_the_rest_of_the_traced_ground(reader, samples):
    for sector in (0, 7):
        own, frame = reader.atlas.windows[sector], reader.frames[sector]
        traced, within = (reader.atlas.outdoor_in(w).sum() for w in (own, frame))
        assert reader.outside_m2(sector) == max(traced - within, 1) * 16
    batch = reader.read(*samples)
    expected = [reader.outside_m2(int(s)) for s in batch.reports.sector[:, 0]]
    np.testing.assert_allclose(batch.outside_m2, expected)


# -- symmetries ------------------------------------------------------------------------------


def test_the_symmetries_are_the_eight_of_the_square():
    mark = torch.arange(16.0).reshape(4, 4)
    turned = {turn_raster(mark, s).numpy().tobytes() for s in range(SYMMETRIES)}
    assert len(turned) == SYMMETRIES
    vector = np.array([2.0, 1.0])
    assert len({tuple(turn_vectors(vector, s)) for s in range(SYMMETRIES)}) == SYMMETRIES
    assert torch.equal(turn_raster(mark, 0), mark)
    # Symmetry 1 turns left: east becomes north.
    np.testing.assert_allclose(turn_vectors(np.array([1.0, 0.0]), 1), [0, 1])
    # Symmetry 4 mirrors west and east.
    np.testing.assert_allclose(turn_vectors(vector, 4), [-2, 1])


@EVERY_SYMMETRY
def test_rasters_and_vectors_turn_alike(symmetry):
    """What stands in a cell is carried to where the symmetry carries the cell's centre."""
    n = 5
    raster = torch.arange(float(n * n)).reshape(n, n)
    axis = np.arange(n) + 0.5 - n / 2
    place = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    column, row = np.floor(turn_vectors(place, symmetry) + n / 2).astype(int).T
    turned = turn_raster(raster, symmetry)
    np.testing.assert_array_equal(turned[row, column], raster.flatten())
    assert torch.equal(turn_back(turned, symmetry), raster)
    stacked = torch.stack([raster, -raster])[None]
    assert torch.equal(turn_raster(stacked, symmetry)[0, 1], -turned)


@EVERY_SYMMETRY
def test_geometry_turns_in_the_tokens_alone(reader, samples, symmetry):
    """Sites and boresights of the tokens are vectors; what is measured and where stays."""
    plain, turned = (reader.read(*samples, np.full(COUNT, s)) for s in (0, symmetry))
    tokens = [b.tokens.double().numpy() for b in (plain, turned)]
    for east in (EAST_OF_SITE, EAST_OF_BORESIGHT):
        expected = turn_vectors(tokens[0][..., east : east + 2], symmetry)
        np.testing.assert_allclose(tokens[1][..., east : east + 2], expected, atol=1e-6)
    vectors = [e + k for e in (EAST_OF_SITE, EAST_OF_BORESIGHT) for k in (0, 1)]
    others = [k for k in range(TOKEN_FEATURES) if k not in vectors]
    np.testing.assert_array_equal(tokens[1][..., others], tokens[0][..., others])
    length = np.hypot(tokens[0][..., EAST_OF_SITE], tokens[0][..., EAST_OF_SITE + 1])
    np.testing.assert_allclose(length, tokens[0][..., EAST_OF_SITE + 2], atol=1e-6)
    assert (turned.symmetry == symmetry).all()
    for name in ("corner", "ceilings_dbm", "outside_m2", "truth_m"):
        assert torch.equal(getattr(plain, name), getattr(turned, name)), name


def test_each_report_has_its_own_symmetry(reader, samples):
    turn = np.arange(COUNT) % SYMMETRIES
    mixed = reader.read(*samples, turn)
    for symmetry in range(SYMMETRIES):
        alone = reader.read(*samples, np.full(COUNT, symmetry))
        mine = torch.from_numpy(turn == symmetry)
        assert torch.equal(mixed.tokens[mine], alone.tokens[mine])


def test_the_site_of_a_token_is_where_the_atlas_has_it(reader, samples):
    """In half windows from the centre."""
    batch = reader.read(*samples)
    table = reader.atlas.sectors
    for i in range(0, COUNT, 5):
        frame = reader.frames[int(batch.reports.sector[i, 0])]
        for slot in torch.nonzero(batch.present[i])[:, 0].tolist():
            row = table.iloc[int(batch.reports.sector[i, slot])]
            offset_m = np.subtract((row.x_m, row.y_m), frame.centre_m)
            found = batch.tokens[i, slot, EAST_OF_SITE : EAST_OF_SITE + 2] * 128.0
            np.testing.assert_allclose(found, offset_m, atol=0.01)


# -- tokens and batches ----------------------------------------------------------------------


def test_missing_values_have_flags(reader, samples):
    batch, truth = samples
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
    assert torch.equal(read.tokens, reader.read(*samples).tokens)


@pytest.mark.parametrize(
    "chosen",
    [slice(3, 9), torch.tensor([5, 0, 11]), torch.arange(COUNT) % 3 == 0],
    ids=["slice", "indices", "mask"],
)
def test_some_reports_of_a_batch_are_as_if_read_alone(reader, samples, chosen):
    batch, truth = samples
    alone = reader.read(batch[chosen], truth[np.arange(COUNT)[chosen]])
    some = reader.read(batch, truth)[chosen]
    assert len(some) == len(alone) > 2
    for field in fields(WindowBatch):
        mine, theirs = (getattr(b, field.name) for b in (some, alone))
        if isinstance(mine, torch.Tensor):
            torch.testing.assert_close(mine, theirs, equal_nan=True)
        elif isinstance(mine, ReportBatch):
            assert torch.equal(mine.rsrp, theirs.rsrp)
        else:
            assert mine is theirs or mine == theirs
