"""The scene of a tile and its halo: Mitsuba XML and PLY meshes that Sionna RT loads.

Coordinates are local: (0, 0) is the lower-left corner of the tile's own window, so that single
precision keeps millimetres; ``scene.json`` says where that is. Only files are written here, so
neither Mitsuba nor Sionna is needed.
"""

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
import trimesh

from ueloc_core.city import City
from ueloc_core.errors import SceneError
from ueloc_core.geodata.context import build_context, write_context
from ueloc_core.geodata.osm import ATTRIBUTION
from ueloc_core.geodata.schemas import BUILDING_KINDS, SceneBuildingSchema
from ueloc_core.grid import Tile
from ueloc_core.scene.materials import GROUND, Material, material_at
from ueloc_core.scene.meshes import extrude, ground_plane, is_closed, resolve_overlaps
from ueloc_core.scene.preview import write_preview

CODE_VERSION = "1"
GROUND_MARGIN_M = 200.0

_BUILDING_COLUMNS = (
    *("osm_id", "kind", "tile", "height_m", "height_source", "height_sigma_m", "min_height_m"),
    *("material", "mesh", "triangles", "area_m2", "geometry"),
)


def build_scene(city: City, tile: Tile, features: gpd.GeoDataFrame, out: Path) -> dict[str, Any]:
    """Build the scene of a tile and its halo.

    Writes ``scene.xml``, ``scene.json`` (origin and CRS), ``meshes/*.ply`` (one a building and
    the ground), ``context.zarr``, ``buildings.parquet`` and ``preview.png``.

    Parameters
    ----------
    city, tile
        What to build.
    features
        Rows of `FeatureSchema` that meet the scene's window; others are left out.
    out
        Empty folder.

    Returns
    -------
    Counts of buildings, triangles, heights by source, materials and repairs, and the share of
    buildings whose mesh is closed.

    Raises
    ------
    SceneError
        If the features are in another CRS, or a material is undefined at the city's frequency.
    """
    if features.crs != city.crs_code:
        raise SceneError(
            f"features are in {features.crs}, the city in {city.crs_code}",
            where=f"{city.name}/{tile.name}",
            remedy="Materialize osm_extract again.",
        )
    window = city.scene_window(tile)
    features = features[features.intersects(shapely.box(*window.bounds_m))]
    features = features.sort_values("osm_id").reset_index(drop=True)
    counts: Counter[str] = Counter()
    is_building = features["kind"].isin(BUILDING_KINDS)
    buildings = resolve_overlaps(features[is_building], counts)
    origin_m = tile.window.bounds_m[:2]
    buildings, meshes = _extruded(buildings, origin_m, counts)
    ground = ground_plane(window, origin_m, GROUND_MARGIN_M)
    (out / "meshes").mkdir()
    for name, mesh in [*zip(buildings["mesh"], meshes, strict=True), ("ground.ply", ground)]:
        (out / "meshes" / name).write_bytes(mesh.export(file_type="ply", vertex_normal=False))
    materials = {
        name: material_at(name, city.radio.frequency_hz)
        for name in (GROUND, *sorted(buildings["material"].unique()))
    }
    (out / "scene.xml").write_text(_scene_xml(buildings, materials), encoding="utf-8")
    _write_json(out / "scene.json", city, tile, origin_m)
    SceneBuildingSchema.validate(buildings)
    _write_table(buildings, out / "buildings.parquet")
    shown = gpd.GeoDataFrame(pd.concat([features[~is_building], buildings]), crs=features.crs)
    write_context(build_context(city, window, shown), out)
    title = f"{city.title or city.name}, {tile.name}"
    write_preview(shown, tile, window, out / "preview.png", title=title)
    return _metadata(buildings, meshes, materials, counts)


def _extruded(
    buildings: gpd.GeoDataFrame, origin_m: tuple[float, float], counts: Counter[str]
) -> tuple[gpd.GeoDataFrame, list[trimesh.Trimesh]]:
    """Buildings whose mesh is closed, with the columns of `SceneBuildingSchema`, and the meshes."""
    heights = zip(buildings["min_height_m"], buildings["height_m"], strict=True)
    meshes = [
        extrude(footprint, base_m, top_m, origin_m)
        for footprint, (base_m, top_m) in zip(buildings.geometry, heights, strict=True)
    ]
    closed = np.array([mesh is not None for mesh in meshes], dtype=bool)
    counts["unclosed_buildings_dropped"] += int((~closed).sum())
    kept = [mesh for mesh in meshes if mesh is not None]
    buildings = buildings[closed]
    buildings = buildings.assign(
        mesh=np.array([f"{i.replace('/', '_')}.ply" for i in buildings["osm_id"]], dtype=object),
        triangles=np.array([len(mesh.faces) for mesh in kept], dtype=np.int64),
        area_m2=buildings.area.round(3),
    )
    return buildings[list(_BUILDING_COLUMNS)].reset_index(drop=True), kept


def _scene_xml(buildings: gpd.GeoDataFrame, materials: dict[str, Material]) -> str:
    """Mitsuba scene; shape ids can never equal a material's name, both stripped as Sionna does."""
    lines = ['<scene version="2.1.0">', f"    <!-- map data {ATTRIBUTION}, ODbL 1.0 -->"]
    for material in sorted(set(materials.values()), key=lambda m: (m.itu_name, m.thickness_m)):
        lines += [
            f'    <bsdf type="itu-radio-material" id="mat-itu_{material.itu_name}">',
            f'        <string name="type" value="{material.itu_name}"/>',
            f'        <float name="thickness" value="{material.thickness_m}"/>',
            "    </bsdf>",
        ]
    shapes = [("ground.ply", GROUND), *zip(buildings["mesh"], buildings["material"], strict=True)]
    for mesh, name in shapes:
        shape_id = "mesh-" + ("ground" if mesh == "ground.ply" else f"building-{Path(mesh).stem}")
        lines += [
            f'    <shape type="ply" id="{shape_id}">',
            f'        <string name="filename" value={quoteattr(f"meshes/{mesh}")}/>',
            '        <boolean name="face_normals" value="true"/>',
            f'        <ref id="mat-itu_{materials[name].itu_name}" name="bsdf"/>',
            "    </shape>",
        ]
    return "\n".join([*lines, "</scene>", ""])


def _write_json(path: Path, city: City, tile: Tile, origin_m: tuple[float, float]) -> None:
    content = {
        "city": city.name,
        "tile": tile.name,
        "crs": city.crs_code,
        "origin_m": list(origin_m),
        "bounds_m": list(city.scene_window(tile).bounds_m),
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
    meshes: list[trimesh.Trimesh],
    materials: dict[str, Material],
    counts: Counter[str],
) -> dict[str, Any]:
    closed = sum(is_closed(mesh) for mesh in meshes)
    repairs = {kind: count for kind, count in sorted(counts.items()) if count}
    return {
        "buildings": len(buildings),
        "triangles": int(buildings["triangles"].sum()) + 2,
        "watertight_share": closed / len(meshes) if meshes else 1.0,
        "heights": _value_counts(buildings["height_source"]),
        "materials": _value_counts(buildings["material"]),
        "ground_material": materials[GROUND].itu_name,
        "repairs": repairs,
        "footprint_m2": round(float(buildings["area_m2"].sum()), 1),
        "attribution": ATTRIBUTION,
    }


def _value_counts(column: Any) -> dict[str, int]:
    return {str(value): int(count) for value, count in column.value_counts().sort_index().items()}
