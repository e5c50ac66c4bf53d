"""The columns of a file that a mapping means, found in its header and cut into blocks.

A block is one sector of each row: the serving one with all that is reported beside levels, or a
neighbour.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from ueloc_core.errors import ReportError
from ueloc_core.measurement.log_mappings import (
    NUMBER,
    Column,
    LogMapping,
    NeighbourColumns,
    SectorColumns,
    unit_of,
)
from ueloc_core.measurement.report_tables import BadRow, absent, plain_name
from ueloc_core.measurement.report_units import Scale

PCI_SCALE = Scale("1", 0, 1007, lambda v: v, whole=True)

_LEVELS = {"rsrp": "rsrp_dbm", "rsrq": "rsrq_db", "sinr": "sinr_db"}
_VALUES = {
    "cqi": "cqi",
    "ri": "ri",
    "ta": "ta",
    "ta_offset": "ta_offset_ns",
    "aoa": "aoa_deg",
    "ul_sinr": "ul_sinr_db",
    "throughput": "throughput_mbps",
    "bler": "bler",
    "speed": "speed_m_s",
    "heading": "heading_deg",
}
_MOST_ITEMS = 64
_SHOWN = 12

Scales = Mapping[str, Mapping[str, Scale]]


@dataclass(frozen=True)
class Block:
    """One sector of each row.

    Attributes
    ----------
    cells
        Text; rows that have no such sector are left out.
    columns
        Numbers: the name in the project's own files, the column and what it holds.
    sector
        Columns whose joined texts name the sector, if any.
    join
        What joins them.
    channel
        The column of the carrier, if any.
    """

    cells: pd.DataFrame
    columns: dict[str, tuple[str, Scale]]
    sector: tuple[str, ...]
    join: str
    channel: str


class Header:
    """The columns of a file, by the names that a mapping gives them.

    Parameters
    ----------
    names
        The header.
    path
        The file, for errors.
    """

    def __init__(self, names: Sequence[str], path: Path) -> None:
        self._exact = set(names)
        self._plain = {plain_name(name): name for name in reversed(names)}
        self._path = path
        self.missing: list[str] = []

    def find(self, names: Sequence[str], number: int | None = None) -> str:
        """The first column that a file has of some names, or nothing."""
        for name in names:
            wanted = name if number is None else name.replace(NUMBER, str(number))
            found = wanted if wanted in self._exact else self._plain.get(plain_name(wanted), "")
            if found:
                return found
        return ""

    def need(self, column: Any, number: int | None = None) -> str:
        """As `find`; a column that is not optional is remembered as missing."""
        names = column.column
        found = self.find(names, number)
        if not found and not column.optional:
            wanted = names[0] if number is None else names[0].replace(NUMBER, str(number))
            self.missing.append(wanted)
        return found

    def refuse_missing(self) -> None:
        """Refuse a file that lacks columns.

        Raises
        ------
        ReportError
            Naming them, and what may be meant.
        """
        if not self.missing:
            return
        hints = []
        for name in self.missing:
            close = difflib.get_close_matches(plain_name(name), list(self._plain), n=1, cutoff=0.6)
            hints += [f"'{self._plain[close[0]]}' may be '{name}'" for _ in close[:1]]
        held = ", ".join(sorted(self._exact)[:_SHOWN])
        raise ReportError(
            f"missing column{'s' if len(self.missing) > 1 else ''} {', '.join(self.missing)}",
            where=str(self._path),
            remedy=f"{'; '.join(hints) or f'The file has {held}'}. "
            "A mapping of your own names its columns (docs/reports.md).",
        )


def serving_block(
    mapping: LogMapping, header: Header, cells: pd.DataFrame, scales: Scales
) -> Block:
    """The serving sector of each row, or in the long layout the sector of each row."""
    block = _block(mapping.serving, header, cells, scales)
    columns = dict(block.columns)
    values = [
        (name, getattr(mapping.values, quantity), quantity) for quantity, name in _VALUES.items()
    ]
    for name, column, quantity in [*values, ("time_s", mapping.time, "time")]:
        if column is not None and (found := header.need(column)):
            columns[name] = found, scales[quantity][unit_of(quantity, column)]
    columns |= _beams(mapping, header, scales) | _place(mapping, header, scales)
    return replace(block, columns=columns)


def neighbour_blocks(
    mapping: LogMapping, header: Header, cells: pd.DataFrame, lines: "pd.Series[int]",
    scales: Scales,
) -> tuple[list[Block], list[BadRow]]:  # fmt: skip
    """The neighbours of each row, and the rows whose lists do not fit together."""
    neighbours = mapping.neighbours
    if neighbours is None:
        return [], []
    before = len(header.missing)
    if neighbours.count is None:
        block = _block(neighbours, header, cells, scales)
        if len(header.missing) > before:
            if neighbours.optional:
                del header.missing[before:]
            return [], []
        return _listed(neighbours, block, lines)
    blocks = []
    for number in range(1, neighbours.count + 1):
        block = _block(neighbours, header, cells, scales, number)
        lacking = header.missing[before:]
        if lacking and (number > 1 or neighbours.optional):
            del header.missing[before:]  # the file has fewer neighbours
        if lacking:
            break
        blocks.append(_stated(block))
    return blocks, []


def _block(
    section: SectorColumns,
    header: Header,
    cells: pd.DataFrame,
    scales: Scales,
    number: int | None = None,
) -> Block:
    columns: dict[str, tuple[str, Scale]] = {}
    for quantity, name in _LEVELS.items():
        column: Column | None = getattr(section, quantity)
        if column is not None and (found := header.need(column, number)):
            columns[name] = found, scales[quantity][unit_of(quantity, column)]
    if section.pci is not None and (found := header.need(section.pci, number)):
        columns["pci"] = found, PCI_SCALE
    sector: tuple[str, ...] = ()
    if section.sector is not None:
        sector = tuple(header.find([name], number) for name in section.sector.columns)
        if not all(sector):
            if not section.sector.optional:
                lacking = zip(section.sector.columns, sector, strict=True)
                header.missing += [name for name, found in lacking if not found]
            sector = ()
    if not sector and "pci" not in columns and not header.missing:
        named = section.pci.column if section.pci else section.sector.columns  # type: ignore[union-attr]
        header.missing.append(named[0] if number is None else named[0].replace(NUMBER, str(number)))
    channel = header.need(section.channel, number) if section.channel is not None else ""
    return Block(cells, columns, sector, section.sector.join if section.sector else "", channel)


def _beams(mapping: LogMapping, header: Header, scales: Scales) -> dict[str, tuple[str, Scale]]:
    columns: dict[str, tuple[str, Scale]] = {}
    if mapping.beams is None:
        return columns
    beams = mapping.beams
    before = len(header.missing)
    for number in range(1, beams.count + 1):
        index, level = header.need(beams.index, number), header.need(beams.rsrp, number)
        if not (index and level):
            if beams.optional:
                del header.missing[before:]
            break
        columns[f"beam_index_{number}"] = index, scales["beam_index"]["1"]
        unit = unit_of("beam_rsrp", beams.rsrp)
        columns[f"beam_rsrp_dbm_{number}"] = level, scales["beam_rsrp"][unit]
    return columns


def _place(mapping: LogMapping, header: Header, scales: Scales) -> dict[str, tuple[str, Scale]]:
    if mapping.position is None:
        return {}
    columns = {}
    for quantity in ("lon", "lat", "x", "y"):
        column: Column | None = getattr(mapping.position, quantity)
        if column is not None and (found := header.need(column)):
            columns[quantity] = found, scales[quantity][unit_of(quantity, column)]
    return columns if len(columns) == 2 else {}


def _stated(block: Block) -> Block:
    """The rows of a block in which any of its cells says something."""
    names = {column for column, _ in block.columns.values()} | set(block.sector)
    something = pd.concat([~absent(block.cells[name]) for name in sorted(names)], axis=1)
    return replace(block, cells=block.cells[something.any(axis=1)])


def _listed(
    neighbours: NeighbourColumns, block: Block, lines: "pd.Series[int]"
) -> tuple[list[Block], list[BadRow]]:
    """A block for each place in the lists of cells; rows whose lists differ in length are bad."""
    names = dict.fromkeys(
        [*(column for column, _ in block.columns.values()), *block.sector, block.channel]
    )
    names.pop("", None)
    level = block.columns["rsrp_dbm"][0]
    separator = neighbours.separator or ""
    items = pd.DataFrame(
        {name: block.cells[name].map(lambda text: _items(text, separator)) for name in names}
    )
    length = items.map(len)
    wrong = length.ne(length[level], axis=0) & (length > 0)
    wrong[level] |= length[level] > _MOST_ITEMS
    bad_rows = [
        BadRow(
            int(lines[row]),
            str(name),
            str(block.cells.loc[row, name]),
            f"{length.loc[row, name]} items where {level} has {length.loc[row, level]}"
            if name != level
            else f"more than {_MOST_ITEMS} items",
        )
        for name in names
        for row in length.index[wrong[name]]
    ]
    length = length[~wrong.any(axis=1)]
    blocks = []
    for place in range(int(length[level].max()) if len(length) else 0):
        rows = length.index[length[level] > place]
        cells = items.loc[rows].map(
            lambda held, place=place: held[place] if len(held) > place else ""
        )
        blocks.append(_stated(replace(block, cells=cells)))
    return blocks, bad_rows


def _items(text: str, separator: str) -> list[str]:
    """The items of a list in a cell, which may stand in brackets."""
    bare = text.strip("[](){} ")
    return [item.strip() for item in bare.split(separator)] if bare else []
