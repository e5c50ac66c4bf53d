"""One site of a made-up city: noise, repetition, translation and seams of its radio maps."""

from dataclasses import dataclass, replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from one_thread import one_thread
from scipy.stats import spearmanr

from ueloc_core.city import City
from ueloc_core.geodata.context import load_context
from ueloc_core.geodata.osm import build_extract, load_features
from ueloc_core.geodata.terrain import Terrain, flat_terrain, load_terrain
from ueloc_core.grid import Tile, Window
from ueloc_core.radio.atlas import MapAtlas
from ueloc_core.radio.cube import load_cube, window_of
from ueloc_core.radio.radio_map import build_radio_map, outdoor_mask, ray_sets
from ueloc_core.radio.ray_tracing import Plane, RayTracer, Transmitter
from ueloc_core.radio.schemas import RadioMapSchema, empty_sectors
from ueloc_core.radio.sites import build_sites, load_sectors, site_search_window
from ueloc_core.scene.mitsuba import build_scene
from ueloc_core.synthetic import synthetic_city
from ueloc_core.units import free_space_gain_db

pytestmark = pytest.mark.slow

# The same rays on the same scene: Dr.Jit adds them up in any order, in single precision;
# what is stored may fall to the next step of 0.02 dB.
SAME_DB = 0.021
# The same rays around a site that lies elsewhere: single precision moves their hits by fractions
# of a millimetre, so that one now and then falls to the other side of a wall's or cell's edge.
MOVED_DB = 0.1

RAYS = 150_000


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with one_thread():
        yield


@dataclass(frozen=True)
class Town:
    """One traced site of a made-up city."""

    folder: Path
    city: City
    tile: Tile
    features: gpd.GeoDataFrame
    terrain: Terrain
    sectors: pd.DataFrame
    twin: xr.Dataset
    world: xr.Dataset

    def scene(self, tile):
        """Folder of a tile's scene, built when first asked for."""
        out = self.folder / f"scene-{tile.name}"
        if not out.exists():
            out.mkdir()
            build_scene(self.city, tile, self.features, self.terrain, out)
        return out

    def trace(self, out, *, tile=None, sectors=None, scene=None, belief="twin"):
        """Cube of sectors that a tile owns, written to a folder."""
        tile = tile or self.tile
        sectors = self.sectors if sectors is None else sectors
        out.mkdir(exist_ok=True)
        build_radio_map(self.city, tile, scene or self.scene(tile), sectors, out, belief=belief)
        return load_cube(out)

    def moved(self, folder, tile, shift_m):
        """The same town elsewhere: its features and sectors shifted, nothing traced yet."""
        x_m, y_m = (self.sectors[axis] + d for axis, d in zip(("x_m", "y_m"), shift_m, strict=True))
        return replace(
            self,
            folder=folder,
            tile=tile,
            features=self.features.set_geometry(self.features.translate(*shift_m)),
            terrain=flat_terrain(self.city.scene_ground(tile), self.terrain.step_m),
            sectors=self.sectors.assign(tile=tile.name, x_m=x_m, y_m=y_m),
        )

    def without_diffraction(self):
        """The same town, traced without diffraction from now on."""
        config = self.city.ray_tracing.model_copy(update={"diffraction": False})
        return replace(self, city=self.city.model_copy(update={"ray_tracing": config}))


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    folder = tmp_path_factory.mktemp("town")
    city = synthetic_city(
        folder,
        site_plan={"inter_site_distance_m": 120, "snap_radius_m": 40},
        ray_tracing={"rays_per_sector": RAYS},
    )
    (folder / "extract").mkdir()
    build_extract(city, folder / "extract")
    features = load_features(folder / "extract")
    tile = city.tile("e3014n52127")
    (folder / "sites").mkdir()
    window = site_search_window(city, tile)
    terrain = load_terrain(folder / "extract")
    build_sites(city, tile, load_features(folder / "extract", window), terrain, folder / "sites")
    planned = load_sectors(folder / "sites")
    sectors = planned[planned.site_id == planned.site_id.min()].reset_index(drop=True)
    town = Town(folder, city, tile, features, terrain, sectors, xr.Dataset(), xr.Dataset())
    return replace(town, **{b: town.trace(folder / b, belief=b) for b in ("twin", "world")})


def db(first, second):
    """Differences [dB] of two maps where both have a value."""
    return np.abs(first - second)[np.isfinite(first) & np.isfinite(second)]


