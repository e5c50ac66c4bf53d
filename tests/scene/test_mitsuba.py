"""The scene of a tile: files, metadata, determinism, and that Sionna RT loads it."""

import json
import os
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
import trimesh

from ueloc_core.errors import SceneError
from ueloc_core.geodata.context import load_context
from ueloc_core.geodata.osm import build_extract, load_features
from ueloc_core.geodata.schemas import ContextSchema, SceneBuildingSchema
from ueloc_core.provenance import digest_folder
from ueloc_core.scene.materials import CATALOGUE, GROUND, material_at
from ueloc_core.scene.mitsuba import build_scene
from ueloc_core.scene.preview import MAX_BYTES
from ueloc_core.synthetic import synthetic_city


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    return synthetic_city(tmp_path_factory.mktemp("city"))


@pytest.fixture(scope="module")
def extract(city, tmp_path_factory):
    folder = tmp_path_factory.mktemp("extract")
    build_extract(city, folder)
    return folder


def _middle(city):
    return city.tile_list[len(city.tile_list) // 2]


def _built(city, tile, extract, folder):
    folder.mkdir(exist_ok=True)
    features = load_features(extract, city.scene_window(tile))
    return features, build_scene(city, tile, features, folder)


@pytest.fixture(scope="module")
def scene(city, extract, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene")
    features, metadata = _built(city, _middle(city), extract, folder)
    return folder, features, metadata


def test_every_building_is_a_closed_mesh(scene):
    folder, features, metadata = scene
    buildings = gpd.read_parquet(folder / "buildings.parquet")
    SceneBuildingSchema.validate(buildings)
    assert len(buildings) == metadata["buildings"] == features["height_m"].notna().sum()
    assert metadata["watertight_share"] == 1.0
    triangles = 2
    for row in buildings.itertuples():
        mesh = trimesh.load_mesh(folder / "meshes" / row.mesh)
        assert mesh.is_watertight
        height_m = row.height_m - row.min_height_m
        assert mesh.volume == pytest.approx(row.geometry.area * height_m, rel=1e-4)
        assert len(mesh.faces) == row.triangles
        triangles += row.triangles
    assert triangles == metadata["triangles"]
    assert sum(metadata["heights"].values()) == metadata["buildings"]
    assert sum(metadata["materials"].values()) == metadata["buildings"]


def test_local_coordinates_start_at_the_corner_of_the_tile(city, scene):
    folder, _, _ = scene
    content = json.loads((folder / "scene.json").read_text())
    origin_m = _middle(city).window.bounds_m[:2]
    assert content["origin_m"] == list(origin_m)
    assert content["crs"] == city.crs_code
    buildings = gpd.read_parquet(folder / "buildings.parquet").set_index("osm_id")
    mesh = trimesh.load_mesh(folder / "meshes" / "relation_1.ply")
    x0, y0, x1, y1 = buildings.geometry["relation/1"].bounds
    local = [x0 - origin_m[0], y0 - origin_m[1], 0, x1 - origin_m[0], y1 - origin_m[1], 20]
    np.testing.assert_allclose(mesh.bounds.ravel(), local, atol=5e-4)
    assert mesh.euler_number == 0


def test_the_xml_names_every_mesh_and_no_id_collides(scene):
    folder, _, _ = scene
    root = ET.parse(folder / "scene.xml").getroot()
    shapes, materials = root.findall("shape"), root.findall("bsdf")
    files = {shape.find("string").get("value") for shape in shapes}
    assert files == {f"meshes/{path.name}" for path in (folder / "meshes").iterdir()}
    names = [node.get("id").removeprefix("mesh-").removeprefix("mat-") for node in root]
    assert len(set(names)) == len(names)
    known = {material.get("id") for material in materials}
    assert {shape.find("ref").get("id") for shape in shapes} == known
    assert all(name.startswith("mat-itu_") for name in known)


def test_context_and_preview(city, scene):
    folder, _, _ = scene
    context = load_context(folder)
    ContextSchema.validate(context)
    assert context["footprint"].shape == city.scene_window(_middle(city)).shape
    buildings = gpd.read_parquet(folder / "buildings.parquet")
    covered_m2 = float(context["footprint"].sum()) * city.grid.cell_m**2
    assert covered_m2 == pytest.approx(buildings["area_m2"].sum(), rel=0.15)
    picture = (folder / "preview.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) <= MAX_BYTES


def test_the_same_input_gives_the_same_bytes(city, extract, scene, tmp_path):
    _built(city, _middle(city), extract, tmp_path / "again")
    assert digest_folder(tmp_path / "again") == digest_folder(scene[0])


def test_a_scene_moved_by_whole_tiles_is_the_same_scene(city, scene, tmp_path):
    folder, features, _ = scene
    tile = _middle(city)
    neighbour = city.tile_list[city.tile_list.index(tile) + 1]
    shift_m = np.subtract(neighbour.window.bounds_m[:2], tile.window.bounds_m[:2])
    moved = features.set_geometry(features.translate(*shift_m))
    build_scene(city, neighbour, moved, tmp_path)
    here, there = (
        {path.name: path.read_bytes() for path in (root / "meshes").iterdir()}
        for root in (folder, tmp_path)
    )
    assert here == there
    assert (folder / "scene.xml").read_bytes() == (tmp_path / "scene.xml").read_bytes()


def test_an_empty_tile_has_ground_only(city, extract, tmp_path):
    features = load_features(extract).iloc[:0]
    metadata = build_scene(city, city.tile_list[0], features, tmp_path)
    assert metadata["buildings"] == 0
    assert metadata["triangles"] == 2
    assert metadata["watertight_share"] == 1.0
    assert [path.name for path in (tmp_path / "meshes").iterdir()] == ["ground.ply"]
    assert len(gpd.read_parquet(tmp_path / "buildings.parquet")) == 0
    assert float(load_context(tmp_path)["building_height_m"].max()) == 0
    assert len((tmp_path / "preview.png").read_bytes()) <= MAX_BYTES


def test_features_in_another_crs_are_refused(city, extract, tmp_path):
    features = load_features(extract).to_crs("EPSG:3857")
    with pytest.raises(SceneError, match="EPSG:3857"):
        build_scene(city, city.tile_list[0], features, tmp_path)


def test_a_building_in_the_halo_is_whole(city, extract, tmp_path):
    tile = city.tile_list[0]
    window = city.scene_window(tile)
    features, _ = _built(city, tile, extract, tmp_path)
    box = shapely.box(*window.bounds_m)
    buildings = gpd.read_parquet(tmp_path / "buildings.parquet").set_index("osm_id")
    original = features.set_index("osm_id").geometry
    crossing = [name for name in buildings.index if not original[name].within(box)]
    assert crossing
    for name in crossing:
        assert buildings.geometry[name].area == pytest.approx(original[name].area)


def test_materials_have_a_frequency_range():
    assert material_at("brick", 3.5e9).itu_name == "brick"
    assert material_at("brick", 60e9).itu_name == "concrete"
    assert material_at(GROUND, 28e9).itu_name == "concrete"
    with pytest.raises(SceneError, match=r"ITU-R P.2040 does not define concrete at 0.7 GHz"):
        material_at("concrete", 0.7e9)


@pytest.fixture
def sionna_rt():
    library = Path(sys.prefix) / "lib" / "libLLVM.so.23.1"
    if library.is_file():
        os.environ.setdefault("DRJIT_LIBLLVM_PATH", str(library))
    return pytest.importorskip("sionna.rt")


@pytest.mark.slow
def test_sionna_loads_the_scene(sionna_rt, scene, tmp_path, city, extract):
    folder, _, metadata = scene
    loaded = sionna_rt.load_scene(str(folder / "scene.xml"), merge_shapes=False)
    buildings = gpd.read_parquet(folder / "buildings.parquet")
    names = {f"building-{Path(mesh).stem}" for mesh in buildings["mesh"]}
    assert set(loaded.objects) == names | {"ground"}
    faces = sum(int(shape.face_count()) for shape in loaded.mi_scene.shapes())
    assert faces == metadata["triangles"]
    used = {f"itu_{name}" for name in metadata["materials"]} | {"itu_medium_dry_ground"}
    assert set(loaded.radio_materials) == used
    bounds = loaded.mi_scene.bbox()
    assert float(bounds.min[2]) == 0
    assert float(bounds.max[2]) == pytest.approx(buildings["height_m"].max())
    empty = tmp_path / "empty"
    empty.mkdir()
    build_scene(city, city.tile_list[0], load_features(extract).iloc[:0], empty)
    assert len(sionna_rt.load_scene(str(empty / "scene.xml")).objects) == 1


@pytest.mark.slow
def test_our_materials_are_sionnas(sionna_rt):
    table = sionna_rt.radio_materials.itu.ITU_MATERIALS_PROPERTIES
    for material in CATALOGUE.values():
        ranges = table[material.itu_name]
        assert (material.lowest_ghz, material.highest_ghz) in ranges
