"""The PHY layer of a report as FAPI messages, and back: the same numbers in other clothes.

A CRC indication carries ``ul_sinr_code`` and ``ta_offset_ns``, an SRS indication the offset, a
UCI indication both and, as bits of CSI part 1, ``cqi``, ``ri`` and the beams, a RACH indication
``ta_code``. Which CSI a terminal reports is configured, not sent: `CsiLayout`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ueloc_core.errors import ReportError
from ueloc_core.measurement.fapi import (
    CrcIndication,
    CrcPdu,
    Preamble,
    RachIndication,
    RachPdu,
    SrsBeamReport,
    SrsIndication,
    SrsPdu,
)
from ueloc_core.measurement.fapi_layout import Indication
from ueloc_core.measurement.fapi_quantities import (
    U16_INVALID,
    U32_INVALID,
    UplinkMeasurement,
    timing_command,
)
from ueloc_core.measurement.fapi_uci import UciBits, UciIndication, UciPucch01, UciPucch234
from ueloc_core.measurement.reports import (
    CQI,
    FIELDS,
    INT16_MISSING,
    L1_RSRP,
    L1_RSRP_DROP,
    MISSING,
    RI,
    TIMING_ADVANCE_OFFSET,
)
from ueloc_core.radio.link import timing_advance_step_ns

_CQI_BITS = _DROP_BITS = 4
_LEVEL_BITS = 7
_RANK_BITS = 3
_CRC_PASSED = 1  # detection status of control information
_SOUNDED_PRG = 4  # resource blocks of a group


@dataclass(frozen=True)
class ReportCodes:
    """The fields of one report that FAPI carries, in the codes of a data set.

    Attributes
    ----------
    ul_sinr_code, ta_offset_ns, ta_code, cqi, ri
        As the variables of a data set, missing by default.
    beam_index, beam_code
        The beams that are there, the strongest first.
    """

    ul_sinr_code: int = INT16_MISSING
    ta_offset_ns: int = INT16_MISSING
    ta_code: int = MISSING
    cqi: int = MISSING
    ri: int = MISSING
    beam_index: tuple[int, ...] = ()
    beam_code: tuple[int, ...] = ()

    @classmethod
    def of(cls, report: Mapping[Any, Any]) -> Self:
        """The codes of one report of a data set: ``ReportCodes.of(reports.isel(report=n))``."""
        values = {f.name: np.asarray(report[f.name]) for f in fields(cls)}
        beams = values["beam_index"] != MISSING
        return cls(
            **{name: int(value) for name, value in values.items() if value.ndim == 0},
            beam_index=tuple(int(v) for v in values["beam_index"][beams]),
            beam_code=tuple(int(v) for v in values["beam_code"][beams]),
        )

    def arrays(self, beams: int) -> dict[str, NDArray[Any]]:
        """The codes as a data set holds them, with a number of places for beams."""
        return {
            f.name: np.array(_filled(getattr(self, f.name), beams), dtype=FIELDS[f.name].dtype)
            for f in fields(self)
        }


def _filled(value: int | tuple[int, ...], count: int) -> int | list[int]:
    if isinstance(value, int):
        return value
    return [*value, *[MISSING] * (count - len(value))]


# -- CSI part 1 ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class CsiLayout:
    """What a terminal's CSI part 1 holds, as its configuration says.

    A beam report comes first (TS 38.214, 5.2.5): the indices, the level of the strongest, and
    the differential levels of the others (TS 38.212, table 6.3.1.1.2-8); then the rank, less 1,
    and the wideband CQI of the first transport block (table 6.3.1.1.2-9 for one CSI-RS resource,
    all ranks of 8 ports, and no subbands).

    Attributes
    ----------
    beams
        Beams of a beam report, 0 for none.
    beam_bits
        Width of a beam's index.
    rank, cqi
        Whether they are reported.
    """

    beams: int = 0
    beam_bits: int = 6
    rank: bool = False
    cqi: bool = False

    @classmethod
    def of(cls, codes: ReportCodes, beam_bits: int = 6) -> Self:
        """The layout that holds what a report has."""
        return cls(len(codes.beam_index), beam_bits, codes.ri != MISSING, codes.cqi != MISSING)

    def widths(self) -> list[int]:
        """Bits of each number, in their order."""
        beams = [self.beam_bits] * self.beams
        levels = ([_LEVEL_BITS] + [_DROP_BITS] * (self.beams - 1)) if self.beams else []
        return [*beams, *levels, *[_RANK_BITS] * self.rank, *[_CQI_BITS] * self.cqi]


def csi_bits(codes: ReportCodes, layout: CsiLayout) -> tuple[int, ...]:
    """Bits of CSI part 1, the first sent first; the highest bit of each number comes first.

    Raises
    ------
    ReportError
        If the report has not what the layout holds, or a code has no place in its bits.
    """
    numbers = [*codes.beam_index, *codes.beam_code]
    numbers += [codes.ri - RI.first] * layout.rank + [codes.cqi] * layout.cqi
    widths = layout.widths()
    fits = layout == CsiLayout.of(codes, layout.beam_bits) and len(numbers) == len(widths)
    fits = fits and _beams_are_valid(codes)
    if not fits or any(not 0 <= n < 1 << w for n, w in zip(numbers, widths, strict=True)):
        raise ReportError(
            f"{codes} does not fit {layout}",
            where="CSI part 1",
            remedy="Use CsiLayout.of(codes), and codes within the ranges of their fields.",
        )
    pairs = zip(numbers, widths, strict=True)
    return tuple(n >> i & 1 for n, w in pairs for i in reversed(range(w)))


def _beams_are_valid(codes: ReportCodes) -> bool:
    first, others = codes.beam_code[:1], codes.beam_code[1:]
    return bool(L1_RSRP.is_code(first).all() and L1_RSRP_DROP.is_code(others).all())


def codes_of_csi(bits: tuple[int, ...], layout: CsiLayout) -> ReportCodes:
    """The codes of `csi_bits`.

    Raises
    ------
    ReportError
        If there are more or fewer bits than the layout has, or one number is no valid code.
    """
    widths = layout.widths()
    if len(bits) != sum(widths):
        raise ReportError(
            f"{len(bits)} bits are not the {sum(widths)} of {layout}",
            where="CSI part 1",
            remedy="Give the layout that the terminal was configured with.",
        )
    stream = iter(bits)
    numbers = [sum(next(stream) << i for i in reversed(range(width))) for width in widths]
    beams, rest = numbers[: 2 * layout.beams], numbers[2 * layout.beams :]
    codes = ReportCodes(
        ri=rest[0] + RI.first if layout.rank else MISSING,
        cqi=rest[-1] if layout.cqi else MISSING,
        beam_index=tuple(beams[: layout.beams]),
        beam_code=tuple(beams[layout.beams :]),
    )
    if not _beams_are_valid(codes) or not CQI.is_code(codes.cqi):
        raise ReportError(
            f"{codes.beam_code} are no L1-RSRP codes",
            where="CSI part 1",
            remedy="The first is from 16 to 113 (TS 38.133, 10.1.6.1); check the layout.",
        )
    return codes


# -- messages -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Occasion:
    """When, whose and where a transmission was received.

    Attributes
    ----------
    sfn, slot
        System frame number and slot.
    rnti
        The terminal.
    numerology
        Of the uplink.
    """

    sfn: int
    slot: int
    rnti: int
    numerology: int


def crc_message(codes: ReportCodes, at: Occasion, *, arrived: bool = True) -> CrcIndication:
    """CRC.indication of one transport block with the report's uplink measurements."""
    pdu = CrcPdu(
        rnti=at.rnti, harq_id=0, tb_crc_status=int(not arrived), measurement=_measured(codes, at)
    )
    return CrcIndication(sfn=at.sfn, slot=at.slot, pdus=(pdu,))


