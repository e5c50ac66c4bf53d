"""What an atlas says about places, as the measurement model reads it."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ueloc_core.grid import Window
from ueloc_core.measurement.accuracy import fading_db
from ueloc_core.measurement.beam_gains import SectorPose, beam_offsets_db
from ueloc_core.measurement.direction import DepartureMaps
from ueloc_core.measurement.levels import LevelMaps
from ueloc_core.measurement.model import ServingMaps
from ueloc_core.measurement.settings import MeasurementConfig
from ueloc_core.measurement.timing import DelayMaps
from ueloc_core.radio.atlas import MapAtlas
from ueloc_core.units import SPEED_OF_LIGHT_M_S, power_per_resource_element_dbm

_NS_PER_M = 1e9 / SPEED_OF_LIGHT_M_S


@dataclass(frozen=True)
class Around:
    """The outdoor grid cells that a serving sector was traced over, and what maps say there.

    Attributes
    ----------
    window
        The sector's traced window.
    outdoor
        Where terminals can stand, shape of the window; the places of the maps in row order.
    levels, serving
        Maps of all sectors and of the serving one, one row each.
    """

    window: Window
    outdoor: NDArray[np.bool_]
    levels: LevelMaps
    serving: ServingMaps

    def index_of(self, x_m: float, y_m: float) -> int:
        """Place of a point [m] in the maps, -1 where it is none of them."""
        if not self.window.contains(x_m, y_m):
            return -1
        row, column = (int(v) for v in self.window.indices(x_m, y_m))
        if not self.outdoor[row, column]:
            return -1
        return int(self.outdoor[:row].sum() + self.outdoor[row, :column].sum())


class PlaceMaps:
    """Reads levels, delays, angles and beams out of an atlas.

    Parameters
    ----------
    atlas
        The maps.
    settings
        The reports that they are read for.
    """

    def __init__(self, atlas: MapAtlas, settings: MeasurementConfig) -> None:
        self.atlas, self.settings = atlas, settings
        table = atlas.sectors
        self.position_m = table[["x_m", "y_m"]].to_numpy(dtype=float)
        self.height_m = table.height_m.to_numpy(dtype=float)
        self.reference_dbm = np.asarray(
            power_per_resource_element_dbm(
                table.power_dbm.to_numpy(dtype=float), atlas.city.radio.resource_blocks
            )
        )
        self.site = torch.from_numpy(atlas.site)
        self._terminal_m = atlas.city.ray_tracing.terminal_height_m
        self.beam_offset_db = lru_cache(maxsize=128)(self._beam_offset_db)
        self.around = lru_cache(maxsize=2)(self._around)

    @cached_property
    def noise_db(self) -> NDArray[np.float16]:
        """Scatter of fading and accuracy of each level [dB], shape of the atlas's maps."""
        numerology = self.atlas.city.radio.numerology
        spread, sight = (self.atlas.layer(n) for n in ("delay_spread_ns", "line_of_sight"))
        out = np.empty(spread.shape, dtype=np.float16)
        own = self.settings.terminal.level_sigma_db
        for s in range(len(out)):
            faded = fading_db(spread[s], sight[s], self.settings.fading, numerology)
            out[s] = np.hypot(own, faded)
        return out

    def _around(self, serving: int) -> Around:
        """The outdoor ground that a sector was traced over; kept for the next report."""
        window = self.atlas.windows[serving]
        outdoor = self.atlas.outdoor_in(window)
        return Around(
            window,
            outdoor,
            self.levels_in(window, outdoor),
            self.serving_in(serving, window, outdoor),
        )

    # -- levels ---------------------------------------------------------------------------

    def levels_in(self, window: Window, chosen: NDArray[np.bool_]) -> LevelMaps:
        """Levels of all sectors at the chosen grid cells of a window (shape of the window)."""
        atlas = self.atlas
        layers: tuple[NDArray[Any], ...] = (atlas.rsrp_dbm, atlas.rsrp_se_db, self.noise_db)
        found = [np.full((len(atlas.windows), chosen.sum()), np.nan, np.float32) for _ in layers]
        for sector, own in enumerate(atlas.windows):
            shared = window.intersection(own)
            if shared is None:
                continue
            target, source = shared.slices_in(window), shared.slices_in(own)
            place = np.zeros(window.shape, dtype=bool)
            place[target] = chosen[target]
            rows = place[chosen]
            for values, layer in zip(found, layers, strict=True):
                values[sector, rows] = layer[sector][source][chosen[target]]
        return self.level_maps(*(torch.from_numpy(v)[None] for v in found))

    def levels_at(self, x_m: NDArray[np.float64], y_m: NDArray[np.float64]) -> LevelMaps:
        """Levels of all sectors at points [m], each a row of its own, one place a row."""
        atlas = self.atlas
        layers: tuple[NDArray[Any], ...] = (atlas.rsrp_dbm, atlas.rsrp_se_db, self.noise_db)
        shape = (len(x_m), len(atlas.windows), 1)
        found = [np.full(shape, np.nan, np.float32) for _ in range(3)]
        for sector, window in enumerate(atlas.windows):
            inside = window.contains(x_m, y_m)
            at = (sector, *window.indices(x_m[inside], y_m[inside]))
            for values, layer in zip(found, layers, strict=True):
                values[inside, sector, 0] = layer[at]
        return self.level_maps(*(torch.from_numpy(v) for v in found))

    def level_maps(self, rsrp: Any, error: Any, noise: Any) -> LevelMaps:
        """Levels [dBm], their errors and their noise [dB] put together; unknown noise filled in."""
        unknown = float(
            np.hypot(
                self.settings.terminal.level_sigma_db,
                fading_db(
                    np.array(np.nan),
                    np.array(0.0),
                    self.settings.fading,
                    self.atlas.city.radio.numerology,
                ),
            )
        )
        return LevelMaps(rsrp, error, noise.nan_to_num(unknown), self.site)

    # -- the serving sector ---------------------------------------------------------------

    def serving_in(self, serving: int, window: Window, chosen: NDArray[np.bool_]) -> ServingMaps:
        """Maps of one serving sector at the chosen grid cells of a window, one row."""
        own = self.atlas.windows[serving]
        shared = window.intersection(own)

        def cut(values: NDArray[Any]) -> NDArray[np.float32]:
            out = np.full((*values.shape[:-2], *window.shape), np.nan, np.float32)
            if shared is not None:
                target, source = shared.slices_in(window), shared.slices_in(own)
                out[(..., *target)] = values[(..., *source)]
            return out[..., chosen]

        x, y = np.meshgrid(window.x_centres_m, window.y_centres_m)
        beams = self.beam_offset_db(serving) if self._has_beams else self._no_beams
        return self._serving_maps(
            np.array([serving]),
            {name: cut(self.atlas.layer(name)[serving])[None] for name in _LAYERS},
            cut(beams)[None],
            np.stack([x[chosen], y[chosen]], axis=-1)[None],
        )

    def serving_at(
        self, serving: NDArray[np.int64], x_m: NDArray[np.float64], y_m: NDArray[np.float64]
    ) -> ServingMaps:
        """Maps of the serving sectors of n reports at a point [m] each."""
        values, beams = self.serving_arrays(serving, x_m, y_m)
        return self._serving_maps(
            serving,
            {name: value[:, None] for name, value in values.items()},
            beams[..., None],
            np.stack([x_m, y_m], axis=-1)[:, None],
        )

    def serving_arrays(
        self, serving: NDArray[np.int64], x_m: NDArray[np.float64], y_m: NDArray[np.float64]
    ) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32]]:
        """Layers of serving sectors at points, shape (n,) each, and beams' offsets (n, beam)."""
        values = {name: np.full(len(serving), np.nan, np.float32) for name in _LAYERS}
        beams = np.full((len(serving), self._beams), np.nan, np.float32)
        for sector in np.unique(serving):
            mine = np.flatnonzero(serving == sector)
            window = self.atlas.windows[sector]
            mine = mine[window.contains(x_m[mine], y_m[mine])]
            at = window.indices(x_m[mine], y_m[mine])
            for name, value in values.items():
                value[mine] = self.atlas.layer(name)[sector][at]
            if self._has_beams:
                beams[mine] = self.beam_offset_db(int(sector))[(slice(None), *at)].T
        return values, beams

    def _serving_maps(
        self,
        serving: NDArray[np.int64],
        values: dict[str, NDArray[np.float32]],
        beams: NDArray[np.float32],
        place_m: NDArray[np.float64],
    ) -> ServingMaps:
        offset = place_m - self.position_m[serving][:, None]
        drop = (self.height_m[serving] - self._terminal_m)[:, None]
        straight = np.sqrt((offset**2).sum(axis=-1) + drop**2) * _NS_PER_M
        bearing = np.degrees(np.arctan2(offset[..., 0], offset[..., 1])) % 360

        def tensor(array: NDArray[Any]) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))

        return ServingMaps(
            DelayMaps(
                tensor(values["first_arrival_ns"]),
                tensor(values["line_of_sight"]),
                tensor(straight),
            ),
            DepartureMaps(
                tensor(values["departure_azimuth_deg"]),
                tensor(values["departure_spread_deg"]),
                tensor(bearing),
                tensor(beams),
            ),
            tensor(self.reference_dbm[serving]),
        )

    @property
    def _has_beams(self) -> bool:
        return any(name in ("nr_beams", "full") for name in self.settings.scenarios)

    @property
    def _beams(self) -> int:
        return self.settings.beams.count if self._has_beams else 0

    @property
    def _no_beams(self) -> NDArray[np.float32]:
        n = self.atlas.windows[0].rows
        return np.zeros((0, n, n), dtype=np.float32)

    def _beam_offset_db(self, sector: int) -> NDArray[np.float16]:
        """Offsets of the beams over a sector's window, shape (beam, rows, columns)."""
        row = self.atlas.sectors.iloc[sector]
        pose = SectorPose(
            str(row.get("antenna", "tr38901")),
            float(row.azimuth_deg),
            float(row.downtilt_deg),
            float(row.get("electrical_tilt_deg", 0.0)),
        )
        layers = (self.atlas.layer(name)[sector] for name in _ANGLES)
        return beam_offsets_db(self.settings.beams, pose, *layers).astype(np.float16)


_ANGLES = ("departure_azimuth_deg", "departure_zenith_deg", "departure_spread_deg")
_LAYERS = ("first_arrival_ns", "line_of_sight", "departure_azimuth_deg", "departure_spread_deg")
