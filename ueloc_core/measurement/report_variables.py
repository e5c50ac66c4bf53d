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

from ueloc_core.measurement.reports import DOPPLER_LIMIT_HZ, FIELDS, MISSING, ReportField
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

_DOPPLER = Layer(
    name="doppler_hz",
    units="Hz",
    long_name="Doppler shift of the mean direction of arrival",
    dtype="int16",
    step=0.1,
    lowest=-DOPPLER_LIMIT_HZ,
    highest=DOPPLER_LIMIT_HZ,
    reason="0.1 Hz is 9 mm/s at 3.5 GHz",
)
_STORED = {f"rt_{layer.name}": layer for layer in (*LAYERS.values(), _DOPPLER)}


def _of_field(name: str, field: ReportField) -> Variable:
    """A field of a report as a variable: per slot where each sector of a report has its own."""
    per_slot = field.layer == "ray_tracing" or name in _FIELDS_OF_A_SLOT
    dims = _SLOT if per_slot else _BEAM if name.startswith("beam_") else _REPORT
    return Variable(
        np.dtype(field.dtype).type,
        dims,
        field.long_name,
        field.missing,
        field.lowest,
        field.highest,
        field.unit,
        _STORED.get(name),
        (("references", field.source), ("field_layer", field.layer)),
    )


_FIELDS_OF_A_SLOT = ("rsrp_code", "rsrq_code", "sinr_code")
_RAY_TRACED = {n: _of_field(n, f) for n, f in FIELDS.items() if f.layer == "ray_tracing"}
_MEASURED = {
    "sector_id": Variable(
        np.int64, _SLOT, "sector of the slot, 0 = empty; slot 0 serves", 0, 1, 2**62
    ),
    "selected": Variable(
        np.int8, _REPORT, "1 where the serving sector was (re)selected for this report", 0, 0, 1
    ),
    **{n: _of_field(n, f) for n, f in FIELDS.items() if f.layer != "ray_tracing"},
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
