"""How terminals stand and move."""

import dataclasses

import numpy as np
import pytest
import shapely
from made_up_streets import buildings, line, quarter, quarter_window, road_features
from scipy.stats import binomtest, chisquare, kstest

from ueloc_core.errors import ReportError
from ueloc_core.measurement.mobility import SHORTEST_GAP_S, Ground, Streets, build_tracks
from ueloc_core.measurement.movers import (
    DRIVERS,
    DRIVING_M_S,
    PEDESTRIAN,
    STATIC,
    VEHICLE,
    WALKING_M_S,
    WIDEST_OFFSET_M,
)
from ueloc_core.measurement.settings import TracksConfig
from ueloc_core.measurement.streets import street_graph

LEVEL = 1e-3  # of statistical tests
WINDOW = quarter_window()


def streets_of(features):
    return Streets.of(street_graph(features, WINDOW))


def whole_ground(**masks):
    """All that is no building is outdoors and within reach."""
    built = buildings()
    given = {"reach": np.ones(WINDOW.shape, dtype=bool), "outdoor": ~built, "indoor": built}
    return Ground(WINDOW, **{**given, **masks})


def tracks_of(count=4000, ground=None, streets=None, seed=1, **config):
    ground = whole_ground() if ground is None else ground
    streets = streets_of(quarter()) if streets is None else streets
    return build_tracks(count, ground, streets, TracksConfig(**config), np.random.default_rng(seed))


@pytest.fixture(scope="module")
def ground():
    return whole_ground()


@pytest.fixture(scope="module")
def tracks(ground):
    return tracks_of(6000, ground, reports_per_track=8, interval_s=2.0)


def rows_of(tracks, chosen):
    return {
        f.name: getattr(tracks, f.name)[chosen]
        for f in dataclasses.fields(tracks)
        if f.name != "counts"
    }


def following(tracks, kind):
    """Pairs of reports of the same track, one after the other."""
    chosen = rows_of(tracks, tracks.mobility == kind)
    same = chosen["track"][1:] == chosen["track"][:-1]
    first = {name: values[:-1][same] for name, values in chosen.items()}
    second = {name: values[1:][same] for name, values in chosen.items()}
    return first, second


def to_street_m(x_m, y_m, features):
    roads = shapely.union_all(features.geometry.to_numpy())
    shapely.prepare(roads)
    return shapely.distance(shapely.points(x_m, y_m), roads)


def test_nobody_is_in_a_building(tracks, ground):
    row, column = WINDOW.indices(tracks.x_m, tracks.y_m)
    assert ground.outdoor[row, column].all()
    assert not tracks.indoor.any()


def test_terminals_move_on_streets(tracks):
    """Pedestrians on paths and pavements, vehicles within half the width of their road."""
    for kind in (PEDESTRIAN, VEHICLE):
        moving = rows_of(tracks, tracks.mobility == kind)
        roads = quarter() if kind == PEDESTRIAN else quarter()[quarter()["road_class"] != "path"]
        away_m = to_street_m(moving["x_m"], moving["y_m"], roads)
        limit_m = 9.0 if kind == PEDESTRIAN else 5.0  # 12 m is the widest road
        assert away_m.max() <= limit_m <= WIDEST_OFFSET_M
        assert away_m.max() > limit_m - 1


@pytest.mark.parametrize(("width_m", "aside_m"), [(0.5, 0.25), (12.0, 9.0)])
def test_walking_is_as_fast_as_speed_and_time_allow(width_m, aside_m):
    """The straight way is no longer than that along the street and the offsets at both ends."""
    roads = quarter().assign(width_m=width_m)
    if width_m < 1:
        roads = roads.assign(road_class="path")  # no pavements
    tracks = tracks_of(streets=streets_of(roads), reports_per_track=8, interval_s=2.0)
    first, second = following(tracks, PEDESTRIAN)
    np.testing.assert_array_equal(first["speed_m_s"], second["speed_m_s"])
    straight_m = np.hypot(second["x_m"] - first["x_m"], second["y_m"] - first["y_m"])
    along_m = (second["time_s"] - first["time_s"]) * first["speed_m_s"]
    assert (straight_m <= along_m + 2 * aside_m + 1e-3).all()
    assert np.quantile(straight_m / along_m, 0.5) > 0.99  # most go straight on


