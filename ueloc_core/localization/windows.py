"""From reports and radio maps to the tensors that the network sees.

Each report is seen in the window of its serving sector: positions are metres from the
window's centre, maps are crops of the global grid. The exact symmetries of the square
(four turns, with and without a mirror) are applied here, to maps, geometry and labels alike.
"""

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr
from torch import Tensor

from ueloc_core.grid import Window
from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.bins import decode
from ueloc_core.measurement.model import MeasurementModel, ServingMaps
from ueloc_core.measurement.place_maps import PlaceMaps
from ueloc_core.measurement.reports import INT16_MISSING, MISSING, SS_RSRQ, SS_SINR
from ueloc_core.radio.atlas import MapAtlas
from ueloc_core.radio.link import timing_advance_step_m

SYMMETRIES = 8
TOKEN_FEATURES = 26
_RANKED = 16  # more than the slots, so the strongest unreported sectors are among them
_UNHEARD_SIGMA_DB = 7.0  # level's and map's error together, for the unreported sectors' channel
_HALF = 2  # grid cells a side of a pooled cell
_NOTHING_DBM = -200.0
_LEAST_EVIDENCE = -30.0


@dataclass(frozen=True)
class WindowBatch:
    """Reports in the windows of their serving sectors; n is the side in grid cells.

    Attributes
    ----------
    tokens, present
        Measured values and geometry of each slot, shape (report, slot, feature), and whether
        the slot holds a sector.
    level_dbm
        Reported RSRP [dBm], shape (report, slot), 0 in empty slots.
    rsrp_code
        SS-RSRP codes, shape (report, slot).
    rsrp_dbm, se_db, noise_db
        Mapped RSRP [dBm], its standard error and the scatter of fading and accuracy [dB] of the
        reported sectors, NaN where unknown, shape (report, slot, n, n).
    evidence
        Log-likelihood of the serving sector's timing, angle and beams [nats], at most 0 and at
        least -30, 0 where nothing of them is reported; shape (report, n, n).
    half_rsrp_dbm, half_se_db
        The same on a grid twice as coarse, shape (report, slot, n/2, n/2).
    half_unheard_dbm
        Strongest mapped RSRP of the unreported sectors [dBm], shape (report, n/2, n/2).
    half_silence
        Log-probability that the strongest unreported sectors stay unreported [nats], shape
        (report, n/2, n/2).
    half_height_m
        Building height [m], shape (report, n/2, n/2).
    outdoor
        Where terminals can stand, shape (report, n, n).
    ceiling_dbm
        Level that unreported sectors stayed under [dBm], shape (report,).
    outside_m2
        Outdoor area that the serving sector was traced over beyond the window, shape (report,).
    truth_m
        True position from the window's centre [m], shape (report, 2); NaN where unknown.
    """

    tokens: Tensor
    present: Tensor
    level_dbm: Tensor
    rsrp_code: Tensor
    rsrp_dbm: Tensor
    se_db: Tensor
    noise_db: Tensor
    evidence: Tensor
    half_rsrp_dbm: Tensor
    half_se_db: Tensor
    half_unheard_dbm: Tensor
    half_silence: Tensor
    half_height_m: Tensor
    outdoor: Tensor
    ceiling_dbm: Tensor
    outside_m2: Tensor
    truth_m: Tensor

    def to(self, device: torch.device) -> "WindowBatch":
        """The batch on a device."""
        return WindowBatch(*(getattr(self, f.name).to(device) for f in fields(self)))

    def __len__(self) -> int:
        return int(self.tokens.shape[0])


