"""What the columns of another program's file mean: a mapping, and how it is written as YAML.

`ueloc_core.measurement.log_presets` holds ready ones; docs/reports.md describes the keys.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator

from ueloc_core.city_sections import Positive, Section
from ueloc_core.errors import ReportError
from ueloc_core.measurement.report_units import UNITS
from ueloc_core.measurement.schemas import BEAMS

NUMBER = "{n}"
"""Stands for the number of a neighbour or a beam in the name of a column."""

_YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Name = Annotated[str, Field(min_length=1)]


def _tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class Column(Section):
    """A column: its name (or names, of which the first that a file has counts) and its unit.

    An empty unit is the first one of `ueloc_core.measurement.report_units.UNITS`. A file may
    lack a column that is ``optional``.
    """

    column: Annotated[tuple[_Name, ...], BeforeValidator(_tuple), Field(min_length=1)]
    unit: str = ""
    optional: bool = False


class Identity(Section):
    """What names a sector: one column, or several whose texts are joined.

    Columns that are ``optional`` are left out where a file lacks them.
    """

    columns: Annotated[tuple[_Name, ...], BeforeValidator(_tuple), Field(min_length=1)]
    join: str = "-"
    optional: bool = False


def _column(value: Any) -> Any:
    return {"column": value} if isinstance(value, str | list | tuple) else value


def _identity(value: Any) -> Any:
    return {"columns": value} if isinstance(value, str | list | tuple) else value


ColumnOf = Annotated[Column, BeforeValidator(_column)]
IdentityOf = Annotated[Identity, BeforeValidator(_identity)]


class SectorColumns(Section):
    """How a sector is named, and how well it is heard.

    ``sector`` holds its number or name in the city's table; ``pci`` its physical cell identity.
    ``channel`` (any text) tells carriers apart: neighbours on another one than the serving
    sector are left out.
    """

    sector: IdentityOf | None = None
    pci: ColumnOf | None = None
    channel: ColumnOf | None = None
    rsrp: ColumnOf
    rsrq: ColumnOf | None = None
    sinr: ColumnOf | None = None

    @model_validator(mode="after")
    def _named(self) -> "SectorColumns":
        if self.sector is None and self.pci is None:
            raise ValueError("sector or pci is needed: what names the sector")
        return self


class NeighbourColumns(SectorColumns):
    """The neighbours of a row.

    There are ``count`` numbered columns of each kind (``{n}`` in their names is the number, from
    1), or each cell holds a list whose items a ``separator`` divides.
    """

    count: Annotated[int, Field(ge=1, le=64)] | None = None
    separator: Annotated[str, Field(min_length=1, max_length=4)] | None = None
    optional: bool = False

    @model_validator(mode="after")
    def _one_way(self) -> "NeighbourColumns":
        if (self.count is None) == (self.separator is None):
            raise ValueError("neighbours: either count or separator is needed")
        numbered = [any(NUMBER in name for name in names) for names in _names_in(self)]
        if (self.count is not None) != all(numbered) or (self.count is None) != (not any(numbered)):
            raise ValueError(
                f"neighbours: with count, every column has {NUMBER} in its name; "
                "with separator, none has"
            )
        return self


class BeamColumns(Section):
    """The strongest beams of the serving sector: ``count`` numbered columns of each kind."""

    index: ColumnOf
    rsrp: ColumnOf
    count: Annotated[int, Field(ge=1, le=BEAMS)] = BEAMS
    optional: bool = False


class PositionColumns(Section):
    """Where the terminal was: ``lon`` and ``lat`` (WGS 84), or ``x`` and ``y`` (city's CRS)."""

    lon: ColumnOf | None = None
    lat: ColumnOf | None = None
    x: ColumnOf | None = None
    y: ColumnOf | None = None

    @model_validator(mode="after")
    def _one_pair(self) -> "PositionColumns":
        held = {name for name in ("lon", "lat", "x", "y") if getattr(self, name) is not None}
        if held not in ({"lon", "lat"}, {"x", "y"}):
            raise ValueError("position: lon and lat, or x and y, are needed")
        return self


class ValueColumns(Section):
    """What the serving sector's network and the terminal report beside levels."""

    cqi: ColumnOf | None = None
    ri: ColumnOf | None = None
    ta: ColumnOf | None = None
    ta_offset: ColumnOf | None = None
    aoa: ColumnOf | None = None
    ul_sinr: ColumnOf | None = None
    throughput: ColumnOf | None = None
    bler: ColumnOf | None = None
    speed: ColumnOf | None = None
    heading: ColumnOf | None = None


class RadioColumn(Section):
    """Which rows count: those whose column holds one of ``values`` (in any case)."""

    column: Annotated[tuple[_Name, ...], BeforeValidator(_tuple), Field(min_length=1)]
    values: Annotated[tuple[_Name, ...], BeforeValidator(_tuple), Field(min_length=1)]
    optional: bool = False


class PciMatching(Section):
    """When a PCI names a sector: the nearest one that has it, if no other one is nearly as near.

    It must be within ``reach_m`` of the serving site (for the serving sector itself, of the
    stated position, else of the terminal's last serving site), and the second nearest further
    than ``ratio`` times its distance and ``margin_m``.
    """

    reach_m: Positive = 2000.0
    ratio: Annotated[float, Field(ge=1, le=10)] = 1.5
    margin_m: Annotated[float, Field(ge=0, le=5000)] = 50.0


class LogMapping(Section):
    """What the columns of a file mean.

    In the ``wide`` layout a row is a report, with its neighbours in columns of their own; in the
    ``long`` one a row is a sector of a report (``report_id`` is needed, ``is_serving`` marks the
    serving sector). Rows without ``track`` come from one terminal if ``one_terminal`` is set, else
    each from another one.
    """

    description: str = ""
    layout: Literal["wide", "long"] = "wide"
    delimiter: Literal[",", ";", "\t", "|"] = ","
    decimal: Literal[".", ","] = "."
    report_id: ColumnOf | None = None
    is_serving: ColumnOf | None = None
    track: ColumnOf | None = None
    one_terminal: bool = False
    time: ColumnOf | None = None
    position: PositionColumns | None = None
    radio: RadioColumn | None = None
    serving: SectorColumns
    neighbours: NeighbourColumns | None = None
    values: ValueColumns = ValueColumns()
    beams: BeamColumns | None = None
    matching: PciMatching = PciMatching()

    @model_validator(mode="after")
    def _layout_fits(self) -> "LogMapping":
        if self.layout == "long":
            if self.report_id is None:
                raise ValueError("report_id is needed in the long layout")
            if self.neighbours is not None:
                raise ValueError("neighbours are rows of their own in the long layout")
        elif self.is_serving is not None:
            raise ValueError("is_serving belongs to the long layout")
        if self.delimiter == self.decimal:
            raise ValueError("delimiter and decimal are the same")
        return self

    @model_validator(mode="after")
    def _units_are_known(self) -> "LogMapping":
        for quantity, column in self.quantities():
            if column.unit and column.unit not in UNITS[quantity]:
                raise ValueError(
                    f"{quantity}: unit '{column.unit}' is not known; "
                    f"allowed: {', '.join(UNITS[quantity])}"
                )
        return self

    def quantities(self) -> list[tuple[str, Column]]:
        """All columns of numbers with their quantity."""
        sections: list[Any] = [self.serving, self.neighbours, self.position, self.values]
        found = [("time", self.time)]
        for section in filter(None, sections):
            found += [(n, getattr(section, n)) for n in type(section).model_fields if n in UNITS]
        if self.beams is not None:
            found += [("beam_index", self.beams.index), ("beam_rsrp", self.beams.rsrp)]
        return [(quantity, column) for quantity, column in found if column is not None]

    def to_yaml(self) -> str:
        """The mapping as `read_mapping` reads it."""
        plain = _short(self.model_dump(mode="json", exclude_defaults=True))
        return str(yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, width=100))


