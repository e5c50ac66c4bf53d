"""The cube of a tile: what is stored comes back, small, exact to a step, and in its place."""

import re

import numpy as np
import pandera.errors
import pytest
import xarray as xr
import zarr
from made_up_world import default_atlas
from pyproj import CRS

from ueloc_core.errors import RadioError, StoreError
from ueloc_core.grid import Window
from ueloc_core.provenance import digest_folder
from ueloc_core.radio.cube import (
    CHUNK,
    CUBE_STORE,
    load_cube,
    make_cube,
    open_cube,
    window_of,
    write_cube,
)
from ueloc_core.radio.cube_layers import LAYERS, REQUIRED, RSRP
from ueloc_core.radio.schemas import RadioMapSchema

SECTORS = 3
QUANTISED = [layer for layer in LAYERS.values() if layer.step is not None]


def made_up_layers(windows, seed=0):
    """Every layer over its whole range, unknown in a third of the grid cells."""
    rng = np.random.default_rng(seed)
    shape = (len(windows), *windows[0].shape)
    unknown = rng.random(shape) < 1 / 3
    layers = {
        layer.name: np.where(unknown, np.nan, rng.uniform(layer.lowest, layer.highest, shape))
        for layer in QUANTISED
    }
    layers["mean_delay_ns"] = layers["first_arrival_ns"] + 0.5 * (
        32_000 - layers["first_arrival_ns"]
    )
    layers["ray_hits"] = np.where(unknown, 0, rng.integers(0, 100_000, shape))
    return layers


@pytest.fixture(scope="module")
def parts():
    """City, sectors, windows and layers of a cube of three sectors."""
    atlas = default_atlas()
    windows = list(atlas.windows[2 : 2 + SECTORS])  # of two sites
    sectors = atlas.sectors.iloc[2 : 2 + SECTORS].reset_index(drop=True)
    sectors["power_dbm"] = [46.0, 43.0, 40.0]
    return atlas.city, sectors, windows, made_up_layers(windows)


@pytest.fixture(scope="module")
def cube(parts):
    return make_cube(*parts, {"belief": "twin", "sionna_rt": "2.2.0"})


