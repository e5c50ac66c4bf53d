"""Antennas of sectors: the far field of elements, polarizations, arrays and beams (TR 38.901).

The local frame of an antenna is that of TR 38.901: x is the normal of the panel, y points to the
left of whoever looks along x, z up. Elements stand in the y-z plane. The global frame has x east,
y north and z up, so a panel that stands upright and looks east has both frames equal.

A port is one polarization of the array, with its precoding weights over the elements. Weights
have norm 1, so the field of a port is that of one unit of transmit power on it. A sector that
feeds two ports gives each half of its power: its gain is the mean over ports, not the sum.

Mutual coupling is left out, as TR 38.901 does, and the element radiates 65.7% of the power that
its gain is quoted for: 8 dBi go with a directivity of 9.8 dBi (the integral of table 7.3-1 over
the sphere), so 1.8 dB are losses. An array of such elements keeps the losses.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ueloc_core.errors import RadioError
from ueloc_core.units import azimuth_to_math_angle_rad, db_to_linear

Pattern = Literal["tr38901", "iso"]
Polarization = Literal["V", "VH", "slant"]

# TR 38.901 V17.0.0, table 7.3-1.
_HALF_POWER_WIDTH_DEG = 65.0
_LARGEST_ATTENUATION_DB = 30.0  # SLA_V and A_max
_ELEMENT_GAIN_DBI = 8.0

# Angles of the element's field against the local zenith direction (TR 38.901, 7.3.2).
_SLANTS_DEG: dict[str, tuple[float, ...]] = {
    "V": (0.0,),
    "VH": (0.0, 90.0),
    "slant": (-45.0, 45.0),
}
_UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Antenna:
    """A uniform planar array of equal elements.

    Element ``m * columns + n`` stands in row m (counted upwards) and column n (counted to the
    left of whoever looks along the boresight), as in TR 38.901, figure 7.3-1.

    Attributes
    ----------
    name
        What sectors call it.
    pattern
        Element: ``tr38901`` (table 7.3-1, 8 dBi) or ``iso`` (0 dBi).
    polarization
        Ports: ``V`` (one, vertical), ``VH`` (vertical, horizontal) or ``slant`` (-45, +45 deg).
    rows, columns
        Elements of one polarization.
    vertical_spacing, horizontal_spacing
        Between rows and between columns [wavelengths].

    Raises
    ------
    RadioError
        If a field is out of range.
    """

    name: str
    pattern: Pattern = "tr38901"
    polarization: Polarization = "V"
    rows: int = 1
    columns: int = 1
    vertical_spacing: float = 0.5
    horizontal_spacing: float = 0.5

    def __post_init__(self) -> None:
        where = f"antenna {self.name}"
        if self.pattern not in ("tr38901", "iso"):
            raise RadioError(
                f"pattern {self.pattern!r}", where=where, remedy="Use 'tr38901' or 'iso'."
            )
        if self.polarization not in _SLANTS_DEG:
            raise RadioError(
                f"polarization {self.polarization!r}",
                where=where,
                remedy=f"Use one of {', '.join(_SLANTS_DEG)}.",
            )
        if min(self.rows, self.columns) < 1:
            raise RadioError(f"{self.rows} rows of {self.columns} elements", where=where)
        if not (self.vertical_spacing > 0 and self.horizontal_spacing > 0):
            raise RadioError("the spacing of elements must be above 0 wavelengths", where=where)

    @property
    def elements(self) -> int:
        """Number of elements of one polarization."""
        return self.rows * self.columns

    @property
    def ports(self) -> int:
        """Number of polarizations."""
        return len(_SLANTS_DEG[self.polarization])


ANTENNAS: dict[str, Antenna] = {
    antenna.name: antenna
    for antenna in (
        Antenna("tr38901"),
        Antenna("iso", pattern="iso"),
        Antenna("column8", polarization="slant", rows=8, vertical_spacing=0.8),
        Antenna("panel8x8", polarization="slant", rows=8, columns=8, vertical_spacing=0.8),
    )
}
"""Antennas by name. ``column8`` is a passive sector antenna of 8 rows, ±45 degrees; ``panel8x8``
an active one, whose sector is covered by beams (`ssb_beams`): all of its columns in phase make
one beam of 13 degrees. The rows are 0.8 wavelengths apart, as is usual where beams turn little."""


def antenna_named(name: str) -> Antenna:
    """The antenna of a name.

    Raises
    ------
    RadioError
        If there is no such antenna.
    """
    if name not in ANTENNAS:
        raise RadioError(f"unknown antenna {name!r}", remedy=f"Known: {', '.join(ANTENNAS)}.")
    return ANTENNAS[name]


def element_gain_db(zenith_deg: Any, azimuth_deg: Any, pattern: Pattern) -> NDArray[np.float64]:
    """Power gain [dBi] of one element (TR 38.901 V17.0.0, table 7.3-1).

    Parameters
    ----------
    zenith_deg, azimuth_deg
        Direction in the local frame [deg]: zenith 90 and azimuth 0 are the boresight. Any shapes
        that broadcast; the azimuth is wrapped.
    pattern
        ``tr38901`` or ``iso``.

    >>> element_gain_db([90, 90, 90, 57.5], [0, 32.5, 180, 0], "tr38901").tolist()
    [8.0, 5.0, -22.0, 5.0]
    """
    zenith, azimuth = np.broadcast_arrays(
        np.asarray(zenith_deg, dtype=np.float64), np.asarray(azimuth_deg, dtype=np.float64)
    )
    if pattern == "iso":
        return np.zeros(zenith.shape)
    wrapped = (azimuth + 180.0) % 360.0 - 180.0
    vertical = np.minimum(
        12 * ((zenith - 90) / _HALF_POWER_WIDTH_DEG) ** 2, _LARGEST_ATTENUATION_DB
    )
    horizontal = np.minimum(12 * (wrapped / _HALF_POWER_WIDTH_DEG) ** 2, _LARGEST_ATTENUATION_DB)
    return np.asarray(
        _ELEMENT_GAIN_DBI - np.minimum(vertical + horizontal, _LARGEST_ATTENUATION_DB)
    )


def orientation_matrix(azimuth_deg: float, downtilt_deg: float) -> NDArray[np.float64]:
    """Rotation from the local to the global frame, shape (3, 3) (TR 38.901, eq. 7.1-4, no slant).

    Parameters
    ----------
    azimuth_deg
        Boresight, clockwise from north [deg].
    downtilt_deg
        Mechanical tilt, below the horizon is positive [deg].
    """
    bearing, tilt = azimuth_to_math_angle_rad(azimuth_deg), math.radians(downtilt_deg)
    cos_a, sin_a, cos_b, sin_b = (
        math.cos(bearing),
        math.sin(bearing),
        math.cos(tilt),
        math.sin(tilt),
    )
    return np.array(
        [
            [cos_a * cos_b, -sin_a, cos_a * sin_b],
            [sin_a * cos_b, cos_a, sin_a * sin_b],
            [-sin_b, 0.0, cos_b],
        ]
    )


def direction_of(azimuth_deg: Any, zenith_deg: Any) -> NDArray[np.float64]:
    """Global unit vectors of shape (..., 3) of compass azimuths and zenith angles [deg]."""
    azimuth, zenith = np.broadcast_arrays(np.radians(azimuth_deg), np.radians(zenith_deg))
    return np.stack(
        [np.sin(zenith) * np.sin(azimuth), np.sin(zenith) * np.cos(azimuth), np.cos(zenith)],
        axis=-1,
    )


def tilt_weights(antenna: Antenna, electrical_tilt_deg: float) -> NDArray[np.complex128]:
    """Precoding weights of all elements with one phase front, shape (element,), norm 1.

    The rows get a phase progression that turns the beam down by the electrical tilt; the columns
    are in phase. It is the virtualisation of TR 36.897 (V13.0.0, 5.2), with unit power:
    ``w_m = exp(-j 2 pi m d_V cos(90 deg + tilt)) / sqrt(elements)``.

    Parameters
    ----------
    antenna
        The array.
    electrical_tilt_deg
        Below the panel's normal is positive [deg].

    Raises
    ------
    RadioError
        If an antenna of one row is to be tilted electrically.
    """
    if antenna.rows == 1 and electrical_tilt_deg != 0.0:
        raise RadioError(
            f"electrical tilt of {electrical_tilt_deg:g} degrees needs more than one row",
            where=f"antenna {antenna.name}",
            remedy="Use the mechanical downtilt, or an antenna with rows.",
        )
    return _steering_weights(antenna, 0.0, -math.sin(math.radians(electrical_tilt_deg)))


def ssb_beams(
    antenna: Antenna,
    beams: int = 8,
    *,
    half_width_deg: float = 60.0,
    electrical_tilt_deg: float = 0.0,
) -> NDArray[np.complex128]:
    """DFT precoding weights of a set of SSB beams, shape (beam, element), each of norm 1.

    The beams cut ``sin(azimuth)`` between minus and plus the half width into equal parts and
    point at their middles, from left to right (clockwise): columns of a DFT matrix over the
    array's columns (TS 38.214, 5.2.2.2.1), oversampled where more beams are asked for than
    columns resolve. All beams share one electrical tilt. The default is 8 beams over ±60 degrees
    at the panel's normal (tilt 0), which the mechanical downtilt turns down.

    Parameters
    ----------
    antenna
        The array; more than one column where there is more than one beam.
    beams
        How many; at most 8 below 6 GHz and 64 above (TS 38.213, 4.1).
    half_width_deg
        Half of the sector in azimuth [deg].
    electrical_tilt_deg
        Below the panel's normal is positive [deg].

    Raises
    ------
    RadioError
        If the antenna cannot form the beams.
    """
    where = f"antenna {antenna.name}"
    if not 1 <= beams <= 64:
        raise RadioError(f"{beams} SSB beams", where=where, remedy="Use 1 to 64.")
    if not 0 < half_width_deg <= 90:
        raise RadioError(f"beams over ±{half_width_deg:g} degrees", where=where)
    if antenna.columns == 1 and beams > 1:
        raise RadioError(
            f"one column forms no {beams} beams in azimuth",
            where=where,
            remedy="Use an antenna with columns, such as 'panel8x8'.",
        )
    tilt = math.radians(electrical_tilt_deg)
    if antenna.rows == 1 and tilt != 0.0:
        tilt_weights(antenna, electrical_tilt_deg)  # says what is wrong
    edge = math.sin(math.radians(half_width_deg))
    # the local y axis points to the left, so beams from left to right have falling y
    sines = edge * (1.0 - 2.0 * (np.arange(beams) + 0.5) / beams)
    return np.stack(
        [_steering_weights(antenna, math.cos(tilt) * s, -math.sin(tilt)) for s in sines]
    )


def element_field(
    antenna: Antenna, *, azimuth_deg: float, downtilt_deg: float, direction: NDArray[Any]
) -> NDArray[np.float64]:
    """Far field of one element of each port in the global frame, shape (..., port, 2).

    The polarized field is model 2 of TR 38.901 (eq. 7.3-4 and 7.3-5), turned to the global frame
    by eq. 7.1-11. See `field_components` for the parameters.
    """
    return _element_field(antenna, orientation_matrix(azimuth_deg, downtilt_deg), direction)


def field_components(
    antenna: Antenna,
    *,
    azimuth_deg: float,
    downtilt_deg: float,
    electrical_tilt_deg: float,
    direction: NDArray[Any],
) -> NDArray[np.complex128]:
    """Far field of a sector's ports: all elements with one phase front (`tilt_weights`).

    More columns make the sector narrower; see `beam_field_components` for other weights.

    Parameters
    ----------
    antenna
        The array.
    azimuth_deg
        Boresight, clockwise from north [deg].
    downtilt_deg
        Mechanical tilt, below the horizon is positive [deg].
    electrical_tilt_deg
        Further tilt by the phases of the rows [deg].
    direction
        Unit vectors of departure in the global frame, shape (..., 3).

    Returns
    -------
    NDArray
        Amplitudes (F_theta, F_phi) along the global zenith and azimuth unit vectors (the latter
        counter-clockwise from east), shape (..., port, 2); the sum of their squared magnitudes
        is the port's power gain. The phase refers to the centre of the array.

    Raises
    ------
    RadioError
        If a direction has no unit length, or one row is to be tilted electrically.
    """
    weights = tilt_weights(antenna, electrical_tilt_deg)[None]
    fields = beam_field_components(
        antenna,
        weights,
        azimuth_deg=azimuth_deg,
        downtilt_deg=downtilt_deg,
        direction=direction,
    )
    return fields[..., 0, :, :]


def beam_field_components(
    antenna: Antenna,
    weights: NDArray[np.complex128],
    *,
    azimuth_deg: float,
    downtilt_deg: float,
    direction: NDArray[Any],
) -> NDArray[np.complex128]:
    """Far field of beams, shape (..., beam, port, 2), each port with the same weights.

    As `field_components`, for any precoding weights of shape (beam, element).
    """
    rotation = orientation_matrix(azimuth_deg, downtilt_deg)
    element = _element_field(antenna, rotation, direction)
    factor = array_factor(antenna, weights, np.asarray(direction, dtype=np.float64) @ rotation)
    return factor[..., :, None, None] * element[..., None, :, :]


def array_factor(
    antenna: Antenna, weights: NDArray[np.complex128], local_direction: NDArray[Any]
) -> NDArray[np.complex128]:
    """Sum of the elements' weighted phases, shape (..., beam).

    Parameters
    ----------
    antenna
        The array.
    weights
        Precoding weights, shape (beam, element).
    local_direction
        Unit vectors in the local frame, shape (..., 3).

    Raises
    ------
    RadioError
        If the weights do not fit the array.
    """
    if weights.ndim != 2 or weights.shape[1] != antenna.elements:
        raise RadioError(
            f"weights of shape {weights.shape} for {antenna.elements} elements",
            where=f"antenna {antenna.name}",
            remedy="Give an array of shape (beam, element).",
        )
    by_row = _phases(antenna.rows, antenna.vertical_spacing, local_direction[..., 2])
    by_column = _phases(antenna.columns, antenna.horizontal_spacing, local_direction[..., 1])
    table = weights.reshape(-1, antenna.rows, antenna.columns)
    folded = np.tensordot(by_row, table, axes=([-1], [1]))
    return np.asarray(np.einsum("...bn,...n->...b", folded, by_column))


def _element_field(
    antenna: Antenna, rotation: NDArray[np.float64], direction: NDArray[Any]
) -> NDArray[np.float64]:
    direction = np.asarray(direction, dtype=np.float64)
    length = np.linalg.norm(direction, axis=-1)
    if (np.abs(length - 1) > _UNIT_TOLERANCE).any():
        wrong = float(length.flat[np.abs(length - 1).argmax()])
        raise RadioError(f"a direction of length {wrong:g}", remedy="Give unit vectors.")
    local = direction @ rotation
    zenith_deg = np.degrees(np.arccos(np.clip(local[..., 2], -1.0, 1.0)))
    azimuth_deg = np.degrees(np.arctan2(local[..., 1], local[..., 0]))
    amplitude = np.sqrt(db_to_linear(element_gain_db(zenith_deg, azimuth_deg, antenna.pattern)))
    # how the local zenith and azimuth directions lie on the global ones (TR 38.901, eq. 7.1-12)
    theta, phi = spherical_basis(direction)
    local_theta, _ = spherical_basis(local)
    turned = local_theta @ rotation.T
    cos_psi, sin_psi = (turned * theta).sum(axis=-1), (turned * phi).sum(axis=-1)
    slant = np.radians(_SLANTS_DEG[antenna.polarization])
    cos_psi, sin_psi = cos_psi[..., None], sin_psi[..., None]
    f_theta = np.cos(slant) * cos_psi - np.sin(slant) * sin_psi
    f_phi = np.cos(slant) * sin_psi + np.sin(slant) * cos_psi
    return np.asarray(amplitude[..., None, None] * np.stack([f_theta, f_phi], axis=-1))


def spherical_basis(
    direction: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Zenith and azimuth unit vectors at unit vectors of shape (..., 3); azimuth 0 at the poles."""
    x, y, z = np.moveaxis(direction, -1, 0)
    across = np.hypot(x, y)
    pole = across == 0
    cos_phi = np.where(pole, 1.0, x / np.where(pole, 1.0, across))
    sin_phi = np.where(pole, 0.0, y / np.where(pole, 1.0, across))
    theta = np.stack([z * cos_phi, z * sin_phi, -across], axis=-1)
    phi = np.stack([-sin_phi, cos_phi, np.zeros_like(z)], axis=-1)
    return theta, phi


def _phases(count: int, spacing: float, cosine: NDArray[Any]) -> NDArray[np.complex128]:
    """Phases of elements on a line through the array's centre, shape (..., element)."""
    place = (np.arange(count) - (count - 1) / 2) * spacing
    return np.asarray(np.exp(2j * np.pi * np.asarray(cosine)[..., None] * place))


def _steering_weights(antenna: Antenna, y: float, z: float) -> NDArray[np.complex128]:
    """Weights of norm 1 that add up in phase at a local direction (y, z)."""
    by_row = _phases(antenna.rows, antenna.vertical_spacing, np.asarray(z))
    by_column = _phases(antenna.columns, antenna.horizontal_spacing, np.asarray(y))
    outer = np.conj(by_row[:, None] * by_column[None]).reshape(-1)
    return np.asarray(outer / math.sqrt(antenna.elements))
