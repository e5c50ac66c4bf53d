"""Which rays a site gets, and what a map makes of paths: no ray is traced here."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ueloc_core.city import load_city
from ueloc_core.radio.radio_map import ray_set
from ueloc_core.radio.ray_tracing.cells import (
    DETECTION_RANGE_DB,
    CellStatistics,
    combine_batches,
)
from ueloc_core.radio.ray_tracing.contributions import Contributions
from ueloc_core.units import SPEED_OF_LIGHT_M_S

GAINS = hnp.arrays(np.float64, (3, 4, 5), elements=st.floats(1e-15, 1e-5))


@settings(max_examples=40, deadline=None)
@given(gains=GAINS, scale_db=st.floats(-30, 30))
def test_mean_and_error_follow_a_change_of_power(gains, scale_db):
    mean, error = combine_batches(gains)
    scaled, same = combine_batches(gains * 10 ** (scale_db / 10))
    np.testing.assert_allclose(scaled, mean + scale_db, atol=1e-3)
    np.testing.assert_allclose(same, error, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(mean, 10 * np.log10(gains.mean(axis=0)), atol=1e-3)


def test_equal_batches_have_no_error():
    mean, error = combine_batches(np.full((2, 3, 3), 1e-9))
    assert mean.dtype == error.dtype == np.float32
    np.testing.assert_allclose(mean, -90, atol=1e-5)
    np.testing.assert_array_equal(error, 0)


def test_error_of_two_batches_by_hand():
    """1 and 3: mean 2, standard deviation sqrt(2), standard error 1, half of the mean."""
    mean, error = combine_batches(np.array([[1.0], [3.0]]) * 1e-8)
    assert mean[0] == pytest.approx(10 * np.log10(2e-8), abs=1e-4)
    assert error[0] == pytest.approx(10 / np.log(10) / 2, rel=1e-6)


def test_the_error_is_that_of_repeated_means():
    """Gamma-distributed gains: the reported error matches the spread of means over repeats."""
    rng = np.random.default_rng(0)
    gains = rng.gamma(20.0, 1e-9 / 20, size=(4, 20_000))
    mean, error = combine_batches(gains)
    assert np.sqrt((error.astype(float) ** 2).mean()) == pytest.approx(mean.std(), rel=0.05)


def test_unhit_cells_are_not_a_number():
    gains = np.array([[0.0, 0.0, 2e-9], [0.0, 4e-9, 2e-9]])
    mean, error = combine_batches(gains)
    assert np.isnan(mean).tolist() == [True, False, False]
    assert np.isnan(error).tolist() == [True, True, False]
    assert mean[1] == pytest.approx(10 * np.log10(2e-9), abs=1e-4)


def test_powers_that_no_receiver_hears_are_none():
    mean, error = combine_batches(np.full((4, 2), 1e-19))
    assert np.isnan(mean).all()
    assert np.isnan(error).all()


def paths(cell, batch, weight, delay_ns, departure=None, arrival=None):
    """Paths whose gains the tests give."""
    n = len(cell)
    ahead = np.tile(np.array([[0.0, 1.0, 0.0]], dtype=np.float32), (n, 1))
    return Contributions(
        cell=np.asarray(cell, dtype=np.int64),
        batch=np.asarray(batch, dtype=np.int64),
        weight=np.asarray(weight, dtype=np.float32),
        length_m=(np.asarray(delay_ns) * 1e-9 * SPEED_OF_LIGHT_M_S).astype(np.float32),
        departure=ahead if departure is None else np.asarray(departure, dtype=np.float32),
        arrival=ahead if arrival is None else np.asarray(arrival, dtype=np.float32),
        power=np.zeros((n, 4), dtype=np.float32),
    )


def statistics(found, gain, batches=2, shape=(1, 2)):
    return CellStatistics(found, shape, batches).of(np.asarray(gain, dtype=np.float32))


def test_moments_of_delays_by_hand():
    """Weights 3 and 1 at 100 and 140 ns: mean 110, spread sqrt(3/16) x 40; the order is free."""
    found = statistics(paths([1, 1], [0, 0], [0.5, 1.0], [100, 140]), [6e-9, 1e-9])
    np.testing.assert_allclose(found.first_arrival_ns, [[np.nan, 100]], rtol=1e-6)
    np.testing.assert_allclose(found.mean_delay_ns, [[np.nan, 110]], rtol=1e-6)
    np.testing.assert_allclose(found.delay_spread_ns, [[np.nan, np.sqrt(3 / 16) * 40]], rtol=1e-5)
    # of two batches one has all of it: half in mean, and no error to tell
    np.testing.assert_allclose(found.path_gain_db, [[np.nan, 10 * np.log10(2e-9)]], rtol=1e-6)
    assert np.isnan(found.path_gain_se_db).all()
    assert found.ray_hits.tolist() == [[0, 2]]
    turned = statistics(paths([1, 1], [0, 0], [1.0, 0.5], [140, 100]), [1e-9, 6e-9])
    for name, values in vars(found).items():
        np.testing.assert_array_equal(values, getattr(turned, name))


def test_the_first_arrival_is_that_of_a_path_that_is_detected():
    """By each path's own gain, not by how much of the cell it stands for."""
    for below_db, first in ((DETECTION_RANGE_DB - 0.1, 50), (DETECTION_RANGE_DB + 0.1, 80)):
        gains = [1e-9 * 10 ** (-below_db / 10), 1e-9]
        found = statistics(paths([0, 0], [0, 1], [1.0, 1e-3], [50, 80]), gains)
        assert found.first_arrival_ns[0, 0] == pytest.approx(first, rel=1e-6)
        assert found.mean_delay_ns[0, 0] >= found.first_arrival_ns[0, 0]


