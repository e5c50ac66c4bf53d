"""Which file a city's extract is."""

import subprocess
import sys

import pytest

from ueloc_core.city import City, load_cities, load_city
from ueloc_core.errors import GeodataError
from ueloc_core.geodata import formats, overpass
from ueloc_core.geodata.formats import SUFFIXES
from ueloc_core.geodata.sources import local_source, source_label, source_path

OVERPASS = ("astana_center", "london_holborn", "monaco", "munich_altstadt")


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    """No download can be found or made, unless a test sets up one."""
    monkeypatch.setenv("UELOC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("UELOC_OVERPASS_URL", "http://127.0.0.1:9/api")
    monkeypatch.delenv("UELOC_EXTRACTS", raising=False)


def city(**source):
    return City.model_validate(
        {"name": "somewhere", "bbox": (24.0, 60.0, 24.01, 60.01), "source": source}
    )


def test_the_bundled_extract():
    helsinki = load_city("helsinki")
    assert source_path(helsinki).name == "Helsinki.osm.pbf"
    assert source_label(helsinki) == "bundled helsinki_pbf"


def test_a_file_of_the_users(tmp_path):
    path = tmp_path / "mine.osm.gz"
    place = city(kind="file", path=path)
    with pytest.raises(GeodataError, match="no such extract"):
        source_path(place)
    path.touch()
    assert source_path(place) == local_source(place) == path
    assert source_label(place) == "file mine.osm.gz"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_extract_of_the_citys_name_in_the_folder_of_extracts(tmp_path, monkeypatch, suffix):
    place = city(kind="overpass")
    monkeypatch.setenv("UELOC_EXTRACTS", str(tmp_path))
    (tmp_path / f"elsewhere{suffix}").touch()
    assert local_source(place) is None
    assert source_label(place) == "overpass"
    path = tmp_path / f"somewhere{suffix}"
    path.touch()
    assert source_path(place) == path
    assert source_label(place) == f"file somewhere{suffix}"


def test_a_city_takes_the_extract_of_the_one_that_it_extends(tmp_path, monkeypatch):
    """Its own first; a download is shared as long as both have the same bounding box."""
    base = city(kind="overpass")
    variant = base.model_copy(update={"name": "variant", "extends": ("middle", "somewhere")})
    monkeypatch.setenv("UELOC_EXTRACTS", str(tmp_path))
    (tmp_path / "somewhere.osm.pbf").touch()
    assert local_source(variant) == local_source(base) == tmp_path / "somewhere.osm.pbf"
    (tmp_path / "variant.osm").touch()
    assert local_source(variant) == tmp_path / "variant.osm"
    assert local_source(base) == tmp_path / "somewhere.osm.pbf"
    monkeypatch.delenv("UELOC_EXTRACTS")
    download = overpass._extract_path(base)
    download.parent.mkdir(parents=True)
    download.touch()
    assert local_source(variant) == local_source(base) == download
    wider = variant.model_copy(update={"bbox": (24.0, 60.0, 24.02, 60.01)})
    assert local_source(wider) is None


def test_the_path_of_the_city_file_comes_before_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("UELOC_EXTRACTS", str(tmp_path))
    (tmp_path / "somewhere.osm").touch()
    path = tmp_path / "other.osm.pbf"
    path.touch()
    place = city(kind="overpass", path=path)
    assert source_path(place) == path
    assert source_label(place) == "file other.osm.pbf"
    path.unlink()
    with pytest.raises(GeodataError, match="no such extract"):
        source_path(place)


def test_a_folder_of_extracts_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("UELOC_EXTRACTS", str(tmp_path / "nowhere"))
    with pytest.raises(GeodataError, match=r"UELOC_EXTRACTS = .*no such folder"):
        source_path(city(kind="overpass"))


def test_the_folder_of_extracts_is_for_downloaded_cities_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("UELOC_EXTRACTS", str(tmp_path))
    (tmp_path / "helsinki.osm").touch()
    assert source_path(load_city("helsinki")).name == "Helsinki.osm.pbf"


def test_no_folder_shows_in_a_label(tmp_path, monkeypatch):
    monkeypatch.setenv("UELOC_EXTRACTS", str(tmp_path))
    (tmp_path / "somewhere.osm").touch()
    labels = [source_label(c) for c in (city(kind="overpass"), load_city("helsinki"))]
    assert not any("/" in label or "\\" in label for label in labels)


@pytest.mark.parametrize(("name", "size"), [("a.osm.pbf", 1), ("a.osm.gz", 1), ("a.osm", 10)])
def test_a_planet_is_refused_before_it_is_read(tmp_path, name, size):
    path = tmp_path / name
    with path.open("wb") as stream:
        stream.truncate(formats.LARGEST_BYTES * size + 1)  # a file of holes: it takes no room
    with pytest.raises(GeodataError, match="far more than a city") as caught:
        source_path(city(kind="file", path=path))
    assert "osmium extract --bbox" in caught.value.remedy


def test_shipped_cities_load_without_network():
    code = (
        "import socket; socket.socket.connect = None; socket.getaddrinfo = None;"
        "from ueloc_core.city import load_cities; import sys;"
        "print(sorted(n for n, city in load_cities().items() if not city.extends));"
        "assert 'osmnx' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(sorted([*OVERPASS, "helsinki"]))


@pytest.mark.parametrize("name", OVERPASS)
def test_splits_of_shipped_cities_stand_apart(name):
    place = load_cities()[name]
    assert place.source.kind == "overpass"
    windows = {
        split: [place.tile(tile).window for tile in getattr(place.splits, split)]
        for split in ("validation", "calibration", "test")
    }
    assert all(windows.values())
    for test in windows["test"]:
        near = test.buffered(place.tiles.size_m / 2)
        assert not any(near.intersection(other) for other in windows["calibration"])
        assert not any(near.intersection(other) for other in windows["validation"])


def test_sources_import_without_osmnx():
    code = (
        "import sys; from ueloc_core.geodata.sources import source_path;"
        "from ueloc_core.city import load_city;"
        "assert source_path(load_city('helsinki')).is_file();"
        "print({'osmnx', 'geopandas', 'pyrosm', 'requests'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
