"""Where the terminals of a file stood, if it says so: WGS 84 degrees, or metres."""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pyproj import Transformer

from ueloc_core.city import City
from ueloc_core.errors import ReportError
from ueloc_core.measurement.report_tables import BadRow

_NO_FIX_DEG = 1e-6
_FEWEST = 5
_MOST = 0.8


@dataclass(frozen=True)
class Places:
    """Positions of rows, of one index.

    Attributes
    ----------
    x_m, y_m
        In the city's CRS, NaN where unknown.
    wrong
        Which rows state a position that cannot be one.
    bad_rows
        Those, with the reason.
    """

    x_m: "pd.Series[float]"
    y_m: "pd.Series[float]"
    wrong: "pd.Series[bool]"
    bad_rows: list[BadRow]


@dataclass(frozen=True)
class Axes:
    """The two columns that state positions.

    Attributes
    ----------
    first, second
        Their names: longitude and latitude, or easting and northing.
    degrees
        Whether they hold WGS 84 degrees; otherwise metres in the city's CRS.
    """

    first: str
    second: str
    degrees: bool


def places_of(
    first: "pd.Series[float]",
    second: "pd.Series[float]",
    lines: "pd.Series[int]",
    axes: Axes,
    city: City,
) -> Places:
    """Positions of rows in the city's CRS.

    A position of 0, 0 is what receivers write without a fix, and counts as unknown. One that is
    further from the city's bounds than its maps reach is wrong, and so is half a position.

    Parameters
    ----------
    first, second
        Values of the axes, NaN where nothing is stated.
    lines
        Line of each row.
    axes
        What they are.
    city
        Where they should be.
    """
    no_fix = (first.abs() < _NO_FIX_DEG) & (second.abs() < _NO_FIX_DEG)
    first, second = first.where(~no_fix), second.where(~no_fix)
    x_m, y_m = first, second
    if axes.degrees:
        projected = _to_crs(city.crs_code).transform(first.to_numpy(), second.to_numpy())
        x_m, y_m = (pd.Series(np.where(np.isfinite(v), v, np.nan), first.index) for v in projected)
    half = first.isna() ^ second.isna()
    x0, y0, x1, y1 = city.bounds_m
    reach_m = city.range_m
    inside = x_m.between(x0 - reach_m, x1 + reach_m) & y_m.between(y0 - reach_m, y1 + reach_m)
    outside = first.notna() & second.notna() & ~inside
    bad_rows = []
    for index in first.index[half | outside]:
        reason = f"more than {reach_m:.0f} m outside of the city" if outside[index] else "half"
        if reason == "half":
            reason = f"{axes.first} and {axes.second} belong together; one is missing"
        value = f"{first[index]:g}, {second[index]:g}"
        bad_rows.append(BadRow(int(lines[index]), axes.first, value, reason))
    known = inside & ~half
    return Places(x_m.where(known), y_m.where(known), half | outside, bad_rows)


def refuse_wrong_places(
    first: "pd.Series[float]", second: "pd.Series[float]", axes: Axes, city: City, path: Path
) -> None:
    """Refuse positions whose axes are swapped, or none of which is near the city.

    Parameters
    ----------
    first, second
        All values of the axes as the file states them.
    axes, city
        As in `places_of`.
    path
        The file.

    Raises
    ------
    ReportError
        Naming the columns, what they look like and the remedy.
    """
    known = first.notna() & second.notna() & ~((first == 0) & (second == 0))
    if known.sum() < _FEWEST:
        return
    first, second = first[known], second[known]
    west, south, east, north = city.bbox if axes.degrees else city.bounds_m
    margin = max(east - west, north - south)
    across, along = (west - margin, east + margin), (south - margin, north + margin)
    if (first.between(*across) & second.between(*along)).any():
        return
    columns = f"columns {axes.first} and {axes.second}"
    bounds = ", ".join(f"{side:.10g}" for side in (west, south, east, north))
    unit = "WGS 84 degrees" if axes.degrees else f"metres in {city.crs_code}"
    remedy = f"Give {unit}; west, south, east, north of {city.name} are {bounds}."
    if (second.between(*across) & first.between(*along)).mean() >= _MOST:
        raise ReportError(f"{columns} look swapped", where=str(path), remedy=remedy)
    degrees = (first.abs() <= 180) & (second.abs() <= 90)
    if not axes.degrees and degrees.mean() >= _MOST:
        raise ReportError(f"{columns} look like degrees", where=str(path), remedy=remedy)
    raise ReportError(
        f"no position of {columns} lies near {city.name}", where=str(path), remedy=remedy
    )


@functools.cache
def _to_crs(code: str) -> Transformer:
    return Transformer.from_crs("EPSG:4326", code, always_xy=True)
