"""Context rasters against the polygons they show."""

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import zarr

from ueloc_core.errors import GeodataError
from ueloc_core.geodata.buildings import MATERIALS
from ueloc_core.geodata.context import (
    build_context,
    ground_classes,
    load_context,
    write_context,
)
from ueloc_core.geodata.schemas import GROUND_MATERIALS, ROAD_CLASSES, VEGETATION
from ueloc_core.geodata.terrain import Terrain, flat_terrain
from ueloc_core.grid import Window
from ueloc_core.synthetic import synthetic_city


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    return synthetic_city(tmp_path_factory.mktemp("city"))


COLUMNS = ("osm_id", "kind", "height_m", "min_height_m", "material", "roof_material")
COLUMNS += ("road_class", "width_m", "land_class")


def _row(number, kind, shape, **values):
    unknown = {name: np.nan if name.endswith("_m") else None for name in COLUMNS}
    return {**unknown, **values, "osm_id": f"way/{number}", "kind": kind, "geometry": shape}


def _building(number, shape, height_m, base_m=0.0, material="concrete", roof="metal"):
    values = {"height_m": height_m, "min_height_m": base_m}
    return _row(number, "building", shape, material=material, roof_material=roof, **values)


def _road(number, line, road_class, width_m):
    return _row(number, "road", line, road_class=road_class, width_m=width_m)


def _land(number, shape, land_class, kind="landuse"):
    return _row(number, kind, shape, land_class=land_class)


def _frame(city, rows):
    frame = pd.DataFrame(rows, columns=[*COLUMNS, "geometry"])
    return gpd.GeoDataFrame(frame, geometry="geometry", crs=city.crs_code)


def _context(city, window, rows, terrain=None):
    level = flat_terrain(window.buffered(32), city.terrain.step_m)
    return build_context(city, window, _frame(city, rows), terrain or level)


def _window(city, rows=20, columns=30):
    origin = city.tile_list[0].window
    return Window(origin.column, origin.row, columns, rows, 4.0)


def test_a_building_fills_the_grid_cells_whose_centre_it_covers(city):
    window = _window(city)
    x0, y0, _, _ = window.bounds_m
    rows = [_building(1, shapely.box(x0 + 8, y0 + 4, x0 + 28, y0 + 12), 17.5, material="brick")]
    context = _context(city, window, rows)
    expected = np.zeros((20, 30))
    expected[1:3, 2:7] = 17.5
    np.testing.assert_array_equal(context["building_height_m"], expected)
    np.testing.assert_array_equal(context["footprint"], expected > 0)
    assert set(np.unique(context["material"])) == {0, MATERIALS.index("brick")}
    at = context["building_height_m"].sel(x=x0 + 10, y=y0 + 6, method="nearest")
    assert at == 17.5
    assert context["y"][0] < context["y"][-1]


def test_the_higher_building_and_the_greater_road_are_shown(city):
    window = _window(city)
    x0, y0, x1, _ = window.bounds_m
    square = shapely.box(x0, y0 + 40, x0 + 40, y0 + 80)
    along = shapely.LineString([(x0, y0 + 10), (x1, y0 + 10)])
    rows = [
        _building(1, square, 30.0, material="glass"),
        _building(2, square, 10.0, material="wood"),
        _road(3, along, "primary", 12.0),
        _road(4, along, "path", 12.0),
    ]
    context = _context(city, window, rows)
    assert set(np.unique(context["building_height_m"])) == {0, 30}
    assert MATERIALS.index("wood") not in context["material"]
    assert set(np.unique(context["road"])) == {0, ROAD_CLASSES.index("primary")}
    assert int((context["road"] > 0).sum()) == 3 * 30


def test_a_passage_under_a_building_is_no_footprint(city):
    window = _window(city)
    x0, y0, _, _ = window.bounds_m
    rows = [_building(1, shapely.box(x0, y0, x0 + 20, y0 + 20), 20.0, base_m=6.0)]
    context = _context(city, window, rows)
    assert context["building_height_m"].max() == 20
    assert context["footprint"].max() == 0


def test_in_area_is_the_bounding_box_of_the_city(city):
    window = city.window_cells.buffered(40)
    context = _context(city, window, [])
    x, y = np.meshgrid(context["x"], context["y"])
    lon, lat = city.to_lonlat(x, y)
    west, south, east, north = city.bbox
    inside = (lon >= west) & (lon <= east) & (lat >= south) & (lat <= north)
    # the box is straight in degrees, the area straight in metres: they differ at no centre here
    np.testing.assert_array_equal(context["in_area"], inside)
    assert float(context["building_height_m"].max()) == 0


