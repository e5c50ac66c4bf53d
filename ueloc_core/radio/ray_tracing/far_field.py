"""The far field of antennas as a table over directions, read along millions of paths."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ueloc_core.errors import RadioError
from ueloc_core.radio.antennas import Antenna, direction_of, field_components
from ueloc_core.radio.ray_tracing.contributions import Contributions
from ueloc_core.radio.ray_tracing.engine import drjit, sionna_rt

_STEP_DEG = 0.5  # between table entries, linear in between: below 0.01 dB off for one element


@dataclass(frozen=True)
class Sector:
    """An antenna at the site's place.

    Attributes
    ----------
    antenna
        What stands there.
    azimuth_deg
        Boresight, clockwise from north [deg].
    downtilt_deg, electrical_tilt_deg
        Mechanical and electrical tilt, below the horizon is positive [deg].

    Raises
    ------
    RadioError
        If an angle is not finite.
    """

    antenna: Antenna
    azimuth_deg: float
    downtilt_deg: float
    electrical_tilt_deg: float = 0.0

    def __post_init__(self) -> None:
        angles_deg = self.azimuth_deg, self.downtilt_deg, self.electrical_tilt_deg
        if not np.isfinite(angles_deg).all():
            raise RadioError(
                f"azimuth and tilts of {angles_deg} degrees",
                where=f"sector with antenna {self.antenna.name}",
                remedy="Give finite angles.",
            )


class PathGains:
    """Directions of departure of paths, and what the paths carry, ready for any sector."""

    def __init__(self, paths: Contributions) -> None:
        self._count = len(paths)
        if not self._count:
            return
        dr, mi = drjit(), sionna_rt().mi
        x, y, z = (mi.Float(np.ascontiguousarray(v)) for v in paths.departure.T)
        self._zenith_deg = dr.rad2deg(dr.acos(dr.clip(z, -1.0, 1.0)))
        self._azimuth_deg = dr.rad2deg(dr.atan2(x, y))
        self._power = mi.Vector4f(*(mi.Float(np.ascontiguousarray(v)) for v in paths.power.T))
        dr.eval(self._zenith_deg, self._azimuth_deg)

    def of(self, sector: Sector) -> NDArray[np.float32]:
        """Path gain of a sector along each path, shape (n,)."""
        dr, mi = drjit(), sionna_rt().mi
        if not self._count:
            return np.zeros(0, dtype=np.float32)
        table = _table(sector.antenna, sector.downtilt_deg, sector.electrical_tilt_deg)
        texture = mi.Texture2f(
            mi.TensorXf(table), wrap_mode=dr.WrapMode.Repeat, filter_mode=dr.FilterMode.Linear
        )
        turn = self._azimuth_deg - float(sector.azimuth_deg)
        columns, rows = table.shape[1], table.shape[0]
        u = (turn / _STEP_DEG + 0.5) * (1.0 / columns)
        v = (self._zenith_deg / _STEP_DEG + 0.5) * (1.0 / rows)
        field = mi.Vector4f(*texture.eval(mi.Point2f(u, v)))
        power = self._power
        gain = field.x * power.x + field.y * power.y
        gain += 2.0 * (field.z * power.z - field.w * power.w)
        return np.array(dr.maximum(gain, 0.0))


@functools.lru_cache(maxsize=16)
def _table(antenna: Antenna, downtilt_deg: float, electrical_tilt_deg: float) -> NDArray[Any]:
    """What multiplies `Contributions.power`, shape (zenith, azimuth to the boresight, 4).

    Mean over the ports of the power along the zenith and along the azimuth unit vector, and real
    and imaginary part of the product of both amplitudes (the first times the second's conjugate).
    """
    zenith = np.arange(0.0, 180.0 + _STEP_DEG / 2, _STEP_DEG)
    azimuth = np.arange(0.0, 360.0, _STEP_DEG)
    field = field_components(
        antenna,
        azimuth_deg=0.0,
        downtilt_deg=downtilt_deg,
        electrical_tilt_deg=electrical_tilt_deg,
        direction=direction_of(azimuth[None], zenith[:, None]),
    )
    theta, phi = field[..., 0], field[..., 1]
    product = theta * np.conj(phi)
    parts = (np.abs(theta) ** 2, np.abs(phi) ** 2, product.real, product.imag)
    return np.stack([part.mean(axis=-1) for part in parts], axis=-1).astype(np.float32)
