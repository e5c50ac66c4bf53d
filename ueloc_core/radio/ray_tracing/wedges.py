"""Edges of buildings that bend rays: found in the meshes once a scene, seen from a mast."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ueloc_core.radio.ray_tracing.engine import Mesh, RayScene
from ueloc_core.radio.ray_tracing.points import seen_from

OFFSET_M = 0.05
"""Visibility of an edge is tested this far outside of it, so that its own faces do not hide it."""
_LEAST_FOLD_DEG = 5.0  # faces that are flatter than this against each other have no edge
_LEAST_LENGTH_M = 0.05
_PIECE_M = 2.0  # an edge is seen from the mast where the middle of such a piece is
_FRONT_M = 1e-3


@dataclass(frozen=True)
class Wedges:
    """Convex edges between two faces, n of them.

    Attributes
    ----------
    start_m
        One end, shape (n, 3).
    along
        Unit vector to the other end, shape (n, 3).
    length_m
        Length, shape (n,).
    normal0, normal_n
        Outward unit normals of both faces, shape (n, 3).
    shape
        Position in the loaded scene of the shape that the faces belong to, shape (n,).
    """

    start_m: NDArray[np.float64]
    along: NDArray[np.float64]
    length_m: NDArray[np.float64]
    normal0: NDArray[np.float64]
    normal_n: NDArray[np.float64]
    shape: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.length_m)

    def __getitem__(self, chosen: Any) -> "Wedges":
        return Wedges(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))

    @property
    def outward(self) -> NDArray[np.float64]:
        """Unit vectors away from both faces, shape (n, 3)."""
        mean = self.normal0 + self.normal_n
        return np.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True))


def wedges_of(scene: RayScene) -> Wedges:
    """All convex edges of a scene between two faces of one shape."""
    nothing = Mesh("nothing", 0, np.zeros((0, 3)), np.zeros((0, 3), dtype=np.int64))
    parts = [_of_mesh(mesh) for mesh in scene.meshes or [nothing]]
    return Wedges(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in Wedges.__dataclass_fields__
        )
    )


def _of_mesh(mesh: Mesh) -> Wedges:
    vertices, faces = mesh.vertices_m, mesh.faces
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    middles = corners.mean(axis=1)
    ends = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    owner = np.tile(np.arange(len(faces)), 3)
    low, high = np.sort(ends, axis=1).T
    key = low * (len(vertices) + 1) + high
    order = np.argsort(key, kind="stable")
    _, first, count = np.unique(key[order], return_index=True, return_counts=True)
    paired = first[count == 2]
    one, other = order[paired], order[paired + 1]
    start, end = vertices[ends[one, 0]], vertices[ends[one, 1]]
    normal0, normal_n = normals[owner[one]], normals[owner[other]]
    length = np.linalg.norm(end - start, axis=1)
    convex = _dot(normal0, middles[owner[other]] - start) < -_FRONT_M
    folded = _dot(normal0, normal_n) < math.cos(math.radians(_LEAST_FOLD_DEG))
    kept = convex & folded & (length > _LEAST_LENGTH_M)
    return Wedges(
        start_m=start[kept],
        along=(end - start)[kept] / length[kept, None],
        length_m=length[kept],
        normal0=normal0[kept],
        normal_n=normal_n[kept],
        shape=np.full(int(kept.sum()), mesh.index),
    )


def seen_wedges(
    scene: RayScene, wedges: Wedges, mast_m: tuple[float, float, float], within_m: float
) -> Wedges:
    """Edges that cast a shadow from a mast (`facing`), of which some part is seen from it.

    Parameters
    ----------
    scene
        The scene.
    wedges
        All edges.
    mast_m
        (x, y, z) of the antenna [m].
    within_m
        Greatest distance in plan [m].
    """
    middle = wedges.start_m + wedges.along * (wedges.length_m / 2)[:, None]
    away = middle - np.asarray(mast_m)
    turned = facing(wedges[np.hypot(away[:, 0], away[:, 1]) < within_m + wedges.length_m], mast_m)
    return turned[_seen(scene, turned, mast_m)]


def facing(wedges: Wedges, mast_m: tuple[float, float, float]) -> Wedges:
    """Edges with one face lit by a mast and one in the dark, turned so that face 0 is the lit one.

    The edge's direction is turned so that the cross product of the lit face's normal and the
    direction points along that face, away from the edge.
    """
    mast = np.asarray(mast_m)
    lit0 = _dot(mast - wedges.start_m, wedges.normal0) > _FRONT_M
    lit_n = _dot(mast - wedges.start_m, wedges.normal_n) > _FRONT_M
    chosen = lit0 != lit_n
    wedges, lit0 = wedges[chosen], lit0[chosen][:, None]
    normal0 = np.where(lit0, wedges.normal0, wedges.normal_n)
    normal_n = np.where(lit0, wedges.normal_n, wedges.normal0)
    against = _dot(np.cross(normal0, wedges.along), normal_n) > 0
    end = wedges.start_m + wedges.along * wedges.length_m[:, None]
    return Wedges(
        start_m=np.where(against[:, None], end, wedges.start_m),
        along=np.where(against[:, None], -wedges.along, wedges.along),
        length_m=wedges.length_m,
        normal0=normal0,
        normal_n=normal_n,
        shape=wedges.shape,
    )


def _seen(scene: RayScene, wedges: Wedges, mast_m: tuple[float, float, float]) -> NDArray[np.bool_]:
    """Whether the middle of some piece of each edge is seen from the mast."""
    pieces = np.maximum(1, np.ceil(wedges.length_m / _PIECE_M).astype(np.int64))
    edge = np.repeat(np.arange(len(wedges)), pieces)
    number = np.arange(len(edge)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    along_m = wedges.length_m[edge] * (number + 0.5) / pieces[edge]
    places = wedges.start_m[edge] + wedges.along[edge] * along_m[:, None]
    lit = seen_from(scene, mast_m, places + OFFSET_M * wedges.outward[edge])
    return np.bincount(edge[lit], minlength=len(wedges)) > 0


def _dot(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.einsum("ij,ij->i", a, b))
