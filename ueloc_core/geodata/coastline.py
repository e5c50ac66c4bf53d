"""The sea, from coastlines: ways with land on their left and water on their right."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely

from ueloc_core.geodata.buildings import clean_polygons

_BESIDE_M = 0.5
_SAMPLE_M = 20.0
_ON_EDGE_M = 1e-3
_LARGEST_GAP_M = 400.0
_BUILT_SHARE = 0.01
_SURE = 0.9  # share of the coast around a polygon that must have it on its right


def sea_polygons(
    lines: Sequence[Any],
    boxes: Sequence[Any],
    buildings: Sequence[Any],
    counts: Counter[str],
) -> Any:
    """Polygons of the sea within a box, None where the coastlines do not enclose any.

    The coastlines are closed along the edge of the first box that they cross from edge to edge.
    Where none is, gaps of up to 400 m between an end and the next start (or the edge) of the
    last box are bridged by a straight line and counted as ``coastline_gaps_bridged``: extracts
    lose single ways of a coast. What still hangs free counts as ``coastlines_unclosed``, and
    there is no sea.

    Parameters
    ----------
    lines
        Coastlines in the city's CRS [m], in the direction of their ways.
    boxes
        Polygons [m] to fill, the largest first.
    buildings
        Footprints [m]. A polygon of which more than 1% is built upon is land whose coast the
        extract has lost: it is left out and counted as ``seas_with_buildings_dropped``.
    counts
        Counts that this call adds to.
    """
    if not len(lines):
        return None
    for box in boxes:
        coasts = _clipped(lines, box)
        if len(coasts) and not any(_hanging(coasts, box)):
            return _sea(coasts, box, buildings, counts)
    coasts = _clipped(lines, boxes[-1])
    ends, starts = _hanging(coasts, boxes[-1])
    bridges, open_ends = _bridges(ends, starts, boxes[-1].exterior)
    if open_ends:
        counts["coastlines_unclosed"] += open_ends
        return None
    if not len(coasts):
        return None
    counts["coastline_gaps_bridged"] += len(bridges)
    inside = [bridge.intersection(boxes[-1]) for bridge in bridges]
    coasts = np.array([*coasts, *inside], dtype=object)
    return _sea(coasts, boxes[-1], buildings, counts)


def _clipped(lines: Sequence[Any], box: Any) -> Any:
    merged = shapely.line_merge(shapely.union_all(np.asarray(lines, dtype=object)), directed=True)
    pieces = [
        piece
        for line in shapely.get_parts(merged)
        for piece in shapely.get_parts(line.intersection(box))
        if piece.geom_type == "LineString" and piece.length > 0
    ]
    merged = shapely.line_merge(shapely.MultiLineString(pieces), directed=True)
    return shapely.get_parts(merged)


def _hanging(coasts: Any, box: Any) -> tuple[list[Any], list[Any]]:
    """Ends and starts of open coastlines that do not lie on the edge of a box."""
    ends, starts = (
        [shapely.Point(coast.coords[index]) for coast in coasts if not coast.is_closed]
        for index in (-1, 0)
    )
    edge = box.exterior
    return (
        [point for point in ends if edge.distance(point) > _ON_EDGE_M],
        [point for point in starts if edge.distance(point) > _ON_EDGE_M],
    )


def _bridges(ends: list[Any], starts: list[Any], edge: Any) -> tuple[list[Any], int]:
    """Lines from each end to the next start or to the edge, and how many stay without one."""
    gaps = sorted(
        (end.distance(start), i, j) for i, end in enumerate(ends) for j, start in enumerate(starts)
    )
    found = []
    used_ends: set[int] = set()
    used_starts: set[int] = set()
    for gap_m, i, j in gaps:
        nearer_edge = edge.distance(ends[i]) < gap_m and edge.distance(starts[j]) < gap_m
        if gap_m > _LARGEST_GAP_M or i in used_ends or j in used_starts or nearer_edge:
            continue
        used_ends.add(i)
        used_starts.add(j)
        found.append(shapely.LineString([ends[i], starts[j]]))
    bridged = len(found)  # each of these has two ends
    for points, used, is_end in ((ends, used_ends, True), (starts, used_starts, False)):
        for index, point in enumerate(points):
            if index in used or edge.distance(point) > _LARGEST_GAP_M:
                continue
            away = shapely.shortest_line(point, edge)
            # a little beyond the edge, so that the cut meets it
            (x0, y0), (x1, y1) = away.coords
            beyond = (x1 + (x1 - x0) * 1e-3, y1 + (y1 - y0) * 1e-3)
            found.append(shapely.LineString([(x0, y0), beyond] if is_end else [beyond, (x0, y0)]))
    return found, len(ends) + len(starts) - bridged - len(found)


def _sea(coasts: Any, box: Any, buildings: Sequence[Any], counts: Counter[str]) -> Any:
    # snapped onto the edge, so that cut ends meet it exactly
    edge = shapely.union_all([box.exterior, *coasts], grid_size=1e-3)
    faces = shapely.get_parts(shapely.polygonize(shapely.get_parts(edge)))
    left, right = _sides(coasts)
    tree = shapely.STRtree(np.asarray(buildings, dtype=object))
    kept = []
    for face in faces:
        shapely.prepare(face)
        land, sea = (int(shapely.contains(face, points).sum()) for points in (left, right))
        if not sea or sea < _SURE * (land + sea):
            continue
        built_m2 = float(
            shapely.area(shapely.intersection(tree.geometries[tree.query(face)], face)).sum()
        )
        if built_m2 > _BUILT_SHARE * face.area:
            counts["seas_with_buildings_dropped"] += 1
        else:
            kept.append(face)
    return clean_polygons(shapely.union_all(kept)) if kept else None


def _sides(coasts: Any) -> tuple[Any, Any]:
    """Points a little to the left and to the right of the coast."""
    starts, ends = [], []
    for coast in coasts:
        points = shapely.get_coordinates(shapely.segmentize(coast, _SAMPLE_M))
        starts.append(points[:-1])
        ends.append(points[1:])
    first, last = np.concatenate(starts), np.concatenate(ends)
    along = last - first
    length = np.hypot(along[:, 0], along[:, 1])
    first, along, length = (array[length > 0] for array in (first, along, length))
    normal = np.column_stack([-along[:, 1], along[:, 0]]) / length[:, None] * _BESIDE_M
    middle = first + along / 2
    return shapely.points(middle + normal), shapely.points(middle - normal)