class WindowReader:
    """Cuts windows out of an atlas.

    Parameters
    ----------
    atlas
        Radio maps, sectors and ground of a city.
    model
        Gives the level that unreported sectors stayed under, and how many reports are lost.
    """

    def __init__(self, atlas: MapAtlas, model: MeasurementModel) -> None:
        self.atlas = atlas
        self.cell_m = atlas.city.grid.cell_m
        self.cells = round(atlas.city.window.size_m / self.cell_m)
        self.model = model
        self.places = PlaceMaps(atlas, model.settings)
        self._lost = model.settings.dropout_probability
        table = atlas.sectors
        rows: list[Any] = list(table.itertuples())
        self.frames = [atlas.city.sector_window(row.x_m, row.y_m, row.azimuth_deg) for row in rows]
        self._half_rsrp = _pool(atlas.rsrp_dbm)
        self._half_se = _pool(atlas.rsrp_se_db)
        self._half_windows = [_halved(window) for window in atlas.windows]
        azimuth = np.radians(table.azimuth_deg.to_numpy())
        self._step_m = timing_advance_step_m(atlas.city.radio.numerology)
        self._boresight = np.stack([np.sin(azimuth), np.cos(azimuth)], axis=1)
        self._position = table[["x_m", "y_m"]].to_numpy(dtype=float)
        self._height_m = table.height_m.to_numpy(dtype=float)
        self._surroundings = lru_cache(maxsize=256)(self._read_surroundings)
        self._serving = lru_cache(maxsize=256)(self._read_serving)

    def frame_positions(
        self, serving: NDArray[np.int64], x_m: NDArray[np.float64], y_m: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Positions [m] from the centres of the serving sectors' windows, shape (report, 2)."""
        centre = np.array([self.frames[s].centre_m for s in serving]).reshape(-1, 2)
        return np.asarray(np.stack([x_m, y_m], axis=1) - centre)

    def read(
        self,
        reports: ReportBatch,
        truth_m: NDArray[np.float64] | None = None,
        symmetry: NDArray[np.int64] | None = None,
    ) -> WindowBatch:
        """Assemble a batch.

        Parameters
        ----------
        reports
            The reports.
        truth_m
            True positions in the windows' frames [m], shape (report, 2).
        symmetry
            Symmetry 0..7 of each report; 0 (none) by default.
        """
        count = len(reports)
        sector = reports.sector.numpy()
        turn = np.zeros(count, dtype=np.int64) if symmetry is None else symmetry
        place = np.full((count, 2), np.nan) if truth_m is None else truth_m
        parts: dict[str, list[NDArray[Any]]] = {}
        ceiling = self._ceiling(reports)
        for i in range(count):
            rasters_of = self._rasters(sector[i], float(ceiling[i]))
            rasters_of["evidence"] = self._evidence(reports[i : i + 1])
            for name, value in rasters_of.items():
                turned = np.ascontiguousarray(_turn_raster(value, int(turn[i])))
                parts.setdefault(name, []).append(turned)
        rasters = {name: torch.from_numpy(np.stack(values)) for name, values in parts.items()}
        tokens = self._tokens(reports, turn)
        truth = np.stack([_turn_vectors(p, int(t)) for p, t in zip(place, turn, strict=True)])
        return WindowBatch(
            tokens=torch.from_numpy(tokens.astype(np.float32)),
            present=reports.heard,
            level_dbm=reports.level_dbm.nan_to_num(0.0),
            rsrp_code=reports.rsrp,
            ceiling_dbm=ceiling.to(torch.float32),
            outside_m2=torch.tensor([self.outside_m2(int(s[0])) for s in sector]),
            truth_m=torch.from_numpy(truth.astype(np.float32)),
            **rasters,
        )

    def outside_m2(self, serving: int) -> float:
        """Outdoor area [m2] that a sector was traced over beyond its window."""
        return float(self._surroundings(serving)["outside_m2"])

    def _rasters(self, sector: NDArray[np.int64], ceiling_dbm: float) -> dict[str, NDArray[Any]]:
        serving = int(sector[0])
        frame, half = self.frames[serving], _halved(self.frames[serving])
        around = self._surroundings(serving)
        full_windows, halves = self.atlas.windows, self._half_windows
        heard = np.zeros(len(self.frames) + 1, dtype=bool)
        heard[sector[sector >= 0]] = True
        free = ~heard[around["ranked_id"]]
        first = free.argmax(axis=0)[None]
        unheard = np.take_along_axis(around["ranked_dbm"], first, axis=0)[0]
        unheard = np.where(free.any(axis=0), unheard, _NOTHING_DBM)
        gap = (ceiling_dbm - around["ranked_dbm"].astype(np.float32)) / _UNHEARD_SIGMA_DB
        silent = self._lost + (1 - self._lost) * ndtr(gap)
        silence = np.where(free, np.log(np.maximum(silent, 1e-3)), 0.0).sum(axis=0)
        return {
            "rsrp_dbm": _compose(self.atlas.rsrp_dbm, full_windows, sector, frame),
            "se_db": _compose(self.atlas.rsrp_se_db, full_windows, sector, frame),
            "noise_db": _compose(self.places.noise_db, full_windows, sector, frame),
            "half_rsrp_dbm": _compose(self._half_rsrp, halves, sector, half),
            "half_se_db": _compose(self._half_se, halves, sector, half),
            "half_unheard_dbm": unheard.astype(np.float32),
            "half_silence": silence.astype(np.float32),
            "half_height_m": around["half_height_m"],
            "outdoor": around["outdoor"],
        }

    @torch.no_grad()
    def _evidence(self, report: ReportBatch) -> NDArray[np.float32]:
        """Log-likelihood of timing, angle and beams over the window, shape (n, n)."""
        told = (report.ta, report.aoa, report.beam[:, 0])
        if all(int(code[0]) == MISSING for code in told):
            return np.zeros((self.cells, self.cells), dtype=np.float32)
        maps = self._serving(int(report.sector[0, 0]))
        value = self.model.serving_log_prob(report, maps)[0]
        value = (value - value.max()).clamp_min(_LEAST_EVIDENCE)
        return np.asarray(value.reshape(self.cells, self.cells).numpy(), dtype=np.float32)

    def _read_serving(self, serving: int) -> ServingMaps:
        frame = self.frames[serving]
        return self.places.serving_in(serving, frame, np.ones(frame.shape, dtype=bool))

    def _ceiling(self, reports: ReportBatch) -> Tensor:
        return self.model.levels.ceilings(reports)[0]

    def _read_surroundings(self, serving: int) -> dict[str, Any]:
        """What all reports of one serving sector share."""
        frame = self.frames[serving]
        half = _halved(frame)
        everyone = np.arange(len(self.frames))
        levels = _compose(self._half_rsrp, self._half_windows, everyone, half)
        levels = np.nan_to_num(levels, nan=_NOTHING_DBM)
        ranked = min(_RANKED, len(everyone))
        order = np.argsort(-levels, axis=0, kind="stable")[:ranked]
        traced = self.atlas.outdoor_in(self.atlas.windows[serving])
        outdoor = self.atlas.outdoor_in(frame)
        beyond = int(traced.sum()) - int(outdoor.sum())
        height = self.atlas.building_height_in(frame)
        return {
            "ranked_id": order.astype(np.int16),
            "ranked_dbm": np.take_along_axis(levels, order, axis=0).astype(np.float16),
            "half_height_m": _pool(height[None])[0],
            "outdoor": outdoor,
            "outside_m2": max(beyond, 1) * self.cell_m**2,
        }

    def _tokens(self, reports: ReportBatch, turn: NDArray[np.int64]) -> NDArray[np.float64]:
        sector = reports.sector.numpy()
        chosen = np.maximum(sector, 0)
        centre = np.array([self.frames[s].centre_m for s in chosen[:, 0]])
        scale_m = self.cells * self.cell_m / 2
        offset = (self._position[chosen] - centre[:, None]) / scale_m
        bore = self._boresight[chosen]
        for i, t in enumerate(turn):
            offset[i], bore[i] = _turn_vectors(offset[i], int(t)), _turn_vectors(bore[i], int(t))

        def measured(value: Tensor, middle: float, scale: float) -> list[NDArray[Any]]:
            known = ~value.isnan()
            return [((value - middle) / scale).nan_to_num(0.0).numpy(), known.float().numpy()]

        slots = sector.shape[1]
        serving = np.zeros(sector.shape)
        serving[:, 0] = 1.0

        def own(code: Tensor, missing: int = MISSING) -> Tensor:
            """A field of the serving sector in its slot."""
            value = torch.full(sector.shape, torch.nan)
            value[:, 0] = torch.where(code == missing, torch.nan, code.float())
            return value

        features = [
            *measured(reports.level_dbm, -90.0, 20.0),
            *measured(decode(SS_RSRQ, reports.rsrq), -15.0, 8.0),
            *measured(decode(SS_SINR, reports.sinr), 5.0, 12.0),
            *measured(own(reports.cqi), 8.0, 4.0),
            serving,
            offset[..., 0],
            offset[..., 1],
            np.hypot(offset[..., 0], offset[..., 1]),
            bore[..., 0],
            bore[..., 1],
            (self._height_m[chosen] - 25.0) / 10.0,
            np.repeat(((self._ceiling(reports).numpy() + 105.0) / 15.0)[:, None], slots, axis=1),
            *measured(own(reports.ri), 2.0, 1.0),
            *measured(own(reports.ul_sinr, INT16_MISSING), 4000.0, 4000.0),
            *measured(own(reports.ta) * self._step_m, scale_m / 4, scale_m / 4),
            *measured(own(reports.throughput).clamp_min(1.0).log(), 11.0, 2.0),
            *measured(own(reports.bler), 10.0, 20.0),
        ]
        tokens = np.stack(features, axis=-1)
        return np.where((sector >= 0)[..., None], tokens, 0.0)


def _pool(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean of the known values of each 2 x 2 grid cells, NaN where none is known."""
    count, rows, columns = values.shape
    blocks = values.reshape(count, rows // _HALF, _HALF, columns // _HALF, _HALF)
    known = np.isfinite(blocks)
    total = np.where(known, blocks, 0.0).sum(axis=(2, 4))
    with np.errstate(invalid="ignore"):
        return np.asarray(total / known.sum(axis=(2, 4)), dtype=np.float32)


def _halved(window: Window) -> Window:
    """The same rectangle on the grid twice as coarse."""
    return Window(
        window.column // _HALF,
        window.row // _HALF,
        window.columns // _HALF,
        window.rows // _HALF,
        window.cell_m * _HALF,
    )


def _compose(
    values: NDArray[np.floating[Any]],
    windows: Any,
    sectors: NDArray[np.int64],
    frame: Window,
) -> NDArray[np.float32]:
    out = np.full((len(sectors), *frame.shape), np.nan, dtype=np.float32)
    for k, sector in enumerate(sectors):
        if sector < 0:
            continue
        shared = frame.intersection(windows[sector])
        if shared is not None:
            out[(k, *shared.slices_in(frame))] = values[
                (sector, *shared.slices_in(windows[sector]))
            ]
    return out


def _turn_raster(values: NDArray[Any], symmetry: int) -> NDArray[Any]:
    """A raster (..., rows, columns) mirrored west-east if `symmetry` > 3, then turned left."""
    if symmetry >= SYMMETRIES // 2:
        values = values[..., ::-1]
    return np.rot90(values, -(symmetry % 4), axes=(-2, -1))


def _turn_vectors(vectors: NDArray[np.float64], symmetry: int) -> NDArray[np.float64]:
    """Vectors (..., 2) under the same symmetry as `_turn_raster`."""
    x, y = vectors[..., 0], vectors[..., 1]
    if symmetry >= SYMMETRIES // 2:
        x = -x
    for _ in range(symmetry % 4):
        x, y = -y, x
    return np.stack([x, y], axis=-1)
