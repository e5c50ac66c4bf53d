"""How far the world lies from the twin: levels, and what each of them changes by how much."""

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from pydantic import Field

from ueloc_core.city_sections import Section

Level = Literal["none", "survey", "osm", "bad"]


@dataclass(frozen=True)
class BuildingAmounts:
    """Differences of buildings; all zero where the world's are the twin's.

    Attributes
    ----------
    height_m
        Root mean square error of every height [m].
    height_sigma_share
        What is added to it in quadrature: this share of the standard deviation that the twin
        itself gives to the height (``height_sigma_m``; several metres where it is imputed).
    shift_m
        Root mean square distance that a building stands off its place [m].
    missing_share
        Share of the twin's buildings that the world lacks.
    extra_share
        Buildings that the twin lacks, for each one that it has, as far as there is open ground.
    material_share
        Share of walls, and of roofs, that are made of something else.
    """

    height_m: float = 0.0
    height_sigma_share: float = 0.0
    shift_m: float = 0.0
    missing_share: float = 0.0
    extra_share: float = 0.0
    material_share: float = 0.0


@dataclass(frozen=True)
class AntennaAmounts:
    """Differences of sites and sectors; all zero where the world's are the twin's.

    Attributes
    ----------
    position_m
        Root mean square distance of a mast from its stated place [m].
    antenna_height_m
        Root mean square error of the height of a site's antennas above roof or ground [m].
    azimuth_deg, downtilt_deg, power_db
        Standard deviations of a sector's boresight, mechanical tilt and transmit power.
    """

    position_m: float = 0.0
    antenna_height_m: float = 0.0
    azimuth_deg: float = 0.0
    downtilt_deg: float = 0.0
    power_db: float = 0.0


LEVELS: dict[Level, tuple[BuildingAmounts, AntennaAmounts]] = {
    "none": (BuildingAmounts(), AntennaAmounts()),
    "survey": (
        BuildingAmounts(0.5, 0.0, 0.3, 0.0, 0.0, 0.05),
        AntennaAmounts(0.3, 0.2, 1.0, 0.3, 0.5),
    ),
    "osm": (
        BuildingAmounts(0.0, 1.0, 1.0, 0.025, 0.025, 0.2),
        AntennaAmounts(1.5, 0.5, 5.0, 1.0, 1.5),
    ),
    "bad": (
        BuildingAmounts(2.0, 1.5, 3.0, 0.08, 0.08, 0.4),
        AntennaAmounts(5.0, 1.5, 12.0, 3.0, 3.0),
    ),
}
"""What the levels change.

``survey`` is a twin made for the purpose: heights and footprints as accurate as a model of level
of detail 3 (OGC 12-019, CityGML 2.0: 0.5 m), antennas measured on the roof. ``osm`` is a twin of
OpenStreetMap: its heights are as uncertain as the extract's own measure says, imputed ones by
several metres (docs/scenes.md); power lies within the 2 dB of TS 38.104, 6.2. ``bad`` is an old
map and an operator's old records. Shifts, shares, and errors of antennas are assumptions.
"""

CUSTOM = "custom"
"""Name of amounts that are no level's."""

_Metres = Annotated[float, Field(ge=0, le=20)]
_Degrees = Annotated[float, Field(ge=0, le=60)]
_Share = Annotated[float, Field(ge=0, le=1)]


class WorldConfig(Section):
    """How far the world lies from the twin (docs/world.md).

    ``level`` chooses all amounts (`LEVELS`); any of the others, where it is given, takes the
    place of the level's own.
    """

    level: Level = "none"
    height_m: _Metres | None = None
    height_sigma_share: Annotated[float, Field(ge=0, le=3)] | None = None
    shift_m: Annotated[float, Field(ge=0, le=10)] | None = None
    missing_share: _Share | None = None
    extra_share: _Share | None = None
    material_share: _Share | None = None
    position_m: _Metres | None = None
    antenna_height_m: _Metres | None = None
    azimuth_deg: _Degrees | None = None
    downtilt_deg: Annotated[float, Field(ge=0, le=20)] | None = None
    power_db: Annotated[float, Field(ge=0, le=20)] | None = None

    @property
    def buildings(self) -> BuildingAmounts:
        """Amounts for buildings."""
        level = LEVELS[self.level][0]
        return BuildingAmounts(**_replaced(level, self))

    @property
    def antennas(self) -> AntennaAmounts:
        """Amounts for sites and sectors."""
        level = LEVELS[self.level][1]
        return AntennaAmounts(**_replaced(level, self))

    @property
    def mismatch(self) -> str:
        """The level whose amounts these are, ``custom`` where they are those of none."""
        amounts = (self.buildings, self.antennas)
        return next((name for name, own in LEVELS.items() if own == amounts), CUSTOM)


def _replaced(level: BuildingAmounts | AntennaAmounts, config: WorldConfig) -> dict[str, Any]:
    names = [field.name for field in fields(level)]
    given = {name: getattr(config, name) for name in names}
    return {name: getattr(level, name) if value is None else value for name, value in given.items()}
