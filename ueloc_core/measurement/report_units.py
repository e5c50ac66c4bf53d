"""Quantities of reports in the units that files use, and how wrong units show.

Every quantity has a range in each of its units; a value outside makes its row bad. What a
column as a whole looks like (`Doubt`) tells a mistaken unit, which makes the file unusable.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ueloc_core.city import City
from ueloc_core.measurement.reports import (
    CQI_LAST,
    SS_RSRP,
    SS_RSRQ,
    SS_SINR,
    QuantisedField,
)
from ueloc_core.radio.link import (
    TIMING_ADVANCE_LAST,
    timing_advance_step_m,
    timing_advance_step_ns,
)

Values = NDArray[np.float64]

LTE_RSRP = QuantisedField("RSRP", "dBm", -140.0, 1.0, 97, "TS 36.133, table 9.1.4-1")
LTE_RSRQ = QuantisedField("RSRQ", "dB", -19.5, 0.5, 34, "TS 36.133, table 9.1.7-1")

LTE_TA_LAST = 1282
"""Largest timing advance of LTE in steps of 16 Ts, those of numerology 0 (TS 36.213, 4.2.3)."""

UNITS: dict[str, tuple[str, ...]] = {
    "rsrp": ("dBm", "nr_code", "lte_code"),
    "rsrq": ("dB", "nr_code", "lte_code"),
    "sinr": ("dB", "nr_code"),
    "cqi": ("1",),
    "ri": ("1",),
    "ta": ("steps", "lte_steps", "ns", "us", "m"),
    "ta_offset": ("ns", "us"),
    "aoa": ("deg", "rad"),
    "ul_sinr": ("dB",),
    "throughput": ("mbps", "kbps", "bps"),
    "bler": ("share", "percent"),
    "beam_index": ("1",),
    "beam_rsrp": ("dBm",),
    "speed": ("m_s", "km_h"),
    "heading": ("deg", "rad"),
    "lon": ("deg",),
    "lat": ("deg",),
    "x": ("m",),
    "y": ("m",),
    "time": ("s", "unix_ms", "unix_us", "iso8601"),
}
"""Units of each quantity, the one of the project's own files first."""

_FEWEST = 5
_MOST = 0.8
_FAR = 4.0
_ISO = "iso8601"


@dataclass(frozen=True)
class Doubt:
    """How a column looks when its unit is another one.

    Attributes
    ----------
    shows
        Whether the numbers of a column look so.
    looks_like
        What they look like.
    remedy
        What to do about it.
    """

    shows: Callable[[Values], bool]
    looks_like: str
    remedy: str


@dataclass(frozen=True)
class Scale:
    """A quantity in a unit.

    Attributes
    ----------
    unit
        Its name in `UNITS`.
    low, high
        Range of what a file may hold, ends included.
    convert
        Values in the unit of the project's own files.
    whole
        Whether only whole numbers are allowed.
    doubts
        Signs of a wrong unit.
    """

    unit: str
    low: float
    high: float
    convert: Callable[[Values], Values]
    whole: bool = False
    doubts: tuple[Doubt, ...] = ()


