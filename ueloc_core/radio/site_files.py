"""Real cells from files of a user's own: columns, units, duplicates, place (docs/sites.md).

Every row is judged by itself, and what is wrong is named by line and column.
"""

import difflib
import functools
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import shapely
from pyproj import Transformer

from ueloc_core.city import City
from ueloc_core.errors import RadioError
from ueloc_core.radio.antenna_places import antenna_table, stable_number
from ueloc_core.radio.antennas import ANTENNAS
from ueloc_core.radio.opencellid import is_opencellid, stated_by_opencellid
from ueloc_core.radio.site_tables import DOCUMENTATION, read_rows

LIMITS: dict[str, tuple[float, float, str]] = {
    "lon_deg": (-180.0, 180.0, "degrees east"),
    "lat_deg": (-90.0, 90.0, "degrees north"),
    "x_m": (-1e7, 1e8, "metres in the city's CRS"),
    "y_m": (-1e7, 1e8, "metres in the city's CRS"),
    "height_m": (0.5, 400.0, "metres above ground"),
    "azimuth_deg": (0.0, 360.0, "degrees clockwise from north"),
    "downtilt_deg": (-30.0, 90.0, "degrees below the horizon"),
    "electrical_tilt_deg": (-30.0, 30.0, "degrees below the antenna's normal"),
    "power_dbm": (-10.0, 80.0, "dBm, not watts"),
    "pci": (0.0, 1007.0, "TS 38.211, 7.4.2.1"),
    "position_sigma_m": (0.0, 50_000.0, "metres"),
}
"""Lowest and highest value of a column, ends included, and what it is."""

COLUMNS = ("site_id", "sector_id", *LIMITS, "antenna")
REQUIRED = ("site_id", "sector_id")
_ALIASES = {
    **dict.fromkeys(("lon", "lng", "longitude"), "lon_deg"),
    **dict.fromkeys(("lat", "latitude"), "lat_deg"),
    "x": "x_m",
    "y": "y_m",
}
_NOTHING = ("", "nan", "na", "n/a", "null", "none")
_SITE_SPREAD_M = 200.0
_SAME_PLACE_M = 1.0
_RADIANS = 2 * np.pi
_SHOWN = 8


@dataclass(frozen=True, order=True)
class BadRow:
    """A row that cannot be used: its line, counted from 1, and what is wrong in which column."""

    line: int
    column: str
    value: str
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}, {self.column} = {self.value[:40]!r}: {self.reason}"


@dataclass(frozen=True)
class CellFile:
    """What a file holds of a city.

    Attributes
    ----------
    antennas
        The sectors in the city's area (`ueloc_core.radio.antenna_places.ANTENNA_COLUMNS`).
    counts
        Of the whole file: ``rows``, ``bad_rows``, ``outside_area``, ``other_radio_<name>``,
        ``assumed_<column>`` of the rows in the area, ``split_sites``.
    bad_rows
        What was left out where ``site_plan.bad_rows`` is ``drop``.
    ignored_columns
        Columns that have no meaning here.
    """

    antennas: pd.DataFrame
    counts: Counter[str]
    bad_rows: list[BadRow] = field(default_factory=list)
    ignored_columns: list[str] = field(default_factory=list)


def read_cells(city: City) -> CellFile:
    """Read the file of cells that a city's ``site_plan`` names.

    Raises
    ------
    RadioError
        If the file cannot be read, if columns are missing, if a row is wrong (unless
        ``site_plan.bad_rows`` is ``drop``), or if no cell of it stands in the city.
    """
    path = city.site_plan.path
    assert path is not None  # the city file was refused otherwise
    rows, not_rows = read_rows(path)
    problems = [BadRow(line, "row", "", reason) for line, reason in not_rows]
    counts = Counter({"rows": len(rows) + len(problems)})
    names = [str(name) for name in rows if name != "line"]
    if is_opencellid(names):
        rows, more = stated_by_opencellid(rows, city.site_plan, counts, path)
        problems += [BadRow(*values) for values in more]
        ignored: list[str] = []
    else:
        rows = rows.rename(columns=_canonical(names, path))
        ignored = [str(name) for name in rows if name not in (*COLUMNS, "line")]
        rows = rows.drop(columns=ignored)
    table, more_problems = _numbers(rows)
    problems += more_problems
    table, more_problems = _placed(table, city)
    problems += more_problems
    _check_units(table, city, path)
    problems += _repeated(table)
    wrong = {problem.line for problem in problems}
    _refuse(sorted(problems), counts, city, path)
    table = table[~table["line"].isin(wrong)]
    inside = shapely.contains_xy(shapely.Polygon(city.area_m), table["x"], table["y"])
    counts.update({"bad_rows": len(wrong), "outside_area": int((~inside).sum())})
    _require_some(table, inside, city, path)
    antennas = _antennas(table[inside].reset_index(drop=True), city, path, counts)
    return CellFile(antennas, counts, sorted(problems), ignored)


