"""Which fields terminals report: the feature scenarios, from an LTE subset to everything.

A scenario is a property of a terminal and its network. A field that a scenario lacks is missing
in all of its reports; one that it has can still be lost in some.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from ueloc_core.errors import ReportError

FEATURES = (
    "rsrp", "rsrq", "sinr", "cqi", "ri", "beams", "ul_sinr", "ta", "ta_offset", "aoa",
    "throughput", "bler",
)  # fmt: skip
"""Features a report can hold. Per slot: rsrp, rsrq, sinr; the others are the serving sector's."""

SCENARIOS = ("lte_legacy", "nr_rsrp_only", "nr_rsrp_ta", "nr_beams", "full")
"""Names of the scenarios; a scenario's code in a data set is its place here."""

UNKNOWN_SCENARIO = -1
"""Scenario code of a report of which nobody says what its terminal reports."""

_NEIGHBOURS = 7  # the slots of a report but the serving sector's
_NEIGHBOURS_LTE = 4  # the fewest cells a frequency on which a terminal shall report: 36.133, 8.1.2


@dataclass(frozen=True)
class Scenario:
    """What the terminals of one scenario report.

    Attributes
    ----------
    name
        One of `SCENARIOS`.
    features
        The features reported, some of `FEATURES` in their order.
    max_neighbours
        Most sectors in one report beside the serving one.
    """

    name: str
    features: tuple[str, ...]
    max_neighbours: int

    def reports(self, feature: str) -> bool:
        """Whether a feature is among those reported.

        Raises
        ------
        ReportError
            If it is none of `FEATURES`.
        """
        if feature not in FEATURES:
            raise ReportError(
                f"{feature!r} is no feature of a report",
                where="measurement features",
                remedy=f"Use one of {', '.join(FEATURES)}.",
            )
        return feature in self.features


_NR_TIMED = ("rsrp", "rsrq", "sinr", "cqi", "ri", "ta")

SCENARIO: Mapping[str, Scenario] = MappingProxyType(
    {
        name: Scenario(name, tuple(f for f in FEATURES if f in features), neighbours)
        for name, features, neighbours in (
            ("lte_legacy", ("rsrp", "rsrq", "cqi", "ta"), _NEIGHBOURS_LTE),
            ("nr_rsrp_only", ("rsrp",), _NEIGHBOURS),
            ("nr_rsrp_ta", _NR_TIMED, _NEIGHBOURS),
            ("nr_beams", (*_NR_TIMED, "beams"), _NEIGHBOURS),
            ("full", FEATURES, _NEIGHBOURS),
        )
    }
)
"""The scenarios by name, in the order of `SCENARIOS`."""


def scenario(name: str) -> Scenario:
    """The scenario of a name.

    Raises
    ------
    ReportError
        If there is none.
    """
    if name not in SCENARIO:
        raise ReportError(
            f"there is no scenario {name!r}",
            where="measurement scenarios",
            remedy=f"Use one of {', '.join(SCENARIOS)}.",
        )
    return SCENARIO[name]


def features_of(name: str) -> tuple[str, ...]:
    """Features that the terminals of a scenario report.

    Raises
    ------
    ReportError
        If there is no such scenario.

    >>> features_of("lte_legacy")
    ('rsrp', 'rsrq', 'cqi', 'ta')
    """
    return scenario(name).features


def scenario_code(name: str) -> int:
    """Code of a scenario in a data set: its place in `SCENARIOS`.

    Raises
    ------
    ReportError
        If there is no such scenario.
    """
    return SCENARIOS.index(scenario(name).name)


def reported(feature: str) -> NDArray[np.bool_]:
    """Whether each scenario reports a feature, shape (scenario,): index it by scenario codes.

    Raises
    ------
    ReportError
        If the feature is none of `FEATURES`.

    >>> reported("ta").tolist()
    [True, False, True, True, True]
    """
    return np.array([s.reports(feature) for s in SCENARIO.values()])


def max_neighbours() -> NDArray[np.int64]:
    """Most neighbours in one report of each scenario, shape (scenario,).

    >>> max_neighbours().tolist()
    [4, 7, 7, 7, 7]
    """
    return np.array([s.max_neighbours for s in SCENARIO.values()])
