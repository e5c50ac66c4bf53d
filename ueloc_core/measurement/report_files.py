"""Measurement reports of a user's own, from CSV or Parquet files (docs/reports.md).

A file is long: one row per report and sector. Bad rows never stop the good ones: they are
returned with their line, field, value and reason.
"""

import csv
import difflib
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import xarray as xr

from ueloc_core.errors import ReportError
from ueloc_core.measurement.reports import (
    CQI_LAST,
    MISSING,
    decode_rsrp,
    decode_rsrq,
    decode_sinr,
    encode_rsrp,
    encode_rsrq,
    encode_sinr,
)
from ueloc_core.measurement.schemas import SLOTS

REQUIRED = ("report_id", "sector_id", "rsrp_dbm")
OPTIONAL = ("serving", "rsrq_db", "sinr_db", "cqi", "time_s")
LIMITS = {
    "rsrp_dbm": (-156.0, -31.0),
    "rsrq_db": (-60.0, 30.0),
    "sinr_db": (-60.0, 60.0),
    "cqi": (0.0, float(CQI_LAST)),
    "time_s": (-1e12, 1e12),
}
"""Allowed values, ends included; RSRQ and SINR beyond the range of 3GPP saturate."""

_NOTHING = ("", "nan", "na", "n/a", "null", "none")
_TRUE, _FALSE = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")
_DOCUMENTATION = "The columns are described in docs/reports.md."


@dataclass(frozen=True, order=True)
class BadRow:
    """A value that could not be used.

    Attributes
    ----------
    line
        Line in the file, counted from 1 with the header (in Parquet: row, counted from 1).
    field
        Column, or ``row`` where the row as a whole is wrong.
    value
        What was found.
    reason
        Why it cannot be used.
    """

    line: int
    field: str
    value: str
    reason: str


@dataclass(frozen=True)
class ReportFile:
    """What a file holds.

    Attributes
    ----------
    reports
        The usable reports (`ueloc_core.measurement.schemas.ReportSchema`), without ground truth.
    report_ids
        The user's name of each report, shape (reports,).
    bad_rows
        What was left out, by line.
    """

    reports: xr.Dataset
    report_ids: list[str]
    bad_rows: list[BadRow]


def read_report_file(path: Path, sector_ids: Collection[int]) -> ReportFile:
    """Read and check the reports of a ``.csv`` or ``.parquet`` file.

    Parameters
    ----------
    path
        The file.
    sector_ids
        Sectors that exist; rows of others are bad.

    Raises
    ------
    ReportError
        If the file as a whole cannot be read: missing, empty, not UTF-8, another delimiter,
        columns missing.
    """
    if not path.is_file():
        raise ReportError("no such file", where=str(path), remedy="Give a .csv or .parquet file.")
    if path.stat().st_size == 0:
        raise ReportError("the file is empty", where=str(path), remedy=_DOCUMENTATION)
    if path.suffix == ".parquet":
        rows, bad_rows = _read_parquet(path)
    elif path.suffix == ".csv":
        rows, bad_rows = _read_csv(path)
    else:
        raise ReportError(
            f"'{path.suffix}' files cannot be read", where=str(path), remedy="Save it as .csv."
        )
    if rows.empty and not bad_rows:
        raise ReportError("no row below the header", where=str(path), remedy=_DOCUMENTATION)
    rows = rows.apply(lambda column: column.str.strip() if column.dtype == object else column)
    parsed, more = _parse(rows, np.array(sorted(set(sector_ids)), dtype=np.int64))
    bad_rows += more
    usable, more = _with_their_serving_sector(parsed)
    bad_rows += more
    chosen, more = _choose(usable)
    bad_rows += more
    report_ids = list(dict.fromkeys(chosen["report_id"]))
    return ReportFile(_dataset(chosen, report_ids), report_ids, sorted(bad_rows))


def write_report_file(
    reports: xr.Dataset, path: Path, report_ids: Sequence[str] | None = None
) -> None:
    """Write reports as a ``.csv`` or ``.parquet`` file that `read_report_file` reads.

    Coded values are written as the middle of their bin.

    Parameters
    ----------
    reports
        Reports (`ueloc_core.measurement.schemas.ReportSchema`); the ground truth is left out.
    path
        File to write.
    report_ids
        Name of each report; its index by default.
    """
    ids = np.asarray(report_ids or [str(i) for i in range(reports.sizes["report"])], dtype=object)
    row, slot = np.nonzero(reports["sector_id"].to_numpy() > 0)
    serving = slot == 0
    rsrp_dbm = decode_rsrp(reports["rsrp_code"].to_numpy()[row, slot])
    cqi = reports["cqi"].to_numpy()[row].astype(float)
    table = pd.DataFrame(
        {
            "report_id": ids[row],
            "sector_id": reports["sector_id"].to_numpy()[row, slot],
            "serving": serving.astype(np.int64),
            "rsrp_dbm": rsrp_dbm.clip(*LIMITS["rsrp_dbm"]),
            "rsrq_db": decode_rsrq(reports["rsrq_code"].to_numpy()[row, slot]),
            "sinr_db": decode_sinr(reports["sinr_code"].to_numpy()[row, slot]),
            "cqi": pd.array(np.where(serving & (cqi >= 0), cqi, np.nan), dtype="Int64"),
            "time_s": np.where(serving, reports["time_s"].to_numpy()[row], np.nan),
        }
    )
    if path.suffix == ".parquet":
        table.to_parquet(path, index=False)
    elif path.suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        raise ReportError(
            f"'{path.suffix}' files cannot be written", where=str(path), remedy="Use .csv."
        )


