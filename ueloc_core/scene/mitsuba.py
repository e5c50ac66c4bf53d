"""The scene of a tile and its halo: Mitsuba XML and PLY meshes that Sionna RT loads.

Coordinates are local: (0, 0) is the lower-left corner of the tile's own window and z = 0 lies at
or below the lowest ground, so that single precision keeps millimetres; ``scene.json`` says where
that is. There is one mesh for each material of walls, roofs and ground; ``buildings.parquet``
says which of its triangles are whose. Only files are written here, so neither Mitsuba nor Sionna
is needed.
"""

import io
import json
import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
import trimesh

from ueloc_core.city import City
from ueloc_core.errors import SceneError
from ueloc_core.geodata.context import build_context, ground_classes, write_context
from ueloc_core.geodata.osm import ATTRIBUTION
from ueloc_core.geodata.schemas import BUILDING_KINDS, SceneBuildingSchema
from ueloc_core.geodata.terrain import Terrain, save_terrain
from ueloc_core.grid import Tile, Window
from ueloc_core.scene.ground import ground_meshes
from ueloc_core.scene.materials import Material, material_at
from ueloc_core.scene.meshes import BuildingMesh, building_mesh
from ueloc_core.scene.preview import write_preview
from ueloc_core.scene.roofs import Roof

if TYPE_CHECKING:
    from numpy.typing import NDArray

CODE_VERSION = "3"

_BUILDING_COLUMNS = (
    *("osm_id", "building_id", "kind", "tile", "ground_m", "height_m", "height_source"),
    *("height_sigma_m", "min_height_m", "material", "roof_shape", "roof_height_m"),
    *("roof_direction_deg", "roof_material", "wall_mesh", "wall_first", "wall_faces"),
    *("roof_mesh", "roof_first", "roof_faces", "area_m2", "volume_m3", "geometry"),
)

Origin = tuple[float, float, float]


def build_scene(
    city: City, tile: Tile, features: gpd.GeoDataFrame, terrain: Terrain, out: Path
) -> dict[str, Any]:
    """Build the scene of a tile and its halo.

    Writes ``scene.xml``, ``scene.json`` (origin and CRS), ``meshes/*.ply`` (walls, roofs and
    ground by material), ``terrain.zarr``, ``context.zarr``, ``buildings.parquet`` and
    ``preview.png``.

    Parameters
    ----------
    city, tile
        What to build.
    features
        Rows of `FeatureSchema` that meet the scene's window; others are left out.
    terrain
        The ground, at least under `City.scene_ground`.
    out
        Empty folder.

    Returns
    -------
    Counts of buildings, triangles, heights by source, materials, roof shapes and repairs, the
    share of buildings whose surface is closed, areas, volumes and sizes.

    Raises
    ------
    SceneError
        If the features are in another CRS, or a material is undefined at the city's frequency.
    GeodataError
        If the terrain does not cover the scene.
    """
    if features.crs != city.crs_code:
        raise SceneError(
            f"features are in {features.crs}, the city in {city.crs_code}",
            where=f"{city.name}/{tile.name}",
            remedy="Materialize osm_extract again.",
        )
    window = city.scene_window(tile)
    terrain = terrain.crop(city.scene_ground(tile))
    features = features[features.intersects(shapely.box(*window.bounds_m))]
    features = features.sort_values("osm_id").reset_index(drop=True)
    counts: Counter[str] = Counter()
    is_building = features["kind"].isin(BUILDING_KINDS)
    x0, y0 = tile.window.bounds_m[:2]
    origin_m = (x0, y0, float(math.floor(terrain.heights_m.min())))
    buildings, surfaces = _surfaces(features[is_building], origin_m, counts)
    meshes, buildings = _by_material(buildings, surfaces)
    ground = ground_meshes(terrain, ground_classes(_lattice(terrain), features), origin_m)
    meshes |= {f"ground-{name}": mesh for name, mesh in ground.items()}
    materials = {
        name: material_at(name.partition("-")[2], city.radio.frequency_hz) for name in meshes
    }
    (out / "meshes").mkdir()
    for name, mesh in meshes.items():
        content = mesh.export(file_type="ply", vertex_normal=False)
        (out / "meshes" / f"{name}.ply").write_bytes(content)
    (out / "scene.xml").write_text(_scene_xml(materials), encoding="utf-8")
    _write_json(out / "scene.json", city, tile, origin_m, terrain)
    save_terrain(terrain, out, city.crs_code)
    SceneBuildingSchema.validate(buildings)
    _write_table(buildings, out / "buildings.parquet")
    shown = gpd.GeoDataFrame(pd.concat([features[~is_building], buildings]), crs=features.crs)
    write_context(build_context(city, window, shown, terrain), out)
    title = f"{city.title or city.name}, {tile.name}"
    write_preview(shown, tile, window, out / "preview.png", title=title, terrain=terrain)
    return {
        **_metadata(buildings, surfaces, materials, counts),
        "ground_materials_m2": {
            name: len(mesh.faces) / 2 * terrain.step_m**2 for name, mesh in ground.items()
        },
        "triangles": sum(len(mesh.faces) for mesh in meshes.values()),
        "ground_lowest_m": float(terrain.heights_m.min()),
        "ground_highest_m": float(terrain.heights_m.max()),
        "mesh_megabytes": sum(f.stat().st_size for f in (out / "meshes").iterdir()) / 1e6,
    }


