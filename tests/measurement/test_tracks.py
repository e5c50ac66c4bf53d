"""Reports of a track together, and the simulated terminals of a tile."""

from functools import lru_cache

import numpy as np
import pytest
import shapely
import torch
import xarray as xr
from made_up_places import FITTED, level_maps, model, report, simulated_log_prob
from made_up_streets import road_features
from made_up_world import (
    Population,
    default_atlas,
    outdoor_points,
    population,
    quarter_atlas,
    standing_at,
    world_off_by,
)
from scipy import stats

from ueloc_core.evaluation.diagnostics import Calibration, diagnose_coverage
from ueloc_core.evaluation.ranks import hpd_level
from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.dataset import load_reports
from ueloc_core.measurement.level_tables import TrackLevels
from ueloc_core.measurement.levels import LevelMaps, MapError
from ueloc_core.measurement.mobility import Tracks
from ueloc_core.measurement.model import MeasurementModel
from ueloc_core.measurement.movers import PEDESTRIAN, STATIC, VEHICLE
from ueloc_core.measurement.schemas import ReportSchema
from ueloc_core.measurement.tracks import build_measurements, ground_of

ERRORS = pytest.mark.parametrize("error", [MapError.none(), FITTED], ids=["none", "fitted"])

# -- what the reports of a track share ----------------------------------------------------

MAPS = level_maps([[-88.0], [-94.0], [-97.0], [-103.0]], [0, 0, 1, 2], se_db=1.0)
TRACKS = [
    ReportBatch.cat(
        [
            report([0, 1, 2], first, selected=1),
            report([0, 1, 2], second),
            report([0, 2, 1, 3], third),
        ]
    )
    for first, second, third in (
        ([69, 65, 58], [70, 64, 60], [68, 59, 63, 54]),
        ([66, 63, 58], [72, 66, 58], [68, 63, 64, 55]),
        ([73, 68, 62], [72, 68, 66], [74, 65, 69, 58]),
    )
]


def three_places():
    layers = (MAPS.rsrp_dbm, MAPS.se_db, MAPS.noise_db)
    return LevelMaps(*(v.expand(3, -1, -1) for v in layers), MAPS.site)


@ERRORS
def test_reports_of_one_place_against_plain_monte_carlo(error):
    """Gain, shadowing and the map's error are one for two reports: within 0.05 nats.

    As independent reports they would be off by 1.5 nats and more.
    """
    m, reports = model(error, dropout_probability=0.05), TRACKS[0][:2]
    expected, spread = simulated_log_prob(m, reports, MAPS, 400_000, np.random.default_rng(71))
    found = float(TrackLevels(m.levels, reports).at(MAPS))
    assert found == pytest.approx(expected, abs=0.05 + 4 * spread)
    alone = sum(float(TrackLevels(m.levels, reports[t : t + 1]).at(MAPS)) for t in range(2))
    assert abs(alone - expected) > 1.2


def test_a_pedestrian_s_three_reports_against_plain_monte_carlo():
    """The equal correlation of all pairs stands for the exponential one.

    Three reports, neighbouring grid cells or three apart: the error is 0.6 nats at most and 0.45
    on average; taking the shadowing as one for all, or as new in each, costs twice that or more.
    """
    m, rng = model(dropout_probability=0.05), np.random.default_rng(72)
    wrong = {"equal": [], "one": [], "none": []}
    for reports in TRACKS:
        levels = TrackLevels(m.levels, reports)
        for gap_m in (4.0, 12.0):
            apart_m = (gap_m, 2 * gap_m)
            expected, _ = simulated_log_prob(m, reports, three_places(), 200_000, rng, apart_m)
            shared = float(np.exp(-np.array([1, 1, 2]) * gap_m / 13.0).mean())
            for name, value in (("equal", shared), ("one", 0.999)):
                found = float(levels.at(three_places(), shared=value, exact=True))
                wrong[name].append(found - expected)
            alone = [TrackLevels(m.levels, reports[t : t + 1]).at(MAPS) for t in range(3)]
            wrong["none"].append(float(sum(alone)) - expected)
    mean = {name: np.abs(values).mean() for name, values in wrong.items()}
    assert np.abs(wrong["equal"]).max() < 0.8
    assert mean["equal"] < 0.5
    assert mean["equal"] < 0.6 * min(mean["one"], mean["none"])


