"""The variants of the ablations: what is changed in each, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from pydantic import ValidationError

from ueloc_core.city import City
from ueloc_core.city_sections import TrainingConfig
from ueloc_core.errors import CityError
from ueloc_core.measurement.scenarios import FEATURES

REFERENCE = "full"
Refinement = Literal["never", "by_rule", "always"]

LEVELS = ("rsrp",)
LEVELS_AND_MAC = ("rsrp", "rsrq", "sinr", "ta", "throughput", "bler")
LEVELS_AND_PHY = ("rsrp", "cqi", "ri", "beams", "ul_sinr", "ta", "ta_offset", "aoa")
"""The timing advance is a field of both layers: FAPI's RACH indication has it too."""


@dataclass(frozen=True)
class Variant:
    """A network with something changed.

    Attributes
    ----------
    name, title, group
        Its name, what figures call it, and what it is compared as.
    training
        Keys of the training section that differ from the city's.
    features
        What reports hold in training and test (`scenarios.FEATURES`).
    refinement
        Whether points are refined on the maps: ``never``, ``by_rule`` (where a rule says so that
        was learned on the calibration reports) or ``always``. What is refined are the points of
        the whole network, which is not trained again.
    trained
        Whether the network is trained at all; it starts as Bayes' rule on coarse tables.
    """

    name: str
    title: str
    group: str
    training: Mapping[str, Any] = field(default_factory=dict)
    features: tuple[str, ...] = FEATURES
    refinement: Refinement = "never"
    trained: bool = True

    @property
    def oracle(self) -> str:
        """Name of the oracle that is told the same fields."""
        return ORACLES[self.features]

    @property
    def changes(self) -> dict[str, Any]:
        """What is changed, as JSON values; nothing for the whole network."""
        found: dict[str, Any] = {f"training.{key}": value for key, value in self.training.items()}
        if self.features != FEATURES:
            found["features"] = list(self.features)
        if self.refinement != "never":
            found["refinement"] = self.refinement
        if not self.trained:
            found["trained"] = False
        return found


ORACLES = {
    FEATURES: "oracle",
    LEVELS: "oracle_levels",
    LEVELS_AND_MAC: "oracle_levels_and_mac",
    LEVELS_AND_PHY: "oracle_levels_and_phy",
}
"""Name of the oracle by the fields that it is told."""

_MAPS, _LOSS, _REPORTS = "What it sees of the maps", "Loss and posterior", "Fields of the reports"
_POINT = "Point estimate"

VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        v.name: v
        for v in (
            Variant(REFERENCE, "Whole network", "Reference"),
            Variant("no_residuals", "No residual maps", _MAPS, {"inputs": "no_residuals"}),
            # the physics term would teach it the maps
            Variant("no_maps", "No map", _MAPS, {"inputs": "no_maps", "physics_weight": 0.0}),
            Variant("untrained", "Not trained", _LOSS, trained=False),
            Variant("no_physics", "No physics loss", _LOSS, {"physics_weight": 0.0}),
            Variant("no_coarse", "No coarse loss", _LOSS, {"coarse_weight": 0.0}),
            Variant("no_fine", "No fine loss", _LOSS, {"fine_weight": 0.0}),
            Variant("single_component", "Single component", _LOSS, {"components": 1}),
            Variant("levels_only", "Levels alone", _REPORTS, features=LEVELS),
            Variant("levels_and_mac", "Levels and MAC", _REPORTS, features=LEVELS_AND_MAC),
            Variant("levels_and_phy", "Levels and PHY", _REPORTS, features=LEVELS_AND_PHY),
            Variant("refined", "Refined by the rule", _POINT, refinement="by_rule"),
            Variant("refined_always", "Refined always", _POINT, refinement="always"),
        )
    }
)
"""The variants by name, the whole network first, in the order of tables and figures."""


def variants_of(city: City) -> tuple[Variant, ...]:
    """The whole network, and the variants that a city's file names."""
    return tuple(
        v for v in VARIANTS.values() if v.name == REFERENCE or v.name in city.ablations.variants
    )


def with_budget(city: City, variant: Variant) -> City:
    """The city with the training of a variant, and the test of all of them.

    Raises
    ------
    CityError
        If the city's own loss leaves a variant nothing to learn from.
    """
    config = city.ablations
    budget = {"epochs": config.epochs, "reports_per_epoch": config.reports_per_epoch}
    changed = city.training.model_dump() | budget | dict(variant.training)
    try:
        training = TrainingConfig.model_validate(changed)
    except ValidationError as error:
        raise CityError(
            f"'{variant.name}' cannot be trained: {error.errors()[0]['msg']}",
            where=f"{city.name}: ablations.variants",
            remedy=f"Leave '{variant.name}' out.",
        ) from None
    evaluation = city.evaluation.model_copy(update={"max_reports": config.max_reports})
    return city.model_copy(update={"training": training, "evaluation": evaluation})
