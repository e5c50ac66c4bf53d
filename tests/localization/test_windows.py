"""What the network sees: frames, crops, evidence and the symmetries of the square."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from made_up_world import default_atlas, draw_reports

from ueloc_core.grid import Window
from ueloc_core.localization.baselines import GridBayes
from ueloc_core.localization.windows import (
    SYMMETRIES,
    WindowReader,
    _turn_raster,
    _turn_vectors,
)
from ueloc_core.measurement.batch import missing_code
from ueloc_core.measurement.model import MapError, MeasurementModel, ServingMaps
from ueloc_core.measurement.scenarios import SCENARIOS
from ueloc_core.units import azimuth_to_math_angle_rad

COUNT = 24
EVERY_SCENARIO = dict.fromkeys(SCENARIOS, 1.0)
EVERY_SYMMETRY = pytest.mark.parametrize("symmetry", range(SYMMETRIES))


@pytest.fixture(scope="module")
def reader():
    atlas = default_atlas()
    city = atlas.city
    settings = city.measurements.model_copy(update={"scenarios": EVERY_SCENARIO})
    return WindowReader(atlas, MeasurementModel(settings, city.radio, MapError.none()))


@pytest.fixture(scope="module")
def samples(reader):
    """Reports whose terminals stand in their windows, and where."""
    batch, x_m, y_m = draw_reports(reader.atlas, 2 * COUNT, seed=5, scenarios=EVERY_SCENARIO)
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
    scatter = reader.places.levels_at(x_m, y_m).noise_db[..., 0].numpy()
    mapped, se, noise = (
        at(raster, row, column) for raster in (read.rsrp_dbm, read.se_db, read.noise_db)
    )
    for i in range(COUNT):
        for k in range(8):
            sector = int(batch.sector[i, k])
            assert np.isnan(mapped[i, k]) if sector < 0 else True
            if sector >= 0:
                np.testing.assert_equal(mapped[i, k], rsrp[i, sector])
                np.testing.assert_equal(se[i, k], error[i, sector])
                np.testing.assert_equal(noise[i, k], scatter[i, sector])
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
    full = ("rsrp_dbm", "se_db", "noise_db", "evidence", "outdoor")
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


# -- the serving sector's evidence ----------------------------------------------------------

DEEPEST = -30.0
SERVING_FIELDS = ("ta", "ta_offset", "aoa", "beam", "beam_level")


def silenced(batch, names):
    """The reports as if some fields had not been measured."""
    gone = {n: torch.full_like(getattr(batch, n), missing_code(n)) for n in names}
    return replace(batch, **gone)


def told(batch):
    """Which reports say something of timing, angle or beams."""
    return ((batch.ta >= 0) | (batch.aoa >= 0) | (batch.beam[:, 0] >= 0)).numpy()


def one_row(points):
    """Maps at n points, a row each, as one row of n places."""
    turned = [
        replace(part, **{name: value.transpose(0, -1) for name, value in vars(part).items()})
        for part in (points.delays, points.departures)
    ]
    return ServingMaps(*turned, points.reference_dbm[:1])


def test_evidence_is_the_likelihood_of_timing_angle_and_beams(reader, samples):
    """At every cell of the window, against the maps at the cell's centre as a list of points."""
    batch, truth, _, _ = samples
    evidence = reader.read(batch, truth).evidence.numpy()
    assert 0 < told(batch).sum() < COUNT
    for i in np.flatnonzero(told(batch)):
        frame = reader.frames[int(batch.sector[i, 0])]
        x, y = np.meshgrid(frame.x_centres_m, frame.y_centres_m)
        serving = np.full(x.size, int(batch.sector[i, 0]))
        maps = one_row(reader.places.serving_at(serving, x.ravel(), y.ravel()))
        everywhere = reader.model.serving_log_prob(batch[i : i + 1], maps)
        expected = everywhere.reshape(frame.shape).numpy()
        expected = np.maximum(expected - expected.max(), DEEPEST)
        np.testing.assert_allclose(evidence[i], expected, atol=2e-3)


