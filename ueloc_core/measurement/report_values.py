"""The cells of a file of reports as numbers: what each row may hold, and each column."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ueloc_core.errors import ReportError
from ueloc_core.measurement.report_tables import BadRow, absent
from ueloc_core.measurement.report_units import Scale, wrong_unit
from ueloc_core.measurement.schemas import BEAMS

TRUE, FALSE = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")
_FEWEST = 5
_MOST = 0.8


@dataclass(frozen=True)
class Judged:
    """One column's numbers.

    Attributes
    ----------
    values
        In the unit of the project's own files, NaN where nothing is stated or it is wrong.
    wrong
        Which cells hold something that cannot be used.
    bad_rows
        Those, with the reason.
    """

    values: "pd.Series[float]"
    wrong: "pd.Series[bool]"
    bad_rows: list[BadRow]


def judge(
    text: "pd.Series[str]",
    lines: "pd.Series[int]",
    column: str,
    scale: Scale,
    *,
    required: bool = False,
) -> Judged:
    """Numbers of a column's cells.

    Parameters
    ----------
    text, lines
        Cells and their lines, of one index.
    column
        Its name in the file.
    scale
        What it holds.
    required
        Whether a cell that states nothing is wrong.
    """
    nothing = absent(text)
    number = numbers_of(text, scale)
    outside = (number < scale.low) | (number > scale.high)
    fraction = number.notna() & ~outside & (number % 1 != 0) & scale.whole
    named = "ISO 8601 date and time" if scale.unit == "iso8601" else "number"
    reasons = (
        (nothing & required, "missing"),
        (~nothing & number.isna(), f"not a{'n' if named[0] == 'I' else ''} {named}"),
        (outside, f"outside of {scale.low:g} to {scale.high:g}{_hint(scale)}"),
        (fraction, "not a whole number"),
    )
    wrong = pd.Series(data=False, index=text.index)
    bad_rows: list[BadRow] = []
    for where, reason in reasons:
        bad_rows += rejected(text, lines, column, where, reason)
        wrong |= where
    usable = number.where(~wrong)
    return Judged(
        pd.Series(scale.convert(np.asarray(usable, dtype=np.float64)), index=text.index),
        wrong,
        bad_rows,
    )


def rejected(
    text: "pd.Series[str]",
    lines: "pd.Series[int]",
    column: str,
    where: "pd.Series[bool]",
    reason: str,
) -> list[BadRow]:
    """A bad row for each cell of a column that is wrong."""
    return [
        BadRow(int(line), column, str(value), reason)
        for line, value in zip(lines[where], text[where], strict=True)
    ]


def numbers_of(text: "pd.Series[str]", scale: Scale) -> "pd.Series[float]":
    """Cells as numbers, NaN where they are none; dates as seconds since 1970 (UTC)."""
    text = text.where(~absent(text))
    if scale.unit == "iso8601":
        # a number alone is no date, though some read as years
        dated = text.where(~text.str.fullmatch(r"[+-]?[\d.]+", na=False))
        time = pd.to_datetime(dated, errors="coerce", utc=True, format="ISO8601")
        seconds = (time - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)
        return seconds.astype(np.float64)
    return pd.to_numeric(text, errors="coerce").astype(np.float64)


def refuse_wrong_unit(text: "pd.Series[str]", column: str, scale: Scale, path: Path) -> None:
    """Refuse a column that as a whole is in another unit than it should be.

    Raises
    ------
    ReportError
        Naming the column, what it looks like and the remedy.
    """
    doubt = wrong_unit(numbers_of(text, scale), scale)
    if doubt is not None:
        raise ReportError(
            f"column {column} looks like {doubt.looks_like}",
            where=str(path),
            remedy=doubt.remedy,
        )
    stated = text[~absent(text)]
    if scale.unit in ("iso8601", "s", "unix_ms", "unix_us") and len(stated) >= _FEWEST:
        _refuse_another_clock(stated, column, scale, path)


def _refuse_another_clock(stated: "pd.Series[str]", column: str, scale: Scale, path: Path) -> None:
    dated = scale.unit == "iso8601"
    if numbers_of(stated, scale).notna().mean() > 1 - _MOST:
        return
    if dated and pd.to_numeric(stated, errors="coerce").notna().mean() >= _MOST:
        raise ReportError(
            f"column {column} looks like numbers, not dates",
            where=str(path),
            remedy="Read it with unit: s, unix_ms or unix_us (docs/reports.md).",
        )
    date = Scale("iso8601", -np.inf, np.inf, lambda v: v)
    if not dated and numbers_of(stated, date).notna().mean() >= _MOST:
        raise ReportError(
            f"column {column} looks like dates, not numbers",
            where=str(path),
            remedy="Give seconds, or read it with unit: iso8601 (docs/reports.md).",
        )


def _hint(scale: Scale) -> str:
    return {
        "dBm": " (dBm, with their minus sign)",
        "nr_code": " (a 3GPP code, not dB or dBm)",
        "lte_code": " (a 3GPP code, not dB or dBm)",
        "steps": " (steps, not metres or nanoseconds)",
        "share": " (a share, not percent)",
    }.get(scale.unit, "")


@dataclass(frozen=True)
class Numbers:
    """Several columns' numbers.

    Attributes
    ----------
    values
        One column per name, in the unit of the project's own files.
    wrong
        Which rows hold something that cannot be used.
    bad_rows
        What that is.
    """

    values: pd.DataFrame
    wrong: "pd.Series[bool]"
    bad_rows: list[BadRow]


def judge_all(
    cells: pd.DataFrame,
    lines: "pd.Series[int]",
    columns: Mapping[str, tuple[str, Scale]],
    required: Collection[str] = (),
) -> Numbers:
    """Numbers of several columns' cells.

    Parameters
    ----------
    cells, lines
        Text and its lines, of one index.
    columns
        By the name that the numbers get: the column of the file, and what it holds.
    required
        Names whose cells must state something.
    """
    wrong = pd.Series(data=False, index=cells.index)
    bad_rows: list[BadRow] = []
    values = {}
    for name, (column, scale) in columns.items():
        judged = judge(cells[column], lines, column, scale, required=name in required)
        values[name] = judged.values
        wrong |= judged.wrong
        bad_rows += judged.bad_rows
    beams = _wrong_beams(values)
    for where, reason in beams:
        column = columns["beam_index_1"][0]
        bad_rows += rejected(cells[column], lines, column, where, reason)
        wrong |= where
    return Numbers(pd.DataFrame(values, index=cells.index), wrong, bad_rows)


def _wrong_beams(
    values: Mapping[str, "pd.Series[float]"],
) -> list[tuple["pd.Series[bool]", str]]:
    """Where beams lack their index or level, or an index comes twice, with the reason."""
    numbers = [n for n in range(1, BEAMS + 1) if f"beam_index_{n}" in values]
    if not numbers:
        return []
    index = pd.DataFrame({n: values[f"beam_index_{n}"] for n in numbers})
    level = pd.DataFrame({n: values[f"beam_rsrp_dbm_{n}"] for n in numbers})
    half = (index.isna() != level.isna()).any(axis=1)
    twice = index.apply(lambda row: row.dropna().duplicated().any(), axis=1).astype(bool)
    return [
        (half, "a beam's index and level belong together; one is missing"),
        (twice, "a beam is named twice"),
    ]
