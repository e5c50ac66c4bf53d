"""Reports over exact paths: whose they are, what they hold, what they share with map-drawn ones.

The paths are made up here (free space, or a few chosen ones), so every value has a formula;
`tests/physics/test_coherent_paths.py` finds real ones.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
from made_up_world import default_atlas, outdoor_points, population

from ueloc_core.city import SPLITS
from ueloc_core.errors import ReportError
from ueloc_core.geodata.terrain import flat_terrain, save_terrain
from ueloc_core.measurement.audible import CANDIDATES
from ueloc_core.measurement.dataset import complete, load_reports, to_dataset
from ueloc_core.measurement.mobility import Tracks
from ueloc_core.measurement.path_propagation import propagation
from ueloc_core.measurement.path_traced import (
    build_path_traced,
    choose_tracks,
    draw_reports,
    strangers,
    surroundings,
)
from ueloc_core.measurement.reports import L1_RSRP, decode_rsrp, ul_aoa_of_compass_deg
from ueloc_core.measurement.scenarios import scenario_code
from ueloc_core.measurement.schemas import MeasurementSetSchema
from ueloc_core.radio.antennas import antenna_named, field_components
from ueloc_core.radio.link import timing_advance_step_ns
from ueloc_core.radio.ray_tracing.reference import PathTable
from ueloc_core.radio.schemas import SectorSchema
from ueloc_core.units import (
    SPEED_OF_LIGHT_M_S,
    free_space_gain_db,
    power_per_resource_element_dbm,
)

TEST, LIMIT = SPLITS.index("test"), 48
ORIGIN_M = 100.0, 50.0, -20.0
GROUND_M = 3.0


def table(positions, position, gain, delay_ns, departure, kinds=0):
    """Paths with a number of reflections each."""
    count = len(position)
    kinds = np.broadcast_to(np.asarray(kinds, dtype=np.uint8), count)
    none = np.zeros(count, dtype=np.uint8)
    return PathTable(
        positions=positions,
        position=np.asarray(position, dtype=np.int64),
        gain=np.asarray(gain, dtype=np.float32),
        delay_ns=np.asarray(delay_ns, dtype=np.float64),
        departure=np.asarray(departure, dtype=np.float32),
        arrival=np.asarray(departure, dtype=np.float32),
        reflections=kinds,
        refractions=none,
        scatterings=none,
        diffractions=none,
    )


def straight(unit):
    """Length [m], direction and gain of each sector along straight lines."""
    way = unit.positions_m - np.array(unit.mast_m)
    length_m = np.linalg.norm(way, axis=1)
    direction = way / length_m[:, None]
    friis = 10 ** (free_space_gain_db(length_m, unit.frequency_hz) / 10)
    pattern = []
    for sector in unit.sectors:
        field = field_components(
            sector.antenna,
            azimuth_deg=sector.azimuth_deg,
            downtilt_deg=sector.downtilt_deg,
            electrical_tilt_deg=sector.electrical_tilt_deg,
            direction=direction,
        )
        pattern.append((np.abs(field) ** 2).sum(axis=-1).mean(axis=-1))
    return length_m, direction, friis * np.array(pattern)


def pattern_db(sectors, at, way):
    """Gain of some sectors' antennas along vectors of shape (3, n) [dB]."""
    direction = (way / np.linalg.norm(way, axis=0)).T
    found = np.empty(len(at))
    for k, row in enumerate(sectors.iloc[at].itertuples()):
        field = field_components(
            antenna_named(row.antenna),
            azimuth_deg=row.azimuth_deg,
            downtilt_deg=row.downtilt_deg,
            electrical_tilt_deg=row.electrical_tilt_deg,
            direction=direction[k],
        )
        found[k] = 10 * np.log10((np.abs(field) ** 2).sum(axis=-1).mean())
    return found


def nanoseconds(length_m):
    return length_m / SPEED_OF_LIGHT_M_S * 1e9


