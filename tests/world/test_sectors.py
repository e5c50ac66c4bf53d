"""The world's sectors keep their identities and stand where antennas can stand."""

import numpy as np
import pandas as pd
import pytest
import shapely
from made_up_rows import CORNER, box, rows
from scipy import stats
from test_perturbed_buildings import FLAT, is_rms

from ueloc_core.city import City
from ueloc_core.radio.schemas import SectorSchema
from ueloc_core.radio.sites import load_sectors
from ueloc_core.world.sectors import Roofs, build_world_sites, same_sectors, world_sectors
from ueloc_core.world.settings import LEVELS, WorldConfig

NOTHING = rows([]).set_index("osm_id")
KEPT = ("sector_id", "site_id", "tile", "pci", "antenna", "electrical_tilt_deg", "sector_name")


def city_in(**world):
    return City.model_validate(
        {
            "name": "somewhere",
            "source": {"kind": "bundled"},
            "bbox": [24.935, 60.164, 24.953, 60.179],
            "world": world,
        }
    )


def sectors_at(places, elevation_m=25.0, sectors=1):
    """One site at each place, relative to `CORNER`, on ground at 0 m."""
    count = len(places) * sectors
    x, y = np.repeat(np.array(places, dtype=float), sectors, axis=0).T
    site = np.repeat(np.arange(1, len(places) + 1), sectors)
    frame = pd.DataFrame(
        {
            "sector_id": np.arange(1, count + 1),
            "site_id": site,
            "tile": "e1n1",
            "x_m": CORNER[0] + x,
            "y_m": CORNER[1] + y,
            "height_m": np.broadcast_to(elevation_m, count).astype(float),
            "elevation_m": np.broadcast_to(elevation_m, count).astype(float),
            "azimuth_deg": np.linspace(0, 359, count),
            "downtilt_deg": 8.0,
            "power_dbm": 46.0,
            "pci": np.arange(count) % 1008,
            "lon_deg": 24.94,
            "lat_deg": 60.17,
        }
    )
    return SectorSchema.validate(frame)


def test_without_amounts_they_are_the_twins(town, tmp_path):
    assert same_sectors(town.city)
    assert not same_sectors(town.in_world(power_db=1))
    assert not same_sectors(town.in_world(shift_m=1))  # masts go with their roofs
    tile = town.busiest
    before = load_sectors(town.sites[tile.name])
    scene = town.scene(tile)
    build_world_sites(town.city, town.sites[tile.name], scene, scene, tmp_path)
    after = load_sectors(tmp_path)
    assert len(after) > 3
    degrees = ["lon_deg", "lat_deg"]
    pd.testing.assert_frame_equal(
        after.drop(columns=degrees), before.drop(columns=degrees), check_exact=True
    )
    np.testing.assert_allclose(after[degrees], before[degrees], atol=1e-9)


def test_errors_are_the_amounts():
    many = 1500
    places = np.random.default_rng(1).uniform(0, 3000, (many, 2))
    before = sectors_at(places, sectors=2)
    world = LEVELS["osm"][1]
    after = world_sectors(city_in(level="osm"), before, Roofs(NOTHING, NOTHING, {}), FLAT)
    pd.testing.assert_frame_equal(after[list(KEPT)], before[list(KEPT)])
    turned = (after.azimuth_deg - before.azimuth_deg + 180) % 360 - 180
    assert is_rms(turned, world.azimuth_deg)
    assert is_rms(after.downtilt_deg - before.downtilt_deg, world.downtilt_deg)
    assert is_rms(after.power_dbm - before.power_dbm, world.power_db)
    site = slice(None, None, 2)
    step_m = np.hypot(after.x_m - before.x_m, after.y_m - before.y_m)
    assert is_rms(step_m[site], world.position_m)
    assert is_rms((after.elevation_m - before.elevation_m)[site], world.antenna_height_m)
    assert stats.pearsonr(turned, after.power_dbm).pvalue > 1e-3
    # the sectors of a site stay together, and look and transmit for themselves
    one, other = after[::2].reset_index(), after[1::2].reset_index()
    for column in ("x_m", "y_m", "elevation_m"):
        assert (one[column] == other[column]).all()
    assert (one.power_dbm != other.power_dbm).all()
    lon_deg, lat_deg = city_in().to_lonlat(after.x_m.to_numpy(), after.y_m.to_numpy())
    np.testing.assert_allclose(after.lon_deg, lon_deg)
    np.testing.assert_allclose(after.lat_deg, lat_deg)


