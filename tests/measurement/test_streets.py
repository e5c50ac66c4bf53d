"""The street graph of an area, and the networks that terminals move on."""

import hypothesis.strategies as st
import numpy as np
import osmnx as ox
import pytest
import shapely
from hypothesis import given, settings
from made_up_streets import X0, Y0, line, quarter, quarter_window, road_features
from scipy.stats import chisquare

from ueloc_core.geodata.schemas import ROAD_CLASSES
from ueloc_core.grid import Window
from ueloc_core.measurement.street_network import StreetNetwork
from ueloc_core.measurement.streets import street_graph

LEVEL = 1e-3  # of statistical tests


def graph_of(*rows, window=None):
    return street_graph(road_features(list(rows)), window or quarter_window())


def network_of(*rows, use="walkable"):
    return StreetNetwork.of(graph_of(*rows), use)


@pytest.fixture(scope="module")
def graph():
    return street_graph(quarter(), quarter_window())


@pytest.fixture(scope="module")
def walkable(graph):
    return StreetNetwork.of(graph, "walkable")


def test_the_graph_is_one_of_osmnx(graph):
    ox.convert.validate_graph(graph, strict=True)
    nodes, edges = ox.convert.graph_to_gdfs(graph)
    assert nodes.crs == edges.crs == quarter().crs
    np.testing.assert_allclose(edges.geometry.length, edges["length"], rtol=1e-9)


def test_ways_meet_where_they_share_a_vertex(graph):
    """16 crossings and 16 ends; the path joins crossings, so it adds no node."""
    counts = [graph.nodes[n]["street_count"] for n in graph]
    assert sorted(np.unique(counts, return_counts=True)[1].tolist()) == [2, 14, 16]
    assert counts.count(1) == 16
    assert counts.count(5) == 2
    assert len(graph.edges) == 2 * (8 * 5 + 1)


def test_all_road_is_in_the_graph_once_each_way(graph):
    total_m = sum(data["length"] for *_, data in graph.edges(data=True))
    assert total_m == pytest.approx(2 * quarter().length.sum(), rel=1e-9)


def test_a_bridge_is_not_joined_to_the_road_below():
    graph = graph_of(
        (line((0, 50), (100, 50)), "primary", 10.0), (line((50, 0), (50, 100)), "primary", 10.0)
    )
    assert len(graph) == 4
    assert ox.truncate.largest_component(graph).number_of_nodes() == 2


def test_an_edge_has_one_class_and_one_width():
    """Where a way follows another of a different class, the node stays."""
    graph = graph_of(
        (line((0, 0), (40, 5), (90, 0)), "primary", 10.0),
        (line((90, 0), (120, 0), (200, 0)), "residential", 6.0),
    )
    kinds = {(d["highway"], d["width_m"], d["length"]) for *_, d in graph.edges(data=True)}
    assert {k[:2] for k in kinds} == {("primary", 10.0), ("residential", 6.0)}
    assert len(graph) == 3


def test_who_may_use_a_road():
    graph = graph_of(
        (line((0, 0), (300, 0)), "path", 2.5),
        (line((0, 0), (0, 300)), "motorway", 14.0),
        (line((0, 0), (300, 300)), "service", 4.0),
    )
    for use, classes in (
        ("walkable", {"path", "service"}),
        ("drivable", {"motorway", "service"}),
    ):
        found = StreetNetwork.of(graph, use).road_class
        assert {ROAD_CLASSES[k] for k in found} == classes


def test_a_square_is_walked_around_and_not_driven():
    square = shapely.Polygon([(X0 + x, Y0 + y) for x, y in [(0, 0), (80, 0), (80, 80), (0, 80)]])
    graph = graph_of((square, "residential", 6.0), (line((80, 80), (200, 80)), "path", 2.5))
    assert StreetNetwork.of(graph, "walkable").length_m.sum() == pytest.approx(320 + 120)
    assert StreetNetwork.of(graph, "drivable").is_empty