def test_moving_by_whole_grid_cells_moves_the_raster(city):
    window = _window(city)
    x0, y0, _, _ = window.bounds_m
    shape = shapely.Point(x0 + 31, y0 + 27).buffer(19)
    here = _context(city, window, [_building(1, shape, 9.0)])
    moved = shapely.transform(shape, lambda xy: xy + np.array([12.0, -8.0]))
    there = _context(city, window, [_building(1, moved, 9.0)])
    shifted = np.roll(here["building_height_m"].to_numpy(), (-2, 3), axis=(0, 1))
    np.testing.assert_array_equal(there["building_height_m"], shifted)


def test_what_is_written_is_read_with_units_crs_and_chunks(city, tmp_path):
    window = _window(city, rows=300, columns=270)
    x0, y0, _, _ = window.bounds_m
    rows = [_building(1, shapely.box(x0, y0, x0 + 90, y0 + 70), 12.0)]
    context = _context(city, window, rows)
    write_context(context, tmp_path)
    stored = load_context(tmp_path)
    assert stored.equals(context)
    assert list(stored.data_vars) == list(context.data_vars)
    for variable in stored.variables.values():
        assert variable.attrs["units"]
        assert variable.attrs["long_name"]
    assert stored.attrs["crs"] == city.crs_code
    assert "crs_wkt" in stored["spatial_ref"].attrs
    array = zarr.open_group(tmp_path / "context.zarr", mode="r")["footprint"]
    assert array.metadata.zarr_format == 3
    assert array.chunks == (256, 256)
    assert "Zstd" in str(array.compressors)


def test_missing_context_is_named(tmp_path):
    with pytest.raises(GeodataError, match="Materialize the scene again"):
        load_context(tmp_path)


def test_roofs_widths_and_terrain_have_rasters_of_their_own(city):
    window = _window(city)
    x0, y0, x1, _ = window.bounds_m
    flat = flat_terrain(window.buffered(32), city.terrain.step_m)
    heights = np.round(np.random.default_rng(0).uniform(0, 20, flat.heights_m.shape), 3)
    terrain = Terrain(heights, flat.column, flat.row, flat.step_m)
    along = shapely.LineString([(x0, y0 + 10), (x1, y0 + 10)])
    house = shapely.box(x0, y0 + 40, x0 + 40, y0 + 80)
    rows = [_building(1, house, 9.0, roof="brick"), _road(2, along, "primary", 12.0)]
    context = _context(city, window, rows, terrain)
    assert set(np.unique(context["roof_material"])) == {0, MATERIALS.index("brick")}
    assert set(np.unique(context["road_width_m"])) == {0, 12}
    np.testing.assert_array_equal(context["road_width_m"] > 0, context["road"] > 0)
    x, y = np.meshgrid(window.x_centres_m, window.y_centres_m)
    np.testing.assert_allclose(context["terrain_m"], terrain.height_at(x, y), atol=1e-5)


def test_water_vegetation_and_ground(city):
    """Roads lie over water, water over vegetation, vegetation over built-up land."""
    window = _window(city)
    x0, y0, x1, y1 = window.bounds_m
    whole = shapely.box(x0, y0, x1, y1)
    rows = [
        _land(1, whole, "residential"),
        _land(2, shapely.box(x0, y0, x0 + 80, y1), "park"),
        _land(3, shapely.box(x0, y0, x0 + 40, y1), "wood"),
        _land(4, shapely.box(x0, y0, x1, y0 + 20), "river", kind="water"),
        _land(5, shapely.box(x0, y0 + 60, x1, y1), "sea", kind="water"),
        _road(6, shapely.LineString([(x0 + 60, y0), (x0 + 60, y1)]), "primary", 9.0),
    ]
    context = _context(city, window, rows)
    assert int(context["water"][2, 2]) == 1
    assert int(context["vegetation"][8, 2]) == VEGETATION.index("trees")
    assert int(context["vegetation"][8, 18]) == VEGETATION.index("low")
    assert int(context["vegetation"][8, 25]) == 0
    classes = ground_classes(window, _frame(city, rows))
    np.testing.assert_array_equal(context["ground_material"], classes)
    names = {
        (8, 25): "paved",
        (8, 5): "dry_ground",
        (2, 5): "water",
        (18, 5): "sea",
        (2, 15): "paved",
    }
    assert {place: GROUND_MATERIALS[classes[place]] for place in names} == names
    marsh = [_land(1, whole, "wetland")]
    assert (
        ground_classes(window, _frame(city, marsh)) == GROUND_MATERIALS.index("wet_ground")
    ).all()
