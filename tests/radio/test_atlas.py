"""Maps of many sectors as one."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from made_up_world import default_atlas

from ueloc_core.errors import RadioError, StoreError
from ueloc_core.grid import Window
from ueloc_core.radio.atlas import MapAtlas
from ueloc_core.radio.cube import CUBE_STORE, make_cube, write_cube
from ueloc_core.units import power_per_resource_element_dbm

ELEMENT_POWER_DBM = power_per_resource_element_dbm(46.0, 273)


@pytest.fixture(scope="module")
def atlas():
    return default_atlas()


def test_indices_find_sectors_of_any_shape(atlas):
    ids = atlas.sectors.sector_id.to_numpy()
    asked = np.array([[ids[3], 0], [ids[0], ids[-1]]])
    np.testing.assert_array_equal(atlas.indices(asked), [[3, -1], [0, len(ids) - 1]])
    assert [atlas.index_of[int(i)] for i in ids] == list(range(len(ids)))


@pytest.mark.parametrize("unknown", [1, 13, 99_999_999])
def test_an_unknown_sector_is_named(atlas, unknown):
    with pytest.raises(RadioError, match=f"unknown sector {unknown}") as error:
        atlas.indices(np.array([10, unknown]))
    assert "ueloc sectors --city made_up" in str(error.value)


def test_windows_compose_without_resampling(atlas):
    whole, errors = atlas.maps_in(atlas.ground)
    window = Window.centred(*atlas.ground.centre_m, 200, 4.0)
    part, _ = atlas.maps_in(window)
    inside = (slice(None), *window.slices_in(atlas.ground))
    np.testing.assert_array_equal(part, whole[inside])
    some, error = atlas.maps_in(window, np.array([5, 2]))
    np.testing.assert_array_equal(some, part[[5, 2]])
    np.testing.assert_array_equal(error, errors[inside][[5, 2]])
    for k, own in enumerate(atlas.windows):
        alone, _ = atlas.maps_in(own, np.array([k]))
        np.testing.assert_array_equal(alone[0], atlas.rsrp_dbm[k])


def test_far_away_nothing_is_known(atlas):
    far = Window(0, 0, 8, 8, 4.0)
    assert all(np.isnan(values).all() for values in atlas.maps_in(far))
    assert not atlas.outdoor_in(far).any()
    assert atlas.building_height_in(far).max() == 0
    assert all(np.isnan(v).all() for v in atlas.maps_at(np.array([1.0]), np.array([1.0])))


def test_points_and_windows_agree(atlas):
    window = Window.centred(*atlas.ground.centre_m, 160, 4.0)
    rsrp, error = atlas.maps_in(window)
    rng = np.random.default_rng(0)
    row, column = rng.integers(0, 40, (2, 60))
    part = rng.uniform(0, 1, (2, 60))
    at, error_at = atlas.maps_at(
        (window.column + column + part[0]) * 4, (window.row + row + part[1]) * 4
    )
    np.testing.assert_array_equal(at, rsrp[:, row, column].T)
    np.testing.assert_array_equal(error_at, error[:, row, column].T)


def test_best_server_is_the_maximum(atlas):
    whole, _ = atlas.maps_in(atlas.ground)
    known = np.isfinite(whole).any(axis=0)
    best = atlas.best_server_dbm()
    np.testing.assert_array_equal(np.isfinite(best), known)
    np.testing.assert_array_equal(best[known], np.nanmax(whole[:, known], axis=0))


def stored(atlas, folder, sector_ids, names, further=()):
    """Stores of one tile, the table and the cube naming sectors of their own choice."""
    folder.mkdir()
    table = atlas.sectors[atlas.sectors.sector_id.isin(sector_ids)]
    table.to_parquet(folder / "sectors.parquet", index=False)
    chosen = [atlas.index_of[n] for n in names]
    n = round(2 * atlas.city.range_m / atlas.city.grid.cell_m)
    layers = {
        "path_gain_db": atlas.rsrp_dbm[chosen].reshape(-1, n, n) - ELEMENT_POWER_DBM,
        "path_gain_se_db": atlas.rsrp_se_db[chosen].reshape(-1, n, n),
        **{name: atlas.layer(name)[chosen].reshape(-1, n, n) for name in further},
    }
    windows = [atlas.windows[i] for i in chosen]
    cube = make_cube(atlas.city, atlas.sectors.iloc[chosen], windows, layers, {})
    write_cube(cube, folder / CUBE_STORE)
    return folder


def test_stored_tiles_compose_in_order_of_sectors(atlas, tmp_path):
    """Tiles and cubes in any order: sectors come out sorted, each with its own map."""
    tiles = {
        "b": stored(atlas, tmp_path / "b", [10, 12, 31], [31, 10, 12]),
        "a": stored(atlas, tmp_path / "a", [11, 52], [52, 11]),
    }
    loaded = MapAtlas.load(atlas.city, {}, tiles, tiles)
    assert loaded.sectors.sector_id.tolist() == [10, 11, 12, 31, 52]
    chosen = [atlas.index_of[s] for s in loaded.sectors.sector_id]
    half_a_step = 0.01 + 1e-5
    np.testing.assert_allclose(loaded.rsrp_dbm, atlas.rsrp_dbm[chosen], rtol=0, atol=half_a_step)
    np.testing.assert_allclose(
        loaded.rsrp_se_db, atlas.rsrp_se_db[chosen], rtol=0, atol=half_a_step
    )
    assert loaded.windows == tuple(atlas.windows[i] for i in chosen)


def test_maps_of_other_sectors_are_refused(atlas, tmp_path):
    tiles = {"a": stored(atlas, tmp_path / "a", [10, 11], [10, 12])}
    with pytest.raises(RadioError, match="made_up/a"):
        MapAtlas.load(atlas.city, {}, tiles, tiles)


def test_a_city_without_sectors_is_refused(atlas, tmp_path):
    tiles = {"a": stored(atlas, tmp_path / "a", [], [])}
    with pytest.raises(RadioError, match="no sector stands"):
        MapAtlas.load(atlas.city, {}, tiles, tiles)


# -- further layers -------------------------------------------------------------------------

STEPS = {"first_arrival_ns": 0.5, "delay_spread_ns": 0.5, "departure_azimuth_deg": 0.1}


@pytest.fixture
def two_tiles(atlas, tmp_path):
    return {
        "b": stored(atlas, tmp_path / "b", [10, 12, 31], [31, 10, 12], STEPS),
        "a": stored(atlas, tmp_path / "a", [11, 52], [52, 11], STEPS),
    }


@pytest.mark.parametrize("name", STEPS)
def test_further_layers_are_those_of_the_same_sectors(atlas, two_tiles, name):
    loaded = MapAtlas.load(atlas.city, {}, two_tiles, two_tiles)
    chosen = [atlas.index_of[s] for s in loaded.sectors.sector_id]
    expected, found = atlas.layer(name)[chosen], loaded.layer(name)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    off = np.abs(found - expected)
    if name.endswith("azimuth_deg"):
        off = np.minimum(off, 360 - off)
    assert np.nanmax(off) <= STEPS[name] / 2 + 1e-3
    assert len({float(np.nansum(of_sector)) for of_sector in expected}) == len(chosen)


def test_a_layer_is_read_once(atlas, two_tiles):
    """What has been read stays, whatever becomes of the stores; what has not is missed."""
    loaded = MapAtlas.load(atlas.city, {}, two_tiles, two_tiles)
    assert loaded.layers == {}
    first = loaded.layer("delay_spread_ns")
    delays = loaded.first_arrival_ns
    for folder in two_tiles.values():
        shutil.rmtree(folder)
    assert loaded.layer("delay_spread_ns") is first
    assert loaded.first_arrival_ns is delays
    assert set(loaded.layers) == {"delay_spread_ns", "first_arrival_ns"}
    with pytest.raises(StoreError):
        loaded.layer("departure_azimuth_deg")


def test_a_layer_that_no_store_holds_is_named(atlas, two_tiles):
    loaded = MapAtlas.load(atlas.city, {}, two_tiles, two_tiles)
    with pytest.raises(StoreError, match="arrival_spread_deg"):
        loaded.layer("arrival_spread_deg")
    bare = replace(atlas, layers={})
    with pytest.raises(RadioError, match="no layer delay_spread_ns"):
        bare.layer("delay_spread_ns")
    assert bare.first_arrival_ns is None
    assert atlas.first_arrival_ns is atlas.layers["first_arrival_ns"]


def test_a_tile_without_sectors_changes_nothing(atlas, two_tiles, tmp_path):
    wider = two_tiles | {"c": stored(atlas, tmp_path / "c", [], [], STEPS)}
    with_empty, without = (MapAtlas.load(atlas.city, {}, t, t) for t in (wider, two_tiles))
    assert with_empty.sectors.sector_id.tolist() == without.sectors.sector_id.tolist()
    for name in STEPS:
        np.testing.assert_array_equal(with_empty.layer(name), without.layer(name))


def test_sites_are_counted_from_zero(atlas):
    ids = atlas.sectors.site_id.to_numpy()
    assert sorted(set(atlas.site.tolist())) == list(range(len(set(ids.tolist()))))
    together = ids[:, None] == ids[None]
    np.testing.assert_array_equal(atlas.site[:, None] == atlas.site[None], together)
