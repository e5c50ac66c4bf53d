"""Rows of a file of cells as text: CSV (also ``.csv.gz``) and GeoJSON, with their lines.

What is in the rows is judged by `ueloc_core.radio.site_files`.
"""

import csv
import gzip
import io
import json
import zlib
from pathlib import Path
from typing import Any

import pandas as pd

from ueloc_core.errors import RadioError

SUFFIXES = (".csv", ".csv.gz", ".geojson", ".json")
OPENCELLID = (
    *("radio", "mcc", "net", "area", "cell", "unit", "lon", "lat", "range", "samples"),
    *("changeable", "created", "updated", "averageSignal"),
)
"""Columns of an export of OpenCelliD; the files of single countries come without them."""

DOCUMENTATION = "docs/sites.md describes the columns."
_RADIOS = ("GSM", "UMTS", "LTE", "NR", "CDMA")
_LARGEST_BYTES = 1_000_000_000
_WGS84 = ("crs84", "4326")
_DELIMITERS = ((";", "semicolons"), ("\t", "tabs"), ("|", "bars"))

Outcome = tuple[pd.DataFrame, list[tuple[int, str]]]


def read_rows(path: Path) -> Outcome:
    """All rows of a file as text, one column each, with their ``line``.

    Parameters
    ----------
    path
        A ``.csv``, ``.csv.gz``, ``.geojson`` or ``.json`` file. In GeoJSON a feature's place
        becomes ``lon_deg`` and ``lat_deg``, and its line is its number, counted from 1.

    Returns
    -------
    The rows, and (line, reason) of those that are none.

    Raises
    ------
    RadioError
        If the file as a whole cannot be read.
    """
    check_file(path)
    text = _text(path)
    if not text.strip():
        raise RadioError("the file is empty", where=str(path), remedy=DOCUMENTATION)
    return _read_geojson(text, path) if path.name.endswith("json") else _read_csv(text, path)


def check_file(path: Path) -> None:
    """Refuse a file that is missing or of a format that is not read.

    Raises
    ------
    RadioError
        Naming the file.
    """
    if not path.is_file():
        raise RadioError(
            "no such file", where=str(path), remedy="Correct site_plan.path of the city file."
        )
    if not path.name.endswith(SUFFIXES):
        raise RadioError(
            "not a file of cells by its name",
            where=str(path),
            remedy=f"Give a file that ends in {', '.join(SUFFIXES)}.",
        )


def _text(path: Path) -> str:
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as stream:
                content = stream.read(_LARGEST_BYTES + 1)
        else:
            with path.open("rb") as stream:
                content = stream.read(_LARGEST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise RadioError(
            f"it cannot be read ({error})", where=str(path), remedy="Get the file again."
        ) from error
    if len(content) > _LARGEST_BYTES:
        raise RadioError(
            f"it holds more than {_LARGEST_BYTES / 1e9:g} GB",
            where=str(path),
            remedy="Keep the rows of the city's surroundings.",
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise RadioError(
            f"line {line} is not UTF-8", where=str(path), remedy="Save the file as UTF-8."
        ) from error


def _read_csv(text: str, path: Path) -> Outcome:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    records, lines, bad = [], [], []
    header: list[str] = []
    try:
        for record in reader:
            cells = [cell.strip() for cell in record]
            if not any(cells):
                continue
            if not header:
                header = _header(cells, path)
                if cells[0] in _RADIOS:
                    records.append(cells)
                    lines.append(reader.line_num)
            elif len(cells) != len(header):
                reason = f"{len(cells)} fields where the header has {len(header)}"
                bad.append((reader.line_num, reason))
            else:
                records.append(cells)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise RadioError(
            f"not CSV ({error})", where=f"{path}, line {reader.line_num}", remedy=DOCUMENTATION
        ) from error
    return pd.DataFrame(records, columns=header, dtype=object).assign(line=lines), bad


def _header(cells: list[str], path: Path) -> list[str]:
    """Names of the columns from the first row; those of OpenCelliD where it holds data."""
    if len(cells) == len(OPENCELLID) and cells[0] in _RADIOS:
        return list(OPENCELLID)
    repeated = sorted({name for name in cells if cells.count(name) > 1})
    if repeated:
        raise RadioError(
            f"column {', '.join(repeated) or '(unnamed)'} appears twice",
            where=f"{path}, line 1",
            remedy="Name every column once.",
        )
    for delimiter, name in _DELIMITERS:
        if len(cells) == 1 and delimiter in cells[0]:
            raise RadioError(
                f"columns are separated by {name}",
                where=f"{path}, line 1",
                remedy="Use commas, and points in decimal numbers.",
            )
    if "line" in cells:
        raise RadioError(
            "column 'line' has a meaning of its own here",
            where=f"{path}, line 1",
            remedy="Rename or remove it.",
        )
    return cells


def _read_geojson(text: str, path: Path) -> Outcome:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RadioError(
            f"not JSON ({error})", where=str(path), remedy="Give a GeoJSON file of points."
        ) from error
    features = content.get("features") if isinstance(content, dict) else None
    if not isinstance(features, list) or content.get("type") != "FeatureCollection":
        raise RadioError(
            "not a GeoJSON FeatureCollection",
            where=str(path),
            remedy="Give features of type Point with the columns as properties.",
        )
    crs = str(content.get("crs") or "crs84").lower()
    if not any(name in crs for name in _WGS84):
        raise RadioError(
            f"crs = {crs[:80]}; GeoJSON (RFC 7946) is in WGS 84",
            where=str(path),
            remedy="Save it in EPSG:4326, or as CSV with x_m and y_m in the city's CRS.",
        )
    rows, bad = [], []
    for number, feature in enumerate(features, start=1):
        try:
            rows.append({**_properties(feature), "line": number})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            bad.append((number, f"no feature of type Point with properties ({error})"[:120]))
    frame = pd.DataFrame(rows, dtype=object)
    frame = frame.where(frame.notna(), "") if len(frame) else pd.DataFrame({"line": []})
    return frame, bad


def _properties(feature: Any) -> dict[str, str]:
    geometry, properties = feature["geometry"], feature.get("properties") or {}
    if geometry["type"] != "Point":
        raise ValueError(f"it is a {geometry['type']}")
    lon, lat = geometry["coordinates"][:2]
    place = {"lon_deg": _plain(lon), "lat_deg": _plain(lat)}
    held = {str(name): _plain(value) for name, value in properties.items()}
    # exported tables repeat the place, rounded, in their properties: the geometry counts
    skipped = ("line", "lon", "lat", "lng", "longitude", "latitude")
    return {name: value for name, value in held.items() if name not in skipped} | place


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool | dict | list):
        return json.dumps(value)
    return str(value).strip()