def wrong_unit(values: Any, scale: Scale) -> Doubt | None:
    """The first sign that a column's numbers are in another unit, or None.

    Parameters
    ----------
    values
        All numbers of the column; too few of them tell nothing.
    scale
        What they should be.
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[np.isfinite(values)]
    if len(values) < _FEWEST:
        return None
    return next((doubt for doubt in scale.doubts if doubt.shows(values)), None)


def scales_of(city: City) -> Mapping[str, Mapping[str, Scale]]:
    """All quantities in all of their `UNITS`.

    Timing advance counts in steps of the city's numerology, and one that stands for more than
    four times what the city's maps cover is doubted.
    """
    return _scales(city.radio.numerology, city.range_m)


@functools.cache
def _scales(numerology: int, range_m: float) -> Mapping[str, Mapping[str, Scale]]:
    listed = {
        **_levels(),
        **_of_the_serving_sector(numerology, range_m),
        **_of_the_terminal(),
    }
    return {name: {scale.unit: scale for scale in scales} for name, scales in listed.items()}


def _levels() -> dict[str, tuple[Scale, ...]]:
    use_code = "Give {0}, or read the column with unit: nr_code (docs/reports.md)."
    use_db = "Read the column with unit: {0} (docs/reports.md)."
    codes_dbm = Doubt(
        lambda v: _mostly((v >= 0) & (v <= 127) & (v % 1 == 0)),
        "3GPP codes, or levels without their minus sign",
        use_code.format("dBm, -156 to -31"),
    )
    unsigned = Doubt(lambda v: _mostly(v > 0), "levels without their minus sign", "Give dBm.")
    tenths = Doubt(lambda v: _mostly(v < -310), "tenths of a dBm", "Give dBm, -156 to -31.")
    ratio_codes = Doubt(
        lambda v: bool((v >= 0).all() and (v % 1 == 0).all() and np.median(v) > 20),
        "3GPP codes",
        use_code.format("dB"),
    )
    ratio_unsigned = Doubt(
        lambda v: bool((v > 0).all() and np.median(v) >= 3),
        "ratios without their minus sign",
        "Give dB, with their sign.",
    )
    sinr_codes = Doubt(
        lambda v: bool((v >= 0).all() and (v % 1 == 0).all() and v.max() > 40),
        "3GPP codes",
        use_code.format("dB, -23 to 40"),
    )
    dbm = Doubt(lambda v: _mostly(v < 0), "dBm, not 3GPP codes", use_db.format("dBm"))
    decibels = Doubt(
        lambda v: _mostly((v < 0) | (v % 1 != 0)), "dB, not 3GPP codes", use_db.format("dB")
    )
    return {
        "rsrp": (
            Scale("dBm", -156.0, -31.0, _same, doubts=(codes_dbm, unsigned, tenths)),
            _coded("nr_code", SS_RSRP, dbm),
            _coded("lte_code", LTE_RSRP, dbm),
        ),
        "rsrq": (
            Scale("dB", -60.0, 30.0, _same, doubts=(ratio_codes, ratio_unsigned)),
            _coded("nr_code", SS_RSRQ, decibels),
            _coded("lte_code", LTE_RSRQ, decibels),
        ),
        "sinr": (
            Scale("dB", -60.0, 60.0, _same, doubts=(sinr_codes,)),
            _coded("nr_code", SS_SINR, decibels),
        ),
        "beam_rsrp": (Scale("dBm", -180.0, -31.0, _same, doubts=(codes_dbm, unsigned, tenths)),),
        "beam_index": (Scale("1", 0, 63, _same, whole=True),),
    }


def _of_the_serving_sector(numerology: int, range_m: float) -> dict[str, tuple[Scale, ...]]:
    step_ns = timing_advance_step_ns(numerology)
    step_m = timing_advance_step_m(numerology)
    not_steps = Doubt(
        lambda v: _mostly((v % 1 != 0) | (v > TIMING_ADVANCE_LAST)),
        "a time or a distance, not steps",
        "Give whole steps, 0 to 3846, or read the column with unit: ns, us or m.",
    )
    too_far = Doubt(
        lambda v: bool(np.median(v) * step_m > _FAR * range_m),
        f"metres or nanoseconds, not steps of {step_m:.2f} m: half of them lie beyond "
        f"{_FAR * range_m / 1000:.1f} km",
        "Read the column with unit: ns, us or m (docs/reports.md).",
    )
    percent = Doubt(
        lambda v: bool(v.max() <= 100 and np.median(v) > 1),
        "percent",
        "Give shares, 0 to 1, or read the column with unit: percent.",
    )
    kbps = Doubt(
        lambda v: bool(np.median(v) > 10_000),
        "kbit/s or bit/s",
        "Give Mbit/s, or read the column with unit: kbps or bps.",
    )

    def steps_of(ns: Values) -> Values:
        return np.round(ns / step_ns)

    last_ns = TIMING_ADVANCE_LAST * step_ns
    last_m = TIMING_ADVANCE_LAST * step_m
    return {
        "cqi": (Scale("1", 0, CQI_LAST, _same, whole=True),),
        "ri": (Scale("1", 1, 8, _same, whole=True),),
        "ta": (
            Scale("steps", 0, TIMING_ADVANCE_LAST, _same, whole=True, doubts=(not_steps, too_far)),
            Scale(
                "lte_steps",
                0,
                LTE_TA_LAST,
                lambda v: v * timing_advance_step_ns(0) / step_ns,
                whole=True,
                doubts=(not_steps, too_far),
            ),
            Scale("ns", 0, last_ns, steps_of),
            Scale("us", 0, last_ns / 1e3, lambda v: steps_of(1e3 * v)),
            Scale("m", 0, last_m, lambda v: np.round(v / step_m)),
        ),
        "ta_offset": (
            Scale("ns", -16_800, 16_800, _same),
            Scale("us", -16.8, 16.8, lambda v: 1e3 * v),
        ),
        "aoa": _directions(),
        "ul_sinr": (Scale("dB", -65.534, 65.534, _same),),
        "throughput": (
            Scale("mbps", 0, 20_000, _same, doubts=(kbps,)),
            Scale("kbps", 0, 2e7, lambda v: v / 1e3),
            Scale("bps", 0, 2e10, lambda v: v / 1e6),
        ),
        "bler": (
            Scale("share", 0, 1, _same, doubts=(percent,)),
            Scale("percent", 0, 100, lambda v: v / 100),
        ),
    }


def _of_the_terminal() -> dict[str, tuple[Scale, ...]]:
    km_h = Doubt(lambda v: bool(np.median(v) > 35), "km/h", "Read the column with unit: km_h.")
    in_ms = Doubt(
        lambda v: _mostly(v > 1e11), "milliseconds", "Read the column with unit: unix_ms."
    )
    in_s = Doubt(
        lambda v: _mostly((v > 1e8) & (v < 1e11)), "seconds", "Read the column with unit: s."
    )
    in_us = Doubt(lambda v: _mostly(v > 1e14), "microseconds", "Use unit: unix_us.")
    return {
        "speed": (
            Scale("m_s", 0, 110, _same, doubts=(km_h,)),
            Scale("km_h", 0, 400, lambda v: v / 3.6),
        ),
        "heading": _directions(),
        "lon": (Scale("deg", -180, 180, _same),),
        "lat": (Scale("deg", -90, 90, _same),),
        "x": (Scale("m", -1e7, 1e8, _same),),
        "y": (Scale("m", -1e7, 1e8, _same),),
        "time": (
            Scale("s", -1e10, 1e10, _same, doubts=(in_ms,)),
            Scale("unix_ms", -1e13, 1e13, lambda v: v / 1e3, doubts=(in_s, in_us)),
            Scale("unix_us", -1e16, 1e16, lambda v: v / 1e6),
            Scale(_ISO, -1e10, 1e10, _same),
        ),
    }


def _directions() -> tuple[Scale, ...]:
    signed = Doubt(
        lambda v: bool((v >= -180).all() and (v <= 180).all() and np.mean(v < 0) > 1 - _MOST),
        "angles from -180 to 180",
        "Give compass angles, clockwise from north, 0 to 360.",
    )
    radians = Doubt(
        lambda v: bool((abs(v) <= 2 * np.pi).all() and len(np.unique(v)) >= _FEWEST),
        "radians",
        "Give degrees, or read the column with unit: rad.",
    )
    return (
        Scale("deg", 0, 360, lambda v: v % 360, doubts=(radians, signed)),
        Scale("rad", 0, 2 * np.pi + 1e-6, lambda v: np.degrees(v) % 360),
    )


def _coded(unit: str, field: QuantisedField, doubt: Doubt) -> Scale:
    return Scale(unit, 0, field.last, field.decode, whole=True, doubts=(doubt,))


def _same(values: Values) -> Values:
    return values


def _mostly(which: NDArray[np.bool_]) -> bool:
    return bool(np.mean(which) >= _MOST)
