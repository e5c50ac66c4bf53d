"""Downloads of extracts from an Overpass server, and of places from a Nominatim server.

OSMnx makes the requests: it waits for a free slot of the server, repeats requests that the
server was too busy for, and caches each answer. The answers become an ordinary ``.osm.pbf``
file, so whatever reads it cannot tell a download from a file.

The environment names the servers (``UELOC_OVERPASS_URL``, ``UELOC_NOMINATIM_URL``) and the
folder of downloads (``UELOC_CACHE``, else ``~/.cache/ueloc``).
"""

import hashlib
import json
import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import osmium
from osmium.osm import mutable

from ueloc_core.city import City
from ueloc_core.errors import GeodataError
from ueloc_core.geodata.osmnx_session import Server, osmnx_session
from ueloc_core.geodata.repair import FEATURE_KEYS, Bbox
from ueloc_core.geodata.tags import MAST_TAGS

Progress = Callable[[int, int], None]

_TAGS: dict[str, bool | str | list[str]] = {
    **dict.fromkeys(FEATURE_KEYS, True),
    **MAST_TAGS,
    "type": "multipolygon",  # old-style multipolygons carry their tags on the outer way
}
_MEMBER = {"node": "n", "way": "w", "relation": "r"}
_PIECE_M = 4000.0  # a request covers no more than this square: a few seconds of the server
_MARGIN = 0.01  # parallels are curved on the map: ask for a little more than the box
_MARGIN_DEG = 0.0005
_RESUMED_S = 86_400.0  # answers of an interrupted download are taken up within a day
_DAY_S = 86_400.0
_MAX_ID = 2**62  # the file stores differences of ids in 64 bits
_SHOWN = 200
_CANNOT_HOLD = "the answer holds an element that OpenStreetMap cannot hold ({})"
_ONE_RUN_DAYS = 1 / 24  # a run asks for its extract more than once and must get the same
_REMEDY = (
    "Try again later, set UELOC_OVERPASS_URL to another server, or give an extract by "
    "source.path of the city file or in the folder UELOC_EXTRACTS."
)


def cache_folder() -> Path:
    """Folder of downloads: ``UELOC_CACHE``, else ``~/.cache/ueloc``."""
    return Path(os.environ.get("UELOC_CACHE") or "~/.cache/ueloc").expanduser()


def cached_extract(city: City) -> Path | None:
    """A city's downloaded extract, None where there is none or it is too old."""
    path = _extract_path(city)
    if not path.is_file():
        return None
    age_days = (time.time() - path.stat().st_mtime) / _DAY_S
    return path if age_days <= max(city.source.max_age_days, _ONE_RUN_DAYS) else None


def download_extract(city: City, *, progress: Progress | None = None) -> Path:
    """Download the extract of a city's bounding box, however old the cached one is.

    The file holds each element once, sorted by type and id, and no time of the download: two
    downloads of the same data are equal to the byte. A file of the same name with the ending
    ``.json`` tells the server, the date of its data and the number of elements. A download
    that broke off leaves no extract; within a day the next one resumes from the answers that
    had arrived.

    Parameters
    ----------
    city
        Its bounding box, and a little beyond, is downloaded.
    progress
        Called with the requests done and the requests in all.

    Raises
    ------
    GeodataError
        If the server cannot be reached, refuses, or answers with nothing usable.
    """
    server = Server.overpass(f"city '{city.name}': source.kind = overpass", _REMEDY)
    target = _extract_path(city)
    suffix = hashlib.sha256(server.url.encode()).hexdigest()[:8]
    answers = target.with_name(f"{_stem(target)}-{suffix}.answers")
    try:
        answers.mkdir(parents=True, exist_ok=True)
        _drop_unusable(answers)
        _request(server, city, answers, progress)
        elements, date = _merged(answers, server)
        try:
            _write(elements, target, server)
        except GeodataError:
            shutil.rmtree(answers)  # they are asked for anew the next time
            raise
        counts = Counter(kind for kind, _ in elements)
        about = {"server": server.url, "data_of": date, "bbox": list(city.bbox), **counts}
        target.with_name(f"{_stem(target)}.json").write_text(json.dumps(about, indent=1))
        shutil.rmtree(answers)
    except OSError as error:
        raise GeodataError(
            f"the download cannot be stored ({error})",
            where=str(target.parent),
            remedy="Make room there, or set UELOC_CACHE to a folder that can be written.",
        ) from error
    return target


