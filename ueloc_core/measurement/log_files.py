"""Logs of other programs, by a mapping of their columns (docs/reports.md).

Rows are judged one by one, as those of `ueloc_core.measurement.report_files`; a column that as a
whole is in another unit than the mapping says makes the file unusable.
"""

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pandas as pd

from ueloc_core.city import City
from ueloc_core.errors import ReportError
from ueloc_core.measurement.log_columns import (
    Block,
    Header,
    neighbour_blocks,
    serving_block,
)
from ueloc_core.measurement.log_mappings import LogMapping
from ueloc_core.measurement.log_sectors import with_sectors
from ueloc_core.measurement.report_places import Axes, places_of, refuse_wrong_places
from ueloc_core.measurement.report_rows import ReportFile, report_file
from ueloc_core.measurement.report_tables import (
    BadRow,
    absent,
    read_table,
    require_rows,
)
from ueloc_core.measurement.report_units import Scale, scales_of
from ueloc_core.measurement.report_values import (
    FALSE,
    TRUE,
    judge_all,
    numbers_of,
    refuse_wrong_unit,
    rejected,
)
from ueloc_core.measurement.sector_matching import NO_SECTOR, SectorBook
from ueloc_core.radio.schemas import SectorSchema

_FEWEST = 5
_SHOWN = 8
_ONE_TERMINAL = "the file's"
_AXES = (("lon", "lat", True), ("x", "y", False))


def read_log_file(path: Path, mapping: LogMapping, sectors: pd.DataFrame, city: City) -> ReportFile:
    """Read and check the reports of a file of another program.

    Parameters
    ----------
    path
        A ``.csv`` (also ``.txt``, ``.tsv``) or ``.parquet`` file.
    mapping
        What its columns mean.
    sectors
        The city's sectors (`ueloc_core.radio.schemas.SectorSchema`).
    city
        Where the reports come from.

    Raises
    ------
    ReportError
        If the file as a whole cannot be used: unreadable, columns missing, a column that is in
        another unit throughout, no row of the wanted technology, no sector of the city.
    """
    table = read_table(path, mapping.delimiter)
    header = Header([str(name) for name in table.cells], path)
    scales = scales_of(city)
    cells = table.cells
    if mapping.decimal != ".":
        cells = cells.apply(lambda text: text.str.replace(mapping.decimal, ".", regex=False))
    skipped: Counter[str] = Counter()
    cells = _of_radio(cells, mapping, header, skipped, path)
    serving = serving_block(mapping, header, cells, scales)
    neighbours, bad_rows = neighbour_blocks(mapping, header, cells, table.lines, scales)
    keys, more = _keys(cells, table.lines, mapping, header)
    header.refuse_missing()
    require_rows(table, path)
    bad_rows += table.bad_rows + more
    _check_units([serving, *neighbours], path)
    rows, more = _rows(serving, neighbours, keys, skipped)
    bad_rows += more
    rows, more = _placed(rows, serving, city, path)
    bad_rows += more
    book = SectorBook(SectorSchema.validate(sectors), mapping.matching)
    rows, more = with_sectors(rows, book)
    _require_a_sector(rows, city, path)
    return report_file(rows, bad_rows + more, dict(skipped))


def _of_radio(
    cells: pd.DataFrame, mapping: LogMapping, header: Header, skipped: Counter[str], path: Path
) -> pd.DataFrame:
    """The rows of the wanted radio technology."""
    if mapping.radio is None or not (column := header.need(mapping.radio)):
        return cells
    wanted = {value.lower() for value in mapping.radio.values}
    held = cells[column].str.lower()
    which = held.isin(wanted)
    if len(cells) and not which.any():
        names = ", ".join(str(name) for name in held.value_counts().index[:_SHOWN])
        raise ReportError(
            f"no row of {', '.join(mapping.radio.values)}; column {column} has {names}",
            where=str(path),
            remedy="Name the technologies that shall count in radio.values of a mapping.",
        )
    skipped["rows of another radio technology"] += int((~which).sum())
    return cells[which]


def _keys(
    cells: pd.DataFrame, lines: "pd.Series[int]", mapping: LogMapping, header: Header
) -> tuple[pd.DataFrame, list[BadRow]]:
    """Line, report, terminal and serving flag of each row, with whether they are ``good``."""
    keys = pd.DataFrame({"line": lines.loc[cells.index]}, index=cells.index)
    keys = keys.assign(report_id=keys["line"].astype(str), track="", serving=True, good=True)
    bad_rows: list[BadRow] = []

    def reject(column: str, where: "pd.Series[bool]", reason: str) -> None:
        bad_rows.extend(rejected(cells[column], keys["line"], column, where, reason))
        keys["good"] &= ~where

    if mapping.report_id is not None and (column := header.need(mapping.report_id)):
        keys["report_id"] = cells[column]
        reject(column, absent(cells[column]), "missing")
        if mapping.layout == "wide":
            repeated = cells[column].duplicated() & ~absent(cells[column])
            reject(column, repeated, "another row has this name; the first one counts")
            # a name of its own, or the rows would be one report
            own = keys["report_id"] + " (line " + keys["line"].astype(str) + ")"
            keys["report_id"] = keys["report_id"].where(keys["good"], own)
    column = header.need(mapping.track) if mapping.track is not None else ""
    if column:
        keys["track"] = cells[column].where(~absent(cells[column]), "")
    elif mapping.one_terminal:
        keys["track"] = _ONE_TERMINAL
    if mapping.layout == "long":
        keys["serving"] = False
        if mapping.is_serving is not None and (column := header.need(mapping.is_serving)):
            flag = cells[column].str.lower()
            reject(column, ~(flag.isin((*TRUE, *FALSE)) | absent(flag)), "neither 1 nor 0")
            keys["serving"] = flag.isin(TRUE)
    return keys, bad_rows