@pytest.fixture(scope="module")
def folder(cube, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tile")
    write_cube(cube, folder / CUBE_STORE)
    return folder


@pytest.fixture
def keys_read(monkeypatch):
    """Keys of the chunk files that are read from now on."""
    keys = []
    get = zarr.storage.LocalStore.get

    async def watched(self, key, *arguments, **options):
        if "/c/" in f"/{key}" and not key.endswith("zarr.json"):
            keys.append(key)
        return await get(self, key, *arguments, **options)

    monkeypatch.setattr(zarr.storage.LocalStore, "get", watched)
    return keys


def test_a_cube_conforms_and_holds_all_layers(cube, parts):
    RadioMapSchema.validate(cube)
    assert list(cube.data_vars) == [*LAYERS, RSRP]
    for index, window in enumerate(parts[2]):
        assert window_of(cube, index) == window
    assert cube.sector.values.tolist() == parts[1].sector_id.tolist()


@pytest.mark.parametrize("layer", QUANTISED, ids=lambda layer: layer.name)
def test_what_is_read_is_within_half_a_step(cube, folder, layer):
    stored = load_cube(folder)[layer.name]
    assert stored.dtype == np.float32
    difference = (stored.astype(float) - cube[layer.name].astype(float)).values
    if layer.period is not None:
        difference = (difference + layer.period / 2) % layer.period - layer.period / 2
        assert stored.max() < layer.period
    np.testing.assert_array_equal(np.isnan(stored), np.isnan(cube[layer.name]))
    known = np.abs(difference[np.isfinite(difference)])
    assert known.max() <= layer.step / 2 + 2e-7 * max(abs(layer.lowest), layer.highest)
    assert known.max() > 0.4 * layer.step  # the store does round


def test_counts_are_exact(cube, folder):
    hits = load_cube(folder).ray_hits
    assert hits.dtype == np.uint32
    np.testing.assert_array_equal(hits, cube.ray_hits)


def test_an_azimuth_just_below_north_is_north(parts, tmp_path):
    city, sectors, windows, layers = parts
    azimuth = np.full_like(layers["path_gain_db"], 359.97)
    azimuth[0], azimuth[1] = -0.02, 360.0
    layers = {name: np.full_like(azimuth, 1.0) for name in REQUIRED}
    cube = make_cube(city, sectors, windows, layers | {"arrival_azimuth_deg": azimuth}, {})
    write_cube(cube, tmp_path / CUBE_STORE)
    np.testing.assert_array_equal(load_cube(tmp_path).arrival_azimuth_deg, 0.0)


def test_rsrp_is_gain_plus_the_power_of_a_resource_element(cube, folder):
    """46 dBm over 273 x 12 subcarriers are 10.8466 dBm; 3 dB less are 3 dB less."""
    stored = load_cube(folder)
    np.testing.assert_allclose(
        stored.element_power_dbm, [10.8466, 7.8466, 4.8466], rtol=0, atol=1e-4
    )
    for each in (cube, stored):
        excess = (each.rsrp_dbm - each.path_gain_db).values
        for k in range(SECTORS):
            known = excess[k][np.isfinite(excess[k])]
            np.testing.assert_allclose(known, stored.element_power_dbm[k], rtol=0, atol=1e-4)
    assert not (folder / CUBE_STORE / RSRP).exists()


def test_the_store_is_sharded_zarr_v3(cube, folder):
    store = zarr.open_group(folder / CUBE_STORE, mode="r")
    assert store.metadata.zarr_format == 3
    for layer in LAYERS.values():
        array = store[layer.name]
        assert array.dtype == layer.dtype
        assert array.chunks == (1, CHUNK, CHUNK)
        assert array.shards[0] == 1
        assert array.shards[1] >= cube.sizes["y"]
        assert array.attrs.get("scale_factor") == layer.step
        assert array.fill_value == (0 if layer.fill is None else layer.fill)
        assert array.attrs["units"] == layer.units
        files = [p for p in (folder / CUBE_STORE / layer.name / "c").rglob("*") if p.is_file()]
        assert len(files) == SECTORS


def test_the_cf_conventions_alone_decode_the_store(folder):
    """What other programs see: xarray without this project, down to the grid mapping."""
    plain = xr.open_zarr(folder / CUBE_STORE, consolidated=False, chunks=None)
    ours = load_cube(folder)
    for name in LAYERS:
        np.testing.assert_allclose(plain[name], ours[name], rtol=2e-7)
        assert plain[name].attrs["grid_mapping"] == "spatial_ref"
    assert CRS.from_cf(plain.spatial_ref.attrs).to_epsg() == int(
        default_atlas().city.crs_code.removeprefix("EPSG:")
    )


def test_everything_has_units_and_a_name(folder):
    stored = load_cube(folder)
    for name, variable in stored.variables.items():
        assert variable.attrs["units"], name
        assert variable.attrs["long_name"], name
    wanted = {"crs", "cell_m", "seed", "belief", "sionna_rt", "attribution", "frequency_hz"}
    assert wanted <= set(stored.attrs)


def test_the_same_cube_gives_the_same_bytes(cube, folder, tmp_path):
    size = write_cube(cube, tmp_path / CUBE_STORE)
    assert digest_folder(tmp_path) == digest_folder(folder)
    assert size == sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file())


def test_what_was_read_is_written_again_to_the_same_bytes(folder, tmp_path):
    write_cube(load_cube(folder), tmp_path / CUBE_STORE)
    assert digest_folder(tmp_path) == digest_folder(folder)


