"""Scenes for other programs: the right shapes in the right places."""

import json

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import rasterio.warp
import trimesh
from click.testing import CliRunner

from ueloc_core.cli import main
from ueloc_core.errors import GeodataError, SceneError
from ueloc_core.geodata.context import load_context
from ueloc_core.geodata.osm import build_extract, load_features
from ueloc_core.geodata.terrain import load_terrain
from ueloc_core.scene.export import export_geotiffs, export_glb
from ueloc_core.scene.mitsuba import build_scene
from ueloc_core.synthetic import synthetic_city


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    return synthetic_city(tmp_path_factory.mktemp("city"))


@pytest.fixture(scope="module")
def scene(city, tmp_path_factory):
    extract, folder = tmp_path_factory.mktemp("extract"), tmp_path_factory.mktemp("scene")
    build_extract(city, extract)
    tile = city.tile_list[0]
    features = load_features(extract, city.scene_window(tile))
    build_scene(city, tile, features, load_terrain(extract), folder)
    return folder


def test_the_glb_holds_every_mesh_with_y_up(scene, tmp_path):
    whole = trimesh.load_scene(export_glb(scene, tmp_path / "scene.glb"))
    names = {path.stem for path in (scene / "meshes").iterdir()}
    assert set(whole.geometry) == names
    for name in names:
        stored = trimesh.load_mesh(scene / "meshes" / f"{name}.ply", process=False)
        shown = whole.geometry[name]
        assert len(shown.faces) == len(stored.faces)
        east, north, up = stored.bounds.T
        np.testing.assert_allclose(shown.bounds[:, 0], east, atol=1e-3)
        np.testing.assert_allclose(shown.bounds[:, 1], up, atol=1e-3)
        np.testing.assert_allclose(shown.bounds[:, 2], -north[::-1], atol=1e-3)


def test_a_geotiff_lies_in_its_place(city, scene, tmp_path):
    files = {path.stem: path for path in export_geotiffs(scene, tmp_path)}
    context = load_context(scene)
    assert set(files) == set(context.data_vars)
    buildings = gpd.read_parquet(scene / "buildings.parquet")
    court = buildings[buildings.osm_id == "relation/1"]
    x, y = court.geometry.iloc[0].representative_point().coords[0]
    lon, lat = city.to_lonlat(x, y)
    with rasterio.open(files["building_height_m"]) as raster:
        assert raster.crs == city.crs_code
        assert raster.transform.e < 0  # north up
        back = rasterio.warp.transform("EPSG:4326", raster.crs, [lon], [lat])
        (value,) = next(raster.sample([(back[0][0], back[1][0])]))
        assert value == pytest.approx(20.0)
        np.testing.assert_array_equal(raster.read(1)[::-1], context.building_height_m)
        assert raster.units == ("m",)
    with rasterio.open(files["ground_material"]) as raster:
        assert "paved" in raster.tags()["flag_meanings"]


def test_an_export_replaces_and_repeats_itself(scene, tmp_path):
    first = export_glb(scene, tmp_path / "scene.glb").read_bytes()
    (tmp_path / "scene.glb").write_bytes(b"old")
    assert export_glb(scene, tmp_path / "scene.glb").read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["scene.glb"]


def test_what_is_missing_or_broken_is_named(scene, tmp_path):
    with pytest.raises(SceneError, match="Materialize the scene"):
        export_glb(tmp_path, tmp_path / "scene.glb")
    with pytest.raises(GeodataError, match=r"context\.zarr"):
        export_geotiffs(tmp_path, tmp_path)
    broken = tmp_path / "broken"
    (broken / "meshes").mkdir(parents=True)
    (broken / "scene.json").write_text(json.dumps({}))
    (broken / "meshes" / "walls-brick.ply").write_bytes(b"ply\nformat nothing\n")
    with pytest.raises(SceneError, match=r"walls-brick\.ply"):
        export_glb(broken, tmp_path / "scene.glb")


def test_the_command_names_an_unknown_tile(tmp_path):
    arguments = ["export", "--city", "helsinki", "--store", str(tmp_path), "e1n1"]
    outcome = CliRunner().invoke(main, arguments)
    assert outcome.exit_code != 0
    assert "unknown tile 'e1n1'" in outcome.output
