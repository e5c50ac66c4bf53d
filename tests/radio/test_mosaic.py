"""A city's radio maps as one: in their place, across seams, and read only where they are asked."""

import shutil

import numpy as np
import pytest
import xarray as xr
import zarr
from made_up_cubes import level_in, one_sector_a_tile, write_tiles
from made_up_world import made_up_city

from ueloc_core.errors import RadioError, StoreError
from ueloc_core.grid import Window
from ueloc_core.radio.cube import CUBE_STORE, load_cube, window_of
from ueloc_core.radio.cube_layers import LAYERS, RSRP
from ueloc_core.radio.mosaic import covered_window, open_mosaic, own_window

TILES = ("e3013n52125", "e3014n52125", "e3015n52128")
STEP_DB = 0.02
HALF_A_STEP = 0.5 * STEP_DB + 1e-4


@pytest.fixture(scope="module")
def city():
    return made_up_city()


@pytest.fixture(scope="module")
def sectors(city):
    """Two sectors on neighbouring tiles in the south-west, one in the north-east."""
    return one_sector_a_tile(city, TILES)


@pytest.fixture(scope="module")
def folders(city, sectors, tmp_path_factory):
    return write_tiles(city, sectors, tmp_path_factory.mktemp("tiles"))


@pytest.fixture(scope="module")
def mosaic(city, folders):
    return open_mosaic(city, folders)


@pytest.fixture
def shards_read(monkeypatch):
    """(tile, layer, sector) of the shards that are read from now on."""
    read = []
    get = zarr.storage.LocalStore.get

    async def watched(self, key, *arguments, **options):
        layer, _, shard = key.partition("/c/")
        if layer in LAYERS and shard:
            read.append((self.root.parent.name, layer, int(shard.split("/")[0])))
        return await get(self, key, *arguments, **options)

    monkeypatch.setattr(zarr.storage.LocalStore, "get", watched)
    return read


def test_it_covers_the_tiles_and_names_all_sectors(city, sectors, mosaic):
    assert covered_window(mosaic) == city.window_cells
    assert dict(mosaic.sizes) == {
        "sector": 3,
        "y": city.window_cells.rows,
        "x": city.window_cells.columns,
    }
    assert mosaic.sector.values.tolist() == sorted(sectors.sector_id)
    assert mosaic.tile.values.tolist() == list(reversed(TILES))
    np.testing.assert_array_equal(mosaic.x, city.window_cells.x_centres_m)
    np.testing.assert_array_equal(mosaic.y, city.window_cells.y_centres_m)
    assert mosaic.attrs["belief"] == "twin"
    for name, variable in mosaic.variables.items():
        assert variable.attrs["long_name"], name
        assert variable.attrs["units"], name
    for index, row in enumerate(sectors.iloc[::-1].itertuples()):
        assert own_window(mosaic, index) == city.trace_window(row.x_m, row.y_m)


def test_every_sector_lies_in_its_place(city, sectors, mosaic):
    """Against a look-up cell by cell; each sector leaves some of the city unknown."""
    for index, row in enumerate(sectors.iloc[::-1].itertuples()):
        by_hand = level_in(city, row, city.window_cells)
        values = mosaic.rsrp_dbm[index].values
        np.testing.assert_allclose(values, by_hand, rtol=0, atol=HALF_A_STEP)
        outside = np.ones_like(values, dtype=bool)
        own = own_window(mosaic, index).intersection(city.window_cells)
        outside[own.slices_in(city.window_cells)] = False
        assert outside.any()
        assert np.isnan(values[outside]).all()
        assert (mosaic.ray_hits[index].values[outside] == 0).all()


def test_no_seam_shows_where_two_tiles_meet(city, sectors, mosaic):
    """A window across the edge of the two southern tiles: both sectors, without a gap or shift."""
    seam_m = city.tile(TILES[0]).window.bounds_m[2]
    window = Window.centred(seam_m, city.tile(TILES[0]).window.centre_m[1], 96, 4.0)
    inside = {axis: slice(None) for axis in ("y", "x")}
    rows, columns = window.slices_in(city.window_cells)
    part = mosaic.isel(inside | {"y": rows, "x": columns})
    assert covered_window(part) == window
    assert part.x[0] < seam_m < part.x[-1]
    for index, row in enumerate(sectors.iloc[::-1].itertuples()):
        by_hand = level_in(city, row, window)
        np.testing.assert_allclose(part.rsrp_dbm[index], by_hand, rtol=0, atol=HALF_A_STEP)
    known = np.isfinite(part.rsrp_dbm.values).any(axis=(1, 2))
    assert known.tolist() == [False, True, True]


def test_the_stores_values_are_passed_on_to_the_last_bit(city, mosaic, folders):
    for index, tile in enumerate(reversed(TILES)):
        cube = load_cube(folders[tile])
        own = window_of(cube, 0)
        shared = own.intersection(city.window_cells)
        part = shared.slices_in(city.window_cells)
        for name in cube.data_vars:
            values = mosaic[name].variable[(index, *part)].values
            assert values.dtype == cube[name].dtype
            np.testing.assert_array_equal(values, cube[name].values[(0, *shared.slices_in(own))])


