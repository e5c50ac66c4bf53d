"""The posterior of a position: a coarse heatmap whose densest blocks are Gaussians and cells.

``p(y) = sum_k h_k (1 - s_k) N(y; mu_k, Sigma_k) + rest``: the ``K`` most likely blocks become
Gaussian components with full covariance; a share of their mass stays where the fine heatmap has
it, cell by cell, and a little, like all other blocks' mass, is spread over the outdoor ground of
the block; a last share lies beyond the window. No place has zero density.
"""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

EVEN_SHARE = 0.03
"""Share of a component's mass that is spread over its block's outdoor ground."""

_NONE = torch.zeros(0)
_REACH_CELLS = 12  # a component's mass is put on the grid this far around its mean
_POINT_PARTS, _POINT_STEPS = 96, 24  # of the search for a point
_OUTDOOR_FLOOR = 1e-3  # an indoor grid cell holds this much of an outdoor one's mass


@dataclass(frozen=True)
class Posterior:
    """Posteriors of n reports in their windows' frames.

    Attributes
    ----------
    log_mass
        Log-mass of each block, shape (report, side, side); row 0 in the south.
    log_outside
        Log-mass beyond the window, shape (report,).
    top
        Flat index of the blocks that are components, shape (report, component).
    mean_m, covariance_m2
        Components, shapes (report, component, 2) and (report, component, 2, 2).
    outdoor
        Where terminals can stand, shape (report, n, n) in grid cells.
    outside_m2
        Outdoor area beyond the window [m2], shape (report,).
    cell_m
        Side of a grid cell [m].
    heatmap
        Share of a component's mass that each grid cell of its block holds beside the Gaussian,
        shape (report, component, cell); 0 by default: Gaussians alone.
    """

    log_mass: Tensor
    log_outside: Tensor
    top: Tensor
    mean_m: Tensor
    covariance_m2: Tensor
    outdoor: Tensor
    outside_m2: Tensor
    cell_m: float
    heatmap: Tensor = _NONE

    def __post_init__(self) -> None:
        if not self.heatmap.numel():
            cells = (self.outdoor.shape[-1] // self.log_mass.shape[-1]) ** 2
            nothing = self.mean_m.new_zeros(*self.top.shape, cells)
            object.__setattr__(self, "heatmap", nothing)

    @property
    def weights(self) -> Tensor:
        """Mass of the components' blocks, shape (report, component)."""
        return self.log_mass.flatten(1).gather(1, self.top).exp()

    def calibrated(
        self, temperature: float | Tensor, covariance_scale: float | Tensor
    ) -> "Posterior":
        """The posterior with corrected masses and covariances.

        Parameters
        ----------
        temperature
            Divides the logarithm of the blocks' masses; one number, or shape (report,).
        covariance_scale
            Multiplies the components' covariances; one number, or shape (report,).
        """
        flat = torch.cat([self.log_mass.flatten(1), self.log_outside[:, None]], dim=1)
        heat, scale = (
            torch.as_tensor(v, dtype=flat.dtype, device=flat.device).reshape(-1, 1)
            for v in (temperature, covariance_scale)
        )
        flat = torch.log_softmax(flat / heat, dim=1)
        return Posterior(
            log_mass=flat[:, :-1].reshape(self.log_mass.shape),
            log_outside=flat[:, -1],
            top=self.top,
            mean_m=self.mean_m,
            covariance_m2=self.covariance_m2 * scale[:, :, None, None],
            outdoor=self.outdoor,
            outside_m2=self.outside_m2,
            cell_m=self.cell_m,
            heatmap=self.heatmap,
        )

    def log_density(self, points_m: Tensor) -> Tensor:
        """Log-density [nats, 1/m2] at points in the frame, shape (report, 2); may lie outside."""
        side = self.log_mass.shape[-1]
        block_m = self.cell_m * self.outdoor.shape[-1] / side
        half_m = side * block_m / 2
        inside = (points_m.abs() < half_m).all(dim=1)
        cell = ((points_m + half_m) / self.cell_m).floor().long()
        cell = cell.clamp(0, self.outdoor.shape[-1] - 1)
        spread = self._spread_at(cell) / self.cell_m**2
        components = (self._gaussians(points_m[:, None]) + self._log_weights()[:, None]).logsumexp(
            dim=(1, 2)
        )
        density = torch.logaddexp(components, spread.clamp_min(1e-30).log())
        beyond = self.log_outside - self.outside_m2.to(points_m.dtype).log()
        return torch.where(inside, density, torch.logaddexp(beyond, components))

    def sample(self, generator: torch.Generator, count: int) -> Tensor:
        """Points [m] drawn from each posterior, shape (report, count, 2).

        NaN where the terminal is beyond the window: it is not said where. A component reaches
        over the window's edge, as in `log_density`.

        Parameters
        ----------
        generator
            Source of all draws, on the device of the posterior.
        count
            How many of each.
        """
        side, n = self.log_mass.shape[-1], self.outdoor.shape[-1]
        block = n // side
        mass = torch.cat([self.log_mass.flatten(1), self.log_outside[:, None]], dim=1).exp()
        drawn = torch.multinomial(mass, count, replacement=True, generator=generator)
        beyond = drawn == side**2
        drawn = drawn.clamp_max(side**2 - 1)
        shape = (*drawn.shape, 2)

        def uniform(size: tuple[int, ...]) -> Tensor:
            return torch.rand(size, generator=generator, device=mass.device, dtype=mass.dtype)

        # by the heatmap of its block
        share = self._shares()
        rows = torch.arange(len(drawn), device=drawn.device)[:, None]
        edge = share[rows, drawn].cumsum(dim=2)
        inner = (edge <= edge[..., -1:] * uniform((*drawn.shape, 1))).sum(dim=2)
        inner = inner.clamp_max(block**2 - 1)
        column = drawn % side * block + inner % block
        row = drawn // side * block + inner // block
        point = (torch.stack([column, row], dim=2) + uniform(shape) - n / 2) * self.cell_m
        # or in its component
        of_block = torch.full_like(self.log_mass.flatten(1), -1, dtype=torch.long)
        index = torch.arange(self.top.shape[1], device=drawn.device).expand_as(self.top)
        component = of_block.scatter(1, self.top, index).gather(1, drawn)
        normal = torch.randn(shape, generator=generator, device=mass.device, dtype=mass.dtype)
        chosen = component.clamp_min(0)
        root = torch.linalg.cholesky(self.covariance_m2)[rows, chosen]
        around = self.mean_m[rows, chosen] + (root @ normal[..., None])[..., 0]
        wide = 1 - EVEN_SHARE - self.heatmap.sum(dim=2)[rows, chosen]
        narrow = (component >= 0) & (uniform(drawn.shape) < wide)
        point = torch.where(narrow[..., None], around, point)
        return torch.where(beyond[..., None], torch.nan, point)

    def raster(self) -> Tensor:
        """Mass of each grid cell of the window, shape (report, n, n); sums to 1 - outside."""
        n, count = self.outdoor.shape[-1], len(self.mean_m)
        reach = torch.arange(-_REACH_CELLS, _REACH_CELLS + 1, device=self.mean_m.device)
        dy, dx = (v.reshape(-1) for v in torch.meshgrid(reach, reach, indexing="ij"))
        nearest = (self.mean_m / self.cell_m + n / 2).floor().long()  # (report, component, 2)
        column = nearest[..., 0, None] + dx
        row = nearest[..., 1, None] + dy
        points = (torch.stack([column, row], dim=-1) + 0.5 - n / 2) * self.cell_m
        inside = (column >= 0) & (column < n) & (row >= 0) & (row < n)
        log_density = self._log_gaussian(points, self.covariance_m2[:, :, None])
        share = torch.softmax(torch.where(inside, log_density, -torch.inf), dim=2)
        mass = share * self._log_weights().exp()[..., None]
        flat = (row.clamp(0, n - 1) * n + column.clamp(0, n - 1)).flatten(1)
        components = torch.zeros(count, n * n, device=mass.device).scatter_add(
            1, flat, mass.flatten(1)
        )
        return self._spread() + components.reshape(-1, n, n)

    def point_and_spread(self) -> tuple[Tensor, Tensor]:
        """The point of least expected distance [m], (report, 2), and RMS distance from the mean.

        The expected distance from a part of the mass is taken as ``sqrt(d^2 + v)``, d the distance
        of the part's mean and v half its variance, which is within 4% for a Gaussian wherever the
        point lies; the parts are the components and the heaviest other blocks. Weiszfeld's
        iteration, all reports at once. The spread, shape (report,), counts all blocks.
        """
        weight, place, variance = self._parts()
        near = weight.topk(min(_POINT_PARTS, weight.shape[1]), dim=1).indices
        w, v = weight.gather(1, near), variance.gather(1, near)
        p = place.gather(1, near[..., None].expand(-1, -1, 2))
        point = (w[..., None] * p).sum(dim=1) / w.sum(dim=1, keepdim=True)
        for _ in range(_POINT_STEPS):
            distance = ((p - point[:, None]).square().sum(dim=2) + v / 2).sqrt()
            pull = w / distance
            point = (pull[..., None] * p).sum(dim=1) / pull.sum(dim=1, keepdim=True)
        share = weight / weight.sum(dim=1, keepdim=True)
        mean = (share[..., None] * place).sum(dim=1, keepdim=True)
        spread = (share * ((place - mean).square().sum(dim=2) + variance)).sum(dim=1).sqrt()
        return point, spread

    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mass, mean [m] and total variance [m2] of all blocks, shape (report, block, ...)."""
        side = self.log_mass.shape[-1]
        block_m = self.cell_m * self.outdoor.shape[-1] / side
        axis = (torch.arange(side, device=self.mean_m.device) + 0.5 - side / 2) * block_m
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        centre = torch.stack([x, y], dim=-1).reshape(1, -1, 2).expand(len(self.mean_m), -1, -1)
        variance = torch.full(centre.shape[:2], block_m**2 / 6, device=centre.device)
        own = self.covariance_m2[..., 0, 0] + self.covariance_m2[..., 1, 1]
        top = self.top[..., None].expand(-1, -1, 2)
        return (
            self.log_mass.flatten(1).exp(),
            centre.scatter(1, top, self.mean_m),
            variance.scatter(1, self.top, own),
        )

    def __getitem__(self, chosen: slice) -> "Posterior":
        """Some of the reports."""
        names = [f.name for f in fields(self) if f.name != "cell_m"]
        return Posterior(**{n: getattr(self, n)[chosen] for n in names}, cell_m=self.cell_m)

    def _log_gaussian(self, points_m: Tensor, covariance_m2: Tensor) -> Tensor:
        """Log-density of each component at its own points, shape (report, component, point)."""
        return _log_normal(points_m - self.mean_m[:, :, None], covariance_m2)

    def _log_weights(self) -> Tensor:
        wide = 1 - EVEN_SHARE - self.heatmap.sum(dim=2)
        return wide.log() + self.log_mass.flatten(1).gather(1, self.top)

    def _shares(self) -> Tensor:
        """Share of a block's mass that each of its cells holds beside a Gaussian.

        Shape (report, block, cell); a block that is no component has all of its mass there.
        """
        side, block = self.log_mass.shape[-1], self._block
        even = self.outdoor.to(self.log_mass.dtype).clamp_min(_OUTDOOR_FLOOR)
        even = even.reshape(-1, side, block, side, block).transpose(2, 3)
        even = even.reshape(-1, side**2, block**2)
        even = even / even.sum(dim=2, keepdim=True)
        top = self.top[..., None].expand_as(self.heatmap)
        own = self.heatmap.to(even.dtype) + EVEN_SHARE * even.gather(1, top)
        return even.scatter(1, top, own)

    @property
    def _block(self) -> int:
        """Side of a block in grid cells."""
        return self.outdoor.shape[-1] // self.log_mass.shape[-1]

    def _spread_at(self, cell: Tensor) -> Tensor:
        """`_spread` at one grid cell (column, row) a report, shape (report,)."""
        side, block = self.log_mass.shape[-1], self._block
        rows = torch.arange(len(cell), device=cell.device)
        corner, inner = cell // block, cell % block
        flat = corner[:, 1] * side + corner[:, 0]
        place = inner[:, 1] * block + inner[:, 0]
        at = torch.arange(block, device=cell.device)
        patch = self.outdoor[
            rows[:, None, None],
            (corner[:, 1, None] * block + at)[:, :, None],
            (corner[:, 0, None] * block + at)[:, None, :],
        ]
        even = patch.to(self.log_mass.dtype).clamp_min(_OUTDOOR_FLOOR).flatten(1)
        even = even[rows, place] / even.sum(dim=1)
        is_component = self.top == flat[:, None]
        index = is_component.int().argmax(dim=1)
        own = self.heatmap[rows, index, place].to(even.dtype) + EVEN_SHARE * even
        mass = self.log_mass.flatten(1)[rows, flat].exp()
        return mass * torch.where(is_component.any(dim=1), own, even)

    def _spread(self) -> Tensor:
        """Mass of each grid cell that is not in a Gaussian, shape (report, n, n)."""
        side, n, block = self.log_mass.shape[-1], self.outdoor.shape[-1], self._block
        found = self.log_mass.exp().flatten(1)[..., None] * self._shares()
        found = found.reshape(-1, side, side, block, block)
        return found.transpose(2, 3).reshape(-1, n, n)

    def _gaussians(self, points_m: Tensor) -> Tensor:
        """Log-density of all components at points, shape (report, point, component)."""
        return _log_normal(points_m[:, :, None] - self.mean_m[:, None], self.covariance_m2[:, None])


def _log_normal(delta_m: Tensor, covariance_m2: Tensor) -> Tensor:
    """Log-density of a centred bivariate normal at offsets (..., 2), covariances (..., 2, 2)."""
    a, b = covariance_m2[..., 0, 0], covariance_m2[..., 0, 1]
    d = covariance_m2[..., 1, 1]
    determinant = a * d - b * b
    dx, dy = delta_m[..., 0], delta_m[..., 1]
    distance = (d * dx**2 - 2 * b * dx * dy + a * dy**2) / determinant
    return -0.5 * distance - 0.5 * determinant.log() - math.log(2 * math.pi)