def test_on_a_straight_street_the_way_is_speed_times_time():
    """One long street: the displacement along it is the speed times the time, to a micrometre."""
    road = road_features([(line((2, 200), (398, 200)), "path", 2.0)])
    tracks = tracks_of(
        3000,
        whole_ground(outdoor=np.ones(WINDOW.shape, bool), indoor=np.zeros(WINDOW.shape, bool)),
        streets_of(road),
        static_share=0.0,
        pedestrian_share=1.0,
        reports_per_track=6,
        interval_s=3.0,
    )
    first, second = following(tracks, PEDESTRIAN)
    ahead = np.sin(np.radians(first["heading_deg"].astype(float)))
    assert set(np.round(ahead)) == {-1.0, 1.0}
    on = first["heading_deg"] == second["heading_deg"]
    found_m = ((second["x_m"] - first["x_m"]) * ahead)[on]
    wanted_m = ((second["time_s"] - first["time_s"]) * first["speed_m_s"])[on]
    assert on.mean() > 0.9
    np.testing.assert_allclose(found_m, wanted_m, atol=1e-4)  # speeds are kept as float32


def test_vehicles_keep_the_speed_of_their_road_or_stand(tracks):
    moving = rows_of(tracks, tracks.mobility == VEHICLE)
    speed = moving["speed_m_s"]
    usual = np.array([DRIVING_M_S[c] for c in ("service", "residential", "tertiary", "primary")])
    share = speed[:, None] / usual
    near = (share >= DRIVERS[0] - 1e-6) & (share <= DRIVERS[1] + 1e-6)
    assert (near.any(axis=1) | (speed == 0)).all()
    assert 0.05 < (speed == 0).mean() < 0.4
    first, second = following(tracks, VEHICLE)
    straight_m = np.hypot(second["x_m"] - first["x_m"], second["y_m"] - first["y_m"])
    fastest = DRIVERS[1] * usual.max()
    assert (straight_m <= (second["time_s"] - first["time_s"]) * fastest + 2 * 5).all()
    stood = (first["speed_m_s"] == 0) & (second["time_s"] - first["time_s"] < 0.3)
    assert (straight_m[stood] == 0).mean() > 0.9


def test_headings_point_where_terminals_go():
    """Over short times on straight streets."""
    tracks = tracks_of(interval_s=0.1, reports_per_track=2, static_share=0.0)
    for kind in (PEDESTRIAN, VEHICLE):
        first, second = following(tracks, kind)
        east, north = second["x_m"] - first["x_m"], second["y_m"] - first["y_m"]
        gone_m = np.hypot(east, north)
        heading = np.radians(first["heading_deg"].astype(float))
        ahead_m = east * np.sin(heading) + north * np.cos(heading)
        # not those who turn, or who are led to the street
        plain = np.abs(gone_m / (SHORTEST_GAP_S * first["speed_m_s"] + 1e-9) - 1) < 1e-3
        assert plain.mean() > 0.5
        assert np.quantile(ahead_m[plain] / gone_m[plain], 0.02) > 0.99


def test_times_start_at_zero_and_increase(tracks):
    start = np.flatnonzero(np.diff(tracks.track, prepend=-1))
    assert (np.diff(tracks.track) >= 0).all()
    assert not tracks.time_s[start].any()
    gap_s = np.diff(tracks.time_s)[np.diff(tracks.track) == 0]
    assert gap_s.min() >= SHORTEST_GAP_S


