"""Tracks through the network's posteriors: what earlier reports say of the last one's place.

Each report's posterior, over the uniform prior on outdoor ground, is its evidence. That of the
earlier reports is carried to the time of the last one by how terminals move. Reports of nearby
places share the map's error and the shadowing, which their posteriors do not tell: a product of
them as they are would be overconfident. So each is tempered by how much of it the others of the
track say as well: the exponent is one over one plus its redundancy with each of them. Two
reports from one place have a redundancy that is fitted, others less with the distance that the
terminal went; a report alone keeps its posterior.

A terminal stands, walks or drives all along. Between two reports it goes straight on; from one
gap to the next it may turn.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from ueloc_core.errors import ModelError
from ueloc_core.grid import Window
from ueloc_core.json_files import load_fields, save_fields
from ueloc_core.localization.track_evidence import (
    Mass,
    Outdoor,
    TrackEvidence,
    TrackRasters,
    motions,
    nll_nats,
)
from ueloc_core.measurement.settings import TracksConfig

__all__ = ["TrackFilter", "TrackParameters", "TrackRasters"]

Array = NDArray[np.float64]

FORMAT = 1
_FILE = "tracking.json"
_START = (0.0, 0.0, float(np.log(13.0)))
_PRIOR_SD = 2.0  # of the fitted scalars around the start
_FIRST_STEP = 1.5
_EVALUATIONS = 60


@dataclass(frozen=True)
class TrackParameters:
    """What is fitted on calibration tracks, and the population's shares.

    Attributes
    ----------
    standing, moving
        Redundancy of two reports from one place if the terminal stands, and if it moves: from 0
        (each is news) to 1 (two say what one does).
    decay_m
        Distance [m] over which the redundancy of a moving terminal's reports falls by e.
    shares
        Of terminals that stand, walk and drive.
    format
        Version of these fields.

    Raises
    ------
    ModelError
        If a value is out of its range.
    """

    standing: float = 0.5
    moving: float = 0.5
    decay_m: float = 13.0
    shares: tuple[float, float, float] = (0.4, 0.4, 0.2)
    format: int = FORMAT

    def __post_init__(self) -> None:
        sound = {
            "format": self.format == FORMAT,
            "standing": 0 <= self.standing <= 1,
            "moving": 0 <= self.moving <= 1,
            "decay_m": self.decay_m > 0,
            "shares": len(self.shares) == 3
            and min(self.shares) >= 0
            and abs(sum(self.shares) - 1) < 1e-6,
        }
        wrong = [name for name, right in sound.items() if not right]
        if wrong:
            raise ModelError(
                f"parameters of tracks have unusable {', '.join(wrong)}",
                remedy="Materialize calibration again.",
            )

    @classmethod
    def of(cls, settings: TracksConfig) -> "TrackParameters":
        """Those of a population before they are fitted."""
        walking = settings.pedestrian_share
        driving = max(1.0 - settings.static_share - walking, 0.0)
        return cls(shares=(settings.static_share, walking, driving))

    def exponents(self, times_s: Array) -> list[Array]:
        """Exponents of the evidence of reports at times [s] under each of `motions`, (report,)."""
        gap_s, found = np.abs(times_s[:, None] - times_s), []
        for motion in motions():
            speed_m_s = float(np.dot(motion.speed_m_s, motion.weight))
            largest = self.moving if speed_m_s > 0 else self.standing
            redundancy = largest * np.exp(-gap_s * speed_m_s / self.decay_m)
            np.fill_diagonal(redundancy, 0.0)
            found.append(1.0 / (1.0 + redundancy.sum(axis=1)))
        return found


@dataclass(frozen=True)
class TrackFilter:
    """Posterior of a track's last place from the posteriors of its reports.

    Attributes
    ----------
    parameters
        What is fitted.
    """

    parameters: TrackParameters = TrackParameters()

    def posterior(
        self,
        rasters: Sequence[Mass],
        frames: Sequence[Window],
        times_s: Sequence[float],
        outdoor: Outdoor,
        outside_m2: Sequence[float],
    ) -> tuple[Array, float]:
        """Mass of each grid cell of the last frame, shape (rows, columns), and beyond it.

        Parameters
        ----------
        rasters, frames, times_s, outdoor, outside_m2
            As of `TrackRasters`; the last report is located.

        Raises
        ------
        ReportError
            If they are not as many, a raster has another shape than its frame, or times fall.
        """
        track = TrackRasters(rasters, frames, times_s, outside_m2, outdoor)
        if len(track) == 1:
            mass = np.asarray(rasters[0], dtype=np.float64)
            return mass, max(1.0 - float(mass.sum()), 0.0)
        return _posterior(self.parameters, TrackEvidence(track))

    def nll_nats(
        self, tracks: Sequence[TrackRasters], truth_m: Sequence[tuple[float, float]]
    ) -> Array:
        """Negative log-density [nats, 1/m2] at the true last places of tracks, (track,)."""
        return _nll(self.parameters, [TrackEvidence(track) for track in tracks], truth_m)

    @classmethod
    def fit(
        cls,
        tracks: Sequence[TrackRasters],
        truth_m: Sequence[tuple[float, float]],
        settings: TracksConfig,
    ) -> "TrackFilter":
        """The filter of least NLL at the true last places.

        Parameters
        ----------
        tracks
            Calibration tracks of two reports or more.
        truth_m
            True positions (x, y) of the last reports [m].
        settings
            Shares of the population.

        Raises
        ------
        ModelError
            If there is no track, or one has one report: that tells nothing.
        """
        if not tracks or min(len(track) for track in tracks) < 2:
            raise ModelError(
                "the filter of tracks is fitted to tracks of two reports or more",
                where="measurements.tracks",
                remedy="Raise reports_per_track, or name more calibration tiles.",
            )
        prepared = [TrackEvidence(track) for track in tracks]

        def parameters(found: Array) -> TrackParameters:
            standing, moving = (float(v) for v in 1 / (1 + np.exp(-found[:2])))
            whole = TrackParameters.of(settings)
            return replace(whole, standing=standing, moving=moving, decay_m=float(np.exp(found[2])))

        def loss(found: Array) -> float:
            nll = _nll(parameters(found), prepared, truth_m)
            prior = ((found - _START) ** 2).sum() / (2 * _PRIOR_SD**2)
            return float(nll.sum() + prior) / len(tracks)

        simplex = np.array(_START) + np.vstack([np.zeros(3), _FIRST_STEP * np.eye(3)])
        reached = {"initial_simplex": simplex, "maxfev": _EVALUATIONS, "fatol": 1e-3, "xatol": 0.05}
        return cls(parameters(minimize(loss, _START, method="Nelder-Mead", options=reached).x))

    def save(self, folder: Path) -> None:
        """Write ``tracking.json`` into a folder."""
        save_fields(self.parameters, folder / _FILE)

    @classmethod
    def load(cls, folder: Path) -> "TrackFilter":
        """Read ``tracking.json`` of a folder.

        Raises
        ------
        StoreError
            If it is missing or has other fields.
        """
        path = folder / _FILE
        return cls(load_fields(TrackParameters, path, "parameters of tracks", "calibration"))


def _posterior(own: TrackParameters, track: TrackEvidence) -> tuple[Array, float]:
    return track.posterior(own.shares, own.exponents(track.times_s))


def _nll(
    own: TrackParameters,
    tracks: Sequence[TrackEvidence],
    truth_m: Sequence[tuple[float, float]],
) -> Array:
    """Negative log-density [nats, 1/m2] at the true last places, shape (track,)."""
    found = []
    for track, truth in zip(tracks, truth_m, strict=True):
        mass, _ = _posterior(own, track)
        found.append(nll_nats(mass, track.frame, track.outside_m2, truth))
    return np.array(found)
