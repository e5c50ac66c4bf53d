"""From reports to the tensors that the network sees.

Each report is seen in the window of its serving sector: positions are metres from the window's
centre. Maps are not cut out; the network gathers what it looks at from the tables of the city
(`map_blocks`). The exact symmetries of the square (four turns, with and without a mirror) are
applied here to the geometry of the tokens, and by the network to what its convolutions see.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ueloc_core.grid import BLOCK_CELLS
from ueloc_core.localization.map_blocks import MapBlocks
from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.bins import decode
from ueloc_core.measurement.model import MeasurementModel
from ueloc_core.measurement.place_maps import PlaceMaps
from ueloc_core.measurement.reports import INT16_MISSING, MISSING, SS_RSRQ, SS_SINR
from ueloc_core.radio.atlas import MapAtlas
from ueloc_core.radio.link import timing_advance_step_m

SYMMETRIES = 8
TOKEN_FEATURES = 26


@dataclass(frozen=True)
class WindowBatch:
    """Reports in the windows of their serving sectors.

    Attributes
    ----------
    maps
        Tables of the city's maps.
    model
        The measurement model over these maps.
    reports
        n reports.
    tokens
        Measured values and geometry of each slot, shape (report, slot, feature).
    corner
        Row and column of each window's first block, from the origin of the CRS, shape (report, 2).
    blocks
        Side of the windows in blocks.
    symmetry
        Symmetry 0..7 in which the report is seen, shape (report,).
    ceilings_dbm
        Levels that unreported sectors stayed under, not lost and lost [dBm], shape (report, 2).
    outside_m2
        Outdoor area that the serving sector was traced over beyond the window, shape (report,).
    truth_m
        True position from the window's centre [m], shape (report, 2); NaN where unknown.
    """

    maps: MapBlocks
    model: MeasurementModel
    reports: ReportBatch
    tokens: Tensor
    corner: Tensor
    blocks: int
    symmetry: Tensor
    ceilings_dbm: Tensor
    outside_m2: Tensor
    truth_m: Tensor

    def to(self, device: torch.device) -> "WindowBatch":
        """The batch, and the city's tables once, on a device."""
        if self.tokens.device == device:
            return self
        return self._with(lambda v: v.to(device), self.maps.on(device))

    def __len__(self) -> int:
        return int(self.tokens.shape[0])

    def __getitem__(self, chosen: Any) -> "WindowBatch":
        """Some of the reports, chosen by a slice, a mask or indices."""
        return self._with(lambda v: v[chosen], self.maps)

    def _with(self, change: Callable[[Any], Any], maps: MapBlocks) -> "WindowBatch":
        """Over other tables, with a change of all that is of reports."""
        changed: dict[str, Any] = {
            f.name: change(value)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor | ReportBatch)
        }
        return replace(self, maps=maps, **changed)

    @property
    def present(self) -> Tensor:
        """Whether the slots hold a sector, shape (report, slot)."""
        return self.reports.heard

    @property
    def cells(self) -> int:
        """Side of the windows in grid cells."""
        return self.blocks * BLOCK_CELLS

    def all_blocks(self) -> tuple[Tensor, Tensor]:
        """Row and column of all blocks of the windows, row by row, shape (report, block)."""
        own = torch.arange(self.blocks, device=self.corner.device)
        row, column = (v.reshape(-1) for v in torch.meshgrid(own, own, indexing="ij"))
        return self.corner[:, :1] + row, self.corner[:, 1:] + column


