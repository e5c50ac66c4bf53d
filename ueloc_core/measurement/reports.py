"""The fields of a report in three layers (ray tracing, PHY and MAC/RRC): ranges, steps, codes.

A field of `QuantisedField` cuts a quantity into bins of one width: the code ``k`` stands for the
values in ``[lower_edge(k), lower_edge(k + 1))``, the two end codes for all beyond them as well,
and a code decodes to the middle of its bin. A quantity that its document rounds to the nearest
step is the same with edges half a step below the values. `FIELDS` lists the fields of a data set.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ueloc_core.errors import ReportError
from ueloc_core.radio.cube_layers import LAYERS
from ueloc_core.radio.link import TIMING_ADVANCE_LAST, timing_advance_step_ns

MISSING = -1
"""Code of a missing value, but in FAPI's int16 fields, where -1 is a value."""

INT16_MISSING = -32768
"""Code of a missing value in FAPI's int16 fields (SCF 222: 0x8000)."""

TC_NS = timing_advance_step_ns(0) / (16 * 64)
"""The basic time unit Tc [ns] (TS 38.211, 4.1)."""


@dataclass(frozen=True)
class QuantisedField:
    """A measured quantity as a document encodes it.

    `low`, `step`, `last` and `lower_edge` are plain arithmetic, for tensors too.

    Attributes
    ----------
    name, unit
        What it is.
    low
        Lower edge of code 1 in `unit`.
    step
        Width of a bin in `unit`.
    last
        The highest code: its bin is everything from its lower edge upwards.
    source
        Clause and table.
    first
        The lowest code: its bin is everything below the lower edge of the next one.
    missing
        Code of a missing value.
    dtype
        Integer type of the codes.
    period
        Values that differ by it are the same (360 for azimuths), or None. There are then no
        open ends.
    """

    name: str
    unit: str
    low: float
    step: float
    last: int
    source: str
    first: int = 0
    missing: int = MISSING
    dtype: str = "int16"
    period: float | None = None

    def encode(self, value: Any) -> NDArray[Any]:
        """Codes of values: what lies outside has the nearest code, NaN that for missing."""
        value = np.asarray(value, dtype=np.float64)
        with np.errstate(invalid="ignore"):
            value = value if self.period is None else np.mod(value, self.period)
            code = np.floor((value - self.low) / self.step) + 1
            # 0.3 lies on the edge of a step of 0.1, but 0.3 / 0.1 is less than 3
            code = code + (value >= self.lower_edge(code + 1)) - (value < self.lower_edge(code))
            code = np.clip(code, self.first, self.last)
        return np.where(np.isnan(code), self.missing, np.nan_to_num(code)).astype(self.dtype)

    def decode(self, code: Any) -> NDArray[np.float64]:
        """Middle of each code's bin; the open end codes as if they were as wide; missing is NaN."""
        code = np.asarray(code)
        return np.where(code == self.missing, np.nan, self.lower_edge(code + 0.5))

    def lower_edge(self, code: Any) -> Any:
        """Lower edge of a code's bin, as if the first one were not open."""
        rate = 1.0 / self.step
        return (self.low * rate + code - 1) / rate

    def is_code(self, code: Any) -> NDArray[np.bool_]:
        """Whether numbers are codes of the field, that for missing among them."""
        code = np.asarray(code)
        return np.asarray(((code >= self.first) & (code <= self.last)) | (code == self.missing))


def _rounded(
    name: str, unit: str, step: float, last: int, source: str, **more: Any
) -> QuantisedField:
    """A field whose code k is k steps, rounded to the nearest one, halves upwards."""
    return QuantisedField(name, unit, step / 2, step, last, source, **more)


# -- what terminals measure ---------------------------------------------------------------------

SS_RSRP = QuantisedField("SS-RSRP", "dBm", -156.0, 1.0, 126, "TS 38.133, table 10.1.6.1-1")
SS_RSRQ = QuantisedField("SS-RSRQ", "dB", -43.0, 0.5, 127, "TS 38.133, table 10.1.11.1-1")
SS_SINR = QuantisedField("SS-SINR", "dB", -23.0, 0.5, 127, "TS 38.133, table 10.1.16.1-1")
L1_RSRP = QuantisedField(
    "L1-RSRP", "dBm", -156.0, 1.0, 113, "TS 38.133, table 10.1.6.1-1", first=16
)
"""L1-RSRP from -140 to -44 dBm in the codes of SS-RSRP: 16 is below -140, 113 from -44 up."""