def free_space(work):
    for unit in work:
        length_m, direction, gain = straight(unit)
        count = len(length_m)
        yield table(count, np.arange(count), gain, nanoseconds(length_m), direction)


def after_a_weak_one(weaker_db):
    """The straight path with 100 ns of detour, and a weaker one before it."""

    def paths(work):
        for unit in work:
            length_m, direction, gain = straight(unit)
            count, delay_ns = len(length_m), nanoseconds(length_m)
            yield table(
                count,
                np.repeat(np.arange(count), 2),
                np.repeat(gain, 2, axis=1) * np.tile([10 ** (-weaker_db / 10), 1.0], count),
                np.stack([delay_ns, delay_ns + 100.0], axis=1).ravel(),
                np.repeat(direction, 2, axis=0),
                np.tile([0, 1], count),
            )

    return paths


@pytest.fixture(scope="module")
def atlas():
    return default_atlas()


@pytest.fixture(scope="module")
def world(atlas, tmp_path_factory):
    """Folders of scenes and sites of all tiles: level ground 3 m above an origin at -20 m."""
    scenes, sites = {}, {}
    for name in atlas.city.tile_names:
        folder = scenes[name] = sites[name] = tmp_path_factory.mktemp(name)
        (folder / "scene.json").write_text(json.dumps({"origin_m": ORIGIN_M}))
        level = flat_terrain(atlas.city.ground_window, 16.0)
        save_terrain(
            replace(level, heights_m=level.heights_m + GROUND_M), folder, atlas.city.crs_code
        )
        of_tile = atlas.sectors[atlas.sectors.tile == name]
        SectorSchema.validate(of_tile).to_parquet(folder / "sectors.parquet")
    return scenes, sites