def _canonical(names: list[str], path: Path) -> dict[str, str]:
    """How the columns of a header are called here.

    Raises
    ------
    RadioError
        If one is missing, is there twice, or is nearly called like one that is known.
    """
    renames = {n: _ALIASES.get(n.lower(), n.lower()) for n in names}
    renames = {n: new if new in COLUMNS else n for n, new in renames.items()}
    held = list(renames.values())
    where = f"{path}, line 1"
    twice = sorted({name for name in held if held.count(name) > 1})
    if twice:
        raise RadioError(f"more than one column gives {', '.join(twice)}", where=where)
    missing = [name for name in REQUIRED if name not in held]
    if not ({"lon_deg", "lat_deg"} <= set(held) or {"x_m", "y_m"} <= set(held)):
        missing.append("lon_deg and lat_deg, or x_m and y_m")
    unknown = {name.lower().replace(" ", "_"): name for name in held if name not in COLUMNS}
    meant = {
        name: unknown[close[0]]
        for name in COLUMNS
        if name not in held and (close := difflib.get_close_matches(name, list(unknown), 1, 0.75))
    }
    if missing or meant:
        hints = "; ".join(f"'{found}' as '{name}'" for name, found in meant.items())
        problem = f"missing column {', '.join(missing)}" if missing else "columns are not known"
        raise RadioError(
            f"{problem}; the file has {', '.join(names)[:300]}",
            where=where,
            remedy=f"Name {hints}. {DOCUMENTATION}" if hints else DOCUMENTATION,
        )
    return renames


def _numbers(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[BadRow]]:
    """The rows with numbers in all columns of `LIMITS`, NaN where nothing is stated."""
    problems: list[BadRow] = []
    text = {name: rows[name].astype(str).str.strip() for name in COLUMNS if name in rows}

    def reject(column: str, where: "pd.Series[bool]", reason: str) -> None:
        for index in rows.index[where]:
            line, value = int(rows.loc[index, "line"]), str(text[column].loc[index])
            problems.append(BadRow(line, column, value, reason))

    out = pd.DataFrame({"line": rows["line"].astype(np.int64)})
    for name in REQUIRED:
        out[name] = text[name]
        reject(name, text[name].str.lower().isin(_NOTHING), "missing")
    for name, (low, high, meaning) in LIMITS.items():
        if name not in text:
            out[name] = np.nan
            continue
        absent = text[name].str.lower().isin(_NOTHING)
        value = pd.to_numeric(text[name].where(~absent), errors="coerce").astype(np.float64)
        comma = text[name].str.contains(",", regex=False)
        reject(name, ~absent & value.isna() & ~comma, "not a number")
        reject(name, ~absent & value.isna() & comma, "not a number; use a point in decimals")
        outside = (value < low) | (value > high)
        reject(name, outside, f"outside of {low:g} to {high:g} ({meaning})")
        if name == "pci":
            reject(name, ~outside & (value % 1 != 0) & value.notna(), "not a whole number")
        out[name] = value
    out["azimuth_deg"] %= 360.0
    out["antenna"] = ""
    if "antenna" in text:
        out["antenna"] = text["antenna"].where(~text["antenna"].str.lower().isin(_NOTHING), "")
        known = ("", *ANTENNAS)
        reject("antenna", ~out["antenna"].isin(known), f"unknown; known: {', '.join(ANTENNAS)}")
    for name in ("position_sigma_assumed", "usual_azimuth_deg"):
        out[name] = rows.get(name, np.nan)
    return out, problems


@functools.cache
def _to_crs(code: str) -> Transformer:
    return Transformer.from_crs("EPSG:4326", code, always_xy=True)