def test_gaps_are_exponential_beyond_the_shortest():
    tracks = tracks_of(
        3000, reports_per_track=4, interval_s=2.0, static_share=1.0, pedestrian_share=0
    )
    gap_s = np.diff(tracks.time_s)[np.diff(tracks.track) == 0]
    assert kstest(gap_s - SHORTEST_GAP_S, "expon", args=(0, 2.0 - SHORTEST_GAP_S)).pvalue > LEVEL


@pytest.mark.parametrize("most", [1, 4])
def test_every_length_occurs_and_most_are_long(most):
    tracks = tracks_of(8000, reports_per_track=most, static_share=1.0, pedestrian_share=0.0)
    lengths = np.bincount(np.bincount(tracks.track), minlength=most + 1)[1:]
    expected = np.full(most, 0.5 / most)
    expected[-1] += 0.5
    assert len(lengths) == most
    assert most == 1 or chisquare(lengths, 8000 * expected).pvalue > LEVEL


def test_shares_of_mobility(tracks):
    kind = tracks.mobility[np.flatnonzero(np.diff(tracks.track, prepend=-1))]
    config = TracksConfig()
    shares = {STATIC: config.static_share, PEDESTRIAN: config.pedestrian_share, VEHICLE: 0.2}
    for value, share in shares.items():
        found = int((kind == value).sum())
        assert binomtest(found, len(kind), share).pvalue > LEVEL
        assert tracks.counts[("static", "pedestrian", "vehicle")[value]] == found
    assert len(kind) == 6000  # each terminal has a report


def test_static_terminals_are_uniform_over_the_ground(ground):
    """Over the outdoor cells within reach, and within the cells."""
    reach = np.zeros(WINDOW.shape, dtype=bool)
    reach[20:60, 10:90] = True
    ground = dataclasses.replace(ground, reach=reach)
    count = 30 * int((reach & ground.outdoor).sum())
    tracks = tracks_of(count, ground, static_share=1.0, pedestrian_share=0.0, reports_per_track=1)
    row, column = WINDOW.indices(tracks.x_m, tracks.y_m)
    counts = np.zeros(WINDOW.shape, dtype=int)
    np.add.at(counts, (row, column), 1)
    assert counts[reach & ground.outdoor].sum() == count
    assert chisquare(counts[reach & ground.outdoor]).pvalue > LEVEL
    for place in (tracks.x_m, tracks.y_m):
        assert kstest(place / WINDOW.cell_m % 1, "uniform").pvalue > LEVEL


def test_static_terminals_stay_and_have_no_heading(tracks):
    first, second = following(tracks, STATIC)
    np.testing.assert_array_equal(first["x_m"], second["x_m"])
    np.testing.assert_array_equal(first["y_m"], second["y_m"])
    still = tracks.mobility == STATIC
    assert not tracks.speed_m_s[still].any()
    assert np.isnan(tracks.heading_deg[still]).all()
    turned = tracks.heading_deg[~still]
    assert ((turned >= 0) & (turned < 360)).all()


def test_pedestrians_walk_at_their_own_speed(tracks):
    start = np.flatnonzero(np.diff(tracks.track, prepend=-1))
    speed = tracks.speed_m_s[start][tracks.mobility[start] == PEDESTRIAN]
    mean, sigma = WALKING_M_S
    assert np.abs(speed - mean).max() <= 3 * sigma + 1e-6
    assert speed.mean() == pytest.approx(mean, abs=4 * sigma / np.sqrt(len(speed)))
    assert speed.std() == pytest.approx(0.986 * sigma, rel=0.1)  # cut at three deviations


