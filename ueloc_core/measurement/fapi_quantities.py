"""Measured quantities as FAPI encodes them, and the fields of its messages that hold them.

Ranges, steps and invalid codes are those of SCF 222.10.04, 3.4.8 to 3.4.11.
"""

from dataclasses import dataclass
from typing import Annotated, Self

from ueloc_core.measurement.fapi_layout import ANY32, I16, U8, U16, U32, Block, Inline, Number
from ueloc_core.measurement.reports import (
    INT16_MISSING,
    MISSING,
    TIMING_ADVANCE_OFFSET,
    TIMING_COMMAND_LAST,
    UL_SINR,
    QuantisedField,
    timing_command_field,
)

U8_INVALID, U16_INVALID, U32_INVALID = 0xFF, 0xFFFF, 0xFFFFFFFF


def _steps(
    name: str, unit: str, lowest: float, step: float, last: int, missing: int
) -> QuantisedField:
    """A field whose code k is the lowest value and k steps, rounded."""
    return QuantisedField(
        name, unit, lowest + step / 2, step, last, "SCF 222.10.04, 3.4", missing=missing,
        dtype="int64",
    )  # fmt: skip


RSSI = _steps("RSSI", "dBFS", -128.0, 0.1, 1280, U16_INVALID)
RSRP = _steps("RSRP", "dBm", -140.0, 0.1, 1280, U16_INVALID)
SNR = _steps("SNR", "dB", -64.0, 0.5, 254, U8_INVALID)
PREAMBLE_POWER = _steps("power", "dBm", -140.0, 0.001, 170_000, U32_INVALID)
RACH_TIMING = _steps("arrival", "ns", 0.0, 1.0, 2_005_000, U32_INVALID)

SNR_NUMBER = Number(U8, 0, SNR.last, U8_INVALID)
Handle = Annotated[int, ANY32]
Rnti = Annotated[int, Number(U16, 1, 0xFFFF)]
SinrCode = Annotated[int, Number(I16, UL_SINR.first, UL_SINR.last, INT16_MISSING)]
TimingCommand = Annotated[int, Number(U16, 0, TIMING_COMMAND_LAST, U16_INVALID)]
TimingOffset = Annotated[
    int, Number(I16, TIMING_ADVANCE_OFFSET.first, TIMING_ADVANCE_OFFSET.last, INT16_MISSING)
]
LevelCode = Annotated[int, Number(U16, 0, RSRP.last, U16_INVALID)]
SnrCode = Annotated[int, SNR_NUMBER]
PowerCode = Annotated[int, Number(U32, 0, PREAMBLE_POWER.last, U32_INVALID)]


def timing_command(offset_ns: float, numerology: int) -> int:
    """FAPI's timing advance offset 0..63 of a timing offset [ns]; NaN gives 65535."""
    code = int(timing_command_field(numerology).encode(offset_ns))
    return U16_INVALID if code == MISSING else code


@dataclass(frozen=True, kw_only=True)
class UplinkMeasurement(Block):
    """What a CRC or UCI indication measured of one transmission.

    Attributes
    ----------
    ul_sinr
        SINR in 0.002 dB.
    ta_offset
        Timing advance command 0..63 that would correct the timing (TS 38.213, 4.2).
    ta_offset_ns
        Timing offset [ns].
    rssi, rsrp
        In 0.1 dB above -128 dBFS and -140 dBm.
    """

    ul_sinr: SinrCode = INT16_MISSING
    ta_offset: TimingCommand = U16_INVALID
    ta_offset_ns: TimingOffset = INT16_MISSING
    rssi: LevelCode = U16_INVALID
    rsrp: LevelCode = U16_INVALID

    @classmethod
    def of(
        cls,
        *,
        ul_sinr_db: float,
        timing_ns: float,
        rssi_db: float,
        rsrp_dbm: float,
        numerology: int,
    ) -> Self:
        """A measurement of physical values: clipped to their ranges, NaN is invalid."""
        return cls(
            ul_sinr=int(UL_SINR.encode(ul_sinr_db)),
            ta_offset=timing_command(timing_ns, numerology),
            ta_offset_ns=int(TIMING_ADVANCE_OFFSET.encode(timing_ns)),
            rssi=int(RSSI.encode(rssi_db)),
            rsrp=int(RSRP.encode(rsrp_dbm)),
        )

    @property
    def ul_sinr_db(self) -> float:
        """SINR [dB], NaN where invalid."""
        return float(UL_SINR.decode(self.ul_sinr))

    @property
    def timing_ns(self) -> float:
        """Timing offset [ns], NaN where invalid."""
        return float(TIMING_ADVANCE_OFFSET.decode(self.ta_offset_ns))

    @property
    def rssi_db(self) -> float:
        """RSSI [dBFS], NaN where invalid."""
        return float(RSSI.decode(self.rssi))

    @property
    def rsrp_dbm(self) -> float:
        """RSRP [dBm], NaN where invalid."""
        return float(RSRP.decode(self.rsrp))


Measured = Annotated[UplinkMeasurement, Inline(UplinkMeasurement)]
NOT_MEASURED = UplinkMeasurement()
