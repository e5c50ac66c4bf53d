"""What calibration tiles teach: corrections of a posterior, per report, from what a locator sees.

Three corrections follow from a few features of a fix, never from the truth. A temperature divides
the logarithm of the blocks' masses, a scale multiplies the components' covariances, and the mass
that a region of a nominal level needs is bent: a region of mass u counts as one of mass
1 - (1 - u)^(1 / b). The bend b is one where reports of equal features are as well covered as all
are together. For a Gaussian whose variance is b times too small it is exact, because 1 - u then
is the exponential of half the squared distance. The curve of conformal levels is common to all.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ueloc_core.errors import ModelError
from ueloc_core.json_files import load_fields, save_fields
from ueloc_core.localization.block_grid import take
from ueloc_core.localization.posterior import Posterior
from ueloc_core.localization.windows import WindowBatch
from ueloc_core.measurement.reports import MISSING

FEATURES = ("heard", "entropy_nats", "level_dbm", "told", "line_of_sight")
"""Number of sectors heard; entropy of the uncorrected posterior over square metres [nats]; reported
level of the serving sector [dBm]; how many of timing advance, angle of arrival and beams are
reported; and the serving sector's mapped line of sight, averaged under the posterior."""

FORMAT = 3
_FILE = "calibration.json"
_FARTHEST = 3.0  # standard deviations: corrections are not extrapolated beyond
_LARGEST_LOG = 1.4  # of any correction: four times, where squares of far features add up
_HEARD, _ENTROPY = FEATURES.index("heard"), FEATURES.index("entropy_nats")
BEND_TERMS = len(FEATURES) + 3
_LEAST_MASS = 1e-12


@dataclass(frozen=True)
class Correction:
    """Corrections of n posteriors.

    Attributes
    ----------
    temperature
        Divides the logarithm of the blocks' masses, shape (report,).
    covariance_scale
        Multiplies the components' covariances, shape (report,).
    bend
        How much faster than together the posterior mass of regions must grow, shape (report,).
    levels, adjusted
        As in `Calibration`.
    """

    temperature: Tensor
    covariance_scale: Tensor
    bend: NDArray[np.float64]
    levels: tuple[float, ...] = ()
    adjusted: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.bend)

    def __getitem__(self, chosen: Any) -> "Correction":
        """Corrections of some reports, chosen by a slice, a mask or indices."""
        return Correction(
            self.temperature[chosen],
            self.covariance_scale[chosen],
            self.bend[chosen],
            self.levels,
            self.adjusted,
        )

    def of(self, raw: Posterior) -> Posterior:
        """The posteriors with their temperatures and covariances corrected."""
        return raw.calibrated(self.temperature, self.covariance_scale)

    def region_level(self, level: Any) -> NDArray[np.float64]:
        """Posterior mass that a region needs to hold the terminal with probability `level`.

        `level` is one number, or one a report; so is the result, shape (report,).
        """
        needed = np.interp(level, [0.0, *self.levels, 1.0], [0.0, *self.adjusted, 1.0])
        return bent(needed, self.bend)

    def nominal_level(self, mass: Any) -> NDArray[np.float64]:
        """Probability that a region of a posterior mass holds the terminal: the inverse."""
        straight = bent(np.asarray(mass, dtype=np.float64), 1 / self.bend)
        return np.asarray(np.interp(straight, [0.0, *self.adjusted, 1.0], [0.0, *self.levels, 1.0]))


@dataclass(frozen=True)
class Calibration:
    """What is learned on the calibration tiles.

    Attributes
    ----------
    temperature, covariance_scale
        Of a report whose features all are at their centre.
    levels, adjusted
        Nominal levels and the posterior mass whose densest region holds that share of the
        calibration terminals (split conformal), where the bend is one.
    temperature_slopes, covariance_slopes
        Change of the logarithm of either with each standardised feature; none for constants.
    bend_slopes
        Change of the bend's logarithm with each of `bend_terms`, or with the features alone; none
        for one level for all.
    centre, spread
        Mean and standard deviation of each feature, which standardise it.
    features
        Their names and order: `FEATURES`.
    format
        Version of these fields.
    """

    temperature: float = 1.0
    covariance_scale: float = 1.0
    levels: tuple[float, ...] = ()
    adjusted: tuple[float, ...] = ()
    temperature_slopes: tuple[float, ...] = ()
    covariance_slopes: tuple[float, ...] = ()
    bend_slopes: tuple[float, ...] = ()
    centre: tuple[float, ...] = (0.0,) * len(FEATURES)
    spread: tuple[float, ...] = (1.0,) * len(FEATURES)
    features: tuple[str, ...] = FEATURES
    format: int = FORMAT

    def __post_init__(self) -> None:
        slopes = (self.temperature_slopes, self.covariance_slopes)
        rises = all(
            (np.diff([0.0, *v, 1.0]) >= 0).all() for v in (np.array(self.levels), self.adjusted)
        )
        sound = {
            "format": self.format == FORMAT,
            "features": self.features == FEATURES,
            "temperature": self.temperature > 0 and self.covariance_scale > 0,
            "levels": rises and len(self.levels) == len(self.adjusted),
            "slopes": all(len(v) in (0, len(FEATURES)) for v in slopes),
            "bend_slopes": len(self.bend_slopes) in (0, len(FEATURES), BEND_TERMS),
            "centre": len(self.centre) == len(FEATURES),
            "spread": len(self.spread) == len(FEATURES) and min(self.spread) > 0,
        }
        wrong = [name for name, right in sound.items() if not right]
        if wrong:
            raise ModelError(
                f"a calibration has unusable {', '.join(wrong)}",
                remedy="Materialize calibration again.",
            )

    @property
    def is_constant(self) -> bool:
        """Whether all reports are corrected alike."""
        return not (self.temperature_slopes or self.covariance_slopes or self.bend_slopes)

    def of(self, features: Tensor) -> Correction:
        """Corrections of reports with features (report, feature), as `read_features` reads them.

        A feature that is missing (NaN) counts as being at its centre.

        Raises
        ------
        ModelError
            If there are more or fewer features than `FEATURES`.
        """
        standard = self.standardised(features)
        return Correction(
            (self.temperature * _factor(standard, self.temperature_slopes)).float(),
            (self.covariance_scale * _factor(standard, self.covariance_slopes)).float(),
            _factor(bend_terms(standard), self.bend_slopes).numpy(),
            self.levels,
            self.adjusted,
        )

    def standardised(self, features: Tensor) -> Tensor:
        """Features in standard deviations from their centre, at most three; 0 where missing."""
        if features.ndim != 2 or features.shape[1] != len(FEATURES):
            raise ModelError(
                f"features have shape {tuple(features.shape)}, not (report, {len(FEATURES)})",
                remedy=f"They are {', '.join(FEATURES)}.",
            )
        centre, spread = (torch.tensor(v, dtype=torch.float64) for v in (self.centre, self.spread))
        standard = (features.double() - centre) / spread
        return standard.nan_to_num(0.0).clamp(-_FARTHEST, _FARTHEST)

    def save(self, folder: Path) -> None:
        """Write ``calibration.json`` into a folder."""
        save_fields(self, folder / _FILE)

    @classmethod
    def load(cls, folder: Path) -> "Calibration":
        """Read ``calibration.json`` of a folder.

        Raises
        ------
        StoreError
            If it is missing or has other fields.
        """
        return load_fields(cls, folder / _FILE, "corrections of posteriors", "calibration")