def described_columns(mapping: LogMapping) -> list[str]:
    """A line for each column that a mapping names.

    It has its names, in brackets if a file may lack it, what it holds, and its unit.
    """
    sections: list[tuple[str, Any]] = [
        ("", mapping),
        ("serving ", mapping.serving),
        ("neighbour's ", mapping.neighbours),
        ("beam's ", mapping.beams),
        ("", mapping.position),
        ("", mapping.values),
    ]
    rows = []
    for label, section in sections:
        for name in type(section).model_fields if section else ():
            held = getattr(section, name)
            if not isinstance(held, Column | Identity | RadioColumn):
                continue
            names = (
                held.join.join(held.columns)
                if isinstance(held, Identity)
                else " or ".join(held.column)
            )
            lacking = held.optional or (
                section is not mapping and getattr(section, "optional", False)
            )
            rows.append((f"[{names}]" if lacking else names, label + name + _of(name, label, held)))
    width = max(len(names) for names, _ in rows)
    return [f"{names:<{width}}  {meaning}" for names, meaning in rows]


def _of(name: str, label: str, held: Any) -> str:
    """The unit of a column, or what it must hold, as a description ends."""
    if isinstance(held, RadioColumn):
        return f": {', '.join(held.values)}"
    quantity = f"beam_{name}" if label.startswith("beam") else name
    if not isinstance(held, Column) or quantity not in UNITS:
        return ""
    unit = unit_of(quantity, held)
    return f" [{unit}]" if unit != "1" else ""