def _check_units(blocks: list[Block], path: Path) -> None:
    """Refuse columns whose numbers are in another unit; lists count as one column."""
    texts: dict[tuple[str, str], list[pd.Series[str]]] = defaultdict(list)
    scales: dict[tuple[str, str], Scale] = {}
    for block in blocks:
        for column, scale in block.columns.values():
            texts[column, scale.unit].append(block.cells[column])
            scales[column, scale.unit] = scale
    for key, parts in texts.items():
        refuse_wrong_unit(pd.concat(parts, ignore_index=True), key[0], scales[key], path)


def _rows(
    serving: Block, neighbours: list[Block], keys: pd.DataFrame, skipped: Counter[str]
) -> tuple[pd.DataFrame, list[BadRow]]:
    """One row per report and sector, as numbers, with the text that names the sector."""
    measured = _without_silence(serving, skipped)
    parts, bad_rows = [], []
    channel = (
        serving.cells[serving.channel].where(~absent(serving.cells[serving.channel]))
        if (serving.channel)
        else pd.Series(np.nan, index=serving.cells.index, dtype=object)
    )
    for number, block in enumerate([measured, *neighbours]):
        cells = block.cells[block.cells.index.isin(measured.cells.index)]
        if number and block.channel:
            other = cells[block.channel].where(~absent(cells[block.channel]))
            apart = other.notna() & channel.loc[cells.index].notna()
            apart &= other != channel.loc[cells.index]
            skipped["neighbours on another channel"] += int(apart.sum())
            cells = cells[~apart]
        held = keys.loc[cells.index]
        numbers = judge_all(cells, held["line"], block.columns, ("rsrp_dbm",))
        bad_rows += numbers.bad_rows
        text, column = _named(cells, block)
        parts.append(
            numbers.values.assign(
                **{name: held[name] for name in ("line", "report_id", "track")},
                serving=held["serving"] if number == 0 else False,
                good=held["good"] & ~numbers.wrong,
                named=text,
                named_by=column,
                pci_by=block.columns["pci"][0] if "pci" in block.columns else "",
            )
        )
    return pd.concat(
        [part for part in parts if len(part)] or parts[:1], ignore_index=True
    ), bad_rows


def _without_silence(serving: Block, skipped: Counter[str]) -> Block:
    """The rows in which a sector is named or measured: loggers also write rows without one."""
    names = {serving.columns[name][0] for name in ("rsrp_dbm", "pci") if name in serving.columns}
    names |= set(serving.sector)
    heard = pd.concat([~absent(serving.cells[name]) for name in sorted(names)], axis=1).any(axis=1)
    skipped["rows without a serving sector"] += int((~heard).sum())
    return Block(
        serving.cells[heard], serving.columns, serving.sector, serving.join, serving.channel
    )


def _named(cells: pd.DataFrame, block: Block) -> tuple["pd.Series[str]", str]:
    """The text that names the sector of each row, empty where a part is absent."""
    text = pd.Series("", index=cells.index, dtype=object)
    if not block.sector:
        return text, ""
    parts = [cells[name].str.removesuffix(".0") for name in block.sector]
    missing = pd.concat([absent(part) for part in parts], axis=1).any(axis=1)
    joined = pd.concat(parts, axis=1).agg(block.join.join, axis=1) if len(cells) else text
    return joined.where(~missing, ""), block.sector[0]


def _placed(
    rows: pd.DataFrame, serving: Block, city: City, path: Path
) -> tuple[pd.DataFrame, list[BadRow]]:
    """The rows with stated positions in the city's CRS, good only where these can be."""
    rows = rows.assign(x_m=np.nan, y_m=np.nan)
    for first, second, degrees in _AXES:
        if first not in serving.columns:
            continue
        (one, scale), (other, _) = serving.columns[first], serving.columns[second]
        axes = Axes(one, other, degrees)
        stated = [numbers_of(serving.cells[name], scale) for name in (one, other)]
        refuse_wrong_places(stated[0], stated[1], axes, city, path)
        placed = rows[rows[[first, second]].notna().any(axis=1)]
        places = places_of(placed[first], placed[second], placed["line"], axes, city)
        good = rows["good"] & ~places.wrong.reindex(rows.index, fill_value=False)
        x_m, y_m = (v.reindex(rows.index) for v in (places.x_m, places.y_m))
        return rows.assign(x_m=x_m, y_m=y_m, good=good), places.bad_rows
    return rows, []


def _require_a_sector(rows: pd.DataFrame, city: City, path: Path) -> None:
    """Refuse a file whose sectors are all unknown: it is of another city or network."""
    stated = (rows["named"] != "") | rows["pci"].notna()
    if stated.sum() < _FEWEST or (rows["sector_id"] != NO_SECTOR).any():
        return
    columns = ", ".join(sorted(set(rows.loc[stated, "by"]) - {""}))
    raise ReportError(
        f"no row names a sector of {city.name} (column {columns})",
        where=str(path),
        remedy=f"'ueloc sectors --city {city.name}' lists their numbers, names and PCIs; "
        "real logs need the real cells (docs/sites.md).",
    )
