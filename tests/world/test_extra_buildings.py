"""Extra buildings stand on open ground, as many as was asked for, wherever the window lies."""

import numpy as np
import pandas as pd
import pytest
import shapely
from made_up_rows import CORNER, box, rows
from scipy import stats
from test_perturbed_buildings import FLAT

from ueloc_core.geodata.schemas import FeatureSchema
from ueloc_core.grid import Window
from ueloc_core.world.extra_buildings import extra_buildings

WINDOW = Window.covering((*CORNER, CORNER[0] + 1500, CORNER[1] + 1500), 4.0)
NO_MASTS = pd.DataFrame({"x_m": [], "y_m": []})


class _City:
    """As much of a city as is read."""

    def __init__(self, share, position_m=0.0):
        from ueloc_core.city_sections import GridConfig, TilesConfig
        from ueloc_core.world.settings import WorldConfig

        self.seed = 1
        self.world = WorldConfig(extra_share=share, position_m=position_m)
        self.grid, self.tiles = GridConfig(), TilesConfig()
        x0, y0, x1, y1 = WINDOW.bounds_m
        self.area_m = ((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def sheds(count):
    """Small buildings, wide apart."""
    side = int(np.ceil(np.sqrt(count)))
    step = 1480 / side
    return rows([box(step * (k % side) + 9, step * (k // side) + 9, 8, 8) for k in range(count)])


def added(buildings, share, ground=None, masts=NO_MASTS, window=WINDOW, position_m=0.0):
    ground = rows([]) if ground is None else ground
    taken = buildings.geometry.to_numpy()
    city = _City(share, position_m)
    return extra_buildings(city, window, buildings, taken, ground, masts, FLAT)


def test_where_there_is_room_there_are_as_many_as_was_asked_for():
    found = added(sheds(625), 0.3)
    assert stats.binomtest(len(found), 625, 0.3).pvalue > 1e-3
    FeatureSchema.validate(found)
    assert found.osm_id.is_unique
    assert len(added(sheds(625), 0.0)) == 0


def test_they_overlap_nothing():
    buildings = sheds(400)
    road = shapely.LineString([CORNER, (CORNER[0] + 1500, CORNER[1] + 1500)])
    lake = box(700, 100, 300, 200)
    ground = pd.concat(
        [
            rows([road], osm_id="way/901", kind="road", width_m=12.0),
            rows([lake], osm_id="way/902", kind="water"),
        ]
    )
    x, y = np.random.default_rng(1).uniform(0, 1500, (2, 40))
    masts = pd.DataFrame({"x_m": CORNER[0] + x, "y_m": CORNER[1] + y})
    found = added(buildings, 0.8, ground, masts, position_m=2.0)
    assert len(found) > 200
    shapes = found.geometry.to_numpy()
    assert shapely.STRtree(buildings.geometry.to_numpy()).query(shapes, "dwithin", 1.4).size == 0
    assert shapely.distance(shapes, road).min() > 6 + 1.4
    assert shapely.distance(shapes, lake).min() > 1.4
    points = shapely.points(masts.to_numpy())
    assert shapely.STRtree(points).query(shapes, "dwithin", 5 + 3 * 2.0).size == 0
    left, right = shapely.STRtree(shapes).query(shapes, "dwithin", 1.4)
    assert (left == right).all()


def test_they_do_not_depend_on_the_window():
    buildings = sheds(400)
    whole = added(buildings, 0.5).set_index("osm_id")
    for corner in ((300, 200), (428, 328)):
        low = (CORNER[0] + corner[0], CORNER[1] + corner[1])
        window = Window.covering((*low, low[0] + 400, low[1] + 400), 4.0)
        part = added(buildings, 0.5, window=window).set_index("osm_id")
        inside = whole.intersects(shapely.box(*window.bounds_m))
        assert inside.sum() > 10
        assert set(whole.index[inside]) <= set(part.index)
        pd.testing.assert_frame_equal(part, whole.loc[part.index])


def test_nothing_is_built_outside_the_city():
    found = added(sheds(900), 1.0)
    area = shapely.Polygon(_City(1.0).area_m)
    assert found.geometry.within(area).all()
    assert found.height_m.between(3, 12).all()
    assert found.ground_m.to_numpy() == pytest.approx(0.0)
