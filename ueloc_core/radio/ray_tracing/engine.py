"""Sionna RT, Mitsuba and Dr.Jit: found, imported and kept here, and a scene ready for rays.

They are imported inside the functions, so that loading this module costs nothing.
"""

import functools
import importlib
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ueloc_core.errors import RadioError
from ueloc_core.units import SPEED_OF_LIGHT_M_S, VACUUM_PERMITTIVITY_F_PER_M, wavelength_m

ARCADE_M = 12.0
_LLVM = "lib/libLLVM.so.23.1"


@functools.cache
def sionna_rt() -> ModuleType:
    """The module ``sionna.rt``, with Mitsuba as its attribute ``mi``.

    Raises
    ------
    RadioError
        If it cannot be imported, or Dr.Jit finds neither CUDA nor LLVM.
    """
    if "DRJIT_LIBLLVM_PATH" not in os.environ:
        bundled = Path(sys.prefix) / _LLVM
        if bundled.exists():
            os.environ["DRJIT_LIBLLVM_PATH"] = str(bundled)
    try:
        import mitsuba as mi  # noqa: PLC0415
        from sionna import rt  # noqa: PLC0415
    except ImportError as error:
        raise RadioError(
            f"Sionna RT cannot be imported ({error})",
            remedy="Run 'make install'. Without a CUDA device Dr.Jit needs LLVM: install "
            "'karellen-llvm-core' with pip, or set DRJIT_LIBLLVM_PATH.",
        ) from error
    module: Any = rt
    module.mi = mi
    return module  # type: ignore[no-any-return]


@functools.cache
def drjit() -> Any:
    """The module ``drjit``, imported after `sionna_rt` has told it which LLVM to take.

    Imported first it takes the system's, and some versions of that cannot compile its kernels.
    """
    sionna_rt()
    return importlib.import_module("drjit")


def bundled_scene(name: str) -> Path:
    """File of a scene that comes with Sionna RT, such as ``munich``."""
    return Path(getattr(sionna_rt().scene, name))


def device_name() -> str:
    """The Mitsuba variant that rays are traced with, such as ``llvm_ad_mono_polarized``."""
    return str(sionna_rt().mi.variant())


class RayScene:
    """A scene's geometry and radio materials, ready for rays.

    Parameters
    ----------
    file
        The scene's XML.
    frequency_hz
        Carrier frequency [Hz].

    Raises
    ------
    RadioError
        If the scene cannot be loaded.
    """

    def __init__(self, file: Path, frequency_hz: float) -> None:
        rt = sionna_rt()
        try:
            self.sionna: Any = rt.load_scene(str(file))
            self.sionna.frequency = frequency_hz
        except Exception as error:
            raise RadioError(
                f"Sionna cannot load the scene ({error})",
                where=str(file),
                remedy="Materialize the tile's scene again.",
            ) from error
        self.file = file
        self.wavelength_m = wavelength_m(frequency_hz)

    @property
    def geometry(self) -> Any:
        """The Mitsuba scene that rays are tested against."""
        return self.sionna.mi_scene

    @functools.cached_property
    def meshes(self) -> "list[Mesh]":
        """Triangles of each shape, sorted by the shape's name.

        Mitsuba loads files side by side, so the order of its shapes differs from run to run.
        """
        found = []
        for index, shape in enumerate(self.geometry.shapes()):
            vertices = np.array(shape.vertex_positions_buffer(), dtype=np.float64).reshape(-1, 3)
            faces = np.array(shape.faces_buffer(), dtype=np.int64).reshape(-1, 3)
            found.append(Mesh(str(shape.id()), index, vertices, faces))
        return sorted(found, key=lambda mesh: mesh.name)

    @functools.cached_property
    def slabs(self) -> "Slabs":
        """Radio material of each shape at the scene's frequency, in the order of loading."""
        angular_frequency = 2.0 * math.pi * SPEED_OF_LIGHT_M_S / self.wavelength_m
        values = [
            [
                float(np.array(value).ravel()[0])
                for value in (
                    material.relative_permittivity,
                    material.conductivity,
                    material.thickness,
                    material.scattering_coefficient,
                )
            ]
            for material in (shape.bsdf() for shape in self.geometry.shapes())
        ]
        real, conductivity, thickness, scattering = np.array(values).reshape(-1, 4).T
        loss = conductivity / (angular_frequency * VACUUM_PERMITTIVITY_F_PER_M)
        return Slabs(real - 1j * loss, thickness, np.sqrt(1.0 - scattering**2))

    @functools.cached_property
    def _undersides_m(self) -> NDArray[np.float64]:
        """Heights of the faces that look down [m], sorted."""
        found = []
        for mesh in self.meshes:
            corners = mesh.vertices_m[mesh.faces]
            normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
            down = normals[:, 2] < -1e-3 * np.linalg.norm(normals, axis=1)
            found.append(corners[down, :, 2].max(axis=1))
        return np.sort(np.concatenate(found)) if found else np.zeros(0)

    def ceiling_m(self, highest_m: float) -> float:
        """Height [m] above which a ray that rises is lost to all terminals.

        It needs a face that looks down to come back. Those of passages and canopies count; those
        more than `ARCADE_M` above the terminals do not: most are the floors of storeys that stand
        on others.

        Parameters
        ----------
        highest_m
            Height of the highest terminal [m].
        """
        low = self._undersides_m[self._undersides_m <= highest_m + ARCADE_M]
        return float(max(highest_m, low[-1])) if len(low) else highest_m


class Mesh:
    """Triangles of one shape of a scene.

    Attributes
    ----------
    name
        Id of the shape.
    index
        Position of the shape in the loaded scene.
    vertices_m
        Corners [m], shape (vertex, 3).
    faces
        Corners of each triangle, shape (face, 3).
    """

    def __init__(
        self, name: str, index: int, vertices_m: NDArray[np.float64], faces: NDArray[np.int64]
    ) -> None:
        self.name = name
        self.index = index
        self.vertices_m = vertices_m
        self.faces = faces


@dataclass(frozen=True)
class Slabs:
    """Radio materials of shapes, n of them.

    Attributes
    ----------
    permittivity
        Complex relative permittivity (negative imaginary part), shape (n,).
    thickness_m
        Thickness [m], shape (n,).
    smoothness
        Factor on reflection coefficients that scattering leaves, 1 for smooth faces, shape (n,).
    """

    permittivity: NDArray[np.complex128]
    thickness_m: NDArray[np.float64]
    smoothness: NDArray[np.float64]


def point3f(values: NDArray[Any]) -> Any:
    """A Mitsuba point array of an array of shape (n, 3)."""
    mi = sionna_rt().mi
    return mi.Point3f(*(mi.Float(np.ascontiguousarray(v, dtype=np.float32)) for v in values.T))


def vector3f(values: NDArray[Any]) -> Any:
    """A Mitsuba vector array of an array of shape (n, 3)."""
    return sionna_rt().mi.Vector3f(point3f(values))


def rows(values: Any) -> NDArray[np.float32]:
    """An array of shape (n, components) of a Mitsuba point or vector array."""
    return np.asarray(np.array(values, dtype=np.float32).T)
