"""One pass for all sectors of a site."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ueloc_core.errors import RadioError
from ueloc_core.radio.ray_tracing.bounces import CrossingTest, Interactions, trace_rays
from ueloc_core.radio.ray_tracing.cells import CellMap, CellStatistics
from ueloc_core.radio.ray_tracing.contributions import Contributions
from ueloc_core.radio.ray_tracing.diffraction import diffracted
from ueloc_core.radio.ray_tracing.engine import RayScene
from ueloc_core.radio.ray_tracing.far_field import PathGains, Sector
from ueloc_core.radio.ray_tracing.launch import Launch, RaySet
from ueloc_core.radio.ray_tracing.points import (
    cell_centres,
    cell_points,
    indoors,
    line_of_sight,
    outdoor_share,
)
from ueloc_core.radio.ray_tracing.receivers import Grid, Plane
from ueloc_core.radio.ray_tracing.wedges import Wedges, seen_wedges, wedges_of


@dataclass(frozen=True)
class SiteMaps:
    """Maps of the sectors of one site.

    Attributes
    ----------
    sectors
        One map for each sector.
    line_of_sight
        Share of the outdoor points of each grid cell that see the mast, shape (rows, columns);
        NaN indoors.
    outdoor_share
        Share of each grid cell that lies in no building.
    """

    sectors: list[CellMap]
    line_of_sight: NDArray[np.float32]
    outdoor_share: NDArray[np.float32]


class SiteTracer:
    """Traces sites of one scene; edges are found once.

    Parameters
    ----------
    scene
        The scene; its closed bodies have outward normals.
    interactions
        What happens to rays.
    """

    def __init__(self, scene: RayScene, interactions: Interactions) -> None:
        self.scene = scene
        self.interactions = interactions
        self._wedges: Wedges | None = None

    def maps(
        self,
        mast_m: tuple[float, float, float],
        sectors: Sequence[Sector],
        grid: Grid,
        ray_set: RaySet,
    ) -> SiteMaps:
        """Maps of sectors that share their place.

        Parameters
        ----------
        mast_m
            (x, y, z) of the antennas in the scene's frame [m].
        sectors
            The antennas.
        grid
            Where.
        ray_set
            How many rays and points, and which.

        Raises
        ------
        RadioError
            If the mast's place is not finite, in a building or underground.
        """
        mast_m = self._checked(mast_m)
        share = outdoor_share(self.scene, grid)
        paths, seen = self.paths(mast_m, grid, share, ray_set)
        gains = PathGains(paths)
        statistics = CellStatistics(paths, grid.shape, ray_set.batches)
        maps = [statistics.of(gains.of(sector)) for sector in sectors]
        return SiteMaps(maps, seen, share.astype(np.float32))

    def _checked(self, mast_m: tuple[float, float, float]) -> tuple[float, float, float]:
        """The place of a mast, as Python's floats, where an antenna can stand."""
        x, y, z = (float(value) for value in mast_m)
        where = f"antenna at ({x:g}, {y:g}, {z:g}) m in {self.scene.file}"
        if not np.isfinite([x, y, z]).all():
            raise RadioError("the place is not finite", where=where, remedy="Correct the site.")
        if indoors(self.scene, np.array([[x, y, z]]))[0]:
            raise RadioError(
                "it stands in a building or underground",
                where=where,
                remedy="Move the site, or raise its antennas above the roof.",
            )
        return x, y, z

    def paths(
        self,
        mast_m: tuple[float, float, float],
        grid: Grid,
        share: NDArray[np.float64],
        ray_set: RaySet,
    ) -> tuple[Contributions, NDArray[np.float32]]:
        """All paths to a grid, and the share of each grid cell that sees the mast."""
        points = cell_points(self.scene, grid, share, ray_set)
        seen, direct = line_of_sight(self.scene, mast_m, points, grid)
        cells = grid.rows * grid.columns
        counts = np.bincount(points.cell, minlength=cells)
        visible = np.bincount(points.cell[seen], minlength=cells)
        with np.errstate(invalid="ignore"):
            seen_share = (visible / counts).astype(np.float32).reshape(grid.shape)
        # a grid cell of which no point fell outdoors counts as indoors, reflections included
        share = np.where(counts.reshape(grid.shape) > 0, share, 0.0)
        found = [direct, *self._bounced(mast_m, grid, share, ray_set)]
        if self.interactions.diffraction and self.interactions.max_depth > 0:
            if self._wedges is None:
                self._wedges = wedges_of(self.scene)
            within_m = float(np.hypot(*_farthest(mast_m, grid)))
            wedges = seen_wedges(self.scene, self._wedges, mast_m, within_m)
            found.append(diffracted(self.scene, mast_m, wedges, points[~seen], grid))
        paths = Contributions.joined(found)
        # where a wall's plane cuts a grid cell, the image is nearer to its centre than the mast
        straight_m = np.linalg.norm(cell_centres(grid) - np.asarray(mast_m), axis=1)
        np.maximum(paths.length_m, straight_m[paths.cell], out=paths.length_m)
        return paths, seen_share

    def _bounced(
        self,
        mast_m: tuple[float, float, float],
        grid: Grid,
        share: NDArray[np.float64],
        ray_set: RaySet,
    ) -> list[Contributions]:
        crossings = CrossingTest(grid)
        launch = launch_over(mast_m, grid)
        free = share.ravel()
        found = []
        for part in trace_rays(self.scene, mast_m, crossings, launch, self.interactions, ray_set):
            kept = part[free[part.cell] > 0]
            weight = (kept.weight / free[kept.cell]).astype(np.float32)
            found.append(replace(kept, weight=weight))
        return found


def launch_over(mast_m: tuple[float, float, float], grid: Grid) -> Launch:
    """How rays leave a mast, so that they cover a grid."""
    across, along = _farthest(mast_m, grid)
    core_m = float(np.hypot(across, along))
    if isinstance(grid, Plane):
        drop = mast_m[2] - grid.height_m
        return Launch(core_m, abs(drop), steepest=-1.0, both_ways=drop < 0.0)
    x = grid.corner_m[0] + grid.cell_m * np.arange(grid.columns + 1) - mast_m[0]
    y = grid.corner_m[1] + grid.cell_m * np.arange(grid.rows + 1) - mast_m[1]
    distance = np.maximum(np.hypot(*np.meshgrid(x, y)), 2 * grid.cell_m)
    slope = float(((grid.heights_m - mast_m[2]) / distance).max())
    drop = float(mast_m[2] - np.median(grid.heights_m))
    return Launch(core_m, drop, steepest=slope)


def _farthest(mast_m: tuple[float, float, float], grid: Grid) -> tuple[float, float]:
    """Greatest distance of the grid from a mast along both axes [m]."""
    found = []
    for axis, cells in ((0, grid.columns), (1, grid.rows)):
        low = grid.corner_m[axis] - mast_m[axis]
        found.append(max(abs(low), abs(low + cells * grid.cell_m)))
    return found[0], found[1]
