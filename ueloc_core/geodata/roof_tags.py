"""Roofs by their tags: shape, height, direction (Simple 3D Buildings)."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely

from ueloc_core.geodata.tags import (
    MAX_LEVELS,
    Tags,
    count_unreadable,
    first_text,
    parse_angle_deg,
    parse_direction_deg,
    parse_length_m,
    parse_levels,
    read,
)

ROOF_LEVEL_M = 3.2
_SHAPE_KEYS = ("roof:shape", "building:roof:shape")
_EXACT = {
    **dict.fromkeys(("flat", "terrace", "no"), "flat"),
    **dict.fromkeys(("gabled", "gable", "pitched"), "gabled"),
    **dict.fromkeys(("hipped", "hip"), "hipped"),
    **dict.fromkeys(("pyramidal", "pyramid"), "pyramidal"),
    **dict.fromkeys(("skillion", "lean_to", "shed", "monopitch"), "skillion"),
}
_NEAREST = {  # shapes that are drawn as the nearest of the five
    **dict.fromkeys(("half-hipped", "half_hipped", "side_hipped", "side_half-hipped"), "hipped"),
    **dict.fromkeys(("mansard", "quadruple_saltbox", "hipped-and-gabled"), "hipped"),
    **dict.fromkeys(("gambrel", "gabled_row", "saltbox", "double_saltbox", "round"), "gabled"),
    **dict.fromkeys(("gabled_height_moved", "cross_gabled", "barrel", "arched"), "gabled"),
    **dict.fromkeys(("dome", "onion", "cone", "conical", "crosspitched", "tented"), "pyramidal"),
    **dict.fromkeys(("spherical", "helm", "bellcast_gable", "spire"), "pyramidal"),
    **dict.fromkeys(("flat_mansard", "sawtooth", "butterfly"), "flat"),
}
_DEFAULT_SLOPE_DEG = {"gabled": 30.0, "hipped": 30.0, "pyramidal": 40.0, "skillion": 10.0}
_LARGEST_SHARE = 0.4  # of a building that a roof takes whose height is not tagged
_WALL_M = 0.1  # that every roof leaves below its eaves


@dataclass(frozen=True)
class RoofTags:
    """What the tags say of a roof.

    Attributes
    ----------
    shape
        ``flat``, ``gabled``, ``hipped``, ``pyramidal`` or ``skillion``.
    height_m, levels, angle_deg
        From eaves to top [m], levels within the roof (0 where not tagged), slope [deg].
    direction_deg
        Direction of steepest descent [deg], clockwise from north.
    is_across
        Whether the ridge runs across the longer side.
    """

    shape: str = "flat"
    height_m: float | None = None
    levels: float = 0.0
    angle_deg: float | None = None
    direction_deg: float | None = None
    is_across: bool = False

    @property
    def is_stated(self) -> bool:
        """Whether a tag gives the roof's height."""
        return self.height_m is not None or self.levels > 0 or self.angle_deg is not None


def read_roof(tags: Tags, counts: Counter[str]) -> RoofTags:
    """Roof of a building's tags; without a shape it is flat.

    Counted are ``roof_shapes_approximated`` (drawn as the nearest shape that is known) and
    unreadable tags.
    """
    height_m = read(tags, "roof:height", parse_length_m, counts)
    levels = read(tags, "roof:levels", parse_levels, counts, at_most=MAX_LEVELS) or 0.0
    shape = _shape(tags, counts)
    if shape == "flat":
        return RoofTags(height_m=height_m, levels=levels)
    angle = tags.get("roof:angle")
    angle_deg = parse_angle_deg(angle)
    if angle_deg is None and isinstance(angle, str):
        count_unreadable("roof:angle", counts)
    direction = first_text(tags, ("roof:direction",))
    direction_deg = parse_direction_deg(tags.get("roof:direction"))
    words = {"along", "across"}
    if direction is not None and direction_deg is None and direction[1] not in words:
        count_unreadable("roof:direction", counts)
    orientation = first_text(tags, ("roof:orientation",)) or direction
    if orientation is not None and orientation[1] not in words and orientation is not direction:
        count_unreadable("roof:orientation", counts)
    is_across = orientation is not None and orientation[1] == "across"
    return RoofTags(shape, height_m, levels, angle_deg, direction_deg, is_across)


def _shape(tags: Tags, counts: Counter[str]) -> str:
    found = first_text(tags, _SHAPE_KEYS)
    if found is None:
        return "flat"
    key, value = found
    if value in _EXACT:
        return _EXACT[value]
    if value in _NEAREST:
        counts["roof_shapes_approximated"] += 1
        return _NEAREST[value]
    count_unreadable(key, counts)
    return "flat"


def roof_rise_m(roof: RoofTags, shape: Any) -> float:
    """Height of a roof [m]: as tagged, else by levels, slope and width; 0 for a flat one.

    Parameters
    ----------
    roof
        What the tags say.
    shape
        Footprint [m]; without a slope, 30 deg is taken for gabled and hipped roofs, 40 deg for
        pyramidal and 10 deg for skillion ones.
    """
    if roof.shape == "flat":
        return 0.0
    if roof.height_m is not None:
        return roof.height_m
    if roof.levels > 0:
        return roof.levels * ROOF_LEVEL_M
    slope_deg = roof.angle_deg or _DEFAULT_SLOPE_DEG[roof.shape]
    run_m = _run_m(roof, shape) * (1.0 if roof.shape == "skillion" else 0.5)
    return run_m * math.tan(math.radians(slope_deg))


def _run_m(roof: RoofTags, shape: Any) -> float:
    """Width of a footprint [m] in the direction in which its roof slopes."""
    if roof.direction_deg is not None and roof.shape != "pyramidal":
        angle = math.radians(roof.direction_deg)
        along = shapely.get_coordinates(shape) @ np.array([math.sin(angle), math.cos(angle)])
        return float(along.max() - along.min())
    shorter_m, longer_m, _ = rectangle_around(shape)
    return longer_m if roof.is_across else shorter_m


def rectangle_around(shape: Any) -> tuple[float, float, float]:
    """Shorter and longer side [m] of the smallest rectangle, direction of the longer [deg]."""
    ring = shapely.get_coordinates(shapely.minimum_rotated_rectangle(shape))
    if len(ring) < 4:
        return 0.0, 0.0, 0.0
    sides = ring[1:3] - ring[:2]
    lengths = np.hypot(sides[:, 0], sides[:, 1])
    longer = int(np.argmax(lengths))
    direction_deg = math.degrees(math.atan2(sides[longer, 0], sides[longer, 1])) % 180.0
    return float(lengths.min()), float(lengths.max()), direction_deg


def fitted_rise_m(roof: RoofTags, rise_m: float, span_m: float) -> float:
    """Height of a roof [m] that fits a building of a height `span_m` [m]; 0: it must be flat."""
    share = 1.0 if roof.is_stated else _LARGEST_SHARE
    fitted_m = min(rise_m, share * span_m, span_m - _WALL_M)
    return round(fitted_m, 3) if fitted_m >= _WALL_M else 0.0


def direction_deg(roof: RoofTags, shape: Any) -> float | None:
    """Direction of steepest descent [deg] that the tags give, None where the shape decides."""
    if roof.shape not in ("gabled", "hipped", "skillion"):
        return None
    if roof.direction_deg is not None:
        return round(roof.direction_deg, 3) % 360.0
    if roof.is_across and roof.shape != "skillion":
        return round(rectangle_around(shape)[2], 3) % 360.0
    return None
