"""ITU-R P.2040 materials of walls and ground, and where the recommendation defines them."""

from dataclasses import dataclass

from ueloc_core.errors import SceneError

GROUND = "ground"


@dataclass(frozen=True)
class Material:
    """A material of ITU-R P.2040-4, table 3.

    Attributes
    ----------
    itu_name
        Its name in Sionna RT.
    thickness_m
        Thickness of the slab [m].
    lowest_ghz, highest_ghz
        Where the table gives its permittivity and conductivity [GHz].
    substitute
        What is taken above the highest frequency.
    """

    itu_name: str
    thickness_m: float
    lowest_ghz: float
    highest_ghz: float
    substitute: str = "concrete"


CATALOGUE = {
    "concrete": Material("concrete", 0.3, 1.0, 100.0),
    "brick": Material("brick", 0.25, 1.0, 40.0),
    "glass": Material("glass", 0.01, 0.1, 100.0),
    "wood": Material("wood", 0.05, 0.001, 100.0),
    "metal": Material("metal", 0.01, 1.0, 100.0),
    "marble": Material("marble", 0.3, 1.0, 60.0),
    GROUND: Material("medium_dry_ground", 2.0, 1.0, 10.0),
}


def material_at(name: str, frequency_hz: float) -> Material:
    """The material of a name, or what stands for it beyond its highest frequency.

    Parameters
    ----------
    name
        Key of `CATALOGUE`.
    frequency_hz
        Carrier frequency [Hz].

    Raises
    ------
    SceneError
        Below the lowest frequency for which ITU-R P.2040 defines it.
    """
    material = CATALOGUE[name]
    frequency_ghz = frequency_hz / 1e9
    if frequency_ghz > material.highest_ghz:
        material = CATALOGUE[material.substitute]
    if not material.lowest_ghz <= frequency_ghz <= material.highest_ghz:
        raise SceneError(
            f"ITU-R P.2040 does not define {material.itu_name} at {frequency_ghz:g} GHz",
            where="radio.frequency_ghz",
            remedy=f"Choose {material.lowest_ghz:g} to {material.highest_ghz:g} GHz.",
        )
    return material
