"""Encodings of reported quantities: edges, round trips, ends, published rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ueloc_core.errors import ReportError
from ueloc_core.measurement.reports import (
    BLER,
    CQI,
    FIELDS,
    INT16_MISSING,
    L1_RSRP,
    L1_RSRP_DROP,
    MISSING,
    RI,
    SS_RSRP,
    SS_RSRQ,
    SS_SINR,
    TC_NS,
    THROUGHPUT,
    TIMING_ADVANCE_OFFSET,
    UL_AOA,
    UL_SINR,
    UL_SRS_RSRP,
    advance_after,
    decode_beams,
    decode_rsrp,
    decode_rsrq,
    decode_sinr,
    encode_beams,
    encode_rsrp,
    encode_rsrq,
    encode_sinr,
    gnb_rx_tx_field,
    timing_advance_field,
    timing_command_field,
    ul_aoa_of_compass_deg,
    ul_rtoa_field,
)
from ueloc_core.radio.link import timing_advance, timing_advance_step_ns

OPEN = [
    *(SS_RSRP, SS_RSRQ, SS_SINR, L1_RSRP, L1_RSRP_DROP, CQI, RI, UL_SINR, UL_SRS_RSRP, BLER),
    *(TIMING_ADVANCE_OFFSET, THROUGHPUT),
    *(ul_rtoa_field(k) for k in range(6)),
    *(gnb_rx_tx_field(k) for k in (0, 5)),
    *(timing_advance_field(mu) for mu in range(4)),
    *(timing_command_field(mu) for mu in range(4)),
]
ROUNDED = [CQI, RI, UL_SINR, TIMING_ADVANCE_OFFSET, THROUGHPUT, BLER, timing_advance_field(1)]


def _name(field):
    return f"{field.name}/{field.step:g}"


ANY = pytest.mark.parametrize("field", [*OPEN, UL_AOA], ids=_name)
OPEN_ENDED = pytest.mark.parametrize("field", OPEN, ids=_name)


def _codes(field):
    """All codes, or for the widest fields both ends and some between."""
    if field.last - field.first < 2_000_000:
        return np.arange(field.first, field.last + 1)
    between = np.random.default_rng(3).integers(field.first, field.last, 10_000)
    ends = [field.first, field.first + 1, field.last - 1, field.last]
    return np.unique(np.concatenate([ends, between]))


@ANY
def test_every_code_comes_back(field):
    codes = _codes(field)
    np.testing.assert_array_equal(field.encode(field.decode(codes)), codes)
    assert field.is_code(codes).all()
    assert not field.is_code([field.first - 3, field.last + 1]).any()


@ANY
def test_a_bin_holds_its_lower_edge_and_not_what_is_just_below(field):
    codes = _codes(field)[1:]
    edges = field.lower_edge(codes)
    np.testing.assert_array_equal(field.encode(edges), codes)
    just_below = edges - np.maximum(1e-9 * field.step, 4 * np.spacing(np.abs(edges)))
    np.testing.assert_array_equal(field.encode(just_below), codes - 1)


@ANY
def test_bins_are_one_step_wide_and_values_are_their_middles(field):
    codes = np.arange(field.first, min(field.last, field.first + 5000))
    np.testing.assert_allclose(np.diff(field.lower_edge(codes)), field.step, rtol=1e-6)
    middle = (field.lower_edge(codes) + field.lower_edge(codes + 1)) / 2
    np.testing.assert_allclose(field.decode(codes), middle, rtol=1e-12, atol=1e-9)


@ANY
def test_edges_are_plain_arithmetic_of_low_and_step(field):
    """What tensors compute from `low` and `step` is what `lower_edge` says."""
    codes = _codes(field)
    plain = field.low + (codes - 1) * field.step
    np.testing.assert_allclose(field.lower_edge(codes), plain, rtol=1e-12, atol=1e-9)


@OPEN_ENDED
def test_the_ends_are_open(field):
    top = field.lower_edge(field.last)
    bottom = field.lower_edge(field.first + 1) - 1e-6 * field.step
    assert field.encode([-1e12, -np.inf, bottom]).tolist() == [field.first] * 3
    assert field.encode([top, 1e12, np.inf]).tolist() == [field.last] * 3


@ANY
def test_nan_is_missing_and_missing_is_nan(field):
    codes = field.encode([np.nan, field.decode(field.last)])
    assert codes.dtype == field.dtype
    assert codes.tolist() == [field.missing, field.last]
    assert np.isnan(field.decode([field.missing, field.last])).tolist() == [True, False]
    assert field.is_code(field.missing)
    assert not field.first <= field.missing <= field.last


@ANY
@given(data=st.data())
def test_a_decoded_code_is_within_half_a_step_of_the_value(field, data):
    low, high = field.lower_edge(field.first), field.lower_edge(field.last + 1)
    value = data.draw(st.floats(low, high, exclude_max=True))
    code = int(field.encode(value))
    assert field.first <= code <= field.last
    slack = 1e-9 * field.step + 4 * np.spacing(abs(value))
    assert field.lower_edge(code) - slack <= value <= field.lower_edge(code + 1) + slack
    assert abs(field.decode(code) - value) <= field.step / 2 + slack


@OPEN_ENDED
@given(share=st.tuples(st.floats(-0.2, 1.2), st.floats(-0.2, 1.2)))
def test_a_larger_value_never_has_a_smaller_code(field, share):
    low, high = field.lower_edge(field.first), field.lower_edge(field.last + 1)
    smaller, larger = (low + s * (high - low) for s in sorted(share))
    assert field.encode(smaller) <= field.encode(larger)


@pytest.mark.parametrize("field", ROUNDED, ids=_name)
def test_a_rounded_field_has_its_steps_as_values(field):
    codes = np.arange(field.first, min(field.last, field.first + 3000) + 1)
    np.testing.assert_allclose(field.decode(codes), codes * field.step, rtol=1e-12)
    assert field.encode((codes[1:] - 0.4) * field.step).tolist() == codes[1:].tolist()
    assert field.encode((codes[1:] - 0.6) * field.step).tolist() == codes[:-1].tolist()


# -- published tables ---------------------------------------------------------------------------


@given(value=st.floats(-300, 300).map(lambda v: round(v, 6)) | st.just(np.nan))
def test_the_formulas_of_ts_38_133(value):
    """Tables 10.1.6.1-1, 10.1.11.1-1, 10.1.16.1-1 in closed form."""
    if np.isnan(value):
        assert encode_rsrp(value) == encode_rsrq(value) == encode_sinr(value) == MISSING
        return
    assert encode_rsrp(value) == np.clip(np.floor(value) + 157, 0, 126)
    assert encode_rsrq(value) == np.clip(np.floor(2 * (value + 43)) + 1, 0, 127)
    assert encode_sinr(value) == np.clip(np.floor(2 * (value + 23)) + 1, 0, 127)
    assert L1_RSRP.encode(value) == np.clip(np.floor(value) + 157, 16, 113)


def test_rows_of_the_tables():
    """SS-RSRP_1 is -156..-155 dBm, SS-RSRQ_126 is 19.5..20 dB, SS-SINR_1 is -23..-22.5 dB."""
    assert encode_rsrp([-156, -155.01, -32, -31.01, -31]).tolist() == [1, 1, 125, 125, 126]
    assert encode_rsrq([-43, -42.51, 19.5, 19.99, 20]).tolist() == [1, 1, 126, 126, 127]
    assert encode_sinr([-23, -22.51, 39.5, 39.99, 40]).tolist() == [1, 1, 126, 126, 127]
    assert decode_rsrp(57) == -99.5
    assert decode_rsrq(1) == -42.75
    assert decode_sinr(1) == -22.75


def test_l1_rsrp_ends_where_its_range_does():
    """RSRP_16 is below -140 dBm, RSRP_17 from there, RSRP_113 from -44 dBm."""
    assert L1_RSRP.encode([-150, -140.01, -140, -44.01, -44, -31]).tolist() == [
        16, 16, 17, 112, 113, 113,
    ]  # fmt: skip
    shared = np.linspace(-139.9, -44.1, 500)
    np.testing.assert_array_equal(L1_RSRP.encode(shared), SS_RSRP.encode(shared))
    assert L1_RSRP.last < 2**7
    assert L1_RSRP_DROP.last < 2**4


def test_differential_l1_rsrp_is_below_the_strongest_by_two_db_a_code():
    """Table 10.1.6.1-2: code 0 is 0 to above -2 dB, code 1 is -2 to above -4, 15 from -30 down."""
    drop = np.array([0.0, 1.99, 2.0, 3.99, 4.0, 29.99, 30.0, 60.0])
    beams = encode_beams(np.concatenate([[-70.0], -70.0 - drop]))
    assert beams.tolist() == [87, 0, 0, 1, 1, 2, 14, 15, 15]


@given(
    strongest=st.floats(-139, -45),
    drops=st.lists(st.floats(0, 31.9), min_size=1, max_size=3).map(sorted),
)
def test_beams_come_back_within_their_bins(strongest, drops):
    levels = strongest - np.array([0.0, *drops])
    codes = encode_beams(levels)
    assert (np.diff(codes[1:]) >= 0).all()
    decoded = decode_beams(codes)
    assert abs(decoded[0] - levels[0]) <= 0.5 + 1e-9
    assert (np.abs(decoded[1:] - levels[1:]) <= 1.5 + 1e-9).all()


def test_a_missing_beam_is_missing_alone():
    codes = encode_beams([[-80.0, np.nan, -90.0], [np.nan, np.nan, np.nan]])
    assert codes.tolist() == [[77, MISSING, 5], [MISSING] * 3]
    assert np.isnan(decode_beams(codes)).tolist() == [[False, True, False], [True] * 3]


def test_uplink_sinr_is_fapis_number():
    assert UL_SINR.encode([0.0, 10.0, -65.534, -70, 65.534, 70, np.nan]).tolist() == [
        0, 5000, -32767, -32767, 32767, 32767, INT16_MISSING,
    ]  # fmt: skip
    assert UL_SINR.decode(5001) == 10.002
    assert UL_SINR.decode(MISSING) == -0.002


def test_a_timing_offset_ends_at_16800_ns():
    codes = TIMING_ADVANCE_OFFSET.encode([-1, 20000, -20000, np.nan])
    assert codes.tolist() == [-1, 16800, -16800, INT16_MISSING]


@given(azimuth=st.integers(0, 3599), turns=st.integers(-3, 3))
def test_azimuths_of_arrival_wrap(azimuth, turns):
    middle_deg = (azimuth + 0.5) / 10 + 360 * turns
    assert UL_AOA.encode(middle_deg) == azimuth
    assert UL_AOA.encode(azimuth / 10) == azimuth


def test_the_seam_of_the_circle():
    assert UL_AOA.encode([0, 360, 359.999, -0.05, -1e-20, 720.1]).tolist() == [
        0, 0, 3599, 3599, 3599, 1,
    ]  # fmt: skip
    assert UL_AOA.encode(np.inf) == MISSING


@given(azimuth=st.floats(0, 360, exclude_max=True))
def test_a_compass_turns_the_other_way(azimuth):
    there_and_back = ul_aoa_of_compass_deg(ul_aoa_of_compass_deg(azimuth))
    assert abs((there_and_back - azimuth + 180) % 360 - 180) < 1e-9
    assert ul_aoa_of_compass_deg(0.0) == 0.0  # north is north
    assert ul_aoa_of_compass_deg(90.0) == 270.0  # east is a quarter turn clockwise


# -- timing -------------------------------------------------------------------------------------


def test_the_basic_time_unit():
    assert pytest.approx(1e9 / (480e3 * 4096)) == TC_NS


@pytest.mark.parametrize(
    ("granularity", "last"), list(enumerate([1970049, 985025, 492513, 246257, 123129, 61565]))
)
def test_relative_arrival_times_have_the_code_ranges_of_ts_38_455(granularity, last):
    for field in (ul_rtoa_field(granularity), gnb_rx_tx_field(granularity)):
        assert field.last == last
        assert field.lower_edge(1) == -985024
        assert field.lower_edge(last) == 985024
        assert field.encode([-985024.5, -985024, 0, 985023.5, 985024]).tolist() == [
            0, 1, (last - 1) // 2 + 1, last - 1, last,
        ]  # fmt: skip


@pytest.mark.parametrize("granularity", [-1, 6])
def test_other_granularities_are_refused(granularity):
    with pytest.raises(ReportError, match=rf"UL-RTOA: granularity {granularity} is not in 0..5"):
        ul_rtoa_field(granularity)


@given(delay_ns=st.floats(0, 2e6), numerology=st.integers(0, 3))
def test_the_timing_advance_field_is_the_one_of_map_layers(delay_ns, numerology):
    field = timing_advance_field(numerology)
    step_ns = timing_advance_step_ns(numerology)
    off_edge = abs((2 * delay_ns / step_ns + 0.5) % 1.0 - 0.5) < 0.5 - 1e-9
    if off_edge:
        assert field.encode(2 * delay_ns) == timing_advance(delay_ns, numerology)


@pytest.mark.parametrize("numerology", range(4))
def test_a_command_moves_the_advance_by_what_it_encodes(numerology):
    """TS 38.213, 4.2: N_new = N_old + (T_A - 31) x 16 x 64 / 2^mu."""
    command, advance = timing_command_field(numerology), timing_advance_field(numerology)
    codes = np.arange(64)
    step_ns = 16 * 64 / 2**numerology * TC_NS
    np.testing.assert_allclose(command.decode(codes), (codes - 31) * step_ns, atol=1e-9)
    moved = advance.decode(advance_after(100, codes)) - advance.decode(100)
    np.testing.assert_allclose(moved, command.decode(codes), atol=1e-9)
    assert command.encode([0.0, -1e6, 1e6]).tolist() == [31, 0, 63]


def test_an_advance_stays_in_its_range():
    assert advance_after([3, 3840, 5], [0, 63, MISSING]).tolist() == [0, 3846, MISSING]


# -- the registry -------------------------------------------------------------------------------


def test_the_registry_holds_three_layers():
    layers = {name: field.layer for name, field in FIELDS.items()}
    assert set(layers.values()) == {"ray_tracing", "phy", "mac"}
    assert {n for n in layers if n.startswith("rt_")} == {
        n for n, layer in layers.items() if layer == "ray_tracing"
    }
    assert {n for n, layer in layers.items() if layer == "mac"} == {
        "rsrp_code", "rsrq_code", "sinr_code", "ta_code", "throughput_kbps", "bler_percent",
    }  # fmt: skip


@pytest.mark.parametrize("name", FIELDS)
def test_a_fields_type_holds_its_range_and_its_missing_code(name):
    field = FIELDS[name]
    assert field.unit
    assert field.long_name
    assert field.source
    assert field.lowest < field.highest
    if field.layer == "ray_tracing":
        assert np.dtype(field.dtype).kind == "f"
        assert np.isnan(field.missing)
        return
    info = np.iinfo(field.dtype)
    assert info.min <= min(field.lowest, field.missing)
    assert field.highest <= info.max
    assert not field.lowest <= field.missing <= field.highest
    if field.encoding is not None:
        assert field.encoding.missing == field.missing
        assert field.encoding.last <= field.highest


@pytest.mark.parametrize("name", [n for n, f in FIELDS.items() if f.encoding is not None])
@given(data=st.data())
def test_codes_of_the_registry_come_back(name, data):
    encoding = FIELDS[name].encoding
    code = data.draw(st.integers(encoding.first, encoding.last) | st.just(encoding.missing))
    assert encoding.encode(encoding.decode(code)) == code