def test_the_gain_of_a_terminal_is_one_wherever_it_goes():
    """Far apart nothing else is shared: the plain sum over it, and not the single reports."""
    gains = {"terminal": {"gain_sigma_db": 6.0}, "shadowing": {"sigma_db": 0.0}}
    m = model(**gains)
    reports = TRACKS[2]
    found = float(TrackLevels(m.levels, reports).at(three_places(), shared=0.0))
    without = model(**{**gains, "terminal": {"gain_sigma_db": 0.0}}).levels
    offset = np.linspace(-4, 4, 161) * 6.0
    weight = np.exp(-0.5 * (offset / 6.0) ** 2)
    given = []
    for value in offset:
        moved = level_maps(MAPS.rsrp_dbm[0] + value, MAPS.site.tolist(), se_db=1.0)
        given.append(float(without.direct(reports, moved).sum()))
    expected = np.log(np.exp(given) @ (weight / weight.sum()))
    assert found == pytest.approx(expected, abs=0.06)
    alone = sum(float(TrackLevels(m.levels, reports[t : t + 1]).at(MAPS)) for t in range(3))
    assert found > alone + 1


@ERRORS
def test_one_report_is_a_track(error):
    m, reports = model(error), TRACKS[0]
    for t in range(3):
        one = reports[t : t + 1]
        torch.testing.assert_close(
            m.track_log_prob(one, MAPS), m.log_prob(one, MAPS)[0], atol=1e-4, rtol=1e-5
        )


def test_the_order_of_reports_from_one_place_does_not_matter():
    m, reports = model(FITTED), TRACKS[0]
    turned = reports[torch.tensor([2, 0, 1])]
    torch.testing.assert_close(
        m.track_log_prob(turned, MAPS), m.track_log_prob(reports, MAPS), atol=1e-3, rtol=1e-5
    )


STANDING, REPORTS = 100, 3
ERROR = {"core": 3.0, "common": 2.0, "site": 2.0}


@pytest.fixture(scope="module")
def standing():
    """Tracks of three reports in worlds that differ from the twin, and places' likelihoods."""
    twin, rng = quarter_atlas(), np.random.default_rng(73)
    mine = population(twin)
    error = MapError(**{f"{name}_db": value for name, value in ERROR.items()})
    m = MeasurementModel(mine.model.settings, twin.city.radio, error)
    around_of = lru_cache(len(twin.windows))(mine.places._around)
    found = []
    while len(found) < STANDING:
        world = population(world_off_by(twin, rng, **ERROR))
        city = Population(world.model, world.places, world.audible, int(rng.integers(2**31)))
        once = standing_at(*outdoor_points(twin, 4, rng))
        rows = np.repeat(np.arange(4), REPORTS)
        tracks = Tracks(**{n: v[rows] for n, v in vars(once).items() if n != "counts"})
        batch, truth = city.sample(tracks, rng)
        for track in np.unique(truth.track):
            chosen = np.flatnonzero(truth.track == track)
            if len(chosen) == REPORTS:
                around = around_of(int(batch.sector[chosen[-1], 0]))
                place = (truth.x_m[chosen[0]], truth.y_m[chosen[0]])
                found.append((m, batch[chosen], around, place))
    return found[:STANDING]


def ranks_of(standing, log_prob_of):
    u, levels = np.random.default_rng(74).random(STANDING), []
    for n, (m, reports, around, place) in enumerate(standing):
        mass = np.zeros(around.window.shape)
        log_prob = log_prob_of(m, reports, around.levels)
        mass[around.outdoor] = torch.softmax(log_prob.double(), dim=0)
        row, column = (int(v) for v in around.window.indices(*place))
        levels.append(hpd_level(mass, row, column, u[n]))
    return np.array(levels)


@pytest.mark.slow
def test_posteriors_of_tracks_are_calibrated_where_the_map_errs(standing):
    """The map's error at a place is one for its reports, and so are shadowing and gain."""
    levels = ranks_of(standing, lambda m, reports, maps: m.track_log_prob(reports, maps))
    assert diagnose_coverage(levels, 1e-3) == Calibration.CALIBRATED
    for share in (0.5, 0.9):
        inside = int((levels < share).sum())
        assert stats.binomtest(inside, STANDING, share).pvalue > 1e-3


@pytest.mark.slow
def test_taking_reports_for_independent_is_overconfident(standing):
    levels = ranks_of(standing, lambda m, reports, maps: m.log_prob(reports, maps).sum(dim=0))
    assert diagnose_coverage(levels, 1e-3) == Calibration.OVERCONFIDENT
    assert (levels < 0.9).mean() < 0.75


# -- the terminals of a tile --------------------------------------------------------------

