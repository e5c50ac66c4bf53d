"""Measurement reports of a user's own, from CSV or Parquet files (docs/reports.md).

A file is long: one row per report and sector. Bad rows never stop the good ones: they are
returned with their line, field, value and reason. Files of other programs are read by
`ueloc_core.measurement.log_files`.
"""

import difflib
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from ueloc_core.city import City
from ueloc_core.errors import ReportError
from ueloc_core.measurement import report_codes
from ueloc_core.measurement.report_places import Axes, Places, places_of, refuse_wrong_places
from ueloc_core.measurement.report_rows import BEAM_COLUMNS, ReportFile, report_file
from ueloc_core.measurement.report_tables import (
    DOCUMENTATION,
    BadRow,
    TextTable,
    absent,
    plain_name,
    read_table,
    require_rows,
)
from ueloc_core.measurement.report_units import UNITS, Scale, scales_of
from ueloc_core.measurement.report_values import (
    FALSE,
    TRUE,
    judge_all,
    numbers_of,
    refuse_wrong_unit,
    rejected,
)
from ueloc_core.measurement.schemas import BEAMS

REQUIRED = ("report_id", "sector_id", "rsrp_dbm")

QUANTITIES: dict[str, str] = {
    "rsrp_dbm": "rsrp",
    "rsrq_db": "rsrq",
    "sinr_db": "sinr",
    "cqi": "cqi",
    "ri": "ri",
    "ta": "ta",
    "ta_offset_ns": "ta_offset",
    "aoa_deg": "aoa",
    "ul_sinr_db": "ul_sinr",
    "throughput_mbps": "throughput",
    "bler": "bler",
    **{name: name[:-2].removesuffix("_dbm") for name in BEAM_COLUMNS},
    "time_s": "time",
    "speed_m_s": "speed",
    "heading_deg": "heading",
    "lon_deg": "lon",
    "lat_deg": "lat",
    "x_m": "x",
    "y_m": "y",
}
"""Columns of numbers, and the quantity (`ueloc_core.measurement.report_units.UNITS`) of each."""

OPTIONAL = ("serving", "track", *(name for name in QUANTITIES if name not in REQUIRED))

_PLACES = (Axes("lon_deg", "lat_deg", degrees=True), Axes("x_m", "y_m", degrees=False))
_OTHER_NAMES = {
    **dict.fromkeys(("lon", "lng", "longitude"), "lon_deg"),
    **dict.fromkeys(("lat", "latitude"), "lat_deg"),
    **dict.fromkeys(("rank", "rank_indicator"), "ri"),
    **dict.fromkeys(("timing_advance", "ta_steps", "tadv"), "ta"),
    "aoa": "aoa_deg",
    "x": "x_m",
    "y": "y_m",
}
_SHORTEST = 4  # of the names that are compared: two letters are like everything


def read_report_file(path: Path, sector_ids: Collection[int], city: City) -> ReportFile:
    """Read and check the reports of a ``.csv`` or ``.parquet`` file in the project's own format.

    Parameters
    ----------
    path
        The file.
    sector_ids
        Sectors that exist; rows of others are bad.
    city
        Where the reports come from.

    Raises
    ------
    ReportError
        If the file as a whole cannot be used: missing, empty, not UTF-8, another delimiter,
        columns missing, or a column that is in another unit throughout.
    """
    table = read_table(path)
    _check_names([str(name) for name in table.cells], path)
    require_rows(table, path)
    columns = {
        name: (name, scales_of(city)[quantity][UNITS[quantity][0]])
        for name, quantity in QUANTITIES.items()
        if name in table.cells
    }
    _check_pairs(columns, path)
    for name, (_, scale) in columns.items():
        refuse_wrong_unit(table.cells[name], name, scale, path)
    rows, bad_rows = _parse(table, columns, sector_ids)
    bad_rows += table.bad_rows
    for axes in _PLACES:
        if axes.first in columns:
            first, second = (
                numbers_of(table.cells[name], columns[name][1])
                for name in (axes.first, axes.second)
            )
            refuse_wrong_places(first, second, axes, city, path)
            rows, more = _placed(rows, axes, city)
            bad_rows += more
    return report_file(rows, bad_rows)


def write_report_file(
    reports: xr.Dataset,
    path: Path,
    report_ids: Sequence[str] | None = None,
    *,
    truth: bool = False,
) -> None:
    """Write reports as a ``.csv`` or ``.parquet`` file that `read_report_file` reads.

    Coded values are written as the middle of their bin. Columns without any value are left out.

    Parameters
    ----------
    reports
        Reports (`ueloc_core.measurement.schemas.ReportSchema`).
    path
        File to write.
    report_ids
        Name of each report; its index by default.
    truth
        Whether to write positions, speeds and headings too.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise ReportError(
            f"'{path.suffix}' files cannot be written", where=str(path), remedy="Use .csv."
        )
    ids = np.asarray(report_ids or [str(i) for i in range(reports.sizes["report"])], dtype=object)
    row, slot = np.nonzero(reports["sector_id"].to_numpy() > 0)
    serving = slot == 0
    columns = {
        "report_id": ids[row],
        "sector_id": reports["sector_id"].to_numpy()[row, slot],
        "serving": serving.astype(np.int64),
    }
    columns |= {
        name: coded.decode(reports[coded.variable].to_numpy()[row, slot])
        for name, coded in report_codes.OF_SECTOR.items()
    }
    columns["rsrp_dbm"] = columns["rsrp_dbm"].clip(-156.0, -31.0)  # the end codes are open
    for name, values in _of_reports(reports, truth=truth).items():
        columns[name] = np.where(serving, values[row], np.nan)
    table = pd.DataFrame(columns)
    kept = [name for name in columns if name in REQUIRED or table[name].notna().any()]
    whole = {n: "Int64" for n in kept if n in ("track", "cqi", "ri", "ta") or "beam_index" in n}
    table = table[kept].astype(whole)
    if path.suffix == ".parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, index=False)


def _of_reports(reports: xr.Dataset, *, truth: bool) -> dict[str, np.ndarray]:
    """Values of the columns that stand in the serving sector's row, shape (report,) each."""
    values = {
        name: coded.decode(reports[coded.variable].to_numpy())
        for name, coded in report_codes.OF_SERVING.items()
    }
    beams = report_codes.beam_levels(
        reports["beam_index"].to_numpy(), reports["beam_code"].to_numpy()
    )
    in_order = [part[:, number] for part in beams for number in range(BEAMS)]
    values |= dict(zip(BEAM_COLUMNS, in_order, strict=True))
    names = ("track", "time_s", *(("speed_m_s", "heading_deg", "x_m", "y_m") if truth else ()))
    return values | {name: reports[name].to_numpy().astype(np.float64) for name in names}


