"""Path gain by ray tracing: the one importer of Sionna, Mitsuba and Dr.Jit.

They are imported inside the functions, so that loading this module costs nothing. On a CPU,
Sionna's search for diffracting edges depends on the order in which Dr.Jit's threads reach its
hash table. So `trace` spreads ray sets over processes of one thread each: as fast, and the
same bits every time. The coordinates here are local to a scene (its origin is the lower-left
corner of its tile), so that single precision keeps millimetres.
"""

import contextlib
import functools
import importlib
import math
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ueloc_core.errors import RadioError
from ueloc_core.units import azimuth_to_math_angle_rad

_LLVM = "lib/libLLVM.so.23.1"
_MAX_WORKERS = 8  # each holds about 1 GB


@dataclass(frozen=True)
class Transmitter:
    """One sector in the scene's local frame.

    Attributes
    ----------
    position_m
        (x, y, z) of the antenna [m].
    azimuth_deg
        Boresight, clockwise from north [deg].
    downtilt_deg
        Below the horizon is positive [deg].
    pattern
        Antenna pattern: ``tr38901`` (TR 38.901, table 7.3-1, 8 dBi) or ``iso``.
    """

    position_m: tuple[float, float, float]
    azimuth_deg: float
    downtilt_deg: float
    pattern: str = "tr38901"


@dataclass(frozen=True)
class RaySet:
    """One independent set of rays: Sionna's lattice follows the count, its draws the seed."""

    rays: int
    seed: int


@dataclass(frozen=True)
class Plane:
    """The horizontal grid over which the gain is gathered, in the scene's local frame.

    Attributes
    ----------
    centre_m
        (x, y) of its centre [m].
    columns, rows
        Size in grid cells.
    cell_m
        Side of a grid cell [m].
    height_m
        Height of the plane (z) [m].
    """

    centre_m: tuple[float, float]
    columns: int
    rows: int
    cell_m: float
    height_m: float


