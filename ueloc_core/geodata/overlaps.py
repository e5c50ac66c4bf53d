"""Space that two buildings would share: found, and given to one of them.

A building fills its plan between its underside and its top, both above its datum. Two may stand
upon each other, and no two may share more than 1 m2 of plan and overlap in height.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray

from ueloc_core.geodata.buildings import LEVEL_M, cut_polygons

LARGEST_OVERLAP_M2 = 1.0
_TOUCH_M2 = 1e-3
_TOUCH_M = 1e-6
_THIN_M = 0.15
_CARRIED_SHARE = 0.5  # of its plan that a raised building must have above what carries it
_SLAB_M = 0.5


@dataclass(frozen=True)
class _Volumes:
    """Plans of n buildings, and undersides and tops [m] above the CRS' height 0, shape (n,)."""

    shapes: NDArray[Any]
    base_m: NDArray[np.float64]
    top_m: NDArray[np.float64]

    def meeting(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Pairs that share plan and height, and the area [m^2] that they share."""
        left, right = shapely.STRtree(self.shapes).query(self.shapes, predicate="intersects")
        left, right = left[left < right], right[left < right]
        in_height = (self.base_m[left] < self.top_m[right] - _TOUCH_M) & (
            self.base_m[right] < self.top_m[left] - _TOUCH_M
        )
        left, right = left[in_height], right[in_height]
        area = shapely.area(shapely.intersection(self.shapes[left], self.shapes[right]))
        return left, right, area


def _volumes(buildings: gpd.GeoDataFrame) -> _Volumes:
    ground = buildings["ground_m"].to_numpy(float)
    return _Volumes(
        buildings.geometry.to_numpy(),
        ground + buildings["min_height_m"].to_numpy(float),
        ground + buildings["height_m"].to_numpy(float),
    )


def overlapping_pairs(
    buildings: gpd.GeoDataFrame, largest_m2: float = LARGEST_OVERLAP_M2
) -> list[tuple[str, str, float]]:
    """Pairs of buildings that share plan and overlap in height.

    Every pair is looked at by itself, by its polygons and heights alone.

    Parameters
    ----------
    buildings
        Rows of `FeatureSchema` that are buildings.
    largest_m2
        Shared area [m^2] that is let pass.

    Returns
    -------
    Their osm_ids and the area that they share [m^2], sorted.
    """
    names = buildings["osm_id"].to_list()
    left, right, area = _volumes(buildings).meeting()
    pairs = zip(left.tolist(), right.tolist(), area.tolist(), strict=True)
    return sorted(
        (*sorted((names[i], names[j])), shared) for i, j, shared in pairs if shared > largest_m2
    )


def resolve_overlaps(buildings: gpd.GeoDataFrame, counts: Counter[str]) -> gpd.GeoDataFrame:
    """Change buildings so that no two fill the same space.

    First, a raised building of which half or more stands over a lower one that reaches a little
    into it (less than a level) is lifted onto it: ``raised_buildings_lifted``. Then, of two that
    overlap, the one with the higher top keeps the overlap (then the larger, then the one whose
    osm_id comes first) and the other is cut: ``overlaps_cut``, ``overlapped_buildings_dropped``.
    The result does not depend on the order of the rows.

    Parameters
    ----------
    buildings
        Rows with ``osm_id, ground_m, min_height_m, height_m`` and polygons [m].
    counts
        Counts that this call adds to.
    """
    if not len(buildings):
        return buildings
    buildings = buildings.assign(min_height_m=_lifted(buildings, counts))
    volumes = _volumes(buildings)
    # tops in millimetres, so that equal heights on equal ground stay equal
    tops = np.round(volumes.top_m, 3)
    areas = np.round(shapely.area(volumes.shapes), 3)
    keys = zip(-tops, -areas, buildings["osm_id"], range(len(buildings)), strict=True)
    order = [key[3] for key in sorted(keys)]
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    over: dict[int, list[int]] = {}
    left, right, area = volumes.meeting()
    for i, j, shared in zip(left.tolist(), right.tolist(), area.tolist(), strict=True):
        if shared > _TOUCH_M2:
            low, high = (i, j) if rank[i] > rank[j] else (j, i)
            over.setdefault(low, []).append(high)
    shapes: list[Any] = list(volumes.shapes)
    for low in sorted(over, key=lambda index: rank[index]):
        covers = sorted(over[low], key=lambda index: rank[index])
        cover = shapely.union_all([shapes[high] for high in covers if shapes[high] is not None])
        if cover.intersection(shapes[low]).area <= _TOUCH_M2:
            continue
        counts["overlaps_cut"] += 1
        shapes[low] = cut_polygons(shapes[low], cover, _THIN_M)
        counts["overlapped_buildings_dropped"] += shapes[low] is None
    resolved = buildings.set_geometry(gpd.GeoSeries(shapes, buildings.index, crs=buildings.crs))
    return resolved[np.array([shape is not None for shape in shapes], dtype=bool)]


def _lifted(buildings: gpd.GeoDataFrame, counts: Counter[str]) -> NDArray[np.float64]:
    """Undersides [m] above the datum; those of raised buildings on top of what carries them."""
    volumes = _volumes(buildings)
    base_m = buildings["min_height_m"].to_numpy(float).copy()
    roof_m = buildings["roof_height_m"].to_numpy(float)
    lifted_to = volumes.base_m.copy()
    plan_m2 = shapely.area(volumes.shapes)
    for i, j, shared in zip(*volumes.meeting(), strict=True):
        for high, low in ((i, j), (j, i)):
            step_m = volumes.top_m[low] - volumes.base_m[high]
            if (
                base_m[high] > 0
                and 0 < step_m <= LEVEL_M
                and volumes.base_m[low] < volumes.base_m[high]
                and volumes.top_m[low] + roof_m[high] + _SLAB_M < volumes.top_m[high]
                and shared >= _CARRIED_SHARE * plan_m2[high]
            ):
                lifted_to[high] = max(lifted_to[high], volumes.top_m[low])
    raised = lifted_to > volumes.base_m
    counts["raised_buildings_lifted"] += int(raised.sum())
    ground = buildings["ground_m"].to_numpy(float)
    return np.asarray(np.where(raised, np.round(lifted_to - ground, 3), base_m))
