"""When refinement acts, learned on calibration tiles, and how often it helped and hurt.

A rule is a temperature of the maps' likelihood, a spread from which a posterior counts as unsure,
and a gain of the joint objective that a move needs. Of a grid of rules the one with the least mean
error on the calibration reports is taken, among those that on every other report

- leave the share of fixes that get worse by more than 1 m under 5%, by the upper end of a
  one-sided 90% confidence interval (Clopper and Pearson 1934), so that few reports never do;
- lower the mean error by more than twice the standard error of the change: the best of many
  rules looks good by chance;
- gain at least 5% at the median of the fixes that they move.

and on the rest lower the mean error, gain as much at the median and keep the share under 5%: a
rule that acts on few looks good by chance. If there is none, refinement never acts, and the rule
says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import beta
from torch import Tensor

from ueloc_core.errors import ReportError
from ueloc_core.json_files import load_fields, save_fields

Array = NDArray[np.float64]

RULE_VERSION = "2"
"""Of how a rule is chosen."""

TEMPERATURES = (0.0, 0.1, 0.3, 0.6, 1.0)
WORSE_M = 1.0
"""A fix counts as helped or hurt where its error changes by more than this [m]."""

_WORSE_SHARE = 0.05
_CONFIDENCE = 0.9
_LEAST_MEDIAN_GAIN = 0.05
_STANDARD_ERRORS = 2.0
WIDEST_SHARE = 0.6
"""Of the fixes, by falling spread, may be moved at most."""

_WIDE_SHARES = (WIDEST_SHARE, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05)
_GAINS_NATS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
_FILE = "refinement.json"


@dataclass(frozen=True)
class RefinementRule:
    """When a point is moved.

    Attributes
    ----------
    acts
        Whether at all.
    temperature
        Weight of the maps' likelihood beside the posterior.
    spread_m
        Least spread of the posterior (RMS distance from its mean) [m].
    gain_nats
        Least gain of the joint objective [nats].
    note
        What the rule was chosen by, or why it never acts.
    """

    acts: bool
    temperature: float
    spread_m: float
    gain_nats: float
    note: str

    @classmethod
    def never(cls, note: str = "not fitted") -> "RefinementRule":
        """No fix is moved."""
        return cls(acts=False, temperature=0.0, spread_m=0.0, gain_nats=0.0, note=note)

    def save(self, folder: Path) -> None:
        """Write ``refinement.json`` into a folder."""
        save_fields(self, folder / _FILE)

    @classmethod
    def load(cls, folder: Path) -> "RefinementRule":
        """Read ``refinement.json`` of a folder.

        Raises
        ------
        StoreError
            If it is missing or has other fields.
        """
        return load_fields(cls, folder / _FILE, "rules of refinement", "calibration")


@dataclass(frozen=True)
class RefinementOutcome:
    """How often refinement helped and hurt.

    Attributes
    ----------
    fixes
        How many were judged.
    acted_share, helped_share, worse_share
        Share of all fixes that were moved, that got better, and worse, by more than 1 m.
    worse_share_acted
        Share that got worse by more than 1 m among the moved ones, 0 where none was.
    median_gain
        Median over the moved fixes of the part of its error that each lost; 0 where none was.
    mean_before_m, mean_after_m
        Mean error of all fixes [m].
    gain_error_m
        Standard error of the mean change [m].
    """

    fixes: int
    acted_share: float
    helped_share: float
    worse_share: float
    worse_share_acted: float
    median_gain: float
    mean_before_m: float
    mean_after_m: float
    gain_error_m: float

    @classmethod
    def of(cls, acted: NDArray[np.bool_], before_m: Array, after_m: Array) -> "RefinementOutcome":
        """Outcome of n fixes by their errors with and without refinement [m]."""
        change = np.where(acted, before_m - after_m, 0.0)
        count = len(acted)
        own = change[acted] / np.maximum(before_m[acted], 1e-9)
        worse = int((change < -WORSE_M).sum())
        return cls(
            fixes=count,
            acted_share=float(acted.mean()),
            helped_share=float((change > WORSE_M).mean()),
            worse_share=worse / count,
            worse_share_acted=worse / max(int(acted.sum()), 1),
            median_gain=float(np.median(own)) if len(own) else 0.0,
            mean_before_m=float(before_m.mean()),
            mean_after_m=float((before_m - change).mean()),
            gain_error_m=float(change.std(ddof=1) / np.sqrt(count)) if count > 1 else float("inf"),
        )

    @property
    def qualifies(self) -> bool:
        """Whether a rule may be chosen for this outcome, by what is sure of it."""
        worse = round(self.worse_share * self.fixes)
        bound = float(beta.ppf(_CONFIDENCE, worse + 1, self.fixes - worse))
        gain_m = self.mean_before_m - self.mean_after_m
        sure = bound <= _WORSE_SHARE and gain_m > _STANDARD_ERRORS * self.gain_error_m
        return sure and self.holds

    @property
    def holds(self) -> bool:
        """Whether the outcome is what a rule is meant to have."""
        return (
            self.worse_share <= _WORSE_SHARE
            and self.mean_after_m < self.mean_before_m
            and self.median_gain >= _LEAST_MEDIAN_GAIN
        )


@dataclass(frozen=True)
class RefinedFixes:
    """Points of n fixes in their windows' frames, and what refinement did to them.

    Attributes
    ----------
    point_m, unrefined_m
        Points with and without refinement [m], shape (n, 2).
    acted
        Whether the point was moved, shape (n,).
    moved_m
        How far [m], 0 where not, shape (n,).
    gain_nats
        Gain of the joint objective that the best place offers over the unrefined point [nats],
        taken or not; 0 where it was not looked for, shape (n,).
    spread_m
        Root mean square distance of the posterior from its mean [m], shape (n,).
    """

    point_m: Tensor
    unrefined_m: Tensor
    acted: Tensor
    moved_m: Tensor
    gain_nats: Tensor
    spread_m: Tensor

    def __len__(self) -> int:
        return len(self.point_m)

    @classmethod
    def unmoved(cls, point_m: Tensor, spread_m: Tensor) -> "RefinedFixes":
        """Fixes that nothing was done to."""
        zero = torch.zeros(len(point_m))
        return cls(point_m, point_m, zero > 0, zero, zero, spread_m)

    @classmethod
    def cat(cls, parts: Sequence["RefinedFixes"]) -> "RefinedFixes":
        """The fixes of several batches, one after the other."""
        return cls(*(torch.cat([vars(p)[name] for p in parts]) for name in vars(parts[0])))

    def __getitem__(self, chosen: slice) -> "RefinedFixes":
        """Some of the fixes."""
        return RefinedFixes(*(value[chosen] for value in vars(self).values()))

    def where(self, taken: Tensor) -> "RefinedFixes":
        """The same with the points kept that are taken, shape (n,), and unmoved ones elsewhere."""
        point = torch.where(taken[:, None], self.point_m, self.unrefined_m)
        moved = (point - self.unrefined_m).norm(dim=1)
        return RefinedFixes(point, self.unrefined_m, taken, moved, self.gain_nats, self.spread_m)

    def under(self, rule: RefinementRule) -> "RefinedFixes":
        """The same with only those points moved that a rule moves."""
        if not rule.acts:
            return self.where(torch.zeros_like(self.acted))
        unsure = self.spread_m >= rule.spread_m
        return self.where(self.acted & unsure & (self.gain_nats >= rule.gain_nats))

    def outcome(self, truth_m: Tensor) -> RefinementOutcome:
        """How often it helped and hurt, given the true positions [m], shape (n, 2)."""
        before, after = (
            (p - truth_m).norm(dim=1).double().numpy() for p in (self.unrefined_m, self.point_m)
        )
        return RefinementOutcome.of(self.acted.numpy(), before, after)


@dataclass(frozen=True)
class RefinementTrial:
    """Refinement at one temperature of all fixes whose posterior is wide, as a rule's raw matter.

    Attributes
    ----------
    temperature
        Weight of the maps' likelihood.
    fixes
        All that gained anything are moved.
    truth_m
        True positions [m], shape (n, 2).
    """

    temperature: float
    fixes: RefinedFixes
    truth_m: Tensor


def fit_rule(trials: Sequence[RefinementTrial]) -> RefinementRule:
    """The rule of least mean error among those that qualify; one that never acts if none does.

    On every other report it must surely do what it is meant to do, and do it on the rest as well.

    Parameters
    ----------
    trials
        One for each temperature, of the same reports.

    Raises
    ------
    ReportError
        If there are no reports, or positions are unknown.
    """
    if not trials or not len(trials[0].fixes) or bool(trials[0].truth_m.isnan().any()):
        raise ReportError(
            "refinement needs calibration reports with known positions",
            where="splits.calibration",
            remedy="Name tiles whose sectors serve terminals.",
        )
    best: tuple[float, RefinementRule] | None = None
    count = 0
    half, rest = slice(0, None, 2), slice(1, None, 2)
    for trial in trials:
        spread = trial.fixes.spread_m.double().numpy()
        for share in _WIDE_SHARES:
            for gain in _GAINS_NATS:
                count += 1
                rule = RefinementRule(
                    acts=True,
                    temperature=trial.temperature,
                    spread_m=float(np.quantile(spread, 1 - share)),
                    gain_nats=gain,
                    note="",
                )
                moved = trial.fixes.under(rule)
                found = moved.outcome(trial.truth_m)
                if best is not None and found.mean_after_m >= best[0]:
                    continue
                sure, other = (moved[k].outcome(trial.truth_m[k]) for k in (half, rest))
                if sure.qualifies and other.holds:
                    best = found.mean_after_m, replace(rule, note=_told(found))
    if best is None:
        return RefinementRule.never(
            f"none of {count} rules qualified on {len(trials[0].fixes)} calibration reports"
        )
    return best[1]


def _told(found: RefinementOutcome) -> str:
    return (
        f"on {found.fixes} calibration reports: acted on {found.acted_share:.1%}, mean error "
        f"{found.mean_before_m:.1f} to {found.mean_after_m:.1f} m, worse by more than "
        f"{WORSE_M:g} m in {found.worse_share:.1%}, median gain {found.median_gain:.0%}"
    )


__all__ = [
    "RULE_VERSION",
    "TEMPERATURES",
    "WIDEST_SHARE",
    "RefinedFixes",
    "RefinementOutcome",
    "RefinementRule",
    "RefinementTrial",
    "fit_rule",
]