@pytest.mark.parametrize(("kind", "road_class"), [(PEDESTRIAN, "path"), (VEHICLE, "service")])
def test_starts_are_uniform_by_length_of_street(kind, road_class):
    """Over the streets within reach, the western half; roads too narrow for any offset."""
    roads = quarter().assign(road_class=road_class, width_m=0.5)
    reach = np.zeros(WINDOW.shape, dtype=bool)
    reach[:, :50] = True
    outdoors = np.ones(WINDOW.shape, dtype=bool)
    tracks = tracks_of(
        20_000,
        whole_ground(reach=reach, outdoor=outdoors, indoor=~outdoors),
        streets_of(roads),
        static_share=0.0,
        pedestrian_share=1.0 if kind == PEDESTRIAN else 0.0,
        reports_per_track=1,
    )
    assert (tracks.mobility == kind).all()
    west, south, _, north = WINDOW.bounds_m
    pieces = [
        shapely.box(west, y, west + 200, y + 20) for y in np.arange(south, north, 20)
    ]  # strips from south to north
    whole = shapely.union_all(roads.geometry.to_numpy())
    length_m = np.array([whole.intersection(piece).length for piece in pieces])
    seen, _ = np.histogram(tracks.y_m, np.arange(south, north + 1, 20))
    assert tracks.x_m.max() < west + 200.5
    assert chisquare(seen, 20_000 * length_m / length_m.sum()).pvalue > LEVEL
    east = np.histogram(tracks.x_m, np.arange(west, west + 201, 20))[0]
    strips = [shapely.box(x, south, x + 20, north) for x in np.arange(west, west + 200, 20)]
    length_m = np.array([whole.intersection(strip).length for strip in strips])
    assert chisquare(east, east.sum() * length_m / length_m.sum()).pvalue > LEVEL


def test_a_terminal_that_leaves_ends_its_track():
    """Of each track what comes before the terminal is first out of the window, and no more."""
    road = road_features([(line((300, 202), (600, 202)), "service", 2.0)])
    wide = WINDOW.buffered(1000)
    found = {}
    for window in (WINDOW, wide):
        outdoor = np.ones(window.shape, dtype=bool)
        reach = np.zeros(window.shape, dtype=bool)
        reach[WINDOW.slices_in(window)] = True
        ground = Ground(window, reach, outdoor, ~outdoor)
        config = {"static_share": 0.0, "pedestrian_share": 0.0, "reports_per_track": 16}
        found[window] = tracks_of(2000, ground, streets_of(road), interval_s=5.0, **config)
    whole, cut = found[wide], found[WINDOW]
    away = ~WINDOW.contains(whole.x_m, whole.y_m)
    first_away = np.full(2000, np.inf)
    np.minimum.at(first_away, whole.track[away], whole.time_s[away])
    kept = whole.time_s < first_away[whole.track]
    assert 0.1 < kept.mean() < 0.9
    assert (~away & ~kept).any()  # some come back
    for name, values in rows_of(whole, kept).items():
        np.testing.assert_array_equal(getattr(cut, name), values)
    assert cut.counts["reports_off_ground"] == (~kept).sum()


def test_places_beside_the_street_that_are_not_outdoors_are_moved_to_it():
    """A street in a canyon as wide as one cell: all stand in that cell's row, none is lost."""
    outdoor = np.zeros(WINDOW.shape, dtype=bool)
    outdoor[50] = True
    road = road_features([(line((2, 202), (398, 202)), "primary", 12.0)])
    tracks = tracks_of(
        3000,
        whole_ground(outdoor=outdoor, indoor=~outdoor),
        streets_of(road),
        static_share=0.0,
        pedestrian_share=1.0,
    )
    counts = tracks.counts
    assert counts["reports_moved_to_street"] > 0.9 * len(tracks.track)
    assert counts["reports_not_outdoors"] == 0
    assert np.abs(tracks.y_m - WINDOW.bounds_m[1] - 202).max() <= 2


