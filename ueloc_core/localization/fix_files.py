"""Fixes as files that other programs read: GeoJSON, CSV and GeoParquet."""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray

from ueloc_core.city import City
from ueloc_core.errors import UelocError
from ueloc_core.grid import Window
from ueloc_core.localization.regions import containing_radius_m, hpd_region, to_wgs84

LEVELS = (0.5, 0.9)
_REGIONS = ("region50", "region90")
_WGS84 = "OGC:CRS84"


class Located(Protocol):
    """An estimated position with its posterior, as `ueloc_core.localization.localize.Fix`."""

    @property
    def x_m(self) -> float:
        """Estimated easting [m]."""

    @property
    def y_m(self) -> float:
        """Estimated northing [m]."""

    @property
    def std_m(self) -> float:
        """Root mean square distance of the posterior from its mean [m]."""

    @property
    def window(self) -> Window:
        """Where the posterior lies."""

    @property
    def mass(self) -> NDArray[np.floating[Any]]:
        """Posterior mass per grid cell, shape (rows, columns)."""

    @property
    def outside_mass(self) -> float:
        """Posterior mass outside of the window."""

    def region_level(self, level: float) -> float:
        """Posterior mass of the region that holds the terminal with probability `level`."""


def fix_table(fixes: Iterable[Located], report_ids: Sequence[str], city: City) -> gpd.GeoDataFrame:
    """One row per fix, with its regions.

    Returns
    -------
    Columns report_id, lon_deg, lat_deg, x_m, y_m, std_m, radius50_m and radius90_m (circles
    around the estimate that hold the terminal with 50% and 90% probability; infinite where the
    window holds less), area50_m2, area90_m2, outside_mass, truncated90 (whether the 90% region
    reaches beyond the window, where it is cut), geometry (point), region50 and region90
    (multipolygons of highest density).
    """
    rows = [
        {"report_id": report_id} | _row(fix, city)
        for report_id, fix in zip(report_ids, fixes, strict=True)
    ]
    table = gpd.GeoDataFrame(rows, geometry="geometry", crs=_WGS84)
    for name in _REGIONS:
        table[name] = gpd.GeoSeries(table[name], crs=_WGS84)
    return table


def _row(fix: Located, city: City) -> dict[str, Any]:
    lon_deg, lat_deg = (round(float(v), 7) for v in city.to_lonlat(fix.x_m, fix.y_m))
    needed = [fix.region_level(level) for level in LEVELS]
    regions = [hpd_region(fix.mass, fix.window, mass) for mass in needed]
    radii_m = [containing_radius_m(fix.mass, fix.window, fix.x_m, fix.y_m, m) for m in needed]
    return {
        "lon_deg": lon_deg,
        "lat_deg": lat_deg,
        "x_m": round(float(fix.x_m), 2),
        "y_m": round(float(fix.y_m), 2),
        "std_m": round(float(fix.std_m), 1),
        "radius50_m": round(radii_m[0], 1),
        "radius90_m": round(radii_m[1], 1),
        "area50_m2": float(regions[0].area),
        "area90_m2": float(regions[1].area),
        "outside_mass": round(float(fix.outside_mass), 6),
        "truncated90": fix.outside_mass > 1 - needed[1],
        "geometry": shapely.Point(lon_deg, lat_deg),
        "region50": to_wgs84(regions[0], city),
        "region90": to_wgs84(regions[1], city),
    }


def write_fixes(table: gpd.GeoDataFrame, path: Path) -> None:
    """Write a table of fixes as ``.geojson``, ``.csv`` or ``.parquet``, in one step.

    Raises
    ------
    UelocError
        If the ending is another one, or the file cannot be written.
    """
    write = writer_for(path)
    aside = path.with_name(f".{path.name}.part")
    try:
        write(table, aside)
        aside.replace(path)
    except OSError as error:
        raise UelocError(f"cannot be written ({error.strerror})", where=str(path)) from error
    finally:
        aside.unlink(missing_ok=True)


def writer_for(path: Path) -> Callable[[gpd.GeoDataFrame, Path], None]:
    """The function that writes files of a path's ending.

    Raises
    ------
    UelocError
        If there is none, or the folder does not exist.
    """
    if path.suffix not in _WRITERS:
        raise UelocError(
            f"unknown output format '{path.suffix}'",
            where=str(path),
            remedy=f"End the name in {', '.join(_WRITERS)}.",
        )
    if not path.parent.is_dir():
        raise UelocError("the folder does not exist", where=str(path), remedy="Create it first.")
    return _WRITERS[path.suffix]


def _write_geojson(table: gpd.GeoDataFrame, path: Path) -> None:
    """RFC 7946: per report its position and one feature per region."""
    features = []
    for row in table.to_dict("records"):
        regions = {name: row.pop(name) for name in _REGIONS}
        point = row.pop("geometry")
        properties = {name: _json_value(value) for name, value in row.items()}
        features.append(_feature(point, {"kind": "position"} | properties))
        features += [
            _feature(
                regions[name],
                {"kind": "region", "report_id": row["report_id"], "probability": level},
            )
            for name, level in zip(_REGIONS, LEVELS, strict=True)
        ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), "utf-8")


def _feature(geometry: Any, properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry.__geo_interface__, "properties": properties}


def _json_value(value: Any) -> Any:
    if isinstance(value, np.bool_):
        return bool(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_csv(table: gpd.GeoDataFrame, path: Path) -> None:
    """Regions as WKT, longitude first."""
    columns = table.drop(columns="geometry").copy()
    for name in _REGIONS:
        columns[name] = shapely.to_wkt(table[name].to_numpy(), rounding_precision=7)
    columns.to_csv(path, index=False)


def _write_parquet(table: gpd.GeoDataFrame, path: Path) -> None:
    table.to_parquet(path, index=False)


_WRITERS = {".geojson": _write_geojson, ".csv": _write_csv, ".parquet": _write_parquet}