def test_azimuths_are_averaged_on_the_circle():
    """350 and 10 degrees are 0 in mean; the arrival points back to whence the power comes."""
    ways = np.array([350.0, 10.0])
    direction = np.stack([np.sin(np.radians(ways)), np.cos(np.radians(ways)), 0 * ways], axis=1)
    found = statistics(paths([0, 0], [0, 1], [1, 1], [50, 50], direction, direction), [1e-9, 1e-9])
    assert (found.departure_azimuth_deg[0, 0] + 180) % 360 == pytest.approx(180, abs=1e-3)
    assert found.arrival_azimuth_deg[0, 0] == pytest.approx(180, abs=1e-3)
    # TR 38.901, annex A: sqrt(-2 ln R) of the resultant R = cos 10 degrees
    spread = np.degrees(np.sqrt(-2 * np.log(np.cos(np.radians(10)))))
    assert found.departure_spread_deg[0, 0] == pytest.approx(spread, rel=1e-4)
    assert found.arrival_spread_deg[0, 0] == pytest.approx(spread, rel=1e-4)
    assert found.departure_zenith_deg[0, 0] == pytest.approx(90, abs=1e-3)


def test_zeniths_are_those_of_both_ends():
    down = np.array([[0.0, np.sin(np.radians(120)), np.cos(np.radians(120))]])
    found = statistics(paths([0], [0], [1], [50], down, down), [1e-9])
    assert found.departure_zenith_deg[0, 0] == pytest.approx(120, abs=1e-3)
    assert found.arrival_zenith_deg[0, 0] == pytest.approx(60, abs=1e-3)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), scale_db=st.floats(-20, 20))
def test_a_louder_sector_changes_nothing_but_the_gain(seed, scale_db):
    rng = np.random.default_rng(seed)
    n = 50
    direction = rng.normal(size=(n, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    found = paths(
        rng.integers(0, 6, n),
        rng.integers(0, 4, n),
        rng.uniform(0.1, 1, n),
        rng.uniform(10, 500, n),
        direction,
        direction[::-1],
    )
    gain = 10 ** rng.uniform(-11, -8, n)
    one, other = (statistics(found, gain * f, 4, (2, 3)) for f in (1, 10 ** (scale_db / 10)))
    np.testing.assert_allclose(other.path_gain_db, one.path_gain_db + scale_db, atol=1e-3)
    for name, values in vars(one).items():
        if name not in ("path_gain_db", "first_arrival_ns"):  # whose threshold float32 may cross
            np.testing.assert_allclose(getattr(other, name), values, rtol=1e-3, atol=0.05)
    known = np.isfinite(one.path_gain_db)
    assert (one.mean_delay_ns >= one.first_arrival_ns)[known].all()
    assert (one.delay_spread_ns >= 0)[known].all()


def test_no_paths_make_empty_maps():
    found = statistics(paths([], [], [], [], np.zeros((0, 3)), np.zeros((0, 3))), [])
    assert found.path_gain_db.shape == (1, 2)
    for name, values in vars(found).items():
        assert (values == 0 if name == "ray_hits" else np.isnan(values)).all()


def test_no_two_ray_sets_of_a_city_are_alike():
    city = load_city("helsinki")
    sets = [ray_set(city, belief, site) for belief in ("twin", "world") for site in range(1, 200)]
    assert len({s.seed for s in sets}) == len(sets)
    config = city.ray_tracing
    for found in sets:
        assert found.rays == config.rays_per_site
        assert found.batches == config.batches
        assert found.points == config.points_per_batch
    assert ray_set(city, "twin", 17) == ray_set(city, "twin", 17)
    other = city.model_copy(update={"seed": city.seed + 1})
    assert ray_set(other, "twin", 17).seed not in {s.seed for s in sets}
    # each purpose has random numbers of its own
    twin = ray_set(city, "twin", 17)
    drawn = {twin.rng(purpose).random() for purpose in ("launch", "points", "bounces")}
    assert len(drawn) == 3
