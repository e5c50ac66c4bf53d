"""The world's scenes: equal to the twin's where nothing differs, and the same for all tiles."""

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely

from ueloc_core.geodata.context import load_context, outdoor_cells
from ueloc_core.geodata.overlaps import overlapping_pairs
from ueloc_core.geodata.schemas import ContextSchema, FeatureSchema
from ueloc_core.geodata.terrain import Terrain
from ueloc_core.provenance import digest_folder
from ueloc_core.world.difference_picture import MAX_BYTES
from ueloc_core.world.scenes import (
    CHANGES,
    DIFFERENCE,
    build_world_scene,
    copy_of_twin,
    differences,
    same_buildings,
)


@pytest.fixture(scope="module")
def built(town, tmp_path_factory):
    """The scene of a tile in a bad world, and what is told of it."""
    out = tmp_path_factory.mktemp("world") / "scene"
    out.mkdir()
    city, tile = town.in_world(level="bad", missing_share=0.3, extra_share=0.3), town.busiest
    surroundings = town.surroundings(city, tile)
    metadata = build_world_scene(city, tile, surroundings, town.terrain, out)
    return tile, out, metadata


def test_a_world_without_differences_is_the_twin_byte_by_byte(town, tmp_path):
    assert same_buildings(town.city)
    assert same_buildings(town.in_world(level="none", power_db=3))
    assert not same_buildings(town.in_world(level="none", shift_m=0.1))
    twin = town.scene(town.busiest)
    copy_of_twin(twin, tmp_path / "world")
    assert digest_folder(tmp_path / "world") == digest_folder(twin)
    # no byte is written twice where the file system has links
    one = next((tmp_path / "world").glob("meshes/*.ply"))
    assert one.samefile(twin / "meshes" / one.name)


def test_the_layout_is_that_of_a_scene(town, built):
    tile, out, metadata = built
    own = {path.relative_to(out).parts[0] for path in out.iterdir()}
    twin = town.scene(tile)
    assert own == {path.relative_to(twin).parts[0] for path in twin.iterdir()} | {
        CHANGES,
        DIFFERENCE,
    }
    ContextSchema.validate(load_context(out))
    assert metadata["watertight_share"] == 1.0
    assert (out / DIFFERENCE).stat().st_size <= MAX_BYTES
    assert (out / "terrain.zarr").is_dir()
    assert digest_folder(out / "terrain.zarr") == digest_folder(twin / "terrain.zarr")


def test_what_is_told_agrees_with_what_is_stored(built):
    _, out, metadata = built
    world = gpd.read_parquet(out / "buildings.parquet")
    changes = pd.read_parquet(out / CHANGES).set_index("osm_id")
    gone = changes.index[changes.state != "there"]
    assert not set(world.osm_id) & set(gone)
    assert metadata["buildings_missing"] == (changes.state == "missing").sum() > 0
    extra = world[world.osm_id.str.startswith("way/-")]
    assert len(extra) == metadata["buildings_extra"] > 0
    both = world.set_index("osm_id").join(changes, rsuffix="_drawn", how="inner")
    assert both.height_m.to_numpy() == pytest.approx(both.height_m_drawn.to_numpy(), abs=1e-6)
    assert 2 < metadata["shift_rms_m"] < 4
    assert overlapping_pairs(world) == []


def test_the_rasters_show_the_worlds_buildings(town, built):
    tile, out, _ = built
    twin, world = (outdoor_cells(load_context(folder)) for folder in (town.scene(tile), out))
    assert 0.005 < (twin != world).mean() < 0.2


