"""The energy score of a posterior: closed forms, propriety and what it does to points."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist

from ueloc_core.errors import UelocError
from ueloc_core.evaluation.scores import (
    cell_distances,
    energy_score,
    energy_score_of_samples,
    expected_distance_cells,
)

ASINH_1 = np.arcsinh(1.0)
CELL_M = 4.0


def one_cell(rows=5, columns=7, row=2, column=3):
    mass = np.zeros((rows, columns))
    mass[row, column] = 1.0
    return mass


def gaussian(sigma_m, cells=128, cell_m=CELL_M):
    centres_m = (np.arange(cells) + 0.5 - cells / 2) * cell_m
    along = np.exp(-(centres_m**2) / (2 * sigma_m**2))
    mass = np.outer(along, along)
    return mass / mass.sum()


def test_mean_distances_of_a_square_are_the_published_ones():
    """Santalo 1976, Integral geometry: two points of a unit square; one point and its centre."""
    assert cell_distances(4)[0, 0] == pytest.approx((2 + 2**0.5 + 5 * ASINH_1) / 15, abs=1e-7)
    found = energy_score(one_cell(), 3.5 * CELL_M, 2.5 * CELL_M, CELL_M)
    assert found.sharpness_m == pytest.approx(CELL_M * 0.5214054331647207 / 2, abs=1e-6)
    centre_m = CELL_M * (2**0.5 + ASINH_1) / 6
    assert found.score_m + found.sharpness_m == pytest.approx(centre_m, rel=1e-9)
    corner = energy_score(one_cell(), 3 * CELL_M, 2 * CELL_M, CELL_M)
    assert corner.score_m + corner.sharpness_m == pytest.approx(2 * centre_m, rel=1e-9)


def test_mean_distances_of_cells_agree_with_draws():
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 400_000, 2))
    for row, column in ((0, 1), (1, 1), (2, 0), (3, 2)):
        length = np.hypot(*(first - second + (row, column)).T)
        error = length.std() / len(length) ** 0.5
        assert abs(cell_distances(4)[row, column] - length.mean()) < 4 * error


def test_distant_cells_are_as_far_apart_as_their_centres():
    """To second order, with variance 1/6 along each axis: |d| + trace(Hessian of |d|) / 12."""
    table = cell_distances(80)
    row, column = np.mgrid[10:80, 10:80]
    length = np.hypot(row, column)
    np.testing.assert_allclose(table[10:, 10:], length + 1 / (12 * length), atol=2e-5)


@settings(max_examples=30, deadline=None)
@given(arrays(np.float64, (2, 6, 9), elements=st.floats(0, 1)), st.integers(0, 1000))
def test_transform_and_double_sum_agree(raw, seed):
    raw = raw + 1e-6
    mass = raw / raw.sum(axis=(1, 2), keepdims=True)
    row, column = (v.ravel() for v in np.mgrid[:6, :9])
    apart = cell_distances(9)[abs(row[:, None] - row), abs(column[:, None] - column)]
    flat = mass.reshape(2, -1)
    east_m, north_m = np.random.default_rng(seed).uniform(-20, 60, (2, 2))
    found = energy_score(mass, east_m, north_m, CELL_M)
    expected_m = CELL_M * np.einsum("ni,ij,nj->n", flat, apart, flat) / 2
    np.testing.assert_allclose(found.sharpness_m, expected_m, rtol=1e-9)
    around = expected_distance_cells(mass).reshape(2, -1)
    np.testing.assert_allclose(around, flat @ apart, rtol=1e-9)


def test_grid_and_samples_agree():
    rng = np.random.default_rng(4)
    mass = rng.dirichlet(np.full(48, 0.3)).reshape(6, 8)
    cell = rng.choice(48, p=mass.ravel(), size=3000)
    samples_m = CELL_M * (np.stack([cell % 8, cell // 8], axis=1) + rng.random((3000, 2)))
    on_grid = energy_score(mass, 11.0, 7.0, CELL_M)
    drawn = energy_score_of_samples(samples_m, [11.0, 7.0], fair=True)
    to_truth_m = np.hypot(*(samples_m - (11.0, 7.0)).T)
    assert drawn.score_m == pytest.approx(
        on_grid.score_m, abs=5 * to_truth_m.std() / len(samples_m) ** 0.5
    )


def test_score_of_a_gaussian_is_that_of_theory():
    """|X - X'| is Rayleigh with scale sqrt(2) sigma; from the mean, |X - y| with scale sigma."""
    sigma_m = 30.0
    found = energy_score(gaussian(sigma_m), 256.0, 256.0, CELL_M)
    assert found.sharpness_m == pytest.approx(sigma_m * np.pi**0.5 / 2, rel=2e-3)
    rayleigh_m = sigma_m * (np.pi / 2) ** 0.5
    assert found.score_m + found.sharpness_m == pytest.approx(rayleigh_m, rel=2e-3)


