"""FAPI messages: bytes worked out by hand, round trips, physical values, broken bytes."""

import math

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

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
    decode_message,
)
from ueloc_core.measurement.fapi_layout import Bits, Inline, Many, Number
from ueloc_core.measurement.fapi_quantities import (
    PREAMBLE_POWER,
    RSRP,
    RSSI,
    SNR,
    U8_INVALID,
    U16_INVALID,
    U32_INVALID,
    UplinkMeasurement,
    timing_command,
)
from ueloc_core.measurement.fapi_reports import (
    CsiLayout,
    Occasion,
    ReportCodes,
    codes_of_csi,
    codes_of_messages,
    crc_message,
    csi_bits,
    rach_message,
    srs_message,
    uci_message,
)
from ueloc_core.measurement.fapi_uci import (
    Harq01,
    SchedulingRequest01,
    SchedulingRequest234,
    UciBits,
    UciIndication,
    UciPucch01,
    UciPucch234,
    UciPusch,
)
from ueloc_core.measurement.reports import FIELDS, INT16_MISSING, MISSING, UL_SINR
from ueloc_core.radio.link import timing_advance_step_ns

nan = math.nan

# -- bytes worked out by hand from the tables ---------------------------------------------------

CRC = CrcIndication(
    sfn=1023,
    slot=159,
    pdus=(
        CrcPdu(
            handle=0x01020304,
            rnti=0x4601,
            harq_id=5,
            tb_crc_status=1,
            cb_crc_status=(1, 0, 0, 0, 0, 0, 0, 0, 1),
            measurement=UplinkMeasurement.of(
                ul_sinr_db=10.0, timing_ns=-100.0, rssi_db=-59.3, rsrp_dbm=-90.5, numerology=1
            ),
        ),
    ),
)
CRC_BYTES = bytes.fromhex(
    "01 00 86 00 1d 00 00 00"  # one message of PHY 0, type, 29 bytes
    "ff 03 9f 00 01 00"  # SFN, slot, one CRC
    "04 03 02 01 01 46 ff 05 01"  # handle, RNTI, no RAPID, HARQ process, failed
    "09 00 01 01"  # nine code blocks, the first and the last failed
    "88 13 1f 00 9c ff af 02 ef 01"  # 5000, 31, -100, 687, 495
)

UCI = UciIndication(
    sfn=0,
    slot=7,
    pdus=(
        UciPucch234(
            rnti=1,
            pucch_format=0,
            csi_part1=UciBits(detection_status=1, bits=(0, 1, 0, 1, 1, 0, 0)),
        ),
    ),
)
UCI_BYTES = bytes.fromhex(
    "01 00 87 00 20 00 00 00"
    "00 00 07 00 01 00"
    "02 00 1a 00"  # PUCCH format 2, 3 or 4; 26 bytes with these four
    "04 00 00 00 00 01 00 00"  # CSI part 1 alone, handle, RNTI, format 2
    "00 80 ff ff 00 80 ff ff ff ff"  # nothing measured
    "01 07 00 1a"  # CRC passed, 7 bits: rank 3 is 010, CQI 12 is 1100, the first bit lowest
)

SRS = SrsIndication(
    sfn=16,
    slot=3,
    pdus=(
        SrsPdu(
            rnti=2,
            ta_offset=31,
            ta_offset_ns=0,
            report=SrsBeamReport(
                prg_size=4, num_symbols=1, wideband_snr=int(SNR.encode(20.0)), symbols=()
            ),
        ),
    ),
)
SRS_BYTES = bytes.fromhex(
    "01 00 88 00 21 00 00 00"
    "10 00 03 00 00 00 01"  # SFN, slot, reports within, one PDU
    "00 00 00 00 02 00 1f 00 00 00 00 01"  # handle, RNTI, 31, 0 ns, usage, report type
    "00 00 05 00 00 00"  # within, five bytes
    "04 00 01 a8 00 00 00 00"  # groups of 4, one symbol, 168, none by symbol; filling
)

RACH = RachIndication(
    sfn=5,
    slot=19,
    pdus=(
        RachPdu(
            symbol_index=0,
            slot_index=19,
            ra_index=0,
            preambles=(
                Preamble.of(
                    index=42,
                    round_trip_ns=100 * timing_advance_step_ns(1),
                    power_dbm=-100.5,
                    snr_db=10.0,
                    numerology=1,
                ),
            ),
        ),
    ),
)
RACH_BYTES = bytes.fromhex(
    "01 00 89 00 1e 00 00 00"
    "05 00 13 00 01"
    "00 00 00 13 00 ff ff ff ff ff ff ff 01"  # handle, symbol, slot, occasion; RSSI, RSRP, SNR
    "2a 64 00 ba 65 00 00 4c 9a 00 00 94"  # 42, 100, 26042 ns, 39500, 148
)