def _lattice(terrain: Terrain) -> Window:
    """The squares of a terrain's lattice as grid cells."""
    rows, columns = (size - 1 for size in terrain.heights_m.shape)
    return Window(terrain.column, terrain.row, columns, rows, terrain.step_m)


def _surfaces(
    buildings: gpd.GeoDataFrame, origin_m: Origin, counts: Counter[str]
) -> tuple[gpd.GeoDataFrame, list[BuildingMesh]]:
    """Buildings whose surface closes, and the surfaces."""
    found = [
        building_mesh(
            row.geometry,
            base_m=row.ground_m + row.min_height_m,
            top_m=row.ground_m + row.height_m,
            roof=Roof(
                row.roof_shape,
                row.roof_height_m,
                None if math.isnan(row.roof_direction_deg) else row.roof_direction_deg,
            ),
            origin_m=origin_m,
            counts=counts,
        )
        for row in buildings.itertuples()
    ]
    closed = np.array([surface is not None for surface in found], dtype=bool)
    counts["unclosed_buildings_dropped"] += int((~closed).sum())
    kept = [surface for surface in found if surface is not None]
    buildings = buildings[closed].reset_index(drop=True)
    return (
        buildings.assign(
            area_m2=buildings.area.round(3),
            volume_m3=np.array([round(s.volume_m3, 3) for s in kept], dtype=float),
        ),
        kept,
    )


def _by_material(
    buildings: gpd.GeoDataFrame, surfaces: list[BuildingMesh]
) -> tuple[dict[str, trimesh.Trimesh], gpd.GeoDataFrame]:
    """One mesh of all walls, and of all roofs, of each material; and whose triangles are where."""
    vertices: dict[str, list[NDArray[np.float64]]] = {}
    faces: dict[str, list[NDArray[np.int64]]] = {}
    places: dict[str, list[Any]] = {}
    for role, column in (("wall", "material"), ("roof", "roof_material")):
        sizes: Counter[str] = Counter()
        totals: Counter[str] = Counter()
        for surface, material in zip(surfaces, buildings[column], strict=True):
            name = f"{role}s-{material}"
            chosen = surface.faces[surface.is_roof == (role == "roof")]
            used, index = np.unique(chosen, return_inverse=True)
            vertices.setdefault(name, []).append(surface.vertices_m[used])
            faces.setdefault(name, []).append(index.reshape(-1, 3) + sizes[name])
            for key, value in (
                ("mesh", f"{name}.ply"),
                ("first", totals[name]),
                ("faces", len(chosen)),
            ):
                places.setdefault(f"{role}_{key}", []).append(value)
            sizes[name] += len(used)
            totals[name] += len(chosen)
    for role in ("wall", "roof"):
        names = np.array(places.get(f"{role}_mesh", []), dtype=object)
        buildings[f"{role}_mesh"] = names
        for key in ("first", "faces"):
            values = np.array(places.get(f"{role}_{key}", []), dtype=np.int64)
            buildings[f"{role}_{key}"] = values
    meshes = {
        name: trimesh.Trimesh(np.vstack(vertices[name]), np.vstack(faces[name]), process=False)
        for name in sorted(vertices)
    }
    return meshes, buildings[list(_BUILDING_COLUMNS)]