def about_extract(path: Path) -> dict[str, Any]:
    """What was noted when an extract was downloaded; empty for any other file."""
    try:
        noted: dict[str, Any] = json.loads(path.with_name(f"{_stem(path)}.json").read_text())
    except (OSError, ValueError):
        return {}
    return noted


def _stem(path: Path) -> str:
    return path.name.removesuffix(".osm.pbf")


def _extract_path(city: City) -> Path:
    asked = json.dumps([city.bbox, _TAGS, _PIECE_M, _MARGIN, _MARGIN_DEG])
    key = hashlib.sha256(asked.encode()).hexdigest()[:12]
    name = (city.name, *city.extends)[-1]  # cities that extend another share its download
    return cache_folder() / "overpass" / f"{name}-{key}.osm.pbf"


def _pieces(city: City) -> list[Bbox]:
    """Boxes (west, south, east, north) [deg] that cover the city, one a request."""
    west, south, east, north = city.bbox
    width, height = east - west, north - south
    west, east = (max(west - _margin(width), -180.0), min(east + _margin(width), 180.0))
    south, north = south - _margin(height), north + _margin(height)
    columns, rows = (math.ceil(size_m / _PIECE_M) for size_m in city.extent_m)
    lon = [west + (east - west) * i / columns for i in range(columns + 1)]
    lat = [south + (north - south) * j / rows for j in range(rows + 1)]
    return [(lon[i], lat[j], lon[i + 1], lat[j + 1]) for j in range(rows) for i in range(columns)]


def _margin(size_deg: float) -> float:
    return size_deg * _MARGIN + _MARGIN_DEG


def _drop_unusable(answers: Path) -> None:
    """Remove cached answers that are old, or that were cut when a download was killed."""
    for path in answers.glob("*.json"):
        try:
            json.loads(path.read_text(encoding="utf-8"))
            usable = time.time() - path.stat().st_mtime < _RESUMED_S
        except ValueError:
            usable = False
        if not usable:
            path.unlink()


def _request(server: Server, city: City, answers: Path, progress: Progress | None) -> None:
    import osmnx  # noqa: PLC0415 - takes seconds, and is needed for downloads alone
    from osmnx._errors import CacheOnlyInterruptError  # noqa: PLC0415

    pieces = _pieces(city)
    with osmnx_session(server, cache_folder=answers, use_cache=True, cache_only_mode=True):
        for done, piece in enumerate(pieces):
            if progress is not None:
                progress(done, len(pieces))
            try:
                osmnx.features_from_bbox(piece, _TAGS)
            except CacheOnlyInterruptError:  # that is how OSMnx says that all is in the cache
                continue
    if len(list(answers.glob("*.json"))) < len(pieces):
        raise server.error("the server gave no whole answer")
    if progress is not None:
        progress(len(pieces), len(pieces))


def _merged(
    answers: Path, server: Server
) -> tuple[dict[tuple[str, int], dict[str, Any]], str | None]:
    """Elements of all answers by type and id, and the oldest date of the data."""
    elements: dict[tuple[str, int], dict[str, Any]] = {}
    dates: list[str] = []
    for path in sorted(answers.glob("*.json")):
        answer = json.loads(path.read_text(encoding="utf-8"))
        try:
            date = answer.get("osm3s", {}).get("timestamp_osm_base")
            dates += [date] if isinstance(date, str) and date else []
            for element in answer["elements"]:
                _check(element)
                elements[element["type"], element["id"]] = element
        except (AttributeError, KeyError, TypeError) as error:
            path.unlink()
            raise server.error("the answer is not a list of OpenStreetMap elements") from error
        except ValueError as error:
            path.unlink()
            raise server.error(_CANNOT_HOLD.format(error)) from error
    if not any(kind == "way" for kind, _ in elements):
        shutil.rmtree(answers)  # it may well hold something the next time
        raise server.error(
            "the answer holds nothing: no building, road or land use in the bounding box",
            remedy="Correct bbox (west, south, east, north) of the city file, or set "
            "UELOC_OVERPASS_URL to a server that covers the place.",
        )
    return elements, min(dates, default=None)