def tracks_over(atlas, count, seed=5):
    """Tracks of one to four reports: every other terminal stands, the others walk east."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, count)
    track, total = np.repeat(np.arange(count), sizes), sizes.sum()
    time_s = np.concatenate([np.arange(size) * 1.25 for size in sizes])
    x_m, y_m = outdoor_points(atlas, count, rng)
    moves = (track % 2).astype(np.int8)
    return Tracks(
        track=track,
        time_s=time_s,
        x_m=x_m[track] + moves * time_s,
        y_m=y_m[track],
        speed_m_s=moves.astype(np.float32),
        heading_deg=np.where(moves > 0, 90.0, np.nan).astype(np.float32),
        mobility=moves,
        indoor=np.zeros(total, dtype=np.int8),
    )


@pytest.fixture(scope="module")
def reports(atlas):
    """A measurement set: tracks of all splits in turn, some of them indoors."""
    batch, truth = population(atlas).sample(tracks_over(atlas, 240), np.random.default_rng(6))
    drawn = to_dataset(atlas.city, atlas, batch, truth)
    split = (drawn.track.values // 2 % 4).astype(np.int8)
    indoor = (drawn.track.values % 16 == 6).astype(np.int8)
    drawn = drawn.assign(split=("report", split), indoor=("report", indoor))
    order = np.random.default_rng(7).permutation(len(split))
    order = order[np.argsort(drawn.track.values[order], kind="stable")]
    return complete(drawn.isel(report=np.sort(order)))


def with_settings(city, most=LIMIT, seed=None, **measurements):
    content = city.model_dump()
    content["measurements"] |= measurements
    content["evaluation"]["path_traced_reports"] = most
    content["seed"] = content["seed"] if seed is None else seed
    return type(city).model_validate(content)


QUIET = {
    "scenarios": {"full": 1.0},
    "dropout_probability": 0.0,
    "terminal": {"gain_sigma_db": 0.0, "clock_sigma_ns": 0.0, "level_sigma_db": 0.3},
    "shadowing": {"sigma_db": 0.0},
    "timing": {"late_share_los": 0.0, "late_share_nlos": 0.0},
    "direction": {"outlier_share": 1e-6},
}


def full(reports):
    """The same terminals, all of them reporting everything."""
    everything = np.full(reports.sizes["report"], scenario_code("full"), dtype=np.int8)
    return reports.assign(scenario=("report", everything))


@pytest.fixture
def build(world, tmp_path, monkeypatch):
    """Builds the data set over made-up paths; returns it with its metadata."""

    def run(city, reports, paths=free_space, name="out"):
        monkeypatch.setattr("ueloc_core.measurement.path_propagation.site_paths", paths)
        out = tmp_path / name
        out.mkdir()
        metadata = build_path_traced(city, reports, *world, out)
        assert (out / "preview.png").stat().st_size > 1000
        return load_reports(out), metadata

    return run


# -- whose reports ------------------------------------------------------------------------------


def test_nothing_but_whole_tracks_of_the_test_split_comes_out(atlas, reports, build):
    traced, metadata = build(with_settings(atlas.city), reports)
    MeasurementSetSchema.validate(traced)
    assert traced.attrs["source"] == "path_solver"
    assert (traced.split.values == TEST).all()
    of_test = reports.isel(report=reports.split.values == TEST)
    assert np.isin(traced.track.values, of_test.track.values).all()
    chosen = choose_tracks(with_settings(atlas.city), reports, LIMIT)
    assert metadata["chosen_reports"] == len(chosen.row) <= LIMIT
    assert metadata["reports"] == traced.sizes["report"] <= metadata["chosen_reports"]
    assert (reports.split.values[chosen.row] == TEST).all()
    for track in np.unique(chosen.tracks.track):
        whole = reports.time_s.values[reports.track.values == track]
        assert (
            np.sort(whole).tolist() == chosen.tracks.time_s[chosen.tracks.track == track].tolist()
        )


def test_the_choice_is_as_large_as_the_limit_allows(atlas, reports):
    """One more track of at most four reports would have been too many."""
    sizes = {most: len(choose_tracks(atlas.city, reports, most).row) for most in (16, 48, 10_000)}
    assert 16 - 4 < sizes[16] <= 16
    assert 48 - 4 < sizes[48] <= 48
    usable = (reports.split.values == TEST) & (reports.indoor.values == 0)
    assert sizes[10_000] == usable.sum()


def test_a_larger_choice_holds_the_smaller_one(atlas, reports):
    few, many = (choose_tracks(atlas.city, reports, most).tracks.track for most in (20, 60))
    assert set(few) < set(many)


def test_terminals_in_buildings_are_left_out_and_counted(atlas, reports):
    chosen = choose_tracks(atlas.city, reports, 10_000)
    inside = (reports.split.values == TEST) & (reports.indoor.values == 1)
    assert not chosen.tracks.indoor.any()
    assert chosen.left_out == len(np.unique(reports.track.values[inside])) > 0


def test_the_true_places_are_those_of_the_measurement_set(atlas, reports, build):
    traced, _ = build(with_settings(atlas.city), reports)
    chosen = choose_tracks(with_settings(atlas.city), reports, LIMIT)
    known = {
        (track, x, y)
        for track, x, y in zip(
            chosen.tracks.track, chosen.tracks.x_m, chosen.tracks.y_m, strict=True
        )
    }
    found = zip(traced.track.values, traced.x_m.values, traced.y_m.values, strict=True)
    assert set(found) <= known


def test_the_check_finds_reports_of_other_splits(atlas, reports, build):
    """Each rule counts what breaks it, and nothing else."""
    traced, _ = build(with_settings(atlas.city), reports)
    fine = {"other_splits": 0, "other_tracks": 0, "other_places": 0}
    assert strangers(traced, reports) == fine
    first = np.arange(traced.sizes["report"]) == 0
    one = traced.assign(split=traced.split.where(~first, 0))
    assert strangers(one, reports) == fine | {"other_splits": 1}
    moved = traced.assign(x_m=traced.x_m + 0.01 * first)
    assert strangers(moved, reports) == fine | {"other_places": 1}
    track = int(traced.track[0])
    count = int((traced.track == track).sum())
    trains = reports.assign(split=reports.split.where(reports.track != track, 0))
    broken = strangers(traced, trains)
    assert broken == fine | {"other_tracks": count, "other_places": count}
    rows = np.flatnonzero(reports.track.values == track)
    if len(rows) > 1:  # a track in two splits
        both = reports.split.values.copy()
        both[rows[0]] = 0
        assert strangers(traced, reports.assign(split=("report", both)))["other_tracks"] == count


def test_without_a_test_track_it_says_what_to_do(atlas, reports):
    none = reports.assign(split=("report", np.zeros(reports.sizes["report"], np.int8)))
    with pytest.raises(ReportError, match="no outdoor track of the test split has at most 48"):
        choose_tracks(atlas.city, none, 48)


# -- what arrives -------------------------------------------------------------------------------


@pytest.fixture
def arriving(atlas, reports, world, monkeypatch):
    def run(paths=free_space, most=LIMIT, **settings):
        monkeypatch.setattr("ueloc_core.measurement.path_propagation.site_paths", paths)
        city = with_settings(atlas.city, most, **settings)
        chosen = choose_tracks(city, reports, most)
        return city, chosen, propagation(city, chosen.tracks, *world)

    return run


def test_one_path_has_the_level_of_friis_and_the_pattern(arriving):
    city, chosen, paths = arriving()
    sectors, tracks = paths.sectors, chosen.tracks
    terminal_z_m = GROUND_M + city.ray_tracing.terminal_height_m
    length_m = np.empty(paths.level_dbm.shape)
    for s, row in enumerate(sectors.itertuples()):
        way = np.stack([tracks.x_m - row.x_m, tracks.y_m - row.y_m, 0 * tracks.x_m])
        way[2] = terminal_z_m - row.elevation_m
        length_m[:, s] = np.linalg.norm(way, axis=0)
        sent_dbm = power_per_resource_element_dbm(row.power_dbm, city.radio.resource_blocks)
        expected = sent_dbm + free_space_gain_db(length_m[:, s], 3.5e9)
        expected += pattern_db(sectors, np.full(len(tracks.x_m), s), way)
        there = np.isfinite(paths.level_dbm[:, s])
        assert there.any()
        np.testing.assert_allclose(paths.level_dbm[there, s], expected[there], atol=1e-3)
    known = np.isfinite(paths.level_dbm)
    np.testing.assert_allclose(
        paths.layers["first_arrival_ns"][known], nanoseconds(length_m)[known], atol=1e-3
    )
    assert (paths.layers["line_of_sight"][known] == 1.0).all()


def test_sites_reach_as_far_as_their_maps(atlas, arriving):
    _, chosen, paths = arriving()
    for s, window in enumerate(atlas.windows):
        inside = window.contains(chosen.tracks.x_m, chosen.tracks.y_m)
        assert (np.isfinite(paths.level_dbm[:, s]) == inside).all()


@pytest.mark.parametrize(("weaker_db", "first"), [(15.0, 0.0), (25.0, 100.0)])
def test_the_first_arrival_is_the_first_path_within_20_db(arriving, weaker_db, first):
    _, _, plain = arriving()
    _, _, paths = arriving(after_a_weak_one(weaker_db))
    known = np.isfinite(paths.level_dbm)
    late = paths.layers["first_arrival_ns"] - plain.layers["first_arrival_ns"]
    np.testing.assert_allclose(late[known], first, atol=0.01)


def test_a_place_is_traced_once(arriving):
    """Terminals that stand send several reports from one."""
    asked = []

    def watched(work):
        asked.extend(unit.positions_m for unit in work)
        yield from free_space(work)

    _, chosen, _ = arriving(watched)
    places = {(x, y) for x, y in zip(chosen.tracks.x_m, chosen.tracks.y_m, strict=True)}
    assert len(places) < len(chosen.tracks.x_m)
    assert all(len(np.unique(p, axis=0)) == len(p) <= len(places) for p in asked)


def test_a_place_s_channel_does_not_depend_on_who_else_is_chosen(arriving):
    paths = after_a_weak_one(3.0)
    _, few, small = arriving(paths, most=20)
    _, many, large = arriving(paths, most=60)
    shared = np.isin(many.row, few.row)
    assert (many.row[shared] == few.row).all()
    np.testing.assert_array_equal(large.level_dbm[shared], small.level_dbm)
    np.testing.assert_array_equal(large.shadow_db[shared], small.shadow_db)


def test_two_paths_fade_and_keep_their_mean(arriving):
    """Gains add up in the layers; levels lie between both fields' difference and their sum."""
    _, _, paths = arriving(after_a_weak_one(3.0), most=10_000)
    mean_dbm = paths.layers["path_gain_db"] + paths.reference_dbm
    known = np.isfinite(paths.level_dbm)
    fading_db = (paths.level_dbm - mean_dbm)[known]
    share = 10 ** (-0.3)
    most_db = 10 * np.log10((1 + np.sqrt(share)) ** 2 / (1 + share))
    assert fading_db.max() <= most_db + 1e-3
    assert fading_db.std() > 0.3
    power = 10 ** (fading_db / 10)
    # sites and places are independent, sectors of a site are not
    assert power.mean() == pytest.approx(1.0, abs=4 * power.std() / np.sqrt(power.size / 3))


