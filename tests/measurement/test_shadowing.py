"""Gaussian shadowing fields over the global grid."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ueloc_core.errors import RadioError, UelocError
from ueloc_core.grid import Window
from ueloc_core.measurement.settings import ShadowingConfig
from ueloc_core.measurement.shadowing import COMMON, ShadowingField

CELL_M = 4.0
WINDOW = Window(96_000, -1_667_000, 256, 192, CELL_M)
KEYS = range(1, 41)
OVERLAP = 1e-5  # how well two windows agree


@pytest.fixture(scope="module")
def field():
    return ShadowingField(7, ShadowingConfig(), CELL_M)


@pytest.fixture(scope="module")
def many(field):
    """40 fields over 1024 x 768 m: about 40 * 49152 / (2 pi 3.25^2) = 30,000 independent values."""
    return field.over(WINDOW, KEYS).astype(float)


@pytest.mark.parametrize("correlation_m", [0.1, 2.0, 4.0, 13.0, 37.0, 120.0])
def test_the_kernel_has_the_correlation_of_the_standard(correlation_m):
    """Its autocorrelation is exp(-d / D) at all lags, within what the docstring says."""
    settings = ShadowingConfig(correlation_m=correlation_m)
    kernel = ShadowingField(1, settings, CELL_M).kernel.astype(float)
    size = 2 * len(kernel)
    spectrum = np.abs(np.fft.rfft2(kernel, (size, size))) ** 2
    found = np.fft.irfft2(spectrum, (size, size))
    lag = np.fft.fftfreq(size, 1 / size) * CELL_M
    wanted = np.exp(-np.hypot(lag[:, None], lag) / correlation_m)
    assert found[0, 0] == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(found, wanted, atol=5e-4)


def test_values_are_standard_normal(many):
    """Mean and variance within four standard errors, quartiles of the normal distribution."""
    independent = 30_000
    assert abs(many.mean()) < 4 / np.sqrt(independent)
    assert abs(many.var() - 1) < 4 * np.sqrt(2 / independent)
    assert np.quantile(many, [0.25, 0.75]) == pytest.approx([-0.6745, 0.6745], abs=0.02)
    assert (many**4).mean() == pytest.approx(3, abs=0.15)


@pytest.mark.parametrize("step", [(0, 1), (1, 0), (3, 3), (0, 4), (6, 0), (-5, 7), (0, 25)])
def test_correlation_falls_with_distance(many, step):
    rows, columns = step
    first = many[:, max(0, rows) : many.shape[1] + min(0, rows), columns:]
    second = many[:, max(0, -rows) : many.shape[1] - max(0, rows), : many.shape[2] - columns]
    wanted = np.exp(-np.hypot(rows, columns) * CELL_M / 13.0)
    assert (first * second).mean() == pytest.approx(wanted, abs=0.025)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_sites_share_a_part(share):
    """Standard deviation sigma at each site, correlation inter_site between any two."""
    settings = ShadowingConfig(sigma_db=6.0, inter_site=share)
    values = ShadowingField(3, settings, CELL_M).site_shadowing_db(WINDOW, [3, 11, 2**52 + 1])
    assert values.dtype == np.float32
    matrix = np.corrcoef(values.reshape(3, -1))
    # about 750 independent values: a standard error of 0.037 at most
    np.testing.assert_allclose(matrix, np.where(np.eye(3), 1, share), atol=0.12)
    np.testing.assert_allclose(values.std(axis=(1, 2)), 6, atol=0.7)


@settings(max_examples=15)
@given(
    column=st.integers(-200, 200),
    row=st.integers(-150, 150),
    columns=st.integers(1, 300),
    rows=st.integers(1, 300),
)
def test_windows_agree_where_they_overlap(field, many, column, row, columns, rows):
    other = Window(WINDOW.column + column, WINDOW.row + row, columns, rows, CELL_M)
    shared = WINDOW.intersection(other)
    if shared is None:
        return
    found = field.over(other, [5])[0][shared.slices_in(other)]
    np.testing.assert_allclose(found, many[4][shared.slices_in(WINDOW)], atol=OVERLAP)


def test_windows_agree_across_the_origin_of_the_grid(field):
    around = Window(-40, -30, 90, 70, CELL_M)
    part = Window(-3, -5, 20, 11, CELL_M)
    whole = field.over(around, [9])[0][part.slices_in(around)]
    np.testing.assert_allclose(field.over(part, [9])[0], whole, atol=OVERLAP)


def test_a_field_depends_on_its_key_alone(field):
    """Not on the other sites that are asked for, nor on their order."""
    values = field.site_shadowing_db(WINDOW, [4, 8, 2])
    np.testing.assert_array_equal(field.site_shadowing_db(WINDOW, [2, 8])[::-1], values[1:])
    again = ShadowingField(7, ShadowingConfig(), CELL_M).site_shadowing_db(WINDOW, [4, 8, 2])
    np.testing.assert_array_equal(again, values)


@pytest.mark.parametrize("other", ["seed", "key", "block"])
def test_other_fields_are_independent(field, many, other):
    """Correlation within four standard errors of 750 independent values."""
    found = {
        "seed": lambda: ShadowingField(8, ShadowingConfig(), CELL_M).over(WINDOW, [1])[0],
        "key": lambda: field.over(WINDOW, [COMMON])[0],
        "block": lambda: field.over(
            Window(WINDOW.column + 64 * 40, WINDOW.row, 256, 192, CELL_M), [1]
        )[0],
    }[other]()
    assert abs(np.corrcoef(found.ravel(), many[0].ravel())[0, 1]) < 4 / np.sqrt(750)


def test_no_deviation_is_no_shadowing():
    field = ShadowingField(1, ShadowingConfig(sigma_db=0), CELL_M)
    assert not field.site_shadowing_db(WINDOW, [1, 2]).any()


def test_no_sites_are_no_fields(field):
    assert field.site_shadowing_db(WINDOW, []).shape == (0, *WINDOW.shape)


def test_another_grid_and_the_common_key_are_refused(field):
    with pytest.raises(UelocError, match="8 m, not 4 m"):
        field.over(Window(0, 0, 8, 8, 8.0), [1])
    with pytest.raises(RadioError, match="site_id 0"):
        field.site_shadowing_db(WINDOW, [1, 0])
