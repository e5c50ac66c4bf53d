"""The field over a wedge of dielectric slabs, by the uniform theory of diffraction.

Kouyoumjian and Pathak, Proc. IEEE 62 (1974), with the reflection coefficients of both faces in
the place of those of a perfect conductor (Luebbers 1984; ITU-R P.526-15, section 4.3). The faces'
coefficients are those of a slab (ITU-R P.2040-3, section 2.2.2), at the angles at which the path
meets the lit face and leaves along the dark one.

Sionna RT 2.2 has a field of its own (`RadioMaterial`), in which the reflection of the lit face has
the opposite sign and the dark face reflects as a conductor does for a field along the edge. For a
metal roof that is grazed by a field along its edge it is 14 dB above the exact solution.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ueloc_core.radio.ray_tracing.engine import drjit, sionna_rt


@dataclass(frozen=True)
class WedgePaths:
    """Paths over wedges: Dr.Jit arrays of one width.

    Attributes
    ----------
    departure, arrival
        Unit vectors of propagation before and behind the edge.
    before, behind
        Lengths before and behind the edge [m].
    normal0, normal_n
        Outward unit normals of the lit and of the dark face.
    along
        Unit vector along the edge; `normal0` times it (cross product) points along the lit face,
        away from the edge.
    permittivity
        Complex relative permittivity of the faces.
    thickness
        Thickness of the faces [m].
    smoothness
        As of `Slabs`.
    """

    departure: Any
    arrival: Any
    before: Any
    behind: Any
    normal0: Any
    normal_n: Any
    along: Any
    permittivity: Any
    thickness: Any
    smoothness: Any


def wedge_fields(paths: WedgePaths, wavelength_m: float) -> tuple[Any, Any]:
    """Jones vectors at the end of paths, of a zenith and of an azimuth unit source.

    Spreading is in them, the factor wavelength / (4 pi) is not.

    Parameters
    ----------
    paths
        The paths.
    wavelength_m
        In vacuum [m].

    Returns
    -------
    tuple
        Two ``Vector4f`` arrays: real parts along zenith and azimuth, then imaginary parts.
    """
    from sionna.rt.utils import implicit_basis_vector  # noqa: PLC0415

    dr, mi = drjit(), sionna_rt().mi
    along_edge, across_edge = _coefficients(paths, wavelength_m)
    spreading = dr.rsqrt(paths.before * paths.behind * (paths.before + paths.behind))
    # bases of both ends along (beta) and across (phi) the edge, as Kouyoumjian and Pathak take them
    phi_in = -dr.normalize(dr.cross(paths.along, paths.departure))
    beta_in = dr.cross(phi_in, paths.departure)
    phi_out = dr.normalize(dr.cross(paths.along, paths.arrival))
    beta_out = dr.cross(phi_out, paths.arrival)
    zenith_in, zenith_out = (
        mi.Vector3f(implicit_basis_vector(way)) for way in (paths.departure, paths.arrival)
    )
    azimuth_in = dr.cross(paths.departure, zenith_in)
    azimuth_out = dr.cross(paths.arrival, zenith_out)
    fields = []
    for source in (zenith_in, azimuth_in):
        beta = along_edge * (-dr.dot(source, beta_in) * spreading)
        phi = across_edge * (-dr.dot(source, phi_in) * spreading)
        zenith = beta * dr.dot(beta_out, zenith_out) + phi * dr.dot(phi_out, zenith_out)
        azimuth = beta * dr.dot(beta_out, azimuth_out) + phi * dr.dot(phi_out, azimuth_out)
        fields.append(mi.Vector4f(zenith.real, azimuth.real, zenith.imag, azimuth.imag))
    return fields[0], fields[1]


def _coefficients(paths: WedgePaths, wavelength_m: float) -> tuple[Any, Any]:
    """Diffraction coefficients for fields along and across the edge (P.526-15, section 4.3)."""
    from sionna.rt.utils import (  # noqa: PLC0415
        cot_times_f_utd,
        itu_coefficients_single_layer_slab,
    )

    dr, mi = drjit(), sionna_rt().mi
    tangent = dr.cross(paths.normal0, paths.along)
    interior = dr.safe_acos(-dr.dot(paths.normal0, paths.normal_n))
    exterior = dr.two_pi - interior
    n = exterior / dr.pi
    source = dr.atan2(-dr.dot(paths.departure, paths.normal0), -dr.dot(paths.departure, tangent))
    place = dr.atan2(dr.dot(paths.arrival, paths.normal0), dr.dot(paths.arrival, tangent))
    place = dr.select(place < 0.0, place + dr.two_pi, place)
    sine = dr.safe_sqrt(1.0 - dr.square(dr.dot(paths.departure, paths.along)))
    wave = 2.0 * np.pi / wavelength_m
    parameter = wave * paths.before * paths.behind * dr.rcp(paths.before + paths.behind)
    parameter *= dr.square(sine)
    terms = []
    for angle in (place - source, place + source):
        for sign in (1.0, -1.0):
            turns = dr.round((angle + sign * dr.pi) / (2.0 * exterior))
            spread = 2.0 * dr.square(dr.cos(exterior * turns - 0.5 * angle))
            psi = (dr.pi + sign * angle) / (2.0 * n)
            terms.append(cot_times_f_utd(psi, parameter * spread, n, parameter))
    factor = dr.exp(mi.Complex2f(0.0, -0.25 * dr.pi))
    factor *= -dr.rcp(2.0 * n * float(np.sqrt(2.0 * np.pi * wave)) * sine)
    lit, dark = (
        itu_coefficients_single_layer_slab(
            dr.abs(dr.dot(way, normal)), paths.permittivity, paths.thickness, wavelength_m
        )[:2]
        for way, normal in ((paths.departure, paths.normal0), (paths.arrival, paths.normal_n))
    )
    along_edge, across_edge = (
        factor
        * (
            terms[0]
            + terms[1]
            + (of_lit * terms[3] + of_dark * terms[2]) * mi.Complex2f(paths.smoothness, 0.0)
        )
        for of_lit, of_dark in zip(lit, dark, strict=True)
    )
    return along_edge, across_edge
