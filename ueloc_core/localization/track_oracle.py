"""The oracle of tracks: where the last report came from, given all reports up to it."""

from collections.abc import Sequence

import numpy as np
import torch

from ueloc_core.errors import ReportError
from ueloc_core.localization.baselines import GridPosterior
from ueloc_core.measurement.batch import ReportBatch
from ueloc_core.measurement.model import MeasurementModel
from ueloc_core.measurement.motion import MotionPrior, moving_log_prob
from ueloc_core.measurement.place_maps import PlaceMaps
from ueloc_core.measurement.settings import TracksConfig

DIRECTIONS, VEHICLE_SPEEDS = 64, 16
"""Of the quadrature over paths: 30 m ago two directions are a grid cell apart."""

_ASTRAY_SHARE = 1e-3


class TrackBayes:
    """Bayes' rule at every outdoor grid cell, under the measurement model, for a whole track.

    The prior of the last place is uniform over the outdoor ground, as that of `GridBayes`; how
    the terminal came there is integrated out under the motion prior, together with all that its
    reports share: gain offset, clock, and as far as places are near shadowing and map error
    (`measurement.motion`). A thousandth of the mass is spread over the whole square, because a
    map may hold a building where the terminal stands.

    Parameters
    ----------
    places
        The twin's radio maps.
    model
        The measurement model with the fitted map error.
    prior
        How terminals move.
    """

    def __init__(self, places: PlaceMaps, model: MeasurementModel, prior: MotionPrior) -> None:
        self.places, self.model, self.prior = places, model, prior

    @classmethod
    def of(cls, places: PlaceMaps, model: MeasurementModel, tracks: TracksConfig) -> "TrackBayes":
        """That of a city's population: standing, walking and driving by their shares."""
        return cls(places, model, MotionPrior.of(tracks, DIRECTIONS, VEHICLE_SPEEDS).bending())

    @torch.no_grad()
    def posterior(self, reports: ReportBatch, times_s: Sequence[float]) -> GridPosterior:
        """The posterior of the last of T reports of one terminal.

        Parameters
        ----------
        reports
            T reports, in order of time. One report has the posterior of `GridBayes`.
        times_s
            Their times [s].

        Raises
        ------
        ReportError
            If there is not one time a report, or they fall.
        """
        if len(times_s) != len(reports) or (np.diff(times_s) < 0).any():
            raise ReportError(
                f"{len(reports)} reports at times {', '.join(f'{t:g}' for t in times_s)} s",
                where="track",
                remedy="Give one time a report, in order of time.",
            )
        around = self.places.around(int(reports.sector[-1, 0]))
        log_prob = moving_log_prob(
            self.model, self.places, reports, times_s, around, self.prior
        ).double()
        mass = np.full(around.window.shape, _ASTRAY_SHARE / around.outdoor.size)
        mass[around.outdoor] += (1 - _ASTRAY_SHARE) * torch.softmax(log_prob, dim=0).numpy()
        return GridPosterior(around.window, mass)
