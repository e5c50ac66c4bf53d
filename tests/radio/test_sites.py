"""The plan of sites: who owns them, where they stand, and what they do not depend on."""

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely

from ueloc_core.errors import RadioError
from ueloc_core.geodata.osm import build_extract, load_features
from ueloc_core.geodata.terrain import Terrain, flat_terrain
from ueloc_core.grid import Tile, Window
from ueloc_core.radio.schemas import SectorSchema, empty_sectors
from ueloc_core.radio.site_plans import lattice
from ueloc_core.radio.sites import build_sites, load_sectors, plan_sectors, site_search_window
from ueloc_core.synthetic import synthetic_city

PLAN = {"inter_site_distance_m": 70, "snap_radius_m": 25, "mast_height_m": 4.0}


def lattice_points(city):
    return {p[2:4] for t in city.tile_list for p in lattice(city, t, 60.0, jitter=0.1)}


def with_tiles(city, size_m):
    return type(city).model_validate({**city.model_dump(), "tiles": {"size_m": size_m}})


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    return synthetic_city(tmp_path_factory.mktemp("city"), site_plan=PLAN)


@pytest.fixture(scope="module")
def extract(city, tmp_path_factory):
    folder = tmp_path_factory.mktemp("extract")
    build_extract(city, folder)
    return folder


@pytest.fixture(scope="module")
def features(extract):
    return load_features(extract)


def near(city, tile, features):
    """What `load_features` reads of a tile's surroundings."""
    return features[features.intersects(shapely.box(*site_search_window(city, tile).bounds_m))]


def level(city):
    return flat_terrain(city.ground_window, city.terrain.step_m)


def plan(city, features, terrain=None):
    """Sectors of all tiles, each planned from its own surroundings alone."""
    terrain = terrain or level(city)
    tables = [
        plan_sectors(city, tile, near(city, tile, features), terrain.crop(tile.window))
        for tile in city.tile_list
    ]
    return pd.concat(tables, ignore_index=True).sort_values("sector_id", ignore_index=True)


@pytest.fixture(scope="module")
def sectors(city, features):
    return plan(city, features)


def test_the_plan_keeps_its_contract_and_its_seed(city, features, sectors):
    SectorSchema.validate(sectors)
    assert sectors.site_id.nunique() >= 8
    pd.testing.assert_frame_equal(sectors, plan(city, features))
    other = plan(city.model_copy(update={"seed": 2}), features)
    assert not np.isin(sectors.x_m, other.x_m).all()


def test_every_site_is_owned_by_the_tile_it_stands_on(city, sectors):
    assert not sectors.sector_id.duplicated().any()
    for row in sectors.itertuples():
        owners = [tile.name for tile in city.tile_list if tile.owns(row.x_m, row.y_m)]
        assert owners == [row.tile]
    assert sectors.groupby("site_id").tile.nunique().max() == 1
    assert sectors.tile.nunique() > 2


@pytest.mark.parametrize("seed", [1, 2])
def test_the_plan_does_not_depend_on_the_tiles(city, features, seed):
    """Small tiles, each of which sees little of the city, agree with one large tile."""
    seeded = city.model_copy(update={"seed": seed})
    plans = [plan(with_tiles(seeded, size_m), features) for size_m in (64, 128, 1024)]
    for other in plans[1:]:
        pd.testing.assert_frame_equal(
            plans[0].drop(columns="tile"), other.drop(columns="tile"), check_exact=True
        )
    # Nor on features beyond the search window.
    tile = seeded.tile_list[4]
    here = plan_sectors(seeded, tile, near(seeded, tile, features), level(seeded))
    pd.testing.assert_frame_equal(here, plan_sectors(seeded, tile, features, level(seeded)))


