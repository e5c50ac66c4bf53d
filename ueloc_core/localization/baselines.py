"""What the network is compared with: the exact grid posterior; and the point of a density."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ueloc_core.grid import Window
from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.model import MeasurementModel
from ueloc_core.measurement.place_maps import PlaceMaps

_ASTRAY_SHARE = 1e-3
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
