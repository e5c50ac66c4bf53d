"""One site in the centre of Helsinki: what the benchmarks of ray tracing have in common."""

import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import geopandas as gpd
import pandas as pd
import shapely

from ueloc_core.city import City, load_city
from ueloc_core.geodata.osm import build_extract, load_features
from ueloc_core.geodata.schemas import BUILDING_KINDS
from ueloc_core.geodata.terrain import load_terrain
from ueloc_core.grid import Window
from ueloc_core.radio.antennas import antenna_named
from ueloc_core.radio.ray_tracing import Interactions, Plane, RayScene, Sector
from ueloc_core.radio.sites import build_sites, site_search_window
from ueloc_core.scene.mitsuba import build_scene
from ueloc_core.units import power_per_resource_element_dbm

INTERACTIONS = Interactions(max_depth=5, diffraction=True)
THRESHOLD_DBM = -120.0
_MB_PER_KIB = 1024 / 1e6


@dataclass(frozen=True)
class Site:
    """A site, its scene and the window around it.

    Attributes
    ----------
    scene_file
        The scene's XML.
    frequency_hz
        Carrier frequency [Hz].
    mast_m
        (x, y, z) of the antennas in the scene's frame [m].
    sectors
        The antennas.
    grid
        The window at the terminals' height.
    element_power_dbm
        Power per resource element [dBm].
    buildings
        Buildings and parts of buildings in the scene.
    """

    scene_file: Path
    frequency_hz: float
    mast_m: tuple[float, float, float]
    sectors: tuple[Sector, ...]
    grid: Plane
    element_power_dbm: float
    buildings: int

    def load(self) -> RayScene:
        """The scene, ready for rays."""
        return RayScene(self.scene_file, self.frequency_hz)


@contextmanager
def helsinki_site(
    size_m: float = 800.0, rank: int = 0, buildings: int | None = None
) -> Iterator[Site]:
    """A site on Helsinki's central tile, in a fresh scene.

    Parameters
    ----------
    size_m
        Side of the window [m].
    rank
        Which one in order of height above ground: 0 is the lowest, with the most shadow.
    buildings
        How many of the nearest buildings and parts of buildings the scene holds; all by default.
    """
    city = load_city("helsinki")
    with TemporaryDirectory(prefix="ueloc-site-") as name:
        yield _built(city, Path(name), size_m, rank, buildings)


def _built(city: City, root: Path, size_m: float, rank: int, buildings: int | None) -> Site:
    extract, scene, sites = (root / part for part in ("extract", "scene", "sites"))
    for folder in (extract, scene, sites):
        folder.mkdir()
    west, south, east, north = city.bounds_m
    middle_m = ((west + east) / 2, (south + north) / 2)
    tile = next(tile for tile in city.tile_list if tile.owns(*middle_m))
    build_extract(city, extract)
    terrain = load_terrain(extract)
    around = load_features(extract, site_search_window(city, tile))
    build_sites(city, tile, around, terrain.crop(city.scene_ground(tile)), sites)
    table = pd.read_parquet(sites / "sectors.parquet")
    ranked = table.sort_values("height_m", kind="stable").site_id.unique()
    of_site = table[table.site_id == ranked[rank]]
    first = of_site.iloc[0]
    features = load_features(extract, city.scene_window(tile))
    if buildings is not None:
        features = _thinned(features, shapely.Point(first.x_m, first.y_m), buildings)
    build_scene(city, tile, features, terrain, scene)
    x_m, y_m, z_m = json.loads((scene / "scene.json").read_text())["origin_m"]
    window = Window.centred(first.x_m, first.y_m, size_m, city.grid.cell_m)
    level_m = float(terrain.height_at(*window.centre_m)) + city.ray_tracing.terminal_height_m
    corner_m = (window.bounds_m[0] - x_m, window.bounds_m[1] - y_m)
    return Site(
        scene_file=scene / "scene.xml",
        frequency_hz=city.radio.frequency_hz,
        mast_m=(float(first.x_m - x_m), float(first.y_m - y_m), float(first.elevation_m - z_m)),
        sectors=tuple(
            Sector(antenna_named("tr38901"), float(row.azimuth_deg), float(row.downtilt_deg))
            for row in of_site.itertuples()
        ),
        grid=Plane(corner_m, window.columns, window.rows, window.cell_m, level_m - z_m),
        element_power_dbm=float(
            power_per_resource_element_dbm(first.power_dbm, city.radio.resource_blocks)
        ),
        buildings=int(features["kind"].isin(BUILDING_KINDS).sum()),
    )


def _thinned(features: gpd.GeoDataFrame, mast: shapely.Point, count: int) -> gpd.GeoDataFrame:
    """Features without the buildings beyond the nearest ones."""
    distance_m = features.distance(mast).where(features["kind"].isin(BUILDING_KINDS), 0.0)
    built = distance_m[features["kind"].isin(BUILDING_KINDS)]
    return features[distance_m <= built.nsmallest(count).max()]


def peak_memory_mb(task: Callable[..., Any], *arguments: Any) -> float:
    """Peak memory [MB] of a fresh process (Linux) that runs a task, with libraries and scene."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=spawn) as pool:
        return pool.submit(_run_and_measure, task, arguments).result()


def _run_and_measure(task: Callable[..., Any], arguments: tuple[Any, ...]) -> float:
    task(*arguments)
    # not of resource.getrusage: that peak is inherited from the parent
    status = Path("/proc/self/status").read_text()
    return float(status.partition("VmHWM:")[2].split()[0]) * _MB_PER_KIB
