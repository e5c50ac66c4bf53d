"""Layers of radio maps as GeoTIFF: the right value at the right place on Earth."""

import numpy as np
import pytest
import rasterio
import rasterio.warp
import xarray as xr
import yaml
from click.testing import CliRunner
from made_up_cubes import level_dbm, level_in, one_sector_a_tile, store_tiles, write_tiles
from made_up_world import default_atlas, made_up_city

from ueloc_core.city import load_city
from ueloc_core.cli import main
from ueloc_core.errors import RadioError, UelocError
from ueloc_core.provenance import ArtifactKey, Store
from ueloc_core.radio.atlas import MapAtlas
from ueloc_core.radio.export import (
    BEST_SERVER,
    best_layer,
    derived_layer,
    export_layer,
    sector_layer,
)
from ueloc_core.radio.layers import derived_layers
from ueloc_core.radio.mosaic import open_mosaic

TILES = ("e3013n52125", "e3014n52125", "e3015n52128")
HALF_A_STEP = 0.01 + 1e-4


@pytest.fixture(scope="module")
def city():
    return made_up_city()


@pytest.fixture(scope="module")
def sectors(city):
    return one_sector_a_tile(city, TILES)


@pytest.fixture(scope="module")
def folders(city, sectors, tmp_path_factory):
    return write_tiles(city, sectors, tmp_path_factory.mktemp("tiles"))


@pytest.fixture(scope="module")
def mosaic(city, folders):
    return open_mosaic(city, folders)


def lowest_id_first(sectors):
    return list(sectors.sort_values("sector_id").itertuples())


def strongest(city, sectors):
    """RSRP of the strongest sector and its identity over the city, by hand."""
    rows = lowest_id_first(sectors)
    levels = np.stack([level_in(city, row, city.window_cells) for row in rows])
    levels[np.isnan(levels)] = -np.inf
    ids = np.array([row.sector_id for row in rows])[levels.argmax(axis=0)]
    best = levels.max(axis=0)
    return np.where(np.isinf(best), np.nan, best), np.where(np.isinf(best), 0, ids)


def test_a_sector_comes_back_from_its_file_in_its_place(city, sectors, folders, tmp_path):
    """Values are looked up through longitude and latitude, at the centres of grid cells."""
    row = next(sectors.itertuples())
    window = city.trace_window(row.x_m, row.y_m)
    layer = sector_layer(city, folders, "rsrp_dbm", row.sector_id)
    path = export_layer(layer, tmp_path / "rsrp.tif")
    level = level_dbm(city, row)
    with rasterio.open(path) as raster:
        assert raster.crs == city.crs_code
        assert raster.transform.e == -4.0  # north up
        assert raster.bounds == pytest.approx(window.bounds_m)
        assert np.isnan(raster.nodata)
        assert raster.units == ("dBm",)
        assert raster.descriptions == ("rsrp_dbm",)
        assert "OpenStreetMap" in raster.tags()["attribution"]
        np.testing.assert_allclose(raster.read(1)[::-1], level, rtol=0, atol=HALF_A_STEP)
        rng = np.random.default_rng(0)
        i, j = rng.integers(0, window.rows, (2, 50))
        lon, lat = city.to_lonlat(window.x_centres_m[j], window.y_centres_m[i])
        x_m, y_m = rasterio.warp.transform("EPSG:4326", raster.crs, lon, lat)
        # within half a cell: a point 0.49 cells off the centre is still in the same pixel
        for shift_m in (0.0, 0.49 * 4, -0.49 * 4):
            points = zip(np.add(x_m, shift_m), np.add(y_m, shift_m), strict=True)
            (values,) = np.array(list(raster.sample(points))).T
            np.testing.assert_allclose(values, level[i, j], rtol=0, atol=HALF_A_STEP)


def test_nodata_is_where_nothing_is_known(city, sectors, folders, tmp_path):
    layer = sector_layer(city, folders, "first_arrival_ns", 29)
    with rasterio.open(export_layer(layer, tmp_path / "delay.tif")) as raster:
        masked = raster.read(1, masked=True)[::-1]
        assert raster.units == ("ns",)
    unknown = np.zeros(masked.shape, dtype=bool)
    unknown[::9, ::11] = True
    np.testing.assert_array_equal(masked.mask, unknown)


