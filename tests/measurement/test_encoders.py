"""3GPP encodings: edges, round trips, ends."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ueloc_core.measurement.reports import (
    MISSING,
    SS_RSRP,
    SS_RSRQ,
    SS_SINR,
    decode_rsrp,
    decode_rsrq,
    decode_sinr,
    encode_rsrp,
    encode_rsrq,
    encode_sinr,
)

FIELDS = pytest.mark.parametrize("field", [SS_RSRP, SS_RSRQ, SS_SINR], ids=lambda f: f.name)


@FIELDS
def test_every_code_comes_back(field):
    codes = np.arange(-1, field.last + 1)
    np.testing.assert_array_equal(field.encode(field.decode(codes)), codes)


@FIELDS
def test_a_bin_holds_its_lower_edge_and_not_its_upper_one(field):
    codes = np.arange(1, field.last + 1)
    edges = field.lower_edge(codes)
    np.testing.assert_array_equal(field.encode(edges), codes)
    np.testing.assert_array_equal(field.encode(edges - 1e-9), codes - 1)
    np.testing.assert_allclose(np.diff(edges), field.step)


@FIELDS
def test_the_ends_are_open(field):
    top = field.lower_edge(field.last)
    assert field.encode([-1e9, -np.inf, field.low - 1e-9]).tolist() == [0, 0, 0]
    assert field.encode([top, 1e9, np.inf]).tolist() == [field.last] * 3


@FIELDS
def test_missing_is_minus_one(field):
    codes = field.encode([np.nan, 0.0])
    assert codes.dtype == np.int16
    assert codes[0] == MISSING
    assert codes[1] != MISSING
    assert np.isnan(field.decode([MISSING, 3])).tolist() == [True, False]


@FIELDS
@given(value=st.floats(-200, 100).map(lambda v: round(v, 6)))
def test_a_code_is_the_bin_around_the_value(field, value):
    code = int(field.encode(value))
    assert 0 <= code <= field.last
    if 0 < code < field.last:
        assert field.lower_edge(code) <= value < field.lower_edge(code + 1)
        assert abs(field.decode(code) - value) <= field.step / 2


@FIELDS
@given(pair=st.tuples(st.floats(-200, 100), st.floats(-200, 100)))
def test_a_larger_value_never_has_a_smaller_code(field, pair):
    low, high = sorted(pair)
    assert field.encode(low) <= field.encode(high)


@given(value=st.floats(-300, 300) | st.just(np.nan))
def test_the_formulas_of_ts_38_133(value):
    """Tables 10.1.6.1-1, 10.1.11.1-1, 10.1.16.1-1 in closed form."""
    if np.isnan(value):
        assert encode_rsrp(value) == encode_rsrq(value) == encode_sinr(value) == MISSING
        return
    assert encode_rsrp(value) == np.clip(np.floor(value) + 157, 0, 126)
    assert encode_rsrq(value) == np.clip(np.floor(2 * (value + 43)) + 1, 0, 127)
    assert encode_sinr(value) == np.clip(np.floor(2 * (value + 23)) + 1, 0, 127)


def test_rows_of_the_tables():
    """SS-RSRP_1 is -156..-155 dBm, SS-RSRQ_126 is 19.5..20 dB, SS-SINR_1 is -23..-22.5 dB."""
    assert encode_rsrp([-156, -155.01, -32, -31.01, -31]).tolist() == [1, 1, 125, 125, 126]
    assert encode_rsrq([-43, -42.51, 19.5, 19.99, 20]).tolist() == [1, 1, 126, 126, 127]
    assert encode_sinr([-23, -22.51, 39.5, 39.99, 40]).tolist() == [1, 1, 126, 126, 127]
    assert decode_rsrp(57) == -99.5
    assert decode_rsrq(1) == -42.75
    assert decode_sinr(1) == -22.75
