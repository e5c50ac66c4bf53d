"""Mast and terminal swapped: the same gain along every kind of path."""

import numpy as np
import pytest
from small_scenes import BOTH, box, ground, small_scene, square, trace

pytestmark = pytest.mark.slow

CELL_M = 4.0


def both_ways(scene, one, other, **options):
    """Gain [dB] and standard error from each place to the grid cell around the other."""
    found = []
    for mast, (x, y, z) in ((one, other), (other, one)):
        far = np.hypot(x - mast[0], y - mast[1])
        # a grid around the mast and the place: rays reach twice as far as the grid does
        cells = 2 * int(far // CELL_M) + 3
        grid = square((x, y), cells, CELL_M, z)
        sector = trace(scene, mast, grid, BOTH, **options).sectors[0]
        middle = cells // 2, cells // 2
        found.append((sector.path_gain_db[middle], sector.path_gain_se_db[middle]))
    return found


def assert_reciprocal(found, tolerance_db=0.05):
    (there, there_se), (back, back_se) = found
    assert np.isfinite([there, back]).all()
    assert abs(there - back) < tolerance_db + 3.7 * np.hypot(there_se, back_se)  # 99% of t(6)


ONE, OTHER = (-50.0, 10.0, 30.0), (40.0, -20.0, 12.0)


def test_in_free_space_with_a_ground(tmp_path):
    scene = small_scene(tmp_path, ground=(ground(300), "concrete"))
    found = both_ways(scene, ONE, OTHER, rays=400_000)
    assert_reciprocal(found)
    assert max(se for _, se in found) < 1


def test_by_a_wall_alone(tmp_path):
    """A screen that reflects nothing hides the straight line."""
    wall, screen = box((-100, 100), (60, 61), (-10, 90)), box((-6, -5), (-90, 20), (-10, 90))
    scene = small_scene(tmp_path, wall=(wall, "concrete"), screen=(screen, "black"))
    found = both_ways(scene, ONE, OTHER, rays=1_000_000)
    assert_reciprocal(found)
    assert max(se for _, se in found) < 0.6


@pytest.mark.parametrize("material", ["black", "concrete", "metal"])
def test_over_an_edge(tmp_path, material):
    """One end grazes the roof, the other looks up at its edge."""
    wedge = box((-30, 20), (-400, 400), (0, 20))
    scene = small_scene(tmp_path, wedge=(wedge, material))
    found = both_ways(scene, (-150.0, 0.0, 40.0), (32.0, 0.0, 10.0), diffraction=True)
    assert_reciprocal(found, tolerance_db=0.2)