def test_the_strongest_sector_city_wide(city, sectors, mosaic, tmp_path):
    level, ids = strongest(city, sectors)
    with rasterio.open(export_layer(best_layer(mosaic, "rsrp_dbm"), tmp_path / "r.tif")) as raster:
        assert raster.bounds == pytest.approx(city.window_cells.bounds_m)
        np.testing.assert_allclose(raster.read(1)[::-1], level, rtol=0, atol=HALF_A_STEP)
    with rasterio.open(export_layer(best_layer(mosaic, BEST_SERVER), tmp_path / "b.tif")) as raster:
        assert raster.nodata == 0
        named = raster.read(1)[::-1]
    clear = strongest_by_a_step(city, sectors)
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(named[clear], ids[clear])
    assert set(np.unique(named)) == {0, 28, 29, 30}


def strongest_by_a_step(city, sectors):
    """Where rounding cannot change which sector is the strongest."""
    rows = lowest_id_first(sectors)
    levels = np.stack([level_in(city, row, city.window_cells) for row in rows])
    levels[np.isnan(levels)] = -1e3
    levels.sort(axis=0)
    return (levels[-1] - levels[-2] > 0.05) | (levels[-1] == -1e3)


def test_any_layer_of_the_strongest_sector(city, mosaic):
    """The delay of each grid cell is that of the sector that serves there."""
    delay, served = best_layer(mosaic, "first_arrival_ns"), best_layer(mosaic, BEST_SERVER)
    whole = mosaic.first_arrival_ns.load()
    index = np.searchsorted(mosaic.sector.values, served.values)
    wanted = np.take_along_axis(whole.values, index[None] % 3, axis=0)[0]
    np.testing.assert_array_equal(delay, np.where(served.values == 0, np.nan, wanted))
    hits = best_layer(mosaic, "ray_hits")
    assert hits.dtype == np.uint32
    assert (hits.values[served.values == 0] == 0).all()


def test_the_strongest_of_a_part_is_the_part_of_the_strongest(mosaic):
    part = {"y": slice(5, 60), "x": slice(11, 70)}
    for layer in ("rsrp_dbm", BEST_SERVER):
        xr.testing.assert_equal(
            best_layer(mosaic.isel(part), layer).drop_vars("spatial_ref"),
            best_layer(mosaic, layer).isel(part).drop_vars("spatial_ref"),
        )


def test_a_layer_of_ones_own_is_written_where_it_belongs(city, mosaic, tmp_path):
    """Any raster that keeps the coords of the mosaic, and any part of it."""
    first, last = (mosaic.rsrp_dbm.isel(sector=k, drop=True).load() for k in (0, 2))
    best = np.fmax(first, last).rename("best_dbm").assign_attrs(units="dBm")
    with rasterio.open(export_layer(best, tmp_path / "best.tiff")) as raster:
        assert raster.bounds == pytest.approx(city.window_cells.bounds_m)
        np.testing.assert_array_equal(raster.read(1)[::-1], best)
        assert raster.descriptions == ("best_dbm",)
    part = best.isel(y=slice(20, 50), x=slice(7, 33))
    x0, y0, _, _ = city.window_cells.bounds_m
    with rasterio.open(export_layer(part, tmp_path / "part.tif")) as raster:
        wanted = (x0 + 7 * 4, y0 + 20 * 4, x0 + 33 * 4, y0 + 50 * 4)
        assert raster.bounds == pytest.approx(wanted)
        np.testing.assert_array_equal(raster.read(1)[::-1], part)


@pytest.mark.parametrize("part", [{"x": [3, 4, 6]}, {"y": slice(None, None, -1)}])
def test_rasters_with_gaps_or_upside_down_are_refused(mosaic, tmp_path, part):
    raster = mosaic.rsrp_dbm.isel(sector=0, drop=True).isel(part)
    with pytest.raises(UelocError, match=r"does not grow in steps of 4 m"):
        export_layer(raster, tmp_path / "map.tif")