TILES = ("e3013n52126", "e3014n52126", "e3015n52127")
EMPTY = "e3013n52125"
SETTINGS = {"tracks": {"tracks_per_hectare": 60.0, "reports_per_track": 3, "indoor_share": 0.2}}


def streets(atlas):
    """Residential streets along the open lanes of the made-up city."""
    x0, y0, x1, y1 = atlas.ground.bounds_m
    lanes = np.arange(0.0, max(x1 - x0, y1 - y0), 64.0) + 46.0
    xs, ys = (x0 + lanes[x0 + lanes < x1], y0 + lanes[y0 + lanes < y1])
    rows = [(shapely.LineString([(x, y0), *((x, y) for y in ys), (x, y1)]),) for x in xs]
    rows += [(shapely.LineString([(x0, y), *((x, y) for x in xs), (x1, y)]),) for y in ys]
    return road_features([(*row, "residential", 7.0) for row in rows])


@pytest.fixture(scope="module")
def city():
    atlas = default_atlas()
    measurements = type(atlas.city.measurements).model_validate(SETTINGS)
    return atlas.city.model_copy(update={"measurements": measurements})


@pytest.fixture(scope="module")
def built(city, tmp_path_factory):
    atlas, stored = default_atlas(), {}
    for name in (*TILES, EMPTY):
        folder = tmp_path_factory.mktemp(name)
        metadata = build_measurements(city, city.tile(name), atlas, streets(atlas), folder)
        stored[name] = load_reports(folder), metadata
    return stored


@pytest.mark.parametrize("name", TILES)
def test_tracks_belong_to_the_tile_that_serves_them_first(built, name):
    reports, metadata = built[name]
    ReportSchema.validate(reports)
    atlas = default_atlas()
    own = atlas.sectors.sector_id[atlas.sectors.tile == name]
    track = reports.track.values
    first = np.r_[True, track[1:] != track[:-1]]
    assert np.isin(reports.sector_id.values[first, 0], own).all()
    assert not np.isin(reports.sector_id.values[:, 1:], [*own, 0]).all()
    assert metadata["reports"] == reports.sizes["report"] > 100
    assert metadata["tracks"] == first.sum() < metadata["candidates"]


@pytest.mark.parametrize("name", TILES)
def test_terminals_stand_outdoors_or_in_buildings(built, name):
    reports, _ = built[name]
    atlas = default_atlas()
    row, column = atlas.ground.indices(reports.x_m.values, reports.y_m.values)
    indoor = reports.indoor.values == 1
    assert atlas.outdoor[row, column][~indoor].all()
    assert (atlas.building_height_m[row, column][indoor] > 0).all()
    assert (reports.mobility.values[indoor] == STATIC).all()
    assert set(np.unique(reports.mobility)) == {STATIC, PEDESTRIAN, VEHICLE}


def test_the_population_has_the_density_of_the_city_file(built, city):
    """Tracks that start on each hectare of outdoor ground that the tile's sectors may reach."""
    atlas, (_, metadata) = default_atlas(), built[TILES[0]]
    own = np.flatnonzero(atlas.sectors.tile == TILES[0])
    ground = ground_of(atlas, own)
    reach = np.zeros(atlas.ground.shape, dtype=bool)
    for sector in own:
        shared = atlas.ground.intersection(atlas.windows[sector])
        reach[shared.slices_in(atlas.ground)] = True
    hectares = (reach & atlas.outdoor).sum() * 16 / 10_000
    assert (ground.reach & ground.outdoor).sum() * 16 / 10_000 == pytest.approx(hectares)
    assert metadata["candidates"] == round(hectares * 60.0)


def test_no_track_is_in_two_tiles(built):
    tracks = np.concatenate([np.unique(reports.track) for reports, _ in built.values()])
    assert len(np.unique(tracks)) == len(tracks)


def test_the_same_seed_gives_the_same_bytes(built, city, tmp_path):
    atlas, name = default_atlas(), TILES[0]
    for seed in (city.seed, 2):
        folder = tmp_path / str(seed)
        folder.mkdir()
        again = city.model_copy(update={"seed": seed})
        build_measurements(again, again.tile(name), atlas, streets(atlas), folder)
        same = load_reports(folder).identical(built[name][0])
        assert same == (seed == city.seed)


def test_a_tile_without_sectors_has_no_reports(built):
    reports, metadata = built[EMPTY]
    assert isinstance(reports, xr.Dataset)
    ReportSchema.validate(reports)
    assert reports.sizes["report"] == metadata["reports"] == 0