@dataclass(frozen=True)
class Surface:
    """A grid that follows the ground, in the scene's local frame: two triangles a grid cell.

    The diagonal of a grid cell goes from its lower left to its upper right corner, as that of
    the ground's lattice does.

    Attributes
    ----------
    corner_m
        (x, y) of its lower left corner [m].
    cell_m
        Side of a grid cell in plan [m].
    heights_m
        Heights (z) of the corners of the grid cells [m], shape (rows + 1, columns + 1), row 0 in
        the south.
    """

    corner_m: tuple[float, float]
    cell_m: float
    heights_m: NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) in grid cells."""
        return self.heights_m.shape[0] - 1, self.heights_m.shape[1] - 1

    def beneath(self) -> Plane:
        """The plane at height 0 that the surface covers in plan."""
        rows, columns = self.shape
        x, y = self.corner_m
        centre_m = (x + columns * self.cell_m / 2, y + rows * self.cell_m / 2)
        return Plane(centre_m, columns, rows, self.cell_m, 0.0)

    def triangles(self) -> tuple[NDArray[np.float32], NDArray[np.uint32]]:
        """Vertices [m] of shape (vertex, 3), and triangles of shape (2 * rows * columns, 3).

        Grid cell by grid cell, row by row: first the triangle at its right, then the left one.
        """
        rows, columns = self.shape
        x = self.corner_m[0] + self.cell_m * np.arange(columns + 1)
        y = self.corner_m[1] + self.cell_m * np.arange(rows + 1)
        vertices = np.stack([*np.meshgrid(x, y), self.heights_m], axis=-1).reshape(-1, 3)
        lower = np.arange(rows)[:, None] * (columns + 1) + np.arange(columns)[None]
        upper = lower + columns + 1
        right = np.stack([lower, lower + 1, upper + 1], axis=-1)
        left = np.stack([lower, upper + 1, upper], axis=-1)
        faces = np.stack([right, left], axis=2).reshape(-1, 3)
        return vertices.astype(np.float32), faces.astype(np.uint32)

    def tilt(self) -> NDArray[np.float64]:
        """Area of the surface over its area in plan, of each grid cell, shape (rows, columns)."""
        vertices, faces = self.triangles()
        corners = vertices.astype(np.float64)[faces]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        areas_m2 = np.linalg.norm(normals, axis=1).reshape(*self.shape, 2).sum(axis=-1) / 2
        return np.asarray(areas_m2 / self.cell_m**2)


class RayTracer:
    """A Mitsuba scene, ready for radio maps.

    Parameters
    ----------
    scene_file
        The scene's XML.
    frequency_hz
        Carrier frequency [Hz].
    max_depth
        Most interactions along a path.
    diffraction
        Whether first-order diffraction at edges is traced (in the shadow region only: in the
        lit region it changes the mean little and adds most of the sampling noise).

    Raises
    ------
    RadioError
        If the scene cannot be loaded or Dr.Jit finds no LLVM.
    """

    def __init__(
        self, scene_file: Path, *, frequency_hz: float, max_depth: int, diffraction: bool
    ) -> None:
        self._rt = _sionna_rt()
        try:
            self._scene = self._rt.load_scene(str(scene_file))
            self._scene.frequency = frequency_hz
        except Exception as error:
            raise RadioError(
                f"Sionna cannot load the scene ({error})",
                where=str(scene_file),
                remedy="Materialize the tile's scene again.",
            ) from error
        self._solver = self._rt.RadioMapSolver()
        self._max_depth = max_depth
        self._diffraction = diffraction

    def path_gain(
        self, transmitters: Sequence[Transmitter], grid: Plane | Surface, ray_set: RaySet
    ) -> NDArray[np.float32]:
        """Path gain of each transmitter, averaged over each grid cell.

        Parameters
        ----------
        transmitters
            Sectors, of one pattern.
        grid
            Where the gain is gathered. On a surface the two triangles of a grid cell are
            weighted by their areas.
        ray_set
            Which rays.

        Returns
        -------
        NDArray
            Linear path gain to an isotropic receiver, the pattern's gain included, of shape
            (transmitter, row, column), row 0 in the south; 0 where no ray arrived.
        """
        self._place(transmitters)
        mitsuba = self._rt.mi
        followed = grid if isinstance(grid, Surface) else None
        plane = grid.beneath() if isinstance(grid, Surface) else grid
        with _following(self._rt, followed):
            radio_map = self._solver(
                self._scene,
                center=mitsuba.Point3f(*map(float, plane.centre_m), float(plane.height_m)),
                orientation=mitsuba.Point3f(0.0, 0.0, 0.0),
                size=mitsuba.Point2f(plane.columns * plane.cell_m, plane.rows * plane.cell_m),
                cell_size=mitsuba.Point2f(plane.cell_m, plane.cell_m),
                samples_per_tx=ray_set.rays,
                max_depth=self._max_depth,
                los=True,
                specular_reflection=True,
                diffuse_reflection=False,
                refraction=False,
                diffraction=self._diffraction,
                diffraction_lit_region=False,
                seed=ray_set.seed,
            )
            gain = np.array(radio_map.path_gain, dtype=np.float32)
        if followed is None:
            return gain
        # Sionna divides by the area in plan, here of a surface that is tilted
        return np.asarray(gain / followed.tilt(), dtype=np.float32)

    def _place(self, transmitters: Sequence[Transmitter]) -> None:
        patterns = {t.pattern for t in transmitters}
        if len(patterns) != 1:
            raise RadioError(f"transmitters traced together need one pattern, got {patterns}")
        for name in list(self._scene.transmitters):
            self._scene.remove(name)
        array = functools.partial(self._rt.PlanarArray, num_rows=1, num_cols=1, polarization="V")
        self._scene.tx_array = array(pattern=patterns.pop())
        self._scene.rx_array = array(pattern="iso")
        for index, transmitter in enumerate(transmitters):
            self._scene.add(
                self._rt.Transmitter(
                    name=f"transmitter-{index}",
                    position=[float(v) for v in transmitter.position_m],
                    orientation=[
                        float(azimuth_to_math_angle_rad(transmitter.azimuth_deg)),
                        math.radians(float(transmitter.downtilt_deg)),
                        0.0,
                    ],
                )
            )


@contextlib.contextmanager
def _following(rt: ModuleType, surface: Surface | None) -> Iterator[None]:
    """Let Sionna's planar radio map gather its power on a surface instead of a plane.

    Sionna's own mesh radio maps lose nearly all diffraction: the ray that tests whether the
    surface can be seen from the edge ends after a metre (sionna-rt 2.2, radio_map_solver.py).
    The planar code is right for any surface that can be hit by a ray and has coordinates (u, v)
    that tell the grid cell, so that is what it is given.
    """
    if surface is None:
        yield
        return
    module: Any = importlib.import_module("sionna.rt.radio_map_solvers.radio_map_solver")
    planar = module.PlanarRadioMap
    alone: list[Any] = []
    shape = _shape_hit_alone(rt.mi, surface, alone)
    on_surface = type(
        "SurfaceRadioMap", (planar,), {"measurement_surface": property(lambda _: shape)}
    )
    module.PlanarRadioMap = on_surface
    try:
        yield
    finally:
        module.PlanarRadioMap = planar
        alone.clear()  # a scene and its shape would keep each other alive


def _shape_hit_alone(mitsuba: Any, surface: Surface, alone: list[Any]) -> Any:
    """A Mitsuba mesh that rays are tested against in a scene of its own, put into a list."""
    vertices, faces = surface.triangles()
    rows, columns = surface.shape
    u, v = np.meshgrid(np.linspace(0, 1, columns + 1), np.linspace(0, 1, rows + 1))
    # of flat triangles: an interpolated normal would bend the density of rays
    properties = mitsuba.Properties()
    properties["face_normals"] = True

    def ray_intersect(_: Any, ray: Any, active: Any = True) -> Any:
        return alone[0].ray_intersect(ray, active=active)

    mesh = type("SurfaceMesh", (mitsuba.Mesh,), {"ray_intersect": ray_intersect})(
        "measurement-surface",
        vertex_count=len(vertices),
        face_count=len(faces),
        has_vertex_texcoords=True,
        props=properties,
    )
    parameters = mitsuba.traverse(mesh)
    parameters["vertex_positions"] = vertices.ravel()
    parameters["vertex_texcoords"] = np.stack([u, v], axis=-1).astype(np.float32).ravel()
    parameters["faces"] = faces.ravel()
    parameters.update()
    alone.append(mitsuba.load_dict({"type": "scene", "surface": mesh}))
    return mesh


@dataclass(frozen=True)
class Trace:
    """One ray set over one grid, for transmitters that share their place: a unit of work.

    Attributes
    ----------
    scene_file
        The scene's XML.
    frequency_hz, max_depth, diffraction
        As of `RayTracer`.
    transmitters, grid, ray_set
        As of `RayTracer.path_gain`.
    """

    scene_file: Path
    frequency_hz: float
    max_depth: int
    diffraction: bool
    transmitters: tuple[Transmitter, ...]
    grid: Plane | Surface
    ray_set: RaySet


def trace(work: Sequence[Trace]) -> Iterator[NDArray[np.float32]]:
    """Path gains of units of work, in their order, as of `RayTracer.path_gain`.

    Raises
    ------
    RadioError
        If a scene cannot be loaded, or a worker process was killed.
    """
    try:
        yield from _workers().map(_trace_one, work)
    except BrokenProcessPool as error:
        _workers.cache_clear()
        raise RadioError(
            "a ray-tracing process was killed",
            where=str(work[0].scene_file.parent) if work else "",
            remedy="It may have run out of memory: lower ray_tracing.rays_per_sector.",
        ) from error


@functools.cache
def _workers() -> ProcessPoolExecutor:
    """The processes that trace; they stay for the next tile, with Sionna loaded."""
    return ProcessPoolExecutor(
        max_workers=min(len(os.sched_getaffinity(0)), _MAX_WORKERS),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_use_one_thread,
    )


def _use_one_thread() -> None:
    _sionna_rt()
    import drjit  # noqa: PLC0415

    drjit.set_thread_count(1)


def _trace_one(work: Trace) -> NDArray[np.float32]:
    tracer = _tracer(work.scene_file, work.frequency_hz, work.max_depth, work.diffraction)
    return tracer.path_gain(work.transmitters, work.grid, work.ray_set)


@functools.lru_cache(maxsize=2)
def _tracer(scene_file: Path, frequency_hz: float, max_depth: int, diffraction: bool) -> RayTracer:
    return RayTracer(
        scene_file, frequency_hz=frequency_hz, max_depth=max_depth, diffraction=diffraction
    )


def bundled_scene(name: str) -> Path:
    """File of a scene that comes with Sionna RT, such as ``munich``."""
    return Path(getattr(_sionna_rt().scene, name))


def device_name() -> str:
    """The Mitsuba variant that rays are traced with, such as ``llvm_ad_mono_polarized``."""
    return str(_sionna_rt().mi.variant())


@functools.cache
def _sionna_rt() -> ModuleType:
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