GOLDEN = {
    "CRC": (CRC, CRC_BYTES),
    "UCI": (UCI, UCI_BYTES),
    "SRS": (SRS, SRS_BYTES),
    "RACH": (RACH, RACH_BYTES),
}
EACH = pytest.mark.parametrize(("message", "data"), GOLDEN.values(), ids=GOLDEN)


@EACH
def test_a_message_has_the_bytes_of_its_table(message, data):
    assert message.encode().hex(" ") == data.hex(" ")
    assert type(message).decode(data) == message
    assert decode_message(data) == message


def test_the_header_names_the_phy():
    assert CRC.encode(phy_id=3)[:2] == b"\x01\x03"
    assert CrcIndication.decode(CRC.encode(phy_id=3)) == CRC


def test_control_information_of_all_three_kinds_shares_a_message():
    bits = UciBits(detection_status=4, bits=(1, 0, 1))
    message = UciIndication(
        sfn=1,
        slot=1,
        pdus=(
            UciPusch(rnti=1, harq=bits, csi_part2=bits),
            UciPucch01(
                rnti=2,
                pucch_format=1,
                scheduling_request=SchedulingRequest01(indication=1, confidence=0),
                harq=Harq01(values=(1, 0), confidence=1),
            ),
            UciPucch234(rnti=3, pucch_format=2, scheduling_request=SchedulingRequest234(bits=(1,))),
        ),
    )
    data = message.encode()
    assert UciIndication.decode(data) == message
    # the request is 01 00; the count, the confidence and the two answers of HARQ are 02 01 01 00
    assert bytes.fromhex("01 00 02 01 01 00") in data


# -- round trips over all fields ----------------------------------------------------------------


def _values(layout):
    """Anything that a layout can hold."""
    if isinstance(layout, Number):
        number = st.integers(layout.lowest, layout.highest)
        return number if layout.missing is None else number | st.just(layout.missing)
    if isinstance(layout, Bits):
        low, high = layout.count.lowest, min(layout.count.highest, 40)
        return st.lists(st.integers(0, 1), min_size=low, max_size=high).map(tuple)
    if isinstance(layout, Many):
        item = layout.item
        values = _values(item) if isinstance(item, Number) else _blocks(item)
        low, high = layout.count.lowest, min(layout.count.highest, 3)
        return st.lists(values, min_size=low, max_size=high).map(tuple)
    if isinstance(layout, Inline):
        part = _blocks(layout.block)
        return st.none() | part if hasattr(layout, "bit") else part
    return {
        "_InlineReport": st.deferred(lambda: st.none() | _blocks(SrsBeamReport)),
        "_UciPdus": st.deferred(
            lambda: st.lists(
                st.one_of(_blocks(UciPusch), _blocks(UciPucch01), _blocks(UciPucch234)), max_size=3
            ).map(tuple)
        ),
    }[type(layout).__name__]


def _blocks(block):
    if block is Harq01:
        return st.builds(
            Harq01,
            values=st.lists(st.integers(0, 2), min_size=1, max_size=2).map(tuple),
            confidence=st.sampled_from([0, 1, U8_INVALID]),
        )
    return st.builds(block, **{name: _values(at) for name, at in block._LAYOUTS.items()})


KINDS = pytest.mark.parametrize(
    "kind", [CrcIndication, UciIndication, SrsIndication, RachIndication]
)


@KINDS
@settings(deadline=None)
@given(data=st.data(), phy_id=st.integers(0, 255))
def test_every_message_comes_back_from_its_bytes(kind, data, phy_id):
    message = data.draw(_blocks(kind))
    packed = message.encode(phy_id)
    assert kind.decode(packed) == message
    assert decode_message(packed) == message
    assert int.from_bytes(packed[4:8], "little") == len(packed) - 8


@KINDS
@settings(deadline=None)
@given(data=st.data())
def test_no_part_of_a_message_is_one(kind, data):
    packed = data.draw(_blocks(kind)).encode()
    cut = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(ReportError, match=r"byte \d+"):
        kind.decode(packed[:cut])
    with pytest.raises(ReportError, match=rf"byte {len(packed)}.* 1 bytes stand after"):
        kind.decode(packed + b"\0")


# -- physical values ----------------------------------------------------------------------------