def _check_names(header: list[str], path: Path) -> None:
    known = (*REQUIRED, *OPTIONAL)
    missing = [name for name in REQUIRED if name not in header]
    unknown = [name for name in header if name not in known]
    meant = {name: _similar(name, unknown) for name in known if name not in header}
    renames = "; ".join(f"'{found}' as '{name}'" for name, found in meant.items() if found)
    if missing:
        raise ReportError(
            f"missing column{'s' if len(missing) > 1 else ''} {', '.join(missing)}",
            where=str(path),
            remedy=f"Name {renames}."
            if renames
            else f"{DOCUMENTATION} Give --format for a file of another program.",
        )
    if renames:
        raise ReportError(
            f"column {', '.join(dict.fromkeys(filter(None, meant.values())))} is not known",
            where=str(path),
            remedy=f"Name {renames}, or remove it. {DOCUMENTATION}",
        )


def _similar(name: str, candidates: Sequence[str]) -> str:
    """The candidate that is most likely meant by a column's name, or nothing."""
    lower = {plain_name(candidate): candidate for candidate in candidates}
    other = next(
        (lower[n] for n, meant in _OTHER_NAMES.items() if meant == name and n in lower), ""
    )
    if other or len(name) < _SHORTEST:
        return other
    cutoff = 0.65 if name in REQUIRED else 0.7  # 'timestamp' is not 'time_s'
    close = difflib.get_close_matches(name, list(lower), n=1, cutoff=cutoff)
    return lower[close[0]] if close else ""


def _check_pairs(columns: Collection[str], path: Path) -> None:
    """Refuse half a position, two of them, and beams without index or level."""
    beams = list(zip(BEAM_COLUMNS[:BEAMS], BEAM_COLUMNS[BEAMS:], strict=True))
    pairs = [(axes.first, axes.second) for axes in _PLACES] + beams
    for pair in pairs:
        if len(held := [name for name in pair if name in columns]) == 1:
            raise ReportError(
                f"column {held[0]} stands alone",
                where=str(path),
                remedy=f"Give {' and '.join(pair)}, or remove it.",
            )
    if all(axes.first in columns for axes in _PLACES):
        raise ReportError(
            "positions are stated twice, in degrees and in metres",
            where=str(path),
            remedy="Keep lon_deg and lat_deg, or x_m and y_m.",
        )
    named = [index for index, _ in beams if index in columns]
    if named and named != [index for index, _ in beams[: len(named)]]:
        raise ReportError(
            f"column {beams[0][0]} is missing",
            where=str(path),
            remedy="Number the columns of beams from 1.",
        )


def _parse(
    table: TextTable, columns: dict[str, tuple[str, Scale]], sector_ids: Collection[int]
) -> tuple[pd.DataFrame, list[BadRow]]:
    """The rows as numbers, with whether every value is ``good``, and the values that are not."""
    cells, lines = table.cells, table.lines
    numbers = judge_all(cells, lines, columns, REQUIRED)
    good, bad_rows = ~numbers.wrong, list(numbers.bad_rows)

    def reject(field: str, where: "pd.Series[bool]", reason: str) -> None:
        nonlocal good
        bad_rows.extend(rejected(cells[field], lines, field, where, reason))
        good &= ~where

    reject("report_id", cells["report_id"] == "", "missing")
    digits = cells["sector_id"].str.extract(r"^(\d{1,18})(?:\.0*)?$")[0]
    reject("sector_id", digits.isna(), "not a sector number")
    sector_id = digits.fillna("0").astype(np.int64)
    unknown = digits.notna() & ~sector_id.isin(list(sector_ids))
    reject("sector_id", unknown, "unknown sector")
    serving = pd.Series(data=False, index=cells.index)
    if "serving" in cells:
        flag = cells["serving"].str.lower()
        reject("serving", ~(flag.isin((*TRUE, *FALSE)) | absent(flag)), "neither 1 nor 0")
        serving = flag.isin(TRUE)
    track = cells["track"].where(~absent(cells["track"]), "") if "track" in cells else ""
    return numbers.values.assign(
        line=lines,
        report_id=cells["report_id"],
        sector_id=sector_id,
        serving=serving,
        track=track,
        good=good,
    ), bad_rows


def _placed(rows: pd.DataFrame, axes: Axes, city: City) -> tuple[pd.DataFrame, list[BadRow]]:
    """The rows with their positions, good only where these can be."""
    places: Places = places_of(rows[axes.first], rows[axes.second], rows["line"], axes, city)
    good = rows["good"] & ~places.wrong
    return rows.assign(x_m=places.x_m, y_m=places.y_m, good=good), places.bad_rows