def test_opening_reads_no_shard(city, folders, shards_read):
    opened = open_mosaic(city, folders)
    opened.rsrp_dbm.sel(sector=30).isel(x=slice(0, 9))
    repr(opened.sizes)
    assert shards_read == []


@pytest.mark.parametrize("corner", ["south-west", "north-east", "middle"])
def test_a_window_reads_only_the_shards_that_it_meets(city, mosaic, shards_read, corner):
    x0, y0, x1, y1 = city.window_cells.bounds_m
    at_m, tiles = {
        "south-west": ((x0 + 16, y0 + 16), set(TILES[:2])),
        "north-east": ((x1 - 16, y1 - 16), set(TILES[2:])),
        "middle": ((x1 - 100, y0 + 250), set(TILES[1:])),
    }[corner]
    window = Window.centred(*at_m, 32, 4.0)
    rows, columns = window.slices_in(city.window_cells)
    part = mosaic.first_arrival_ns.isel(y=rows, x=columns).load()
    assert set(shards_read) == {(tile, "first_arrival_ns", 0) for tile in tiles}
    heard = {int(s) for s in part.sector[part.notnull().any(("y", "x"))]}
    assert heard == {30 - TILES.index(tile) for tile in tiles}


def test_one_sector_reads_one_shard(mosaic, shards_read):
    mosaic.rsrp_dbm.sel(sector=29).load()
    assert set(shards_read) == {(TILES[1], "path_gain_db", 0)}


@pytest.mark.parametrize(
    "key",
    [
        (1, 40, 41),
        (slice(None), 12, slice(3, 90, 7)),
        ([2, 0], slice(None, None, -3), [50, 2, 50]),
        (slice(1, 1), slice(None), 0),
        (-1, slice(-20, None), -1),
    ],
)
def test_any_part_is_that_of_the_whole(mosaic, key):
    for name in (RSRP, "ray_hits"):
        whole = mosaic[name].values
        in_memory = xr.DataArray(whole, dims=("sector", "y", "x"))
        np.testing.assert_array_equal(mosaic[name][key].values, in_memory[key].values)


def test_points_by_their_coordinates(city, sectors, mosaic):
    x_m, y_m = (sectors[axis].to_numpy() + 30.0 for axis in ("x_m", "y_m"))
    at = {axis: xr.DataArray(v, dims="point") for axis, v in (("x", x_m), ("y", y_m))}
    values = mosaic.rsrp_dbm.sel(at, method="nearest").values
    row, column = city.window_cells.indices(x_m, y_m)
    np.testing.assert_array_equal(values, mosaic.rsrp_dbm.values[:, row, column])
    assert np.isfinite(values).any()


def test_another_window_may_leave_the_tiles(city, sectors, folders):
    """The whole of a sector's own window, half of which lies beyond the city's edge."""
    row = sectors.iloc[0]
    own = city.trace_window(row.x_m, row.y_m)
    assert own.intersection(city.window_cells) != own
    wide = open_mosaic(city, folders, own)
    values = wide.rsrp_dbm.sel(sector=30).values
    np.testing.assert_allclose(values, level_in(city, row, own), rtol=0, atol=HALF_A_STEP)


def test_a_shard_that_is_corrupt_is_told_when_it_is_read(city, folders, tmp_path):
    copies = {tile: shutil.copytree(path, tmp_path / tile) for tile, path in folders.items()}
    shard = copies[TILES[0]] / CUBE_STORE / "path_gain_db" / "c" / "0" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[:40])
    opened = open_mosaic(city, copies)
    assert np.isfinite(opened.rsrp_dbm.sel(sector=28).values).any()
    with pytest.raises(StoreError, match=TILES[0]):
        opened.rsrp_dbm.sel(sector=30).load()
    shutil.rmtree(copies[TILES[1]])
    with pytest.raises(StoreError, match=TILES[1]):
        open_mosaic(city, copies)


def test_cubes_that_do_not_belong_together_are_refused(city, sectors, folders, tmp_path):
    def with_one(number, **options):
        other_city, table = options.pop("city", city), options.pop("sectors", sectors)
        others = write_tiles(other_city, table, tmp_path / str(number), **options)
        return folders | {TILES[1]: others[TILES[1]]}

    with pytest.raises(RadioError, match="no sector stands"):
        open_mosaic(city, {"e3013n52126": folders["e3013n52126"]})
    with pytest.raises(RadioError, match=f"{TILES[1]}: .*different beliefs"):
        open_mosaic(city, with_one(1, belief="world"))
    with pytest.raises(RadioError, match=r"different layers \(first_arrival_ns, ray_hits\)"):
        open_mosaic(city, with_one(2, delays=False))
    twice = sectors.assign(sector_id=[31, 30, 29])
    with pytest.raises(RadioError, match="sector 30 stands in two tiles"):
        open_mosaic(city, with_one(3, sectors=twice))
    moved = made_up_city(crs="EPSG:3067")
    with pytest.raises(RadioError, match="crs is EPSG:32635, the city's is EPSG:3067"):
        open_mosaic(moved, folders)