def _read_csv(path: Path) -> tuple[pd.DataFrame, list[BadRow]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise ReportError(
            f"line {line} is not UTF-8", where=str(path), remedy="Save the file as CSV UTF-8."
        ) from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(header, path)
        records, lines, bad_rows = [], [], []
        for record in reader:
            if not any(cell.strip() for cell in record):
                continue
            if len(record) != len(header):
                reason = f"{len(record)} fields where the header has {len(header)}"
                bad_rows.append(BadRow(reader.line_num, "row", ",".join(record)[:80], reason))
                continue
            records.append(record)
            lines.append(reader.line_num)
    except csv.Error as error:
        raise ReportError(
            f"not CSV ({error})", where=f"{path}, line {reader.line_num}", remedy=_DOCUMENTATION
        ) from error
    return pd.DataFrame(records, columns=header, dtype=object).assign(line=lines), bad_rows


def _read_parquet(path: Path) -> tuple[pd.DataFrame, list[BadRow]]:
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ReportError(
            f"not a Parquet file ({error})", where=str(path), remedy="Or save it as .csv."
        ) from error
    _check_header([str(name) for name in table], path)
    known = [name for name in (*REQUIRED, *OPTIONAL) if name in table]
    text = table[known].astype(object).map(lambda v: "" if pd.isna(v) else str(v))
    return text.assign(line=np.arange(1, len(text) + 1)), []


def _check_header(header: list[str], path: Path) -> None:
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise ReportError(f"column {', '.join(repeated)} appears twice", where=str(path))
    missing = [name for name in REQUIRED if name not in header]
    if missing and len(header) == 1:
        for delimiter, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
            if delimiter in header[0]:
                raise ReportError(
                    f"columns are separated by {name}",
                    where=str(path),
                    remedy="Use commas, and points in decimal numbers.",
                )
    unknown = [name for name in header if name not in (*REQUIRED, *OPTIONAL)]
    absent_optional = [name for name in OPTIONAL if name not in header]
    meant = {name: _similar(name, unknown) for name in (*missing, *absent_optional)}
    renames = "; ".join(f"'{found}' as '{name}'" for name, found in meant.items() if found)
    if missing:
        raise ReportError(
            f"missing column{'s' if len(missing) > 1 else ''} {', '.join(missing)}",
            where=str(path),
            remedy=f"Name {renames}." if renames else f"{_DOCUMENTATION}",
        )
    if renames:
        raise ReportError(
            f"column {', '.join(filter(None, meant.values()))} is not known",
            where=str(path),
            remedy=f"Name {renames}, or remove it. {_DOCUMENTATION}",
        )


def _similar(name: str, candidates: Sequence[str]) -> str:
    """The candidate that is most likely meant by a column's name, or nothing."""
    lower = {
        candidate.lower().replace(" ", "_").replace("-", "_"): candidate for candidate in candidates
    }
    cutoff = 0.65 if name in REQUIRED else 0.7  # 'timestamp' is not 'time_s'
    close = difflib.get_close_matches(name, list(lower), n=1, cutoff=cutoff)
    return lower[close[0]] if close else ""


def _parse(rows: pd.DataFrame, sector_ids: np.ndarray) -> tuple[pd.DataFrame, list[BadRow]]:
    """The rows as numbers, with whether every value is ``good``, and the values that are not."""
    out = pd.DataFrame({"line": rows["line"], "report_id": rows["report_id"]})
    problems: list[BadRow] = []
    good = pd.Series(data=True, index=rows.index)

    def reject(field: str, where: "pd.Series[bool]", reason: str) -> None:
        for index in rows.index[where]:
            found = str(rows.loc[index, field])
            problems.append(BadRow(int(rows.loc[index, "line"]), field, found, reason))
        good[where] = False

    reject("report_id", rows["report_id"] == "", "missing")
    digits = rows["sector_id"].str.extract(r"^(\d{1,18})(?:\.0*)?$")[0]
    reject("sector_id", digits.isna(), "not a sector number")
    out["sector_id"] = digits.fillna("0").astype(np.int64)
    reject("sector_id", digits.notna() & ~out["sector_id"].isin(sector_ids), "unknown sector")
    for field, (low, high) in LIMITS.items():
        if field not in rows:
            out[field] = np.nan
            continue
        absent = rows[field].str.lower().isin(_NOTHING)
        value = pd.to_numeric(rows[field].where(~absent), errors="coerce").astype(np.float64)
        if field in REQUIRED:
            reject(field, absent, "missing")
        reject(field, ~absent & value.isna(), "not a number")
        outside = (value < low) | (value > high)
        reject(field, outside, f"outside of {low:g} to {high:g}")
        if field == "cqi":
            reject(field, value.notna() & ~outside & (value % 1 != 0), "not a whole number")
        out[field] = value
    if "serving" in rows:
        text = rows["serving"].str.lower()
        wrong = ~text.isin((*_TRUE, *_FALSE, *_NOTHING))
        reject("serving", wrong, "neither 1 nor 0")
        out["serving"] = text.isin(_TRUE)
    else:
        out["serving"] = False
    return out.assign(good=good), problems


def _with_their_serving_sector(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[BadRow]]:
    """The good rows, less those of reports whose serving sector is unusable."""
    good = rows[rows["good"]]
    named = set(rows.loc[rows["serving"], "report_id"])
    lost = named - set(good.loc[good["serving"], "report_id"])
    first = rows[rows["report_id"] != ""].drop_duplicates("report_id")
    usable = set(good["report_id"])
    problems = []
    for name, line in first[["report_id", "line"]].itertuples(index=False):
        if name not in usable:
            reason = "not located: no usable row is left in this report"
        elif name in lost:
            reason = "not located: the row of its serving sector is unusable"
        else:
            continue
        problems.append(BadRow(int(line), "report_id", str(name), reason))
    return good[~good["report_id"].isin(lost)], problems


def _choose(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[BadRow]]:
    """The rows that make up each report, its serving sector first, and those left over."""
    problems: list[BadRow] = []

    def drop(where: "pd.Series[bool]", field: str, reason: str) -> pd.DataFrame:
        for line, value in rows.loc[where, ["line", field]].itertuples(index=False):
            problems.append(BadRow(int(line), field, str(value), reason))
        return rows[~where]

    repeated = rows.duplicated(["report_id", "sector_id"])
    rows = drop(repeated, "sector_id", "the report names this sector twice; the first row counts")
    second = rows["serving"] & rows[rows["serving"]].duplicated("report_id").reindex(
        rows.index, fill_value=False
    )
    rows = drop(second, "serving", "a second serving sector; the first one counts")
    order = pd.Series({name: i for i, name in enumerate(dict.fromkeys(rows["report_id"]))})
    rows = rows.assign(
        order=rows["report_id"].map(order).astype(np.int64), code=encode_rsrp(rows["rsrp_dbm"])
    )
    rows = rows.sort_values(
        ["order", "serving", "code", "line"], ascending=[True, False, False, True], kind="stable"
    )
    rows = rows.assign(slot=rows.groupby("order").cumcount())
    beyond = rows["slot"] >= SLOTS
    return drop(beyond, "rsrp_dbm", f"weaker than the {SLOTS} sectors that are used"), problems


def _dataset(rows: pd.DataFrame, report_ids: list[str]) -> xr.Dataset:
    count = len(report_ids)
    where = rows["order"].to_numpy(), rows["slot"].to_numpy()

    def spread(values: np.ndarray, empty: int) -> np.ndarray:
        table = np.full((count, SLOTS), empty, dtype=values.dtype)
        table[where] = values
        return table

    serving = rows[rows["slot"] == 0]
    both = ("report", "slot")
    return xr.Dataset(
        {
            "sector_id": (both, spread(rows["sector_id"].to_numpy(np.int64), 0)),
            "rsrp_code": (both, spread(rows["code"].to_numpy(np.int16), MISSING)),
            "rsrq_code": (both, spread(encode_rsrq(rows["rsrq_db"]), MISSING)),
            "sinr_code": (both, spread(encode_sinr(rows["sinr_db"]), MISSING)),
            "cqi": ("report", serving["cqi"].fillna(MISSING).to_numpy().astype(np.int8)),
            "x_m": ("report", np.full(count, np.nan)),
            "y_m": ("report", np.full(count, np.nan)),
            "track": ("report", np.arange(count, dtype=np.int64)),
            "time_s": ("report", serving["time_s"].fillna(0.0).to_numpy(np.float64)),
        }
    )
