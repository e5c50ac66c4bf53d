"""How blocks of FAPI messages lie in bytes: packed, little-endian, one field after the other.

A `Block` is a dataclass whose annotations say how its fields lie (SCF 222, 3.2: no padding).
Numbers are held to the range of their document both ways, and errors name the field and the byte.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Protocol, Self, get_type_hints

from ueloc_core.errors import ReportError

U8, U16, U32, I16 = "B", "H", "I", "h"
BITS_PER_BYTE = 8


class Writer:
    """Bytes of a message as they grow."""

    def __init__(self) -> None:
        self.data = bytearray()

    def number(self, code: str, value: int) -> None:
        """Append a number of a `struct` format."""
        self.data += struct.pack("<" + code, value)


class Reader:
    """Bytes of a message, read from the front."""

    def __init__(self, data: bytes, message: str) -> None:
        self.data = data
        self.message = message
        self.offset = 0

    def take(self, size: int, name: str) -> bytes:
        """The next bytes, of a named field.

        Raises
        ------
        ReportError
            If the message ends before.
        """
        left = len(self.data) - self.offset
        if size > left:
            raise self.error(f"{name} needs {size} bytes, and {left} are left", self.offset)
        self.offset += size
        return bytes(self.data[self.offset - size : self.offset])

    def number(self, code: str, name: str) -> int:
        """The next number of a `struct` format.

        Raises
        ------
        ReportError
            If the message ends before.
        """
        return int(struct.unpack("<" + code, self.take(struct.calcsize(code), name))[0])

    def error(self, problem: str, offset: int) -> ReportError:
        """What is wrong at a byte of the message."""
        return ReportError(
            problem,
            where=f"{self.message}, byte {offset}",
            remedy="The layout is that of SCF 222.10.04; check the version of the sender.",
        )


class Layout(Protocol):
    """How the value of one field lies in a message."""

    def write(self, writer: Writer, name: str, value: Any) -> None:
        """Append the value of a field of a name."""

    def read(self, reader: Reader, name: str) -> Any:
        """The value of a field of a name."""


@dataclass(frozen=True)
class Number:
    """An integer within a range, or the one code that says it is invalid."""

    code: str
    lowest: int
    highest: int
    missing: int | None = None

    def fault(self, value: int) -> str | None:
        """What is wrong with a value."""
        if self.lowest <= value <= self.highest or value == self.missing:
            return None
        invalid = "" if self.missing is None else f", or {self.missing} for invalid"
        return f"{value} is not in {self.lowest}..{self.highest}{invalid}"

    def write(self, writer: Writer, name: str, value: int) -> None:
        """As `Layout`; ReportError if the value is out of range."""
        fault = self.fault(value)
        if fault is not None:
            raise ReportError(fault, where=name, remedy="Encode the physical value, which clips.")
        writer.number(self.code, value)

    def read(self, reader: Reader, name: str) -> int:
        """As `Layout`; ReportError if the value is out of range."""
        start = reader.offset
        value = reader.number(self.code, name)
        fault = self.fault(value)
        if fault is not None:
            raise reader.error(f"{name} = {fault}", start)
        return value


ANY16, ANY32 = Number(U16, 0, 0xFFFF), Number(U32, 0, 0xFFFFFFFF)


@dataclass(frozen=True)
class Many:
    """A count, then as many blocks (or numbers): a tuple."""

    count: Number
    item: "type[Block] | Number"

    def write(self, writer: Writer, name: str, value: tuple[Any, ...]) -> None:
        """As `Layout`."""
        self.count.write(writer, f"count of {name}", len(value))
        for i, item in enumerate(value):
            label = f"{name}[{i}]"
            if isinstance(self.item, Number):
                self.item.write(writer, label, item)
            else:
                item.write(writer, label + ".")

    def read(self, reader: Reader, name: str) -> tuple[Any, ...]:
        """As `Layout`."""
        count = self.count.read(reader, f"count of {name}")
        if isinstance(self.item, Number):
            return tuple(self.item.read(reader, f"{name}[{i}]") for i in range(count))
        return tuple(self.item.read(reader, f"{name}[{i}].") for i in range(count))


@dataclass(frozen=True)
class Bits:
    """A count, then as many bits, the first in the lowest bit of the first byte: a tuple."""

    count: Number

    def write(self, writer: Writer, name: str, value: tuple[int, ...]) -> None:
        """As `Layout`; ReportError if a value is no bit."""
        self.count.write(writer, f"count of {name}", len(value))
        packed = bytearray((len(value) + BITS_PER_BYTE - 1) // BITS_PER_BYTE)
        for i, bit in enumerate(value):
            if bit not in (0, 1):
                raise ReportError(f"{bit} is no bit", where=f"{name}[{i}]")
            packed[i // BITS_PER_BYTE] |= bit << i % BITS_PER_BYTE
        writer.data += packed

    def read(self, reader: Reader, name: str) -> tuple[int, ...]:
        """As `Layout`; ReportError if bits beyond the last are set."""
        count = self.count.read(reader, f"count of {name}")
        start = reader.offset
        packed = reader.take((count + BITS_PER_BYTE - 1) // BITS_PER_BYTE, name)
        bits = [byte >> i & 1 for byte in packed for i in range(BITS_PER_BYTE)]
        if any(bits[count:]):
            raise reader.error(f"{name} has bits set beyond its {count}", start)
        return tuple(bits[:count])


@dataclass(frozen=True)
class Inline:
    """A block in place."""

    block: "type[Block]"

    def write(self, writer: Writer, name: str, value: "Block") -> None:
        """As `Layout`."""
        value.write(writer, name + ".")

    def read(self, reader: Reader, name: str) -> "Block":
        """As `Layout`."""
        return self.block.read(reader, name + ".")


class Block:
    """A run of fields in the order of the dataclass, each ``Annotated`` with its layout."""

    _LAYOUTS: ClassVar[dict[str, Layout]]

    def __init_subclass__(cls) -> None:
        hints = get_type_hints(cls, include_extras=True)
        cls._LAYOUTS = {
            n: h.__metadata__[0] for n, h in hints.items() if hasattr(h, "__metadata__")
        }

    def write(self, writer: Writer, prefix: str = "") -> None:
        """Append the fields; `prefix` comes before their names in errors."""
        for name, layout in self._LAYOUTS.items():
            layout.write(writer, prefix + name, getattr(self, name))

    @classmethod
    def read(cls, reader: Reader, prefix: str = "") -> Self:
        """A block from the next bytes.

        Raises
        ------
        ReportError
            If the bytes end too early or a number is out of range.
        """
        return cls(**{name: at.read(reader, prefix + name) for name, at in cls._LAYOUTS.items()})


@dataclass(frozen=True)
class Part(Inline):
    """A block of `OptionalParts` that is there where a bit of the bitmap says so, else None."""

    bit: int


class OptionalParts(Block):
    """A block that starts with a byte whose bits say which of its optional parts follow."""

    _BITMAP = Number(U8, 0, 255)

    def write(self, writer: Writer, prefix: str = "") -> None:
        """Append the bitmap of the parts that are there, and what is there."""
        there = [n for n, part in self._parts() if getattr(self, n) is not None]
        bitmap = sum(1 << part.bit for n, part in self._parts() if n in there)
        self._BITMAP.write(writer, prefix + "pdu_bitmap", bitmap)
        for name, layout in self._LAYOUTS.items():
            if not isinstance(layout, Part) or name in there:
                layout.write(writer, prefix + name, getattr(self, name))

    @classmethod
    def read(cls, reader: Reader, prefix: str = "") -> Self:
        """As `Block.read`; a bit that stands for no part is an error."""
        start = reader.offset
        bitmap = cls._BITMAP.read(reader, prefix + "pdu_bitmap")
        if bitmap & ~sum(1 << part.bit for _, part in cls._parts()):
            raise reader.error(f"{prefix}pdu_bitmap = {bitmap:#04x} names an unknown part", start)
        values = {
            name: layout.read(reader, prefix + name)
            for name, layout in cls._LAYOUTS.items()
            if not isinstance(layout, Part) or bitmap >> layout.bit & 1
        }
        return cls(**values)

    @classmethod
    def _parts(cls) -> Iterator[tuple[str, Part]]:
        for name, layout in cls._LAYOUTS.items():
            if isinstance(layout, Part):
                yield name, layout


_ONE_MESSAGE = Number(U8, 1, 1)
_PHY_ID = Number(U8, 0, 255)


@dataclass(frozen=True, kw_only=True)
class Indication(Block):
    """A message from the PHY, alone in its PHY API message (SCF 222, tables 3-2 and 3-3).

    Attributes
    ----------
    sfn, slot
        Of the transmission that was received.
    """

    TYPE: ClassVar[int]
    NAME: ClassVar[str]

    sfn: Annotated[int, Number(U16, 0, 1023)]
    slot: Annotated[int, Number(U16, 0, 159)]

    def encode(self, phy_id: int = 0) -> bytes:
        """Bytes of the message, the header with the PHY's number (its opaque handle) included.

        Raises
        ------
        ReportError
            If a number is outside the range of the document.
        """
        body, whole = Writer(), Writer()
        self.write(body)
        _ONE_MESSAGE.write(whole, "number of messages", 1)
        _PHY_ID.write(whole, "phy_id", phy_id)
        ANY16.write(whole, "message type", self.TYPE)
        ANY32.write(whole, "message length", len(body.data))
        return bytes(whole.data + body.data)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The message of bytes.

        Raises
        ------
        ReportError
            If they are cut off, too many, of another type, or hold a number outside its range.
        """
        reader = Reader(data, cls.NAME)
        _ONE_MESSAGE.read(reader, "number of messages")
        _PHY_ID.read(reader, "phy_id")
        start = reader.offset
        kind = reader.number(U16, "message type")
        if kind != cls.TYPE:
            raise reader.error(f"message type = {kind:#04x} is not {cls.TYPE:#04x}", start)
        start = reader.offset
        length = reader.number(U32, "message length")
        end = reader.offset + length
        if len(data) > end:
            raise reader.error(f"{len(data) - end} bytes stand after the message", end)
        message = cls.read(reader)
        if reader.offset != end:
            raise reader.error(
                f"message length = {length}, and its fields take {reader.offset - end + length}",
                start,
            )
        return message