L1_RSRP_DROP = QuantisedField("differential L1-RSRP", "dB", 2.0, 2.0, 15, "TS 38.133, 10.1.6.1-2")
"""How far [dB] a beam is below the strongest of its report: code 15 is 30 dB or more."""

CQI_LAST = 15  # TS 38.214, table 5.2.2.1-2
CQI = _rounded("CQI", "1", 1.0, CQI_LAST, "TS 38.214, table 5.2.2.1-2", dtype="int8")
RI = _rounded("RI", "1", 1.0, 8, "TS 38.214, 5.2.2.2", first=1, dtype="int8")

# -- what base stations measure -----------------------------------------------------------------

_FAPI = "SCF 222.10.04, 3.4.8"
UL_SINR = _rounded(
    "UL SINR", "dB", 0.002, 32767, _FAPI, first=-32767, missing=INT16_MISSING
)  # fmt: skip
"""Uplink SINR from -65.534 to 65.534 dB."""

TIMING_ADVANCE_OFFSET = _rounded(
    "timing advance offset", "ns", 1.0, 16800, _FAPI, first=-16800, missing=INT16_MISSING
)
"""Measured uplink timing less the timing advance in force."""

UL_AOA = QuantisedField(
    "UL-AoA azimuth", "degree", 0.1, 0.1, 3599, "TS 38.455, 9.2.38", period=360.0
)
"""Azimuth of arrival: code k is from k to k + 1 tenths of a degree, wrapped to 0..360."""

UL_SRS_RSRP = QuantisedField("UL SRS-RSRP", "dBm", -156.0, 1.0, 126, "TS 38.133, 13.3.1")
THROUGHPUT = _rounded(
    "throughput", "kbit/s", 1.0, 2**31 - 1, "TS 28.552, 5.1.1.3 (DRB.UEThpDl)", dtype="int32"
)
BLER = _rounded("BLER", "percent", 1.0, 100, "TS 28.552, 5.1.1.7", dtype="int8")

_TIMING_REACH_TC = 985024  # TS 38.455: codes 0..1970049 at k = 0
_FINEST, _COARSEST = 0, 5


def ul_rtoa_field(granularity: int) -> QuantisedField:
    """UL-RTOA [Tc] in steps of ``2^k`` Tc (TS 38.133, 13.1.1; code ranges of TS 38.455).

    Parameters
    ----------
    granularity
        The k of the clause, 0 to 5.

    Raises
    ------
    ReportError
        If k is not among them.

    >>> [ul_rtoa_field(k).last for k in range(6)]
    [1970049, 985025, 492513, 246257, 123129, 61565]
    """
    return _timing_field("UL-RTOA", granularity, "TS 38.133, 13.1.1")


def gnb_rx_tx_field(granularity: int) -> QuantisedField:
    """Receive-transmit time difference of a gNB [Tc], as `ul_rtoa_field` (TS 38.133, 13.2.1).

    Raises
    ------
    ReportError
        If the granularity is not 0 to 5.
    """
    return _timing_field("gNB Rx-Tx", granularity, "TS 38.133, 13.2.1")


def _timing_field(name: str, granularity: int, source: str) -> QuantisedField:
    if not _FINEST <= granularity <= _COARSEST:
        raise ReportError(
            f"granularity {granularity} is not in {_FINEST}..{_COARSEST}",
            where=name,
            remedy="The step is 2 to the power of the granularity, in Tc.",
        )
    step = 2**granularity
    last = 2 * _TIMING_REACH_TC // step + 1
    return QuantisedField(name, "Tc", -_TIMING_REACH_TC, step, last, source, dtype="int32")


def timing_advance_field(numerology: int) -> QuantisedField:
    """Absolute timing advance 0..3846 of a round trip [ns] at a numerology (TS 38.213, 4.2).

    Its codes are those of `ueloc_core.radio.link.timing_advance` of half the round trip.
    """
    step_ns = timing_advance_step_ns(numerology)
    return _rounded("timing advance", "ns", step_ns, TIMING_ADVANCE_LAST, "TS 38.213, 4.2")