def test_opening_reads_no_layer_and_indexing_reads_one_shard(folder, keys_read):
    opened = open_cube(folder)
    assert not [key for key in keys_read if key.split("/")[0] in LAYERS]
    part = opened.rsrp_dbm[1, 3:9, 20:30]
    assert not [key for key in keys_read if key.split("/")[0] in LAYERS]
    values = part.values
    assert {key for key in keys_read if key.split("/")[0] in LAYERS} == {"path_gain_db/c/1/0/0"}
    np.testing.assert_array_equal(values, load_cube(folder).rsrp_dbm[1, 3:9, 20:30])


@pytest.mark.parametrize(
    "key",
    [
        (1, 2, 3),
        (slice(None), 5, slice(2, 9)),
        ([2, 0], slice(None, None, 3), slice(10, 2, -2)),
        (1, [4, 4, 1], slice(None)),
        (slice(0, 0), 0, 0),
    ],
)
def test_any_part_of_an_open_cube_is_that_of_the_loaded_one(folder, key):
    opened, loaded = open_cube(folder), load_cube(folder)
    for name in ("path_gain_db", "ray_hits", RSRP):
        np.testing.assert_array_equal(opened[name][key].values, loaded[name][key].values)


def test_points_of_an_open_cube(folder):
    opened, loaded = open_cube(folder), load_cube(folder)
    at = {d: xr.DataArray([0, 2, 2], dims="point") for d in ("sector", "y", "x")}
    np.testing.assert_array_equal(opened.rsrp_dbm.isel(at), loaded.rsrp_dbm.isel(at))


def test_some_layers_alone_are_read(folder, keys_read):
    some = load_cube(folder, (RSRP, "path_gain_se_db"))
    assert set(some.data_vars) == {RSRP, "path_gain_se_db"}
    read = {key.split("/")[0] for key in keys_read}
    assert read & set(LAYERS) == {"path_gain_db", "path_gain_se_db"}
    with pytest.raises(StoreError, match="no_such_layer"):
        load_cube(folder, ["no_such_layer"])


def test_what_is_unknown_everywhere_takes_no_room(parts, tmp_path):
    city, sectors, windows, layers = parts
    unknown = {name: np.full_like(layers["path_gain_db"], np.nan) for name in REQUIRED}
    write_cube(make_cube(city, sectors, windows, unknown, {}), tmp_path / CUBE_STORE)
    assert not (tmp_path / CUBE_STORE / "path_gain_db" / "c").exists()
    assert load_cube(tmp_path).path_gain_db.isnull().all()


def test_a_tile_without_sectors(parts, tmp_path):
    city, sectors, _, _ = parts
    layers = {name: np.empty((0, 20, 20)) for name in REQUIRED}
    write_cube(make_cube(city, sectors.iloc[:0], [], layers, {}), tmp_path / CUBE_STORE)
    empty = load_cube(tmp_path)
    assert dict(empty.sizes) == {"sector": 0, "y": 20, "x": 20}
    RadioMapSchema.validate(empty)


@pytest.mark.parametrize(
    ("layer", "value"),
    [
        ("path_gain_db", 700.0),
        ("path_gain_se_db", -0.02),
        ("first_arrival_ns", 40_000.0),
        ("line_of_sight", 2.0),
        ("path_gain_db", -np.inf),
    ],
)
def test_what_does_not_fit_is_refused_and_not_clipped(cube, tmp_path, layer, value):
    broken = cube.copy(deep=True)
    broken[layer][0, 0, 0] = value
    with pytest.raises(RadioError, match=f"{layer} = {re.escape(f'{value:g}')}"):
        write_cube(broken, tmp_path / CUBE_STORE)
    assert not (tmp_path / CUBE_STORE).exists()