def _check(element: dict[str, Any]) -> None:
    """Refuse an element whose fields are not what libosmium can write.

    Raises
    ------
    ValueError
        Naming the element and the field.
    """
    kind, number = element["type"], element["id"]
    tags, place = element.get("tags", {}), (element.get("lon"), element.get("lat"))
    members = element.get("members")
    is_good = {
        "type": kind in _MEMBER,
        "id": _is_id(number),
        "tags": isinstance(tags, dict) and all(isinstance(value, str) for value in tags.values()),
        "lon, lat": kind != "node" or all(isinstance(x, int | float) for x in place),
        "nodes": kind != "way" or _is_list_of(element.get("nodes"), _is_id),
        "members": kind != "relation" or _is_list_of(members, _is_member),
    }
    for field, good in is_good.items():
        if not good:
            names = field.split(", ")
            values = ", ".join(repr(element.get(name)) for name in names)[:_SHOWN]
            raise ValueError(f"{kind} {number}: {field} = {values}"[:_SHOWN])
    if kind == "node" and not (-180 <= element["lon"] <= 180 and -90 <= element["lat"] <= 90):
        raise ValueError(f"node {number} at {element['lon']}, {element['lat']}")


def _is_id(value: object) -> bool:
    return type(value) is int and abs(value) < _MAX_ID


def _is_list_of(value: object, is_good: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(is_good, value))


def _is_member(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.get("type") in tuple(_MEMBER)
        and _is_id(value.get("ref"))
        and isinstance(value.get("role", ""), str)
    )


def _write(elements: dict[tuple[str, int], dict[str, Any]], target: Path, server: Server) -> None:
    """Write the elements, sorted, under another name first: there is no half extract."""
    part = target.with_name(f"{_stem(target)}-{os.getpid()}.part.osm.pbf")
    try:
        with osmium.SimpleWriter(str(part), overwrite=True) as writer:
            for element in _sorted(elements, "node"):
                place = (float(element["lon"]), float(element["lat"]))
                writer.add_node(
                    mutable.Node(id=element["id"], location=place, tags=element.get("tags", {}))
                )
            for element in _sorted(elements, "way"):
                writer.add_way(
                    mutable.Way(
                        id=element["id"], nodes=element["nodes"], tags=element.get("tags", {})
                    )
                )
            for element in _sorted(elements, "relation"):
                members = [
                    (_MEMBER[m["type"]], m["ref"], m.get("role", "")) for m in element["members"]
                ]
                writer.add_relation(
                    mutable.Relation(
                        id=element["id"], members=members, tags=element.get("tags", {})
                    )
                )
        part.replace(target)
    except (ArithmeticError, RuntimeError, ValueError) as error:  # such as a tag that is too long
        raise server.error(_CANNOT_HOLD.format(error)) from error
    finally:
        part.unlink(missing_ok=True)


def _sorted(elements: dict[tuple[str, int], dict[str, Any]], kind: str) -> Iterator[dict[str, Any]]:
    ids = sorted(number for element, number in elements if element == kind)
    return (elements[kind, number] for number in ids)


def geocode_bbox(place: str) -> Bbox:
    """Bounding box of a place by its name, asked of a Nominatim server.

    Parameters
    ----------
    place
        As one would type it into a search box, such as ``Monaco``.

    Returns
    -------
    West, south, east, north [deg].

    Raises
    ------
    GeodataError
        If the place is unknown or has no area, or the server cannot be used.
    """
    if not place.strip():
        raise GeodataError(
            "a place has a name", where=f"place '{place}'", remedy="Give one, or give --bbox."
        )
    import osmnx  # noqa: PLC0415 - takes seconds, and is needed for downloads alone
    from osmnx._errors import InsufficientResponseError  # noqa: PLC0415

    server = Server.nominatim(
        f"place '{place}'",
        "Try again later, set UELOC_NOMINATIM_URL to another server, or give --bbox.",
    )
    retype = "Name it differently (with its country, say), or give --bbox."
    with osmnx_session(server, use_cache=False):
        try:
            found = osmnx.geocode_to_gdf(place)
        except TypeError as error:
            raise server.error("the place has no area there", remedy=retype) from error
        except InsufficientResponseError as error:
            if "0 results" not in str(error):
                raise
            raise server.error("the place is unknown there", remedy=retype) from error
    sides = ("bbox_west", "bbox_south", "bbox_east", "bbox_north")
    west, south, east, north = (float(found.iloc[0][side]) for side in sides)
    return west, south, east, north