@pytest.fixture(scope="module")
def line_of_sight(town):
    """Outdoor cells whose centre sees the mast: whole cells that rays reach directly."""
    row = town.sectors.iloc[0]
    origin = town.tile.window.bounds_m[:2]
    window = window_of(town.twin, 0)
    centre = window.centre_m
    tracer = RayTracer(
        town.scene(town.tile) / "scene.xml",
        frequency_hz=town.city.radio.frequency_hz,
        max_depth=0,
        diffraction=False,
    )
    gain = tracer.path_gain(
        [Transmitter((row.x_m - origin[0], row.y_m - origin[1], row.height_m), 0, 0, "iso")],
        Plane(
            (centre[0] - origin[0], centre[1] - origin[1]),
            window.columns,
            window.rows,
            window.cell_m,
            town.city.ray_tracing.terminal_height_m,
        ),
        ray_sets(town.city, "twin", int(row.site_id))[0],
    )[0]
    x, y = np.meshgrid(window.x_centres_m - row.x_m, window.y_centres_m - row.y_m)
    slant = np.sqrt(x**2 + y**2 + (row.height_m - 1.5) ** 2)
    with np.errstate(divide="ignore"):
        lost = free_space_gain_db(slant, town.city.radio.frequency_hz) - 10 * np.log10(gain)
    outdoor = outdoor_mask(load_context(town.scene(town.tile)), window)
    near = slant < 120
    return outdoor & near & (np.abs(lost) < 1)


def test_the_cube_keeps_its_contract(town):
    for cube, belief in ((town.twin, "twin"), (town.world, "world")):
        RadioMapSchema.validate(cube)
        assert cube.attrs["belief"] == belief
        assert cube.sector.values.tolist() == town.sectors.sector_id.tolist()
        assert 0.3 < float(cube.path_gain_db.notnull().mean()) < 1
        assert float(cube.path_gain_db.max()) < -45
    assert (town.folder / "twin" / "preview.png").stat().st_size <= 50_000


def test_the_map_lies_where_its_coordinates_say(town, tmp_path):
    """Open land: three sectors together favour no side; a map one cell off does, by 0.4 dB."""
    bare = replace(town, folder=tmp_path, features=town.features.iloc[:0])
    cube = bare.trace(tmp_path / "map")
    window, row = window_of(cube, 0), town.sectors.iloc[0]
    gain = 10 * np.log10((10 ** (cube.path_gain_db.values.astype(float) / 10)).sum(axis=0))
    x, y = np.meshgrid(window.x_centres_m - row.x_m, window.y_centres_m - row.y_m)
    near = (np.hypot(x, y) > 15) & (np.hypot(x, y) < 70)
    slant = np.log10(np.sqrt(x**2 + y**2 + row.height_m**2))
    bearing = np.arctan2(y, x)
    columns = [np.ones_like(x), slant, slant**2, np.cos(bearing), np.sin(bearing)]
    fitted = np.linalg.lstsq(np.stack([c[near] for c in columns], 1), gain[near], rcond=None)[0]
    assert np.hypot(*fitted[3:]) < 0.1


def test_no_value_indoors(town):
    """Terminals stand outdoors; a local mean never leaks through a wall into a building."""
    context = load_context(town.scene(town.tile))
    indoor = ~outdoor_mask(context, window_of(town.twin, 0))
    assert indoor.sum() > 500
    assert np.isnan(town.twin.path_gain_db.values[:, indoor]).all()


def test_sectors_of_a_site_differ_as_their_azimuths_say(town, line_of_sight):
    """Around its boresight each sector beats the two others; reflections blur the rest."""
    window = window_of(town.twin, 0)
    row = town.sectors.iloc[0]
    x, y = np.meshgrid(window.x_centres_m - row.x_m, window.y_centres_m - row.y_m)
    bearing = np.degrees(np.arctan2(x, y))
    gain = town.twin.path_gain_db.values
    for k, azimuth in enumerate(town.sectors.azimuth_deg):
        turn = np.abs((bearing - azimuth + 180) % 360 - 180)
        ahead = (turn < 40) & np.isfinite(gain).all(axis=0)
        lead = gain[k] - np.delete(gain, k, axis=0).max(axis=0)
        assert (lead[ahead & line_of_sight] > 0).mean() > 0.99
        assert (lead[ahead] > 0).mean() > 0.9
        assert np.median(lead[ahead]) > 5


