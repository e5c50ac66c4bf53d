"""Reports of a population of terminals: what a track shares and how its serving sector changes."""

import numpy as np
import pytest
import torch
from made_up_world import (
    Population,
    default_atlas,
    draw_reports,
    outdoor_points,
    population,
    standing_at,
)
from scipy import stats

from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.mobility import Tracks
from ueloc_core.measurement.population import Lasting, entry_loss_db
from ueloc_core.measurement.reports import INT16_MISSING, MISSING
from ueloc_core.measurement.scenarios import FEATURES, SCENARIOS, features_of
from ueloc_core.units import wavelength_m

LEVEL = 1e-3
FIELD_OF = {name: name for name in FEATURES} | {"beams": "beam"}


def walks(atlas, count, reports, step_m, seed=1, *, indoor=0):
    """Tracks that go east by so much between reports, one second apart."""
    rng = np.random.default_rng([seed, 9])
    x_m, y_m = outdoor_points(atlas, count, rng)
    x_m = (x_m[:, None] + step_m * np.arange(reports)).ravel()
    y_m = np.repeat(y_m, reports)
    size = count * reports
    return Tracks(
        track=np.repeat(np.arange(count), reports),
        time_s=np.tile(np.arange(reports, dtype=float), count),
        x_m=x_m,
        y_m=y_m,
        speed_m_s=np.full(size, step_m, np.float32),
        heading_deg=np.full(size, 90.0, np.float32),
        mobility=np.full(size, int(step_m > 0), np.int8),
        indoor=np.full(size, indoor, np.int8),
    )


@pytest.fixture(scope="module")
def walked():
    """Full reports of terminals that walk 8 m between reports."""
    atlas = default_atlas()
    world = population(atlas, scenarios={"full": 1.0})
    return world.sample(walks(atlas, 400, 6, 8.0), np.random.default_rng(81))


def following(truth):
    """Positions of reports whose terminal's report before is there too, one second earlier."""
    same = (truth.track[1:] == truth.track[:-1]) & np.isclose(np.diff(truth.time_s), 1.0)
    return np.flatnonzero(same) + 1


def code_of(batch, n, sector):
    """SS-RSRP code of a sector in a report, or None."""
    slot = np.flatnonzero(batch.sector[n].numpy() == sector)
    return int(batch.rsrp[n, slot[0]]) if len(slot) else None


# -- serving sector -----------------------------------------------------------------------


def test_the_serving_sector_changes_by_event_a3(walked):
    """A kept one is at most 3 dB worse than any neighbour; a new one was better by more."""
    batch, truth = walked
    kept = changed = 0
    for n in following(truth):
        before, now = int(batch.sector[n - 1, 0]), int(batch.sector[n, 0])
        serving = int(batch.rsrp[n, 0])
        others = batch.rsrp[n, 1:][batch.sector[n, 1:] >= 0]
        assert before == now or int(batch.selected[n]) == 1
        if int(batch.selected[n]) == 0:
            assert before == now
            if len(others):
                assert int(others.max()) <= serving + 3
            kept += 1
        elif before != now:
            code = code_of(batch, n, before)
            assert code is None or code < serving - 3
            if len(others):
                assert int(others.max()) <= serving
            changed += 1
    assert kept > 500
    assert changed > 100


def test_the_first_report_of_a_track_selects_the_strongest(walked):
    batch, truth = walked
    first = np.flatnonzero(truth.time_s == 0)
    assert (batch.selected[first] == 1).all()
    assert (batch.rsrp[first, 0] >= batch.rsrp[first].amax(dim=1)).all()


def test_some_serving_sectors_are_not_the_strongest(walked):
    """Hysteresis: a kept sector may be up to 3 dB below a neighbour."""
    batch, _ = walked
    gap = batch.rsrp.amax(dim=1) - batch.rsrp[:, 0]
    assert int(gap.max()) == 3
    assert (gap[batch.selected == 1] == 0).all()


def test_neighbours_fall_and_stay_within_the_offset():
    batch, _, _ = draw_reports(default_atlas(), 400, neighbour_offset_db=15)
    rsrp = batch.rsrp.numpy().astype(float)
    rsrp[batch.sector.numpy() < 0] = np.nan
    gaps = np.diff(rsrp[:, 1:], axis=1)
    assert (gaps[~np.isnan(gaps)] <= 0).all()
    assert np.nanmax(rsrp[:, :1] - rsrp) == 15