def test_a_site_between_two_far_roofs_has_one_owner(city, features):
    """The western roof is at the very end of the reach; a tile there must see the better one."""
    radius_m = 24.0  # twice it is a whole number of grid cells, so the window has no slack
    config = city.site_plan.model_copy(update={"snap_radius_m": radius_m})
    city = city.model_copy(update={"site_plan": config})
    template = features[features.kind == "building"].iloc[:2].reset_index(drop=True)
    found = 0
    for x_m, y_m in lattice_points(city):
        far_m = radius_m - 0.1
        boxes = [
            shapely.box(x_m - far_m - 30, y_m - 5, x_m - far_m, y_m + 5),
            shapely.box(x_m + far_m, y_m - 5, x_m + far_m + 30, y_m + 5),
        ]
        both = template.set_geometry(gpd.GeoSeries(boxes, crs=features.crs))
        both = both.assign(height_m=[20.0, 40.0])
        column, row = (int(v // 4) for v in (x_m - far_m - 1.5, y_m))
        west = Tile("e0n0", Window(column, row, 1, 1, 4.0))
        bounds_m = site_search_window(city, west).bounds_m
        found += bounds_m[2] < x_m + far_m
        seen = both[both.intersects(shapely.box(*bounds_m))]
        here = plan_sectors(city, west, seen, level(city))
        pd.testing.assert_frame_equal(here, plan_sectors(city, west, both, level(city)))
    assert found


def test_sites_keep_their_distance(city, sectors):
    """The lattice's step, less the jitter and the way to a roof at both ends."""
    masts = sectors.drop_duplicates("site_id")
    points = masts[["x_m", "y_m"]].to_numpy()
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    step, reach = city.site_plan.inter_site_distance_m, city.site_plan.snap_radius_m
    jitter = 2 * np.sqrt(2) * 0.1 * step
    assert distance[np.triu_indices(len(points), 1)].min() > max(step - jitter - 2 * reach - 8, 1)
    assert len(points) <= 1.3 * np.prod(city.extent_m) / (step**2 * np.sqrt(3) / 2) + 4


def test_antennas_stand_above_their_roof(city, features, sectors):
    buildings = features[features.kind.isin(["building", "building_part"])]
    for row in sectors.drop_duplicates("site_id").itertuples():
        under = buildings[buildings.distance(shapely.Point(row.x_m, row.y_m)) < 1e-6]
        clearance = row.height_m - under.height_m.to_numpy()
        assert np.isclose(clearance, city.site_plan.mast_height_m).any()
        assert (under.height_m >= city.site_plan.min_building_height_m).any()


def test_azimuths_are_120_degrees_apart(city, sectors):
    for _, site in sectors.groupby("site_id"):
        assert len(site) == city.site_plan.sectors
        turns = np.diff([*site.azimuth_deg, site.azimuth_deg.iloc[0]]) % 360
        np.testing.assert_allclose(turns, 120)
        assert site[["x_m", "y_m", "height_m"]].drop_duplicates().shape[0] == 1
        assert sorted(site.pci % 3) == [0, 1, 2]
        wanted = city.site_plan.azimuth_deg
        turn = (site.azimuth_deg.iloc[0] - wanted + 180) % 360 - 180
        assert abs(turn) <= city.site_plan.azimuth_jitter_deg


def test_no_site_outside_the_area(city, sectors):
    west, south, east, north = city.bbox
    assert sectors.lon_deg.between(west, east).all()
    assert sectors.lat_deg.between(south, north).all()
    lon_deg, lat_deg = city.to_lonlat(sectors.x_m.to_numpy(), sectors.y_m.to_numpy())
    np.testing.assert_allclose(sectors.lon_deg, lon_deg, atol=1e-9)
    np.testing.assert_allclose(sectors.lat_deg, lat_deg, atol=1e-9)


def test_without_buildings_the_table_is_empty(city, features, tmp_path):
    tile = city.tile_list[0]
    metadata = build_sites(city, tile, features.iloc[:0], level(city), tmp_path)
    stored = load_sectors(tmp_path)
    SectorSchema.validate(stored)
    assert len(stored) == metadata["sectors"] == metadata["sites"] == 0
    assert metadata["median_height_m"] is None
    pd.testing.assert_frame_equal(stored, empty_sectors())
    streets = features[features.kind == "road"]
    assert len(streets)
    SectorSchema.validate(plan_sectors(city, tile, streets, level(city)))


def test_low_buildings_carry_no_site(city, features):
    config = city.site_plan.model_copy(update={"min_building_height_m": 500.0})
    low = city.model_copy(update={"site_plan": config})
    assert plan_sectors(low, city.tile_list[4], features, level(city)).empty


def test_what_is_stored_is_what_was_planned(city, features, sectors, tmp_path):
    tile = city.tile(sectors.tile.iloc[0])
    metadata = build_sites(city, tile, features, level(city), tmp_path)
    stored = load_sectors(tmp_path)
    pd.testing.assert_frame_equal(stored, plan_sectors(city, tile, features, level(city)))
    assert metadata["sectors"] == len(stored) == 3 * metadata["sites"]


def test_a_lattice_too_fine_for_its_numbers_is_refused(city, features):
    """Columns are counted from the CRS's origin: 385 km in steps of 30 m is too many."""
    config = city.site_plan.model_copy(update={"inter_site_distance_m": 30.0})
    dense = city.model_copy(update={"site_plan": config})
    with pytest.raises(RadioError, match="inter_site_distance_m"):
        for tile in city.tile_list:
            plan_sectors(dense, tile, features, level(dense))


def test_on_a_slope_an_antenna_stands_on_its_building_and_its_height_is_above_ground(
    city, features, sectors
):
    """Buildings on a slope are lifted to their datum; plan and heights above it stay."""
    flat = level(city)
    rows, columns = flat.heights_m.shape
    x = (flat.column + np.arange(columns)) * flat.step_m
    slope = Terrain(
        np.tile(np.round(0.05 * (x - x[0]) + 100, 3), (rows, 1)),
        flat.column,
        flat.row,
        flat.step_m,
    )
    is_building = features["kind"].isin(["building", "building_part"])
    ground = [slope.lowest_within(shape) for shape in features.geometry[is_building]]
    lifted = features.copy()
    lifted.loc[is_building, "ground_m"] = ground
    on_slope = plan(city, lifted, slope)
    assert len(on_slope)
    foot = slope.height_at(on_slope.x_m.to_numpy(), on_slope.y_m.to_numpy())
    assert np.allclose(on_slope.elevation_m - on_slope.height_m, foot)
    same = on_slope.merge(sectors, on="sector_id", suffixes=("", "_flat"))
    same = same[(same.x_m - same.x_m_flat).abs() < 1e-6]
    assert len(same)
    assert (same.height_m <= same.height_m_flat + 1e-6).all()  # the datum is the lowest ground
    assert (same.height_m > same.height_m_flat - 5.0).all()
    assert np.allclose(sectors.elevation_m, sectors.height_m)
