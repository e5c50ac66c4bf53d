"""Roofs: the lower envelope of a few planes over a footprint.

A flat or a skillion roof is one plane; a gabled one is the lower of two planes that meet at the
ridge; a hipped one of the four that rise from the sides of the footprint's rectangle; a
pyramidal one of the planes that rise from the sides of a convex footprint to its centroid. An
envelope is continuous over any footprint, courtyards and bays included, so its mesh closes.
"""

import itertools
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

LEAST_FILL = 0.6
"""A footprint that fills less of its rectangle has no single ridge: its roof is made flat."""

_GRID_M = 0.001
_NARROW_M = 0.5
_LONGEST_RING = 24


@dataclass(frozen=True)
class Roof:
    """Shape of a roof.

    Attributes
    ----------
    shape
        ``flat``, ``skillion``, ``gabled``, ``hipped`` or ``pyramidal``.
    height_m
        From the eaves to the top [m], 0 of a flat one.
    direction_deg
        Direction of steepest descent, clockwise from north; None: across the longer side of the
        footprint's smallest rectangle.
    """

    shape: str = "flat"
    height_m: float = 0.0
    direction_deg: float | None = None


@dataclass(frozen=True)
class RoofSurface:
    """Planes z = a x + b y + c over a footprint, the lowest of which is the roof.

    Attributes
    ----------
    planes
        (a, b, c) [1, 1, m], shape (plane, 3), x and y from ``reference_m``.
    reference_m
        What x and y are counted from [m]: near the footprint, so that sums stay exact.
    least_m
        Height of the eaves [m], below which the roof never falls.
    """

    planes: NDArray[np.float64]
    reference_m: tuple[float, float]
    least_m: float

    def height_at(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Height of the roof [m] over points of shape (point, 2) [m]."""
        local = points - np.asarray(self.reference_m)
        z = local @ self.planes[:, :2].T + self.planes[:, 2]
        return np.asarray(np.maximum(z.min(axis=1), self.least_m))

    def cells(self, footprint: Any) -> list[Any]:
        """The footprint cut along ridges and hips into polygons of one plane each.

        Neighbouring polygons share the vertices of their borders.
        """
        polygons = [p for p in shapely.get_parts(footprint) if p.area > 0]
        if len(self.planes) == 1:
            return polygons
        lines = [polygon.boundary for polygon in polygons]
        regions = self._regions(footprint.bounds)
        lines += [region.boundary.intersection(footprint) for region in regions]
        noded = shapely.union_all(lines, grid_size=_GRID_M)
        cells = shapely.get_parts(shapely.polygonize([noded])).tolist()
        return [cell for cell in cells if footprint.contains(cell.representative_point())]

    def _regions(self, bounds: tuple[float, float, float, float]) -> list[Any]:
        """Where each plane is the lowest, as convex polygons that reach beyond the bounds."""
        box = shapely.get_coordinates(shapely.box(*bounds).buffer(1.0, join_style="mitre"))[:-1]
        box = box - np.asarray(self.reference_m)
        regions = []
        for k, plane in enumerate(self.planes):
            corners = box
            for j, other in enumerate(self.planes):
                if j != k and len(corners):
                    corners = _clipped(corners, plane - other)
            if len(corners) >= 3:
                polygon = shapely.Polygon(corners + np.asarray(self.reference_m))
                if polygon.area > _GRID_M:
                    regions.append(polygon)
        return regions


def roof_surface(footprint: Any, roof: Roof, top_m: float, counts: Counter[str]) -> RoofSurface:
    """The surface of a roof.

    Parameters
    ----------
    footprint
        Polygon or multipolygon [m].
    roof
        Its shape and height.
    top_m
        Height of the highest point of the roof [m].
    counts
        Counts that this call adds to: ``roofs_flattened``, roofs that were asked to be pitched
        over a footprint without one ridge; they are flat at half of the roof's height.
    """
    x0, y0, _, _ = footprint.bounds
    reference = (float(math.floor(x0)), float(math.floor(y0)))
    eaves_m = top_m - roof.height_m
    local = shapely.transform(footprint, lambda xy: xy - np.asarray(reference))
    if roof.shape == "flat" or roof.height_m <= 0:
        return _flat(top_m, reference)
    if roof.shape == "pyramidal" and _is_convex(local):
        planes = _to_apex(local, eaves_m, roof.height_m)
        return RoofSurface(planes, reference, eaves_m)
    frame = _Frame.of(local, roof.direction_deg)
    if roof.shape != "skillion" and local.area < LEAST_FILL * frame.area_m2:
        counts["roofs_flattened"] += 1
        return _flat(top_m - roof.height_m / 2, reference)
    if min(frame.across_m, frame.along_m) < _NARROW_M:
        counts["roofs_flattened"] += 1
        return _flat(top_m - roof.height_m / 2, reference)
    return RoofSurface(frame.planes(roof.shape, eaves_m, roof.height_m), reference, eaves_m)


def flattened(footprint: Any, roof: Roof, top_m: float) -> RoofSurface:
    """The flat roof that stands for one that cannot be closed."""
    x0, y0, _, _ = footprint.bounds
    return _flat(top_m - roof.height_m / 2, (float(math.floor(x0)), float(math.floor(y0))))


def _flat(height_m: float, reference: tuple[float, float]) -> RoofSurface:
    return RoofSurface(np.array([[0.0, 0.0, height_m]]), reference, height_m)


def _clipped(corners: NDArray[np.float64], line: NDArray[np.float64]) -> NDArray[np.float64]:
    """The part of a convex polygon where a x + b y + c <= 0 (Sutherland and Hodgman)."""
    side = corners @ line[:2] + line[2]
    kept = []
    for here, there in itertools.pairwise([*range(len(corners)), 0]):
        if side[here] <= 0:
            kept.append(corners[here])
        if (side[here] < 0 < side[there]) or (side[there] < 0 < side[here]):
            share = side[here] / (side[here] - side[there])
            kept.append(corners[here] + share * (corners[there] - corners[here]))
    return np.array(kept).reshape(-1, 2)


def _is_convex(footprint: Any) -> bool:
    if footprint.geom_type != "Polygon" or len(footprint.interiors):
        return False
    few = len(footprint.exterior.coords) <= _LONGEST_RING
    return bool(few and footprint.area > 0.999 * footprint.convex_hull.area)


def _to_apex(footprint: Any, eaves_m: float, height_m: float) -> NDArray[np.float64]:
    """Planes that rise from the sides of a convex polygon to its centroid."""
    apex = np.array([footprint.centroid.x, footprint.centroid.y])
    ring = shapely.get_coordinates(shapely.normalize(footprint.convex_hull).exterior)
    planes = []
    for start, end in itertools.pairwise(ring):
        along = end - start
        inward = np.array([-along[1], along[0]]) / np.hypot(*along)
        distance = float(inward @ (apex - start))
        inward = inward * math.copysign(1.0, distance)
        slope = height_m / abs(distance)
        planes.append([*(inward * slope), eaves_m - slope * float(inward @ start)])
    return np.array(planes)


@dataclass(frozen=True)
class _Frame:
    """A rectangle around a footprint: ``across`` points down the roof's slope."""

    across: NDArray[np.float64]
    low: float
    high: float
    left: float
    right: float

    @classmethod
    def of(cls, footprint: Any, direction_deg: float | None) -> "_Frame":
        points = shapely.get_coordinates(footprint)
        if direction_deg is None:
            ring = shapely.get_coordinates(shapely.minimum_rotated_rectangle(footprint))
            sides = np.diff(ring[:3], axis=0) if len(ring) >= 3 else np.eye(2)
            lengths = np.hypot(*sides.T)
            across = sides[int(np.argmin(lengths))]
            # one of two opposite directions, the same for any order of the corners
            across = across if tuple(across) > (0.0, 0.0) else -across
        else:
            turn = math.radians(direction_deg)
            across = np.array([math.sin(turn), math.cos(turn)])
        across = across / max(float(np.hypot(*across)), 1e-12)
        along = np.array([-across[1], across[0]])
        v, u = points @ across, points @ along
        return cls(across, float(v.min()), float(v.max()), float(u.min()), float(u.max()))

    @property
    def across_m(self) -> float:
        return self.high - self.low

    @property
    def along_m(self) -> float:
        return self.right - self.left

    @property
    def area_m2(self) -> float:
        return self.across_m * self.along_m

    def planes(self, shape: str, eaves_m: float, height_m: float) -> NDArray[np.float64]:
        """Planes (a, b, c) of a roof that rises from the eaves by a height [m]."""
        v = self.across
        u = np.array([-v[1], v[0]])
        if shape == "skillion":
            slope = height_m / self.across_m
            return np.array([[*(-slope * v), eaves_m + slope * self.high]])
        half_v, half_u = self.across_m / 2, self.along_m / 2
        if shape == "hipped":
            half_v = half_u = min(half_v, half_u)
        slope_v, slope_u = height_m / half_v, height_m / half_u
        sides = [
            [*(slope_v * v), eaves_m - slope_v * self.low],
            [*(-slope_v * v), eaves_m + slope_v * self.high],
        ]
        ends = [
            [*(slope_u * u), eaves_m - slope_u * self.left],
            [*(-slope_u * u), eaves_m + slope_u * self.right],
        ]
        return np.array(sides if shape == "gabled" else sides + ends)
