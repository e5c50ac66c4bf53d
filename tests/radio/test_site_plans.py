"""Lattices, streets and masts as sources of sites, and the rules where antennas stand."""

import math

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely

from ueloc_core.errors import RadioError
from ueloc_core.geodata.masts import MastSchema
from ueloc_core.geodata.osm import build_extract, load_features
from ueloc_core.geodata.terrain import Terrain, flat_terrain
from ueloc_core.radio.antenna_places import antenna_table, settle
from ueloc_core.radio.schemas import SectorSchema
from ueloc_core.radio.site_plans import MAST_SIGMA_M, TALLEST_ANTENNA_M
from ueloc_core.radio.sites import plan_sectors, site_search_window, site_source_digest
from ueloc_core.synthetic import synthetic_city

BUILDINGS = ["building", "building_part"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return synthetic_city(tmp_path_factory.mktemp("city"))


@pytest.fixture(scope="module")
def features(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("extract")
    build_extract(base, folder)
    return load_features(folder)


def with_plan(city, size_m=128, **plan):
    content = city.model_dump() | {"site_plan": plan, "tiles": {"size_m": size_m}}
    return type(city).model_validate(content)


def level(city):
    return flat_terrain(city.ground_window, city.terrain.step_m)


def planned(city, features, masts=None, terrain=None):
    """Sectors of all tiles, each from the features of its own surroundings alone."""
    terrain = terrain or level(city)
    tables = []
    for tile in city.tile_list:
        window = shapely.box(*site_search_window(city, tile).bounds_m)
        near = features[features.intersects(window)].reset_index(drop=True)
        ground = terrain.crop(tile.window)
        tables.append(plan_sectors(city, tile, near, ground, masts=masts))
    table = pd.concat(tables, ignore_index=True).sort_values("sector_id", ignore_index=True)
    return SectorSchema.validate(table)


def roof_under(features, row):
    """Highest top of the buildings under a sector [m], -inf on open ground."""
    point = shapely.Point(row.x_m, row.y_m)
    under = features[features.kind.isin(BUILDINGS) & features.contains(point)]
    return float((under.ground_m + under.height_m).max()) if len(under) else -math.inf


HEXAGONAL = {"kind": "hexagonal", "inter_site_distance_m": 70, "antenna_height_m": 22.0}
STREET = {"kind": "street", "spacing_m": 30, "sectors": 2, "antenna_height_m": 6.0}


@pytest.mark.parametrize("plan", [HEXAGONAL, STREET], ids=["hexagonal", "street"])
@pytest.mark.parametrize("seed", [1, 2])
def test_plans_do_not_depend_on_the_tiles(base, features, plan, seed):
    seeded = base.model_copy(update={"seed": seed})
    plans = [planned(with_plan(seeded, size_m, **plan), features) for size_m in (64, 128, 1024)]
    assert len(plans[0]) > 20
    for other in plans[1:]:
        pd.testing.assert_frame_equal(
            plans[0].drop(columns="tile"), other.drop(columns="tile"), check_exact=True
        )


@pytest.mark.parametrize("plan", [HEXAGONAL, STREET], ids=["hexagonal", "street"])
def test_the_order_of_features_does_not_matter(base, features, plan):
    city = with_plan(base, **plan)
    mixed = features.sample(frac=1, random_state=3).reset_index(drop=True)
    pd.testing.assert_frame_equal(planned(city, features), planned(city, mixed), check_exact=True)


@pytest.mark.parametrize("plan", [HEXAGONAL, STREET], ids=["hexagonal", "street"])
def test_sites_stand_in_the_area_and_on_their_tile_clear_of_buildings(base, features, plan):
    city = with_plan(base, **plan)
    area = shapely.Polygon(city.area_m)
    for row in planned(city, features).itertuples():
        assert city.tile(row.tile).owns(row.x_m, row.y_m)
        assert area.contains(shapely.Point(row.x_m, row.y_m))
        assert row.elevation_m > roof_under(features, row)
        assert row.source == plan["kind"]


def test_a_hexagonal_lattice_is_regular_and_anchored_to_the_crs(base, features):
    city = with_plan(base, **HEXAGONAL)
    masts = planned(city, features).drop_duplicates("site_id")
    step_m = 70.0
    rows = masts.y_m / (step_m * math.sqrt(3) / 2)
    columns = masts.x_m / step_m - 0.5 * (rows.round() % 2)
    np.testing.assert_allclose(rows, rows.round(), atol=1e-6)
    np.testing.assert_allclose(columns, columns.round(), atol=1e-6)
    assert (masts.site_id == rows.round() * 10_000 + columns.round()).all()
    points = masts[["x_m", "y_m"]].to_numpy()
    apart_m = np.linalg.norm(points[:, None] - points[None], axis=2)
    nearest_m = np.sort(apart_m, axis=1)[:, 1]
    np.testing.assert_allclose(nearest_m, step_m, rtol=1e-9)
    density = len(masts) * step_m**2 * math.sqrt(3) / 2 / shapely.Polygon(city.area_m).area
    assert density == pytest.approx(1.0, abs=0.25)


def test_hexagonal_masts_have_their_height_or_stand_on_the_roof(base, features):
    city = with_plan(base, **HEXAGONAL, min_building_height_m=15.0)
    kinds = set()
    for row in planned(city, features).itertuples():
        roof_m = roof_under(features, row)
        if roof_m >= 15.0:
            assert row.height_m == pytest.approx(roof_m + 3.0)
            kinds.add("roof")
        else:
            assert row.height_m == pytest.approx(max(22.0, roof_m + 3.0))
            kinds.add("ground")
    assert kinds == {"roof", "ground"}


def test_no_hexagonal_mast_stands_in_water(base, features):
    city = with_plan(base, **HEXAGONAL)
    dry = planned(city, features)
    one = dry.iloc[0]
    pond = features.iloc[[0]].assign(
        kind="water", geometry=[shapely.Point(one.x_m, one.y_m).buffer(5)]
    )
    wet = planned(city, pd.concat([features, pond], ignore_index=True))
    assert set(dry.site_id) - set(wet.site_id) == {one.site_id}


def test_small_cells_stand_beside_roads_at_their_height(base, features):
    city = with_plan(base, **STREET)
    sectors = planned(city, features)
    masts = sectors.drop_duplicates("site_id")
    roads = features[features.kind == "road"]
    buildings = features[features.kind.isin(BUILDINGS)]
    for row in masts.itertuples():
        point = shapely.Point(row.x_m, row.y_m)
        beyond_m = roads.distance(point) - roads.width_m / 2
        assert beyond_m.min() > -1e-6
        assert np.isclose(beyond_m, city.site_plan.kerb_m, atol=0.01).any()
        assert buildings.distance(point).min() >= 0.5
        assert row.height_m == pytest.approx(6.0)
    points = masts[["x_m", "y_m"]].to_numpy()
    apart_m = np.linalg.norm(points[:, None] - points[None], axis=2)
    assert apart_m[np.triu_indices(len(points), 1)].min() > 15.0


def test_small_cells_look_along_their_street(base, features):
    sectors = planned(with_plan(base, **STREET), features)
    roads = features[features.kind == "road"].set_index("osm_id")
    for _, pair in sectors.groupby("site_id"):
        assert abs(np.diff(pair.azimuth_deg)[0]) == pytest.approx(180.0)
        way = pair.sector_name.iloc[0].split("/")
        (x0, y0), (x1, y1) = np.array(roads.geometry[f"{way[1]}/{way[2]}"].coords)[[0, -1]]
        bearing_deg = math.degrees(math.atan2(x1 - x0, y1 - y0))
        turn_deg = (pair.azimuth_deg.iloc[0] - bearing_deg) % 180.0
        assert min(turn_deg, 180.0 - turn_deg) < 0.5


def test_spacing_gives_the_density_of_small_cells_along_one_road(base, features):
    """A single straight road has a pole every 30 m, but for its ends, on alternating sides."""
    roads = features[features.kind == "road"]
    road = roads[roads.length == roads.length.max()].iloc[[0]]
    masts = planned(with_plan(base, **STREET), road).drop_duplicates("site_id")
    line = road.geometry.iloc[0].intersection(shapely.Polygon(base.area_m))
    assert len(masts) == pytest.approx(line.length / 30, abs=1.01)
    along_m = [line.project(shapely.Point(row.x_m, row.y_m)) for row in masts.itertuples()]
    order = np.argsort(along_m)
    np.testing.assert_allclose(np.diff(np.sort(along_m)), 30.0, atol=0.1)
    (x0, y0), (x1, y1) = np.array(line.coords)[[0, -1]]
    side = np.sign((x1 - x0) * (masts.y_m - y0) - (y1 - y0) * (masts.x_m - x0)).to_numpy()[order]
    assert (side[1:] == -side[:-1]).all()


def test_only_roads_of_the_chosen_classes_carry_small_cells(base, features):
    ways = {}
    for name in ("secondary", "residential"):
        sectors = planned(with_plan(base, **STREET, road_classes=[name]), features)
        ways[name] = {"/".join(text.split("/")[1:3]) for text in sectors.sector_name}
        assert ways[name]
        roads = features[features.osm_id.isin(ways[name])]
        assert set(roads.road_class) == {name}
    assert not planned(with_plan(base, **STREET, road_classes=["motorway"]), features).size


def test_another_seed_moves_small_cells(base, features):
    tables = [
        planned(with_plan(base.model_copy(update={"seed": seed}), **STREET), features)
        for seed in (1, 2)
    ]
    assert not np.isin(tables[0].x_m, tables[1].x_m).all()


def masts_at(city, *rows):
    table = gpd.GeoDataFrame(
        [
            {
                "osm_id": name,
                "mast_class": "mast",
                "height_m": height_m,
                "mobile_phone": phone,
                "geometry": shape,
            }
            for name, height_m, phone, shape in rows
        ],
        crs=city.crs_code,
    )
    return MastSchema.validate(table.astype({"height_m": float}))


@pytest.fixture
def osm(base, features):
    """A city of kind osm, a place on open ground, and one inside a building."""
    city = with_plan(base, kind="osm", antenna_height_m=18.0)
    buildings = features[features.kind.isin(BUILDINGS)]
    x0, y0, x1, y1 = city.bounds_m
    rng = np.random.default_rng(1)
    candidates = [
        shapely.Point(*xy) for xy in rng.uniform((x0 + 20, y0 + 20), (x1 - 20, y1 - 20), (200, 2))
    ]
    area = shapely.Polygon(city.area_m)
    free = [p for p in candidates if area.contains(p) and buildings.distance(p).min() > 2]
    tall = buildings[buildings.height_m > 12].geometry
    inner = [p for p in tall.representative_point() if area.contains(p.buffer(1))]
    return city, free, inner


def test_osm_masts_have_their_tagged_height_and_stand_on_roofs(osm, features):
    city, free, inner = osm
    masts = masts_at(
        city,
        ("node/1", 31.0, True, free[0]),
        ("node/2", None, True, next(p for p in free if p.distance(free[0]) > 20)),
        ("node/3", 5.0, True, inner[0]),  # its own height, not that of its top
        ("node/4", 300.0, True, next(p for p in free if masts_apart(p, free) > 20)),
        ("way/5", None, True, inner[1].buffer(0.5)),
    )
    sectors = planned(city, features, masts)
    found = sectors.assign(node=sectors.sector_name.str.split("/").str[1:3].str.join("/"))
    heights = found.groupby("node").height_m.first()
    assert found.groupby("node").size().to_dict() == dict.fromkeys(masts.osm_id, 3)
    assert heights["node/1"] == pytest.approx(31.0)
    assert heights["node/2"] == pytest.approx(18.0)
    assert heights["node/4"] == pytest.approx(TALLEST_ANTENNA_M)
    for name in ("node/3", "way/5"):
        row = found[found.node == name].iloc[0]
        assert row.elevation_m == pytest.approx(roof_under(features, row) + 3.0)
    assumed = found.groupby("node").assumed.first()
    assert {name for name, text in assumed.items() if "height_m" not in text} == {"node/1"}
    assert (sectors.position_sigma_m == MAST_SIGMA_M).all()


def masts_apart(point, free):
    """Distance [m] from the first two places that `free` gives to other masts."""
    second = next(p for p in free if p.distance(free[0]) > 20)
    return min(point.distance(free[0]), point.distance(second))


def test_masts_side_by_side_are_one_site_whatever_their_order(osm, features):
    city, free, _ = osm
    near = shapely.affinity.translate(free[0], 4.0, 3.0)
    rows = [("node/1", 20.0, False, free[0]), ("node/2", 40.0, True, near)]
    for order in (rows, rows[::-1]):
        sectors = planned(city, features, masts_at(city, *order))
        assert set(sectors.height_m.round(6)) == {40.0}
        assert len(sectors) == 3
    apart = shapely.affinity.translate(free[0], 8.0, 7.0)
    both = masts_at(city, rows[0], ("node/2", 40.0, True, apart))
    assert planned(city, features, both).site_id.nunique() == 2


def test_osm_sites_do_not_depend_on_the_tiles_or_on_other_masts(osm, features):
    city, free, _ = osm
    places = [p for i, p in enumerate(free) if all(p.distance(q) > 12 for q in free[:i])]
    masts = masts_at(city, *((f"node/{i}", 20.0 + i, True, p) for i, p in enumerate(places)))
    whole = with_plan(city, 1024, **city.site_plan.model_dump())
    tables = [planned(c, features, masts).drop(columns="tile") for c in (city, whole)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    one = planned(city, features, masts.iloc[[0]]).drop(columns="tile")
    same = tables[0][tables[0].sector_id.isin(one.sector_id)].reset_index(drop=True)
    pd.testing.assert_frame_equal(one, same, check_exact=True)
    moved = masts.assign(geometry=masts.geometry.translate(1.0))
    assert site_source_digest(city, masts) != site_source_digest(city, moved)


def test_without_masts_there_is_no_site_and_without_the_table_an_error(osm, features):
    city, free, _ = osm
    none = masts_at(city, ("node/1", 20.0, True, free[0])).iloc[:0]
    assert planned(city, features, none).empty
    with pytest.raises(RadioError, match="masts were not given"):
        planned(city, features)


def test_an_unknown_antenna_is_refused(base, features):
    with pytest.raises(RadioError, match="unknown antenna 'dish'"):
        planned(with_plan(base, **HEXAGONAL, antenna="dish"), features)


def antenna(x_m, y_m, **values):
    usual = {
        "sector_id": 1,
        "site_id": 7,
        "azimuth_deg": 0.0,
        "downtilt_deg": 0.0,
        "electrical_tilt_deg": 0.0,
        "antenna": "iso",
        "power_dbm": 40.0,
        "pci": 1,
        "position_sigma_m": 0.0,
        "source": "file",
        "sector_name": "the one",
        "lift": False,
    }
    return antenna_table([usual | {"x_m": x_m, "y_m": y_m} | values])


@pytest.fixture
def bridge(base, features):
    """A building over open ground: its underside at 10 m, its top at 30 m."""
    x_m, y_m = (np.array(base.bounds_m[:2]) + np.array(base.bounds_m[2:])) / 2
    row = features[features.kind == "building"].iloc[[0]]
    row = row.assign(
        osm_id="way/9",
        min_height_m=10.0,
        height_m=30.0,
        ground_m=0.0,
        geometry=[shapely.Point(x_m, y_m).buffer(10)],
    )
    return x_m, y_m, row


@pytest.mark.parametrize(
    ("height_m", "is_inside"), [(9.9, False), (10.0, True), (29.9, True), (30.0, False)]
)
def test_an_antenna_is_inside_between_underside_and_top(base, bridge, height_m, is_inside):
    x_m, y_m, row = bridge
    one = antenna(x_m, y_m, height_m=height_m)
    if is_inside:
        with pytest.raises(RadioError, match=r"the one of 7: .*inside way/9, 30 m high"):
            settle(one, row, level(base), base)
        lifted, counts = settle(one.assign(lift=True), row, level(base), base)
        assert lifted.elevation_m.tolist() == [33.0]
        assert lifted.assumed.tolist() == ["height_m"]
        assert counts["lifted_onto_roof"] == 1
    else:
        placed, counts = settle(one, row, level(base), base)
        assert placed.elevation_m.tolist() == [height_m]
        assert counts["lifted_onto_roof"] == 0


def test_an_antenna_under_ground_names_its_site(base, features, bridge):
    x_m, y_m, _ = bridge
    one = antenna(x_m, y_m, height_m=-2.0)
    with pytest.raises(RadioError, match=r"the one of 7: -2 m above ground is under ground"):
        settle(one, features.iloc[:0], level(base), base)


def test_heights_count_from_the_ground_under_the_antenna(base, bridge):
    """On a slope: a stated height is above ground, a roof is where its building's datum puts it."""
    x_m, y_m, row = bridge
    flat = level(base)
    rows, columns = flat.heights_m.shape
    slope = np.tile(np.arange(columns) * flat.step_m * 0.1, (rows, 1))
    ground = Terrain(slope, flat.column, flat.row, flat.step_m)
    foot_m = float(ground.height_at(x_m, y_m))
    assert foot_m > 20.0
    stated, _ = settle(antenna(x_m, y_m, height_m=18.0), row.iloc[:0], ground, base)
    assert stated.elevation_m.tolist() == pytest.approx([foot_m + 18.0])
    lifted = row.assign(ground_m=foot_m - 1.0)
    on_roof, _ = settle(antenna(x_m, y_m), lifted, ground, base)
    assert on_roof.elevation_m.tolist() == pytest.approx([foot_m - 1.0 + 30.0 + 3.0])
    assert on_roof.height_m.tolist() == pytest.approx([32.0])
    sunk = row.assign(ground_m=foot_m - 35.0)  # its roof lies below the uphill ground
    uphill, _ = settle(antenna(x_m, y_m), sunk, ground, base)
    assert uphill.height_m.tolist() == pytest.approx([3.0])
