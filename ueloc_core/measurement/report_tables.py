"""Rows of a file of reports as text, with their lines, and the rows that are none.

What is in the rows is judged by `ueloc_core.measurement.report_values`.
"""

import csv
import io
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ueloc_core.errors import ReportError

DOCUMENTATION = "The columns are described in docs/reports.md."
NOTHING = ("", "nan", "na", "n/a", "null", "none", "nat", "<na>", "-")
"""Texts that stand for "not measured", in any case."""

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_SHOWN = 80


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
class TextTable:
    """The cells of a file, without blanks around them.

    Attributes
    ----------
    cells
        Text, one column for each of the file.
    lines
        Line of each row, as `BadRow.line`, shape (rows,).
    bad_rows
        Rows with another number of cells than the header.
    """

    cells: pd.DataFrame
    lines: "pd.Series[int]"
    bad_rows: list[BadRow]


def read_table(path: Path, delimiter: str = ",") -> TextTable:
    """Read a ``.csv`` or ``.parquet`` file as text.

    Parameters
    ----------
    path
        The file.
    delimiter
        What separates the cells of a ``.csv`` file, one of `DELIMITERS`.

    Raises
    ------
    ReportError
        If the file as a whole cannot be read: missing, empty, not UTF-8, another delimiter, no
        rows, a column that is there twice.
    """
    if not path.is_file():
        raise ReportError("no such file", where=str(path), remedy="Give a .csv or .parquet file.")
    if path.stat().st_size == 0:
        raise ReportError("the file is empty", where=str(path), remedy=DOCUMENTATION)
    if path.suffix == ".parquet":
        table = _read_parquet(path)
    elif path.suffix in (".csv", ".txt", ".tsv"):
        table = _read_csv(path, delimiter)
    else:
        raise ReportError(
            f"'{path.suffix}' files cannot be read", where=str(path), remedy="Save it as .csv."
        )
    return table


def require_rows(table: TextTable, path: Path) -> None:
    """Refuse a file that has a header only.

    Raises
    ------
    ReportError
        Naming the file.
    """
    if table.cells.empty and not table.bad_rows:
        raise ReportError("no row below the header", where=str(path), remedy=DOCUMENTATION)


def absent(text: "pd.Series[str]") -> "pd.Series[bool]":
    """Whether each cell says "not measured"."""
    return text.str.lower().isin(NOTHING)


def plain_name(name: str) -> str:
    """A column's name without case, blanks and hyphens, as names are compared.

    >>> plain_name("NR SS-RSRP")
    'nr_ss_rsrp'
    """
    return re.sub(r"[\s\-]+", "_", name.strip().lower())


def text_of(values: "pd.Series[Any]") -> "pd.Series[str]":
    """Values of a typed column as the text that a CSV file would hold."""
    return values.map(_plain)


def _plain(value: Any) -> str:
    if isinstance(value, np.ndarray | list | tuple):
        return ";".join(_plain(item) for item in value)
    if value is None or value is pd.NaT or value is pd.NA:
        return ""
    if isinstance(value, float | np.floating):
        if np.isnan(value):
            return ""
        number = float(value)
        whole = abs(number) < 2**53 and number.is_integer()
        return str(int(number)) if whole else repr(number)
    if isinstance(value, pd.Timestamp):
        return value.isoformat()
    return str(value).strip()


def _read_csv(path: Path, delimiter: str) -> TextTable:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ReportError(f"it cannot be read ({error.strerror})", where=str(path)) from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ReportError(
            f"line {line} is not UTF-8", where=str(path), remedy="Save the file as CSV UTF-8."
        ) from error
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(header, path, delimiter)
        records, lines, bad_rows = [], [], []
        for record in reader:
            cells = [cell.strip() for cell in record]
            if not any(cells):
                continue
            if len(cells) != len(header):
                reason = f"{len(cells)} fields where the header has {len(header)}"
                found = delimiter.join(record)[:_SHOWN]
                bad_rows.append(BadRow(reader.line_num, "row", found, reason))
                continue
            records.append(cells)
            lines.append(reader.line_num)
    except csv.Error as error:
        raise ReportError(
            f"not CSV ({error})", where=f"{path}, line {reader.line_num}", remedy=DOCUMENTATION
        ) from error
    frame = pd.DataFrame(records, columns=header, dtype=object)
    return TextTable(frame, pd.Series(lines, dtype=np.int64), bad_rows)


def _read_parquet(path: Path) -> TextTable:
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ReportError(
            f"not a Parquet file ({error})", where=str(path), remedy="Or save it as .csv."
        ) from error
    names = [str(name) for name in table]
    _check_header(names, path, ",")
    # column by column: a mixed table would turn whole numbers into floats
    text = {name: text_of(table.iloc[:, i].astype(object)) for i, name in enumerate(names)}
    cells = pd.DataFrame(text, dtype=object).reset_index(drop=True)
    return TextTable(cells, pd.Series(np.arange(1, len(cells) + 1), dtype=np.int64), [])


def _check_header(header: Sequence[str], path: Path, delimiter: str) -> None:
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        named = ", ".join(repeated) or "(without a name)"
        raise ReportError(f"column {named} appears twice", where=str(path))
    others = _found_delimiters(header, delimiter)
    if others:
        raise ReportError(
            f"columns are separated by {others[0]}",
            where=str(path),
            remedy=f"Use {DELIMITERS[delimiter]}, and points in decimal numbers; or a mapping "
            "that states delimiter (docs/reports.md).",
        )


def _found_delimiters(header: Collection[str], delimiter: str) -> list[str]:
    if len(header) != 1:
        return []
    (only,) = header
    return [name for sign, name in DELIMITERS.items() if sign != delimiter and sign in only]
