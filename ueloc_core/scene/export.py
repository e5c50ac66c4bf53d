"""A scene for other programs: GLB for viewers, GeoTIFF for geographic information systems."""

import json
from pathlib import Path

import numpy as np
import trimesh
from trimesh.visual.material import PBRMaterial

from ueloc_core.errors import SceneError
from ueloc_core.geodata.context import load_context
from ueloc_core.geodata.georeference import geotiff_bytes, replace_file

_COLOURS = {  # red, green, blue of a material by role and name
    "walls-concrete": (189, 183, 172),
    "walls-brick": (170, 96, 72),
    "walls-glass": (140, 180, 200),
    "walls-wood": (160, 120, 80),
    "walls-metal": (150, 155, 160),
    "walls-marble": (215, 208, 190),
    "roofs-concrete": (135, 130, 125),
    "roofs-brick": (150, 70, 50),
    "roofs-glass": (150, 195, 215),
    "roofs-wood": (120, 90, 60),
    "roofs-metal": (110, 135, 125),
    "roofs-marble": (95, 100, 110),
    "ground-dry_ground": (150, 170, 120),
    "ground-wet_ground": (110, 140, 100),
    "ground-paved": (120, 120, 122),
    "ground-water": (95, 140, 180),
    "ground-sea": (70, 115, 160),
}
_GREY = (160, 160, 160)
_Z_UP_TO_Y_UP = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]], dtype=float)


def export_glb(scene_folder: Path, target: Path) -> Path:
    """Write a scene as binary glTF: metres, y up, a node for each material of walls, roofs, ground.

    Parameters
    ----------
    scene_folder
        Where `build_scene` wrote.
    target
        The ``.glb`` file; one that is there is replaced when the new one is whole.

    Raises
    ------
    SceneError
        If the scene is missing or broken.
    """
    paths = sorted((scene_folder / "meshes").glob("*.ply"))
    if not paths:
        raise SceneError(
            "no meshes of a scene", where=str(scene_folder), remedy="Materialize the scene."
        )
    whole = trimesh.Scene()
    for path in paths:
        try:
            mesh = trimesh.load_mesh(path, process=False)
        except (OSError, ValueError, LookupError) as error:
            raise SceneError(
                f"the mesh cannot be read ({error})",
                where=str(path),
                remedy="Materialize the scene again.",
            ) from error
        mesh.apply_transform(_Z_UP_TO_Y_UP)
        mesh.unmerge_vertices()  # flat faces, as buildings have
        colour = [*_COLOURS.get(path.stem, _GREY), 255]
        material = PBRMaterial(
            name=path.stem, baseColorFactor=colour, metallicFactor=0.0, roughnessFactor=0.9
        )
        mesh.visual = trimesh.visual.TextureVisuals(material=material)
        whole.add_geometry(mesh, node_name=path.stem, geom_name=path.stem)
    place = json.loads((scene_folder / "scene.json").read_text(encoding="utf-8"))
    whole.metadata.update({key: place[key] for key in ("crs", "origin_m", "attribution")})
    replace_file(target, whole.export(file_type="glb"))
    return target


def export_geotiffs(scene_folder: Path, target: Path) -> list[Path]:
    """Write each context raster of a scene as ``<layer>.tif``: north up, deflated, with its CRS.

    Parameters
    ----------
    scene_folder
        Where `build_scene` wrote.
    target
        Folder to write to; it is made, and files that are there are replaced.

    Returns
    -------
    The files.

    Raises
    ------
    GeodataError
        If the rasters are missing or broken.
    """
    context = load_context(scene_folder)
    target.mkdir(parents=True, exist_ok=True)
    files = []
    for name, layer in context.data_vars.items():
        path = target / f"{name}.tif"
        replace_file(path, geotiff_bytes(layer))
        files.append(path)
    return files
