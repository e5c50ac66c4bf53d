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
from ueloc_core.geodata.terrain import Terrain, flat_terrain, load_terrain
from ueloc_core.provenance import digest_folder
from ueloc_core.scene.meshes import is_closed
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
    return features, build_scene(city, tile, features, load_terrain(extract), folder)


def _level(city, tile):
    return flat_terrain(city.scene_ground(tile), city.terrain.step_m)


def surface_of(folder, row):
    """Walls, bottom and roof of a building, put together out of the scene's meshes."""
    parts = []
    for role in ("wall", "roof"):
        whole = trimesh.load_mesh(folder / "meshes" / getattr(row, f"{role}_mesh"), process=False)
        first, count = getattr(row, f"{role}_first"), getattr(row, f"{role}_faces")
        parts.append(whole.submesh([np.arange(first, first + count)], append=True, repair=False))
    surface = trimesh.util.concatenate(parts)
    surface.merge_vertices()
    return surface


@pytest.fixture(scope="module")
def scene(city, extract, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene")
    features, metadata = _built(city, _middle(city), extract, folder)
    return folder, features, metadata


def test_every_building_is_closed_by_its_walls_its_roof_and_its_bottom(scene):
    folder, features, metadata = scene
    buildings = gpd.read_parquet(folder / "buildings.parquet")
    SceneBuildingSchema.validate(buildings)
    assert len(buildings) == metadata["buildings"] == features["height_m"].notna().sum()
    assert metadata["watertight_share"] == 1.0
    for row in buildings.itertuples():
        surface = surface_of(folder, row)
        assert is_closed(surface)
        assert surface.volume == pytest.approx(row.volume_m3, rel=1e-4)
        if row.roof_shape == "flat":
            height_m = row.height_m - row.min_height_m
            assert surface.volume == pytest.approx(row.geometry.area * height_m, rel=1e-4)
    files = (folder / "meshes").iterdir()
    faces = sum(len(trimesh.load_mesh(path, process=False).faces) for path in files)
    assert faces == metadata["triangles"]
    for key in ("heights", "roof_shapes", "wall_materials", "roof_materials"):
        assert sum(metadata[key].values()) == metadata["buildings"]


def test_the_metadata_tells_every_material_and_how_much_ground_it_has(city, scene):
    folder, _, metadata = scene
    names = {path.stem for path in (folder / "meshes").iterdir()}
    assert names == set(metadata["radio_materials"])
    areas = metadata["ground_materials_m2"]
    assert {f"ground-{name}" for name in areas} == {n for n in names if n.startswith("ground-")}
    for name, area_m2 in areas.items():
        mesh = trimesh.load_mesh(folder / "meshes" / f"ground-{name}.ply", process=False)
        assert mesh.area == pytest.approx(area_m2)
    rows, columns = city.scene_ground(_middle(city)).shape
    assert sum(areas.values()) >= rows * columns * city.grid.cell_m**2


def test_every_triangle_of_a_mesh_belongs_to_one_building(scene):
    folder, _, _ = scene
    buildings = gpd.read_parquet(folder / "buildings.parquet")
    for role in ("wall", "roof"):
        for name, rows in buildings.groupby(f"{role}_mesh"):
            first, count = rows[f"{role}_first"], rows[f"{role}_faces"]
            ends = np.cumsum(count).tolist()
            assert first.tolist() == [0, *ends[:-1]]
            mesh = trimesh.load_mesh(folder / "meshes" / name, process=False)
            assert len(mesh.faces) == ends[-1]


def test_local_coordinates_start_at_the_corner_of_the_tile(city, scene):
    folder, _, _ = scene
    content = json.loads((folder / "scene.json").read_text())
    origin_m = _middle(city).window.bounds_m[:2]
    assert content["origin_m"] == [*origin_m, 0.0]
    assert content["crs"] == city.crs_code
    assert content["flat"]
    buildings = gpd.read_parquet(folder / "buildings.parquet").set_index("osm_id", drop=False)
    court = surface_of(folder, next(buildings.loc[["relation/1"]].itertuples()))
    x0, y0, x1, y1 = buildings.geometry["relation/1"].bounds
    local = [x0 - origin_m[0], y0 - origin_m[1], 0, x1 - origin_m[0], y1 - origin_m[1], 20]
    np.testing.assert_allclose(court.bounds.ravel(), local, atol=5e-4)
    assert court.euler_number == 0


def test_two_tiles_hold_the_same_building(city, extract, scene, tmp_path):
    other = city.tile_list[0]
    _built(city, other, extract, tmp_path)
    tables = [gpd.read_parquet(f / "buildings.parquet") for f in (scene[0], tmp_path)]
    shared = set(tables[0].osm_id) & set(tables[1].osm_id)
    assert shared
    shift = np.subtract(_middle(city).window.bounds_m[:2], other.window.bounds_m[:2])
    for name in sorted(shared):
        here, there = (
            surface_of(folder, next(table[table.osm_id == name].itertuples()))
            for folder, table in zip((scene[0], tmp_path), tables, strict=True)
        )
        assert np.array_equal(here.faces, there.faces)
        moved = here.vertices + np.array([*shift, 0])
        np.testing.assert_allclose(moved, there.vertices, atol=2e-4)


def hilly(window, step_m):
    """A terrain of slopes of up to 30 per cent."""
    flat = flat_terrain(window, step_m)
    rows, columns = flat.heights_m.shape
    x, y = np.meshgrid(np.arange(columns) * step_m, np.arange(rows) * step_m)
    heights = 40 + 25 * np.sin(x / 90) + 20 * np.cos(y / 70)
    return Terrain(np.round(heights, 3), flat.column, flat.row, step_m)


@pytest.fixture(scope="module")
def slopes(city, scene, tmp_path_factory):
    """The same scene on hills: buildings are lifted to the lowest ground under them."""
    folder = tmp_path_factory.mktemp("slopes")
    terrain = hilly(city.ground_window, city.terrain.step_m)
    features = scene[1].copy()
    built = features["height_m"].notna()
    features.loc[built, "ground_m"] = [
        terrain.lowest_within(shape) for shape in features.geometry[built]
    ]
    build_scene(city, _middle(city), features, terrain, folder)
    return folder, terrain


def test_buildings_on_a_slope_stand_in_the_ground_everywhere(slopes):
    folder, terrain = slopes
    origin_m = json.loads((folder / "scene.json").read_text())["origin_m"]
    for row in gpd.read_parquet(folder / "buildings.parquet").itertuples():
        surface = surface_of(folder, row)
        assert is_closed(surface)
        bottom = surface.bounds[0, 2] + origin_m[2]
        points = shapely.get_coordinates(shapely.segmentize(row.geometry, 1.0))
        assert (terrain.height_at(*points.T) >= bottom - 2e-3).all()
        assert surface.bounds[1, 2] + origin_m[2] == pytest.approx(row.ground_m + row.height_m)


@pytest.mark.parametrize("kind", ["flat", "hilly"])
def test_rays_from_below_meet_the_ground_and_leave_no_building(scene, slopes, kind):
    folder = scene[0] if kind == "flat" else slopes[0]
    meshes = {path.stem: trimesh.load_mesh(path) for path in (folder / "meshes").iterdir()}
    ground = trimesh.util.concatenate([m for n, m in meshes.items() if n.startswith("ground-")])
    assert (ground.face_normals[:, 2] > 0).all()
    low, high = ground.bounds
    assert ground.area_faces @ ground.face_normals[:, 2] == pytest.approx(
        (high[0] - low[0]) * (high[1] - low[1]), rel=1e-4
    )
    buildings = gpd.read_parquet(folder / "buildings.parquet")
    rng = np.random.default_rng(0)
    for row in buildings.iloc[:12].itertuples():
        surface = surface_of(folder, row)
        inside = surface.bounds[0] + rng.uniform(0, 1, (40, 3)) * np.ptp(surface.bounds, axis=0)
        inside = inside[surface.contains(inside)]
        directions = rng.standard_normal((len(inside), 3))
        assert surface.ray.intersects_any(inside, directions).all()
    below = np.column_stack(
        [rng.uniform(low[:2] + 1, high[:2] - 1, (200, 2)), np.full(200, low[2] - 5)]
    )
    up = np.tile([0.0, 0.0, 1.0], (200, 1))
    everything = trimesh.util.concatenate(list(meshes.values()))
    first = everything.ray.intersects_location(below, up, multiple_hits=False)
    on_ground = ground.ray.intersects_location(below, up, multiple_hits=False)
    assert len(first[0]) == len(on_ground[0]) == 200
    lift = on_ground[0][np.argsort(on_ground[1]), 2] - first[0][np.argsort(first[1]), 2]
    # what lies deeper than the ground is the bottom of a building that stands on a slope
    assert (lift >= -1e-3).all()
    if kind == "flat":
        assert np.allclose(lift, 0, atol=1e-3)


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
    build_scene(city, neighbour, moved, _level(city, neighbour), tmp_path)
    here, there = (
        {path.name: path.read_bytes() for path in (root / "meshes").iterdir()}
        for root in (folder, tmp_path)
    )
    assert here == there
    assert (folder / "scene.xml").read_bytes() == (tmp_path / "scene.xml").read_bytes()


def test_an_empty_tile_has_ground_only(city, extract, tmp_path):
    tile = city.tile_list[0]
    features = load_features(extract).iloc[:0]
    metadata = build_scene(city, tile, features, _level(city, tile), tmp_path)
    assert metadata["buildings"] == 0
    assert metadata["watertight_share"] == 1.0
    assert [path.name for path in (tmp_path / "meshes").iterdir()] == ["ground-dry_ground.ply"]
    assert len(gpd.read_parquet(tmp_path / "buildings.parquet")) == 0
    assert float(load_context(tmp_path)["building_height_m"].max()) == 0
    assert len((tmp_path / "preview.png").read_bytes()) <= MAX_BYTES


def test_features_in_another_crs_are_refused(city, extract, tmp_path):
    features = load_features(extract).to_crs("EPSG:3857")
    with pytest.raises(SceneError, match="EPSG:3857"):
        build_scene(city, city.tile_list[0], features, load_terrain(extract), tmp_path)


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


@pytest.fixture
def sionna_rt():
    library = Path(sys.prefix) / "lib" / "libLLVM.so.23.1"
    if library.is_file():
        os.environ.setdefault("DRJIT_LIBLLVM_PATH", str(library))
    return pytest.importorskip("sionna.rt")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flat", "hilly"])
def test_sionna_loads_the_scene(sionna_rt, scene, slopes, kind):
    folder = scene[0] if kind == "flat" else slopes[0]
    loaded = sionna_rt.load_scene(str(folder / "scene.xml"), merge_shapes=False)
    loaded.frequency = 3.5e9
    meshes = {path.stem for path in (folder / "meshes").iterdir()}
    assert set(loaded.objects) == {f"all-{name}" for name in meshes}
    assert set(loaded.radio_materials) == meshes
    faces = sum(int(shape.face_count()) for shape in loaded.mi_scene.shapes())
    stored = (trimesh.load_mesh(p, process=False) for p in (folder / "meshes").iterdir())
    assert faces == sum(len(mesh.faces) for mesh in stored)
    origin_m = json.loads((folder / "scene.json").read_text())["origin_m"]
    buildings = gpd.read_parquet(folder / "buildings.parquet")
    top = float((buildings.ground_m + buildings.height_m).max()) - origin_m[2]
    assert float(loaded.mi_scene.bbox().max[2]) >= top - 1e-3
