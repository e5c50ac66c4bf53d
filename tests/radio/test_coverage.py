"""Coverage of a city: the derived layers of all its tiles, and what they come to outdoors."""

import numpy as np
import pytest
import xarray as xr
from made_up_cubes import cube_of
from made_up_world import default_atlas, made_up_city
from pandera.errors import SchemaErrors
from pyproj import CRS

from ueloc_core.errors import RadioError, StoreError
from ueloc_core.geodata import context
from ueloc_core.provenance import digest_folder
from ueloc_core.radio.atlas import MapAtlas
from ueloc_core.radio.coverage import (
    COVERAGE_STORE,
    build_coverage,
    coverage_summary,
    load_coverage,
)
from ueloc_core.radio.coverage_layers import LAYERS
from ueloc_core.radio.cube import CUBE_STORE, write_cube
from ueloc_core.radio.layers import OF_PLACES, derived_layers
from ueloc_core.radio.link import mcs_efficiency
from ueloc_core.radio.schemas import CoverageSchema

THRESHOLD_DBM = -68.0  # of some places, the best server is below it


@pytest.fixture(scope="module")
def city():
    measurements = {"detection_threshold_dbm": THRESHOLD_DBM}
    return made_up_city(measurements=measurements)


def scene_raster(city, tile):
    """Blocks of buildings on a lattice, a canal with bridges, and the rim outside of the area."""
    window = city.scene_window(city.tile(tile))
    east = window.column + np.arange(window.columns)
    north = (window.row + np.arange(window.rows))[:, None]
    layers = {name: np.zeros(window.shape, dtype=np.uint8) for name in context._ATTRIBUTES}
    layers["footprint"][:] = (east % 16 < 6) & (north % 16 < 7)
    layers["water"][:] = (north % 37 < 4) & (east > 0)
    layers["road"][:] = (east % 20 < 2) & (north > 0)
    layers["in_area"][:] = city.window_cells.row + 5 < north
    return xr.Dataset({name: (("y", "x"), values) for name, values in layers.items()})


def visible(city, tile, sectors):
    """A cube with a line of sight: a share that tells the sector; unknown on every tenth column."""
    cube = cube_of(city, tile, sectors)
    share = np.broadcast_to(
        (cube.sector.values % 16 / 16)[:, None, None], cube.path_gain_db.shape
    ).copy()
    share[..., ::10] = np.nan
    attrs = {"units": "1", "long_name": "line of sight", "grid_mapping": "spatial_ref"}
    return cube.assign(line_of_sight=(cube.path_gain_db.dims, share.astype(np.float32), attrs))


@pytest.fixture(scope="module")
def folders(city, tmp_path_factory):
    """Scenes, sites and radio maps of all tiles."""
    root = tmp_path_factory.mktemp("tiles")
    sectors = default_atlas().sectors
    found = {stage: {} for stage in ("scenes", "sites", "radio_maps")}
    for tile in city.tile_names:
        for stage, by_tile in found.items():
            by_tile[tile] = root / stage / tile
            by_tile[tile].mkdir(parents=True)
        context.write_context(scene_raster(city, tile), found["scenes"][tile])
        own = sectors[sectors.tile == tile].reset_index(drop=True)
        own.to_parquet(found["sites"][tile] / "sectors.parquet")
        write_cube(visible(city, tile, sectors), found["radio_maps"][tile] / CUBE_STORE)
    return tuple(found.values())


