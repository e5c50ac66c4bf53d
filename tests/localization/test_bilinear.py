"""Differentiable lookup of rasters."""

import numpy as np
import pytest
import torch

from ueloc_core.localization.physics import bilinear

CELL_M = 4.0
ROWS = COLUMNS = 12


def centres():
    axis = (torch.arange(COLUMNS) + 0.5 - COLUMNS / 2) * CELL_M
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y], dim=-1)


def plane(points):
    """3 + 2 x (east) - 0.5 y (north)."""
    return 3 + 2 * points[..., 0] - 0.5 * points[..., 1]


def test_pixel_centres_are_where_they_are():
    raster = torch.randn(1, 2, ROWS, COLUMNS, generator=torch.Generator().manual_seed(0))
    found = bilinear(raster, centres().reshape(1, -1, 2), CELL_M)
    torch.testing.assert_close(found, raster.flatten(2))


def test_a_plane_is_exact_and_so_is_its_gradient():
    raster = plane(centres())[None, None]
    points = (torch.rand(1, 50, 2, generator=torch.Generator().manual_seed(1)) - 0.5) * 40
    points.requires_grad_()
    found = bilinear(raster, points, CELL_M)
    torch.testing.assert_close(found[0, 0], plane(points[0]), atol=1e-4, rtol=1e-5)
    found.sum().backward()
    torch.testing.assert_close(points.grad[0], torch.tensor([2.0, -0.5]).expand(50, 2))


def test_gradient_of_a_rough_raster_is_that_of_differences():
    generator = torch.Generator().manual_seed(2)
    raster = torch.randn(1, 1, ROWS, COLUMNS, generator=generator, dtype=torch.float64)
    points = (torch.rand(1, 20, 2, generator=generator, dtype=torch.float64) - 0.5) * 40
    assert torch.autograd.gradcheck(
        lambda p: bilinear(raster, p, CELL_M), points.requires_grad_(), eps=1e-5
    )


def test_beyond_the_outer_centres_the_edge_goes_on():
    raster = plane(centres())[None, None]
    far = torch.tensor([[[1e3, 0.0], [0.0, -1e3], [-1e3, 1e3]]])
    edge = (COLUMNS / 2 - 0.5) * CELL_M
    clamped = torch.tensor([[[edge, 0.0], [0.0, -edge], [-edge, edge]]])
    torch.testing.assert_close(bilinear(raster, far, CELL_M), bilinear(raster, clamped, CELL_M))


def test_rows_go_north_and_columns_east():
    raster = torch.zeros(1, 1, ROWS, COLUMNS)
    raster[0, 0, 10, 2] = 1.0  # north-west
    place = torch.tensor([[[(2.5 - 6) * CELL_M, (10.5 - 6) * CELL_M]]])
    assert float(bilinear(raster, place, CELL_M)) == 1
    assert float(bilinear(raster, place.flip(-1), CELL_M)) == 0


def test_unknown_neighbours_of_no_weight_do_not_leak():
    raster = torch.ones(1, 1, ROWS, COLUMNS)
    raster[0, 0, 6, 6] = torch.nan
    at = centres()
    assert float(bilinear(raster, at[6, 5].reshape(1, 1, 2), CELL_M)) == 1
    assert float(bilinear(raster, at[5, 6].reshape(1, 1, 2), CELL_M)) == 1
    beside = ((at[6, 5] + at[6, 6]) / 2).reshape(1, 1, 2)
    assert bilinear(raster, beside, CELL_M).isnan()
    assert bilinear(raster, at[6, 6].reshape(1, 1, 2), CELL_M).isnan()


def test_gradients_stay_finite_beside_the_unknown():
    raster = torch.ones(1, 1, ROWS, COLUMNS)
    raster[0, 0, 6, 6] = torch.nan
    points = centres()[6, 5].reshape(1, 1, 2).clone().requires_grad_()
    bilinear(raster, points, CELL_M).nansum().backward()
    assert torch.isfinite(points.grad).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (7, 2)])
def test_any_size(shape):
    raster = torch.arange(np.prod(shape), dtype=torch.float32).reshape(1, 1, *shape)
    rows, columns = shape
    points = torch.tensor(
        [[(c + 0.5 - columns / 2, r + 0.5 - rows / 2) for r in range(rows) for c in range(columns)]]
    )
    found = bilinear(raster, points * CELL_M, CELL_M)
    torch.testing.assert_close(found.flatten(), raster.flatten())
