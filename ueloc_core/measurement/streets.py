"""The street graph of an area, from the roads of its extract.

The feature table keeps the class and the width of a road and no other tag: every street can be
used both ways, and nothing tells steps from footways. Tunnels, corridors and lifts are left out
of the table already; bridges and passages through buildings are in it.
"""

from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from ueloc_core.grid import Window

StreetGraph = Any
"""A ``networkx.MultiDiGraph``, which is not typed."""

_NOT_WALKABLE = ("motorway",)
_NOT_DRIVABLE = ("path",)


def street_graph(features: gpd.GeoDataFrame, window: Window) -> StreetGraph:
    """Graph of the streets that meet a window, as OSMnx keeps one.

    Its nodes are places where ways share a vertex, cross the end of another, or end. Pieces
    between two vertices that meet the window are kept whole, so that a dead end which the
    window makes lies outside of it. Of areas (pedestrian squares) the outline is kept, which
    joins the ways that end there.

    Parameters
    ----------
    features
        Rows of `FeatureSchema`; those that are no roads are not looked at.
    window
        Grid cells to cover.

    Returns
    -------
    A ``networkx.MultiDiGraph`` with an edge each way. Nodes, numbered from south-west: ``x``,
    ``y`` [m], ``street_count``. Edges: ``osmid`` (negative for relations), ``highway`` (of
    `ROAD_CLASSES`), ``width_m``, ``walkable``, ``drivable``, ``length`` [m], ``geometry``. The
    graph: ``crs``, ``broken_roads`` (how many roads had no usable geometry). Without streets it
    is empty.
    """
    import osmnx as ox  # noqa: PLC0415 - takes seconds, and is needed here alone

    roads = features[features["kind"] == "road"].sort_values("osm_id", kind="stable")
    lines, road = _lines(roads)
    vertices, pieces = _pieces(lines, road, window)
    used = np.unique(pieces[:, :2])
    nodes = gpd.GeoDataFrame(
        {"x": vertices[used, 0], "y": vertices[used, 1]},
        index=pd.Index(used, name="osmid"),
        geometry=gpd.points_from_xy(*vertices[used].T, crs=features.crs),
    )
    attributes = {"crs": features.crs, "broken_roads": len(roads) - len(np.unique(road))}
    edges = _edges(roads, vertices, pieces)
    graph = ox.graph_from_gdfs(nodes, edges, graph_attrs=attributes)
    # nodes where one way follows another stay, so that an edge has one class and one width
    graph = ox.simplify_graph(graph, edge_attrs_differ=["osmid"], remove_rings=False)
    for node, count in ox.stats.count_streets_per_node(graph).items():
        graph.nodes[node]["street_count"] = count
    return graph


def _edges(
    roads: gpd.GeoDataFrame, vertices: NDArray[np.float64], pieces: NDArray[np.int64]
) -> gpd.GeoDataFrame:
    """Pieces of roads, both ways, with the attributes of the graph's edges."""
    shapes = shapely.linestrings(vertices[pieces[:, :2]])
    classes = roads["road_class"].to_numpy()[pieces[:, 2]]
    ways = np.array([_osm_number(name) for name in roads["osm_id"]], dtype=np.int64)
    areal = roads.geom_type.isin(["Polygon", "MultiPolygon"]).to_numpy()
    there = gpd.GeoDataFrame(
        {
            "osmid": ways[pieces[:, 2]],
            "highway": classes,
            "width_m": roads["width_m"].to_numpy(float)[pieces[:, 2]],
            "walkable": ~np.isin(classes, _NOT_WALKABLE),
            "drivable": ~np.isin(classes, _NOT_DRIVABLE) & ~areal[pieces[:, 2]],
            "length": shapely.length(shapes),
            "u": pieces[:, 0],
            "v": pieces[:, 1],
        },
        geometry=shapes,
        crs=roads.crs,
    )
    back = there.assign(u=there["v"], v=there["u"]).set_geometry(there.geometry.reverse())
    edges = pd.concat([there, back], ignore_index=True).sort_values(["u", "v", "osmid"])
    edges["key"] = edges.groupby(["u", "v"]).cumcount()
    return edges.set_index(["u", "v", "key"])


def _lines(roads: gpd.GeoDataFrame) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Usable lines of roads, and the row of the road of each."""
    shapes = roads.geometry.to_numpy()
    dimension = shapely.get_dimensions(shapes)
    shapes = np.where(dimension == 2, shapely.boundary(shapes), shapes)
    parts, road = shapely.get_parts(shapes, return_index=True)
    parts, deeper = shapely.get_parts(parts, return_index=True)  # of what is in a collection
    road = road[deeper]
    usable = (
        np.isin(shapely.get_type_id(parts), [1, 2])  # lines and rings
        & np.isfinite(shapely.bounds(parts)).all(axis=1)
        & (shapely.length(parts) > 0)
    )
    return parts[usable], road[usable]


def _pieces(
    lines: NDArray[Any], road: NDArray[np.int64], window: Window
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Vertices, shape (vertex, 2) [m], and (from, to, road) of the pieces that meet a window."""
    xy, line = shapely.get_coordinates(lines, return_index=True)
    vertices, number = np.unique(xy, axis=0, return_inverse=True)
    number = number.reshape(-1)
    follows = (line[1:] == line[:-1]) & (number[1:] != number[:-1])
    pieces = np.column_stack([number[:-1], number[1:], road[line[:-1]]])[follows]
    ordered = np.column_stack([pieces[:, :2].min(axis=1), pieces[:, :2].max(axis=1), pieces[:, 2]])
    ordered = np.unique(ordered, axis=0)
    shapes = shapely.linestrings(vertices[ordered[:, :2]])
    return vertices, ordered[shapely.intersects(shapes, shapely.box(*window.bounds_m))]


def _osm_number(osm_id: str) -> int:
    element, number = osm_id.split("/")
    return int(number) if element == "way" else -int(number)
