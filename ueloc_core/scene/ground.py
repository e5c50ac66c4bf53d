"""The ground of a scene: the terrain's triangles, split by what they are made of."""

import numpy as np
import trimesh
from numpy.typing import NDArray

from ueloc_core.errors import SceneError
from ueloc_core.geodata.schemas import GROUND_MATERIALS
from ueloc_core.geodata.terrain import Terrain


def ground_meshes(
    terrain: Terrain, classes: NDArray[np.uint8], origin_m: tuple[float, float, float]
) -> dict[str, trimesh.Trimesh]:
    """Meshes of the ground, facing upwards; together they cover the terrain without gaps.

    Parameters
    ----------
    terrain
        The ground under the scene.
    classes
        Index into `GROUND_MATERIALS` of each lattice square, shape (rows, columns).
    origin_m
        What becomes (0, 0, 0) [m].

    Returns
    -------
    Mesh by name of the material, in the order of `GROUND_MATERIALS`; vertices lie on the
    lattice, so neighbours of different materials share their border.
    """
    rows, columns = (size - 1 for size in terrain.heights_m.shape)
    if classes.shape != (rows, columns):
        raise SceneError(
            f"ground classes of shape {classes.shape} for {rows} x {columns} lattice squares"
        )
    x = (terrain.column + np.arange(columns + 1)) * terrain.step_m - origin_m[0]
    y = (terrain.row + np.arange(rows + 1)) * terrain.step_m - origin_m[1]
    heights = terrain.heights_m - origin_m[2]
    vertices = np.stack([*np.meshgrid(x, y), heights], axis=-1).reshape(-1, 3)
    corner = (np.arange(rows)[:, None] * (columns + 1) + np.arange(columns)[None]).ravel()
    across = corner + columns + 2
    right = np.stack([corner, corner + 1, across], axis=-1)
    left = np.stack([corner, across, across - 1], axis=-1)
    meshes = {}
    for code in np.unique(classes):
        chosen = classes.ravel() == code
        faces = np.stack([right[chosen], left[chosen]], axis=1).reshape(-1, 3)
        used, index = np.unique(faces, return_inverse=True)
        mesh = trimesh.Trimesh(vertices[used], index.reshape(-1, 3), process=False)
        meshes[GROUND_MATERIALS[code]] = mesh
    return meshes
