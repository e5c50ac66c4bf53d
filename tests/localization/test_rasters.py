"""Whole windows as rasters: what the maps hold, and the evidence of the serving sector."""

import numpy as np
import pytest
import torch
from made_up_windows import ANGLE, BEAMS, QUALITY, TIMING, inside, reader_of, silenced

from ueloc_core.localization.baselines import GridBayes
from ueloc_core.localization.rasters import HalfRasters, evidence_raster, to_raster, turned
from ueloc_core.localization.windows import SYMMETRIES, turn_raster
from ueloc_core.measurement.batch import missing_code
from ueloc_core.measurement.model import MapError

COUNT = 24


@pytest.fixture(scope="module")
def reader():
    return reader_of(MapError.none())


@pytest.fixture(scope="module")
def samples(reader):
    """Reports of all scenarios whose terminals stand in their windows, and where."""
    return inside(reader, COUNT, seed=5)


@pytest.fixture(scope="module")
def batch(reader, samples):
    return reader.read(*samples)


@pytest.fixture(scope="module")
def evidence(batch):
    return evidence_raster(batch)


# -- layout ----------------------------------------------------------------------------------


def test_blocks_lie_row_by_row_from_the_south_west():
    """A raster cut into blocks by hand, and put together again."""
    raster = torch.arange(144.0).reshape(1, 12, 12)
    blocks = [raster[0, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4] for r in range(3) for c in range(3)]
    stacked = torch.stack([b.flatten() for b in blocks])[None]
    assert torch.equal(to_raster(stacked, 3), raster)