def test_neighbours_are_lost_at_the_dropout_s_rate():
    """The same terminals with and without losses: what else changes nothing is drawn alike."""
    atlas, batches = default_atlas(), []
    for lost in (0.0, 0.25):
        world = population(atlas, dropout_probability=lost, detection_threshold_dbm=-156)
        rng = np.random.default_rng(82)
        tracks = standing_at(*outdoor_points(atlas, 2000, np.random.default_rng(83)))
        batches.append(world.sample(tracks, rng)[0])
    # the second strongest, which no other limit leaves out
    second = batches[0].sector[:, 1]
    there = (batches[1].sector == second[:, None]).any(dim=1)[second >= 0]
    missing = int((~there).sum())
    assert stats.binomtest(missing, len(there), 0.25).pvalue > LEVEL


# -- scenarios ----------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_what_a_scenario_lacks_is_missing(scenario):
    batch, _, _ = draw_reports(default_atlas(), 300, scenarios={scenario: 1.0})
    assert (batch.scenario == SCENARIOS.index(scenario)).all()
    for feature in FEATURES:
        values = getattr(batch, FIELD_OF[feature])
        values = values if values.ndim == 1 else values[:, 0]
        missing = INT16_MISSING if feature in ("ul_sinr", "ta_offset") else MISSING
        share = float((values == missing).double().mean())
        if feature == "rsrp":
            assert share == 0
        elif feature in features_of(scenario):
            assert stats.binomtest(round(300 * share), 300, 0.05).pvalue > LEVEL
        else:
            assert share == 1


def test_an_lte_terminal_has_four_neighbours_at_most():
    batch, _, _ = draw_reports(default_atlas(), 300, scenarios={"lte_legacy": 1.0})
    assert int(batch.heard.sum(dim=1).max()) == 5
    more, _, _ = draw_reports(default_atlas(), 300)
    assert int(more.heard.sum(dim=1).max()) == 8


def test_scenarios_have_their_shares():
    batch, _, _ = draw_reports(default_atlas(), 900, scenarios={"full": 1.0, "nr_rsrp_only": 3.0})
    full = int((batch.scenario == SCENARIOS.index("full")).sum())
    assert stats.binomtest(full, 900, 0.25).pvalue > LEVEL


# -- what lasts ---------------------------------------------------------------------------


def serving_residual(world, batch, truth):
    """Reported less mapped level of the serving sector [dB]."""
    maps = world.places.levels_at(truth.x_m, truth.y_m).rsrp_dbm[..., 0]
    mapped = maps.gather(1, batch.sector[:, :1])[:, 0]
    return (batch.level_dbm[:, 0] - mapped).numpy()


def test_the_reports_of_a_standing_terminal_share_its_shadowing_and_gain():
    """Residuals of two reports of one sector: alike but for fading and accuracy."""
    atlas = default_atlas()
    world = population(atlas)
    batch, truth = world.sample(walks(atlas, 900, 2, 0.0), np.random.default_rng(84))
    n = following(truth)
    n = n[(batch.sector[n, 0] == batch.sector[n - 1, 0]).numpy()]
    residual = serving_residual(world, batch, truth)
    one, two = residual[n - 1], residual[n]
    scatter = np.std(two - one) / np.sqrt(2)
    assert 1.0 < scatter < 2.2  # accuracy of 1 dB, fading, and rounding
    assert np.corrcoef(one, two)[0, 1] > 0.8
    assert 3.0 < np.std(residual) < 5.5  # sqrt(16 + 4) and the best sector's selection


def test_shadowing_fades_with_distance():
    """Without a gain offset: near reports share it, those far apart do not."""
    atlas = default_atlas()
    world = population(atlas, terminal={"gain_sigma_db": 0.0}, handover_offset_db=15)
    found = []
    for step_m in (4.0, 60.0):
        batch, truth = world.sample(walks(atlas, 900, 2, step_m), np.random.default_rng(85))
        n = following(truth)
        n = n[(batch.sector[n, 0] == batch.sector[n - 1, 0]).numpy()]
        residual = serving_residual(world, batch, truth)
        found.append(np.corrcoef(residual[n - 1], residual[n])[0, 1])
    assert found[0] > 0.5
    assert found[1] < 0.3


def test_terminals_indoors_lose_the_entry_loss():
    """The same places, inside and outside: 13 dB less at 3.5 GHz, and no depth outdoors."""
    atlas = default_atlas()
    world = population(atlas, detection_threshold_dbm=-156, neighbour_offset_db=125)
    levels = []
    for indoor in (0, 1):
        tracks = walks(atlas, 2000, 1, 0.0, indoor=indoor)
        batch, truth = world.sample(tracks, np.random.default_rng(86))
        assert (truth.indoor == indoor).all()
        levels.append(serving_residual(world, batch, truth).mean())
    loss = entry_loss_db(atlas.city.radio.frequency_ghz)
    assert levels[0] - levels[1] == pytest.approx(loss, abs=5 * np.sqrt(2 * 40 / 2000))


