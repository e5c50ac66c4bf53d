"""Pictures of a city and of a scene: there, small enough, the same every time."""

import io

import numpy as np
import pytest
from PIL import Image

from ueloc_core.geodata.osm import build_extract, load_features
from ueloc_core.geodata.overview import write_overview
from ueloc_core.geodata.terrain import Terrain, load_terrain
from ueloc_core.scene.preview import MAX_BYTES, write_preview
from ueloc_core.synthetic import synthetic_city


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    return synthetic_city(tmp_path_factory.mktemp("city"))


@pytest.fixture(scope="module")
def extract(city, tmp_path_factory):
    folder = tmp_path_factory.mktemp("extract")
    build_extract(city, folder)
    return folder


@pytest.fixture(scope="module")
def hills(extract):
    flat = load_terrain(extract)
    rows, columns = np.indices(flat.heights_m.shape)
    heights = np.round(50 + 40 * np.sin(rows / 9) * np.cos(columns / 7), 3)
    return Terrain(heights, flat.column, flat.row, flat.step_m)


def pixels(path):
    return np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB")).astype(int)


def test_the_extract_comes_with_a_picture_of_its_city(extract):
    picture = pixels(extract / "overview.png")
    assert picture.shape[1] == 1000
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20


def test_relief_is_drawn_and_a_picture_repeats_itself(city, extract, hills, tmp_path):
    features = load_features(extract)
    for name in ("a", "b"):
        write_overview(features, city, tmp_path / f"{name}.png", terrain=hills)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    change = np.abs(pixels(tmp_path / "a.png") - pixels(extract / "overview.png")).max(axis=2)
    assert (change > 8).mean() > 0.2


def test_a_preview_is_small_with_and_without_buildings(city, extract, hills, tmp_path):
    features, tile = load_features(extract), city.tile_list[0]
    window = city.scene_window(tile)
    for name, shown in (("full", features), ("empty", features.iloc[:0])):
        path = tmp_path / f"{name}.png"
        write_preview(shown, tile, window, path, title="A tile", terrain=hills)
        assert path.read_bytes().startswith(b"\x89PNG")
        assert len(path.read_bytes()) <= MAX_BYTES