def test_pieces_that_meet_the_window_are_kept_whole():
    """What the window cuts off ends outside of it."""
    window = Window.covering((X0, Y0, X0 + 100, Y0 + 100), 4.0)
    graph = graph_of(
        (line((50, 50), (90, 50), (170, 50), (300, 50)), "residential", 6.0),
        (line((200, 0), (200, 300)), "residential", 6.0),
        window=window,
    )
    x_m = [graph.nodes[n]["x"] - X0 for n in graph]
    assert sorted(x_m) == [50, 170]


BROKEN = {
    "none": None,
    "empty": "LINESTRING EMPTY",
    "a point": "POINT (385600 6671200)",
    "no length": "LINESTRING (385600 6671200, 385600 6671200)",
    "no number": "LINESTRING (385600 6671200, nan nan, 385700 6671200)",
    "an empty area": "POLYGON EMPTY",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_road_is_counted_and_left_out(name):
    with np.errstate(invalid="ignore"):  # of the shape that has no number
        shape = shapely.from_wkt(BROKEN[name])
    sound = (line((0, 0), (30, 0)), "residential", 6.0)
    graph = graph_of((shape, "primary", 10.0), sound)
    assert graph.graph["broken_roads"] == 1
    assert {data["highway"] for *_, data in graph.edges(data=True)} == {"residential"}


def test_lines_within_collections_are_found():
    pair = shapely.MultiLineString([line((0, 0), (30, 0)), line((30, 0), (30, 50))])
    parts = shapely.GeometryCollection([pair, line((0, 0), (0, 9))])
    graph = graph_of((parts, "residential", 6.0))
    assert graph.graph["broken_roads"] == 0
    assert sum(d["length"] for *_, d in graph.edges(data=True)) == pytest.approx(2 * 89)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_no_roads_make_an_empty_graph(elsewhere):
    rows = [(line((5000, 5000), (5100, 5000)), "residential", 6.0)] if elsewhere else []
    graph = graph_of(*rows)
    assert len(graph) == 0
    for use in ("walkable", "drivable"):
        network = StreetNetwork.of(graph, use)
        assert network.is_empty
        mask = np.ones(quarter_window().shape, dtype=bool)
        assert len(network.pieces_within(quarter_window(), mask).street) == 0


def test_the_order_of_features_does_not_matter(walkable):
    mixed = quarter().sample(frac=1, random_state=3)
    other = StreetNetwork.of(street_graph(mixed, quarter_window()), "walkable")
    for name in ("tail", "head", "length_m", "half_width_m", "road_class"):
        np.testing.assert_array_equal(getattr(other, name), getattr(walkable, name))


def test_short_leftovers_are_left_out_and_the_longest_stays():
    main = (line((0, 0), (250, 0)), "residential", 6.0)
    scrap = (line((0, 100), (40, 100)), "residential", 6.0)
    network = network_of(main, scrap)
    assert network.length_m.tolist() == [250.0]
    assert network.left_out_m == pytest.approx(40.0)
    assert network_of(scrap).length_m.tolist() == [40.0]


def test_a_loop_is_one_street():
    network = network_of((line((0, 0), (90, 0), (90, 90), (0, 0)), "residential", 6.0))
    length_m = 180 + 90 * np.sqrt(2)
    assert network.length_m.sum() == pytest.approx(length_m)
    assert (network.next_edge(np.arange(len(network.tail)), np.random.default_rng(0)) >= 0).all()


def test_edges_run_between_their_nodes_both_ways(walkable):
    """Where edges start and end is the same place for all edges of a node."""
    edge = np.arange(len(walkable.tail))
    zero = np.zeros(len(edge))
    places = np.full((walkable.tail.max() + 1, 2), np.nan)
    start = np.column_stack(walkable.place(edge, zero, zero)[:2])
    end = np.column_stack(walkable.place(edge, walkable.length_m[edge // 2], zero)[:2])
    places[walkable.tail] = start
    np.testing.assert_allclose(places[walkable.tail], start, atol=1e-6)
    np.testing.assert_allclose(places[walkable.head], end, atol=1e-6)
    np.testing.assert_array_equal(walkable.tail[edge ^ 1], walkable.head)


@given(part=st.floats(0, 1), edge=st.integers(0, 81), right_m=st.floats(-8, 8))
def test_there_and_back_are_the_same_places(walkable, part, edge, right_m):
    length_m = walkable.length_m[edge // 2]
    there = walkable.place(*(np.array([v]) for v in (edge, part * length_m, right_m)))
    back = walkable.place(*(np.array([v]) for v in (edge ^ 1, (1 - part) * length_m, -right_m)))
    np.testing.assert_allclose(there[:2], back[:2], atol=1e-6)


def test_the_offset_is_to_the_right_of_the_heading():
    network = network_of((line((0, 0), (300, 0)), "residential", 6.0))
    for edge in (0, 1):
        x_m, y_m, heading_deg = network.place(np.array([edge]), np.array([150.0]), np.array([3.0]))
        right = np.radians(heading_deg + 90)
        assert x_m - X0 - 150 == pytest.approx(3 * np.sin(right), abs=1e-6)
        assert y_m - Y0 == pytest.approx(3 * np.cos(right), abs=1e-6)
        assert heading_deg == pytest.approx(90 if x_m[0] > X0 and y_m[0] < Y0 else 270)


def test_a_path_beside_a_street_has_no_leap(walkable):
    """At bends and at ends; 5 cm along are at most 10 cm beside."""
    for edge in range(len(walkable.tail)):
        along_m = np.arange(0, walkable.length_m[edge // 2], 0.05)
        same = np.full(len(along_m), edge)
        x_m, y_m, _ = walkable.place(same, along_m, np.full(len(along_m), 5.0))
        assert np.hypot(np.diff(x_m), np.diff(y_m)).max() < 0.1
        centre = walkable.place(same[[0, -1]], along_m[[0, -1]], np.zeros(2))
        ends = np.hypot(centre[0] - x_m[[0, -1]], centre[1] - y_m[[0, -1]])
        assert (ends < 0.05).all()


def test_offsets_are_kept_to(walkable):
    rng = np.random.default_rng(5)
    edge = rng.integers(len(walkable.tail), size=5000)
    along_m = rng.uniform(0, walkable.length_m[edge // 2])
    right_m = rng.uniform(-8, 8, 5000)
    x_m, y_m, _ = walkable.place(edge, along_m, right_m)
    x0_m, y0_m, _ = walkable.place(edge, along_m, np.zeros(5000))
    assert (np.hypot(x_m - x0_m, y_m - y0_m) <= np.abs(right_m) + 1e-6).all()
    roads = shapely.union_all(quarter().geometry.to_numpy())
    assert (shapely.distance(shapely.points(x0_m, y0_m), roads) < 1e-6).all()


def test_the_next_street_is_any_of_the_others(walkable):
    """Uniform over the exits of a node but the one back."""
    rng = np.random.default_rng(2)
    for edge in range(0, len(walkable.tail), 7):
        drawn = walkable.next_edge(np.full(4000, edge), rng)
        exits = np.flatnonzero(walkable.tail == walkable.head[edge])
        others = exits[exits != (edge ^ 1)]
        if not len(others):
            assert (drawn == (edge ^ 1)).all()
            continue
        counts = np.bincount(drawn, minlength=len(walkable.tail))
        assert counts.sum() == counts[others].sum()
        if len(others) > 1:
            assert chisquare(counts[others]).pvalue > LEVEL
        assert walkable.is_junction(np.array([edge]))[0] == (len(exits) > 2)


@settings(max_examples=20)
@given(seed=st.integers(0, 200))
def test_pieces_are_the_streets_over_the_chosen_cells(walkable, seed):
    """Their length is that of the roads cut with the cells' squares."""
    window = quarter_window()
    mask = np.random.default_rng(seed).uniform(size=window.shape) < 0.3
    pieces = walkable.pieces_within(window, mask)
    row, column = np.nonzero(mask)
    west, south = X0 + column * 4, Y0 + row * 4
    cells = shapely.union_all(shapely.box(west, south, west + 4, south + 4))
    within_m = quarter().geometry.intersection(cells).length.sum()
    assert pieces.length_m.sum() == pytest.approx(within_m, abs=1e-5)
    edge, from_m = pieces.draw(200, np.random.default_rng(seed))
    x_m, y_m, _ = walkable.place(edge // 2 * 2, from_m, np.zeros(200))
    assert mask[window.indices(x_m, y_m)].all()