def _placed(table: pd.DataFrame, city: City) -> tuple[pd.DataFrame, list[BadRow]]:
    """The rows with ``x`` and ``y`` in the city's CRS [m]."""
    problems = []
    x, y = _to_crs(city.crs_code).transform(table["lon_deg"].tolist(), table["lat_deg"].tolist())
    x, y = (np.array([v if np.isfinite(v) else np.nan for v in values]) for values in (x, y))
    apart_m = np.hypot(x - table["x_m"].to_numpy(), y - table["y_m"].to_numpy())
    stated = table["x_m"].notna() & table["y_m"].notna()
    table = table.assign(x=np.where(stated, table["x_m"], x), y=np.where(stated, table["y_m"], y))
    lines = table["line"].to_numpy()
    for index in np.flatnonzero(apart_m > _SAME_PLACE_M):
        reason = f"lon_deg and lat_deg are {apart_m[index]:.0f} m away; keep one of the two"
        problems.append(BadRow(int(lines[index]), "x_m", f"{table['x_m'].iloc[index]:g}", reason))
    lost = ~np.isfinite(table[["x", "y"]].to_numpy()).all(axis=1)
    problems += [BadRow(int(line), "position", "", "missing or unusable") for line in lines[lost]]
    return table, problems


def _check_units(table: pd.DataFrame, city: City, path: Path) -> None:
    """Refuse what is wrong of a column as a whole: radians, degrees as metres, swapped axes."""
    azimuth = table["azimuth_deg"].dropna()
    if azimuth.nunique() >= 3 and azimuth.max() <= _RADIANS:
        raise RadioError(
            f"all {len(azimuth)} azimuths are below 6.3: they look like radians",
            where=f"{path}, column azimuth_deg",
            remedy="Give degrees, clockwise from north.",
        )
    metres = table[["x_m", "y_m"]].dropna()
    if len(metres) and metres["x_m"].abs().max() <= 180 and metres["y_m"].abs().max() <= 90:
        raise RadioError(
            "all positions lie within 180 m of the origin of the CRS: they look like degrees",
            where=f"{path}, columns x_m and y_m",
            remedy=f"Call them lon_deg and lat_deg, or give metres in {city.crs_code}.",
        )
    west, south, east, north = city.bbox
    lon, lat = table["lon_deg"], table["lat_deg"]
    right = lon.between(west, east) & lat.between(south, north)
    swapped = lat.between(west, east) & lon.between(south, north)
    if swapped.any() and not right.any():
        raise RadioError(
            "no position lies in the city, but they would with longitude and latitude swapped",
            where=f"{path}, columns lon_deg and lat_deg",
            remedy="Swap the two columns.",
        )


def _repeated(table: pd.DataFrame) -> list[BadRow]:
    """Rows that say a second time what an earlier row says, or contradict their site."""
    problems = []
    first = table.drop_duplicates("sector_id").set_index("sector_id")["line"]
    again = table[table.duplicated("sector_id") & ~table["sector_id"].str.lower().isin(_NOTHING)]
    for name, line in again[["sector_id", "line"]].itertuples(index=False):
        reason = f"it is on line {first[name]} already; name sectors once in the file"
        problems.append(BadRow(int(line), "sector_id", str(name), reason))
    place = table[["x", "y"]].round(3)
    same = [place["x"], place["y"], table["height_m"], table["azimuth_deg"], table["pci"]]
    tilts = table[["downtilt_deg", "electrical_tilt_deg"]]
    keys = pd.concat([*same, tilts, table["site_id"]], axis=1).set_axis(range(8), axis=1)
    known = table["azimuth_deg"].notna() | table["pci"].notna()
    rest = ~table.duplicated("sector_id") & known & place.notna().all(axis=1)
    by = [keys.loc[rest, column] for column in range(8)]
    earlier = table.loc[rest, "line"].groupby(by, dropna=False)
    for line, found in zip(table.loc[rest, "line"], earlier.transform("min"), strict=True):
        if line != found:
            reason = f"it repeats line {found}: same site, place, direction and PCI"
            problems.append(BadRow(int(line), "row", "", reason))
    start = table.groupby("site_id")[["x", "y", "line"]].transform("first")
    far_m = np.hypot(table["x"] - start["x"], table["y"] - start["y"])
    far = far_m > _SITE_SPREAD_M
    for line, name, distance_m, other in zip(
        table["line"][far], table["site_id"][far], far_m[far], start["line"][far], strict=True
    ):
        reason = f"it stands {distance_m:.0f} m from line {other} of the same site"
        problems.append(BadRow(int(line), "site_id", str(name), reason))
    return problems