TIMING_COMMAND_LAST = 63
TIMING_COMMAND_NONE = 31
"""The timing advance command that changes nothing."""


def timing_command_field(numerology: int) -> QuantisedField:
    """Timing advance command 0..63 of a MAC CE for a change of timing [ns] (TS 38.213, 4.2).

    It changes the advance by ``(command - 31) x 16 x 64 / 2^mu`` Tc.
    """
    step_ns = timing_advance_step_ns(numerology)
    low_ns = (0.5 - TIMING_COMMAND_NONE) * step_ns
    return QuantisedField(
        "timing advance command", "ns", low_ns, step_ns, TIMING_COMMAND_LAST, "TS 38.213, 4.2"
    )


def advance_after(ta_code: Any, command: Any) -> NDArray[np.int16]:
    """Timing advance that commands leave: the old one plus ``command - 31``, within 0..3846.

    Missing where either is missing.

    >>> advance_after([10, 10, -1], [31, 28, 40]).tolist()
    [10, 7, -1]
    """
    ta_code, command = np.asarray(ta_code), np.asarray(command)
    new = np.clip(ta_code + command - TIMING_COMMAND_NONE, 0, TIMING_ADVANCE_LAST)
    missing = (ta_code == MISSING) | (command == MISSING)
    return np.where(missing, MISSING, new).astype(np.int16)


def encode_beams(level_dbm: Any) -> NDArray[np.int16]:
    """L1-RSRP codes of beams [dBm] along the last axis, the strongest first.

    The first is absolute, the others are differential to it (TS 38.214, 5.2.1.4.3). NaN is
    missing.

    >>> encode_beams([-80.2, -81.0, -82.2, -120.0]).tolist()
    [76, 0, 1, 15]
    """
    level = np.asarray(level_dbm, dtype=np.float64)
    drop = level[..., :1] - level[..., 1:]
    codes = [L1_RSRP.encode(level[..., :1]), L1_RSRP_DROP.encode(drop)]
    return np.concatenate(codes, axis=-1).astype(np.int16)


def decode_beams(code: Any) -> NDArray[np.float64]:
    """Levels [dBm] of the codes of `encode_beams`: the middles of the bins, missing is NaN."""
    code = np.asarray(code)
    first = L1_RSRP.decode(code[..., :1])
    return np.concatenate([first, first - L1_RSRP_DROP.decode(code[..., 1:])], axis=-1)


def encode_rsrp(value_dbm: Any) -> NDArray[np.int16]:
    """SS-RSRP code 0..126 of a level [dBm] (TS 38.133, table 10.1.6.1-1).

    >>> encode_rsrp([-156.5, -156.0, -100.2, -31.0, 0.0]).tolist()
    [0, 1, 56, 126, 126]
    """
    return SS_RSRP.encode(value_dbm)


def decode_rsrp(code: Any) -> NDArray[np.float64]:
    """Mid-bin SS-RSRP [dBm] of a code."""
    return SS_RSRP.decode(code)


def encode_rsrq(value_db: Any) -> NDArray[np.int16]:
    """SS-RSRQ code 0..127 of a ratio [dB] (TS 38.133, table 10.1.11.1-1)."""
    return SS_RSRQ.encode(value_db)


def decode_rsrq(code: Any) -> NDArray[np.float64]:
    """Mid-bin SS-RSRQ [dB] of a code."""
    return SS_RSRQ.decode(code)


def encode_sinr(value_db: Any) -> NDArray[np.int16]:
    """SS-SINR code 0..127 of a ratio [dB] (TS 38.133, table 10.1.16.1-1)."""
    return SS_SINR.encode(value_db)


def decode_sinr(code: Any) -> NDArray[np.float64]:
    """Mid-bin SS-SINR [dB] of a code."""
    return SS_SINR.decode(code)


def ul_aoa_of_compass_deg(azimuth_deg: Any) -> Any:
    """UL-AoA azimuth [deg], counter-clockwise from north (TS 38.215, 5.2.4), of a compass one.

    Its own inverse.

    >>> ul_aoa_of_compass_deg(90.0)
    270.0
    """
    return (360.0 - azimuth_deg) % 360.0


