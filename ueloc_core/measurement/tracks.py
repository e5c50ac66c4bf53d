"""Simulated terminals of a tile: where they move and what they report."""

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
from numpy.typing import NDArray

from ueloc_core.city import City
from ueloc_core.grid import Tile, Window
from ueloc_core.measurement.audible import AudibleSectors
from ueloc_core.measurement.dataset import empty_reports, to_dataset, write_reports
from ueloc_core.measurement.mobility import Ground, Streets, build_tracks
from ueloc_core.measurement.model import MapError, MeasurementModel
from ueloc_core.measurement.place_maps import PlaceMaps
from ueloc_core.measurement.population import Population
from ueloc_core.measurement.streets import street_graph
from ueloc_core.radio.atlas import MapAtlas

CODE_VERSION = "3"

_M2_PER_HECTARE = 10_000.0
_TRACK_STRIDE = 1_000_000


def build_measurements(
    city: City, tile: Tile, atlas: MapAtlas, roads: gpd.GeoDataFrame, out: Path
) -> dict[str, Any]:
    """Simulate the tracks of terminals that a tile's sectors serve; write ``reports.zarr``.

    ``tracks_per_hectare`` terminals start on the outdoor ground that the tile's sectors may
    reach; those whose first report another tile's sector serves belong to that tile and are left
    out, so the tiles together hold one even population.

    Parameters
    ----------
    city, tile
        What is simulated.
    atlas
        The world's radio maps of the tile and `City.neighbour_tiles`.
    roads
        Features of the extract there (`FeatureSchema`); those that are roads make the streets.
    out
        Folder to write to.
    """
    own = np.flatnonzero(atlas.sectors.tile.to_numpy() == tile.name)
    if not len(own):
        write_reports(empty_reports(city), out)
        return {"reports": 0, "tracks": 0, "candidates": 0}
    rng = np.random.default_rng([city.seed, 5, *_tile_numbers(city, tile)])
    ground = ground_of(atlas, own)
    streets = Streets.of(street_graph(roads, ground.window))
    started = (ground.reach & ground.outdoor).sum() * atlas.ground.cell_m**2 / _M2_PER_HECTARE
    count = round(started * city.measurements.tracks.tracks_per_hectare)
    tracks = build_tracks(count, ground, streets, city.measurements.tracks, rng)
    places = PlaceMaps(atlas, city.measurements)
    audible = AudibleSectors.of(places, ground.window, ground.outdoor)
    model = MeasurementModel(city.measurements, city.radio, MapError.none())
    batch, truth = Population(model, places, audible, city.seed).sample(tracks, rng, own)
    reports = to_dataset(city, atlas, batch, truth)
    reports["track"] = reports.track + _TRACK_STRIDE * city.tile_names.index(tile.name)
    write_reports(reports, out)
    return {
        "reports": len(batch),
        "tracks": len(np.unique(truth.track)),
        "candidates": count,
        "served_here_share": len(np.unique(truth.track)) / max(count, 1),
        "mean_sectors_heard": float(batch.heard.sum(dim=1).double().mean()) if len(batch) else None,
        **tracks.counts,
    }


def ground_of(atlas: MapAtlas, sectors: NDArray[np.int64]) -> Ground:
    """Where the terminals of some sectors can be: the ground under the sectors' windows."""
    reach = np.zeros(atlas.ground.shape, dtype=bool)
    for sector in sectors:
        shared = atlas.ground.intersection(atlas.windows[sector])
        if shared is not None:
            reach[shared.slices_in(atlas.ground)] = True
    rows, columns = np.flatnonzero(reach.any(axis=1)), np.flatnonzero(reach.any(axis=0))
    whole = atlas.ground
    window = Window(
        whole.column + int(columns[0]),
        whole.row + int(rows[0]),
        int(columns[-1] - columns[0]) + 1,
        int(rows[-1] - rows[0]) + 1,
        whole.cell_m,
    )
    part = window.slices_in(whole)
    outdoor = atlas.outdoor[part]
    return Ground(window, reach[part], outdoor, (atlas.building_height_m[part] > 0) & ~outdoor)


def _tile_numbers(city: City, tile: Tile) -> tuple[int, int]:
    cells = round(city.tiles.size_m / city.grid.cell_m)
    return tile.window.column // cells % 2**32, tile.window.row // cells % 2**32
