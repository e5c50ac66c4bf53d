"""The sectors that can be heard in each grid cell: what reports are drawn from."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ueloc_core.grid import Window
from ueloc_core.measurement.place_maps import PlaceMaps

CANDIDATES = 24
"""Strongest sectors kept for each grid cell, three times what a report holds."""

_ROWS = 32  # of grid cells at a time


@dataclass(frozen=True)
class AudibleSectors:
    """The strongest sectors of each grid cell by mapped level, m grid cells, k sectors each.

    Attributes
    ----------
    window
        Where.
    cell
        Row of each grid cell in the arrays below, -1 where none is kept, shape of the window.
    sector
        Position of each sector in the atlas, the strongest first, -1 for none, shape (m, k).
    level_dbm
        Mapped levels [dBm], NaN where no ray arrived, shape (m, k).
    level_mw
        The same in mW, 0 where no ray arrived.
    noise_db
        Standard deviation of fading and accuracy [dB], shape (m, k).
    others_mw
        Sum of the levels of all other sectors [mW], shape (m,).
    """

    window: Window
    cell: NDArray[np.int64]
    sector: NDArray[np.int16]
    level_dbm: NDArray[np.float32]
    level_mw: NDArray[np.float32]
    noise_db: NDArray[np.float32]
    others_mw: NDArray[np.float32]

    @classmethod
    def of(
        cls,
        places: PlaceMaps,
        window: Window,
        chosen: NDArray[np.bool_],
        candidates: int = CANDIDATES,
    ) -> "AudibleSectors":
        """The strongest sectors of the chosen grid cells of a window (shape of the window)."""
        cell = np.full(window.shape, -1, dtype=np.int64)
        cell[chosen] = np.arange(chosen.sum())
        k = min(candidates, len(places.atlas.windows))
        parts = []
        for row in range(0, window.rows, _ROWS):
            rows = min(_ROWS, window.rows - row)
            strip = Window(window.column, window.row + row, window.columns, rows, window.cell_m)
            parts.append(_strongest(places, strip, chosen[row : row + rows], k))
        sector, level, noise, others = (np.concatenate(v) for v in zip(*parts, strict=True))
        power = np.where(np.isnan(level), 0.0, 10.0 ** (level / 10))
        return cls(window, cell, sector, level, power.astype(np.float32), noise, others)

    def rows_at(self, x_m: NDArray[np.float64], y_m: NDArray[np.float64]) -> NDArray[np.int64]:
        """Row of the arrays for points [m], -1 where none is kept."""
        inside = self.window.contains(x_m, y_m)
        found = np.full(len(x_m), -1, dtype=np.int64)
        row, column = self.window.indices(x_m[inside], y_m[inside])
        found[inside] = self.cell[row, column]
        return found


def _strongest(
    places: PlaceMaps, strip: Window, chosen: NDArray[np.bool_], k: int
) -> tuple[NDArray[np.int16], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    maps = places.levels_in(strip, chosen)
    level, noise = maps.rsrp_dbm[0].numpy().T, maps.noise_db[0].numpy().T
    filled = np.where(np.isnan(level), -np.inf, level)
    if k < filled.shape[1]:
        best = np.argpartition(-filled, k - 1, axis=1)[:, :k]
    else:
        best = np.broadcast_to(np.arange(k), (len(filled), k))
    order = np.argsort(-np.take_along_axis(filled, best, axis=1), axis=1, kind="stable")
    best = np.take_along_axis(best, order, axis=1)
    level_k = np.take_along_axis(level, best, axis=1)
    power = np.where(np.isnan(level), 0.0, 10.0 ** (level / 10))
    others = power.sum(axis=1) - np.take_along_axis(power, best, axis=1).sum(axis=1)
    sector = np.where(np.isnan(level_k), -1, best).astype(np.int16)
    return (
        sector,
        level_k.astype(np.float32),
        np.take_along_axis(noise, best, axis=1).astype(np.float32),
        np.maximum(others, 0.0).astype(np.float32),
    )
