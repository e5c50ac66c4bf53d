"""What is drawn for a building, a site and a sector: from the city's seed and a name alone.

Every number is drawn whatever the amounts are, so a level scales the errors of another.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

CAP = 3.0
"""No place is off by more than this many standard deviations along an axis."""

_TAIL = float(ndtr(-CAP))
_DENSITY = np.exp(-(CAP**2) / 2) / np.sqrt(2 * np.pi)
_CAPPED_SD = float(np.sqrt(1 - 2 * CAP * _DENSITY / (1 - 2 * _TAIL)))

_LOG_SD = np.linspace(0.0, 2.0, 4001)
_ERROR = np.sqrt(np.exp(2 * _LOG_SD**2) - 2 * np.exp(_LOG_SD**2 / 2) + 1)


@dataclass(frozen=True)
class BuildingDraw:
    """Numbers of one building.

    Attributes
    ----------
    height
        Standard normal.
    missing
        Uniform in 0..1; below the share, the world lacks the building.
    shift
        Two normals (east, north) of variance 1, cut off at `CAP`.
    material
        Uniforms in 0..1, shape (2, 2): for walls and roof whether and into what they change.
    """

    height: float
    missing: float
    shift: NDArray[np.float64]
    material: NDArray[np.float64]


def stream(seed: int, *names: object) -> np.random.Generator:
    """Random numbers of their own for a seed and names."""
    text = "/".join(str(name) for name in (seed, "world", *names))
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def capped_normals(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Normals of variance 1, cut off at `CAP` standard deviations, shape (count,)."""
    return np.asarray(ndtri(rng.uniform(_TAIL, 1 - _TAIL, count)) / _CAPPED_SD)


def building_draw(seed: int, building_id: str) -> BuildingDraw:
    """What is drawn for a building and all its parts."""
    rng = stream(seed, "building", building_id)
    return BuildingDraw(
        float(rng.standard_normal()),
        float(rng.random()),
        capped_normals(rng, 2),
        rng.random((2, 2)),
    )


def height_factor(error: Any, normal: Any) -> Any:
    """Factor on a height, log-normal of median 1.

    Parameters
    ----------
    error
        Root mean square of (factor - 1).
    normal
        Standard normal that is drawn.

    Notes
    -----
    For a factor exp(s z), E[(factor - 1)^2] = exp(2 s^2) - 2 exp(s^2 / 2) + 1, which is solved
    for s. A height therefore stays positive whatever its error.
    """
    return np.exp(np.interp(error, _ERROR, _LOG_SD) * normal)