def test_shadowing_is_the_field_that_map_drawn_reports_read(atlas, arriving):
    drawn = population(atlas)  # its field has seed 5
    _, chosen, paths = arriving(seed=5)
    row = drawn.audible.rows_at(chosen.tracks.x_m, chosen.tracks.y_m)
    there = (row >= 0)[:, None] & np.isfinite(paths.shadow_db)
    mapped = drawn.shadow_db[row][:, atlas.site]
    np.testing.assert_allclose(paths.shadow_db[there], mapped[there], atol=1e-3)
    assert np.std(paths.shadow_db[there]) > 2.0


def test_only_the_accuracy_of_the_terminal_is_noise(arriving):
    city, chosen, paths = arriving()
    part = np.arange(len(chosen.row))
    around = surroundings(city, paths, part, np.zeros(len(part)))
    assert (around.noise_db == np.float32(city.measurements.terminal.level_sigma_db)).all()


def test_all_power_is_among_the_candidates_or_the_others(arriving):
    city, chosen, paths = arriving()
    part = np.arange(len(chosen.row))
    whole = np.nansum(10 ** (paths.level_dbm.astype(float) / 10), axis=1)
    for few in (CANDIDATES, 4):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ueloc_core.measurement.path_traced.CANDIDATES", few)
            around = surroundings(city, paths, part, np.zeros(len(part)))
        total = around.mapped_mw.sum(axis=1) + around.others_mw
        np.testing.assert_allclose(total, whole, rtol=1e-5)
        assert (np.diff(around.mapped_mw, axis=1) <= 0).all()
    assert (around.others_mw > 0).all()


