"""In which directions rays leave a mast: evenly over the ground they would meet in the open.

Walls are upright, so a reflection at them keeps a ray's slope: however often it is reflected, it
reaches the terminals' height after the same horizontal distance as in the open (its *unfolded*
distance). Rays that are spread evenly over the unfolded ground therefore cover every path to every
grid cell with the same density, where rays that are spread evenly over the sphere crowd below the
mast and waste half of themselves on the sky. Beyond the core radius the density falls with the
square of the distance, as the gain does, so that no ray weighs much more than others; beyond
`Launch.reach_m` no rays are sent. Where terminals stand higher than the mast's horizon allows
(hills), a band of rays rises to them, spread evenly over azimuth and slope.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ueloc_core.errors import RadioError
from ueloc_core.radio.ray_tracing.engine import drjit, sionna_rt

_TAIL = 2.0  # the unfolded distance reaches this multiple of the core radius
_BAND_SHARE = 0.25
_LEAST_DROP_M = 2.0  # a mast at the terminals' height still needs a cone of rays
_GOLDEN = 2_654_435_769  # 2^32 divided by the golden ratio: its multiples wrap evenly


@dataclass(frozen=True)
class RaySet:
    """Rays in independent batches, whose spread is the map's standard error.

    Attributes
    ----------
    rays
        Number of rays of all batches together.
    seed
        Moves the lattice of rays and the points of grid cells: another seed is an independent set.
    batches
        Independent parts, at least 2.
    points
        Points in each grid cell and batch that are looked at from the mast and over edges: a
        square number.

    Raises
    ------
    RadioError
        If a number is out of range.
    """

    rays: int
    seed: int
    batches: int = 4
    points: int = 4

    def __post_init__(self) -> None:
        if self.batches < 2:
            raise RadioError(
                f"batches = {self.batches}",
                where="ray set",
                remedy="The standard error needs two independent batches or more.",
            )
        if self.rays < self.batches:
            raise RadioError(
                f"rays = {self.rays}, fewer than the {self.batches} batches",
                where="ray set",
                remedy="Give each batch a ray or more.",
            )
        if self.points < 1 or math.isqrt(self.points) ** 2 != self.points:
            raise RadioError(
                f"points = {self.points}",
                where="ray set",
                remedy="Give a square number: 1, 4, 9, 16, ...",
            )
        if self.seed < 0:
            raise RadioError(f"seed = {self.seed}", where="ray set", remedy="Give 0 or more.")

    def rng(self, purpose: str) -> np.random.Generator:
        """Random numbers for one purpose."""
        return np.random.default_rng([self.seed, *purpose.encode()])


@dataclass(frozen=True)
class Launch:
    """How the rays of one mast are spread.

    Attributes
    ----------
    core_m
        Unfolded distance [m] up to which rays are spread evenly over the ground.
    drop_m
        Height of the mast above the terminals [m].
    steepest
        Greatest slope (rise over distance) at which a ray can meet a terminal; 0 or less where
        all terminals are below the horizon that the cone covers.
    both_ways
        Half of the cone's rays rise instead of falling: all terminals are above the mast, and are
        reached by way of walls or of the ground.
    """

    core_m: float
    drop_m: float
    steepest: float = 0.0
    both_ways: bool = False

    @property
    def reach_m(self) -> float:
        """Greatest unfolded distance [m]."""
        return _TAIL * self.core_m

    def directions(self, ray_set: RaySet) -> tuple[Any, Any]:
        """Directions of departure, and the solid angle that each ray stands for in its batch [sr].

        Rays are ordered by batch. Each batch is one lattice over azimuth and ground by the golden
        ratio, which stays even under any stretching of the two, turned and shifted at random.

        Returns
        -------
        tuple
            Mitsuba's ``Vector3f`` and ``Float`` arrays.
        """
        dr, mi = drjit(), sionna_rt().mi
        each = ray_set.rays // ray_set.batches
        rng = ray_set.rng("launch")
        turn, shift = (mi.Float(rng.random(ray_set.batches).astype(np.float32)) for _ in range(2))
        index = dr.arange(mi.UInt, each * ray_set.batches)
        batch = index // dr.opaque(mi.UInt, each)
        within = index - batch * dr.opaque(mi.UInt, each)
        # neighbours in memory share their azimuth and so meet the same walls, which is faster
        angle = (mi.Float(within) + dr.gather(mi.Float, shift, batch)) * (dr.two_pi / each)
        part = mi.Float(within * mi.UInt(_GOLDEN)) * (2.0**-32) + dr.gather(mi.Float, turn, batch)
        part -= dr.floor(part)
        band = self._band_share
        if band == 0.0:
            slope, solid_angle = self._cone(mi, dr, part, each)
        else:
            rising = part >= 1.0 - band
            slope, solid_angle = self._cone(
                mi, dr, dr.minimum(part / (1.0 - band), 1.0), each * (1.0 - band)
            )
            lowest = -self._drop_m / self.reach_m
            width = self.steepest - lowest
            band_slope = lowest + width * (part - (1.0 - band)) / band
            flat = dr.rcp(1.0 + dr.square(band_slope))
            band_angle = (dr.two_pi * width / (each * band)) * flat * dr.sqrt(flat)
            slope = dr.select(rising, band_slope, slope)
            solid_angle = dr.select(rising, band_angle, solid_angle)
        if self.both_ways:
            slope = dr.select((within & 1) == 1, -slope, slope)
            solid_angle *= 2.0
        sine, cosine = dr.sincos(angle)
        return dr.normalize(mi.Vector3f(cosine, sine, slope)), solid_angle

    @property
    def _drop_m(self) -> float:
        return max(self.drop_m, _LEAST_DROP_M)

    @property
    def _band_share(self) -> float:
        """Share of rays that leave above the cone."""
        return _BAND_SHARE if self.steepest > -self._drop_m / self.reach_m else 0.0

    def _cone(self, mi: Any, dr: Any, place: Any, count: float) -> tuple[Any, Any]:
        """Slope and solid angle [sr] of rays at quantiles of the unfolded ground."""
        core_m2 = math.pi * self.core_m**2
        total_m2 = core_m2 * (1.0 + 2.0 * math.log(_TAIL))
        area = dr.minimum(place, 1.0) * total_m2
        inside = area < core_m2
        beyond = dr.maximum(area - core_m2, 0.0) * (1.0 / (2.0 * core_m2))
        distance = dr.select(inside, dr.sqrt(area * (1.0 / math.pi)), self.core_m * dr.exp(beyond))
        thinned = dr.select(inside, 1.0, dr.square(distance * (1.0 / self.core_m)))
        ground_m2 = (total_m2 / count) * thinned
        squared = dr.square(distance) + self._drop_m**2
        solid_angle = ground_m2 * self._drop_m * dr.rcp(squared * dr.sqrt(squared))
        distance = dr.maximum(distance, 1e-3)
        return -self._drop_m * dr.rcp(distance), mi.Float(solid_angle)