def test_indoors_it_is_the_deeper_the_weaker():
    """The level of the nearest outdoor grid cell, less half a dB for each metre inside."""
    atlas = default_atlas()
    world = population(atlas, detection_threshold_dbm=-156)
    row, column = np.nonzero(atlas.building_height_m > 0)
    tracks = standing_at(atlas.ground.x_centres_m[column], atlas.ground.y_centres_m[row])
    inside = Tracks(**{**vars(tracks), "indoor": np.ones(len(row), np.int8)})
    rows, loss = world._places_of(inside, np.random.default_rng(87))
    assert (rows >= 0).all()
    depth = (loss - entry_loss_db(atlas.city.radio.frequency_ghz)).reshape(-1)
    edge = ((row % 16 == 0) | (row % 16 == 6)) | ((column % 16 == 0) | (column % 16 == 6))
    core = (row % 16 == 3) & (column % 16 == 3)
    gap = depth[core].mean() - depth[edge].mean()
    assert gap == pytest.approx(0.5 * 12.0, abs=5 * 4.4 * np.sqrt(1 / core.sum()))


def test_lasting_values_follow_the_settings():
    world = population(default_atlas())
    lasting = Lasting.draw(world.model, 20_000, np.random.default_rng(88))
    for values, sigma in ((lasting.gain_db, 2.0), (lasting.clock_ns, 20.0)):
        assert stats.kstest(values / sigma, "norm").pvalue > LEVEL


# -- truth --------------------------------------------------------------------------------


def test_moving_towards_the_source_is_a_positive_doppler_shift(walked):
    """f = v cos(angle) sin(zenith) / wavelength, v 8 m/s to the east."""
    _, truth = walked
    arrival = np.radians(truth.rt["rt_arrival_azimuth_deg"][:, 0] - 90.0)
    doppler = truth.rt["rt_doppler_hz"][:, 0]
    assert (doppler[np.cos(arrival) > 0.1] > 0).all()
    assert (doppler[np.cos(arrival) < -0.1] < 0).all()
    fastest = 8.0 / wavelength_m(default_atlas().city.radio.frequency_hz)
    zenith = np.radians(truth.rt["rt_arrival_zenith_deg"][:, 0])
    np.testing.assert_allclose(doppler, fastest * np.cos(arrival) * np.sin(zenith), rtol=1e-4)


def test_a_standing_terminal_has_no_doppler_shift():
    atlas = default_atlas()
    _, truth = population(atlas).sample(walks(atlas, 50, 2, 0.0), np.random.default_rng(89))
    assert np.nanmax(np.abs(truth.rt["rt_doppler_hz"])) == 0


def test_the_ray_tracing_layer_is_what_the_maps_say(walked):
    batch, truth = walked
    atlas = default_atlas()
    for n in range(0, len(batch), 97):
        for slot in range(8):
            sector = int(batch.sector[n, slot])
            value = truth.rt["rt_first_arrival_ns"][n, slot]
            if sector < 0:
                assert np.isnan(value)
                continue
            at = atlas.windows[sector].indices(truth.x_m[n], truth.y_m[n])
            assert value == atlas.layer("first_arrival_ns")[sector][at]


def test_own_sectors_keep_the_tracks_that_they_serve_first():
    atlas = default_atlas()
    world, own = population(atlas), np.array([0, 1, 2])
    tracks = walks(atlas, 400, 3, 8.0)
    batch, truth = world.sample(tracks, np.random.default_rng(90), own)
    first = truth.time_s == 0
    assert np.isin(batch.sector[first, 0], own).all()
    assert not np.isin(batch.sector[~first, 0], own).all()
    everyone, _ = world.sample(tracks, np.random.default_rng(90))
    assert 0 < len(batch) < len(everyone)


def test_times_start_at_a_track_s_first_report(walked):
    _, truth = walked
    first = np.r_[True, truth.track[1:] != truth.track[:-1]]
    assert (truth.time_s[first] == 0).all()
    assert (np.diff(truth.time_s)[~first[1:]] > 0).all()


def test_the_same_seeds_give_the_same_bytes():
    atlas = default_atlas()
    first = population(atlas)
    tracks = walks(atlas, 60, 2, 8.0)

    def bytes_of(world, seed):
        batch, _ = world.sample(tracks, np.random.default_rng(seed))
        return b"".join(v.numpy().tobytes() for v in vars(batch).values())

    other = Population(first.model, first.places, first.audible, 6)
    assert bytes_of(first, 1) == bytes_of(population(atlas), 1)
    assert bytes_of(first, 1) != bytes_of(first, 2)
    assert bytes_of(first, 1) != bytes_of(other, 1)


def test_nobody_gives_no_report():
    world = population(default_atlas())
    nowhere = standing_at(np.array([0.0]), np.array([0.0]))
    batch, truth = world.sample(nowhere, np.random.default_rng(91))
    assert isinstance(batch, ReportBatch)
    assert len(batch) == len(truth.track) == 0
    assert batch.sector.dtype == torch.int64