# -- what is reported ---------------------------------------------------------------------------


def test_quiet_terminals_report_the_paths(atlas, reports, build):
    """Levels within the accuracy (5 sigma and half a step), delays and angles within theirs."""
    city = with_settings(atlas.city, **QUIET)
    traced, _ = build(city, full(reports))
    level = decode_rsrp(traced.rsrp_code.values[:, 0])
    sent = power_per_resource_element_dbm(46.0, city.radio.resource_blocks)
    np.testing.assert_allclose(level, traced.rt_path_gain_db.values[:, 0] + sent, atol=0.5 + 1.5)
    step_ns = timing_advance_step_ns(city.radio.numerology)
    trip_ns = traced.ta_code.values * step_ns + traced.ta_offset_ns.values
    # the preamble's and the sounding signal's errors differ, so the offset alone is held to it
    known = traced.ta_code.values >= 0
    np.testing.assert_allclose(
        trip_ns[known], 2 * traced.rt_first_arrival_ns.values[known, 0], atol=20.0
    )
    expected = ul_aoa_of_compass_deg(traced.rt_departure_azimuth_deg.values[:, 0])
    turn = (traced.aoa_code.values / 10 - expected + 180) % 360 - 180
    assert np.abs(turn).max() < 8.0


def test_the_timing_advance_follows_the_first_path(atlas, reports, build):
    """A first path 15 dB weaker counts, one 25 dB weaker does not: then all is 100 ns later."""
    city = with_settings(atlas.city, **QUIET)
    late = []
    for weaker_db in (15.0, 25.0):
        traced, _ = build(city, full(reports), after_a_weak_one(weaker_db), f"{weaker_db:g}")
        step_ns = timing_advance_step_ns(city.radio.numerology)
        trip_ns = traced.ta_code.values * step_ns + traced.ta_offset_ns.values
        straight_ns = _straight_ns(atlas, traced)
        late.append(np.median(trip_ns - 2 * straight_ns))
    np.testing.assert_allclose(late, [0.0, 200.0], atol=5.0)


