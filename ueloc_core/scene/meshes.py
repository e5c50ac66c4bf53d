"""Closed triangle meshes of buildings: bottom, walls and roof over one triangulation in plan.

The roof's triangles, moved down to the base, are the bottom too, and a wall stands under each
edge of their border. So a mesh is closed by its making, with courtyards and roofs of any shape.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
import trimesh
from numpy.typing import NDArray

from ueloc_core.scene.roofs import Roof, RoofSurface, flattened, roof_surface

FASCIA_M = 0.3
"""The top of the walls that is made of the roof's material [m].

A diffracting edge lies between two faces of one mesh (in Sionna too), so the seam of the two
materials must not lie on the roof's edge.
"""

_FASCIA_SHARE = 0.25
_LEAST_WALL_M = 0.05
_PINCH_M = 0.01
_AREA_SLACK = 1e-3


@dataclass(frozen=True)
class BuildingMesh:
    """Surface of a building.

    Attributes
    ----------
    vertices_m
        Vertices [m], shape (vertex, 3).
    faces
        Vertices of each triangle, counter-clockwise from outside, shape (triangle, 3).
    is_roof
        Whether a triangle is of the roof's material, shape (triangle,).
    """

    vertices_m: NDArray[np.float64]
    faces: NDArray[np.int64]
    is_roof: NDArray[np.bool_]

    @property
    def volume_m3(self) -> float:
        """Enclosed volume [m^3]."""
        centred = self.vertices_m - self.vertices_m.mean(axis=0)
        a, b, c = (centred[self.faces[:, k]] for k in range(3))
        return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)

    @property
    def is_closed(self) -> bool:
        """Whether every edge has one triangle on each side, and normals point outwards."""
        return edges_pair(self.faces) and self.volume_m3 > 0

    def to_trimesh(self) -> trimesh.Trimesh:
        """The same surface as a trimesh object."""
        return trimesh.Trimesh(self.vertices_m, self.faces, process=False)


def edges_pair(faces: NDArray[np.int64]) -> bool:
    """Whether every directed edge of triangles occurs once, and its reverse once."""
    edges = np.vstack([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    size = int(edges.max()) + 1 if len(edges) else 0
    ahead = np.sort(edges[:, 0] * size + edges[:, 1])
    back = np.sort(edges[:, 1] * size + edges[:, 0])
    return bool(len(ahead) and (np.diff(ahead) > 0).all() and np.array_equal(ahead, back))


def is_closed(mesh: trimesh.Trimesh) -> bool:
    """Whether a mesh is watertight, consistently oriented, and its normals point outwards."""
    return bool(mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0)


def building_mesh(
    footprint: Any,
    *,
    base_m: float,
    top_m: float,
    roof: Roof,
    origin_m: tuple[float, float, float],
    counts: Counter[str],
) -> BuildingMesh | None:
    """Closed surface of a building.

    Parameters
    ----------
    footprint
        Polygon (courtyards are holes) or multipolygon in the city's CRS [m].
    base_m, top_m
        Elevations of its underside and of the highest point of its roof [m].
    roof
        Shape of the roof.
    origin_m
        What becomes (0, 0, 0) [m], so that single precision keeps millimetres.
    counts
        Counts that this call adds to: ``roofs_flattened`` (a pitched roof that cannot be made
        over this footprint: it is flat at half its height), ``pinched_footprints_shrunk`` (a
        footprint that touches itself at a point loses a centimetre all around, since the edge
        above that point would have four faces).

    Returns
    -------
    The surface, or None where the footprint cannot be closed. Its shape does not depend on the
    origin.
    """
    roof = Roof(roof.shape, min(roof.height_m, top_m - base_m - _LEAST_WALL_M), roof.direction_deg)
    surface = roof_surface(footprint, roof, top_m, counts)
    level = flattened(footprint, roof, top_m)
    mesh = _closed(footprint, base_m, surface, origin_m)
    if mesh is None:
        shrunk = _shrunk(footprint)
        mesh = None if shrunk is None else _closed(shrunk, base_m, surface, origin_m)
        counts["pinched_footprints_shrunk"] += mesh is not None
        if mesh is None and len(surface.planes) > 1:
            shapes = [shape for shape in (footprint, shrunk) if shape is not None]
            tries = (_closed(shape, base_m, level, origin_m) for shape in shapes)
            mesh = next((found for found in tries if found is not None), None)
            counts["roofs_flattened"] += mesh is not None
    return mesh


def _closed(
    footprint: Any, base_m: float, surface: RoofSurface, origin_m: tuple[float, float, float]
) -> BuildingMesh | None:
    """The mesh of a footprint under a roof, None where it does not close."""
    cells = surface.cells(footprint)
    area_m2 = sum(cell.area for cell in cells)
    if abs(area_m2 - footprint.area) > _AREA_SLACK * footprint.area + 0.01:
        return None
    parts = [
        part
        for polygon in _pieces(footprint, cells)
        if (part := _prism(polygon, base_m, surface, origin_m)) is not None
    ]
    if not parts:
        return None
    starts = np.cumsum([0, *(len(part.vertices_m) for part in parts)])
    mesh = BuildingMesh(
        np.vstack([part.vertices_m for part in parts]),
        np.vstack([part.faces + start for part, start in zip(parts, starts[:-1], strict=True)]),
        np.concatenate([part.is_roof for part in parts]),
    )
    return mesh if mesh.is_closed else None


def _pieces(footprint: Any, cells: list[Any]) -> list[list[Any]]:
    """The cells of each polygon of a footprint: polygons that touch share no vertex."""
    polygons = shapely.get_parts(footprint)
    if len(polygons) == 1:
        return [cells]
    points = [cell.representative_point() for cell in cells]
    return [
        [cell for cell, point in zip(cells, points, strict=True) if polygon.contains(point)]
        for polygon in polygons
    ]


def _prism(
    cells: list[Any], base_m: float, surface: RoofSurface, origin_m: tuple[float, float, float]
) -> BuildingMesh | None:
    """Bottom, walls and roof over cells that share the vertices of their borders."""
    if not cells:
        return None
    corners = np.vstack([_triangles(cell) for cell in cells])
    plan, index = np.unique(corners.reshape(-1, 2), axis=0, return_inverse=True)
    faces = index.reshape(-1, 3).astype(np.int64)
    top = surface.height_at(plan)
    edges = np.vstack([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    ahead, back = (edges @ weight for weight in ([len(plan), 1], [1, len(plan)]))
    border = edges[~np.isin(ahead, back)]
    count = len(plan)
    fascia = np.minimum(FASCIA_M, _FASCIA_SHARE * (top - base_m))
    levels = (np.full(count, base_m), top - fascia, top)  # base, seam, roof
    vertices = np.vstack([np.column_stack([plan, level]) for level in levels])
    walls = [
        np.vstack(
            [
                np.column_stack([low[:, 0], low[:, 1], high[:, 1]]),
                np.column_stack([low[:, 0], high[:, 1], high[:, 0]]),
            ]
        )
        for low, high in (
            (border, border + count),
            (border + count, border + 2 * count),
        )
    ]
    all_faces = np.vstack([faces[:, ::-1], walls[0], walls[1], faces + 2 * count])
    lengths = [len(faces), len(walls[0]), len(walls[1]), len(faces)]
    is_roof = np.repeat([False, False, True, True], lengths)
    used, compact = np.unique(all_faces, return_inverse=True)
    # rounded, so that one building has the same bytes in the frames of all tiles
    local = np.round(vertices[used] - np.asarray(origin_m), 6)
    return BuildingMesh(local, compact.reshape(-1, 3).astype(np.int64), is_roof)


def _triangles(cell: Any) -> NDArray[np.float64]:
    """Triangles of a polygon, counter-clockwise, with all its vertices, shape (triangle, 3, 2)."""
    found = shapely.get_parts(shapely.constrained_delaunay_triangles(cell))
    rings = shapely.get_coordinates(found).reshape(-1, 4, 2)[:, :3]
    a, b = rings[:, 1] - rings[:, 0], rings[:, 2] - rings[:, 0]
    turned = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0] < 0
    rings[turned] = rings[turned][:, ::-1]
    return np.asarray(rings)


def _shrunk(footprint: Any) -> Any:
    """A footprint a centimetre smaller all around, None where nothing is left."""
    inner = shapely.set_precision(footprint.buffer(-_PINCH_M, join_style="mitre"), 0.001)
    return None if inner.is_empty or inner.area == 0 else inner