def _factor(terms: Tensor, slopes: tuple[float, ...]) -> Tensor:
    """Exponential of what is linear in the first terms, exactly one without slopes, (report,)."""
    weights = torch.tensor(slopes, dtype=torch.float64)
    return (terms[:, : len(slopes)] @ weights).clamp(-_LARGEST_LOG, _LARGEST_LOG).exp()


def bend_terms(standard: Tensor) -> Tensor:
    """What the bend's logarithm is linear in, shape (report, `BEND_TERMS`).

    The standardised features, and the squares and the product of the sectors heard and of the
    entropy, because posteriors may fail at both ends of either.
    """
    heard, entropy = standard[:, _HEARD], standard[:, _ENTROPY]
    curved = torch.stack([heard**2 - 1, entropy**2 - 1, heard * entropy], dim=1)
    return torch.cat([standard, curved], dim=1)


def bent(mass: Any, bend: Any) -> NDArray[np.float64]:
    """1 - (1 - mass)^bend: a mass that grows `bend` times as fast; exactly itself for one."""
    return np.asarray(np.where(np.asarray(bend) == 1, mass, 1 - (1 - np.asarray(mass)) ** bend))


def read_features(batch: WindowBatch, raw: Posterior) -> Tensor:
    """Features of reports and their uncorrected posteriors, shape (report, feature).

    Raises
    ------
    RadioError
        If the maps have no line of sight.
    """
    reports = batch.reports
    there = [v != MISSING for v in (reports.ta, reports.aoa, reports.beam[:, 0])]
    by_name = {
        "heard": reports.heard.sum(dim=1),
        "entropy_nats": entropy_nats(raw),
        "level_dbm": reports.level_dbm[:, 0],
        "told": torch.stack(there).sum(dim=0),
        "line_of_sight": _sight(batch, raw),
    }
    return torch.stack([by_name[name].double() for name in FEATURES], dim=1)


def corrections(calibration: Calibration, batch: WindowBatch, raw: Posterior) -> Correction:
    """Corrections of posteriors; nothing is read where all are corrected alike."""
    if calibration.is_constant:
        return calibration.of(torch.full((len(batch), len(FEATURES)), torch.nan))
    return calibration.of(read_features(batch, raw))


def _sight(batch: WindowBatch, raw: Posterior) -> Tensor:
    """Share in sight of the serving sector in the middles of blocks, by their mass."""
    maps = batch.maps
    rows = maps.grid.rows(batch.reports.sector[:, :1], *batch.all_blocks())
    mass = raw.log_mass.flatten(1).exp()
    sight = (mass * take(maps.serving.block_sight, rows)).sum(dim=1)
    return sight / mass.sum(dim=1).clamp_min(_LEAST_MASS)


def entropy_nats(raw: Posterior) -> Tensor:
    """Entropy of posteriors over square metres, shape (report,).

    That of which part it is (a component, the outdoor ground of a block, or what is beyond the
    window), and within the parts: exact where components do not overlap.
    """
    log_mass = torch.cat([raw.log_mass.flatten(1), raw.log_outside[:, None]], dim=1).double()
    side = raw.log_mass.shape[-1]
    block = raw.outdoor.shape[-1] // side
    # counts in bytes, rows first: a few times as fast as a pooling
    cells = raw.outdoor.reshape(-1, side, block, side * block).sum(dim=2, dtype=torch.uint8)
    cells = cells.reshape(-1, side**2, block).sum(dim=2)
    within = (cells.clamp_min(1) * raw.cell_m**2).double().log()
    covariance = raw.covariance_m2.double()
    of_component = 0.5 * torch.linalg.det(covariance).log() + 1.0 + math.log(2 * math.pi)
    within = within.scatter(1, raw.top, of_component)
    within = torch.cat([within, raw.outside_m2.double().log()[:, None]], dim=1)
    found: Tensor = (log_mass.exp() * (within - log_mass)).sum(dim=1)
    return found
