"""Elevation models of every form, and what is wrong with some."""

import gzip
import http.server
import os
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio import Affine

from ueloc_core.city import load_city
from ueloc_core.errors import GeodataError
from ueloc_core.geodata.dem import dem_digest, srtm_tiles
from ueloc_core.geodata.terrain import build_terrain
from ueloc_core.synthetic import synthetic_city

WEST, NORTH, SIZE = 24.0, 61.0, 1201  # N60E024, three arc seconds
PER_DEGREE = SIZE - 1


def plane_m(lon, lat):
    """Hundreds of metres of slope over the made-up city."""
    return 2000 * (lon - 24.9) + 1500 * (lat - 60.15)


@pytest.fixture
def city(tmp_path):
    return synthetic_city(tmp_path)


def with_terrain(city, **terrain):
    section = type(city.terrain).model_validate(terrain)
    return city.model_copy(update={"terrain": section})


def pixels():
    """The plane at the pixels of the SRTM tile, whose centres lie on whole seconds."""
    axis = np.arange(SIZE) / PER_DEGREE
    lon, lat = np.meshgrid(WEST + axis, NORTH - axis)
    return plane_m(lon, lat)


def write_tif(path, heights, *, unit="", crs="EPSG:4326", nodata=None):
    step = 1 / PER_DEGREE
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=heights.shape[0],
        width=heights.shape[1],
        count=1,
        dtype="float32",
        crs=crs,
        transform=Affine(step, 0, WEST - step / 2, 0, -step, NORTH + step / 2),
        nodata=nodata,
    ) as target:
        target.write(heights.astype(np.float32), 1)
        if unit:
            target.set_band_unit(1, unit)
    return path


def hgt_bytes(heights):
    return np.round(heights).astype(">i2").tobytes()


def expected(city, terrain):
    rows, columns = terrain.heights_m.shape
    x = (terrain.column + np.arange(columns)) * terrain.step_m
    y = (terrain.row + np.arange(rows)) * terrain.step_m
    return plane_m(*city.to_lonlat(*np.meshgrid(x, y)))


def test_a_geotiff_is_sampled_to_the_centimetre(city, tmp_path):
    path = write_tif(tmp_path / "dem.tif", pixels())
    terrain, metadata = build_terrain(with_terrain(city, kind="file", path=path))
    np.testing.assert_allclose(terrain.heights_m, expected(city, terrain), atol=0.01)
    assert metadata["voids_filled"] == 0
    assert metadata["beyond_dem_vertices"] == 0
    assert metadata["highest_m"] > metadata["lowest_m"] + 10


@pytest.mark.parametrize("suffix", [".hgt", ".hgt.zip", ".hgt.gz"])
def test_srtm_tiles_of_each_form_are_the_same_ground(city, tmp_path, suffix):
    folder = tmp_path / "dem"
    folder.mkdir()
    content = hgt_bytes(pixels())
    path = folder / f"N60E024{suffix}"
    if suffix == ".hgt.zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("N60E024.hgt", content)
    else:
        path.write_bytes(gzip.compress(content) if suffix == ".hgt.gz" else content)
    terrain, _ = build_terrain(with_terrain(city, kind="srtm", path=folder))
    np.testing.assert_allclose(terrain.heights_m, expected(city, terrain), atol=0.51)


def test_feet_become_metres(city, tmp_path):
    path = write_tif(tmp_path / "dem.tif", pixels() / 0.3048, unit="feet")
    terrain, _ = build_terrain(with_terrain(city, kind="file", path=path))
    np.testing.assert_allclose(terrain.heights_m, expected(city, terrain), atol=0.01)


def test_voids_are_filled_from_their_neighbours_and_counted(city, tmp_path):
    heights = pixels()
    lon, lat = city.bbox[0] + 0.002, city.bbox[1] + 0.001
    row, column = round((NORTH - lat) * PER_DEGREE), round((lon - WEST) * PER_DEGREE)
    heights[row - 1 : row + 2, column - 1 : column + 2] = -32768
    path = write_tif(tmp_path / "dem.tif", heights, nodata=-32768)
    terrain, metadata = build_terrain(with_terrain(city, kind="file", path=path))
    assert metadata["voids_filled"] == 9
    np.testing.assert_allclose(terrain.heights_m, expected(city, terrain), atol=3.0)


