"""The variables of a report data set: names, types, missing values, ranges and meaning.

Everything that is measured is an integer code with a code for missing; the ground truth is NaN
(or -1) where unknown. The ray-tracing layer says what the world's maps hold where a terminal
stood: it explains reports, and no locator reads it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from ueloc_core.measurement.reports import (
    CQI_LAST,
    INT16_MISSING,
    MISSING,
    SS_RSRP,
    SS_RSRQ,
    SS_SINR,
)
from ueloc_core.measurement.scenarios import FEATURES, SCENARIOS
from ueloc_core.radio.cube_layers import LAYERS, Layer

SLOTS = 8
"""The serving sector and up to seven neighbours."""

BEAMS = 4
"""Beams of the serving sector in a report, the most of one CSI report (TS 38.214, 5.2.1.4.2)."""

MOBILITIES = ("static", "pedestrian", "vehicle")
"""How a terminal moves; its code in a data set is its place here, -1 unknown."""

_REPORT = ("report",)
_SLOT = ("report", "slot")
_BEAM = ("report", "beam")
_SIZES = {"slot": SLOTS, "beam": BEAMS}
_BELIEVED_M = 1e8  # no projected coordinate on Earth is larger


@dataclass(frozen=True)
class Variable:
    """One variable of a report data set.

    Attributes
    ----------
    dtype, dims
        In memory.
    long_name, units
        What it is.
    missing
        What stands for no value: a code, or NaN.
    lowest, highest
        Valid range, both ends included, `missing` apart.
    layer
        How floats are rounded to integers in the store; None where they are stored as they are.
    attributes
        More attributes.
    """

    dtype: type
    dims: tuple[str, ...]
    long_name: str
    missing: float
    lowest: float
    highest: float
    units: str = "1"
    layer: Layer | None = None
    attributes: tuple[tuple[str, Any], ...] = ()

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes in the store; integers say what stands for missing."""
        missing = {} if np.isnan(self.missing) else {"missing_code": int(self.missing)}
        return {
            "units": self.units,
            "long_name": self.long_name,
            **missing,
            **dict(self.attributes),
        }

    def absent(self, reports: int) -> NDArray[Any]:
        """An array without any value, for a number of reports."""
        shape = (reports, *(_SIZES[dim] for dim in self.dims[1:]))
        return np.full(shape, self.missing, dtype=self.dtype)


def _code(dtype: type, dims: tuple[str, ...], highest: float, long_name: str) -> Variable:
    return Variable(dtype, dims, long_name, MISSING, 0, highest)


def _named(names: tuple[str, ...], long_name: str) -> Variable:
    meanings = (
        ("flag_values", list(range(len(names)))),
        ("flag_meanings", " ".join(names)),
    )
    return Variable(np.int8, _REPORT, long_name, MISSING, 0, len(names) - 1, attributes=meanings)


def _position(long_name: str) -> Variable:
    return Variable(np.float64, _REPORT, long_name, np.nan, -_BELIEVED_M, _BELIEVED_M, "m")


_TRUTH = {
    "track": Variable(np.int64, _REPORT, "terminal", MISSING, 0, 2**62),
    "time_s": Variable(
        np.float64, _REPORT, "time since the track's first report", np.nan, 0, 1e9, "s"
    ),
    "x_m": _position("true easting"),
    "y_m": _position("true northing"),
    "speed_m_s": Variable(np.float32, _REPORT, "true speed", np.nan, 0, 150, "m s-1"),
    "heading_deg": Variable(
        np.float32, _REPORT, "true heading, clockwise from north", np.nan, 0, 360, "degree"
    ),
    "mobility": _named(MOBILITIES, "how the terminal moves"),
    "indoor": _named(("outdoor", "indoor"), "whether the terminal is in a building"),
    "scenario": _named(SCENARIOS, "which features the terminal reports"),
}

_MEASURED = {
    "sector_id": Variable(
        np.int64, _SLOT, "sector of the slot, 0 = empty; slot 0 serves", 0, 1, 2**62
    ),
    "selected": Variable(
        np.int8, _REPORT, "1 where the serving sector was (re)selected for this report", 0, 0, 1
    ),
    "rsrp_code": _code(
        np.int16, _SLOT, SS_RSRP.last, "SS-RSRP code, TS 38.133 table 10.1.6.1-1"
    ),
    "rsrq_code": _code(
        np.int16, _SLOT, SS_RSRQ.last, "SS-RSRQ code, TS 38.133 table 10.1.11.1-1"
    ),
    "sinr_code": _code(
        np.int16, _SLOT, SS_SINR.last, "SS-SINR code, TS 38.133 table 10.1.16.1-1"
    ),
    "cqi": _code(
        np.int8, _REPORT, CQI_LAST, "channel quality indicator, TS 38.214 table 5.2.2.1-2"
    ),
    "ri": Variable(np.int8, _REPORT, "rank indicator, TS 38.214 5.2.2.2", MISSING, 1, 8),
    "beam_index": _code(np.int16, _BEAM, 63, "beam of the serving sector, the strongest first"),
    "beam_code": _code(
        np.int16, _BEAM, 127,
        "L1-RSRP code of the first beam, differential codes of the others, TS 38.133 table "
        "10.1.6.1-1 and -2",
    ),
    "ul_sinr_code": Variable(
        np.int16, _REPORT, "uplink SINR code of a CRC indication, SCF 222 FAPI",
        INT16_MISSING, -(2**15) + 1, 2**15 - 1,
    ),
    "ta_code": _code(np.int16, _REPORT, 3846, "absolute timing advance, TS 38.213 4.2"),
    "ta_offset_ns": Variable(
        np.int16, _REPORT, "uplink timing less the timing advance in force, SCF 222 FAPI",
        INT16_MISSING, -(2**15) + 1, 2**15 - 1, "ns",
    ),
    "aoa_code": _code(np.int16, _REPORT, 3600, "UL-AoA code, azimuth, TS 38.133"),
    "throughput_kbps": Variable(
        np.int32, _REPORT, "downlink throughput", MISSING, 0, 2**31 - 1, "kbit s-1"
    ),
    "bler_percent": Variable(
        np.int8, _REPORT, "block error rate of first transmissions", MISSING, 0, 100, "percent"
    ),
}  # fmt: skip