@given(
    sinr=st.floats(-65.5, 65.5),
    timing=st.floats(-16800, 16800),
    rssi=st.floats(-128, 0),
    rsrp=st.floats(-140, -12),
)
def test_physical_values_come_back_within_half_a_step(sinr, timing, rssi, rsrp):
    measured = UplinkMeasurement.of(
        ul_sinr_db=sinr, timing_ns=timing, rssi_db=rssi, rsrp_dbm=rsrp, numerology=0
    )
    assert abs(measured.ul_sinr_db - sinr) <= 0.001 + 1e-9
    assert abs(measured.timing_ns - timing) <= 0.5 + 1e-9
    assert abs(measured.rssi_db - rssi) <= 0.05 + 1e-9
    assert abs(measured.rsrp_dbm - rsrp) <= 0.05 + 1e-9


def test_values_outside_clip_and_nan_is_invalid():
    low = UplinkMeasurement.of(
        ul_sinr_db=-99, timing_ns=-1e6, rssi_db=-999, rsrp_dbm=-999, numerology=1
    )
    assert low == UplinkMeasurement(
        ul_sinr=-32767, ta_offset=0, ta_offset_ns=-16800, rssi=0, rsrp=0
    )
    high = UplinkMeasurement.of(ul_sinr_db=99, timing_ns=1e6, rssi_db=9, rsrp_dbm=9, numerology=1)
    assert high == UplinkMeasurement(
        ul_sinr=32767, ta_offset=63, ta_offset_ns=16800, rssi=1280, rsrp=1280
    )
    none = UplinkMeasurement.of(
        ul_sinr_db=nan, timing_ns=nan, rssi_db=nan, rsrp_dbm=nan, numerology=1
    )
    assert none == UplinkMeasurement()
    values = (none.ul_sinr_db, none.timing_ns, none.rssi_db, none.rsrp_dbm)
    assert all(math.isnan(v) for v in values)


def test_a_preamble_has_its_physical_values():
    found = RACH.pdus[0].preambles[0]
    assert found.power_dbm == pytest.approx(-100.5)
    assert found.snr_db == 10.0
    assert found.round_trip_ns == 26042
    assert math.isnan(RACH.pdus[0].avg_rssi_dbm)
    none = Preamble.of(index=1, round_trip_ns=nan, power_dbm=nan, snr_db=nan, numerology=1)
    assert none == Preamble(index=1, ta=U16_INVALID, ta_ns=U32_INVALID, power=U32_INVALID, snr=255)
    assert SRS.pdus[0].report.wideband_snr_db == 20.0
    assert SRS.pdus[0].timing_ns == 0.0


def test_ends_of_the_documents_ranges():
    assert RSSI.encode([-128, 0, 1]).tolist() == [0, 1280, 1280]
    assert RSRP.encode([-140, -12, 0]).tolist() == [0, 1280, 1280]
    assert SNR.encode([-64, 63, 70, nan]).tolist() == [0, 254, 254, U8_INVALID]
    assert PREAMBLE_POWER.encode([-140, 30, nan]).tolist() == [0, 170_000, U32_INVALID]


@pytest.mark.parametrize("numerology", range(4))
def test_a_late_arrival_asks_for_more_advance(numerology):
    step_ns = timing_advance_step_ns(numerology)
    assert timing_command(0.0, numerology) == 31
    assert timing_command(step_ns, numerology) == 32
    assert timing_command(-3 * step_ns, numerology) == 28
    assert timing_command(nan, numerology) == U16_INVALID


# -- broken bytes -------------------------------------------------------------------------------


def _patched(data, offset, new):
    return data[:offset] + bytes(new) + data[offset + len(new) :]


