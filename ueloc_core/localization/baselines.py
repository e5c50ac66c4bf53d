"""What the network is compared with: the exact grid posterior, and two classics."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ueloc_core.grid import Window
from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.model import MeasurementModel
from ueloc_core.measurement.place_maps import PlaceMaps
from ueloc_core.measurement.reports import decode_rsrp
from ueloc_core.radio.atlas import MapAtlas

_ASTRAY_SHARE = 1e-3
_SCALE_FLOOR_DB = 1.0
_MISSING_FINGERPRINT_DBM = -130.0
_MEDIAN_STEPS = 50
_MEDIAN_TOLERANCE_M = 0.05


@dataclass(frozen=True)
class GridPosterior:
    """An exact posterior over the grid cells that a sector was traced over.

    Attributes
    ----------
    window
        The traced window of the serving sector.
    mass
        Posterior mass of each grid cell, shape of `window`, sums to one.
    """

    window: Window
    mass: NDArray[np.float64]

    def nll_nats(self, x_m: float, y_m: float) -> float:
        """Negative log-density [nats, 1/m2] at a point."""
        row, column = self.window.indices(x_m, y_m)
        inside = bool(self.window.contains(x_m, y_m))
        mass = float(self.mass[row, column]) if inside else 0.0
        return float(-np.log(max(mass, 1e-300) / self.window.cell_m**2))

    def in_frame(self, frame: Window) -> NDArray[np.float64]:
        """Mass over a smaller window."""
        return self.mass[frame.slices_in(self.window)]


class GridBayes:
    """The oracle: Bayes' rule at every outdoor grid cell, under the measurement model.

    The prior is uniform over the outdoor ground; the likelihood is the one that simulates
    reports, with the fitted map error. A thousandth of the mass is spread over the whole square,
    because a map may hold a building where the terminal stands.

    Parameters
    ----------
    places
        The twin's radio maps.
    model
        The measurement model with the fitted map error.
    """

    def __init__(self, places: PlaceMaps, model: MeasurementModel) -> None:
        self.places, self.model = places, model

    @torch.no_grad()
    def posterior(self, report: ReportBatch) -> GridPosterior:
        """The posterior of one report (a batch of one)."""
        around = self.places.around(int(report.sector[0, 0]))
        log_prob = self.model.log_prob(report, around.levels, around.serving)[0].double()
        mass = np.full(around.window.shape, _ASTRAY_SHARE / around.outdoor.size)
        mass[around.outdoor] += (1 - _ASTRAY_SHARE) * torch.softmax(log_prob, dim=0).numpy()
        return GridPosterior(around.window, mass)


class Fingerprints:
    """k nearest neighbours in signal space among the twin's outdoor grid cells.

    The distance is the root mean square difference of RSRP [dB] over the reported sectors; an
    unmapped one counts as -130 dBm. The estimate weighs the k nearest by inverse distance.
    """

    def __init__(self, atlas: MapAtlas, neighbours: int) -> None:
        self.atlas, self.neighbours = atlas, neighbours

    def locate(self, report: ReportBatch) -> tuple[float, float]:
        """Estimated (x, y) [m] of one report."""
        heard = report.heard[0].numpy()
        sectors = report.sector[0].numpy()[heard]
        level = decode_rsrp(report.rsrp[0].numpy()[heard])
        window = self.atlas.windows[int(sectors[0])]
        outdoor = self.atlas.outdoor_in(window)
        rsrp, _ = self.atlas.maps_in(window, sectors)
        stored = np.nan_to_num(rsrp[:, outdoor], nan=_MISSING_FINGERPRINT_DBM)
        distance = np.sqrt(((stored - level[:, None]) ** 2).mean(axis=0))
        count = min(self.neighbours, distance.size)
        nearest = np.argpartition(distance, count - 1)[:count]
        weight = 1.0 / np.maximum(distance[nearest], _SCALE_FLOOR_DB)
        row, column = (index[nearest] for index in np.nonzero(outdoor))
        x_m = (weight * window.x_centres_m[column]).sum() / weight.sum()
        y_m = (weight * window.y_centres_m[row]).sum() / weight.sum()
        return float(x_m), float(y_m)


class StrongestSector:
    """The centre of the outdoor ground where the twin says that the serving sector is best."""

    def __init__(self, atlas: MapAtlas) -> None:
        self.atlas = atlas
        self._centres: dict[int, tuple[float, float]] = {}

    def locate(self, report: ReportBatch) -> tuple[float, float]:
        """Estimated (x, y) [m] of one report."""
        serving = int(report.sector[0, 0])
        if serving not in self._centres:
            self._centres[serving] = self._centre(serving)
        return self._centres[serving]

    def _centre(self, serving: int) -> tuple[float, float]:
        window = self.atlas.windows[serving]
        rsrp, _ = self.atlas.maps_in(window)
        filled = np.nan_to_num(rsrp, nan=-np.inf)
        best = (filled.argmax(axis=0) == serving) & np.isfinite(filled[serving])
        row, column = np.nonzero(best & self.atlas.outdoor_in(window))
        if not len(row):
            site: Any = self.atlas.sectors.iloc[serving]
            return float(site.x_m), float(site.y_m)
        return float(window.x_centres_m[column].mean()), float(window.y_centres_m[row].mean())


def geometric_median(mass: NDArray[np.floating[Any]], window: Window) -> tuple[float, float]:
    """The point (x, y) [m] with the least expected distance to the terminal.

    Weiszfeld's iteration over the cells that hold 99% of the mass; the same point estimate for
    every method that has a density.
    """
    flat = np.asarray(mass, dtype=np.float64).ravel()
    order = np.argsort(-flat)
    kept = order[: np.searchsorted(np.cumsum(flat[order]), 0.99 * flat.sum()) + 1]
    weight = flat[kept]
    place = np.stack(
        [
            window.x_centres_m[kept % window.columns],
            window.y_centres_m[kept // window.columns],
        ],
        axis=1,
    )
    point = np.average(place, axis=0, weights=weight)
    for _ in range(_MEDIAN_STEPS):
        pull = weight / np.maximum(np.hypot(*(place - point).T), window.cell_m / 4)
        moved = np.average(place, axis=0, weights=pull)
        if np.hypot(*(moved - point)) < _MEDIAN_TOLERANCE_M:
            break
        point = moved
    return float(point[0]), float(point[1])