def uci_message(codes: ReportCodes, at: Occasion, layout: CsiLayout) -> UciIndication:
    """UCI.indication with the report's uplink measurements and, on PUCCH format 2, its CSI.

    Raises
    ------
    ReportError
        If the report does not fit the layout.
    """
    bits = csi_bits(codes, layout)
    part1 = UciBits(detection_status=_CRC_PASSED, bits=bits) if bits else None
    pdu = UciPucch234(
        rnti=at.rnti, pucch_format=0, measurement=_measured(codes, at), csi_part1=part1
    )
    return UciIndication(sfn=at.sfn, slot=at.slot, pdus=(pdu,))


def srs_message(codes: ReportCodes, at: Occasion, wideband_snr: int) -> SrsIndication:
    """SRS.indication with the report's timing offset and an SNR in FAPI's code (255 invalid)."""
    measured = _measured(codes, at)
    pdu = SrsPdu(
        rnti=at.rnti,
        ta_offset=measured.ta_offset,
        ta_offset_ns=measured.ta_offset_ns,
        report=SrsBeamReport(prg_size=_SOUNDED_PRG, num_symbols=1, wideband_snr=wideband_snr),
    )
    return SrsIndication(sfn=at.sfn, slot=at.slot, pdus=(pdu,))


def rach_message(codes: ReportCodes, at: Occasion, preamble: int) -> RachIndication:
    """RACH.indication of a preamble that arrived with the report's timing advance."""
    known = codes.ta_code != MISSING
    step_ns = timing_advance_step_ns(at.numerology)
    found = Preamble(
        index=preamble,
        ta=codes.ta_code if known else U16_INVALID,
        ta_ns=round(codes.ta_code * step_ns) if known else U32_INVALID,
    )
    pdu = RachPdu(symbol_index=0, slot_index=at.slot, ra_index=0, preambles=(found,))
    return RachIndication(sfn=at.sfn, slot=at.slot, pdus=(pdu,))