def test_layers_that_do_not_fit_the_sectors_are_refused(parts):
    city, sectors, windows, layers = parts
    with pytest.raises(RadioError, match=r"unknown layers \['gain'\]"):
        make_cube(city, sectors, windows, layers | {"gain": layers["path_gain_db"]}, {})
    with pytest.raises(RadioError, match="needs the layers"):
        make_cube(city, sectors, windows, {"path_gain_db": layers["path_gain_db"]}, {})
    with pytest.raises(RadioError, match="ray_hits has shape"):
        make_cube(city, sectors, windows, layers | {"ray_hits": layers["ray_hits"][:, 1:]}, {})
    with pytest.raises(RadioError, match="2 windows"):
        make_cube(city, sectors, windows[:2], layers, {})
    small = [Window(w.column, w.row, 8, 8, w.cell_m) for w in windows]
    with pytest.raises(RadioError, match="has shape"):
        make_cube(city, sectors, small, layers, {})


@pytest.mark.parametrize(
    ("layer", "value", "message"),
    [
        ("line_of_sight", 1.01, "line_of_sight"),
        ("delay_spread_ns", -1.0, "delay_spread_ns"),
        ("departure_zenith_deg", 181.0, "departure_zenith_deg"),
        ("first_arrival_ns", 31_990.0, "mean_delay_ns is not before"),
        ("rsrp_dbm", -20.0, "plus element_power_dbm"),
    ],
)
def test_the_contract_notices_a_wrong_value(cube, layer, value, message):
    known = cube.path_gain_db.values
    at = tuple(np.argwhere(np.isfinite(known) & (np.abs(known) > 60))[0])
    broken = cube.copy(deep=True)
    broken["mean_delay_ns"].values[at] = 16_000.0
    broken["first_arrival_ns"].values[at] = 16_000.0
    RadioMapSchema.validate(broken)
    broken[layer].values[at] = value
    with pytest.raises(pandera.errors.SchemaErrors, match=message):
        RadioMapSchema.validate(broken, lazy=True)


@pytest.mark.parametrize("layer", ["path_gain_se_db", "first_arrival_ns", "arrival_spread_deg"])
def test_the_contract_wants_a_gain_where_anything_is_known(cube, layer):
    broken = cube.copy(deep=True)
    broken[layer].values[np.isnan(cube[layer].values)] = 1.0
    with pytest.raises(pandera.errors.SchemaErrors, match="only where path_gain_db does"):
        RadioMapSchema.validate(broken, lazy=True)


@pytest.mark.parametrize("damage", ["missing", "truncated", "metadata", "no_gain"])
def test_a_corrupt_store_names_its_file(cube, tmp_path, damage):
    path = tmp_path / CUBE_STORE
    if damage != "missing":
        write_cube(cube, path)
    if damage == "truncated":
        chunk = path / "path_gain_db" / "c" / "0" / "0" / "0"
        chunk.write_bytes(chunk.read_bytes()[:50])
    if damage == "metadata":
        (path / "zarr.json").write_text("{")
    if damage == "no_gain":
        (path / "path_gain_db").rename(path / "gain")
    with pytest.raises(StoreError, match=CUBE_STORE) as error:
        load_cube(tmp_path)
    assert "Materialize" in str(error.value)


def test_steps_lose_less_than_what_limits_the_value():
    """Each step's rounding error beside the smallest error that its value has anyway."""
    rounding = {layer.name: layer.step / np.sqrt(12) for layer in QUANTISED}
    assert rounding["path_gain_db"] < 1.0 / np.sqrt(12) / 10  # of 1 dB steps of reports
    cell_ns = 4.0 / 0.299792458 / np.sqrt(12)
    assert rounding["first_arrival_ns"] < cell_ns / 10
    cell_deg = np.degrees(4.0 / np.sqrt(12) / 500.0)  # seen from the far end of a window
    assert rounding["arrival_azimuth_deg"] < cell_deg
    for layer in QUANTISED:
        info = np.iinfo(layer.dtype)
        assert info.min <= layer.lowest / layer.step
        assert layer.highest / layer.step <= info.max
        assert not layer.lowest <= layer.fill * layer.step <= layer.highest
