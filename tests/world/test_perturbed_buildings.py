"""Buildings differ by the amounts that were asked for, and by nothing else."""

import numpy as np
import pandas as pd
import pytest
from made_up_rows import CORNER, CRS, box, rows, scattered
from scipy import stats

from ueloc_core.geodata.schemas import FeatureSchema
from ueloc_core.geodata.terrain import Terrain
from ueloc_core.world.buildings import world_buildings
from ueloc_core.world.settings import LEVELS, BuildingAmounts

FLAT = Terrain(np.zeros((200, 200)), int(CORNER[0] // 50) - 20, int(CORNER[1] // 50) - 20, 50.0)
LEVEL = 1e-3
MANY = 1500


def perturbed(buildings, amounts, seed=1, fixed=(), terrain=FLAT):
    return world_buildings(buildings, amounts, seed, fixed=frozenset(fixed), terrain=terrain)


def is_rms(values, expected):
    """Whether a root mean square agrees with its expectation, at a level of 0.1%."""
    squares = np.square(values)
    error = np.std(squares) / np.sqrt(len(squares))
    return abs(squares.mean() - expected**2) < stats.norm.ppf(1 - LEVEL / 2) * error


def test_without_amounts_every_row_is_the_twins():
    buildings = scattered(20, material=["brick", "glass"] * 10, height_m=np.linspace(3, 40, 20))
    world = perturbed(buildings, BuildingAmounts())
    pd.testing.assert_frame_equal(world.frame, buildings)
    assert (world.changes.state == "there").all()


def test_every_level_gives_rows_of_features():
    buildings = scattered(60, roof_shape="gabled", roof_height_m=4.0, roof_direction_deg=90.0)
    for amounts, _ in LEVELS.values():
        frame = perturbed(buildings, amounts).frame
        FeatureSchema.validate(frame)
        assert (frame.roof_shape == "gabled").all()


def test_the_error_of_heights_is_the_amount():
    changes = perturbed(scattered(MANY), BuildingAmounts(height_m=2.0)).changes
    assert is_rms(changes.height_m - changes.twin_height_m, 2.0)


def test_imputed_heights_are_off_by_their_own_uncertainty_and_tagged_ones_by_less():
    source = np.where(np.arange(2 * MANY) % 2, "imputed", "tag")
    buildings = scattered(
        2 * MANY, height_source=source, height_sigma_m=np.where(source == "imputed", 5.0, 1.0)
    )
    changes = perturbed(buildings, LEVELS["osm"][0]).changes
    error = changes.height_m - changes.twin_height_m
    assert is_rms(error[changes.height_source == "imputed"], 5.0)
    assert is_rms(error[changes.height_source == "tag"], 1.0)


def test_both_errors_of_a_height_add_in_quadrature():
    buildings = scattered(MANY, height_sigma_m=3.0)
    amounts = BuildingAmounts(height_m=4.0, height_sigma_share=1.0)
    changes = perturbed(buildings, amounts).changes
    assert changes.height_error_m.to_numpy() == pytest.approx(5.0)
    assert is_rms(changes.height_m - changes.twin_height_m, 5.0)


def test_the_shift_is_the_amount_and_goes_anywhere():
    buildings = scattered(MANY)
    world = perturbed(buildings, BuildingAmounts(shift_m=1.0))
    changes = world.changes
    assert is_rms(np.hypot(changes.dx_m, changes.dy_m), 1.0)
    moved = world.frame.centroid
    for axis, column in (("x", "dx_m"), ("y", "dy_m")):
        step_m = getattr(moved, axis) - getattr(buildings.centroid, axis)
        assert step_m.to_numpy() == pytest.approx(changes[column].to_numpy(), abs=1e-6)
    assert stats.ttest_1samp(changes.dx_m, 0).pvalue > LEVEL
    assert stats.pearsonr(changes.dx_m, changes.dy_m).pvalue > LEVEL
    assert world.frame.area.to_numpy() == pytest.approx(400.0, abs=1e-6)  # moved, not resized


def test_a_share_is_missing_but_nothing_that_is_fixed():
    buildings = scattered(MANY)
    fixed = set(buildings.building_id[:500])
    world = perturbed(buildings, BuildingAmounts(missing_share=0.1), fixed=fixed)
    missing = world.changes[world.changes.state == "missing"]
    assert not set(missing.building_id) & fixed
    assert stats.binomtest(len(missing), MANY - 500, 0.1).pvalue > LEVEL
    assert set(world.frame.osm_id) == set(buildings.osm_id) - set(missing.osm_id)
    kept = world.counts["kept_for_a_mast_or_its_size"]
    assert stats.binomtest(kept, 500, 0.1).pvalue > LEVEL


def test_a_share_of_walls_and_roofs_is_of_something_else():
    buildings = scattered(MANY, material="brick")
    world = perturbed(buildings, BuildingAmounts(material_share=0.2))
    for column, twin in (("material", "brick"), ("roof_material", "concrete")):
        changed = world.frame[column] != twin
        assert stats.binomtest(int(changed.sum()), MANY, 0.2).pvalue > LEVEL
        into = world.frame[column][changed].value_counts()
        assert len(into) == 5
        assert stats.chisquare(into).pvalue > LEVEL
    changes = world.changes
    assert stats.pearsonr(changes.wall_changed, changes.roof_changed).pvalue > LEVEL


def test_a_larger_amount_scales_the_same_differences():
    one, two = (perturbed(scattered(50), BuildingAmounts(shift_m=s)).changes for s in (1.0, 2.0))
    assert two.dx_m.to_numpy() == pytest.approx(2 * one.dx_m.to_numpy(), abs=2e-3)


def test_a_building_does_not_depend_on_others_far_away():
    buildings = scattered(40)
    whole = perturbed(buildings, LEVELS["bad"][0]).frame.set_index("osm_id")
    part = perturbed(buildings[10:20].reset_index(drop=True), LEVELS["bad"][0]).frame
    part = part.set_index("osm_id")
    pd.testing.assert_frame_equal(part, whole.loc[part.index])


def test_another_seed_gives_another_world():
    one, two = (perturbed(scattered(50), LEVELS["osm"][0], seed=s).changes for s in (1, 2))
    assert not np.isclose(one.dx_m, two.dx_m).any()


def test_the_parts_of_a_building_move_together_and_stay_stacked():
    podium, tower = box(0, 0, 40, 40), box(10, 10, 20, 20)
    ring = podium.difference(tower)
    buildings = rows(
        [ring, tower, tower],
        building_id="way/1",
        min_height_m=[0.0, 0.0, 8.0],
        height_m=[8.0, 8.0, 30.0],
        height_sigma_m=[1.0, 2.0, 6.0],
    )
    for seed in range(20):
        world = perturbed(buildings, BuildingAmounts(3.0, 1.0, 2.0), seed)
        frame = world.frame
        assert world.changes[["dx_m", "dy_m"]].drop_duplicates().shape == (1, 2)
        factor = frame.height_m / buildings.height_m
        assert factor.to_numpy() == pytest.approx(factor[0], rel=2e-4)
        assert frame.min_height_m[2] == pytest.approx(frame.height_m[1], abs=2e-3)
        assert frame.geometry[0].intersection(frame.geometry[1]).area < 1e-6
        assert frame.area.to_numpy() == pytest.approx(buildings.area.to_numpy(), abs=1e-3)


def test_a_building_that_moves_on_a_slope_stands_on_the_ground():
    x = (FLAT.column + np.arange(200)) * 50.0
    slope = Terrain(
        np.round(np.tile((x - x[0]) * 0.2, (200, 1)), 3), FLAT.column, FLAT.row, FLAT.step_m
    )
    buildings = scattered(30)
    ground_m = [slope.lowest_within(shape) for shape in buildings.geometry]
    buildings = buildings.assign(ground_m=ground_m)
    frame = perturbed(buildings, BuildingAmounts(shift_m=3.0), terrain=slope).frame
    lowest = [slope.lowest_within(shape) for shape in frame.geometry]
    assert frame.ground_m.to_numpy() == pytest.approx(np.array(lowest), abs=2e-3)
    assert np.ptp(frame.ground_m - buildings.ground_m) > 0.5
    assert frame.crs == CRS
