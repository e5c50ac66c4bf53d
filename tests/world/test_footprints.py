"""Moved buildings: no slits where walls were shared, no space filled twice."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_rows import box, rows
from test_perturbed_buildings import perturbed

from ueloc_core.geodata.overlaps import overlapping_pairs
from ueloc_core.scene.meshes import building_mesh
from ueloc_core.scene.roofs import Roof
from ueloc_core.world.settings import BuildingAmounts

ROUGH = BuildingAmounts(height_m=3.0, shift_m=3.0)


def terrace(heights):
    """Houses side by side, each 14 m wide and 16 m deep."""
    return rows([box(14 * k, 0, 14, 16) for k in range(len(heights))], height_m=list(heights))


def block():
    """Houses around a courtyard, with corners where three of them meet."""
    shapes = [
        *(box(15 * k, 0, 15, 12) for k in range(4)),
        *(box(15 * k, 48, 15, 12) for k in range(4)),
        *(box(0, 12 + 18 * k, 12, 18) for k in range(2)),
        *(box(48, 12 + 18 * k, 12, 18) for k in range(2)),
    ]
    heights = np.random.default_rng(3).uniform(8, 30, len(shapes))
    return rows(shapes, height_m=heights)


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), made=st.sampled_from([terrace((20, 12, 16, 9, 24)), block()]))
def test_what_was_joined_stays_joined_and_nothing_overlaps(seed, made):
    frame = perturbed(made, ROUGH, seed).frame
    assert len(frame) == len(made)
    assert overlapping_pairs(frame) == []
    assert shapely.union_all(made.geometry.to_numpy()).geom_type == "Polygon"
    # a slit would cut the whole apart, or leave a place that only a thin line of sight reaches
    whole = shapely.union_all(frame.geometry.buffer(0.02).to_numpy())
    assert whole.geom_type == "Polygon"


@pytest.mark.parametrize("seed", range(8))
def test_a_party_wall_that_opens_is_closed(seed):
    frame = perturbed(terrace((20, 10)), ROUGH, seed).frame
    tall, low = frame.geometry
    # walk along the middle of the terrace: it is built from end to end
    line = shapely.LineString([tall.centroid, low.centroid])
    assert line.difference(shapely.union(tall, low)).length < 0.05
    # the higher one is only moved
    assert tall.area == pytest.approx(14 * 16, abs=1e-3)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6))
def test_fitted_footprints_give_closed_meshes(seed):
    frame = perturbed(block(), ROUGH, seed).frame
    from collections import Counter

    for row in frame.itertuples():
        mesh = building_mesh(
            row.geometry,
            base_m=0.0,
            top_m=row.height_m,
            roof=Roof("flat", 0.0, None),
            origin_m=(*row.geometry.bounds[:2], 0.0),
            counts=Counter(),
        )
        assert mesh is not None
        assert mesh.is_closed


def test_what_hung_over_a_roof_does_not_sink_into_it():
    buildings = rows(
        [box(0, 0, 40, 40), box(10, 10, 20, 20)],
        min_height_m=[0.0, 12.0],
        height_m=[12.0, 30.0],
        height_sigma_m=[4.0, 0.1],
    )
    sunk = 0
    for seed in range(30):
        world = perturbed(buildings, BuildingAmounts(height_sigma_share=1.0), seed)
        assert overlapping_pairs(world.frame) == []
        sunk += world.counts.get("lifted", 0)
    assert sunk > 5
