"""What Sionna RT itself offers for the same site: its radio-map solver, and bare rays."""

import math
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.helsinki_site import INTERACTIONS, Site
from ueloc_core.radio.ray_tracing import sionna_rt
from ueloc_core.radio.ray_tracing.engine import drjit


class GainSolver:
    """Sionna's radio-map solver, all sectors in one call: path gain and nothing else.

    Parameters
    ----------
    site
        The site.
    """

    def __init__(self, site: Site) -> None:
        rt = sionna_rt()
        self._grid = site.grid
        self._scene: Any = site.load().sionna
        antenna = {"num_rows": 1, "num_cols": 1, "polarization": "V"}
        self._scene.tx_array = rt.PlanarArray(pattern="tr38901", **antenna)
        self._scene.rx_array = rt.PlanarArray(pattern="iso", **antenna)
        for index, sector in enumerate(site.sectors):
            looks = [math.radians(90 - sector.azimuth_deg), math.radians(sector.downtilt_deg), 0.0]
            self._scene.add(rt.Transmitter(f"sector-{index}", list(site.mast_m), orientation=looks))

    def gain(self, samples: int, seed: int, *, diffraction: bool = True) -> NDArray[np.float64]:
        """Linear path gain, shape (sector, row, column), of so many samples a sector."""
        mi, grid = sionna_rt().mi, self._grid
        size_m = (grid.columns * grid.cell_m, grid.rows * grid.cell_m)
        middle_m = [corner + size / 2 for corner, size in zip(grid.corner_m, size_m, strict=True)]
        found = sionna_rt().RadioMapSolver()(
            self._scene,
            center=mi.Point3f(*middle_m, grid.height_m),
            orientation=mi.Point3f(0, 0, 0),
            size=mi.Point2f(*size_m),
            cell_size=mi.Point2f(grid.cell_m, grid.cell_m),
            samples_per_tx=samples,
            max_depth=INTERACTIONS.max_depth,
            refraction=False,
            diffraction=diffraction,
            diffraction_lit_region=False,
            seed=seed,
        )
        return np.array(found.path_gain, dtype=np.float64)


def primary_rays_per_s(site: Site, rays: int = 1 << 22, repetitions: int = 3) -> float:
    """Rays from the mast that Mitsuba can test against the scene in a second, and no more.

    They go to points spread evenly over the window, row by row.
    """
    dr, mi = drjit(), sionna_rt().mi
    geometry, grid = site.load().geometry, site.grid
    side = math.isqrt(rays)
    index = dr.arange(mi.UInt, side**2)
    row = index // side
    extent_m = mi.Vector2f(grid.columns * grid.cell_m, grid.rows * grid.cell_m)
    part = (mi.Vector2f(mi.Float(index - row * side), mi.Float(row)) + 0.5) / side
    place = mi.Point3f(
        grid.corner_m[0] + part.x * extent_m.x,
        grid.corner_m[1] + part.y * extent_m.y,
        grid.height_m,
    )
    mast = mi.Point3f(*site.mast_m)
    direction = mi.Vector3f(dr.normalize(place - mast))
    ray = mi.Ray3f(mi.Point3f(mast + 0.0 * direction), direction)
    dr.eval(ray)
    taken_s = []
    for _ in range(repetitions + 1):  # the first one compiles
        dr.sync_thread()
        started = time.perf_counter()
        dr.eval(geometry.ray_intersect_preliminary(ray, coherent=True).t)
        dr.sync_thread()
        taken_s.append(time.perf_counter() - started)
    return side**2 / float(np.median(taken_s[1:]))