def _measured(codes: ReportCodes, at: Occasion) -> UplinkMeasurement:
    offset_ns = float(TIMING_ADVANCE_OFFSET.decode(codes.ta_offset_ns))
    return UplinkMeasurement(
        ul_sinr=codes.ul_sinr_code,
        ta_offset=timing_command(offset_ns, at.numerology),
        ta_offset_ns=codes.ta_offset_ns,
    )


def codes_of_messages(messages: Iterable[Indication], layout: CsiLayout) -> ReportCodes:
    """The codes of one report from the messages of one terminal, each with one PDU.

    Raises
    ------
    ReportError
        If a message holds more or less than one PDU, CSI is no good, or two messages disagree.
    """
    found: dict[str, Any] = {}
    missing = ReportCodes()
    for message in messages:
        for name, value in _codes_of(message, layout).items():
            if value == getattr(missing, name):
                continue
            if found.setdefault(name, value) != value:
                raise ReportError(
                    f"{name} is {found[name]} and {value}",
                    where="FAPI messages of one report",
                    remedy="Give the messages of one terminal and one time.",
                )
    return ReportCodes(**found)


def _codes_of(message: Indication, layout: CsiLayout) -> dict[str, Any]:
    pdus: tuple[Any, ...] = getattr(message, "pdus", ())
    if len(pdus) != 1 or (isinstance(message, RachIndication) and len(pdus[0].preambles) != 1):
        raise ReportError(
            "a message of one report holds one measurement",
            where=message.NAME,
            remedy="Take messages of several terminals apart first.",
        )
    if isinstance(message, RachIndication):
        ta = pdus[0].preambles[0].ta
        return {"ta_code": MISSING if ta == U16_INVALID else ta}
    if isinstance(message, SrsIndication):
        return {"ta_offset_ns": pdus[0].ta_offset_ns}
    pdu = pdus[0]
    codes = {
        "ul_sinr_code": pdu.measurement.ul_sinr,
        "ta_offset_ns": pdu.measurement.ta_offset_ns,
    }
    if isinstance(message, UciIndication) and not isinstance(pdu, UciPucch01):
        part1 = pdu.csi_part1
        if part1 is not None and part1.detection_status == _CRC_PASSED:
            csi = codes_of_csi(part1.bits, layout)
            names = ("cqi", "ri", "beam_index", "beam_code")
            codes |= {name: getattr(csi, name) for name in names}
    return codes