def _refuse(problems: list[BadRow], counts: Counter[str], city: City, path: Path) -> None:
    if not problems or city.site_plan.bad_rows == "drop":
        return
    lines = {problem.line for problem in problems}
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    raise RadioError(
        f"{len(lines)} of {counts['rows']} rows cannot be used: "
        f"{'; '.join(map(str, problems[:_SHOWN]))}{more}",
        where=f"{path}, line {problems[0].line}, column {problems[0].column}",
        remedy=f"Correct them, or set site_plan.bad_rows: drop to go on without them. "
        f"{DOCUMENTATION}",
    )


def _require_some(table: pd.DataFrame, inside: np.ndarray, city: City, path: Path) -> None:
    if inside.any():
        return
    away = ""
    if len(table):
        points = shapely.points(table["x"], table["y"])
        distance_m = shapely.distance(points, shapely.Polygon(city.area_m)).min()
        away = f"; the nearest is {distance_m / 1000:.1f} km away"
    raise RadioError(
        f"none of the {len(table)} usable cells stands in the city's bbox {list(city.bbox)}{away}",
        where=str(path),
        remedy=f"Correct bbox or the file; x_m and y_m are in {city.crs_code}.",
    )


def _number_of(name: str, kind: str) -> int:
    """A positive number of up to 15 digits itself, else one that follows from the name."""
    is_number = name.isascii() and name.isdigit() and len(name) <= 15 and int(name) > 0
    return int(name) if is_number and str(int(name)) == name else stable_number(f"{kind}/{name}")


def _antennas(table: pd.DataFrame, city: City, path: Path, counts: Counter[str]) -> pd.DataFrame:
    """The rows as antennas, with documented values where nothing is stated."""
    plan = city.site_plan
    sector = table["sector_id"].map(lambda name: _number_of(name, "sector"))
    usual: dict[str, Any] = {
        "azimuth_deg": table["usual_azimuth_deg"].astype(float).fillna(_even_turns(table, city)),
        "downtilt_deg": plan.downtilt_deg,
        "electrical_tilt_deg": plan.electrical_tilt_deg,
        "power_dbm": city.radio.power_dbm if plan.power_dbm is None else plan.power_dbm,
        "pci": sector % 1008,
    }
    assumed = pd.DataFrame({name: table[name].isna() for name in (*usual, "height_m")})
    assumed["antenna"] = table["antenna"] == ""
    assumed["position_sigma_m"] = table["position_sigma_assumed"].eq(True)
    counts.update({f"assumed_{name}": int(count) for name, count in assumed.sum().items()})
    filled = {name: table[name].fillna(value) for name, value in usual.items()}
    frame = pd.DataFrame(
        {
            **filled,
            "pci": filled["pci"].astype(np.int64),
            "sector_id": sector,
            "site_id": _site_numbers(table, counts),
            "x_m": table["x"],
            "y_m": table["y"],
            "height_m": table["height_m"],
            "lift": plan.inside_building == "roof",
            "antenna": table["antenna"].where(table["antenna"] != "", plan.antenna),
            "position_sigma_m": table["position_sigma_m"].fillna(0.0),
            "source": "file",
            "assumed": [" ".join(sorted(assumed.columns[row])) for row in assumed.to_numpy(bool)],
            "sector_name": table["sector_id"],
            "where": [f"{path.name}, line {line}" for line in table["line"]],
        }
    )
    rows: list[Any] = frame.to_dict("records")
    return antenna_table(rows)


def _even_turns(table: pd.DataFrame, city: City) -> "pd.Series[float]":
    """Azimuths [deg] that spread the sectors of each site evenly, by the order of their names."""
    rank = table.sort_values("sector_id").groupby("site_id").cumcount()
    count = table.groupby("site_id")["sector_id"].transform("count")
    turned: pd.Series[float] = (city.site_plan.azimuth_deg + 360.0 * rank / count) % 360.0
    return turned


def _site_numbers(table: pd.DataFrame, counts: Counter[str]) -> "pd.Series[int]":
    """Numbers of the sites; antennas of a site at other places or heights are masts of their own.

    Antennas of one mast share their rays, so they must share their place.
    """
    columns = table[["x", "y", "height_m"]].itertuples(index=False)
    place = pd.Series(["/".join(f"{value:.3f}" for value in at) for at in columns], table.index)
    names = table["site_id"]
    split = place.groupby(names).transform("nunique") > 1
    counts["split_sites"] += int(names[split].nunique())
    full = names.where(~split, names + "@" + place)
    return pd.Series(
        [
            stable_number(f"site/{name}") if is_split else _number_of(name, "site")
            for name, is_split in zip(full, split, strict=True)
        ],
        index=table.index,
        dtype=np.int64,
    )