def test_three_db_of_power_are_three_db_of_rsrp(town, tmp_path):
    louder = town.sectors.assign(power_dbm=town.sectors.power_dbm + 3)
    cube = town.trace(tmp_path / "louder", sectors=louder)
    offset = [c.rsrp_dbm.values - c.path_gain_db.values for c in (town.twin, cube)]
    known = np.isfinite(offset[0]) & np.isfinite(offset[1])
    np.testing.assert_allclose((offset[1] - offset[0])[known], 3, atol=3e-5)
    assert db(cube.rsrp_dbm.values, town.twin.rsrp_dbm.values + 3).max() < SAME_DB
    # 46 dBm over 273 resource blocks of 12 subcarriers: 10.85 dBm each.
    np.testing.assert_allclose(offset[0][known], 10.85, atol=0.005)


def test_the_same_seed_gives_the_same_map(town, tmp_path):
    again = town.trace(tmp_path / "again")
    for name in ("path_gain_db", "rsrp_dbm"):
        first, second = town.twin[name].values, again[name].values
        np.testing.assert_array_equal(np.isnan(first), np.isnan(second))
        assert db(first, second).max() < SAME_DB
    known = np.isfinite(town.twin.path_gain_se_db.values)
    np.testing.assert_array_equal(known, np.isfinite(again.path_gain_se_db.values))
    assert db(town.twin.path_gain_se_db.values, again.path_gain_se_db.values).max() < SAME_DB


def test_world_and_twin_share_no_rays(town):
    """Neither a lattice (the number of rays) nor a seed, over all sites and beliefs."""
    sets = [
        s
        for belief in ("twin", "world")
        for site in (1, 2, int(town.sectors.site_id[0]))
        for s in ray_sets(town.city, belief, site)
    ]
    assert len({s.seed for s in sets}) == len(sets)
    lattices = {
        belief: {s.rays for s in ray_sets(town.city, belief, 1)} for belief in ("twin", "world")
    }
    assert not lattices["twin"] & lattices["world"]
    assert all(len(rays) == town.city.ray_tracing.ray_sets for rays in lattices.values())
    assert ray_sets(town.city, "twin", 1) == ray_sets(town.city, "twin", 1)


def test_world_and_twin_agree_in_line_of_sight_and_differ_elsewhere(town, line_of_sight):
    assert line_of_sight.sum() > 300
    twin, world = town.twin.path_gain_db.values, town.world.path_gain_db.values
    seen = db(twin[:, line_of_sight], world[:, line_of_sight])
    dark = ~line_of_sight
    rest = db(twin[:, dark], world[:, dark])
    assert np.median(seen) < 0.3
    assert np.quantile(seen, 0.95) < 1.5
    assert np.quantile(rest, 0.9) > 3 * np.quantile(seen, 0.9)
    heard = np.isfinite(twin) != np.isfinite(world)
    assert heard[:, dark].any()
    assert not heard[:, line_of_sight].any()


def test_the_standard_error_is_larger_where_the_world_differs(town):
    """It comes from the twin's ray sets alone, and yet tells how far the world's are off."""
    error = town.twin.path_gain_se_db.values
    difference = np.abs(town.twin.path_gain_db.values - town.world.path_gain_db.values)
    known = np.isfinite(error) & np.isfinite(difference)
    assert spearmanr(error[known], difference[known]).statistic > 0.4
    small, large = np.quantile(error[known], [0.25, 0.9])
    sure, unsure = (
        difference[known][side].mean() for side in (error[known] < small, error[known] > large)
    )
    assert unsure > 3 * sure
    # In the linear domain the spread of ray sets has the size of the true difference.
    mild = known & (error < 2) & (error > 0.05)
    ratio = difference[mild] / (np.sqrt(2) * error[mild])
    assert 0.3 < np.median(ratio) < 3


def test_a_city_moved_by_whole_grid_cells_has_the_same_map(town, tmp_path):
    """Five cells east and eight north, within the same tile: no multiple of a block.

    Without diffraction: Sionna orders edges by a hash of their coordinates, so elsewhere the
    same seed draws other diffracted rays.
    """
    cells = 5, 8
    plain = town.without_diffraction()
    moved = plain.moved(tmp_path, town.tile, np.multiply(cells, town.city.grid.cell_m))
    cubes = plain.trace(tmp_path / "here"), moved.trace(tmp_path / "there")
    window, there = (window_of(cube, 0) for cube in cubes)
    back = Window(
        there.column - cells[0], there.row - cells[1], there.columns, there.rows, there.cell_m
    )
    shared = window.intersection(back)
    assert shared.columns >= window.columns - 4
    inner = (slice(None), slice(2, -2), slice(2, -2))  # a local mean knows its window only
    first, second = (
        cube.path_gain_db.values[(slice(None), *shared.slices_in(own))][inner]
        for cube, own in zip(cubes, (window, back), strict=True)
    )
    assert (np.isnan(first) == np.isnan(second)).mean() > 0.995
    difference = db(first, second)
    assert np.median(difference) < 1e-3
    assert np.quantile(difference, 0.95) < MOVED_DB