def test_the_posterior_expects_its_sharpness():
    rng = np.random.default_rng(5)
    mass = rng.dirichlet(np.full(40, 0.2)).reshape(5, 8)
    cell = rng.choice(40, p=mass.ravel(), size=4000)
    east_m, north_m = CELL_M * (np.stack([cell % 8, cell // 8]) + rng.random((2, 4000)))
    found = energy_score(np.broadcast_to(mass, (4000, 5, 8)), east_m, north_m, CELL_M)
    error_m = found.score_m.std() / len(cell) ** 0.5
    assert abs(found.score_m.mean() - found.sharpness_m[0]) < 4 * error_m


@settings(max_examples=40, deadline=None)
@given(arrays(np.float64, (2, 12), elements=st.floats(0.001, 1)))
def test_no_other_posterior_has_a_better_expected_score(raw):
    """It is proper: the excess of q over p is half their energy distance."""
    places_m = np.random.default_rng(6).uniform(0, 100, (12, 2))
    p, q = raw / raw.sum(axis=1, keepdims=True)
    apart_m = cdist(places_m, places_m)

    def expected(belief):
        return belief @ apart_m @ p - belief @ apart_m @ belief / 2

    assert expected(q) >= expected(p) - 1e-9
    # And the grid's score is this form, with the distances of cells.
    row, column = np.divmod(np.arange(12), 4)
    apart = cell_distances(4)[abs(row[:, None] - row), abs(column[:, None] - column)]
    assert (q - p) @ apart @ (q - p) <= 1e-9


def test_one_sample_scores_its_distance():
    assert energy_score_of_samples([[3.0, 4.0]], [0.0, 0.0]).score_m == pytest.approx(5.0)
    stack = energy_score_of_samples(np.zeros((4, 2, 1, 2)), np.full((4, 2, 2), [6.0, 8.0]))
    np.testing.assert_allclose(stack.score_m, np.full((4, 2), 10.0))


def test_samples_on_a_line_have_the_ranked_probability_score():
    """In one dimension it is the CRPS, the integral of (F - 1{x >= y})^2 (Gneiting, eq. 20-21)."""
    rng = np.random.default_rng(7)
    x, y = np.sort(rng.normal(0, 10, 25)), 3.0
    edges = np.sort(np.append(x, y))
    middle = (edges[1:] + edges[:-1]) / 2
    below = (x[:, None] <= middle).mean(axis=0)
    crps = ((below - (middle >= y)) ** 2 * np.diff(edges)).sum()
    samples = np.stack([x, np.full_like(x, 2.0)], axis=1)
    assert energy_score_of_samples(samples, [y, 2.0]).score_m == pytest.approx(crps)


def test_a_fair_score_does_not_depend_on_the_number_of_samples():
    rng = np.random.default_rng(8)
    samples_m = rng.normal(0, 10, (20_000, 4, 2))
    truth_m = np.zeros((20_000, 2))
    few, more = (
        energy_score_of_samples(samples_m[:, :n], truth_m, fair=True).score_m for n in (2, 4)
    )
    error_m = few.std() / len(few) ** 0.5
    assert abs(few.mean() - more.mean()) < 4 * error_m
    plain = energy_score_of_samples(samples_m[:, :2], truth_m).score_m
    assert plain.mean() > few.mean() + 10 * error_m


def test_score_moves_with_the_window_and_scales_with_the_cell():
    rng = np.random.default_rng(9)
    mass = rng.dirichlet(np.ones(30)).reshape(5, 6)
    base = energy_score(mass, 9.0, 5.0, CELL_M)
    moved = energy_score(np.pad(mass, ((2, 0), (3, 4))), 9.0 + 12, 5.0 + 8, CELL_M)
    turned = energy_score(mass.T, 5.0, 9.0, CELL_M)
    doubled = energy_score(mass, 18.0, 10.0, 2 * CELL_M)
    for other in (moved, turned):
        assert other.score_m == pytest.approx(base.score_m)
        assert other.sharpness_m == pytest.approx(base.sharpness_m)
    assert doubled.score_m == pytest.approx(2 * base.score_m)


def test_a_stack_is_scored_one_by_one():
    rng = np.random.default_rng(10)
    mass = rng.dirichlet(np.ones(20), size=(2, 3)).reshape(2, 3, 4, 5)
    mass[0, 0] *= 0.7
    east_m, north_m = rng.uniform(0, 16, (2, 2, 3))
    found = energy_score(mass, east_m, north_m, CELL_M)
    assert found.score_m.shape == (2, 3)
    for i in np.ndindex(2, 3):
        alone = energy_score(mass[i], east_m[i], north_m[i], CELL_M)
        assert found.score_m[i] == pytest.approx(float(alone.score_m))


def test_mass_outside_is_laid_around_the_window():
    mass = 0.75 * one_cell(4, 4, 1, 1)
    found = energy_score(mass, 6.0, 6.0, CELL_M, outside_margin_m=8.0)
    whole = np.full((8, 8), 0.25 / 48)
    whole[2:6, 2:6] = mass
    expected = energy_score(whole, 14.0, 14.0, CELL_M)
    assert found.score_m == pytest.approx(float(expected.score_m))
    assert found.sharpness_m == pytest.approx(float(expected.sharpness_m))
    inside = energy_score(one_cell(4, 4, 1, 1), 6.0, 6.0, CELL_M)
    assert inside.score_m < found.score_m  # sure and right is better than unsure
    far = [
        energy_score(m, 200.0, 6.0, CELL_M, outside_margin_m=256.0).score_m
        for m in (one_cell(4, 4, 1, 1), mass)
    ]
    assert far[1] < far[0]  # and unsure is better than sure and wrong


@pytest.mark.parametrize("factor", [-1.0, 0.0, 1.5, np.nan])
def test_what_is_no_posterior_has_no_score(factor):
    with pytest.raises(UelocError, match="raster of masses"):
        energy_score(factor * one_cell(), 1.0, 1.0, CELL_M)


def test_too_few_samples_have_no_score():
    with pytest.raises(UelocError, match="1 samples have no fair"):
        energy_score_of_samples([[1.0, 2.0]], [0.0, 0.0], fair=True)
    with pytest.raises(UelocError, match="0 samples"):
        energy_score_of_samples(np.zeros((0, 2)), [0.0, 0.0])
