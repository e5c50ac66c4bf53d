"""Simulated terminals of a tile: where they stand and what they report."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ueloc_core.city import City
from ueloc_core.grid import Tile
from ueloc_core.measurement.dataset import empty_reports, to_dataset, write_reports
from ueloc_core.measurement.model import MapError, MeasurementModel, ReportBatch
from ueloc_core.measurement.reports import decode_rsrp
from ueloc_core.radio.atlas import MapAtlas

CODE_VERSION = "1"

_BATCH = 8192
_M2_PER_HECTARE = 10_000.0
_TRACK_STRIDE = 1_000_000


def build_measurements(city: City, tile: Tile, atlas: MapAtlas, out: Path) -> dict[str, Any]:
    """Simulate the reports of the terminals that a tile's sectors serve; write ``reports.zarr``.

    Static terminals stand uniformly over the outdoor ground that the tile's sectors may reach,
    ``reports_per_hectare`` of them, one report each; those that another tile's sector serves
    belong to that tile and are left out, so the tiles together hold one even population.

    Parameters
    ----------
    city, tile
        What is simulated.
    atlas
        The world's radio maps of the tile and `City.neighbour_tiles`.
    out
        Folder to write to.
    """
    own = np.flatnonzero(atlas.sectors.tile.to_numpy() == tile.name)
    if not len(own):
        write_reports(empty_reports(city), out)
        return {"reports": 0, "candidates": 0}
    rng = np.random.default_rng([city.seed, 5, *_tile_numbers(city, tile)])
    x_m, y_m = _stand(city, atlas, own, rng)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    model = MeasurementModel(city.measurements, city.radio, MapError.none())
    parts = []
    for start in range(0, len(x_m), _BATCH):
        stop = start + _BATCH
        rsrp, _ = atlas.maps_at(x_m[start:stop], y_m[start:stop])
        parts.append(model.sample(torch.from_numpy(rsrp), generator))
    batch = _concatenate(parts)
    served = np.isin(batch.sector[:, 0].numpy(), own)
    batch = batch[torch.from_numpy(served)]
    first = _TRACK_STRIDE * city.tile_names.index(tile.name)
    reports = to_dataset(
        city, atlas, batch, x_m[served], y_m[served], first + np.arange(served.sum())
    )
    write_reports(reports, out)
    return _data_card(batch, x_m, served)


def in_serving_window(
    atlas: MapAtlas, serving: NDArray[np.int64], x_m: NDArray[np.float64], y_m: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Whether points [m] lie in the windows of the sectors that serve them."""
    inside = np.zeros(len(serving), dtype=bool)
    for sector in np.unique(serving):
        chosen = serving == sector
        inside[chosen] = atlas.windows[sector].contains(x_m[chosen], y_m[chosen])
    return inside


def _tile_numbers(city: City, tile: Tile) -> tuple[int, int]:
    cells = round(city.tiles.size_m / city.grid.cell_m)
    return tile.window.column // cells % 2**32, tile.window.row // cells % 2**32


def _stand(
    city: City, atlas: MapAtlas, own: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions [m], uniform over the outdoor ground under the windows of some sectors."""
    reach = np.zeros(atlas.ground.shape, dtype=bool)
    for sector in own:
        shared = atlas.ground.intersection(atlas.windows[sector])
        if shared is not None:
            reach[shared.slices_in(atlas.ground)] = True
    row, column = np.nonzero(reach & atlas.outdoor)
    cell_m = atlas.ground.cell_m
    wanted = city.measurements.reports_per_hectare * len(row) * cell_m**2 / _M2_PER_HECTARE
    chosen = rng.integers(len(row), size=round(wanted)) if len(row) else np.zeros(0, dtype=int)
    x0, y0, _, _ = atlas.ground.bounds_m
    dx, dy = rng.uniform(0, 1, (2, len(chosen)))
    return x0 + (column[chosen] + dx) * cell_m, y0 + (row[chosen] + dy) * cell_m


def _concatenate(parts: list[ReportBatch]) -> ReportBatch:
    return ReportBatch(
        *(
            torch.cat([getattr(p, name) for p in parts])
            for name in ("sector", "rsrp", "rsrq", "sinr", "cqi")
        )
    )


def _data_card(
    batch: ReportBatch, x_m: NDArray[np.float64], served: NDArray[np.bool_]
) -> dict[str, Any]:
    heard = batch.heard.sum(dim=1).numpy()
    serving = decode_rsrp(batch.rsrp[:, 0].numpy())
    some = len(heard) > 0
    return {
        "reports": len(heard),
        "candidates": len(x_m),
        "mean_sectors_heard": float(heard.mean()) if some else None,
        "median_serving_rsrp_dbm": float(np.median(serving)) if some else None,
        "served_here_share": float(served.mean()) if len(served) else None,
    }