def test_differences_are_those_of_buildings_in_both():
    changes = pd.DataFrame(
        {
            "state": ["there", "there", "missing", "swallowed"],
            "dx_m": [3.0, 0.0, 9.0, 9.0],
            "dy_m": [4.0, 0.0, 9.0, 9.0],
            "height_m": [12.0, 20.0, 99.0, 99.0],
            "twin_height_m": [10.0, 16.0, 1.0, 1.0],
            "height_source": ["tag", "imputed", "tag", "tag"],
            "wall_changed": [True, False, True, True],
            "roof_changed": [False, False, True, True],
        }
    )
    found = differences(changes, 7)
    assert found["buildings_in_both"] == 2
    assert found["buildings_missing"] == found["buildings_swallowed"] == 1
    assert found["buildings_extra"] == 7
    assert found["shift_rms_m"] == pytest.approx((25 / 2) ** 0.5, abs=1e-4)
    assert found["height_rms_m"] == pytest.approx(10**0.5, abs=1e-4)
    assert found["height_rms_tagged_m"] == 2.0
    assert found["height_rms_imputed_m"] == 4.0
    assert found["walls_changed"] == 1


@pytest.mark.parametrize("level", ["osm", "bad"])
def test_neighbouring_tiles_agree_on_every_building_that_both_see(town, level):
    city = town.in_world(level=level)
    seen = {}
    for tile in city.tile_list:
        world, extra = town.world(city, tile)
        parts = [part for part in (world.frame, extra) if len(part)]
        frame = gpd.GeoDataFrame(pd.concat(parts, ignore_index=True))
        FeatureSchema.validate(frame)
        box = shapely.box(*city.scene_window(tile).bounds_m)
        seen[tile.name] = frame[frame.intersects(box)].set_index("osm_id"), box
    compared = 0
    for frame, _ in seen.values():
        for other, box in seen.values():
            shared = frame[frame.intersects(box)]
            assert set(shared.index) <= set(other.index)
            pd.testing.assert_frame_equal(shared, other.loc[shared.index])
            compared += len(shared)
    assert compared > 200


def test_what_carries_a_mast_is_never_missing(town):
    city = town.in_world(missing_share=1.0)
    world, _ = town.world(city, town.busiest)
    masts = town.surroundings(city, town.busiest).masts
    points = shapely.points(masts[["x_m", "y_m"]].to_numpy())
    changes = world.changes
    carries = np.array([shape.distance(points).min() < 0.5 for shape in changes.geometry])
    wide = changes.geometry.bounds
    wide = (wide.maxx - wide.minx > city.range_m) | (wide.maxy - wide.miny > city.range_m)
    assert sum(carries) > 3
    assert ((changes.state == "there") == (carries | wide)).all()


def test_no_extra_building_stands_in_the_way(town):
    city = town.in_world(extra_share=1.0, shift_m=2.0, position_m=1.0)
    tile = town.busiest
    world, extra = town.world(city, tile)
    assert len(extra) > 5
    around = town.surroundings(city, tile)
    shapes = extra.geometry.to_numpy()
    roads = around.ground[around.ground.kind == "road"]
    strips = roads.geometry.buffer(roads.width_m / 2).to_numpy()
    masts = shapely.points(around.masts[["x_m", "y_m"]].to_numpy())
    for others in (around.buildings.geometry, world.frame.geometry, strips, masts):
        assert shapely.STRtree(others).query(shapes, "dwithin", 1.4).size == 0


def test_only_what_a_tile_depends_on_is_in_its_digests(town):
    city, tile = town.in_world(level="osm"), town.busiest
    before = town.surroundings(city, tile)
    again = town.surroundings(city, tile)
    assert before.digests == again.digests
    masts = before.masts.assign(x_m=before.masts.x_m + 1.0)
    moved = type(before)(before.buildings, before.ground, masts)
    assert {n for n, d in moved.digests.items() if d != before.digests[n]} == {"masts"}


def test_a_terrain_reaches_as_far_as_buildings_do(town):
    """Ground that ends before a building does is no error: it is looked at as far as it goes."""
    city, tile = town.in_world(level="bad"), town.busiest
    terrain = town.terrain
    heights = terrain.heights_m + 0.0
    heights[::2] = 1.0  # no flat ground
    rough = Terrain(heights, terrain.column, terrain.row, terrain.step_m)
    from ueloc_core.world.scenes import world_features

    surroundings = town.surroundings(city, tile)
    world, _ = world_features(city, city.scene_window(tile), surroundings, rough)
    assert world.frame.ground_m.notna().all()
