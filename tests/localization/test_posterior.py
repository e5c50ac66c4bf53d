"""The posterior is a density: it integrates to one, and its raster is that density."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from ueloc_core.grid import Window
from ueloc_core.localization.baselines import geometric_median
from ueloc_core.localization.posterior import EVEN_SHARE, Posterior

LEVEL = 1e-3  # significance of every statistical test
CELL_M, CELLS, SIDE, COMPONENTS = 4.0, 64, 16, 5
HALF_M = CELL_M * CELLS / 2


def posterior(sigma_m=(6.0, 14.0), count=1, seed=0, outside=0.05, margin=0, cells=0.0):
    """Random blocks, the densest of them Gaussians with means in their blocks.

    Little mass is within a margin of so many blocks. A share of the components' mass, `cells`, is
    in the cells of their blocks, unevenly.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return torch.rand(shape, generator=generator)

    logits = 3 * torch.randn(count, SIDE * SIDE, generator=generator)
    at = torch.arange(SIDE)
    edge = torch.minimum(at, SIDE - 1 - at) < margin
    logits = logits - 20.0 * (edge[:, None] | edge).flatten()
    log_mass = torch.log_softmax(logits, dim=1) + np.log1p(-outside)
    top = log_mass.topk(COMPONENTS, dim=1).indices
    block_m = CELL_M * CELLS / SIDE
    corner = torch.stack([top % SIDE, top // SIDE], dim=-1) * block_m - HALF_M
    mean = corner + block_m * uniform(count, COMPONENTS, 2)
    low, high = sigma_m
    sigma = low + (high - low) * uniform(count, COMPONENTS, 2)
    angle = np.pi * uniform(count, COMPONENTS)
    turn = torch.stack(
        [torch.stack([angle.cos(), -angle.sin()], -1), torch.stack([angle.sin(), angle.cos()], -1)],
        dim=-2,
    )
    covariance = turn @ torch.diag_embed(sigma**2) @ turn.transpose(-1, -2)
    outdoor = uniform(count, CELLS, CELLS) > 0.4
    outdoor[:, :8, :8] = False  # whole blocks without a place to stand
    return Posterior(
        log_mass=log_mass.reshape(count, SIDE, SIDE),
        log_outside=torch.full((count,), float(np.log(outside))),
        top=top,
        mean_m=mean,
        covariance_m2=covariance,
        outdoor=outdoor,
        outside_m2=torch.full((count,), 50_000.0),
        cell_m=CELL_M,
        heatmap=cells * torch.softmax(2 * torch.randn(*top.shape, 16, generator=generator), dim=2),
    )


HEATMAPS = pytest.mark.parametrize("cells", [0.0, 0.6], ids=["gaussians", "heatmaps"])


def repeated(p, count):
    """One posterior, `count` times, so that its density can be asked at as many points."""
    tensors = {n: v for n, v in vars(p).items() if isinstance(v, torch.Tensor)}
    return replace(p, **{n: v[:1].expand(count, *v.shape[1:]) for n, v in tensors.items()})


def density(p, points):
    """Density [1/m2] of one posterior at points (n, 2)."""
    parts = points.split(8192)
    return torch.cat([repeated(p, len(part)).log_density(part) for part in parts]).double().exp()


def grid(step_m, half_m=HALF_M):
    """Points in the middle of squares of `step_m` over (-half, half)."""
    axis = torch.arange(-half_m + step_m / 2, half_m, step_m)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2)


@HEATMAPS
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_raster_and_the_outside_sum_to_one(seed, cells):
    p = posterior(count=3, seed=seed, cells=cells)
    total = p.raster().double().sum(dim=(1, 2)) + p.log_outside.double().exp()
    torch.testing.assert_close(total, torch.ones(3, dtype=torch.float64), atol=1e-5, rtol=0)
    assert float(p.raster().min()) > 0


@HEATMAPS
@pytest.mark.parametrize("seed", [0, 1])
def test_the_density_integrates_to_one(seed, cells):
    """Inside on a grid of 1 m, the tails of components beyond the edge, and the outside mass."""
    p = posterior(seed=seed, cells=cells)
    inside = float(density(p, grid(1.0)).sum())
    around = grid(2.0, HALF_M + 80)
    ring = around[(around.abs() > HALF_M).any(dim=1)]
    beyond = float(p.log_outside[0].exp() / p.outside_m2[0])
    tails = float((density(p, ring) - beyond).sum()) * 4
    assert inside + tails + float(p.log_outside[0].exp()) == pytest.approx(1, abs=1e-3)
    assert 0 <= tails < 0.2


@HEATMAPS
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_density_and_raster_agree(seed, cells):
    """Components as wide as two cells: the density at the centre of a cell is its mean."""
    p = posterior(sigma_m=(8.0, 12.0), seed=seed, cells=cells)
    p = Posterior(**{**p.__dict__, "mean_m": p.mean_m * 0.6})  # tails stay inside
    cells = density(p, grid(CELL_M)).reshape(CELLS, CELLS) * CELL_M**2
    raster = p.raster()[0].double()
    torch.testing.assert_close(raster, cells, rtol=0.03, atol=2e-6)


def test_a_sharp_component_keeps_its_mass_in_the_raster():
    p = posterior(sigma_m=(0.5, 1.0))
    raster = p.raster()[0]
    block = CELLS // SIDE
    for k in range(COMPONENTS):
        column, row = ((p.mean_m[0, k] + HALF_M) / CELL_M).floor().long()
        near = raster[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3]
        assert float(near.sum()) > 0.9 * float(p.weights[0, k])
    assert block == 4


@pytest.mark.parametrize("seed", [0, 1])
def test_no_place_has_zero_density(seed):
    """Indoors, beside sharp components, in blocks of no mass, beyond the window."""
    p = posterior(sigma_m=(0.3, 0.6), seed=seed)
    low = torch.full_like(p.log_mass, -60.0)
    low[0, 3, 3] = np.log(0.9)
    p = Posterior(**{**p.__dict__, "log_mass": low})
    for points in (grid(CELL_M), grid(97.0, 4 * HALF_M), torch.tensor([[1e5, -1e5]])):
        value = torch.cat([repeated(p, len(s)).log_density(s) for s in points.split(8192)])
        assert torch.isfinite(value).all()
        assert float(value.min()) > -80


def test_outside_density_is_the_outside_mass_over_its_ground():
    p = posterior(outside=0.2)
    far = torch.tensor([[5_000.0, 3_000.0]])
    assert float(p.log_density(far)) == pytest.approx(np.log(0.2 / 50_000), abs=1e-4)


def test_the_share_of_a_block_lies_on_its_outdoor_ground():
    """A block without components, half of which is built over."""
    p = posterior()
    block = next(b for b in range(SIDE * SIDE) if b not in p.top[0] and b // SIDE > 2)
    row, column = (block // SIDE) * 4, (block % SIDE) * 4
    outdoor = torch.ones_like(p.outdoor)
    outdoor[0, row : row + 4, column : column + 2] = False
    q = Posterior(**{**p.__dict__, "outdoor": outdoor})
    part = q._spread()[0, row : row + 4, column : column + 4]
    assert float(part.sum()) == pytest.approx(float(p.log_mass.flatten()[block].exp()), rel=1e-4)
    assert float(part[:, :2].sum()) < 0.002 * float(part.sum())
    np.testing.assert_allclose(part[:, 2:], float(part[0, 2]), rtol=1e-5)


def test_gradients_reach_masses_means_covariances_and_heatmaps():
    p = posterior(count=4, cells=0.6)
    names = ("log_mass", "mean_m", "covariance_m2", "heatmap")
    parts = {n: getattr(p, n).clone().requires_grad_() for n in names}
    q = Posterior(**{**p.__dict__, **parts})
    points = torch.tensor([[0.0, 0.0], [50.0, -20.0], [500.0, 0.0], [-127.9, 127.9]])
    q.log_density(points).sum().backward()
    assert all(torch.isfinite(v.grad).all() for v in parts.values())
    assert all(v.grad.abs().sum() > 0 for v in parts.values())


def test_a_heatmap_holds_its_share_of_a_component_in_its_cells():
    """Beside the Gaussian, which has what is left, and what is spread over the block."""
    p = posterior(sigma_m=(0.5, 1.0), cells=0.6)
    spread = p._spread()[0]
    for k in range(COMPONENTS):
        row, column = (int(v) * 4 for v in (p.top[0, k] // SIDE, p.top[0, k] % SIDE))
        part = spread[row : row + 4, column : column + 4]
        mass = float(p.weights[0, k])
        assert float(part.sum()) == pytest.approx((0.6 + EVEN_SHARE) * mass, rel=1e-4)
        own = mass * p.heatmap[0, k].reshape(4, 4)
        open_ = p.outdoor[0, row : row + 4, column : column + 4]
        even = EVEN_SHARE * mass * open_ / max(int(open_.sum()), 1)
        torch.testing.assert_close(part, own + even, rtol=0.02, atol=1e-5)


def test_gaussians_alone_need_no_heatmap():
    p = posterior(count=2)
    bare = {n: v for n, v in vars(p).items() if n != "heatmap"}
    q = Posterior(**bare)
    torch.testing.assert_close(q.raster(), p.raster())
    torch.testing.assert_close(q.log_density(torch.zeros(2, 2)), p.log_density(torch.zeros(2, 2)))


# -- samples ------------------------------------------------------------------------------


def drawn(p, count, seed=0):
    return p.sample(torch.Generator().manual_seed(seed), count)


def within(p):
    """The posterior with its components so far inside that no tail reaches the edge."""
    return replace(p, mean_m=p.mean_m * 0.5)


def chi_square(counts, probability):
    """p-value of counts against probabilities, rare bins put together."""
    expected = probability * counts.sum()
    rare = expected < 8
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    kept = expected > 0
    return stats.chisquare(counts[kept], expected[kept] * counts.sum() / expected.sum()).pvalue


@HEATMAPS
@pytest.mark.parametrize("seed", [0, 1])
def test_samples_fall_into_cells_as_the_raster_says(seed, cells):
    p = within(posterior(sigma_m=(8.0, 14.0), seed=seed, outside=0.1, cells=cells))
    points = drawn(p, 60_000, seed)[0].double()
    beyond = points.isnan().any(dim=1)
    column, row = ((points[~beyond] + HALF_M) / CELL_M).floor().long().T
    counts = np.bincount(row * CELLS + column, minlength=CELLS**2)
    probability = p.raster()[0].double().flatten().numpy()
    counts = np.append(counts, int(beyond.sum()))
    assert chi_square(counts, np.append(probability, 0.1)) > LEVEL


def test_samples_lie_anywhere_in_their_cells():
    p = within(posterior(sigma_m=(8.0, 14.0)))
    points = drawn(p, 20_000)[0]
    place = (points[~points.isnan().any(dim=1)] / CELL_M).double().numpy() % 1
    for axis in (0, 1):
        assert stats.kstest(place[:, axis], "uniform").pvalue > LEVEL


@HEATMAPS
def test_the_density_of_samples_is_on_average_as_high_as_the_integral_says(cells):
    """Its mean logarithm is the negative entropy, of all that lies within."""
    p = within(posterior(outside=0.1, seed=3, cells=cells))
    points = drawn(p, 20_000)[0]
    points = points[~points.isnan().any(dim=1)]
    found = density(p, points).log()
    whole = density(p, grid(1.0))
    exact = float((whole * whole.log()).sum() / whole.sum())
    error = float(found.std()) / len(found) ** 0.5
    assert float(found.mean()) == pytest.approx(exact, abs=4 * error + 0.01)


def test_samples_of_a_component_have_its_moments():
    """A slanted one of nearly all mass; what is spread over its block is a little of it."""
    p = posterior(count=1, seed=5)
    alone = torch.full_like(p.log_mass.flatten(1), -60.0).scatter(1, p.top[:, :1], -1e-6)
    p = within(
        replace(p, log_mass=alone.reshape(p.log_mass.shape), log_outside=torch.tensor([-60.0]))
    )
    points = drawn(p, 40_000)[0].double()
    assert not points.isnan().any()
    block_m = CELL_M * CELLS / SIDE
    corner = torch.stack([p.top[0, 0] % SIDE, p.top[0, 0] // SIDE]) * block_m - HALF_M
    spread = ((points > corner) & (points < corner + block_m)).all(dim=1)
    own = points[~spread]  # the block lies elsewhere than the component, which was moved
    assert 0.02 < float(spread.double().mean()) < 0.04
    mean, covariance = p.mean_m[0, 0].double(), p.covariance_m2[0, 0].double()
    error = covariance.diagonal().sqrt() / len(own) ** 0.5
    assert ((own.mean(dim=0) - mean).abs() < 4 * error).all()
    torch.testing.assert_close(torch.cov(own.T), covariance, rtol=0.05, atol=1.0)


def test_samples_repeat_themselves_and_each_report_has_its_own():
    p = posterior(count=3, outside=0.3)
    first, again, other = drawn(p, 4000), drawn(p, 4000), drawn(p, 4000, seed=1)
    assert first.shape == (3, 4000, 2)
    torch.testing.assert_close(first, again, equal_nan=True)
    assert not torch.equal(first.nan_to_num(), other.nan_to_num())
    share = first.isnan().any(dim=2).double().mean(dim=1)
    assert float((share - 0.3).abs().max()) < 4 * (0.21 / 4000) ** 0.5
    for i in range(3):
        alone = drawn(p[i : i + 1], 4000, seed=2)[0].nanmean(dim=0)
        together = first[i].nanmean(dim=0)
        spread = float(p[i : i + 1].point_and_spread()[1])
        assert float((alone - together).norm()) < 6 * spread / 2800**0.5


# -- points -------------------------------------------------------------------------------

WINDOW = Window(0, 0, CELLS, CELLS, CELL_M)


def expected_distance_m(mass, point):
    """Mean distance of the mass of a raster from a point in the frame."""
    y, x = np.meshgrid(WINDOW.y_centres_m, WINDOW.x_centres_m, indexing="ij")
    distance = np.hypot(x - HALF_M - point[0], y - HALF_M - point[1])
    return float((mass * distance).sum() / mass.sum())


@pytest.mark.parametrize("sigma_m", [(3.0, 6.0), (6.0, 12.0)])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_point_is_as_near_as_the_geometric_median_of_the_raster(sigma_m, seed):
    """Its expected distance is within 1%, and it lies where that one lies."""
    p = posterior(sigma_m, count=6, seed=seed, margin=3)
    found, spread = p.point_and_spread()
    rasters = p.raster().double().numpy()
    for i, mass in enumerate(rasters):
        median = np.subtract(geometric_median(mass, WINDOW), HALF_M)
        least = expected_distance_m(mass, median)
        assert expected_distance_m(mass, found[i].numpy()) < 1.01 * least
        assert np.hypot(*(found[i].numpy() - median)) < 0.15 * float(spread[i])
        east, north = (mass.sum(axis=axis) / mass.sum() for axis in (0, 1))
        variances = [
            (w * WINDOW.x_centres_m**2).sum() - (w * WINDOW.x_centres_m).sum() ** 2
            for w in (east, north)
        ]
        assert float(spread[i]) == pytest.approx(np.sqrt(sum(variances)), rel=0.02)


def test_point_and_spread_of_one_gaussian():
    """RMS distance from the mean is sqrt(2) sigma."""
    p = posterior(count=2)
    alone = torch.full_like(p.log_mass.flatten(1), -40.0)
    alone[:, 100] = np.log(0.98)
    mean = torch.tensor([[[-58.0, -24.0]], [[-58.0, -24.0]]])
    covariance = torch.tensor([64.0, 900.0])[:, None, None, None] * torch.eye(2)
    q = replace(
        p,
        log_mass=alone.reshape(p.log_mass.shape),
        top=torch.full((2, 1), 100),
        mean_m=mean,
        covariance_m2=covariance,
    )
    point, spread = q.point_and_spread()
    torch.testing.assert_close(point, mean[:, 0], atol=0.01, rtol=0)
    torch.testing.assert_close(spread, torch.tensor([8.0, 30.0]) * 2**0.5, rtol=1e-3, atol=0)


def test_some_reports_of_a_posterior_are_those_alone():
    p = posterior(count=4)
    torch.testing.assert_close(p[1:3].raster(), p.raster()[1:3])
    for found, whole in zip(p[1:3].point_and_spread(), p.point_and_spread(), strict=True):
        torch.testing.assert_close(found, whole[1:3])


# -- correction ---------------------------------------------------------------------------


@HEATMAPS
def test_no_correction_is_the_identity(cells):
    p = posterior(count=2, cells=cells)
    q = p.calibrated(1.0, 1.0)
    torch.testing.assert_close(q.log_mass, p.log_mass, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(q.log_outside, p.log_outside, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(q.covariance_m2, p.covariance_m2)
    torch.testing.assert_close(q.raster(), p.raster(), atol=1e-7, rtol=1e-4)


@HEATMAPS
@pytest.mark.parametrize(("temperature", "scale"), [(0.5, 0.25), (2.0, 4.0)])
def test_a_corrected_posterior_is_still_one(temperature, scale, cells):
    p = posterior(cells=cells)
    q = p.calibrated(temperature, scale)
    total = q.raster().double().sum() + q.log_outside.double().exp().sum()
    assert float(total) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(q.covariance_m2, p.covariance_m2 * scale)
    entropies = [-(r * r.log()).sum() for r in (p.raster(), q.raster())]
    assert (entropies[1] > entropies[0]) == (temperature > 1)


def test_each_report_has_its_own_correction():
    p = posterior(count=3)
    temperature, scale = torch.tensor([0.7, 1.0, 1.8]), torch.tensor([2.0, 1.0, 0.5])
    q = p.calibrated(temperature, scale)
    for i in range(3):
        alone = p.calibrated(float(temperature[i]), float(scale[i]))
        torch.testing.assert_close(q.log_mass[i], alone.log_mass[i])
        torch.testing.assert_close(q.log_outside[i], alone.log_outside[i])
        torch.testing.assert_close(q.covariance_m2[i], alone.covariance_m2[i])


def test_gradients_reach_the_correction():
    p = posterior(count=3)
    values = [torch.full((3,), v, requires_grad=True) for v in (1.2, 0.9)]
    p.calibrated(*values).log_density(torch.zeros(3, 2)).sum().backward()
    assert all((v.grad != 0).all() and torch.isfinite(v.grad).all() for v in values)
