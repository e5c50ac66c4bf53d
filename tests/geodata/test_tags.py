"""Lengths, levels, angles and directions in every form that occurs in real tags."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ueloc_core.geodata.tags import (
    building_type,
    parse_angle_deg,
    parse_direction_deg,
    parse_length_m,
    parse_levels,
    read,
)

PARSERS = (parse_length_m, parse_levels, parse_angle_deg, parse_direction_deg)


@pytest.mark.parametrize(
    ("text", "length_m"),
    [
        ("12", 12.0),
        ("12.13 m", 12.13),
        ("12,5", 12.5),
        (".5", 0.5),
        ("12.", 12.0),
        ("12m", 12.0),
        ("12 metres", 12.0),
        ("120 cm", 1.2),
        ("~20", 20.0),
        (">20", 20.0),
        ("\u2248 20 m", 20.0),
        ("ca. 20 m", 20.0),
        ("3;4", 3.5),
        ("3, 4", 3.5),
        ("12;", 12.0),
        (";", None),
        ("10-12", 11.0),
        ("10\u201312 m", 11.0),
        ("10 to 12", 11.0),
        ("10 m - 12 m", 11.0),
        ("40'", 12.192),
        ("40'6\"", 12.3444),
        ("40'-6\"", 12.3444),
        ("6\u203210\u2033", 2.0828),
        ("6\u2019 10\u201d", 2.0828),
        ('82"', 2.0828),
        ("40 ft", 12.192),
        ("40 feet 6 in", 12.3444),
        ("30'-50'", 12.192),
        ("0", 0.0),
        ("-3", None),
        ("3--4", None),
        ("tall", None),
        ("", None),
        ("12 km", None),
        ("1e5", None),
        ("nan", None),
        ("inf", None),
        ("9" * 400, None),
        ("3;tall", None),
        (None, None),
        (float("nan"), None),
        (12.0, None),
    ],
)
def test_lengths(text, length_m):
    assert parse_length_m(text) == (None if length_m is None else pytest.approx(length_m))


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        *(("4", 4.0), ("2.5", 2.5), ("2,5", 2.5), ("3;4", 3.5), ("3-4", 3.5), ("7;5", 6.0)),
        *(("G+3", 4.0), ("EG", 1.0), ("4+1", 5.0), ("4 floors", 4.0), ("2\u00bd", 2.5)),
        *(("-1", None), ("many", None), ("", None), ("4 m", None)),
    ],
)
def test_levels(text, levels):
    assert parse_levels(text) == levels


@pytest.mark.parametrize(
    ("text", "direction_deg"),
    [
        *(("0", 0.0), ("45", 45.0), ("90\u00b0", 90.0), ("360", 0.0), ("12.5 deg", 12.5)),
        *(("N", 0.0), ("NNE", 22.5), ("sw", 225.0), ("WNW", 292.5), ("south-east", 135.0)),
        *(("N;S", 0.0), ("90;270", 90.0), ("along", None), ("-90", None), ("400", None)),
    ],
)
def test_directions(text, direction_deg):
    assert parse_direction_deg(text) == direction_deg


@pytest.mark.parametrize(("text", "angle_deg"), [("25", 25.0), ("25\u00b0", 25.0), ("95", None)])
def test_angles(text, angle_deg):
    assert parse_angle_deg(text) == angle_deg


@given(st.text() | st.text(alphabet="0123456789.,;-+~<> m'\"ftinG\u2032\u2033\u00b0", max_size=12))
def test_no_text_breaks_a_parser(text):
    for parse in PARSERS:
        value = parse(text)
        assert value is None or 0 <= value < float("inf")


@given(st.floats(0, 999), st.sampled_from(["{:.2f}", "{:.2f} m", "~{:.2f}", "{:.2f} metres"]))
def test_a_printed_length_is_read_back(value, form):
    assert parse_length_m(form.format(value)) == pytest.approx(value, abs=0.006)


@given(st.integers(0, 300), st.integers(0, 11))
def test_feet_and_inches_are_read_back(feet, inches):
    metres = feet * 0.3048 + inches * 0.0254
    for form in ("{}'{}\"", "{} ft {} in", "{}\u2032{}\u2033", "{}'-{}\""):
        assert parse_length_m(form.format(feet, inches)) == pytest.approx(metres)


def test_what_cannot_be_read_is_counted_by_key():
    counts = Counter()
    assert read({"roof:height": "high"}, "roof:height", parse_length_m, counts) is None
    assert read({"height": "5000"}, "height", parse_length_m, counts) is None
    assert read({}, "height", parse_length_m, counts) is None
    assert counts == {"unreadable_roof_height": 1, "unreadable_height": 1}


def test_the_type_is_the_first_that_says_something():
    assert building_type({"building": "yes", "building:part": "tower"}) == "tower"
    assert building_type({"building": "church", "building:part": "yes"}) == "church"
    assert building_type({"building": "yes"}) == "yes"