def test_evidence_is_what_grid_bayes_makes_of_the_serving_sector(reader, samples):
    """The posterior over that without the serving sector's fields, cell by cell, up to a factor."""
    batch, truth, _, _ = samples
    evidence = reader.read(batch, truth).evidence.numpy()
    bayes = GridBayes(reader.places, reader.model)
    silent = silenced(batch, SERVING_FIELDS)
    compared = 0
    for i in np.flatnonzero(told(batch)):
        serving = int(batch.sector[i, 0])
        frame, outdoor = reader.frames[serving], reader.places.around(serving).outdoor
        spread = 1e-3 / outdoor.size  # of the mass that lies anywhere in the square
        both = [bayes.posterior(r[i : i + 1]).in_frame(frame) - spread for r in (batch, silent)]
        # where neither is lost in the mass that is spread, nor at the evidence's floor
        clear = np.minimum(*both) > 1e-9
        clear &= evidence[i] > DEEPEST
        ratio = np.log(both[0][clear]) - np.log(both[1][clear]) - evidence[i][clear]
        compared += clear.sum()
        assert np.ptp(ratio) < 5e-3
    assert compared > 1000


@EVERY_SYMMETRY
def test_evidence_turns_with_the_window(reader, samples, symmetry):
    """Every cell's evidence lies where the symmetry carries the cell's centre."""
    batch, truth, _, _ = samples
    plain, turned = (
        reader.read(batch, truth, np.full(COUNT, s)).evidence.numpy() for s in (0, symmetry)
    )
    centre_m = (np.arange(reader.cells) + 0.5 - reader.cells / 2) * reader.cell_m
    place_m = np.stack(np.meshgrid(centre_m, centre_m), axis=-1).reshape(-1, 2)
    row, column = cell_of(place_m, reader.cells, reader.cell_m)
    to_row, to_column = cell_of(_turn_vectors(place_m, symmetry), reader.cells, reader.cell_m)
    np.testing.assert_array_equal(turned[:, to_row, to_column], plain[:, row, column])


def test_evidence_lies_between_its_floor_and_zero(reader, samples):
    batch, truth, _, _ = samples
    evidence = reader.read(batch, truth).evidence
    assert evidence.dtype == torch.float32
    assert evidence.shape == (COUNT, reader.cells, reader.cells)
    assert (evidence.amax(dim=(1, 2)) == 0).all()
    assert float(evidence.min()) == DEEPEST


def test_evidence_is_zero_where_nothing_is_reported(reader, samples):
    """Neither by the scenario nor once the fields are taken away; the others say nothing of it."""
    batch, truth, _, _ = samples
    evidence = reader.read(batch, truth).evidence.numpy()
    flat = (evidence == 0).all(axis=(1, 2))
    np.testing.assert_array_equal(flat, ~told(batch))
    assert (reader.read(silenced(batch, SERVING_FIELDS), truth).evidence == 0).all()
    others = silenced(batch, ("rsrq", "sinr", "cqi", "ri", "ul_sinr", "throughput", "bler"))
    np.testing.assert_array_equal(reader.read(others, truth).evidence, evidence)


def test_an_offset_without_its_timing_advance_says_nothing(reader, samples):
    """It counts from the timing advance."""
    batch, truth, _, _ = samples
    offset_only = silenced(batch, ("ta", "aoa", "beam", "beam_level"))
    assert (offset_only.ta_offset > missing_code("ta_offset")).any()
    assert (reader.read(offset_only, truth).evidence == 0).all()


def test_evidence_of_the_fields_adds_up(reader, samples):
    """Timing, angle and beams are independent given the place."""
    batch, truth, _, _ = samples
    fields_of = {"ta": ("ta", "ta_offset"), "aoa": ("aoa",), "beams": ("beam", "beam_level")}
    parts = []
    for kept in fields_of:
        gone = [n for name, names in fields_of.items() if name != kept for n in names]
        parts.append(reader.read(silenced(batch, gone), truth).evidence)
    whole, total = reader.read(batch, truth).evidence, sum(parts)
    total = total - total.amax(dim=(1, 2), keepdim=True)
    above = (torch.stack(parts).amin(dim=0) > DEEPEST) & (whole > DEEPEST)
    assert above.float().mean() > 0.3
    torch.testing.assert_close(total[above], whole[above], atol=2e-3, rtol=1e-3)


def test_evidence_is_high_where_the_terminal_is(reader, samples):
    """Most terminals stand where a small part of the window has more evidence."""
    batch, truth, _, _ = samples
    read = reader.read(batch, truth)
    row, column = cell_of(truth, reader.cells, reader.cell_m)
    own = at(read.evidence, row, column)
    higher = (read.evidence.numpy() > own[:, None, None]).mean(axis=(1, 2))
    assert np.median(higher[told(batch)]) < 0.15


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