def test_derived_layers_lie_where_the_maps_lie(city, sectors, folders, tmp_path):
    level, _ = strongest(city, sectors)
    row, sector = next(sectors.itertuples()), 30
    rate = derived_layer(city, folders, "throughput_mbps")
    with rasterio.open(export_layer(rate, tmp_path / "rate.tif")) as raster:
        assert raster.bounds == pytest.approx(city.window_cells.bounds_m)
        assert raster.units == ("Mbit s-1",)
        np.testing.assert_array_equal(raster.read(1)[::-1], rate)
    sinr = derived_layer(city, folders, "sinr_db", sector)
    with rasterio.open(export_layer(sinr, tmp_path / "sinr.tif")) as raster:
        assert raster.bounds == pytest.approx(city.trace_window(row.x_m, row.y_m).bounds_m)
        known = raster.read(1, masked=True)[::-1]
        np.testing.assert_array_equal(known.mask, np.isnan(level_dbm(city, row)))
    cqi = derived_layer(city, folders, "cqi")
    with rasterio.open(export_layer(cqi, tmp_path / "cqi.tif")) as raster:
        masked = raster.read(1, masked=True)[::-1]
        np.testing.assert_array_equal(masked.mask, np.isnan(level))
        assert masked.min() >= 0
    with pytest.raises(RadioError, match=r"'sinr_db' is one of a single sector.*snr_db"):
        derived_layer(city, folders, "sinr_db")
    with pytest.raises(RadioError, match="'cqi' is not one of a single sector"):
        derived_layer(city, folders, "cqi", sector)
    with pytest.raises(RadioError, match="unknown sector 7"):
        derived_layer(city, folders, "sinr_db", 7)
    with pytest.raises(RadioError, match=r"unknown layer 'rate'.*rsrp_dbm.*throughput_mbps"):
        derived_layer(city, folders, "rate")


def test_an_export_replaces_and_repeats_itself(mosaic, tmp_path):
    path = tmp_path / "made" / "map.tif"
    layer = best_layer(mosaic, "rsrp_dbm")
    content = export_layer(layer, path).read_bytes()
    path.write_bytes(b"old")
    assert export_layer(layer, path).read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == ["map.tif"]
    with pytest.raises(UelocError, match="cannot write"):
        export_layer(layer, path / "below.tif")


def test_what_is_unknown_is_named(city, folders, mosaic, tmp_path):
    with pytest.raises(RadioError, match=r"unknown layer 'gain'.*path_gain_db.*best_server"):
        best_layer(mosaic, "gain")
    with pytest.raises(RadioError, match=r"unknown layer 'best_server'.*path_gain_db"):
        sector_layer(city, folders, BEST_SERVER, 30)
    with pytest.raises(RadioError, match=r"unknown sector 31.*ueloc sectors --city made_up"):
        sector_layer(city, folders, "rsrp_dbm", 31)
    with pytest.raises(RadioError, match=r"not as '\.png'"):
        export_layer(best_layer(mosaic, "rsrp_dbm"), tmp_path / "map.png")


@pytest.fixture(scope="module")
def place(city, tmp_path_factory):
    """Options of the command: the made-up city and a store with maps of its 18 sectors."""
    folder = tmp_path_factory.mktemp("place")
    content = city.model_dump(
        mode="json", include={"name", "bbox", "tiles", "window"}, exclude_unset=True
    ) | {"source": {"kind": "file", "path": "made_up.osm"}}
    (folder / "made_up.yaml").write_text(yaml.safe_dump(content))
    loaded = load_city(folder / "made_up.yaml")
    assert loaded.window_cells == city.window_cells
    store_tiles(loaded, default_atlas().sectors, str(folder / "store"))
    return ["--city", str(folder / "made_up.yaml"), "--store", str(folder / "store")]


def run(*arguments):
    return CliRunner().invoke(main, ["export-map", *map(str, arguments)])