@pytest.fixture(scope="module")
def built(city, folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("coverage")
    return out, build_coverage(city, *folders, out)


@pytest.fixture(scope="module")
def coverage(built):
    return load_coverage(built[0])


@pytest.fixture(scope="module")
def atlas(city, folders):
    return MapAtlas.load(city, *folders)


# -- what is stored -------------------------------------------------------------------------


def test_tile_by_tile_is_the_same_as_all_at_once(city, atlas, coverage):
    whole = derived_layers(city, atlas)
    assert set(OF_PLACES) <= set(whole)
    for name in OF_PLACES:
        np.testing.assert_array_equal(coverage[name].values, whole[name].values, err_msg=name)
        assert coverage[name].attrs == whole[name].attrs
    assert len(np.unique(coverage.best_server)) > 5
    np.testing.assert_array_equal(coverage.outdoor.values == 1, atlas.outdoor)
    assert 0.2 < float(coverage.outdoor.mean()) < 0.8


def test_sectors_are_heard_from_the_threshold_on(atlas, coverage):
    level_dbm, _ = atlas.maps_in(atlas.ground)
    heard = (level_dbm >= THRESHOLD_DBM).sum(axis=0)
    np.testing.assert_array_equal(coverage.sectors_heard, heard)
    assert heard.min() == 0
    assert heard.max() > 3


def test_the_line_of_sight_is_that_of_the_best_server(city, atlas, coverage):
    expected = np.full(atlas.ground.shape, np.nan)
    for window, sector_id in zip(atlas.windows, atlas.sectors.sector_id, strict=True):
        shared = window.intersection(atlas.ground)
        share = np.full(window.shape, sector_id % 16 / 16)
        share[:, ::10] = np.nan
        best = coverage.best_server.values[shared.slices_in(atlas.ground)] == sector_id
        expected[shared.slices_in(atlas.ground)][best] = share[shared.slices_in(window)][best]
    np.testing.assert_array_equal(coverage.serving_line_of_sight, expected)


def test_every_layer_has_units_a_name_and_a_place_on_earth(city, built, coverage):
    assert list(coverage.data_vars) == list(LAYERS)
    for name, layer in coverage.data_vars.items():
        assert layer.dims == ("y", "x")
        assert layer.dtype == LAYERS[name].dtype
        assert {"units", "long_name", "grid_mapping"} <= set(layer.attrs)
    assert CRS.from_cf(coverage.spatial_ref.attrs) == CRS.from_user_input(city.crs_code)
    np.testing.assert_array_equal(coverage.x, city.window_cells.x_centres_m)
    np.testing.assert_array_equal(coverage.y, city.window_cells.y_centres_m)
    assert "OpenStreetMap" in coverage.attrs["attribution"]
    stored = xr.open_zarr(built[0] / COVERAGE_STORE, consolidated=False, chunks=None)
    side = round(city.tiles.size_m / city.grid.cell_m)
    assert stored.cqi.encoding["chunks"] == (side, side)
    assert stored.cqi.encoding["shards"] == stored.cqi.shape
    assert CoverageSchema.validate(coverage) is not None


def test_the_same_inputs_give_the_same_bytes(city, folders, built, tmp_path):
    seen = []
    again = build_coverage(city, *folders, tmp_path, progress=lambda *step: seen.append(step))
    assert again == built[1]
    assert digest_folder(tmp_path) == digest_folder(built[0])
    assert [step[:2] for step in seen] == [(n + 1, len(seen)) for n in range(len(city.tile_names))]
    assert 5_000 < (tmp_path / "preview.png").stat().st_size <= 50_000


def test_maps_without_delays_and_visibility_leave_them_unknown(city, folders, tmp_path):
    scenes, sites, _ = folders
    maps = {tile: tmp_path / tile for tile in city.tile_names}
    for tile, folder in maps.items():
        folder.mkdir()
        cube = cube_of(city, tile, default_atlas().sectors, delays=False)
        write_cube(cube, folder / CUBE_STORE)
    metadata = build_coverage(city, scenes, sites, maps, tmp_path)
    bare = load_coverage(tmp_path)
    assert (bare.serving_timing_advance == -1).all()
    assert bare.serving_line_of_sight.isnull().all()
    assert metadata["line_of_sight_share"] is None
    assert CoverageSchema.validate(bare) is not None


# -- what it comes to -----------------------------------------------------------------------


def test_shares_count_outdoor_cells_only(built, coverage):
    metadata = built[1]
    outdoor = coverage.outdoor.values == 1
    served = coverage.serving_rsrp_dbm.values >= THRESHOLD_DBM
    assert metadata["served_share"] == pytest.approx(served[outdoor].mean())
    assert abs(metadata["served_share"] - served.mean()) > 1e-3
    assert 0.1 < metadata["served_share"] < 0.9
    assert metadata["outdoor_km2"] == pytest.approx(outdoor.sum() * 16 / 1e6)
    indoors_lost = coverage.copy(deep=True)
    indoors_lost.serving_rsrp_dbm.values[~outdoor] = np.nan
    indoors_lost.sectors_heard.values[~outdoor] = 0
    assert coverage_summary(indoors_lost) == coverage_summary(coverage)
    assert metadata.items() >= coverage_summary(coverage).items()


def test_percentiles_are_in_order(city, built):
    metadata = built[1]
    for name in ("rsrp_dbm", "sinr_db", "throughput_mbps"):
        assert metadata[f"p10_{name}"] < metadata[f"median_{name}"]
    heard = [metadata[f"{rank}_sectors_heard"] for rank in ("p10", "median", "p90")]
    assert heard == sorted(heard)
    assert heard[0] < heard[2]
    assert metadata["served_share"] < metadata["known_share"] <= 1
    assert (metadata["tiles"], metadata["sectors"]) == (len(city.tile_names), 18)
    assert metadata["sites"] == 6


def test_nothing_gets_through_below_the_lowest_rate(coverage):
    sinr_db = coverage.serving_sinr_db.values
    lowest_db = 10 * np.log10(2 ** (mcs_efficiency()[0] / 0.75) - 1)
    too_low = sinr_db < lowest_db
    assert too_low.sum() > 10
    assert (coverage.throughput_mbps.values[too_low] == 0).all()
    assert (coverage.mcs.values[too_low] == -1).all()
    assert (coverage.throughput_mbps.values[sinr_db > lowest_db + 0.1] > 0).all()


def test_nothing_outdoors_is_nothing_known(coverage):
    indoors = coverage.assign(outdoor=xr.zeros_like(coverage.outdoor))
    summary = coverage_summary(indoors)
    assert summary.pop("outdoor_km2") == 0
    assert set(summary.values()) == {None}


# -- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "value", "words"),
    [
        ("best_server", 0, "known where best_server is"),
        ("throughput_mbps", 0.0, "0 where no mcs works"),
        ("sectors_heard", 0, "counts the best server"),
        ("cqi", 16, "in_range"),
    ],
)
def test_the_contract_names_what_is_broken(coverage, layer, value, words):
    broken = coverage.copy(deep=True)
    good = (coverage.mcs > 3) & (coverage.sectors_heard > 0)
    row, column = np.argwhere(good.values)[0]
    broken[layer].values[row, column] = value
    with pytest.raises(SchemaErrors, match=words):
        CoverageSchema.validate(broken, lazy=True)


def test_sites_of_another_plan_are_refused(city, folders, tmp_path):
    scenes, sites, maps = folders
    owner = default_atlas().sectors.tile.iloc[0]
    empty = next(tile for tile in city.tile_names if tile not in set(default_atlas().sectors.tile))
    with pytest.raises(RadioError, match="different sectors"):
        build_coverage(city, scenes, {**sites, owner: sites[empty]}, maps, tmp_path)


def test_a_missing_store_says_what_to_do(tmp_path):
    with pytest.raises(StoreError, match="Materialize the city's coverage"):
        load_coverage(tmp_path)
