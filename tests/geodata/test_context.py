"""Context rasters against the polygons they show."""

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import zarr

from ueloc_core.errors import GeodataError
from ueloc_core.geodata.buildings import MATERIALS
from ueloc_core.geodata.context import build_context, load_context, write_context
from ueloc_core.geodata.schemas import ROAD_CLASSES
from ueloc_core.grid import Window
from ueloc_core.synthetic import synthetic_city


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    return synthetic_city(tmp_path_factory.mktemp("city"))


def _building(number, shape, height_m, base_m=0.0, material="concrete"):
    return (f"way/{number}", "building", height_m, base_m, material, None, np.nan, shape)


def _road(number, line, road_class, width_m):
    return (f"way/{number}", "road", np.nan, np.nan, None, road_class, width_m, line)


def _frame(city, rows):
    frame = pd.DataFrame(
        [row[:-1] for row in rows],
        columns=["osm_id", "kind", "height_m", "min_height_m", "material", "road_class", "width_m"],
    )
    return gpd.GeoDataFrame(frame, geometry=[row[-1] for row in rows], crs=city.crs_code)


def _window(city, rows=20, columns=30):
    origin = city.tile_list[0].window
    return Window(origin.column, origin.row, columns, rows, 4.0)


def test_a_building_fills_the_grid_cells_whose_centre_it_covers(city):
    window = _window(city)
    x0, y0, _, _ = window.bounds_m
    rows = [_building(1, shapely.box(x0 + 8, y0 + 4, x0 + 28, y0 + 12), 17.5, material="brick")]
    context = build_context(city, window, _frame(city, rows))
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
    context = build_context(city, window, _frame(city, rows))
    assert set(np.unique(context["building_height_m"])) == {0, 30}
    assert MATERIALS.index("wood") not in context["material"]
    assert set(np.unique(context["road"])) == {0, ROAD_CLASSES.index("primary")}
    assert int((context["road"] > 0).sum()) == 3 * 30


def test_a_passage_under_a_building_is_no_footprint(city):
    window = _window(city)
    x0, y0, _, _ = window.bounds_m
    rows = [_building(1, shapely.box(x0, y0, x0 + 20, y0 + 20), 20.0, base_m=6.0)]
    context = build_context(city, window, _frame(city, rows))
    assert context["building_height_m"].max() == 20
    assert context["footprint"].max() == 0


def test_in_area_is_the_bounding_box_of_the_city(city):
    window = city.window_cells.buffered(40)
    context = build_context(city, window, _frame(city, []))
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
    here = build_context(city, window, _frame(city, [_building(1, shape, 9.0)]))
    moved = shapely.transform(shape, lambda xy: xy + np.array([12.0, -8.0]))
    there = build_context(city, window, _frame(city, [_building(1, moved, 9.0)]))
    shifted = np.roll(here["building_height_m"].to_numpy(), (-2, 3), axis=(0, 1))
    np.testing.assert_array_equal(there["building_height_m"], shifted)


def test_what_is_written_is_read_with_units_crs_and_chunks(city, tmp_path):
    window = _window(city, rows=300, columns=270)
    x0, y0, _, _ = window.bounds_m
    rows = [_building(1, shapely.box(x0, y0, x0 + 90, y0 + 70), 12.0)]
    context = build_context(city, window, _frame(city, rows))
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