_DOPPLER = Layer(
    name="doppler_hz",
    units="Hz",
    long_name="Doppler shift of the mean direction of arrival",
    dtype="int16",
    step=0.1,
    lowest=-3200,
    highest=3200,
    reason="0.1 Hz is 9 mm/s at 3.5 GHz; up to 3.2 kHz, or 270 m/s there",
)
_RT_LAYERS = (
    *(
        LAYERS[name]
        for name in (
            "path_gain_db",
            "first_arrival_ns",
            "mean_delay_ns",
            "delay_spread_ns",
            "departure_azimuth_deg",
            "departure_zenith_deg",
            "departure_spread_deg",
            "arrival_azimuth_deg",
            "arrival_zenith_deg",
            "arrival_spread_deg",
            "line_of_sight",
        )
    ),
    _DOPPLER,
)

_RAY_TRACED = {
    f"rt_{layer.name}": Variable(
        np.float32,
        _SLOT,
        f"{layer.long_name}, where the terminal stood in the world's maps",
        np.nan,
        layer.lowest,
        layer.highest,
        layer.units,
        layer,
    )
    for layer in _RT_LAYERS
}

_FEATURE_VARIABLE = {
    "rsrp": "rsrp_code",
    "rsrq": "rsrq_code",
    "sinr": "sinr_code",
    "cqi": "cqi",
    "ri": "ri",
    "beams": "beam_index",
    "ul_sinr": "ul_sinr_code",
    "ta": "ta_code",
    "ta_offset": "ta_offset_ns",
    "aoa": "aoa_code",
    "throughput": "throughput_kbps",
    "bler": "bler_percent",
}
FLAGS: Mapping[str, int] = {feature: 1 << bit for bit, feature in enumerate(FEATURES)}
"""Bit of each feature in ``present``."""

_PRESENT = Variable(
    np.uint32,
    _SLOT,
    "measured features that are there; those of the serving sector alone in slot 0",
    0,
    0,
    (1 << len(FEATURES)) - 1,
    attributes=(
        ("flag_masks", list(FLAGS.values())),
        ("flag_meanings", " ".join(FLAGS)),
    ),
)

VARIABLES: Mapping[str, Variable] = {
    **_TRUTH,
    **_MEASURED,
    **_RAY_TRACED,
    "present": _PRESENT,
}
"""All variables of a report data set, in its order."""

SPLIT = Variable(
    np.int8,
    _REPORT,
    "train, validation, calibration, test; -1 unused",
    MISSING,
    0,
    3,
    attributes=(
        ("flag_values", [-1, 0, 1, 2, 3]),
        ("flag_meanings", "unused train validation calibration test"),
    ),
)
"""The variable ``split`` of a measurement set: index into `ueloc_core.city.SPLITS`."""

MEASURED = tuple(_MEASURED)
"""What a locator may read, beside ``track``, ``time_s`` and ``scenario``."""

RAY_TRACED = tuple(_RAY_TRACED)
"""The ray-tracing layer."""

NEEDED = ("sector_id", "rsrp_code")
"""What every report has; the rest may be missing."""


def feature_values(reports: xr.Dataset, feature: str) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Codes of a feature and where they are there.

    Shape (report, slot) for features of a slot, else (report,); beams give the first one's index.
    """
    name = _FEATURE_VARIABLE[feature]
    codes = reports[name].values
    if VARIABLES[name].dims == _BEAM:
        codes = codes[:, 0]
    return codes, codes != VARIABLES[name].missing


def flags_of_codes(reports: xr.Dataset) -> NDArray[np.uint32]:
    """What ``present`` must be for the codes of a data set, shape (report, slot)."""
    flags = np.zeros(reports["sector_id"].shape, dtype=np.uint32)
    for feature, bit in FLAGS.items():
        _, there = feature_values(reports, feature)
        target = flags if there.ndim == 2 else flags[:, 0]
        target |= np.where(there, np.uint32(bit), np.uint32(0))
    return flags
