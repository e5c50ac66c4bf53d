"""Where the antennas of a plan stand: above ground, on roofs, and never inside a building.

All sources of sites give a table of antennas (`ANTENNA_COLUMNS`); `settle` puts them on the
ground and the roofs of the city by the same rules.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from ueloc_core.city import City
from ueloc_core.city_sections import SitePlanConfig
from ueloc_core.errors import RadioError
from ueloc_core.geodata.schemas import BUILDING_KINDS
from ueloc_core.geodata.terrain import Terrain

ANTENNA_COLUMNS: dict[str, type] = {
    "sector_id": np.int64,
    "site_id": np.int64,
    "x_m": np.float64,
    "y_m": np.float64,
    "height_m": np.float64,
    "roof_m": np.float64,
    "lift": np.bool_,
    "azimuth_deg": np.float64,
    "downtilt_deg": np.float64,
    "electrical_tilt_deg": np.float64,
    "antenna": object,
    "power_dbm": np.float64,
    "pci": np.int64,
    "position_sigma_m": np.float64,
    "source": object,
    "assumed": object,
    "sector_name": object,
    "where": object,
}
"""Columns of a table of antennas that have not been put on ground and roofs yet.

``height_m`` is the stated height above ground, NaN where none is. ``roof_m`` is the elevation of
the roof that the plan chose, NaN where it chose none. ``lift`` tells whether an antenna whose
stated height lies inside a building is put on its roof; else it is an error. ``where`` names the
place in the source that holds it.
"""

NUM_PCI_GROUPS = 336
_HASHED_FROM = 2**52  # numbers of a user's own are smaller, and 2**53 is the last exact double
_SHOWN = 8


def stable_number(name: str) -> int:
    """A number that follows from a name alone, at least 2**52 and below 2**53.

    Numbers of 15 digits and less, which a source may give itself, are never met.
    """
    return _HASHED_FROM + int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % _HASHED_FROM


def antenna_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows as a table of `ANTENNA_COLUMNS`; a row may leave heights and notes out."""
    usual = {"height_m": np.nan, "roof_m": np.nan, "lift": True, "assumed": "", "where": ""}
    frame = pd.DataFrame([{**usual, **row} for row in rows], columns=list(ANTENNA_COLUMNS))
    return frame.astype(ANTENNA_COLUMNS)


@dataclass(frozen=True)
class _Roof:
    """A building, or a part of one, over a point: elevations [m] of its underside and top."""

    osm_id: str
    bottom_m: float
    top_m: float
    height_m: float
    height_source: str


def settle(
    antennas: pd.DataFrame,
    buildings: gpd.GeoDataFrame,
    terrain: Terrain,
    city: City,
) -> tuple[pd.DataFrame, Counter[str]]:
    """Put antennas on ground and roofs: their height and elevation.

    An antenna of a stated height stands there. Where none is stated, it stands
    ``mast_height_m`` above the roof of a building of ``min_building_height_m`` and more, else
    ``height_above_ground_m`` above ground, and above the roof of a lower building in any case.

    Parameters
    ----------
    antennas
        Table of `ANTENNA_COLUMNS`.
    buildings
        Features over the antennas; what is no building is left aside.
    terrain
        The ground under them.
    city
        Its ``site_plan`` names the heights.

    Returns
    -------
    The table with ``height_m`` above ground, ``elevation_m`` and no ``roof_m`` or ``lift``, and
    counts of sectors: ``on_roofs``, ``assumed_height_on_roof`` and ``lifted_onto_roof``.

    Raises
    ------
    RadioError
        If stated heights lie inside a building or under ground, naming the sites.
    """
    counts: Counter[str] = Counter()
    ground_m = terrain.height_at(antennas.x_m.to_numpy(), antennas.y_m.to_numpy())
    over = _roofs_over(antennas, buildings)
    elevations: list[float] = []
    problems: list[tuple[str, str]] = []
    assumed: list[str] = []
    rows: list[Any] = list(antennas.itertuples())
    for row, ground, roofs in zip(rows, ground_m, over, strict=True):
        stated_m = ground + row.height_m
        unstated = np.isnan(row.height_m)
        inside = [] if unstated else [r for r in roofs if r.bottom_m <= stated_m < r.top_m]
        if not unstated and row.height_m <= 0:
            problems.append((_name(row), f"{row.height_m:g} m above ground is under ground"))
        elif inside and not row.lift:
            problems.append((_name(row), _inside(inside[0], float(stated_m - ground))))
        is_placed = unstated or (bool(inside) and row.lift)
        elevation = _placed_m(row, float(ground), roofs, city.site_plan) if is_placed else stated_m
        tops = [roof.top_m for roof in roofs if roof.top_m <= elevation]
        counts["on_roofs"] += bool(tops) or not np.isnan(row.roof_m)
        counts["lifted_onto_roof"] += bool(inside)
        is_guess = "height_m" in row.assumed.split() or bool(inside)
        counts["assumed_height_on_roof"] += is_guess and bool(tops)
        assumed.append(_with_height(row.assumed) if inside else row.assumed)
        elevations.append(float(elevation))
    if problems:
        raise _misplaced(problems, city)
    elevation_m: NDArray[np.float64] = np.array(elevations, dtype=np.float64)
    placed = antennas.assign(
        height_m=elevation_m - ground_m, elevation_m=elevation_m, assumed=assumed
    )
    _check_clear(placed, over, ground_m, city)
    return placed.drop(columns=["roof_m", "lift"]), counts


