"""City files: defaults, derived geometry, and errors that name key, value and what is allowed."""

import time

import numpy as np
import pytest
import yaml

from ueloc_core.city import City, load_cities, load_city
from ueloc_core.errors import CityError

MINIMAL = {
    "name": "somewhere",
    "source": {"kind": "file", "path": "somewhere.osm.gz"},
    "bbox": [24.935, 60.164, 24.953, 60.179],
}


def _write(folder, content, name="somewhere"):
    path = folder / f"{name}.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_a_minimal_file_takes_every_default(tmp_path):
    city = load_city(_write(tmp_path, MINIMAL))
    assert city.crs_code == "EPSG:32635"
    assert city.grid.cell_m == 4
    assert city.source.path == tmp_path / "somewhere.osm.gz"
    assert city.range_m >= city.window.size_m / 2 + city.window.shift_m
    assert city.split_of(city.tile_names[0]) == "train"


def test_the_shipped_cities_load():
    cities = load_cities()
    assert "helsinki" in cities
    helsinki = cities["helsinki"]
    assert len(helsinki.tile_list) == 12
    assert helsinki.split_of("e753n13030") == "test"
    assert helsinki.split_of("e754n13031") == "train"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"gird": {"cell_m": 4}}, ["gird", "unknown key", "grid"]),
        ({"grid": {"cell": 4}}, ["grid.cell = 4", "unknown key", "allowed: cell_m"]),
        ({"grid": {"cell_m": -4}}, ["grid.cell_m = -4", "greater than 0"]),
        ({"grid": {"cell_m": "wide"}}, ["grid.cell_m = 'wide'", "number"]),
        (
            {"radio": {"frequency_ghz": 0.1}},
            ["radio.frequency_ghz = 0.1", "greater than or equal to 1"],
        ),
        ({"radio": {"numerology": 7}}, ["radio.numerology = 7", "less than or equal to 3"]),
        ({"radio": {"resource_blocks": 200, "bandwidth_mhz": 20}}, ["resource_blocks = 200", "20"]),
        ({"radio": {"load": 1.5}}, ["radio.load = 1.5", "less than or equal to 1"]),
        ({"bbox": [24.953, 60.164, 24.935, 60.179]}, ["bbox", "24.953", "west < east"]),
        ({"bbox": [24.935, 60.164, 24.953]}, ["bbox"]),
        ({"bbox": [24.935, 60.164, 24.953, 91]}, ["bbox", "91", "-80..84"]),
        ({"bbox": [179.9, 60.0, -179.9, 60.1]}, ["bbox", "antimeridian"]),
        ({"bbox": [24.9, 84.5, 24.95, 84.6]}, ["bbox", "pole"]),
        ({"bbox": [24.9, 60.1, 24.9, 60.1]}, ["bbox", "no area"]),
        ({"bbox": [24.9, float("nan"), 25.0, 60.1]}, ["bbox", "not a number"]),
        ({"terrain": {"kind": "file"}}, ["terrain.path is needed"]),
        ({"terrain": {"step_m": 10}}, ["terrain.step_m = 10", "multiple of", "grid.cell_m = 4"]),
        ({"bbox": [20.0, 60.0, 27.0, 65.0]}, ["bbox spans", "100 km at most"]),
        ({"bbox": [24.9, 60.1, 24.900000001, 60.100000001]}, ["bbox", "no area"]),
        ({"bbox": [24.9, 60.1, 24.900000000000002, 60.2]}, ["bbox", "no area"]),
        ({"bbox": [24.1, 60.1, 24.9, 60.9], "tiles": {"size_m": 256}}, ["tiles.size_m = 256"]),
        ({"window": {"size_m": 2e6}}, ["grid.cell_m", "window.size_m = 2e+06", "at most"]),
        (
            {"bbox": [24.1, 60.1, 24.9, 60.5], "terrain": {"step_m": 4}},
            ["terrain.step_m makes", "10000 at most"],
        ),
        ({"tiles": {"size_m": 1e300}}, ["grid cells", "tiles.size_m = 1e+300"]),
        ({"crs": "EPSG:3857"}, ["crs = 'EPSG:3857'", "wrong by 100.9%", "1% at most"]),
        ({"crs": "EPSG:32640"}, ["crs = 'EPSG:32640'", "give 'utm'"]),
        ({"crs": "EPSG:32701"}, ["crs = 'EPSG:32701'", "give 'utm'"]),
        ({"crs": "EPSG:4326"}, ["crs = 'EPSG:4326'", "metres"]),
        ({"crs": "EPSG:99999"}, ["crs = 'EPSG:99999'", "utm"]),
        ({"source": {"kind": "file"}}, ["source.path", "'file'"]),
        ({"source": {"kind": "ftp"}}, ["source.kind = 'ftp'", "bundled", "file"]),
        ({"source": {"kind": "bundled", "dataset": "mars"}}, ["source.dataset = 'mars'"]),
        ({"tiles": {"size_m": 510}}, ["tiles.size_m = 510", "multiple of 32", "grid.cell_m = 4"]),
        ({"window": {"size_m": 1022}}, ["window.size_m = 1022", "multiple of 32"]),
        ({"splits": {"test": ["e1n1"]}}, ["splits.test: e1n1", "e752n13030"]),
        (
            {"splits": {"test": ["e752n13030"], "validation": ["e752n13030"]}},
            ["e752n13030", "twice"],
        ),
        ({"name": "Some Where"}, ["name = 'Some Where'", "pattern"]),
        ({"ray_tracing": {"batches": 1}}, ["ray_tracing.batches = 1", "2"]),
        (
            {"ray_tracing": {"points_per_batch": 5}},
            ["ray_tracing.points_per_batch = 5", "1, 4, 9 or 16"],
        ),
    ],
)
def test_an_error_names_the_file_the_key_the_value_and_what_is_allowed(tmp_path, change, told):
    path = _write(tmp_path, {**MINIMAL, **change})
    with pytest.raises(CityError) as caught:
        load_city(path)
    message = str(caught.value)
    assert str(path) in message
    for text in told:
        assert text in message


