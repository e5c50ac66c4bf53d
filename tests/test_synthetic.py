"""Made-up cities and edited extracts."""

import osmium
import pytest

from ueloc_core.city import load_city
from ueloc_core.errors import GeodataError
from ueloc_core.geodata.osm import build_extract, features_digest, load_features
from ueloc_core.geodata.sources import source_path
from ueloc_core.synthetic import edit_building_height, synthetic_city, write_synthetic_city

BBOX = (24.940, 60.170, 24.9455, 60.1727)


def test_the_same_arguments_give_the_same_file(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_synthetic_city(tmp_path / f"{name}.osm.gz", bbox=BBOX, seed=seed)
    first, second, other = ((tmp_path / f"{n}.osm.gz").read_bytes() for n in "abc")
    assert first == second != other


@pytest.mark.parametrize("suffix", ["osm", "osm.gz", "osm.bz2"])
def test_every_format_holds_the_same_city(tmp_path, suffix):
    path = tmp_path / f"city.{suffix}"
    write_synthetic_city(path, bbox=BBOX, seed=1)
    tags = [dict(element.tags) for element in osmium.FileProcessor(path)]
    assert sum("building" in t for t in tags) > 15
    assert sum("highway" in t for t in tags) == 8
    assert sum("height" in t for t in tags) >= 3
    assert sum("building:levels" in t for t in tags) >= 3
    assert sum(t.get("leisure") == "park" for t in tags) == 1


def test_a_box_too_small_for_a_block(tmp_path):
    with pytest.raises(GeodataError, match="one block needs 106 m"):
        write_synthetic_city(tmp_path / "a.osm", bbox=(24.94, 60.17, 24.9405, 60.1705), seed=1)


def test_a_city_of_another_size(tmp_path):
    city = synthetic_city(tmp_path, bbox=(7.42, 43.73, 7.4225, 43.732), tiles={"size_m": 64})
    assert city.crs_code == "EPSG:32632"
    (tmp_path / "out").mkdir()
    assert build_extract(city, tmp_path / "out")["buildings"] >= 4


def test_a_building_of_the_helsinki_pbf_is_edited(tmp_path):
    city = load_city("helsinki")
    edited = tmp_path / "edited.osm.gz"
    edit_building_height(source_path(city), edited, "relation/3839336", 33.3)
    source = city.source.model_copy(update={"kind": "file", "path": edited})
    for name, each in (("a", city), ("b", city.model_copy(update={"source": source}))):
        (tmp_path / name).mkdir()
        build_extract(each, tmp_path / name)
    before, after = (load_features(tmp_path / n).set_index("osm_id") for n in "ab")
    assert after.loc["relation/3839336", "height_m"] == 33.3
    # a known height changes those that its neighbours were given, and nothing else
    given = (before.height_source == "imputed") | (after.height_source == "imputed")
    rest = (before.index != "relation/3839336") & ~given
    assert features_digest(before[rest]) == features_digest(after[rest])
    changed = [
        tile.name
        for tile in city.tile_list
        if features_digest(load_features(tmp_path / "a", city.scene_window(tile)))
        != features_digest(load_features(tmp_path / "b", city.scene_window(tile)))
    ]
    assert 0 < len(changed) < len(city.tile_list)


def test_an_unknown_building_leaves_no_file(tmp_path):
    write_synthetic_city(tmp_path / "a.osm", bbox=BBOX, seed=1)
    with pytest.raises(GeodataError, match="no element 'way/99999'"):
        edit_building_height(tmp_path / "a.osm", tmp_path / "b.osm", "way/99999", 10)
    assert not (tmp_path / "b.osm").exists()


def test_a_target_of_unknown_format(tmp_path):
    write_synthetic_city(tmp_path / "a.osm", bbox=BBOX, seed=1)
    with pytest.raises(GeodataError, match="cannot copy"):
        edit_building_height(tmp_path / "a.osm", tmp_path / "b.txt", "relation/1", 10)
