r"""Values of dirty OpenStreetMap tags: lengths, counts of levels, angles, compass directions.

Every parser gives a number or None and never raises. `read` counts what it cannot read as
``unreadable_<key>``, so that nothing is lost in silence.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

MAX_HEIGHT_M = 1000.0
MAX_LEVELS = 200.0

Tags = Mapping[str, Any]

MAST_TAGS: dict[str, bool | str | list[str]] = {
    "man_made": ["mast", "tower", "communications_tower", "antenna"],
    "telecom": ["antenna", "bts", "base_station", "mast", "tower"],
    "tower:type": "communication",
    "communication:mobile_phone": True,
}
"""Keys and values of what may be a telecom mast, as OSMnx asks for features."""

_FOOT_M = 0.3048
_INCH_M = 0.0254
_UNITS_M = {"cm": 0.01, "mm": 0.001}
_PRIMES = str.maketrans(
    {
        **dict.fromkeys("\u2032\u2019\u2018\u00b4`\u02b9", "'"),
        **dict.fromkeys("\u2033\u201d\u201c\u02ba", '"'),
        **dict.fromkeys("\u2013\u2014\u2212\u2010\u2011", "-"),
        "\u00a0": " ",
        "\u00bd": ".5",
    }
)
_APPROXIMATE = r"(?:[~\u2248<>\u2264\u2265=+]+\s*)*(?:(?:ca|approx|circa|about|c)\.?\s*)?"
_NUMBER = r"(?:\d+(?:[.,]\d*)?|[.,]\d+)"
_METRES = re.compile(
    rf"{_APPROXIMATE}(?P<value>{_NUMBER})\s*"
    r"(?P<unit>cm|mm|m\.?|mtrs?\.?|meters?|metres?)?",
    re.IGNORECASE,
)
_FEET = re.compile(
    rf"{_APPROXIMATE}(?P<feet>{_NUMBER})\s*(?:'(?!')|ft\b\.?|feet\b|foot\b)\s*"
    rf"(?:-?\s*(?P<inches>{_NUMBER})\s*(?:\"|''|in\b\.?|inch(?:es)?\b)|(?P<bare>{_NUMBER}))?",
    re.IGNORECASE,
)
_INCHES = re.compile(
    rf"{_APPROXIMATE}(?P<inches>{_NUMBER})\s*(?:\"|''|in\b\.?|inch(?:es)?\b)", re.IGNORECASE
)
_LEVELS = re.compile(
    rf"{_APPROXIMATE}(?P<value>{_NUMBER}|G|GF|EG)(?:\s*\+\s*(?P<more>{_NUMBER}))?"
    r"\s*(?:levels?|floors?|stor(?:e?y|ies|eys)|fl\.?)?",
    re.IGNORECASE,
)
_SEPARATORS = re.compile(r"[;|/]|,\s+")
_RANGE = re.compile(r"(?<=[\d'\"a-z.])\s*(?:-|\bto\b|\.\.)\s*(?=[\d.])", re.IGNORECASE)
_POINTS = (
    *("n", "nne", "ne", "ene", "e", "ese", "se", "sse"),
    *("s", "ssw", "sw", "wsw", "w", "wnw", "nw", "nnw"),
)
_COMPASS = {name: 22.5 * index for index, name in enumerate(_POINTS)}
_WORDS = {"north": "n", "east": "e", "south": "s", "west": "w"}
_DEGREES = re.compile(rf"(?P<value>{_NUMBER})\s*(?:\u00b0|\u00ba|deg(?:rees?)?)?", re.IGNORECASE)


def parse_length_m(text: object) -> float | None:
    r"""Length [m] of a dirty tag, or None.

    Understood are metres with or without a unit, centimetres, feet and inches (also with
    typographic primes), a decimal comma, ``~20`` and ``>20``; a list (``3;4``) or a range
    (``10-12``) gives its mean.

    Examples
    --------
    >>> parse_length_m("12.13 m"), parse_length_m("3;4"), parse_length_m("~20")
    (12.13, 3.5, 20.0)
    >>> round(parse_length_m("6'10\""), 3), parse_length_m("tall"), parse_length_m("-3")
    (2.083, None, None)
    """
    return _mean(text, _one_length_m)


def parse_levels(text: object) -> float | None:
    """Count of levels of a dirty tag, or None.

    A list or a range gives its mean, ``G+3`` is the ground floor and three more.

    Examples
    --------
    >>> parse_levels("2.5"), parse_levels("3;4"), parse_levels("G+3"), parse_levels("many")
    (2.5, 3.5, 4.0, None)
    """
    return _mean(text, _one_level_count)


def parse_direction_deg(text: object) -> float | None:
    """Compass direction [deg, clockwise from north, below 360] of a dirty tag, or None.

    Examples
    --------
    >>> parse_direction_deg("NNE"), parse_direction_deg("90°"), parse_direction_deg("360")
    (22.5, 90.0, 0.0)
    """
    if not isinstance(text, str):
        return None
    first = re.split(r"[;|,]\s*", text.strip().lower())[0].strip()
    found = _DEGREES.fullmatch(first)
    if found is not None:
        value = _number(found["value"])
        return value % 360.0 if value is not None and value <= 360 else None
    letters = re.sub(r"[\s_-]", "", first)
    for word, letter in _WORDS.items():
        letters = letters.replace(word, letter)
    return _COMPASS.get(letters)


def parse_angle_deg(text: object) -> float | None:
    """Slope [deg], above 0 and below 90, of a dirty tag, or None."""
    if not isinstance(text, str):
        return None
    found = _DEGREES.fullmatch(text.strip())
    value = None if found is None else _number(found["value"])
    return value if value is not None and 0 < value < 90 else None


def _mean(text: object, parse: Callable[[str], float | None]) -> float | None:
    if not isinstance(text, str):
        return None
    plain = text.translate(_PRIMES).strip()
    whole = parse(plain)
    if whole is not None:
        return whole
    items = (item.strip() for item in _SEPARATORS.split(_RANGE.sub(";", plain)))
    values = [parse(item) for item in items if item]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _one_length_m(text: str) -> float | None:
    if (found := _METRES.fullmatch(text)) is not None:
        value = _number(found["value"])
        factor = _UNITS_M.get((found["unit"] or "m").lower(), 1.0)
        return None if value is None else value * factor
    if (found := _FEET.fullmatch(text)) is not None:
        feet, inches = _number(found["feet"]), _number(found["inches"] or found["bare"] or "0")
        return None if feet is None or inches is None else feet * _FOOT_M + inches * _INCH_M
    if (found := _INCHES.fullmatch(text)) is not None:
        inches = _number(found["inches"])
        return None if inches is None else inches * _INCH_M
    return None


def _one_level_count(text: str) -> float | None:
    found = _LEVELS.fullmatch(text)
    if found is None:
        return None
    first = 1.0 if found["value"][0].isalpha() else _number(found["value"])
    more = _number(found["more"] or "0")
    return None if first is None or more is None else first + more


def _number(text: str) -> float | None:
    value = float(text.replace(",", "."))
    return value if math.isfinite(value) else None


def read(
    tags: Tags,
    key: str,
    parse: Callable[[object], float | None],
    counts: Counter[str],
    *,
    at_least: float = 0.0,
    at_most: float = MAX_HEIGHT_M,
) -> float | None:
    """Value of a tag within limits, None where it is missing or cannot be read.

    What is there and cannot be read, or lies beyond the limits, is counted as
    ``unreadable_<key>``.
    """
    text = tags.get(key)
    if not isinstance(text, str):
        return None
    value = parse(text)
    if value is None or not at_least <= value <= at_most:
        count_unreadable(key, counts)
        return None
    return value


def read_first(
    tags: Tags,
    keys: tuple[str, ...],
    parse: Callable[[object], float | None],
    counts: Counter[str],
    *,
    at_most: float = MAX_HEIGHT_M,
) -> float | None:
    """Value of the first of some tags that can be read; see `read`."""
    for key in keys:
        value = read(tags, key, parse, counts, at_most=at_most)
        if value is not None:
            return value
    return None


def count_unreadable(key: str, counts: Counter[str]) -> None:
    """Count a tag whose value cannot be read."""
    counts[f"unreadable_{key.replace(':', '_')}"] += 1


def first_text(tags: Tags, keys: tuple[str, ...]) -> tuple[str, str] | None:
    """First of the keys that is tagged, and its value's first item in lower case, underscored."""
    for key in keys:
        value = tags.get(key)
        if isinstance(value, str) and value.strip():
            first = re.split(r"[;,|/]", value.strip().lower())[0].strip()
            return key, re.sub(r"[\s]+", "_", first)
    return None


def building_type(tags: Tags) -> str:
    """Value of ``building`` or ``building:part``, ``yes`` where it says nothing."""
    for key in ("building", "building:part"):
        value = tags.get(key)
        if isinstance(value, str) and value != "yes":
            return value
    return "yes"
