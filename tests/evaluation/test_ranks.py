"""Ranks of the truth are uniform under the exact posterior, on a grid and among samples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ueloc_core.errors import UelocError
from ueloc_core.evaluation.ranks import (
    energy_rank,
    hpd_level,
    pit,
    rank_among,
    tarp_rank,
    tarp_references,
)

ALPHA = 0.001
N = 4000


@pytest.fixture(scope="module")
def drawn():
    """Coarse posteriors that lack some mass, and cells drawn from them; -1 is outside."""
    rng = np.random.default_rng(0)
    mass = rng.dirichlet(np.full(13, 0.5), size=N)
    cell = (mass.cumsum(axis=1) < rng.random((N, 1))).sum(axis=1)
    row, column = np.divmod(cell, 4)
    outside = cell == 12
    row, column = np.where(outside, -1, row), np.where(outside, 2, column)
    assert 0.03 < outside.mean() < 0.2
    return mass[:, :12].reshape(N, 3, 4), row, column


def test_ranks_of_cells_drawn_from_the_posterior_are_uniform(drawn):
    rng = np.random.default_rng(1)
    row = drawn[1]
    reference = tarp_references(N, 3, 4, seed=2)
    pit_x, pit_y = pit(*drawn, rng.random((N, 2)))
    ranks = {
        "hpd": hpd_level(*drawn, rng.random(N)),
        "energy": energy_rank(*drawn, rng.random(N)),
        "tarp": tarp_rank(*drawn, rng.random(N), reference_cells=reference),
        "pit_x": pit_x[row >= 0],
        "pit_y": pit_y[row >= 0],
    }
    for name, values in ranks.items():
        assert stats.kstest(values, "uniform").pvalue > ALPHA, name
    assert np.isnan(pit_x[row < 0]).all()
    assert np.isnan(pit_y[row < 0]).all()


def test_ranks_of_another_posterior_are_not_uniform(drawn):
    rng = np.random.default_rng(3)
    mass, row, column = drawn
    wrong = mass[::-1]
    reference = tarp_references(N, 3, 4, seed=2)
    inside = row >= 0
    pit_x, _ = pit(wrong, row, column, rng.random((N, 2)))
    for values in (
        hpd_level(wrong, row, column, rng.random(N)),
        energy_rank(wrong, row, column, rng.random(N)),
        tarp_rank(wrong, row, column, rng.random(N), reference_cells=reference),
        pit_x[inside],
    ):
        assert stats.kstest(values, "uniform").pvalue < ALPHA


class TestTransform:
    mass = np.array([[0.1, 0.2, 0.0], [0.3, 0.1, 0.3]])

    def test_it_is_the_mass_west_and_south_of_the_truth(self):
        u = np.array([0.5, 0.25])
        assert pit(self.mass, 0, 1, u) == pytest.approx((0.4 + 0.5 * 0.3, 0.25 * 0.3))
        assert pit(self.mass, 1, 2, u) == pytest.approx((0.7 + 0.5 * 0.3, 0.3 + 0.25 * 0.7))

    def test_it_is_that_of_the_window(self):
        u = np.array([0.3, 0.6])
        assert pit(0.6 * self.mass, 1, 0, u) == pytest.approx(pit(self.mass, 1, 0, u))

    def test_it_turns_with_the_window(self):
        x, y = pit(self.mass, 1, 2, np.array([0.3, 0.6]))
        assert pit(self.mass.T, 2, 1, np.array([0.6, 0.3])) == pytest.approx((y, x))
        assert pit(self.mass[:, ::-1], 1, 0, np.array([0.7, 0.6])) == pytest.approx((1 - x, y))

    def test_outside_there_is_none(self):
        assert np.isnan(pit(self.mass, 2, 0, np.zeros(2))).all()
        assert np.isnan(pit(np.zeros((2, 3)), 2, 0, np.zeros(2))).all()
        with pytest.raises(UelocError, match="holds no mass"):
            pit(np.zeros((2, 3)), 1, 0, np.zeros(2))

    @settings(max_examples=50, deadline=None)
    @given(st.integers(0, 2), st.integers(0, 1), st.floats(0, 0.999), st.floats(0, 0.999))
    def test_it_rises_with_the_coordinate(self, column, row, low, high):
        low, high = sorted((low, high))
        here = pit(self.mass, row, column, np.array([low, low]))
        there = pit(self.mass, row, column, np.array([high, high]))
        assert here[0] <= there[0] + 1e-12
        if column < 2:
            assert there[0] <= pit(self.mass, row, column + 1, np.zeros(2))[0] + 1e-12


class TestTarp:
    mass = np.array([[0.1, 0.2], [0.3, 0.1]])  # and 0.3 outside

    def test_it_is_the_mass_nearer_to_the_reference(self):
        reference = np.array([0.2, 0.1])  # nearest: (0, 0), then (0, 1), (1, 0), (1, 1)
        ranks = [
            tarp_rank(self.mass, row, column, 0.5, reference_cells=reference)
            for row, column in ((0, 0), (0, 1), (1, 0), (1, 1), (5, 5))
        ]
        assert ranks == pytest.approx([0.05, 0.2, 0.45, 0.65, 0.85])

    def test_equal_distances_share_their_ranks(self):
        reference = np.array([1.0, 1.0])
        for row, column in np.ndindex(2, 2):
            rank = tarp_rank(self.mass, row, column, 0.25, reference_cells=reference)
            assert rank == pytest.approx(0.25 * 0.7)

    def test_references_are_seeded_and_fill_the_window(self):
        points = tarp_references(1000, 30, 50, seed=1)
        np.testing.assert_array_equal(points, tarp_references(1000, 30, 50, seed=1))
        assert not np.array_equal(points, tarp_references(1000, 30, 50, seed=2))
        for axis, size in ((0, 50), (1, 30)):
            assert stats.kstest(points[:, axis] / size, "uniform").pvalue > ALPHA


class TestEnergyRank:
    def test_a_place_between_two_modes_is_central(self):
        mass = np.array([[0.48, 0.0, 0.04, 0.0, 0.48]])
        assert energy_rank(mass, 0, 2, 0.5) == pytest.approx(0.02)
        assert hpd_level(mass, 0, 2, 0.5) == pytest.approx(0.98)

    def test_one_hump_is_ranked_as_by_its_density(self):
        along = np.exp(-((np.arange(21) - 10.0) ** 2) / 18)
        mass = np.outer(along, along) / along.sum() ** 2
        cells = [(10, 10), (7, 12), (3, 3), (10, 18)]
        ranks, levels = (
            [f(mass, row, column, 0.5) for row, column in cells] for f in (energy_rank, hpd_level)
        )
        np.testing.assert_allclose(ranks, levels, atol=0.05)  # rounding breaks ties

    def test_outside_comes_last(self):
        mass = np.array([[0.5, 0.3]])
        assert energy_rank(mass, 0, 9, 0.5) == pytest.approx(0.9)
        assert energy_rank(np.stack([mass, mass]), [0, 0], [9, 0], [0.0, 0.0]) == pytest.approx(
            [0.8, 0.0]
        )


def test_ranks_among_samples_are_uniform():
    rng = np.random.default_rng(4)
    numbers = rng.normal(0, 1, (N, 20))
    coarse = np.round(numbers)  # full of ties
    for values in (numbers, coarse):
        ranks = rank_among(values[:, 1:], values[:, 0], rng.random(N))
        assert stats.kstest(ranks, "uniform").pvalue > ALPHA
        assert ((ranks >= 0) & (ranks < 1)).all()


def test_rank_among_samples_is_their_share_below():
    assert rank_among([1.0, 2.0, 3.0], 2.5, 0.5) == pytest.approx(2.5 / 4)
    assert rank_among([1.0, 2.0, 3.0], 2.0, 0.5) == pytest.approx((1 + 0.5 * 2) / 4)


def test_ranks_among_many_samples_are_those_of_the_grid(drawn):
    rng = np.random.default_rng(5)
    mass, u = np.array([[0.2, 0.3, 0.1], [0.1, 0.1, 0.2]]), 0.4
    cell = rng.choice(6, p=mass.ravel(), size=200_000)
    row, column = np.divmod(cell, 3)
    reference = np.array([0.2, 1.7])
    squared = (column + 0.5 - 0.2) ** 2 + (row + 0.5 - 1.7) ** 2
    own = (1 + 0.5 - 0.2) ** 2 + (0 + 0.5 - 1.7) ** 2
    tolerance = 5 * 0.5 / len(cell) ** 0.5
    assert rank_among(squared, own, u) == pytest.approx(
        tarp_rank(mass, 0, 1, u, reference_cells=reference), abs=tolerance
    )
    assert rank_among(column, 1, u) == pytest.approx(
        pit(mass, 0, 1, np.array([u, u]))[0], abs=tolerance
    )
    assert rank_among(-mass.ravel()[cell], -mass[0, 1], u) == pytest.approx(
        hpd_level(mass, 0, 1, u), abs=tolerance
    )
