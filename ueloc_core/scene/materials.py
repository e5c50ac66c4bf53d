"""Radio materials of walls, roofs and ground: ITU-R P.2040 and, for water, ITU-R P.527."""

import math
from dataclasses import dataclass

from ueloc_core.errors import SceneError
from ueloc_core.units import VACUUM_PERMITTIVITY_F_PER_M

SEA_SALINITY_G_PER_KG = 35.0
WATER_TEMPERATURE_C = 15.0


@dataclass(frozen=True)
class Material:
    """A radio material as Sionna RT takes it.

    Attributes
    ----------
    name
        Name in the scene.
    thickness_m
        Thickness of the slab [m].
    itu_name
        Class of ITU-R P.2040-4, table 3; empty where the two values below stand instead.
    relative_permittivity
        Real part.
    conductivity_s_per_m
        Conductivity [S/m].
    """

    name: str
    thickness_m: float
    itu_name: str = ""
    relative_permittivity: float = 1.0
    conductivity_s_per_m: float = 0.0


@dataclass(frozen=True)
class _Class:
    """A class of ITU-R P.2040, where it is defined [GHz], and what stands for it above that."""

    itu_name: str
    thickness_m: float
    lowest_ghz: float
    highest_ghz: float
    substitute: str = "concrete"


CATALOGUE = {
    "concrete": _Class("concrete", 0.3, 1.0, 100.0),
    "brick": _Class("brick", 0.25, 1.0, 40.0),
    "glass": _Class("glass", 0.01, 0.1, 100.0),
    "wood": _Class("wood", 0.05, 0.001, 100.0),
    "metal": _Class("metal", 0.01, 1.0, 100.0),
    "marble": _Class("marble", 0.3, 1.0, 60.0),
    "dry_ground": _Class("medium_dry_ground", 2.0, 1.0, 10.0),
    "wet_ground": _Class("wet_ground", 2.0, 1.0, 10.0),
    "paved": _Class("asphalt_concrete", 0.5, 1.0, 40.0),
}
_SALINITY = {"water": 0.0, "sea": SEA_SALINITY_G_PER_KG}
_WATER_DEPTH_M = 2.0


def material_at(name: str, frequency_hz: float) -> Material:
    """The material of a name at a frequency.

    Parameters
    ----------
    name
        Key of `CATALOGUE`, ``water`` or ``sea``.
    frequency_hz
        Carrier frequency [Hz].

    Returns
    -------
    The material; above the highest frequency of its class, the class that stands for it.

    Raises
    ------
    SceneError
        Below the lowest frequency for which ITU-R P.2040 defines it.
    """
    if name in _SALINITY:
        epsilon, sigma = water_properties(frequency_hz, salinity_g_per_kg=_SALINITY[name])
        return Material(name, _WATER_DEPTH_M, "", round(epsilon, 4), round(sigma, 5))
    found = CATALOGUE[name]
    frequency_ghz = frequency_hz / 1e9
    if frequency_ghz > found.highest_ghz:
        found = CATALOGUE[found.substitute]
    if not found.lowest_ghz <= frequency_ghz <= found.highest_ghz:
        raise SceneError(
            f"ITU-R P.2040 does not define {found.itu_name} at {frequency_ghz:g} GHz",
            where="radio.frequency_ghz",
            remedy=f"Choose {found.lowest_ghz:g} to {found.highest_ghz:g} GHz.",
        )
    return Material(name, found.thickness_m, found.itu_name)


def water_properties(
    frequency_hz: float,
    *,
    salinity_g_per_kg: float = 0.0,
    temperature_c: float = WATER_TEMPERATURE_C,
) -> tuple[float, float]:
    """Relative permittivity (real part) and conductivity [S/m] of water.

    Parameters
    ----------
    frequency_hz
        Frequency [Hz], up to 100 GHz.
    salinity_g_per_kg
        0 for fresh water, 35 for the sea.
    temperature_c
        Temperature [degrees Celsius].

    Notes
    -----
    Double-Debye model of pure water of ITU-R P.527 (section 5.1.1, equations 12 to 20). Salt
    adds the ionic conductivity at 35 g/kg (about 4.3 S/m at 15 degrees; P.527, figure of sea
    water), in proportion to the salinity, and lowers the static permittivity by 0.25 for each
    g/kg; so the sea's permittivity is right within a few per cent only.
    """
    frequency_ghz = frequency_hz / 1e9
    theta = 300.0 / (temperature_c + 273.15) - 1.0
    static = 77.66 + 103.3 * theta
    middle, high = 0.0671 * static, 3.52 - 7.52 * theta
    first_ghz = 20.20 - 146.4 * theta + 316.0 * theta**2
    second_ghz = 39.8 * first_ghz
    static -= 0.25 * salinity_g_per_kg
    one, two = frequency_ghz / first_ghz, frequency_ghz / second_ghz
    real = (static - middle) / (1 + one**2) + (middle - high) / (1 + two**2) + high
    loss = one * (static - middle) / (1 + one**2) + two * (middle - high) / (1 + two**2)
    ionic = 4.3 / 35.0 * salinity_g_per_kg * (1 + 0.02 * (temperature_c - 15.0))
    polar = 2 * math.pi * frequency_hz * VACUUM_PERMITTIVITY_F_PER_M * loss
    return real, polar + ionic