def _straight_ns(atlas, traced):
    """Delay of the straight line from the serving site's mast [ns]."""
    serving = atlas.sectors.iloc[atlas.indices(traced.sector_id.values[:, 0])]
    offset_m = [traced.x_m.values - serving.x_m, traced.y_m.values - serving.y_m]
    drop_m = serving.elevation_m - GROUND_M - atlas.city.ray_tracing.terminal_height_m
    return nanoseconds(np.sqrt(np.square(offset_m).sum(axis=0) + drop_m.to_numpy() ** 2))


def test_the_serving_sector_stays_until_another_is_better(atlas, reports, build):
    """`selected` marks the first report of each track, and those whose serving sector changed."""
    traced, _ = build(with_settings(atlas.city, 10_000), reports)
    track, serving = traced.track.values, traced.sector_id.values[:, 0]
    first = np.r_[True, track[1:] != track[:-1]]
    changed = np.r_[True, serving[1:] != serving[:-1]]
    assert (traced.selected.values == (first | changed)).all()
    assert (~first & ~changed).any()


def test_beams_point_at_the_terminals(atlas, reports, build):
    """The strongest reported beam is the one that the straight line falls into, or a neighbour."""
    city = with_settings(atlas.city, **QUIET, beams={"sigma_db": 0.5})
    traced, _ = build(city, full(reports))
    azimuth = dict(zip(atlas.sectors.sector_id, atlas.sectors.azimuth_deg, strict=True))
    boresight = np.array([azimuth[s] for s in traced.sector_id.values[:, 0]])
    turn = traced.rt_departure_azimuth_deg.values[:, 0] - boresight
    turn = (turn + 180) % 360 - 180
    zenith = traced.rt_departure_zenith_deg.values[:, 0]
    # levels above the last code are all alike, and below the panel beams end in its nulls
    usable = (np.abs(turn) < 50) & (zenith < 110)
    usable &= traced.beam_code.values[:, 0] < L1_RSRP.last
    assert usable.sum() > 10
    sine = np.sin(np.radians(turn)) * np.sin(np.radians(zenith))
    part = (sine / np.sin(np.radians(60)) + 1) / 2 * 8
    off = traced.beam_index.values[:, 0] - np.floor(part)
    near_edge = np.abs(part - np.rint(part)) < 0.25
    assert (off[usable & ~near_edge] == 0).all()
    assert (np.abs(off[usable]) <= 1).all()


def test_without_beams_in_any_scenario_none_is_reported(atlas, reports, build):
    traced, _ = build(with_settings(atlas.city), reports)
    assert (traced.beam_index.values == -1).all()


