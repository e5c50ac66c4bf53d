"""UCI.indication of 5G FAPI: control information of terminals, and what was measured on it.

Layouts are those of SCF 222.10.04, 3.4.9; `ueloc_core.measurement.fapi` says what is uncertain,
and besides: whether the HARQ answers 0 and 1 of PUCCH format 0 and 1 are NACK and ACK, as here,
or pass and fail, as in 222.10.02.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

from ueloc_core.measurement.fapi_layout import (
    ANY16,
    U8,
    U16,
    Bits,
    Block,
    Indication,
    Number,
    OptionalParts,
    Part,
    Reader,
    Writer,
)
from ueloc_core.measurement.fapi_quantities import NOT_MEASURED, U8_INVALID, Handle, Measured, Rnti


@dataclass(frozen=True, kw_only=True)
class SchedulingRequest01(Block):
    """Scheduling request of PUCCH format 0 or 1: 1 where one was sent."""

    indication: Annotated[int, Number(U8, 0, 1)]
    confidence: Annotated[int, Number(U8, 0, 1, U8_INVALID)] = U8_INVALID


@dataclass(frozen=True, kw_only=True)
class Harq01(Block):
    """HARQ answers of PUCCH format 0 or 1: 0 NACK, 1 ACK, 2 not there."""

    values: tuple[int, ...]
    confidence: int = U8_INVALID

    _COUNT: ClassVar[Number] = Number(U8, 1, 2)
    _CONFIDENCE: ClassVar[Number] = Number(U8, 0, 1, U8_INVALID)
    _VALUE: ClassVar[Number] = Number(U8, 0, 2)

    def write(self, writer: Writer, prefix: str = "") -> None:
        """As `Block.write`: the confidence stands between the count and the answers."""
        self._COUNT.write(writer, prefix + "count of values", len(self.values))
        self._CONFIDENCE.write(writer, prefix + "confidence", self.confidence)
        for i, value in enumerate(self.values):
            self._VALUE.write(writer, f"{prefix}values[{i}]", value)

    @classmethod
    def read(cls, reader: Reader, prefix: str = "") -> Self:
        """As `Block.read`."""
        count = cls._COUNT.read(reader, prefix + "count of values")
        confidence = cls._CONFIDENCE.read(reader, prefix + "confidence")
        values = (cls._VALUE.read(reader, f"{prefix}values[{i}]") for i in range(count))
        return cls(values=tuple(values), confidence=confidence)


@dataclass(frozen=True, kw_only=True)
class SchedulingRequest234(Block):
    """Scheduling request bits of PUCCH format 2, 3 or 4."""

    bits: Annotated[tuple[int, ...], Bits(Number(U16, 1, 4))]


@dataclass(frozen=True, kw_only=True)
class UciBits(Block):
    """HARQ or CSI bits: 1 CRC passed, 2 failed, 3 not there, 4 there, 5 not checked."""

    detection_status: Annotated[int, Number(U8, 1, 5)]
    bits: Annotated[tuple[int, ...], Bits(Number(U16, 1, 1706))]


@dataclass(frozen=True, kw_only=True)
class UciPusch(OptionalParts):
    """Control information on PUSCH (3.4.9)."""

    TYPE: ClassVar[int] = 0

    handle: Handle = 0
    rnti: Rnti
    measurement: Measured = NOT_MEASURED
    harq: Annotated[UciBits | None, Part(UciBits, 1)] = None
    csi_part1: Annotated[UciBits | None, Part(UciBits, 2)] = None
    csi_part2: Annotated[UciBits | None, Part(UciBits, 3)] = None


@dataclass(frozen=True, kw_only=True)
class UciPucch01(OptionalParts):
    """Control information on PUCCH format 0 or 1 (3.4.9)."""

    TYPE: ClassVar[int] = 1

    handle: Handle = 0
    rnti: Rnti
    pucch_format: Annotated[int, Number(U8, 0, 1)]
    measurement: Measured = NOT_MEASURED
    scheduling_request: Annotated[SchedulingRequest01 | None, Part(SchedulingRequest01, 0)] = None
    harq: Annotated[Harq01 | None, Part(Harq01, 1)] = None


@dataclass(frozen=True, kw_only=True)
class UciPucch234(OptionalParts):
    """Control information on PUCCH format 2, 3 or 4: `pucch_format` 0, 1 or 2 (3.4.9)."""

    TYPE: ClassVar[int] = 2

    handle: Handle = 0
    rnti: Rnti
    pucch_format: Annotated[int, Number(U8, 0, 2)]
    measurement: Measured = NOT_MEASURED
    scheduling_request: Annotated[SchedulingRequest234 | None, Part(SchedulingRequest234, 0)] = None
    harq: Annotated[UciBits | None, Part(UciBits, 1)] = None
    csi_part1: Annotated[UciBits | None, Part(UciBits, 2)] = None
    csi_part2: Annotated[UciBits | None, Part(UciBits, 3)] = None


UciPdu = UciPusch | UciPucch01 | UciPucch234
_UCI_KINDS: dict[int, type[UciPdu]] = {k.TYPE: k for k in (UciPusch, UciPucch01, UciPucch234)}
_UCI_HEADER_BYTES = 4  # PDU type and size, which the size includes


class _UciPdus:
    """Control information of either channel, each with its type and size."""

    _COUNT = ANY16

    def write(self, writer: Writer, name: str, value: tuple[UciPdu, ...]) -> None:
        self._COUNT.write(writer, f"count of {name}", len(value))
        for i, pdu in enumerate(value):
            body = Writer()
            pdu.write(body, f"{name}[{i}].")
            writer.number(U16, pdu.TYPE)
            writer.number(U16, _UCI_HEADER_BYTES + len(body.data))
            writer.data += body.data

    def read(self, reader: Reader, name: str) -> tuple[UciPdu, ...]:
        count = self._COUNT.read(reader, f"count of {name}")
        return tuple(self._read_one(reader, f"{name}[{i}].") for i in range(count))

    def _read_one(self, reader: Reader, prefix: str) -> UciPdu:
        start = reader.offset
        kind = reader.number(U16, prefix + "pdu_type")
        if kind not in _UCI_KINDS:
            raise reader.error(f"{prefix}pdu_type = {kind} is not in 0..2", start)
        size = reader.number(U16, prefix + "pdu_size")
        pdu = _UCI_KINDS[kind].read(reader, prefix)
        if reader.offset - start != size:
            raise reader.error(
                f"{prefix}pdu_size = {size}, and its fields take {reader.offset - start}",
                start + _UCI_HEADER_BYTES // 2,
            )
        return pdu


@dataclass(frozen=True, kw_only=True)
class UciIndication(Indication):
    """UCI.indication (3.4.9)."""

    TYPE: ClassVar[int] = 0x87
    NAME: ClassVar[str] = "UCI.indication"

    pdus: Annotated[tuple[UciPdu, ...], _UciPdus()]
