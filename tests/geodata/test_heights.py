"""Imputed heights: order, locality, calibration, and draws with their uncertainty."""

from collections import Counter

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from ueloc_core.geodata.buildings import described
from ueloc_core.geodata.heights import (
    RADIUS_M,
    height_table,
    hidden_height_error,
    imputed_heights,
    sample_heights,
)


def _city(count=400, known=0.5, seed=1):
    """A made-up city whose heights follow district, footprint and chance."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, 1000, (2, count))
    area = np.exp(rng.normal(5.5, 0.9, count))
    district = 0.5 * np.sin(x / 150) + 0.4 * np.cos(y / 200)
    height = np.exp(2.3 + 0.25 * (np.log(area) - 5.5) + district + rng.normal(0, 0.15, count))
    return pd.DataFrame(
        {
            "osm_id": [f"way/{i:04}" for i in range(count)],
            "building_id": [f"way/{i - i % 2:04}" for i in range(count)],
            "type": rng.choice(["yes", "apartments", "garage"], count),
            "area_m2": area,
            "walls": rng.uniform(0, 0.5, count),
            "is_part": False,
            "x_m": x,
            "y_m": y,
            "min_height_m": 0.0,
            "height_m": np.where(rng.random(count) < known, height, np.nan),
        }
    )


def test_only_unknown_heights_are_imputed_and_nothing_is_drawn():
    table = _city()
    heights, sigmas = imputed_heights(table)
    unknown = table["height_m"].isna().to_numpy()
    assert (np.isfinite(heights) == unknown).all()
    assert (np.isfinite(sigmas) == unknown).all()
    assert (heights[unknown] >= 3.2).all()
    assert (sigmas[unknown] > 0).all()
    again, _ = imputed_heights(table)
    np.testing.assert_array_equal(heights, again)


def test_no_estimate_is_higher_than_a_tag_may_be():
    table = _city().assign(height_m=lambda t: t["height_m"].where(t["height_m"].isna(), 1000.0))
    heights, _ = imputed_heights(table)
    assert 900 < np.nanmax(heights) <= 1000


def test_without_any_known_height_the_prior_decides():
    table = _city(known=0.0)
    heights, sigmas = imputed_heights(table)
    assert np.isfinite(heights).all()
    assert 5 < np.median(heights) < 20
    assert np.median(sigmas / heights) > 0.3
    garages = table["type"] == "garage"
    assert np.median(heights[garages]) < np.median(heights[~garages])


def test_an_imputed_height_is_near_those_of_like_neighbours_and_surer_there():
    table = _city(known=1.0)
    table.loc[[0, 1], ["area_m2", "walls", "height_m"]] = [400.0, 0.2, np.nan]
    table.loc[[0, 1], "type"] = "yes"
    near = table.index[2:8]
    table.loc[near, ["x_m", "y_m"]] = table.loc[0, ["x_m", "y_m"]].to_numpy(float) + 5.0
    table.loc[near, ["area_m2", "walls", "height_m"]] = [400.0, 0.2, 25.0]
    table.loc[near, "type"] = "yes"
    table.loc[1, ["x_m", "y_m"]] = [5000.0, 5000.0]
    heights, sigmas = imputed_heights(table)
    assert heights[0] == pytest.approx(25, rel=0.1)
    assert sigmas[0] / heights[0] < 0.7 * sigmas[1] / heights[1]


def test_heights_lie_a_level_above_the_underside():
    table = _city().assign(min_height_m=50.0)
    heights, _ = imputed_heights(table)
    assert np.nanmin(heights) >= 53.2


@given(st.integers(0, 399), st.floats(3, 150))
def test_an_edit_matters_within_the_radius_only(row, height_m):
    table = _city()
    edited = table.copy()
    edited.loc[row, "height_m"] = height_m
    x_m, y_m = table["x_m"].to_numpy(), table["y_m"].to_numpy()
    far = np.hypot(x_m - x_m[row], y_m - y_m[row])
    before, after = (np.column_stack(imputed_heights(t)).round(2) for t in (table, edited))
    kept = (far > RADIUS_M) & table["height_m"].isna().to_numpy()
    np.testing.assert_array_equal(before[kept], after[kept])


def test_the_error_beats_the_city_median_and_the_spread_is_honest():
    found = hidden_height_error(_city(count=800, known=0.7), seed=3)
    assert found["median_m"] < 0.7 * found["city_median_rule_median_m"]
    assert found["p90_m"] < 0.8 * found["city_median_rule_p90_m"]
    assert 0.85 < found["coverage_90"] <= 1
    assert found == hidden_height_error(_city(count=800, known=0.7), seed=3)


def test_parts_of_one_building_are_hidden_together():
    table = _city(known=1.0)
    table["height_m"] = np.random.default_rng(0).uniform(5, 100, len(table) // 2).repeat(2)
    table.loc[1::2, ["x_m", "y_m", "area_m2", "walls"]] = table.loc[
        ::2, ["x_m", "y_m", "area_m2", "walls"]
    ].to_numpy()
    table["type"] = "yes"
    # a twin that were seen would give the height away
    assert hidden_height_error(table, seed=1)["median_m"] > 10


def test_too_few_known_heights_have_no_error():
    found = hidden_height_error(_city(count=12, known=0.3), seed=1)
    assert found["median_m"] is None


def _features(count, height_m, sigma_m, min_height_m=0.0, roof_height_m=0.0):
    return gpd.GeoDataFrame(
        {
            "osm_id": [f"way/{i}" for i in range(count)],
            "height_m": height_m,
            "height_sigma_m": sigma_m,
            "min_height_m": min_height_m,
            "roof_height_m": roof_height_m,
        },
        geometry=[shapely.box(0, 0, 1, 1)] * count,
    )


def test_draws_have_the_median_and_the_spread():
    drawn = sample_heights(_features(4000, 20.0, 4.0, 2.0, 3.0), seed=5)
    assert np.median(drawn) == pytest.approx(20, abs=0.25)
    assert drawn.std() == pytest.approx(4, rel=0.08)
    assert drawn.min() > 5


def test_draws_depend_on_seed_and_building_and_not_on_order():
    features = _features(50, 20.0, 4.0)
    drawn = sample_heights(features, seed=5)
    turned = sample_heights(features.iloc[::-1], seed=5)
    np.testing.assert_array_equal(drawn, turned[::-1])
    assert len(set(drawn)) == 50
    assert not (sample_heights(features, seed=6) == drawn).any()


@given(st.floats(0.2, 900), st.floats(0.01, 200), st.floats(0, 0.9))
def test_no_draw_falls_below_the_underside(height_m, sigma_m, share):
    features = _features(20, height_m, sigma_m, share * height_m)
    drawn = sample_heights(features, seed=1)
    assert np.isfinite(drawn).all()
    assert (drawn >= share * height_m).all()


def test_shared_walls_are_the_share_of_the_outline_along_others():
    shapes = [shapely.box(0, 0, 10, 10), shapely.box(10, 0, 20, 10), shapely.box(100, 0, 110, 10)]
    buildings = [
        described(f"way/{i}", "building", {"height": "9"}, shape, Counter())
        for i, shape in enumerate(shapes)
    ]
    table = height_table(buildings[::-1])
    assert list(table["osm_id"]) == ["way/0", "way/1", "way/2"]
    assert table["walls"].tolist() == pytest.approx([0.25, 0.25, 0], abs=0.03)
    assert table["area_m2"].tolist() == [100, 100, 100]