# -- the fields of a data set -------------------------------------------------------------------

LayerName = Literal["ray_tracing", "phy", "mac"]


@dataclass(frozen=True)
class ReportField:
    """One variable of a report data set that says something about the radio channel.

    Attributes
    ----------
    layer
        ``ray_tracing`` (truth of the simulated world), ``phy`` (PHY, FAPI) or ``mac`` (MAC, RRC).
    unit, long_name, source
        Unit of the stored numbers ("1" for codes), meaning, and clause.
    dtype
        In memory.
    lowest, highest
        Valid range of the stored numbers, both ends included.
    missing
        What stands for no value.
    encoding
        How codes stand for a quantity, or None.
    """

    layer: LayerName
    unit: str
    long_name: str
    source: str
    dtype: str
    lowest: float
    highest: float
    missing: float
    encoding: QuantisedField | None = None


def _coded(layer: LayerName, field: QuantisedField, long_name: str, unit: str = "1") -> ReportField:
    return ReportField(
        layer, unit, long_name, field.source, field.dtype, field.first, field.last, field.missing,
        field,
    )  # fmt: skip


_TIMING_ADVANCE = _rounded("timing advance", "1", 1.0, TIMING_ADVANCE_LAST, "TS 38.213, 4.2")
_MEASURED = {
    "rsrp_code": _coded("mac", SS_RSRP, "SS-RSRP code"),
    "rsrq_code": _coded("mac", SS_RSRQ, "SS-RSRQ code"),
    "sinr_code": _coded("mac", SS_SINR, "SS-SINR code"),
    "cqi": _coded("phy", CQI, "channel quality indicator"),
    "ri": _coded("phy", RI, "rank indicator"),
    "beam_index": ReportField(
        "phy", "1", "CRI or SSBRI of the serving sector's beams, the strongest first",
        "TS 38.214, 5.2.1.4.2", "int16", 0, 63, MISSING,
    ),
    "beam_code": ReportField(
        "phy", "1", "L1-RSRP code of the strongest beam, differential codes of the others",
        "TS 38.133, tables 10.1.6.1-1 and 10.1.6.1-2", "int16", 0, L1_RSRP.last, MISSING, L1_RSRP,
    ),
    "ul_sinr_code": _coded("phy", UL_SINR, "uplink SINR code"),
    "ta_offset_ns": _coded(
        "phy", TIMING_ADVANCE_OFFSET, "uplink timing less the timing advance in force", "ns"
    ),
    "aoa_code": _coded("phy", UL_AOA, "UL-AoA code, azimuth"),
    "ta_code": _coded("mac", _TIMING_ADVANCE, "timing advance in steps of 16 x 64 / 2^mu Tc"),
    "throughput_kbps": _coded("mac", THROUGHPUT, "downlink throughput", "kbit s-1"),
    "bler_percent": _coded("mac", BLER, "block error rate of first transmissions", "percent"),
}  # fmt: skip

DOPPLER_LIMIT_HZ = 3200.0
_TRACED = (
    "path_gain_db", "first_arrival_ns", "mean_delay_ns", "delay_spread_ns",
    "departure_azimuth_deg", "departure_zenith_deg", "departure_spread_deg",
    "arrival_azimuth_deg", "arrival_zenith_deg", "arrival_spread_deg", "line_of_sight",
)  # fmt: skip


def _traced(unit: str, long_name: str, lowest: float, highest: float) -> ReportField:
    source = "the world's radio maps where the terminal stood"
    return ReportField(
        "ray_tracing", unit, long_name, source, "float32", lowest, highest, np.nan
    )  # fmt: skip


FIELDS: Mapping[str, ReportField] = MappingProxyType(
    {
        **{
            f"rt_{layer.name}": _traced(
                layer.units, layer.long_name, layer.lowest, layer.highest
            )
            for layer in (LAYERS[name] for name in _TRACED)
        },
        "rt_doppler_hz": _traced(
            "Hz", "Doppler shift of the mean direction of arrival",
            -DOPPLER_LIMIT_HZ, DOPPLER_LIMIT_HZ,
        ),
        **_MEASURED,
    }
)  # fmt: skip
"""The fields by the name of their variable in a data set of reports."""
