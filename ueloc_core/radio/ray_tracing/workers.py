"""Many sites at a time: processes of one thread each.

Much of a pass is numpy's, on one thread, so two processes of one thread are faster than one of
two, and the sums of a map are in the same order every time: the same bits.
"""

import ctypes
import functools
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from ueloc_core.errors import RadioError
from ueloc_core.radio.ray_tracing.bounces import Interactions
from ueloc_core.radio.ray_tracing.engine import RayScene, drjit
from ueloc_core.radio.ray_tracing.far_field import Sector
from ueloc_core.radio.ray_tracing.launch import RaySet
from ueloc_core.radio.ray_tracing.receivers import Grid
from ueloc_core.radio.ray_tracing.site import SiteMaps, SiteTracer

_MAX_WORKERS = 8  # each holds about 1.5 GB


@dataclass(frozen=True)
class Trace:
    """One site over one grid: a unit of work.

    Attributes
    ----------
    scene_file
        The scene's XML.
    frequency_hz
        Carrier frequency [Hz].
    interactions, mast_m, sectors, grid, ray_set
        As of `SiteTracer`.
    """

    scene_file: Path
    frequency_hz: float
    interactions: Interactions
    mast_m: tuple[float, float, float]
    sectors: tuple[Sector, ...]
    grid: Grid
    ray_set: RaySet


def trace(work: Sequence[Trace]) -> Iterator[SiteMaps]:
    """Maps of units of work, in their order.

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
            remedy="It may have run out of memory: lower ray_tracing.rays_per_site.",
        ) from error


@functools.cache
def _workers() -> ProcessPoolExecutor:
    """The processes that trace; they stay for the next tile, with Sionna loaded."""
    return ProcessPoolExecutor(
        max_workers=1 if _has_cuda() else min(len(os.sched_getaffinity(0)), _MAX_WORKERS),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_use_one_thread,
    )


def _has_cuda() -> bool:
    """Whether a CUDA device is there, which Dr.Jit then takes: one process keeps it busy."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return False
    return count.value > 0


def _use_one_thread() -> None:
    drjit().set_thread_count(1)


def _trace_one(work: Trace) -> SiteMaps:
    tracer = _tracer(work.scene_file, work.frequency_hz, work.interactions)
    return tracer.maps(work.mast_m, work.sectors, work.grid, work.ray_set)


@functools.lru_cache(maxsize=2)
def _tracer(scene_file: Path, frequency_hz: float, interactions: Interactions) -> SiteTracer:
    return SiteTracer(RayScene(scene_file, frequency_hz), interactions)
