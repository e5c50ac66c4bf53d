"""Closed triangle meshes of buildings, from footprints whose overlaps are resolved."""

from collections import Counter
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
import trimesh
from numpy.typing import NDArray

from ueloc_core.geodata.buildings import clean_polygons
from ueloc_core.grid import Window

_PINCH_M = 0.01
_TOUCH_M2 = 1e-3


def resolve_overlaps(buildings: gpd.GeoDataFrame, counts: Counter[str]) -> gpd.GeoDataFrame:
    """Cut footprints so that no two buildings fill the same space.

    Of two that overlap in plan and in height, the higher keeps the overlap (then the larger,
    then the one whose osm_id comes first). Buildings above each other are left alone. Counted
    are ``overlaps_cut``, ``overlapped_buildings_dropped`` and ``slivers_dropped``.

    Parameters
    ----------
    buildings
        Rows of `FeatureSchema` that are buildings.
    counts
        Counts that this call adds to.
    """
    keys = zip(-buildings["height_m"], -buildings.area, buildings["osm_id"], strict=True)
    rank = np.empty(len(buildings), dtype=np.int64)
    for place, (_, index) in enumerate(sorted(zip(keys, range(len(buildings)), strict=True))):
        rank[index] = place
    shapes = list(buildings.geometry)
    top, base = buildings["height_m"].to_numpy(), buildings["min_height_m"].to_numpy()
    left, right = buildings.sindex.query(buildings.geometry, predicate="intersects")
    over: dict[int, list[int]] = {}
    for low, high in zip(left.tolist(), right.tolist(), strict=True):
        if rank[high] < rank[low] and base[high] < top[low] and base[low] < top[high]:
            over.setdefault(low, []).append(high)
    for low in sorted(over, key=lambda index: rank[index]):
        cover = [shapes[high] for high in over[low] if shapes[high] is not None]
        shared = shapely.union_all(cover)
        if shared.intersection(shapes[low]).area <= _TOUCH_M2:
            continue
        counts["overlaps_cut"] += 1
        rest = shapes[low].difference(shared)
        shapes[low] = clean_polygons(rest)
        if shapes[low] is None:
            counts["overlapped_buildings_dropped"] += 1
        else:
            counts["slivers_dropped"] += _count(rest) - _count(shapes[low])
    resolved = buildings.set_geometry(gpd.GeoSeries(shapes, buildings.index, crs=buildings.crs))
    return resolved[np.array([shape is not None for shape in shapes], dtype=bool)]


def _count(geometry: Any) -> int:
    return len(shapely.get_parts(geometry))


def extrude(
    footprint: Any, base_m: float, top_m: float, origin_m: tuple[float, float]
) -> trimesh.Trimesh | None:
    """Closed mesh of a building, its normals pointing outwards.

    Parameters
    ----------
    footprint
        Polygon (courtyards are holes) or multipolygon, in the city's CRS [m].
    base_m, top_m
        Underside and top above ground [m].
    origin_m
        What becomes (0, 0) [m], so that single precision keeps millimetres.

    Returns
    -------
    The mesh, or None where the footprint cannot be closed. A footprint that touches itself at
    a point is shrunk by a centimetre, since the edge above that point would have four faces.
    """
    mesh = _extruded(footprint, base_m, top_m, origin_m)
    if not is_closed(mesh):
        shrunk = clean_polygons(footprint.buffer(-_PINCH_M, join_style="mitre"))
        mesh = None if shrunk is None else _extruded(shrunk, base_m, top_m, origin_m)
    return mesh if mesh is not None and is_closed(mesh) else None


def _extruded(
    footprint: Any, base_m: float, top_m: float, origin_m: tuple[float, float]
) -> trimesh.Trimesh:
    local = shapely.transform(footprint, lambda xy: _single(xy - np.asarray(origin_m)))
    base, top = (float(np.float32(height)) for height in (base_m, top_m))
    parts = [
        trimesh.creation.extrude_polygon(polygon, top - base, engine="earcut")
        for polygon in shapely.get_parts(local)
    ]
    mesh = trimesh.util.concatenate(parts)
    mesh.apply_translation((0.0, 0.0, base))
    mesh.merge_vertices()
    return mesh


def _single(coordinates: NDArray[np.float64]) -> NDArray[np.float64]:
    return coordinates.astype(np.float32).astype(np.float64)


def is_closed(mesh: trimesh.Trimesh) -> bool:
    """Whether a mesh is watertight, consistently oriented, and its normals point outwards."""
    return bool(mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0)


def ground_plane(window: Window, origin_m: tuple[float, float], margin_m: float) -> trimesh.Trimesh:
    """Flat ground at height 0 under a window and a margin [m] around it, facing upwards."""
    x0, y0, x1, y1 = shapely.box(*window.bounds_m).buffer(margin_m).bounds
    corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]) - np.asarray(origin_m)
    vertices = np.column_stack([corners, np.zeros(4)])
    return trimesh.Trimesh(vertices, [(0, 1, 2), (0, 2, 3)], process=False)