class WindowReader:
    """Sees reports in the windows of a city's sectors.

    Parameters
    ----------
    atlas
        Radio maps, sectors and ground of a city.
    model
        The measurement model over these maps.
    """

    def __init__(self, atlas: MapAtlas, model: MeasurementModel) -> None:
        self.atlas, self.model = atlas, model
        self.cell_m = atlas.city.grid.cell_m
        self.cells = round(atlas.city.window.size_m / self.cell_m)
        self.places = PlaceMaps(atlas, model.settings)
        table = atlas.sectors
        rows: list[Any] = list(table.itertuples())
        self.frames = [atlas.city.sector_window(row.x_m, row.y_m, row.azimuth_deg) for row in rows]
        azimuth = np.radians(table.azimuth_deg.to_numpy())
        self._step_m = timing_advance_step_m(atlas.city.radio.numerology)
        self._boresight = np.stack([np.sin(azimuth), np.cos(azimuth)], axis=1)
        self._position = table[["x_m", "y_m"]].to_numpy(dtype=float)
        self._height_m = table.height_m.to_numpy(dtype=float)
        corners = [(f.row // BLOCK_CELLS, f.column // BLOCK_CELLS) for f in self.frames]
        self._corner = torch.tensor(corners)
        self._centre_m = np.array([f.centre_m for f in self.frames])

    @cached_property
    def maps(self) -> MapBlocks:
        """Tables of the city's maps, made when they are first asked for."""
        return MapBlocks(self.atlas, self.places, self.model.levels)

    @cached_property
    def _outside_m2(self) -> Tensor:
        """Outdoor area [m2] that each sector was traced over beyond its window."""
        atlas, beyond = self.atlas, []
        for traced, frame in zip(atlas.windows, self.frames, strict=True):
            area = int(atlas.outdoor_in(traced).sum()) - int(atlas.outdoor_in(frame).sum())
            beyond.append(max(area, 1) * self.cell_m**2)
        return torch.tensor(beyond)

    def frame_positions(
        self, serving: NDArray[np.int64], x_m: NDArray[np.float64], y_m: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Positions [m] from the centres of the serving sectors' windows, shape (report, 2)."""
        return np.asarray(np.stack([x_m, y_m], axis=1) - self._centre_m[serving])

    def outside_m2(self, serving: int) -> float:
        """Outdoor area [m2] that a sector was traced over beyond its window."""
        return float(self._outside_m2[serving])

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
        turn = np.zeros(count, dtype=np.int64) if symmetry is None else symmetry
        place = np.full((count, 2), np.nan) if truth_m is None else truth_m
        serving = reports.sector[:, 0]
        ceilings = torch.stack(self.model.levels.ceilings(reports), dim=1).float()
        tokens = self._tokens(reports, turn, ceilings[:, 0])
        return WindowBatch(
            maps=self.maps,
            model=self.model,
            reports=reports,
            tokens=torch.from_numpy(tokens.astype(np.float32)),
            corner=self._corner[serving],
            blocks=self.cells // BLOCK_CELLS,
            symmetry=torch.from_numpy(turn),
            ceilings_dbm=ceilings,
            outside_m2=self._outside_m2[serving].float(),
            truth_m=torch.from_numpy(place.astype(np.float32)),
        )

    def _tokens(
        self, reports: ReportBatch, turn: NDArray[np.int64], ceiling_dbm: Tensor
    ) -> NDArray[np.float64]:
        sector = reports.sector.numpy()
        chosen = np.maximum(sector, 0)
        centre = self._centre_m[chosen[:, 0]]
        scale_m = self.cells * self.cell_m / 2
        offset = (self._position[chosen] - centre[:, None]) / scale_m
        bore = self._boresight[chosen]
        for t in np.unique(turn[turn > 0]):
            at = turn == t
            offset[at], bore[at] = (turn_vectors(v[at], int(t)) for v in (offset, bore))

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
            np.repeat(((ceiling_dbm.numpy() + 105.0) / 15.0)[:, None], slots, axis=1),
            *measured(own(reports.ri), 2.0, 1.0),
            *measured(own(reports.ul_sinr, INT16_MISSING), 4000.0, 4000.0),
            *measured(own(reports.ta) * self._step_m, scale_m / 4, scale_m / 4),
            *measured(own(reports.throughput).clamp_min(1.0).log(), 11.0, 2.0),
            *measured(own(reports.bler), 10.0, 20.0),
        ]
        tokens = np.stack(features, axis=-1)
        return np.where((sector >= 0)[..., None], tokens, 0.0)


def turn_raster(values: Tensor, symmetry: int) -> Tensor:
    """A raster (..., rows, columns) mirrored west-east if `symmetry` > 3, then turned left."""
    if symmetry >= SYMMETRIES // 2:
        values = values.flip(-1)
    return torch.rot90(values, -(symmetry % 4), dims=(-2, -1))


def turn_back(values: Tensor, symmetry: int) -> Tensor:
    """The inverse of `turn_raster`."""
    values = torch.rot90(values, symmetry % 4, dims=(-2, -1))
    return values.flip(-1) if symmetry >= SYMMETRIES // 2 else values


def turn_vectors(vectors: NDArray[np.float64], symmetry: int) -> NDArray[np.float64]:
    """Vectors (..., 2) under the same symmetry as `turn_raster`."""
    x, y = vectors[..., 0], vectors[..., 1]
    if symmetry >= SYMMETRIES // 2:
        x = -x
    for _ in range(symmetry % 4):
        x, y = -y, x
    return np.stack([x, y], axis=-1)