@pytest.mark.parametrize(
    ("message", "data", "offset", "new", "complaint"),
    [
        (CrcIndication, CRC_BYTES, 0, [2], r"byte 0: number of messages = 2 is not in 1..1"),
        (CrcIndication, CRC_BYTES, 2, [0x87], r"byte 2: message type = 0x87 is not 0x86"),
        (CrcIndication, CRC_BYTES, 4, [0x1E], r"byte 4: message length = 30, .* take 29"),
        (CrcIndication, CRC_BYTES, 4, [0x1C], r"byte 36: 1 bytes stand after the message"),
        (CrcIndication, CRC_BYTES, 8, [0, 4], r"byte 8: sfn = 1024 is not in 0..1023"),
        (CrcIndication, CRC_BYTES, 12, [2], r"pdus\[1\].handle needs 4 bytes, and 0 are left"),
        (CrcIndication, CRC_BYTES, 20, [64], r"byte 20: pdus\[0\].rapid = 64 .*or 255"),
        (CrcIndication, CRC_BYTES, 26, [3], r"byte 25: pdus\[0\].cb_crc_status has bits set"),
        (CrcIndication, CRC_BYTES, 29, [64], r"byte 29: pdus\[0\].measurement.ta_offset = 64"),
        (CrcIndication, CRC_BYTES, 31, [0, 0x70], r"measurement.ta_offset_ns = 28672 is not"),
        (CrcIndication, CRC_BYTES, 33, [1, 5], r"byte 33: .*rssi = 1281 is not in 0..1280"),
        (UciIndication, UCI_BYTES, 14, [3], r"byte 14: pdus\[0\].pdu_type = 3 is not in 0..2"),
        (UciIndication, UCI_BYTES, 16, [27], r"byte 16: pdus\[0\].pdu_size = 27, .* take 26"),
        (UciIndication, UCI_BYTES, 18, [0x14], r"byte 18: .*pdu_bitmap = 0x14 names an unknown"),
        (UciIndication, UCI_BYTES, 39, [0x9A], r"byte 39: .*csi_part1.bits has bits set beyond"),
        (SrsIndication, SRS_BYTES, 12, [1], r"byte 12: control_length = 1 is not in 0..0"),
        (SrsIndication, SRS_BYTES, 27, [3], r"byte 27: pdus\[0\].report tag = 3"),
        (SrsIndication, SRS_BYTES, 29, [6], r"byte 29: pdus\[0\].report length = 6, .* take 5"),
        (SrsIndication, SRS_BYTES, 40, [1], r"byte 38: pdus\[0\].report filling is not 0"),
        (RachIndication, RACH_BYTES, 26, [64], r"byte 26: pdus\[0\].preambles\[0\].index = 64"),
        (RachIndication, RACH_BYTES, 27, [7, 15], r"preambles\[0\].ta = 3847 .*or 65535"),
    ],
)
def test_broken_bytes_name_the_field_and_the_byte(message, data, offset, new, complaint):
    with pytest.raises(ReportError, match=complaint):
        message.decode(_patched(data, offset, new))


def test_bytes_that_are_no_measurement_are_refused():
    with pytest.raises(ReportError, match="type = 85 00 is none of 0x86, 0x87, 0x88, 0x89"):
        decode_message(_patched(CRC_BYTES, 2, [0x85]))
    with pytest.raises(ReportError, match="message type = nothing"):
        decode_message(b"")


def test_a_message_out_of_range_is_not_written():
    with pytest.raises(ReportError, match=r"pdus\[0\].preambles\[0\].index: 64 is not in 0..63"):
        RachIndication(
            sfn=0,
            slot=0,
            pdus=(
                RachPdu(symbol_index=0, slot_index=0, ra_index=0, preambles=(Preamble(index=64),)),
            ),
        ).encode()
    with pytest.raises(ReportError, match=r"cb_crc_status\[1\]: 2 is no bit"):
        CrcIndication(
            sfn=0,
            slot=0,
            pdus=(CrcPdu(rnti=1, harq_id=0, tb_crc_status=0, cb_crc_status=(1, 2)),),
        ).encode()


# -- reports ------------------------------------------------------------------------------------

AT = Occasion(sfn=100, slot=4, rnti=0x4601, numerology=1)


def _codes(name):
    field = FIELDS[name].encoding
    return st.integers(field.first, field.last) | st.just(field.missing)


@st.composite
def _reports(draw):
    beams = draw(st.integers(0, 4))
    index = draw(st.permutations(range(64)).map(lambda p: tuple(p[:beams])))
    levels = [draw(st.integers(16, 113)), *sorted(draw(st.integers(0, 15)) for _ in range(3))]
    names = ("ul_sinr_code", "ta_offset_ns", "ta_code", "cqi", "ri")
    return ReportCodes(
        **{name: draw(_codes(name)) for name in names},
        beam_index=index,
        beam_code=tuple(levels[:beams]),
    )


@settings(deadline=None)
@given(codes=_reports())
def test_a_report_comes_back_from_its_messages_as_bytes(codes):
    layout = CsiLayout.of(codes)
    messages = [
        crc_message(codes, AT),
        uci_message(codes, AT, layout),
        srs_message(codes, AT, wideband_snr=168),
        rach_message(codes, AT, preamble=7),
    ]
    read = [decode_message(m.encode()) for m in messages]
    assert codes_of_messages(read, layout) == codes
    assert codes_of_messages(reversed(read), layout) == codes