def _placed_m(row: Any, ground_m: float, roofs: list[_Roof], plan: SitePlanConfig) -> float:
    """Elevation [m] of an antenna whose height the plan chooses."""
    tops = [roof.top_m for roof in roofs] + ([] if np.isnan(row.roof_m) else [row.roof_m])
    # on a steep slope the uphill ground may lie above the roof of a low building
    on_roof_m = float(max([ground_m, *tops])) + plan.mast_height_m
    is_high = any(roof.height_m >= plan.min_building_height_m for roof in roofs)
    if is_high or not np.isnan(row.roof_m):
        return on_roof_m
    above_ground_m = ground_m + plan.height_above_ground_m
    return max(above_ground_m, on_roof_m) if tops else above_ground_m


def _roofs_over(antennas: pd.DataFrame, features: gpd.GeoDataFrame) -> list[list[_Roof]]:
    """Buildings and parts that hold each antenna in plan, those by osm_id."""
    buildings = features[features["kind"].isin(BUILDING_KINDS)].sort_values("osm_id")
    found: list[list[_Roof]] = [[] for _ in range(len(antennas))]
    tree = shapely.STRtree(buildings.geometry.to_numpy())
    points = shapely.points(antennas.x_m.to_numpy(), antennas.y_m.to_numpy())
    pairs = tree.query(points, predicate="within")
    columns = ["osm_id", "ground_m", "min_height_m", "height_m", "height_source"]
    held = list(buildings[columns].itertuples(index=False))
    for antenna, building in sorted(zip(*pairs.tolist(), strict=True)):
        name, ground_m, under_m, height_m, source = held[building]
        roof = _Roof(
            str(name),
            float(ground_m + under_m) if under_m > 0 else -np.inf,  # no cellar to stand in
            float(ground_m + height_m),
            float(height_m),
            str(source),
        )
        found[antenna].append(roof)
    return found


def inside_buildings(
    x_m: NDArray[np.float64],
    y_m: NDArray[np.float64],
    features: gpd.GeoDataFrame,
    clearance_m: float,
) -> NDArray[np.bool_]:
    """Which points stand within a building's footprint or closer to it than a clearance [m]."""
    shapes = features.geometry[features["kind"].isin(BUILDING_KINDS)].to_numpy()
    tree = shapely.STRtree(shapes)
    hit = tree.query(shapely.points(x_m, y_m), predicate="dwithin", distance=clearance_m)[0]
    inside = np.zeros(len(x_m), dtype=bool)
    inside[hit] = True
    return inside


def _check_clear(
    placed: pd.DataFrame, over: list[list[_Roof]], ground_m: NDArray[np.float64], city: City
) -> None:
    """Whatever the source: no antenna is inside a building or under ground."""
    rows: list[Any] = list(placed.itertuples())
    problems = []
    for row, roofs, ground in zip(rows, over, ground_m, strict=True):
        inside = [roof for roof in roofs if roof.bottom_m <= row.elevation_m < roof.top_m]
        if inside:
            problems.append((_name(row), _inside(inside[0], float(row.elevation_m - ground))))
        elif not row.elevation_m > ground:
            problems.append((_name(row), "it is under ground"))
    if problems:
        raise _misplaced(problems, city)


def _with_height(assumed: str) -> str:
    return " ".join(sorted({*assumed.split(), "height_m"}))


def _name(row: Any) -> str:
    name = row.sector_name or f"sector {row.sector_id}"
    return f"{name} (site {row.site_id}; {row.where})" if row.where else f"{name} of {row.site_id}"


def _inside(roof: _Roof, height_m: float) -> str:
    return (
        f"{height_m:g} m above ground is inside {roof.osm_id}, {roof.height_m:g} m high "
        f"(height: {roof.height_source})"
    )


def _misplaced(problems: list[tuple[str, str]], city: City) -> RadioError:
    shown = "; ".join(f"{name}: {problem}" for name, problem in problems[:_SHOWN])
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return RadioError(
        f"{len(problems)} antennas stand inside a building or under ground: {shown}{more}",
        where=f"{city.name}: site_plan ({city.site_plan.kind})",
        remedy="Correct their height_m or position; or leave height_m empty, or set "
        "site_plan.inside_building: roof, to put them on the roof.",
    )
