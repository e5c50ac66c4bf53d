"""Path gain by ray tracing: the one importer of Sionna, Mitsuba and Dr.Jit.

They are imported inside the functions, so that loading this module costs nothing. On a CPU,
Sionna's search for diffracting edges depends on the order in which Dr.Jit's threads reach its
hash table. So `trace` spreads ray sets over processes of one thread each: as fast, and the
same bits every time. The coordinates here are local to a scene (its origin is the lower-left
corner of its tile), so that single precision keeps millimetres.
"""

import functools
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
        (x, y, z) of the antenna [m], z above the ground plane.
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
        Height above ground [m].
    """

    centre_m: tuple[float, float]
    columns: int
    rows: int
    cell_m: float
    height_m: float


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
        self, transmitters: Sequence[Transmitter], plane: Plane, ray_set: RaySet
    ) -> NDArray[np.float32]:
        """Path gain of each transmitter, averaged over each grid cell.

        Returns
        -------
        NDArray
            Linear path gain to an isotropic receiver, the pattern's gain included, of shape
            (transmitter, row, column), row 0 in the south; 0 where no ray arrived.
        """
        mitsuba = self._rt.mi
        self._place(transmitters)
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
        return np.array(radio_map.path_gain, dtype=np.float32)

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


@dataclass(frozen=True)
class Trace:
    """One ray set over one plane, for transmitters that share their place: a unit of work.

    Attributes
    ----------
    scene_file
        The scene's XML.
    frequency_hz, max_depth, diffraction
        As of `RayTracer`.
    transmitters, plane, ray_set
        As of `RayTracer.path_gain`.
    """

    scene_file: Path
    frequency_hz: float
    max_depth: int
    diffraction: bool
    transmitters: tuple[Transmitter, ...]
    plane: Plane
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
    return tracer.path_gain(work.transmitters, work.plane, work.ray_set)


@functools.lru_cache(maxsize=2)
def _tracer(scene_file: Path, frequency_hz: float, max_depth: int, diffraction: bool) -> RayTracer:
    return RayTracer(
        scene_file, frequency_hz=frequency_hz, max_depth=max_depth, diffraction=diffraction
    )


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
