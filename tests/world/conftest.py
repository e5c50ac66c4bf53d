"""A made-up city whose tiles have scenes and sites, and its world at any level."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ueloc_core.city import City
from ueloc_core.geodata.osm import build_extract, load_features
from ueloc_core.geodata.terrain import Terrain, load_terrain
from ueloc_core.grid import Tile
from ueloc_core.radio.sites import build_sites, site_search_window
from ueloc_core.scene.mitsuba import build_scene
from ueloc_core.synthetic import synthetic_city
from ueloc_core.world.buildings import WorldBuildings
from ueloc_core.world.scenes import world_features
from ueloc_core.world.settings import WorldConfig
from ueloc_core.world.surroundings import Surroundings, load_surroundings


@dataclass
class TwinCity:
    """The twin of a city in folders, and what becomes of its tiles in a world."""

    city: City
    root: Path
    sites: dict[str, Path]
    scenes: dict[str, Path] = field(default_factory=dict)

    @property
    def extract(self) -> Path:
        return self.root / "extract"

    @property
    def terrain(self) -> Terrain:
        return load_terrain(self.extract)

    @property
    def busiest(self) -> Tile:
        """The tile with the most sectors."""
        from ueloc_core.radio.sites import load_sectors

        return self.city.tile(max(self.sites, key=lambda name: len(load_sectors(self.sites[name]))))

    def in_world(self, **world: Any) -> City:
        return self.city.model_copy(update={"world": WorldConfig(**world)})

    def surroundings(self, city: City, tile: Tile) -> Surroundings:
        near = {name: self.sites[name] for name in city.neighbour_tiles(tile.name)}
        return load_surroundings(city, tile, self.extract, near)

    def world(self, city: City, tile: Tile) -> tuple[WorldBuildings, Any]:
        found = self.surroundings(city, tile)
        return world_features(city, city.scene_window(tile), found, self.terrain)

    def scene(self, tile: Tile) -> Path:
        """The twin's scene of a tile, built once."""
        if tile.name not in self.scenes:
            folder = self.root / "scenes" / tile.name
            folder.mkdir(parents=True)
            features = load_features(self.extract, self.city.scene_window(tile))
            build_scene(self.city, tile, features, self.terrain, folder)
            self.scenes[tile.name] = folder
        return self.scenes[tile.name]


@pytest.fixture(scope="session")
def make_twin(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TwinCity]:
    """Builds the extract and the sites of a made-up city."""

    def make(**sections: Any) -> TwinCity:
        root = tmp_path_factory.mktemp("twin")
        city = synthetic_city(root, **sections)
        for name in ("extract", "sites"):
            (root / name).mkdir()
        build_extract(city, root / "extract")
        terrain = load_terrain(root / "extract")
        sites = {}
        for tile in city.tile_list:
            sites[tile.name] = root / "sites" / tile.name
            sites[tile.name].mkdir()
            features = load_features(root / "extract", site_search_window(city, tile))
            build_sites(city, tile, features, terrain.crop(tile.window), sites[tile.name])
        return TwinCity(city, root, sites)

    return make


@pytest.fixture(scope="session")
def town(make_twin: Callable[..., TwinCity]) -> TwinCity:
    """About 400 x 300 m with rooftop sites."""
    return make_twin(
        bbox=(24.940, 60.170, 24.947, 60.1727),
        site_plan={"inter_site_distance_m": 130, "snap_radius_m": 60},
        window={"size_m": 128, "shift_m": 16},
    )