def test_the_same_seed_gives_the_same_reports(atlas, reports, build):
    city = with_settings(atlas.city)
    paths = after_a_weak_one(3.0)
    one, _ = build(city, reports, paths, "one")
    two, _ = build(city, reports, paths, "two")
    assert one.identical(two)
    other, _ = build(with_settings(atlas.city, seed=2), reports, paths, "other")
    assert not one.equals(other)


def test_gain_offsets_last_over_a_track(atlas, arriving):
    """Reports of one terminal that stands differ by the accuracy alone, terminals by more."""
    terminal = {"gain_sigma_db": 8.0, "clock_sigma_ns": 0.0, "level_sigma_db": 0.3}
    city, chosen, paths = arriving(most=10_000, terminal=terminal, dropout_probability=0.0)
    batch, index = draw_reports(city, chosen, paths)
    sector = batch.sector[:, 0].numpy()
    expected = paths.level_dbm[index, sector] + paths.shadow_db[index, sector]
    offset = batch.level_dbm[:, 0].numpy() - expected
    terminals = chosen.terminal[index]
    mean = np.array([offset[terminals == t].mean() for t in np.unique(terminals)])
    within = offset - mean[np.searchsorted(np.unique(terminals), terminals)]
    assert np.abs(within).max() < 2.5
    assert 6.0 < mean.std() < 10.0


def test_metadata_say_how_far_paths_lie_from_maps(atlas, reports, build):
    """The differences are those of the paths' gains and of the maps' at the serving sectors."""
    city = with_settings(atlas.city)
    chosen = choose_tracks(city, reports, LIMIT)
    traced, metadata = build(city, reports)
    assert metadata["no_path_share"] == 0.0
    assert metadata["serving_without_path_share"] == 0.0
    mapped = reports.isel(report=chosen.row)
    at = np.searchsorted(atlas.sectors.sector_id, mapped.sector_id.values[:, 0])
    x_m, y_m, z_m = (atlas.sectors[name].to_numpy()[at] for name in ("x_m", "y_m", "elevation_m"))
    way = np.stack([chosen.tracks.x_m - x_m, chosen.tracks.y_m - y_m, GROUND_M + 1.5 - z_m])
    gain_db = free_space_gain_db(np.linalg.norm(way, axis=0), 3.5e9)
    gain_db += pattern_db(atlas.sectors, at, way)
    difference = gain_db - mapped.rt_path_gain_db.values[:, 0]
    assert metadata["level_difference_median_db"] == pytest.approx(np.median(difference), abs=0.01)
    assert metadata["level_difference_rms_db"] == pytest.approx(
        np.sqrt((difference**2).mean()), abs=0.01
    )
    # one path: its field's power is its power
    assert metadata["level_difference_rms_db"] == pytest.approx(
        metadata["mean_gain_difference_rms_db"], abs=1e-3
    )
    assert len(chosen.row) - metadata["reports"] == pytest.approx(
        metadata["unheard_share"] * len(chosen.row)
    )
    assert traced.sizes["report"] == metadata["reports"]


def test_places_without_paths_are_counted_and_report_nothing(atlas, reports, build):
    """The western half of the city hears nobody."""
    x0, _, x1, _ = atlas.city.bounds_m
    middle_m = (x0 + x1) / 2 - ORIGIN_M[0]

    def eastern(work):
        for unit in work:
            length_m, direction, gain = straight(unit)
            east = np.flatnonzero(unit.positions_m[:, 0] > middle_m)
            delay_ns = nanoseconds(length_m)
            yield table(len(length_m), east, gain[:, east], delay_ns[east], direction[east])

    city = with_settings(atlas.city)
    traced, metadata = build(city, reports, eastern)
    chosen = choose_tracks(city, reports, LIMIT)
    west = chosen.tracks.x_m - ORIGIN_M[0] <= middle_m
    assert 0 < metadata["no_path_share"] == pytest.approx(west.mean())
    assert (traced.x_m.values - ORIGIN_M[0] > middle_m).all()
    assert metadata["serving_without_path_share"] > 0