def test_a_sector_does_not_depend_on_the_others():
    before = sectors_at([(100, 100), (500, 100), (900, 400)], sectors=3)
    whole = world_sectors(city_in(level="bad"), before, Roofs(NOTHING, NOTHING, {}), FLAT)
    part = world_sectors(city_in(level="bad"), before[3:6], Roofs(NOTHING, NOTHING, {}), FLAT)
    pd.testing.assert_frame_equal(part, whole[3:6])


def test_values_stay_within_what_they_can_be():
    before = sectors_at([(10 * k, 0) for k in range(400)]).assign(
        power_dbm=79.0, downtilt_deg=89.0, azimuth_deg=359.9
    )
    config = {"power_db": 20.0, "downtilt_deg": 20.0, "azimuth_deg": 60.0}
    after = world_sectors(city_in(**config), before, Roofs(NOTHING, NOTHING, {}), FLAT)
    assert after.power_dbm.max() == 80
    assert after.downtilt_deg.max() == 90
    assert after.azimuth_deg.between(0, 360, inclusive="left").all()


def test_a_mast_moves_with_its_roof():
    twin = rows([box(0, 0, 40, 40)], height_m=20.0).set_index("osm_id")
    world = twin.assign(height_m=27.5).set_geometry(twin.translate(2.0, -1.0))
    before = sectors_at([(20, 20)], elevation_m=23.0, sectors=3)
    roofs = Roofs(twin, world, {"way/1": (2.0, -1.0)})
    after = world_sectors(city_in(shift_m=2), before, roofs, FLAT)
    np.testing.assert_allclose(after.x_m - before.x_m, 2.0)
    np.testing.assert_allclose(after.y_m - before.y_m, -1.0)
    np.testing.assert_allclose(after.elevation_m, 30.5)  # 3 m above its roof, as before
    np.testing.assert_allclose(after.height_m, 30.5)


@pytest.mark.parametrize("seed", range(20))
def test_a_mast_at_the_edge_of_a_roof_stays_on_it(seed):
    twin = rows([box(0, 0, 20, 20), box(20, 0, 20, 20)], height_m=[15.0, 40.0])
    twin = twin.set_index("osm_id")
    before = sectors_at([(19, 10)], elevation_m=17.0)
    city = city_in(position_m=10.0).model_copy(update={"seed": seed})
    after = world_sectors(city, before, Roofs(twin, twin, {}), FLAT)
    place = shapely.Point(after.x_m[0], after.y_m[0])
    assert twin.geometry.iloc[0].contains(place)
    assert twin.geometry.iloc[1].distance(place) >= 0.49
    assert after.elevation_m[0] == 17.0


@pytest.mark.parametrize("seed", range(20))
def test_no_footprint_swallows_a_mast_beside_it(seed):
    twin = rows([box(0, 0, 30, 30)], height_m=12.0).set_index("osm_id")
    world = twin.set_geometry(twin.translate(3.0, 0.0))
    before = sectors_at([(31, 15)], elevation_m=8.0)
    city = city_in(position_m=3.0, antenna_height_m=2.0).model_copy(update={"seed": seed})
    after = world_sectors(city, before, Roofs(twin, world, {"way/1": (3.0, 0.0)}), FLAT)
    place = shapely.Point(after.x_m[0], after.y_m[0])
    assert world.geometry.iloc[0].distance(place) >= 0.49
    assert place.distance(shapely.Point(before.x_m[0], before.y_m[0])) < 15
    assert after.elevation_m[0] >= 0.5