@given(codes=_reports())
def test_messages_hold_the_numbers_of_the_data_set(codes):
    measured = crc_message(codes, AT).pdus[0].measurement
    assert measured.ul_sinr == codes.ul_sinr_code
    assert measured.ta_offset_ns == codes.ta_offset_ns
    np.testing.assert_equal(measured.ul_sinr_db, float(UL_SINR.decode(codes.ul_sinr_code)))
    found = rach_message(codes, AT, preamble=7).pdus[0].preambles[0]
    assert found.ta == (U16_INVALID if codes.ta_code == MISSING else codes.ta_code)
    if codes.ta_code != MISSING:
        assert abs(found.ta_ns - codes.ta_code * timing_advance_step_ns(1)) <= 0.5


@given(codes=_reports())
def test_codes_of_a_data_set_come_back(codes):
    arrays = codes.arrays(beams=4)
    dims = {name: ("beam",) if value.ndim else () for name, value in arrays.items()}
    report = xr.Dataset({name: (dims[name], value) for name, value in arrays.items()})
    assert ReportCodes.of(report) == codes
    assert ReportCodes.of(arrays) == codes
    assert {n: str(v.dtype) for n, v in arrays.items()} == {n: FIELDS[n].dtype for n in arrays}


def test_csi_bits_in_the_order_of_ts_38_212():
    """Indices 5 and 2 in three bits, RSRP 76 in seven, 1 in four; rank 4 is 011, CQI 9 is 1001."""
    codes = ReportCodes(cqi=9, ri=4, beam_index=(5, 2), beam_code=(76, 1))
    layout = CsiLayout(beams=2, beam_bits=3, rank=True, cqi=True)
    sent = "101010100110000010111001"
    assert "".join(map(str, csi_bits(codes, layout))) == sent
    assert codes_of_csi(tuple(map(int, sent)), layout) == codes


@pytest.mark.parametrize(
    "codes",
    [
        ReportCodes(cqi=9),  # the rank is missing
        ReportCodes(cqi=16, ri=1),
        ReportCodes(cqi=1, ri=9),
        ReportCodes(cqi=1, ri=1, beam_index=(1,), beam_code=(90,)),
    ],
)
def test_codes_that_do_not_fit_the_layout_are_refused(codes):
    with pytest.raises(ReportError, match="CSI part 1: .* does not fit"):
        csi_bits(codes, CsiLayout(rank=True, cqi=True))


@pytest.mark.parametrize("level", [15, 114])
def test_levels_that_no_beam_has_are_refused(level):
    layout = CsiLayout(beams=1, beam_bits=0)
    with pytest.raises(ReportError, match="does not fit"):
        csi_bits(ReportCodes(beam_index=(0,), beam_code=(level,)), layout)
    bits = tuple(level >> i & 1 for i in reversed(range(7)))
    with pytest.raises(ReportError, match="no L1-RSRP codes"):
        codes_of_csi(bits, layout)


def test_csi_of_another_layout_is_refused():
    with pytest.raises(ReportError, match="7 bits are not the 4"):
        codes_of_csi((0,) * 7, CsiLayout(cqi=True))


def test_csi_whose_check_failed_is_missing():
    codes = ReportCodes(cqi=9, ri=2, ul_sinr_code=10)
    layout = CsiLayout.of(codes)
    pdu = UciPucch234(
        rnti=1,
        pucch_format=0,
        measurement=UplinkMeasurement(ul_sinr=10),
        csi_part1=UciBits(detection_status=2, bits=csi_bits(codes, layout)),
    )
    message = UciIndication(sfn=0, slot=0, pdus=(pdu,))
    assert codes_of_messages([message], layout) == ReportCodes(ul_sinr_code=10)


def test_messages_of_two_reports_are_refused():
    one, two = (crc_message(ReportCodes(ul_sinr_code=c), AT) for c in (10, 12))
    with pytest.raises(ReportError, match="ul_sinr_code is 10 and 12"):
        codes_of_messages([one, two], CsiLayout())
    both = CrcIndication(sfn=0, slot=0, pdus=one.pdus + two.pdus)
    with pytest.raises(ReportError, match="CRC.indication: a message of one report"):
        codes_of_messages([both], CsiLayout())


def test_no_messages_are_a_report_of_nothing():
    assert codes_of_messages([], CsiLayout()) == ReportCodes()
    assert ReportCodes().ul_sinr_code == INT16_MISSING