def test_each_raster_turns_by_its_own_symmetry_and_back():
    values = torch.randn(SYMMETRIES, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    symmetry = torch.tensor([3, 0, 7, 1, 4, 5, 2, 6])
    found = turned(values, symmetry)
    for one, value, s in zip(found, values, symmetry.tolist(), strict=True):
        assert torch.equal(one, turn_raster(value, s))
    assert torch.equal(turned(found, symmetry, back=True), values)


# -- half resolution -------------------------------------------------------------------------


def halved(values):
    """Means of 2 x 2 pixels of what is known, NaN where nothing is."""
    cells = values.reshape(*values.shape[:-2], values.shape[-2] // 2, 2, -1, 2)
    known = np.isfinite(cells)
    total = np.where(known, cells, 0.0).sum(axis=(-3, -1))
    with np.errstate(invalid="ignore"):
        return total / known.sum(axis=(-3, -1))


def test_half_resolution_is_the_mean_of_what_is_known(reader, batch):
    """Of the atlas's own maps in the window."""
    found = HalfRasters.of(batch)
    for i in range(0, COUNT, 4):
        frame = reader.frames[int(batch.reports.sector[i, 0])]
        heard = batch.reports.sector[i][batch.present[i]]
        mapped, _ = reader.atlas.maps_in(frame, heard.numpy())
        np.testing.assert_allclose(found.rsrp_dbm[i, : len(heard)], halved(mapped), rtol=1e-5)
        assert found.rsrp_dbm[i, len(heard) :].isnan().all()
        outdoor = reader.atlas.outdoor_in(frame).astype(float)
        np.testing.assert_allclose(found.outdoor[i], halved(outdoor))
        height = reader.atlas.building_height_in(frame)
        height = height.reshape(16, 4, 16, 4).mean(axis=(1, 3)).repeat(2, 0).repeat(2, 1)
        np.testing.assert_allclose(found.height_m[i], height, rtol=1e-6)


@pytest.mark.parametrize("symmetry", range(1, SYMMETRIES))
def test_half_resolution_is_seen_in_the_symmetry_of_its_report(reader, samples, batch, symmetry):
    plain = HalfRasters.of(batch[:4])
    seen = HalfRasters.of(reader.read(samples[0][:4], samples[1][:4], np.full(4, symmetry)))
    for name in ("rsrp_dbm", "outdoor", "height_m"):
        expected = turn_raster(getattr(plain, name), symmetry)
        torch.testing.assert_close(getattr(seen, name), expected, equal_nan=True)


# -- the serving sector's evidence -----------------------------------------------------------


def told(batch):
    """Which reports say something of timing, angle or beams."""
    return ((batch.ta >= 0) | (batch.aoa >= 0) | (batch.beam[:, 0] >= 0)).numpy()


def test_evidence_is_the_likelihood_of_timing_angle_and_beams(reader, samples, evidence):
    """At every cell of the window, against the measurement model at that cell."""
    reports, _ = samples
    assert 0 < told(reports).sum() < COUNT
    assert evidence.shape == (COUNT, 64, 64)
    everywhere = np.ones((64, 64), dtype=bool)
    for i in np.flatnonzero(told(reports)):
        serving = int(reports.sector[i, 0])
        maps = reader.places.serving_in(serving, reader.frames[serving], everywhere)
        exact = reader.model.serving_log_prob(reports[i : i + 1], maps)[0]
        near = exact > exact.max() - 12
        off = (evidence[i].flatten() - exact)[near]
        assert float((off - off.median()).abs().max()) < 0.15


def test_evidence_is_what_grid_bayes_makes_of_the_serving_sector(reader, samples, evidence):
    """The posterior over that without the serving sector's fields, cell by cell, up to a factor."""
    reports, _ = samples
    bayes = GridBayes(reader.places, reader.model)
    silent = silenced(reports, (*TIMING, *ANGLE, *BEAMS))
    compared = 0
    for i in np.flatnonzero(told(reports))[:8]:
        serving = int(reports.sector[i, 0])
        frame, outdoor = reader.frames[serving], reader.places.around(serving).outdoor
        spread = 1e-3 / outdoor.size  # of the mass that lies anywhere in the square
        both = [bayes.posterior(r[i : i + 1]).in_frame(frame) - spread for r in (reports, silent)]
        clear = np.minimum(*both) > 1e-9  # neither is lost in the mass that is spread
        ratio = np.log(both[0][clear]) - np.log(both[1][clear]) - evidence[i].numpy()[clear]
        compared += clear.sum()
        assert np.abs(ratio - np.median(ratio)).max() < 0.15
    assert compared > 500


def test_evidence_stays_in_the_true_frame(reader, samples, evidence):
    turn = np.arange(COUNT) % SYMMETRIES
    assert torch.equal(evidence_raster(reader.read(*samples, turn)), evidence)


def test_evidence_is_zero_where_nothing_is_reported(reader, samples, evidence):
    """Neither by the scenario nor once the fields are taken away; the others say nothing of it."""
    reports, truth = samples
    flat = (evidence == 0).all(dim=2).all(dim=1).numpy()
    np.testing.assert_array_equal(flat, ~told(reports))
    silent = reader.read(silenced(reports, (*TIMING, *ANGLE, *BEAMS)), truth)
    assert (evidence_raster(silent) == 0).all()
    others = reader.read(silenced(reports, (*QUALITY, "ul_sinr")), truth)
    assert torch.equal(evidence_raster(others), evidence)


def test_an_offset_without_its_timing_advance_says_nothing(reader, samples):
    """It counts from the timing advance."""
    reports, truth = samples
    offset_only = silenced(reports, ("ta", *ANGLE, *BEAMS))
    assert (offset_only.ta_offset > missing_code("ta_offset")).any()
    assert (evidence_raster(reader.read(offset_only, truth)) == 0).all()


def test_evidence_of_the_fields_adds_up(reader, samples, evidence):
    """Timing, angle and beams are independent given the place."""
    reports, truth = samples
    total = torch.zeros_like(evidence)
    for gone in ((*ANGLE, *BEAMS), (*TIMING, *BEAMS), (*TIMING, *ANGLE)):
        total = total + evidence_raster(reader.read(silenced(reports, gone), truth))
    torch.testing.assert_close(total, evidence, atol=2e-3, rtol=1e-4)


def test_evidence_is_high_where_the_terminal_is(samples, evidence):
    """Most terminals stand where a small part of the window has more evidence."""
    reports, truth = samples
    column, row = np.floor(truth / 4.0 + 32).astype(int).T
    own = evidence[np.arange(COUNT), row, column]
    higher = (evidence > own[:, None, None]).float().mean(dim=(1, 2)).numpy()
    assert np.median(higher[told(reports)]) < 0.15


def test_large_batches_are_what_small_ones_are(batch, evidence):
    """However many blocks are looked at in one go."""
    one_by_one = torch.cat([evidence_raster(batch[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(one_by_one, evidence[:6], atol=1e-4, rtol=1e-5)
