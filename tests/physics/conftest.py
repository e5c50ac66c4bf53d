"""Real traces, shared: free space without any surface, and one site of a made-up city."""

from dataclasses import dataclass, replace
from pathlib import Path

import geopandas as gpd
import pandas as pd
import pytest
import trimesh
import xarray as xr

from ueloc_core.city import City
from ueloc_core.geodata.osm import build_extract, load_features
from ueloc_core.grid import Tile
from ueloc_core.radio.radio_map import build_radio_map, load_radio_map
from ueloc_core.radio.ray_tracing import RayTracer, device_name
from ueloc_core.radio.sites import build_sites, load_sectors, site_search_window
from ueloc_core.scene.mitsuba import build_scene
from ueloc_core.synthetic import synthetic_city

FREQUENCY_HZ = 3.5e9
RAYS = 150_000

# Five kilometres under the terminals: Sionna wants a surface, no ray of interest meets it.
NOTHING = '<shape type="rectangle" id="mesh-far"><transform name="to_world">{}</transform>{}</shape>'
BLOCK = '<shape type="ply" id="mesh-block"><string name="filename" value="block.ply"/>{}</shape>'
CONCRETE = '<ref id="mat-itu_concrete" name="bsdf"/>'


def write_scene(path, *shapes):
    """A scene of shapes of concrete."""
    path.write_text(
        '<scene version="2.1.0"><bsdf type="itu-radio-material" id="mat-itu_concrete">'
        '<string name="type" value="concrete"/><float name="thickness" value="0.3"/></bsdf>'
        + "".join(shapes)
        + "</scene>"
    )
    return path


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """One thread of Dr.Jit, so that these tests have one outcome.

    Where several rays find the same edge at once, the first to come decides how Sionna files
    it; with more threads the same seed then gives other draws of the diffracted rays.
    """
    device_name()  # finds LLVM and imports Dr.Jit
    import drjit  # noqa: PLC0415

    before = drjit.thread_count()
    drjit.set_thread_count(1)
    yield
    drjit.set_thread_count(before)


@pytest.fixture(scope="session")
def free_space(tmp_path_factory):
    far = NOTHING.format('<translate z="-5000"/>', CONCRETE)
    scene = write_scene(tmp_path_factory.mktemp("free") / "scene.xml", far)
    return RayTracer(scene, frequency_hz=FREQUENCY_HZ, max_depth=1, diffraction=False)


@pytest.fixture(scope="session")
def behind_a_block(tmp_path_factory):
    """Tracers, without and with diffraction, of a block: x = 38..42, y = -40..40, z = 0..20 m."""
    folder = tmp_path_factory.mktemp("block")
    block = trimesh.creation.box(extents=(4, 80, 20))
    block.apply_translation((40, 0, 10))
    block.export(folder / "block.ply", vertex_normal=False)
    scene = write_scene(folder / "scene.xml", BLOCK.format(CONCRETE))
    return [
        RayTracer(scene, frequency_hz=FREQUENCY_HZ, max_depth=1, diffraction=diffraction)
        for diffraction in (False, True)
    ]


@dataclass(frozen=True)
class Town:
    """One traced site of a made-up city."""

    folder: Path
    city: City
    tile: Tile
    features: gpd.GeoDataFrame
    sectors: pd.DataFrame
    twin: xr.Dataset
    world: xr.Dataset

    def scene(self, tile):
        """Folder of a tile's scene, built when first asked for."""
        out = self.folder / f"scene-{tile.name}"
        if not out.exists():
            out.mkdir()
            build_scene(self.city, tile, self.features, out)
        return out

    def trace(self, out, *, tile=None, sectors=None, scene=None, belief="twin"):
        """Cube of sectors that a tile owns, written to a folder."""
        tile = tile or self.tile
        sectors = self.sectors if sectors is None else sectors
        out.mkdir(exist_ok=True)
        build_radio_map(self.city, tile, scene or self.scene(tile), sectors, out, belief=belief)
        return load_radio_map(out)

    def moved(self, folder, tile, shift_m):
        """The same town elsewhere: its features and sectors shifted, nothing traced yet."""
        x_m, y_m = (self.sectors[axis] + d for axis, d in zip(("x_m", "y_m"), shift_m, strict=True))
        return replace(
            self,
            folder=folder,
            tile=tile,
            features=self.features.set_geometry(self.features.translate(*shift_m)),
            sectors=self.sectors.assign(tile=tile.name, x_m=x_m, y_m=y_m),
        )

    def without_diffraction(self):
        """The same town, traced without diffraction from now on."""
        config = self.city.ray_tracing.model_copy(update={"diffraction": False})
        return replace(self, city=self.city.model_copy(update={"ray_tracing": config}))


@pytest.fixture(scope="session")
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
    build_sites(city, tile, load_features(folder / "extract", window), folder / "sites")
    planned = load_sectors(folder / "sites")
    sectors = planned[planned.site_id == planned.site_id.min()].reset_index(drop=True)
    town = Town(folder, city, tile, features, sectors, xr.Dataset(), xr.Dataset())
    return replace(town, **{b: town.trace(folder / b, belief=b) for b in ("twin", "world")})