def test_a_mast_in_a_passage_stays_there():
    twin = rows([box(0, 0, 30, 30)], min_height_m=6.0, height_m=15.0).set_index("osm_id")
    before = sectors_at([(15, 15)], elevation_m=4.0)
    after = world_sectors(city_in(position_m=3.0), before, Roofs(twin, twin, {}), FLAT)
    assert after.x_m[0] == before.x_m[0]
    assert after.elevation_m[0] == 4.0


def test_antennas_stay_above_a_roof_whatever_the_error_of_their_height():
    twin = rows([box(40 * k, 0, 30, 30) for k in range(60)], height_m=20.0).set_index("osm_id")
    before = sectors_at([(40 * k + 15, 15) for k in range(60)], elevation_m=21.0)
    after = world_sectors(city_in(antenna_height_m=5.0), before, Roofs(twin, twin, {}), FLAT)
    assert after.elevation_m.min() == 20.5
    assert after.elevation_m.max() > 25


@pytest.mark.parametrize("level", ["survey", "osm", "bad"])
def test_no_antenna_of_a_town_stands_in_a_wall(town, level):
    city = town.in_world(level=level)
    stand = 0
    for tile in city.tile_list:
        before = load_sectors(town.sites[tile.name])
        if before.empty:
            continue
        world, extra = town.world(city, tile)
        changes = world.changes.set_index("osm_id")
        shifts = dict(zip(changes.index, zip(changes.dx_m, changes.dy_m, strict=True), strict=True))
        twin = town.surroundings(city, tile).buildings.set_index("osm_id")
        standing = pd.concat([part for part in (world.frame, extra) if len(part)])
        roofs = Roofs(twin, standing.set_index("osm_id"), shifts)
        terrain = town.terrain
        after = world_sectors(city, before, roofs, terrain)
        pd.testing.assert_frame_equal(after[list(KEPT)], before[list(KEPT)])
        for row in after.itertuples():
            point = shapely.Point(row.x_m, row.y_m)
            over = roofs.world[roofs.world.contains(point)]
            low, high = over.ground_m + over.min_height_m, over.ground_m + over.height_m
            assert not ((low <= row.elevation_m) & (row.elevation_m < high)).any()
            assert row.elevation_m > terrain.height_at(row.x_m, row.y_m)
            stand += len(over) > 0
    assert stand > 3


@pytest.mark.slow
def test_power_reaches_the_reports_level_one_to_one(town, tmp_path):
    """Gain knows no power; RSRP takes it from the sectors that were traced."""
    from ueloc_core.radio.cube import load_cube
    from ueloc_core.radio.radio_map import build_radio_map

    tile = town.busiest
    tracing = town.city.ray_tracing.model_copy(
        update={"rays_per_site": 20_000, "max_depth": 0, "diffraction": False}
    )
    world = {"world": WorldConfig(power_db=3.0), "ray_tracing": tracing}
    city = town.city.model_copy(update=world)
    scene = town.scene(tile)
    tables = [load_sectors(town.sites[tile.name])]
    tables.append(world_sectors(city, tables[0], Roofs.load(scene, scene), town.terrain))
    cubes = []
    for table, name in zip(tables, ("twin", "world"), strict=True):
        (tmp_path / name).mkdir()
        build_radio_map(city, tile, scene, table, tmp_path / name, belief="twin")
        cubes.append(load_cube(tmp_path / name))
    twin, other = cubes
    np.testing.assert_array_equal(twin.path_gain_db.values, other.path_gain_db.values)
    order = twin.sector.to_numpy()
    more_db = (
        tables[1].set_index("sector_id").power_dbm - tables[0].set_index("sector_id").power_dbm
    ).loc[order]
    assert np.abs(more_db).min() > 0
    found = (other.rsrp_dbm - twin.rsrp_dbm).to_numpy()
    for difference, expected in zip(found, more_db, strict=True):
        known = difference[np.isfinite(difference)]
        assert known.size > 100
        np.testing.assert_allclose(known, expected, atol=1e-4)