def _broken(tmp_path, name):
    path = tmp_path / "dem.tif"
    if name == "all void":
        return write_tif(path, np.full((SIZE, SIZE), -32768.0), nodata=-32768)
    if name == "unit":
        return write_tif(path, pixels(), unit="fathom")
    if name == "elsewhere":
        return write_tif(path, pixels()[:100, :100])
    if name == "truncated":
        content = write_tif(path, pixels()).read_bytes()
        path.write_bytes(content[: len(content) // 3])
        return path
    if name == "text":
        path.write_text("heights")
        return path
    return tmp_path / "nothing.tif"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("all void", "no value"),
        ("unit", "fathom"),
        ("elsewhere", "covers"),
        ("truncated", "cannot be read"),
        ("text", "cannot be read"),
        ("missing", "no such elevation model"),
    ],
)
def test_what_is_wrong_is_told_with_the_file_and_a_remedy(city, tmp_path, name, told):
    path = _broken(tmp_path, name)
    with pytest.raises(GeodataError, match=told) as caught:
        build_terrain(with_terrain(city, kind="file", path=path))
    assert path.name in str(caught.value)
    assert "terrain.kind: flat" in str(caught.value)


def test_a_model_without_a_coordinate_system_is_refused(city, tmp_path):
    path = write_tif(tmp_path / "dem.tif", pixels(), crs=None)
    with pytest.raises(GeodataError, match="coordinate reference system"):
        build_terrain(with_terrain(city, kind="file", path=path))