def test_the_command_writes_the_city_and_a_sector(city, place, tmp_path):
    sectors = default_atlas().sectors
    done = run(*place, "-o", tmp_path / "city.tif")
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(tmp_path / "city.tif")
    assert "OpenStreetMap" in done.stderr
    with rasterio.open(tmp_path / "city.tif") as raster:
        level, _ = strongest(city, sectors)
        np.testing.assert_allclose(raster.read(1)[::-1], level, rtol=0, atol=HALF_A_STEP)
    done = run(*place, "--layer", "ray_hits", "--sector", 42, "-o", tmp_path / "hits.tif")
    assert done.exit_code == 0, done.output
    with rasterio.open(tmp_path / "hits.tif") as raster:
        row = sectors.set_index("sector_id").loc[42]
        assert raster.bounds == pytest.approx(city.trace_window(row.x_m, row.y_m).bounds_m)
        assert raster.read(1)[-2, 5] == 5


def test_the_command_writes_what_follows_from_all_sectors(city, place, tmp_path):
    done = run(*place, "--layer", "serving_rsrp_dbm", "-o", tmp_path / "served.tif")
    assert done.exit_code == 0, done.output
    with rasterio.open(tmp_path / "served.tif") as raster:
        level, _ = strongest(city, default_atlas().sectors)
        np.testing.assert_allclose(raster.read(1)[::-1], level, rtol=0, atol=HALF_A_STEP)


def test_layers_are_the_same_sector_by_sector_tile_by_tile_and_all_at_once(place):
    """Read sector by sector, derived tile by tile, and composed from all maps in memory."""
    city, store = load_city(place[1]), Store(place[3])
    scenes, sites, radio_maps = (
        {t: store.require(ArtifactKey(city.name, stage, t)).path for t in city.tile_names}
        for stage in ("scene", "sites", "radio_map")
    )
    streamed = best_layer(open_mosaic(city, radio_maps), BEST_SERVER)
    atlas = MapAtlas.load(city, scenes, sites, radio_maps)
    composed = derived_layers(city, atlas)
    assert len(np.unique(streamed)) > 5
    np.testing.assert_array_equal(streamed, composed[BEST_SERVER])
    for layer in (BEST_SERVER, "throughput_mbps", "serving_timing_advance"):
        by_tile = derived_layer(city, radio_maps, layer)
        np.testing.assert_array_equal(by_tile, composed[layer])
        assert by_tile.attrs.items() >= composed[layer].attrs.items()
    own = derived_layers(city, atlas, atlas.windows[atlas.index_of[41]]).sel(sector=41)
    for layer in ("sinr_db", "rsrq_db", "timing_advance"):
        np.testing.assert_array_equal(derived_layer(city, radio_maps, layer, 41), own[layer])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--layer", "gain", "-o", "a.tif"], ["unknown layer 'gain'", "rsrp_dbm", "best_server"]),
        (["--layer", "gain", "--sector", "41", "-o", "a.tif"], ["unknown layer 'gain'"]),
        (["--layer", "mean_delay_ns", "-o", "a.tif"], ["unknown layer", "first_arrival_ns"]),
        (["--layer", "sinr_db", "-o", "a.tif"], ["'sinr_db'", "single sector"]),
        (["--sector", "7", "-o", "a.tif"], ["unknown sector 7", "ueloc sectors"]),
        (["-o", "a.png"], ["'.png'", ".tif"]),
    ],
)
def test_the_command_names_what_is_wrong(place, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    result = run(*place, *options)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_layer_is_refused_before_anything_is_read(tmp_path):
    empty = ("--city", "helsinki", "--store", tmp_path / "empty", "-o", tmp_path / "a.tif")
    for layer, words in {
        "gain": ("unknown layer 'gain'", "throughput_mbps", "path_gain_db"),
        "sinr_db": ("'sinr_db'", "single sector"),
    }.items():
        result = run(*empty, "--layer", layer)
        assert result.exit_code == 2
        assert all(word in result.stderr for word in words), result.stderr


def test_nothing_traced_says_what_to_run(tmp_path):
    result = run("--city", "helsinki", "--store", tmp_path / "empty", "-o", tmp_path / "a.tif")
    assert result.exit_code == 2
    assert "has not been computed" in result.stderr
