"""Ray sets and local means."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ueloc_core.city import load_city
from ueloc_core.errors import RadioError
from ueloc_core.grid import Window
from ueloc_core.radio.radio_map import (
    combine_ray_sets,
    local_mean,
    outdoor_mask,
    ray_sets,
)

GAINS = hnp.arrays(np.float64, (3, 4, 5), elements=st.floats(1e-15, 1e-5))


@settings(max_examples=40, deadline=None)
@given(gains=GAINS, scale_db=st.floats(-30, 30))
def test_mean_and_error_follow_a_change_of_power(gains, scale_db):
    mean, error = combine_ray_sets(gains)
    scaled, same = combine_ray_sets(gains * 10 ** (scale_db / 10))
    np.testing.assert_allclose(scaled, mean + scale_db, atol=1e-3)
    np.testing.assert_allclose(same, error, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(mean, 10 * np.log10(gains.mean(axis=0)), atol=1e-3)


def test_equal_ray_sets_have_no_error():
    gains = np.full((2, 3, 3), 1e-9)
    mean, error = combine_ray_sets(gains)
    assert mean.dtype == error.dtype == np.float32
    np.testing.assert_allclose(mean, -90, atol=1e-5)
    np.testing.assert_array_equal(error, 0)


def test_error_of_two_ray_sets_by_hand():
    """1 and 3: mean 2, standard deviation sqrt(2), standard error 1, half of the mean."""
    mean, error = combine_ray_sets(np.array([[1.0], [3.0]]) * 1e-8)
    assert mean[0] == pytest.approx(10 * np.log10(2e-8), abs=1e-4)
    assert error[0] == pytest.approx(10 / np.log(10) / 2, rel=1e-6)


def test_the_error_is_that_of_repeated_means():
    """Gamma-distributed gains: the reported error matches the spread of means over repeats."""
    rng = np.random.default_rng(0)
    gains = rng.gamma(20.0, 1e-9 / 20, size=(4, 20_000))
    mean, error = combine_ray_sets(gains)
    assert np.sqrt((error.astype(float) ** 2).mean()) == pytest.approx(mean.std(), rel=0.05)


def test_unhit_cells_are_not_a_number():
    gains = np.array([[0.0, 0.0, 2e-9], [0.0, 4e-9, 2e-9]])
    mean, error = combine_ray_sets(gains)
    assert np.isnan(mean).tolist() == [True, False, False]
    assert np.isnan(error).tolist() == [True, True, False]
    assert mean[1] == pytest.approx(10 * np.log10(2e-9), abs=1e-4)


def test_one_ray_set_has_no_error():
    with pytest.raises(RadioError, match="two ray sets"):
        combine_ray_sets(np.ones((1, 2, 2)))


@pytest.mark.parametrize("cells", [1, 3, 5])
def test_a_constant_gain_stays_constant_outdoors(cells):
    rng = np.random.default_rng(cells)
    outdoor = rng.random((30, 40)) > 0.4
    mean = local_mean(np.full((2, 30, 40), 3e-10), outdoor, cells)
    np.testing.assert_allclose(mean[:, outdoor], 3e-10, rtol=1e-9)
    np.testing.assert_array_equal(mean[:, ~outdoor], 0)


def test_what_is_indoors_does_not_count():
    outdoor = np.ones((9, 9), dtype=bool)
    outdoor[4, 4] = False
    gain = np.where(outdoor, 1e-9, 1.0)
    np.testing.assert_allclose(local_mean(gain, outdoor, 3)[outdoor], 1e-9, rtol=1e-9)


@pytest.mark.parametrize("cells", [3, 5])
def test_power_is_spread_and_kept(cells):
    """A single lit cell in the open: its power spreads evenly over the square around it."""
    gain = np.zeros((21, 21))
    gain[10, 8] = 1e-8
    mean = local_mean(gain, np.ones_like(gain, dtype=bool), cells)
    assert mean.sum() == pytest.approx(1e-8, rel=1e-9)
    assert (mean > 0).sum() == cells**2
    half = cells // 2
    square = mean[10 - half : 11 + half, 8 - half : 9 + half]
    np.testing.assert_allclose(square, 1e-8 / cells**2, rtol=1e-9)


def test_one_cell_leaves_the_gain_as_it_is():
    gain = np.random.default_rng(0).uniform(1e-12, 1e-8, (2, 8, 8))
    np.testing.assert_allclose(local_mean(gain, np.ones((8, 8), dtype=bool), 1), gain)


def test_powers_that_no_receiver_hears_are_none():
    gain = np.full((5, 5), 1e-19)
    assert local_mean(gain, np.ones((5, 5), dtype=bool), 3).max() == 0


def test_no_two_ray_sets_of_a_city_are_alike():
    city = load_city("helsinki")
    config = city.ray_tracing.model_copy(update={"ray_sets": 6})
    city = city.model_copy(update={"ray_tracing": config})
    sets = {belief: ray_sets(city, belief, 17) for belief in ("twin", "world")}
    rays = [s.rays for both in sets.values() for s in both]
    seeds = [s.seed for both in sets.values() for s in both]
    assert len(set(rays)) == len(set(seeds)) == 12
    assert min(rays) == config.rays_per_sector
    assert max(rays) < 1.5 * config.rays_per_sector
    assert {s.seed for s in ray_sets(city, "twin", 18)}.isdisjoint(seeds)
    other = city.model_copy(update={"seed": 2})
    assert {s.seed for s in ray_sets(other, "twin", 17)}.isdisjoint(seeds)


def test_outdoor_mask_is_the_footprint_where_it_is_known():
    window = Window(100, 50, 8, 6, 4.0)
    footprint = np.zeros(window.shape, dtype=np.uint8)
    footprint[2, 3] = 1
    context = xr.Dataset(
        {"footprint": (("y", "x"), footprint)},
        coords={"x": window.x_centres_m, "y": window.y_centres_m},
    )
    seen = outdoor_mask(context, Window(98, 49, 12, 9, 4.0))
    assert seen.shape == (9, 12)
    assert seen.sum() == seen.size - 1
    assert not seen[2 + 1, 3 + 2]
    assert outdoor_mask(context, Window(500, 500, 4, 4, 4.0)).all()
