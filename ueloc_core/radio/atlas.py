"""All radio maps of a city as one: sectors, their windows, and the ground that they cover."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ueloc_core.city import City
from ueloc_core.errors import RadioError
from ueloc_core.geodata.context import load_context, outdoor_cells
from ueloc_core.grid import Window
from ueloc_core.radio.cube import load_cube, window_of
from ueloc_core.radio.cube_layers import RSRP
from ueloc_core.radio.sites import load_sectors


@dataclass(frozen=True)
class MapAtlas:
    """Radio maps of many tiles, composed on demand; nothing is resampled.

    Attributes
    ----------
    city
        The city.
    sectors
        Sectors sorted by ``sector_id`` (the order of every array below).
    windows
        Window of each sector.
    rsrp_dbm, rsrp_se_db
        Maps of each sector over its own window, shape (sector, rows, columns), float32; NaN
        where no ray arrived (or no standard error is known).
    ground
        The grid cells that the tiles cover.
    outdoor
        Where a terminal can stand, shape of `ground`: inside the city's area, no building, no
        water but where a road crosses it.
    building_height_m
        Height of the building there [m], 0 in the open, shape of `ground`.
    scenes
        Folder of each tile's scene.
    radio_maps
        Folder of each tile's cube, from which further layers are read when they are asked for;
        empty for maps that no store holds.
    layers
        Further layers that are in memory, by name, shape of `rsrp_dbm` each; `layer` adds to them.
    """

    city: City
    sectors: pd.DataFrame
    windows: tuple[Window, ...]
    rsrp_dbm: NDArray[np.float32]
    rsrp_se_db: NDArray[np.float32]
    ground: Window
    outdoor: NDArray[np.bool_]
    building_height_m: NDArray[np.float32]
    scenes: Mapping[str, Path]
    radio_maps: Mapping[str, Path] = field(default_factory=dict)
    layers: dict[str, NDArray[np.float32]] = field(default_factory=dict, compare=False)

    @classmethod
    def load(
        cls,
        city: City,
        scenes: Mapping[str, Path],
        sites: Mapping[str, Path],
        radio_maps: Mapping[str, Path],
    ) -> "MapAtlas":
        """Compose the stored tiles of a city.

        Parameters
        ----------
        city
            The city.
        scenes, sites, radio_maps
            Folder of each stage's artifact by tile name, the same tiles in each.

        Raises
        ------
        RadioError
            If the maps and the sectors do not name the same identities.
        StoreError
            If a store is missing or corrupt.
        """
        tables, cubes = [], []
        for name in sorted(radio_maps):
            table = load_sectors(sites[name])
            cube = load_cube(radio_maps[name], (RSRP, "path_gain_se_db"))
            if sorted(table.sector_id) != sorted(cube.sector.values.tolist()):
                raise RadioError(
                    "radio map and sites name different sectors",
                    where=f"{city.name}/{name}",
                    remedy="Materialize the tile's radio_map again.",
                )
            if len(table):
                tables.append(table.set_index("sector_id").loc[cube.sector.values].reset_index())
                cubes.append(cube)
        if not tables:
            raise RadioError(
                "no sector stands in this city",
                where=f"{city.name}: site_plan",
                remedy="Lower min_building_height_m or inter_site_distance_m, or widen bbox.",
            )
        sectors = pd.concat(tables, ignore_index=True)
        order = np.argsort(sectors.sector_id.to_numpy(), kind="stable")
        windows = [window_of(cube, i) for cube in cubes for i in range(cube.sizes["sector"])]
        ground, outdoor, height = _ground(city, scenes)
        return cls(
            city=city,
            sectors=sectors.iloc[order].reset_index(drop=True),
            windows=tuple(windows[i] for i in order),
            rsrp_dbm=np.concatenate([c.rsrp_dbm.values for c in cubes])[order],
            rsrp_se_db=np.concatenate([c.path_gain_se_db.values for c in cubes])[order],
            ground=ground,
            outdoor=outdoor,
            building_height_m=height,
            scenes=dict(scenes),
            radio_maps=dict(radio_maps),
        )

    def layer(self, name: str) -> NDArray[np.float32]:
        """A further layer of all sectors' maps, shape of `rsrp_dbm`, NaN where unknown.

        It is read from the stores once, when it is asked for.

        Raises
        ------
        RadioError
            If no store holds it.
        StoreError
            If a store is missing or corrupt.
        """
        if name not in self.layers:
            if not self.radio_maps:
                raise RadioError(f"these maps have no layer {name}", where=self.city.name)
            values = np.full_like(self.rsrp_dbm, np.nan)
            for folder in self.radio_maps.values():
                cube = load_cube(folder, (name,))
                for sector, of_sector in zip(cube.sector.values, cube[name].values, strict=True):
                    values[self.index_of[int(sector)]] = of_sector
            self.layers[name] = values
        return self.layers[name]

    @property
    def first_arrival_ns(self) -> NDArray[np.float32] | None:
        """One-way delay of the first detected path [ns], shape of `rsrp_dbm`; None if unmapped.

        Raises
        ------
        StoreError
            If a store is missing or corrupt.
        """
        name = "first_arrival_ns"
        return self.layer(name) if self.radio_maps or name in self.layers else None

    @cached_property
    def site(self) -> NDArray[np.int64]:
        """Index of each sector's site, counted from 0 by ``site_id``, shape (sector,)."""
        return np.unique(self.sectors.site_id.to_numpy(), return_inverse=True)[1]

    @cached_property
    def index_of(self) -> dict[int, int]:
        """Position of each ``sector_id`` in the arrays."""
        return {int(s): i for i, s in enumerate(self.sectors.sector_id)}

    def indices(self, sector_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions of sector identities, of any shape; 0 (an empty slot) gives -1.

        Raises
        ------
        RadioError
            If the city has no such sector.
        """
        known = self.sectors.sector_id.to_numpy()
        found = np.searchsorted(known, sector_ids).clip(0, len(known) - 1)
        empty = sector_ids == 0
        wrong = ~empty & (known[found] != sector_ids)
        if wrong.any():
            raise RadioError(
                f"unknown sector {int(sector_ids[wrong][0])}",
                where=self.city.name,
                remedy=f"'ueloc sectors --city {self.city.name}' lists the known ones.",
            )
        return np.where(empty, -1, found)

    def maps_in(
        self, window: Window, sectors: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """RSRP [dBm] and its standard error [dB] of sectors over any window.

        Parameters
        ----------
        window
            Where.
        sectors
            Positions of the sectors; all of them by default.

        Returns
        -------
        tuple
            Two arrays of shape (sector, rows, columns); NaN outside a sector's own window.
        """
        chosen = range(len(self.windows)) if sectors is None else [int(s) for s in sectors]
        rsrp = np.full((len(chosen), *window.shape), np.nan, dtype=np.float32)
        error = np.full_like(rsrp, np.nan)
        for k, sector in enumerate(chosen):
            own = self.windows[sector]
            shared = window.intersection(own)
            if shared is not None:
                source, target = shared.slices_in(own), shared.slices_in(window)
                rsrp[(k, *target)] = self.rsrp_dbm[(sector, *source)]
                error[(k, *target)] = self.rsrp_se_db[(sector, *source)]
        return rsrp, error

    def maps_at(
        self, x_m: NDArray[np.float64], y_m: NDArray[np.float64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """RSRP [dBm] and its standard error [dB] of all sectors in the grid cells of points.

        Returns
        -------
        tuple
            Two arrays of shape (point, sector); NaN where a sector has no value.
        """
        rsrp = np.full((len(x_m), len(self.windows)), np.nan, dtype=np.float32)
        error = np.full_like(rsrp, np.nan)
        for sector, window in enumerate(self.windows):
            inside = window.contains(x_m, y_m)
            row, column = window.indices(x_m[inside], y_m[inside])
            rsrp[inside, sector] = self.rsrp_dbm[sector, row, column]
            error[inside, sector] = self.rsrp_se_db[sector, row, column]
        return rsrp, error

    def outdoor_in(self, window: Window) -> NDArray[np.bool_]:
        """Where a terminal can stand, over any window."""
        return _crop(self.outdoor, self.ground, window)

    def building_height_in(self, window: Window) -> NDArray[np.float32]:
        """Building height [m] over any window, 0 in the open and outside of the city."""
        return _crop(self.building_height_m, self.ground, window)

    def footprints(self) -> gpd.GeoDataFrame:
        """Buildings of all tiles, each once, in the city's CRS (for drawing)."""
        parts = [gpd.read_parquet(path / "buildings.parquet") for path in self.scenes.values()]
        whole = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
        return gpd.GeoDataFrame(whole).drop_duplicates("osm_id", ignore_index=True)

    def best_server_dbm(self) -> NDArray[np.float32]:
        """RSRP [dBm] of the strongest sector over `ground`; NaN where none arrives."""
        best = np.full(self.ground.shape, -np.inf, dtype=np.float32)
        for sector, own in enumerate(self.windows):
            shared = self.ground.intersection(own)
            if shared is not None:
                target = shared.slices_in(self.ground)
                value = self.rsrp_dbm[(sector, *shared.slices_in(own))]
                best[target] = np.fmax(best[target], value)
        return np.where(np.isfinite(best), best, np.nan)


def _crop(values: NDArray[Any], ground: Window, window: Window) -> NDArray[Any]:
    out = np.zeros(window.shape, dtype=values.dtype)
    shared = window.intersection(ground)
    if shared is not None:
        out[shared.slices_in(window)] = values[shared.slices_in(ground)]
    return out


def _ground(
    city: City, scenes: Mapping[str, Path]
) -> tuple[Window, NDArray[np.bool_], NDArray[np.float32]]:
    """The tiles' own parts of the context rasters, side by side."""
    ground = city.window_cells
    outdoor = np.zeros(ground.shape, dtype=bool)
    height = np.zeros(ground.shape, dtype=np.float32)
    for name, folder in scenes.items():
        tile = city.tile(name)
        context = load_context(folder)
        part = tile.window.slices_in(city.scene_window(tile))
        target = tile.window.slices_in(ground)
        outdoor[target] = outdoor_cells(context)[part]
        height[target] = context.building_height_m.values[part]
    return ground, outdoor, height