def test_every_wrong_key_is_named_at_once(tmp_path):
    path = _write(tmp_path, {**MINIMAL, "seeds": 3, "grid": {"cell_m": 0}})
    with pytest.raises(CityError, match=r"grid\.cell_m = 0.*seeds = 3"):
        load_city(path)


@pytest.mark.parametrize("key", ["name", "source", "bbox"])
def test_a_missing_key_is_named(tmp_path, key):
    path = _write(tmp_path, {k: v for k, v in MINIMAL.items() if k != key})
    with pytest.raises(CityError, match=f"{key} is missing; it is required"):
        load_city(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("bbox: [1, 2", "not valid YAML"),
        ("- a\n- list\n", "mapping of keys"),
        ("", "mapping of keys"),
        ("\x00", "not valid YAML"),
    ],
)
def test_what_is_no_city_file_at_all(tmp_path, content, told):
    with pytest.raises(CityError, match=told):
        load_city(_write(tmp_path, content))


def test_a_folder_is_no_city_file(tmp_path):
    (tmp_path / "somewhere.yaml").mkdir()
    with pytest.raises(CityError, match=r"somewhere\.yaml: it cannot be read .Is a directory"):
        load_city(tmp_path / "somewhere.yaml")


def test_only_some_of_many_tiles_are_named(tmp_path):
    bbox = [24.9, 60.1, 25.2, 60.3]
    city = load_city(_write(tmp_path, {**MINIMAL, "bbox": bbox}))
    with pytest.raises(CityError) as caught:
        city.tile("e1n1")
    assert f"and {len(city.tile_list) - 20} more" in caught.value.remedy


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "somewhere.yaml"
    path.write_bytes(b"\xff\xfe\xfa\x00")
    with pytest.raises(CityError, match="not valid YAML"):
        load_city(path)


def test_an_unknown_city_lists_the_known_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("UELOC_CITIES", str(tmp_path))
    _write(tmp_path, MINIMAL)
    assert list(load_cities()) == ["somewhere"]
    with pytest.raises(CityError, match="Cities there: somewhere"):
        load_city("nowhere")


def test_the_name_is_the_name_of_the_file(tmp_path):
    with pytest.raises(CityError, match="Call it 'elsewhere'"):
        load_city(_write(tmp_path, MINIMAL, name="elsewhere"))


def test_tiles_cover_the_box_and_neighbours_are_mutual():
    city = load_city("helsinki")
    x0, y0, x1, y1 = city.bounds_m
    for x, y in np.random.default_rng(0).uniform((x0, y0), (x1, y1), (50, 2)):
        assert sum(tile.owns(x, y) for tile in city.tile_list) == 1
    for name in city.tile_names:
        neighbours = city.neighbour_tiles(name)
        assert name in neighbours
        assert all(name in city.neighbour_tiles(other) for other in neighbours)
    with pytest.raises(CityError, match="unknown tile 'e0n0'"):
        city.tile("e0n0")


def test_the_window_of_every_sector_of_a_tile_lies_in_its_scene():
    city = load_city("helsinki")
    tile = city.tile_list[0]
    scene = city.scene_window(tile)
    x0, y0, x1, y1 = tile.window.bounds_m
    for x, y in ((x0, y0), (x1 - 0.01, y1 - 0.01), (x0 + 100.1, y0 + 3.3)):
        for azimuth_deg in range(0, 360, 15):
            window = city.sector_window(x, y, azimuth_deg)
            assert window.intersection(scene) == window


@pytest.mark.parametrize(("size_m", "shift_m"), [(1024, 100.0), (512, 0.0), (2048, 3.7)])
def test_neighbours_are_the_tiles_that_the_reach_meets(tmp_path, size_m, shift_m):
    bbox = [24.90, 60.15, 24.96, 60.19]
    window = {"size_m": size_m, "shift_m": shift_m}
    city = load_city(_write(tmp_path, {**MINIMAL, "bbox": bbox, "window": window}))
    for tile in city.tile_list:
        reach = tile.window.buffered(2 * city.range_m)
        near = [t.name for t in city.tile_list if t.window.intersection(reach)]
        assert city.neighbour_tiles(tile.name) == tuple(near)


def test_a_large_city_knows_its_neighbours_at_once(tmp_path):
    city = load_city(_write(tmp_path, {**MINIMAL, "bbox": [24.1, 60.1, 25.8, 60.9]}))
    assert len(city.tile_list) > 30_000
    started = time.process_time()
    for name in city.tile_names[:300]:
        city.neighbour_tiles(name)
    assert time.process_time() - started < 3


def test_positions_go_back_to_degrees():
    city = load_city("helsinki")
    for (x, y), corner in zip(city.area_m, ((0, 1), (2, 1), (2, 3), (0, 3)), strict=True):
        lon, lat = city.to_lonlat(x, y)
        assert (lon, lat) == pytest.approx([city.bbox[i] for i in corner], abs=1e-9)


def test_params_follow_the_sections_that_are_named():
    city = load_city("helsinki")
    other = city.model_copy(
        update={"evaluation": city.evaluation.model_copy(update={"max_reports": 7})}
    )
    assert city.params("radio", "grid") == other.params("radio", "grid")
    assert city.params("evaluation") != other.params("evaluation")


def test_a_city_cannot_be_changed():
    city = City(**{**MINIMAL, "source": {"kind": "bundled"}})
    with pytest.raises(ValueError, match="frozen"):
        city.seed = 2
