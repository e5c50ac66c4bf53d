"""Windows and tiles on the one global grid."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ueloc_core.errors import UelocError
from ueloc_core.grid import BLOCK_CELLS, Window, sector_window, tile_at, tiles_over

CELL_M = 4.0
coordinates = st.floats(-1e6, 7e6)
windows = st.builds(
    Window,
    *(st.integers(-10_000, 10_000) for _ in range(2)),
    *(st.integers(1, 400) for _ in range(2)),
    st.just(CELL_M),
)


def test_bounds_centres_and_shape():
    window = Window(-2, 10, 3, 5, CELL_M)
    assert window.bounds_m == (-8, 40, 4, 60)
    assert window.centre_m == (-2, 50)
    assert window.shape == (5, 3)
    np.testing.assert_array_equal(window.x_centres_m, [-6, -2, 2])
    np.testing.assert_array_equal(window.y_centres_m, [42, 46, 50, 54, 58])


@given(windows)
def test_a_pixel_centre_lies_in_its_own_grid_cell(window):
    row, column = window.indices(window.x_centres_m, window.y_centres_m.repeat(1)[0])
    np.testing.assert_array_equal(column, np.arange(window.columns))
    assert (row == 0).all()
    assert window.contains(window.x_centres_m, window.y_centres_m[-1]).all()


@given(windows)
def test_lower_and_left_edges_belong_to_the_window_upper_and_right_do_not(window):
    x0, y0, x1, y1 = window.bounds_m
    assert window.contains(x0, y0)
    assert not window.contains(x1, y0)
    assert not window.contains(x0, y1)


@given(coordinates, coordinates, st.integers(1, 200))
def test_a_centred_window_has_its_centre_within_half_a_cell(x_m, y_m, half):
    window = Window.centred(x_m, y_m, 2 * half * CELL_M, CELL_M)
    assert window.columns == window.rows == 2 * half
    centre = window.centre_m
    assert abs(centre[0] - x_m) <= CELL_M / 2 + 1e-6
    assert abs(centre[1] - y_m) <= CELL_M / 2 + 1e-6


@given(coordinates, coordinates, st.floats(0, 900), st.floats(0, 900), st.sampled_from([1, 4, 128]))
def test_covering_holds_the_bounds_and_is_aligned(x_m, y_m, width_m, depth_m, align):
    window = Window.covering((x_m, y_m, x_m + width_m, y_m + depth_m), CELL_M, align)
    x0, y0, x1, y1 = window.bounds_m
    assert x0 <= x_m + 1e-6
    assert y0 <= y_m + 1e-6
    assert x1 >= x_m + width_m - 1e-6
    assert y1 >= y_m + depth_m - 1e-6
    assert window.column % align == window.row % align == 0
    assert window.columns % align == window.rows % align == 0


def test_buffered_grows_by_whole_cells():
    window = Window(0, 0, 10, 10, CELL_M)
    assert window.buffered(8) == Window(-2, -2, 14, 14, CELL_M)
    assert window.buffered(8.1) == Window(-3, -3, 16, 16, CELL_M)
    assert window.buffered(0) == window


@given(windows, windows)
def test_intersection_is_symmetric_and_inside_both(first, second):
    shared = first.intersection(second)
    assert shared == second.intersection(first)
    if shared is None:
        assert not (
            first.bounds_m[0] < second.bounds_m[2]
            and second.bounds_m[0] < first.bounds_m[2]
            and first.bounds_m[1] < second.bounds_m[3]
            and second.bounds_m[1] < first.bounds_m[3]
        )
    else:
        assert first.intersection(shared) == shared == second.intersection(shared)


@given(windows, st.data())
def test_slices_cut_the_same_pixels_out_of_the_coordinates(outer, data):
    column = data.draw(st.integers(0, outer.columns - 1))
    row = data.draw(st.integers(0, outer.rows - 1))
    inner = Window(
        outer.column + column,
        outer.row + row,
        data.draw(st.integers(1, outer.columns - column)),
        data.draw(st.integers(1, outer.rows - row)),
        CELL_M,
    )
    rows, columns = inner.slices_in(outer)
    np.testing.assert_array_equal(outer.x_centres_m[columns], inner.x_centres_m)
    np.testing.assert_array_equal(outer.y_centres_m[rows], inner.y_centres_m)


def test_slices_outside_are_refused():
    with pytest.raises(UelocError, match="is not inside"):
        Window(0, 0, 4, 4, CELL_M).slices_in(Window(1, 1, 9, 9, CELL_M))


@given(coordinates, coordinates, st.floats(1, 3000), st.floats(1, 3000))
def test_tiles_partition_what_they_cover(x_m, y_m, width_m, depth_m):
    bounds_m = (x_m, y_m, x_m + width_m, y_m + depth_m)
    tiles = list(tiles_over(bounds_m, 512.0, CELL_M))
    assert len({tile.name for tile in tiles}) == len(tiles)
    cells = sum(tile.window.columns * tile.window.rows for tile in tiles)
    union = Window.covering(bounds_m, CELL_M, 128)
    assert cells == union.columns * union.rows
    for fraction in (0.0, 0.3, 0.999):
        point = x_m + fraction * width_m, y_m + fraction * depth_m
        owners = [tile for tile in tiles if tile.owns(*point)]
        assert owners == [tile_at(*point, 512.0, CELL_M)]


def test_tile_names_come_from_the_grid():
    assert tile_at(385_600.0, 6_672_000.0, 512.0, CELL_M).name == "e753n13031"
    assert tile_at(-1.0, -600.0, 512.0, CELL_M).name == "e-1n-2"
    small = list(tiles_over((0, 0, 1024, 512), 512.0, CELL_M))
    large = list(tiles_over((-512, 0, 1024, 1024), 512.0, CELL_M))
    assert set(small) < set(large)


@pytest.mark.parametrize(
    ("azimuth_deg", "shift"), [(0, (0, 100)), (90, (100, 0)), (180, (0, -100)), (270, (-100, 0))]
)
def test_a_sector_window_is_shifted_along_the_compass_azimuth(azimuth_deg, shift):
    window = sector_window(0.0, 0.0, azimuth_deg, size_m=1024, shift_m=100, cell_m=CELL_M)
    assert window.shape == (256, 256)
    assert window.centre_m == pytest.approx(shift, abs=BLOCK_CELLS * CELL_M / 2)


@given(coordinates, coordinates, st.floats(-720, 720))
def test_a_sector_window_reaches_no_farther_than_the_range(x_m, y_m, azimuth_deg):
    window = sector_window(x_m, y_m, azimuth_deg, size_m=1024, shift_m=100, cell_m=CELL_M)
    block_m = BLOCK_CELLS * CELL_M
    centre = window.centre_m
    assert math.hypot(centre[0] - x_m, centre[1] - y_m) <= 100 + block_m
    x0, y0, x1, y1 = window.bounds_m
    assert max(x_m - x0, x1 - x_m, y_m - y0, y1 - y_m) <= 512 + 100 + block_m
    assert window.column % BLOCK_CELLS == window.row % BLOCK_CELLS == 0