def test_bytes_that_changed_in_a_packed_tile_never_become_heights(city, tmp_path):
    content = hgt_bytes(pixels())
    with zipfile.ZipFile(tmp_path / "whole.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("N60E024.hgt", content)
    for suffix, whole in (
        (".hgt.zip", (tmp_path / "whole.zip").read_bytes()),
        (".hgt.gz", gzip.compress(content)),
    ):
        damaged = bytearray(whole)
        middle = len(damaged) // 2
        damaged[middle : middle + 50] = bytes(50)
        folder = tmp_path / suffix
        folder.mkdir()
        (folder / f"N60E024{suffix}").write_bytes(damaged)
        with pytest.raises(GeodataError, match=rf"N60E024\{suffix}: .*cannot be read"):
            build_terrain(with_terrain(city, kind="srtm", path=folder))


def write_other(path, **profile):
    """A GeoTIFF of a level plane around the city that is not quite a model."""
    kept = {"driver": "GTiff", "height": 60, "width": 60, "count": 1, "dtype": "float32"}
    place = {"crs": "EPSG:4326", "transform": Affine(0.01, 0, 24.6, 0, -0.01, 60.4)}
    with rasterio.open(path, "w", **{**kept, **place, **profile}) as target:
        for band in range(target.count):
            target.write(np.full((60, 60), 7, target.dtypes[0]), band + 1)
    return path


@pytest.mark.parametrize(
    ("profile", "told"),
    [
        ({"count": 3, "dtype": "uint8"}, "bands .uint8, uint8, uint8., not one"),
        ({"dtype": "complex64"}, "bands .complex64., not one"),
        ({"transform": Affine(0, 0, 24.6, 0, 0, 60.4)}, "degenerate"),
        ({"crs": 'LOCAL_CS["site",UNIT["metre",1]]'}, "cannot be read"),
        ({"transform": Affine(0.01, 0.01, 24.89, 0.01, -0.01, 60.4)}, "covers"),
        ({"transform": Affine(0.01, 0, 44.6, 0, 0.01, 60.4)}, "covers"),
    ],
)
def test_a_geotiff_that_is_no_elevation_model_is_refused(city, tmp_path, profile, told):
    path = write_other(tmp_path / "dem.tif", **profile)
    with pytest.raises(GeodataError, match=rf"dem\.tif.*{told}.*terrain\.kind: flat"):
        build_terrain(with_terrain(city, kind="file", path=path))


def test_a_model_may_be_stored_from_south_to_north(city, tmp_path):
    step = 1 / PER_DEGREE
    south_up = Affine(step, 0, WEST - step / 2, 0, step, NORTH - 1 - step / 2)
    size = {"height": SIZE, "width": SIZE}
    with rasterio.open(
        *(tmp_path / "up.tif", "w"),
        **{"driver": "GTiff", "count": 1, "dtype": "float32", "crs": "EPSG:4326", **size},
        transform=south_up,
    ) as target:
        target.write(pixels()[::-1].astype(np.float32), 1)
    there = write_tif(tmp_path / "down.tif", pixels())
    up, down = (
        build_terrain(with_terrain(city, kind="file", path=path))[0]
        for path in (tmp_path / "up.tif", there)
    )
    np.testing.assert_allclose(up.heights_m, down.heights_m, atol=0.002)


def test_a_missing_tile_is_named(city, tmp_path):
    with pytest.raises(GeodataError, match=r"N60E024\.hgt.*UELOC_DEM"):
        build_terrain(with_terrain(city, kind="srtm", path=tmp_path))


def test_the_digest_follows_the_content(city, tmp_path):
    one = write_tif(tmp_path / "one.tif", pixels())
    same = tmp_path / "same.tif"
    same.write_bytes(one.read_bytes())
    other = write_tif(tmp_path / "other.tif", pixels() + 1)
    digests = [dem_digest(with_terrain(city, kind="file", path=p)) for p in (one, same, other)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("bbox", "tiles"),
    [
        ((7.4, 43.7, 7.5, 43.8), ["N43E007"]),
        ((-0.2, 51.4, 0.1, 51.6), ["N51W001", "N51E000"]),
        ((-58.5, -34.7, -58.3, -34.5), ["S35W059"]),
        ((10.0, 45.0, 11.0, 46.0), ["N45E010"]),
    ],
)
def test_tiles_are_named_by_their_south_west_corner(bbox, tiles):
    assert srtm_tiles(bbox) == tiles


class _Archive(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        status, content = self.server.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def archive(tmp_path, monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Archive)
    server.asked, server.answer = [], (404, b"")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("UELOC_SRTM_URL", url + "/{band}/{tile}.hgt.gz")
    monkeypatch.setenv("UELOC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("UELOC_DEM", raising=False)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_tile_is_downloaded_once(city, archive):
    archive.answer = (200, gzip.compress(hgt_bytes(pixels())))
    sloped = with_terrain(city, kind="srtm")
    terrain, _ = build_terrain(sloped)
    np.testing.assert_allclose(terrain.heights_m, expected(city, terrain), atol=0.51)
    again, _ = build_terrain(sloped)
    assert again.digest == terrain.digest
    assert archive.asked == ["/N60/N60E024.hgt.gz"]


@pytest.mark.parametrize(
    "answer",
    [
        (404, b"no"),
        (200, b"<html>"),
        (200, gzip.compress(b"x" * 999)[:-9]),
        (200, gzip.compress(b"x" * 999)),
    ],
)
def test_a_failed_download_is_told_and_leaves_nothing(city, archive, tmp_path, answer):
    archive.answer = answer
    with pytest.raises(GeodataError, match=r"N60E024 cannot be downloaded.*UELOC_DEM"):
        build_terrain(with_terrain(city, kind="srtm"))
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_an_empty_setting_is_none(city, archive, monkeypatch):
    monkeypatch.setenv("UELOC_DEM", "")
    archive.answer = (200, gzip.compress(hgt_bytes(pixels())))
    build_terrain(with_terrain(city, kind="srtm"))
    assert len(archive.asked) == 1


@pytest.mark.parametrize(
    "url", ["http://x/{row}", "http://x/{", "http://x/{0}", "http://x/{tile.a}"]
)
def test_an_address_of_tiles_that_is_none(city, archive, monkeypatch, url):
    monkeypatch.setenv("UELOC_SRTM_URL", url)
    with pytest.raises(GeodataError, match=r"UELOC_SRTM_URL = .*not the address"):
        build_terrain(with_terrain(city, kind="srtm"))


def test_a_cache_that_cannot_be_written(city, archive, monkeypatch, tmp_path):
    archive.answer = (200, gzip.compress(hgt_bytes(pixels())))
    (tmp_path / "file").touch()
    monkeypatch.setenv("UELOC_CACHE", str(tmp_path / "file"))
    with pytest.raises(GeodataError, match=r"cannot be stored.*UELOC_CACHE"):
        build_terrain(with_terrain(city, kind="srtm"))


def test_offline_is_told(city, archive, monkeypatch):
    monkeypatch.setenv("UELOC_SRTM_URL", "http://127.0.0.1:9/{band}/{tile}.hgt.gz")
    with pytest.raises(GeodataError, match=r"UELOC_DEM.*terrain\.kind: flat"):
        build_terrain(with_terrain(city, kind="srtm"))


def test_monaco_rises_from_the_sea(monkeypatch):
    folder = Path(
        os.environ.get("UELOC_DEM", Path(__file__).resolve().parents[3] / "shared" / "dem")
    )
    if not (folder / "N43E007.hgt.zip").is_file():
        pytest.skip("needs the SRTM tile N43E007")
    monkeypatch.setenv("UELOC_DEM", str(folder))
    city = load_city("monaco")
    terrain, _ = build_terrain(city)
    assert 300 < terrain.heights_m.max() < 1200
    x, y = city.area_m[1]  # the south-east corner lies at sea
    assert abs(float(terrain.height_at(x, y))) < 3