def test_nobody_reports_from_a_passage():
    outdoor = np.ones(WINDOW.shape, dtype=bool)
    outdoor[:, 45:55] = False
    road = road_features([(line((2, 202), (398, 202)), "residential", 7.0)])
    tracks = tracks_of(
        3000,
        whole_ground(outdoor=outdoor, indoor=~outdoor),
        streets_of(road),
        static_share=0.0,
        pedestrian_share=0.0,
        interval_s=4.0,
    )
    assert tracks.counts["reports_not_outdoors"] > 100
    assert outdoor[WINDOW.indices(tracks.x_m, tracks.y_m)].all()
    assert len(np.unique(tracks.track)) == 3000
    east = tracks.x_m - WINDOW.bounds_m[0]
    first, second = east[:-1], east[1:]
    through = (np.diff(tracks.track) == 0) & (first < 180) & (second > 220)
    assert through.any()  # some come out at the other end


@pytest.mark.parametrize(
    ("roads", "stranded"),
    [([], (PEDESTRIAN, VEHICLE)), ([(line((2, 202), (398, 202)), "path", 3.0)], (VEHICLE,))],
)
def test_without_streets_terminals_stand(roads, stranded):
    tracks = tracks_of(2000, streets=streets_of(road_features(roads)))
    assert not np.isin(tracks.mobility, stranded).any()
    shares = {PEDESTRIAN: 0.4, VEHICLE: 0.2}
    wanted = sum(shares[kind] for kind in stranded)
    assert binomtest(tracks.counts["tracks_without_street"], 2000, wanted).pvalue > LEVEL
    assert len(np.unique(tracks.track)) == 2000


def test_streets_beyond_reach_are_none():
    reach = np.zeros(WINDOW.shape, dtype=bool)
    reach[14:36, 14:36] = True  # a block, about 60 to 140 m
    tracks = tracks_of(500, whole_ground(reach=reach, outdoor=~np.zeros(WINDOW.shape, dtype=bool)))
    assert tracks.counts["vehicle"] == 0
    assert tracks.counts["tracks_without_street"] > 0


def test_some_static_terminals_are_indoors():
    tracks = tracks_of(6000, indoor_share=0.3, reports_per_track=3)
    start = np.flatnonzero(np.diff(tracks.track, prepend=-1))
    static = tracks.mobility[start] == STATIC
    inside = tracks.indoor[start] == 1
    assert not inside[~static].any()
    assert binomtest(int(inside.sum()), int(static.sum()), 0.3).pvalue > LEVEL
    row, column = WINDOW.indices(tracks.x_m, tracks.y_m)
    np.testing.assert_array_equal(buildings()[row, column], tracks.indoor == 1)
    assert tracks.counts["tracks_without_building"] == 0


def test_without_buildings_all_stand_outdoors():
    open_ground = np.zeros(WINDOW.shape, dtype=bool)
    tracks = tracks_of(
        1000,
        whole_ground(indoor=open_ground, outdoor=~open_ground),
        indoor_share=1.0,
        static_share=1.0,
        pedestrian_share=0.0,
    )
    assert not tracks.indoor.any()
    assert tracks.counts["tracks_without_building"] == 1000


def test_the_seed_decides_all(tracks, ground):
    again = tracks_of(6000, ground, reports_per_track=8, interval_s=2.0)
    for name, values in rows_of(tracks, slice(None)).items():
        np.testing.assert_array_equal(getattr(again, name), values)
    assert again.counts == tracks.counts
    other = tracks_of(6000, ground, reports_per_track=8, interval_s=2.0, seed=2)
    assert not np.array_equal(other.time_s[:100], tracks.time_s[:100])


def test_no_terminals_make_no_reports():
    tracks = tracks_of(0)
    assert all(len(values) == 0 for values in rows_of(tracks, slice(None)).values())
    assert not any(tracks.counts.values())


def test_terminals_without_ground_are_refused():
    nothing = np.zeros(WINDOW.shape, dtype=bool)
    with pytest.raises(ReportError, match="no outdoor ground"):
        tracks_of(10, whole_ground(reach=nothing))


def test_masks_have_the_shape_of_the_window():
    with pytest.raises(ReportError, match=r"ground\.indoor.*shape \(3, 3\)"):
        whole_ground(indoor=np.zeros((3, 3), dtype=bool))
