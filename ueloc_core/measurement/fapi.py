"""Uplink measurements in the messages of 5G FAPI: CRC, SRS and RACH indications.

UCI indications are in `ueloc_core.measurement.fapi_uci`; `decode_message` reads all four. Layouts,
ranges and invalid codes are those of the Small Cell Forum's 5G PHY API, SCF 222.10.04 (3.4.8 to
3.4.11), with the message types of 222.10.02. They were taken from open implementations of that
version, not from the document. These are uncertain:

- ``avg_rssi`` of a RACH indication has 32 bits, as its range demands (16 are also found);
- the invalid timing offset [ns] of an SRS indication is -32768, as in the other messages
  (-1, 0xffff, is also found, where it is a value of its range);
- RSSI is in dBFS and RSRP in dBm, which CONFIG.request can change.

Measurements of positioning (angles, relative arrival times) came with later versions.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

from ueloc_core.measurement.fapi_layout import (
    ANY16,
    ANY32,
    U8,
    U16,
    U32,
    Bits,
    Block,
    Indication,
    Many,
    Number,
    Reader,
    Writer,
)
from ueloc_core.measurement.fapi_quantities import (
    NOT_MEASURED,
    PREAMBLE_POWER,
    RACH_TIMING,
    SNR,
    SNR_NUMBER,
    U8_INVALID,
    U16_INVALID,
    U32_INVALID,
    Handle,
    LevelCode,
    Measured,
    PowerCode,
    Rnti,
    SnrCode,
    TimingCommand,
    TimingOffset,
)
from ueloc_core.measurement.fapi_uci import UciIndication
from ueloc_core.measurement.reports import (
    INT16_MISSING,
    MISSING,
    TIMING_ADVANCE_OFFSET,
    timing_advance_field,
)
from ueloc_core.radio.link import TIMING_ADVANCE_LAST

# -- CRC.indication -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class CrcPdu(Block):
    """Whether one transport block arrived, and how (3.4.8).

    `rapid` is a preamble's index in two-step random access, else 255; `tb_crc_status` is 1 where
    the block failed; `cb_crc_status` has such a bit for each code block, or none.
    """

    handle: Handle = 0
    rnti: Rnti
    rapid: Annotated[int, Number(U8, 0, 63, U8_INVALID)] = U8_INVALID
    harq_id: Annotated[int, Number(U8, 0, 15)]
    tb_crc_status: Annotated[int, Number(U8, 0, 1)]
    cb_crc_status: Annotated[tuple[int, ...], Bits(ANY16)] = ()
    measurement: Measured = NOT_MEASURED


@dataclass(frozen=True, kw_only=True)
class CrcIndication(Indication):
    """CRC.indication (3.4.8)."""

    TYPE: ClassVar[int] = 0x86
    NAME: ClassVar[str] = "CRC.indication"

    pdus: Annotated[tuple[CrcPdu, ...], Many(ANY16, CrcPdu)]


# -- SRS.indication -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SrsSymbol(Block):
    """SNR of each group of resource blocks in one symbol, as `SNR` encodes it."""

    rb_snr: Annotated[tuple[int, ...], Many(Number(U16, 0, 272), SNR_NUMBER)] = ()


@dataclass(frozen=True, kw_only=True)
class SrsBeamReport(Block):
    """Beamforming report of a sounding reference signal (table 3-131)."""

    prg_size: Annotated[int, Number(U16, 1, 275)]
    num_symbols: Annotated[int, Number(U8, 1, 4)]
    wideband_snr: SnrCode = U8_INVALID
    symbols: Annotated[tuple[SrsSymbol, ...], Many(Number(U8, 0, 4), SrsSymbol)] = ()

    @property
    def wideband_snr_db(self) -> float:
        """SNR over the sounded bandwidth [dB], NaN where invalid."""
        return float(SNR.decode(self.wideband_snr))


class _InlineReport:
    """Report type, then a report within the message: tag 0, length, and it, up to 32 bits."""

    _TYPE = Number(U8, 0, 1)
    _INLINE = Number(U16, 0, 0)
    _WORD = 4

    def write(self, writer: Writer, name: str, value: SrsBeamReport | None) -> None:
        body = Writer()
        if value is not None:
            value.write(body, name + ".")
        self._TYPE.write(writer, name + " type", int(value is not None))
        self._INLINE.write(writer, name + " tag", 0)
        ANY32.write(writer, name + " length", len(body.data))
        writer.data += body.data + bytes(-len(body.data) % self._WORD)

    def read(self, reader: Reader, name: str) -> SrsBeamReport | None:
        there = self._TYPE.read(reader, name + " type")
        self._INLINE.read(reader, name + " tag")
        start = reader.offset
        length = ANY32.read(reader, name + " length")
        body = reader.offset
        value = SrsBeamReport.read(reader, name + ".") if there else None
        if reader.offset - body != length:
            raise reader.error(
                f"{name} length = {length}, and its fields take {reader.offset - body}", start
            )
        start = reader.offset
        if any(reader.take(-length % self._WORD, name + " filling")):
            raise reader.error(f"{name} filling is not 0", start)
        return value


@dataclass(frozen=True, kw_only=True)
class SrsPdu(Block):
    """One sounding reference signal (3.4.10).

    `usage` is 0, beam management: other usages have reports without a level. The report may be
    None.
    """

    handle: Handle = 0
    rnti: Rnti
    ta_offset: TimingCommand = U16_INVALID
    ta_offset_ns: TimingOffset = INT16_MISSING
    usage: Annotated[int, Number(U8, 0, 0)] = 0
    report: Annotated[SrsBeamReport | None, _InlineReport()] = None

    @property
    def timing_ns(self) -> float:
        """Timing offset [ns], NaN where invalid."""
        return float(TIMING_ADVANCE_OFFSET.decode(self.ta_offset_ns))


@dataclass(frozen=True, kw_only=True)
class SrsIndication(Indication):
    """SRS.indication (3.4.10) with its reports within it: `control_length` is 0."""

    TYPE: ClassVar[int] = 0x88
    NAME: ClassVar[str] = "SRS.indication"

    control_length: Annotated[int, Number(U16, 0, 0)] = 0
    pdus: Annotated[tuple[SrsPdu, ...], Many(Number(U8, 0, 255), SrsPdu)]


# -- RACH.indication ----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Preamble(Block):
    """One preamble that was detected (3.4.11).

    Attributes
    ----------
    index
        The preamble.
    ta
        Absolute timing advance 0..3846, in steps of 16 x 64 / 2^mu Tc.
    ta_ns
        The same in ns.
    power
        In 0.001 dB above -140 dBm.
    snr
        In 0.5 dB above -64 dB.
    """

    index: Annotated[int, Number(U8, 0, 63)]
    ta: Annotated[int, Number(U16, 0, TIMING_ADVANCE_LAST, U16_INVALID)] = U16_INVALID
    ta_ns: Annotated[int, Number(U32, 0, RACH_TIMING.last, U32_INVALID)] = U32_INVALID
    power: PowerCode = U32_INVALID
    snr: SnrCode = U8_INVALID

    @classmethod
    def of(
        cls, *, index: int, round_trip_ns: float, power_dbm: float, snr_db: float, numerology: int
    ) -> Self:
        """A preamble of physical values: clipped to their ranges, NaN is invalid."""
        ta = int(timing_advance_field(numerology).encode(round_trip_ns))
        return cls(
            index=index,
            ta=U16_INVALID if ta == MISSING else ta,
            ta_ns=int(RACH_TIMING.encode(round_trip_ns)),
            power=int(PREAMBLE_POWER.encode(power_dbm)),
            snr=int(SNR.encode(snr_db)),
        )

    @property
    def round_trip_ns(self) -> float:
        """Arrival of the preamble [ns], NaN where invalid."""
        return float(RACH_TIMING.decode(self.ta_ns))

    @property
    def power_dbm(self) -> float:
        """Power [dBm], NaN where invalid."""
        return float(PREAMBLE_POWER.decode(self.power))

    @property
    def snr_db(self) -> float:
        """SNR [dB], NaN where invalid."""
        return float(SNR.decode(self.snr))


@dataclass(frozen=True, kw_only=True)
class RachPdu(Block):
    """The preambles of one occasion (3.4.11); RSSI as `PREAMBLE_POWER`, SNR as `SNR`."""

    handle: Annotated[int, ANY16] = 0
    symbol_index: Annotated[int, Number(U8, 0, 13)]
    slot_index: Annotated[int, Number(U8, 0, 79)]
    ra_index: Annotated[int, Number(U8, 0, 7)]
    avg_rssi: PowerCode = U32_INVALID
    rsrp: LevelCode = U16_INVALID
    avg_snr: SnrCode = U8_INVALID
    preambles: Annotated[tuple[Preamble, ...], Many(Number(U8, 0, 64), Preamble)]

    @property
    def avg_rssi_dbm(self) -> float:
        """Mean RSSI of the occasion [dBm], NaN where invalid."""
        return float(PREAMBLE_POWER.decode(self.avg_rssi))


@dataclass(frozen=True, kw_only=True)
class RachIndication(Indication):
    """RACH.indication (3.4.11)."""

    TYPE: ClassVar[int] = 0x89
    NAME: ClassVar[str] = "RACH.indication"

    pdus: Annotated[tuple[RachPdu, ...], Many(Number(U8, 0, 255), RachPdu)]


_KINDS: dict[int, type[Indication]] = {
    kind.TYPE: kind for kind in (CrcIndication, UciIndication, SrsIndication, RachIndication)
}


def decode_message(data: bytes) -> Indication:
    """The message of bytes, of whichever of the four types they name.

    Raises
    ------
    ReportError
        If they are cut off, too many, of another type, or hold a number outside its range.
    """
    kind = int.from_bytes(data[2:4], "little")
    if len(data) < _HEADER_BYTES or kind not in _KINDS:
        known = ", ".join(f"{known:#04x}" for known in _KINDS)
        raise Reader(data, "PHY API message").error(
            f"message type = {data[2:4].hex(' ') or 'nothing'} is none of {known}", 2
        )
    return _KINDS[kind].decode(data)


_HEADER_BYTES = 8