def test_a_city_moved_by_a_tile_has_the_same_map(town, tmp_path):
    """Its scene is the same to the byte; diffraction included."""
    there = town.city.tile_list[town.city.tile_list.index(town.tile) + 1]
    shift_m = np.subtract(there.window.bounds_m[:2], town.tile.window.bounds_m[:2])
    cube = town.moved(tmp_path, there, shift_m).trace(tmp_path / "map")
    assert window_of(cube, 0).column - window_of(town.twin, 0).column == 32
    first, second = town.twin.path_gain_db.values, cube.path_gain_db.values
    assert (np.isnan(first) == np.isnan(second)).mean() > 0.999
    assert np.quantile(db(first, second), 0.99) < SAME_DB


def test_an_empty_tile_gives_an_empty_cube(town, tmp_path):
    """And needs no scene: nothing is traced."""
    cube = town.trace(tmp_path / "map", sectors=empty_sectors(), scene=tmp_path / "no such scene")
    RadioMapSchema.validate(cube)
    assert cube.sizes["sector"] == 0
    assert cube.sizes["x"] * town.city.grid.cell_m == 2 * town.city.range_m
    assert cube.attrs["crs"] == town.city.crs_code


def test_maps_compose_over_the_seam_of_two_tiles(town, line_of_sight, tmp_path):
    """Each tile keeps the sectors that stand in it; a window over both sees them all."""
    here = town.tile
    there = town.city.tile_list[town.city.tile_list.index(here) + 1]
    first, second = town.sectors.iloc[:2], town.sectors.iloc[2:].assign(tile=there.name)
    folders = {name: {} for name in ("scenes", "sites", "radio_maps")}
    cubes = []
    for tile, sectors in ((here, first), (there, second)):
        folders["scenes"][tile.name] = town.scene(tile)
        for kind in ("sites", "radio_maps"):
            folders[kind][tile.name] = tmp_path / f"{kind}-{tile.name}"
            folders[kind][tile.name].mkdir()
        sectors.to_parquet(folders["sites"][tile.name] / "sectors.parquet", index=False)
        cubes.append(town.trace(folders["radio_maps"][tile.name], tile=tile, sectors=sectors))
    atlas = MapAtlas.load(town.city, **folders)
    assert atlas.sectors.sector_id.tolist() == town.sectors.sector_id.tolist()
    assert set(atlas.sectors.tile) == {here.name, there.name}
    seam_m = here.window.bounds_m[2]
    window = Window.centred(seam_m, here.window.centre_m[1], 96, town.city.grid.cell_m)
    assert window.bounds_m[0] < seam_m < window.bounds_m[2]
    rsrp, error = atlas.maps_in(window)
    assert np.isfinite(rsrp).any(axis=(1, 2)).all()
    own = [(cube, i) for cube in cubes for i in range(cube.sizes["sector"])]
    for k, (cube, i) in enumerate(own):
        inside = window.slices_in(window_of(cube, i))
        np.testing.assert_array_equal(rsrp[k], cube.rsrp_dbm.values[(i, *inside)])
        np.testing.assert_array_equal(error[k], cube.path_gain_se_db.values[(i, *inside)])
    # The third sector was traced in the neighbour's scene, which holds the same walls.
    together, alone = town.twin.path_gain_db.values[2], cubes[1].path_gain_db.values[0]
    assert np.median(db(together[line_of_sight], alone[line_of_sight])) < MOVED_DB
    # Points are looked up in the same cells.
    x_m, y_m = np.meshgrid(window.x_centres_m, window.y_centres_m)
    at_points, _ = atlas.maps_at(x_m.ravel(), y_m.ravel())
    np.testing.assert_array_equal(at_points.T.reshape(rsrp.shape), rsrp)


def test_the_store_says_what_it_holds(town):
    stored = load_cube(town.folder / "twin")
    for name in ("path_gain_db", "path_gain_se_db", "rsrp_dbm"):
        assert stored[name].attrs["units"]
        assert stored[name].attrs["long_name"]
        np.testing.assert_array_equal(stored[name], town.twin[name])
    assert stored.attrs["crs"] == town.city.crs_code
    assert stored.attrs["rays_per_sector"] == town.city.ray_tracing.rays_per_sector