def _scene_xml(materials: dict[str, Material]) -> str:
    """Mitsuba scene; ids of shapes and of materials differ, both stripped as Sionna does."""
    lines = ['<scene version="2.1.0">', f"    <!-- map data {ATTRIBUTION}, ODbL 1.0 -->"]
    for name, material in materials.items():
        kind = "itu-radio-material" if material.itu_name else "radio-material"
        lines.append(f'    <bsdf type="{kind}" id="mat-{name}">')
        if material.itu_name:
            lines.append(f'        <string name="type" value="{material.itu_name}"/>')
        else:
            lines += [
                f'        <float name="{key}" value="{value}"/>'
                for key, value in (
                    ("relative_permittivity", material.relative_permittivity),
                    ("conductivity", material.conductivity_s_per_m),
                )
            ]
        lines += [
            f'        <float name="thickness" value="{material.thickness_m}"/>',
            "    </bsdf>",
        ]
    for name in materials:
        lines += [
            f'    <shape type="ply" id="mesh-all-{name}">',
            f'        <string name="filename" value={quoteattr(f"meshes/{name}.ply")}/>',
            '        <boolean name="face_normals" value="true"/>',
            f'        <ref id="mat-{name}" name="bsdf"/>',
            "    </shape>",
        ]
    return "\n".join([*lines, "</scene>", ""])


def _write_json(path: Path, city: City, tile: Tile, origin_m: Origin, terrain: Terrain) -> None:
    content = {
        "city": city.name,
        "tile": tile.name,
        "crs": city.crs_code,
        "origin_m": list(origin_m),
        "bounds_m": list(city.scene_window(tile).bounds_m),
        "flat": terrain.is_flat,
        "frequency_hz": city.radio.frequency_hz,
        "attribution": ATTRIBUTION,
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def _write_table(buildings: gpd.GeoDataFrame, path: Path) -> None:
    buffer = io.BytesIO()
    buildings.to_parquet(buffer, index=False, schema_version="1.1.0")
    path.write_bytes(buffer.getvalue())


def _metadata(
    buildings: gpd.GeoDataFrame,
    surfaces: list[BuildingMesh],
    materials: dict[str, Material],
    counts: Counter[str],
) -> dict[str, Any]:
    closed = sum(surface.is_closed for surface in surfaces)
    repairs = {kind: count for kind, count in sorted(counts.items()) if count}
    return {
        "buildings": len(buildings),
        "watertight_share": closed / len(surfaces) if surfaces else 1.0,
        "heights": _value_counts(buildings["height_source"]),
        "roof_shapes": _value_counts(buildings["roof_shape"]),
        "wall_materials": _value_counts(buildings["material"]),
        "roof_materials": _value_counts(buildings["roof_material"]),
        "radio_materials": {name: _described(material) for name, material in materials.items()},
        "repairs": repairs,
        "footprint_m2": round(float(buildings["area_m2"].sum()), 1),
        "volume_m3": round(float(buildings["volume_m3"].sum()), 1),
        "attribution": ATTRIBUTION,
    }


def _described(material: Material) -> str:
    if material.itu_name:
        return f"ITU-R P.2040 {material.itu_name}, {material.thickness_m:g} m"
    return (
        f"ITU-R P.527, permittivity {material.relative_permittivity:g}, "
        f"conductivity {material.conductivity_s_per_m:g} S/m"
    )


def _value_counts(column: Any) -> dict[str, int]:
    return {str(value): int(count) for value, count in column.value_counts().sort_index().items()}