def unit_of(quantity: str, column: Column) -> str:
    """The unit that a column of a quantity holds."""
    return column.unit or UNITS[quantity][0]


def read_mapping(path: Path) -> LogMapping:
    """Read and check a mapping.

    Parameters
    ----------
    path
        A YAML file.

    Raises
    ------
    ReportError
        Naming the file, the key, the value found and what is allowed.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_YAML_LOADER)  # noqa: S506
    except OSError as error:
        raise ReportError(
            f"the mapping cannot be read ({error.strerror})",
            where=str(path),
            remedy="'ueloc formats drive_test > mapping.yaml' writes one to start from.",
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ReportError(f"not valid YAML ({error})", where=str(path)) from error
    if not isinstance(content, dict):
        raise ReportError("a mapping has keys and values", where=str(path))
    try:
        return LogMapping.model_validate(content)
    except ValidationError as error:
        raise ReportError(
            _explain(error), where=str(path), remedy="docs/reports.md describes the keys."
        ) from None


def _names_in(section: SectorColumns) -> list[tuple[str, ...]]:
    columns = [section.pci, section.channel, section.rsrp, section.rsrq, section.sinr]
    names = [column.column for column in columns if column is not None]
    return names + ([section.sector.columns] if section.sector else [])


def _short(value: Any) -> Any:
    """A dumped mapping with one name instead of a list of one, and text instead of one key."""
    if isinstance(value, list):
        return _short(value[0]) if len(value) == 1 else [_short(item) for item in value]
    if not isinstance(value, dict):
        return value
    short = {name: _short(item) for name, item in value.items()}
    only = next(iter(short)) if len(short) == 1 else ""
    return short[only] if only in ("column", "columns") else short


def _explain(error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            allowed = ", ".join(_section_at(item["loc"][:-1]).model_fields)
            lines.append(f"{key}: unknown key; allowed: {allowed}")
        elif item["type"] == "missing":
            lines.append(f"{key} is missing; it is required")
        elif item["type"] == "value_error":
            lines.append(f"{key}: {item['ctx']['error']}" if key else str(item["ctx"]["error"]))
        else:
            message = item["msg"][0].lower() + item["msg"][1:]
            lines.append(f"{key} = {str(item['input'])[:60]!r}: {message}")
    return "; ".join(lines)


def _section_at(location: tuple[int | str, ...]) -> type[BaseModel]:
    """The model of a section, by the keys that lead to it."""
    model: type[BaseModel] = LogMapping
    for part in location:
        field = model.model_fields.get(str(part))
        kinds = [field.annotation, *get_args(field.annotation)] if field else []
        kinds += [kind for outer in kinds for kind in get_args(outer)]
        model = next(k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel))
    return model
