"""What the network is built of: the measurement encoder and the map encoder."""

import torch
from torch import Tensor, nn

from ueloc_core.grid import BLOCK_CELLS
from ueloc_core.localization.block_grid import take
from ueloc_core.localization.level_evidence import Pairs
from ueloc_core.localization.windows import TOKEN_FEATURES, WindowBatch

TOKEN_WIDTH = 64
"""Width of the measurement encoder."""

CONTEXT_PLANES = 12
"""Number of planes that `context_planes` gives."""

HALF = 2
"""Blocks a side of a cell of the map encoder."""

_HEADS = 4
_LAYERS = 2
_RESIDUAL_FEATURES = 5
_QUERY_CELLS = 2  # cells a side of one query of the cross-attention


def context_planes(
    batch: WindowBatch, logit: Tensor, prior: Tensor, ground: Tensor, inputs: str
) -> Tensor:
    """Context of blocks: ground, geometry, serving sector, Bayes; shape (report, plane, block).

    Parameters
    ----------
    batch
        The windows.
    logit, prior
        Log-mass of the blocks with and without the report, shape (report, block).
    ground
        Rows of the ground's tables, shape (report, block).
    inputs
        What may be seen, as of the network; what may not is 0.
    """
    side = batch.blocks
    axis = torch.linspace(-1, 1, side, device=logit.device)
    y, x = (v.reshape(-1) for v in torch.meshgrid(axis, axis, indexing="ij"))
    maps, serving = batch.maps, batch.reports.sector[:, 0]
    half_m = side * BLOCK_CELLS * maps.grid.cell_m / 2
    middle = batch.corner.flip(1) + side / 2  # (column, row)
    site = (
        maps.serving.position_m[serving]
        - (middle - maps.grid.ground_corner) * BLOCK_CELLS * maps.grid.cell_m
    )
    site = site / half_m
    dx, dy = x - site[:, :1], y - site[:, 1:]
    distance = torch.sqrt(dx**2 + dy**2 + 1e-4)
    azimuth = maps.serving.azimuth_rad[serving][:, None]
    cosine = (dx * torch.sin(azimuth) + dy * torch.cos(azimuth)) / distance
    zero = torch.zeros_like(logit)
    planes = [distance, distance.log(), cosine]
    if inputs == "no_maps":
        planes += [zero] * (CONTEXT_PLANES - len(planes))
        return torch.stack(planes, dim=1)
    own = maps.grid.square_rows(serving, batch.corner, side)
    strongest = take(maps.levels.strongest_dbm, ground)
    mapped = take(maps.levels.block_mean_dbm, own)
    best = logit - logit.amax(dim=1, keepdim=True)
    planes += [
        prior.clamp_min(-3.0) / 3,
        take(maps.height_m, ground) / 30,
        (mapped + 95) / 20,
        take(maps.serving.block_sight, own),
        (strongest - mapped).clamp(-5, 30) / 10,
        ((batch.ceilings_dbm[:, :1] - strongest) / 10).clamp(-8, 8) / 4,
        best.clamp_min(-15.0) / 5 if inputs == "all" else zero,
        torch.exp(best) if inputs == "all" else zero,
        torch.exp(best / 4) if inputs == "all" else zero,
    ]
    return torch.stack(planes, dim=1)


class MeasurementEncoder(nn.Module):
    """A transformer over the slots of a report; equivariant to their order."""

    def __init__(self) -> None:
        super().__init__()
        self.inward = nn.Linear(TOKEN_FEATURES, TOKEN_WIDTH)
        layer = nn.TransformerEncoderLayer(
            TOKEN_WIDTH, _HEADS, 2 * TOKEN_WIDTH, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, _LAYERS, enable_nested_tensor=False)

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """From (report, slot, feature) to (report, slot, `TOKEN_WIDTH`), 0 in empty slots."""
        out: Tensor = self.layers(self.inward(tokens), src_key_padding_mask=~present)
        return torch.where(present[..., None], out, 0.0)


class ResidualEncoder(nn.Module):
    """Reported less mapped level of every heard sector at every place, encoded and summed."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inward = nn.Linear(_RESIDUAL_FEATURES, channels)
        self.condition = nn.Linear(TOKEN_WIDTH, 2 * channels)
        self.outward = nn.Conv2d(channels, channels, 1)

    def forward(self, batch: WindowBatch, tokens: Tensor, pairs: Pairs, rows: Tensor) -> Tensor:
        """Shape (report, channel, side, side) of the trunk; read at every fourth block."""
        side, step = batch.blocks, HALF**2
        grid = rows.reshape(-1, side, side)[:, ::step, ::step].flatten(1)
        maps, at = batch.maps.levels, (pairs.report, pairs.slot)
        level = batch.reports.level_dbm.nan_to_num(0.0)[at]
        mapped, spread = (take(v, grid) for v in (maps.block_mean_dbm, maps.block_spread_db))
        difference = ((level[:, None] - mapped) / 10).clamp(-6, 6)
        features = torch.stack(
            [
                difference,
                difference.abs(),
                torch.log1p((10 * difference / spread) ** 2),
                spread / 8,
                (mapped + 95) / 20,
            ],
            dim=-1,
        )
        scale, shift = self.condition(tokens[at])[:, None].chunk(2, dim=-1)
        hidden = nn.functional.relu(self.inward(features) * (1 + scale) + shift)
        total = hidden.new_zeros(len(batch), *hidden.shape[1:])
        total = total.index_add(0, pairs.report, hidden) / 4
        total = total.transpose(1, 2).reshape(len(batch), -1, -(-side // step), -(-side // step))
        found: Tensor = self.outward(total)
        return nn.functional.interpolate(found, size=(side // HALF, side // HALF))


class MapAttention(nn.Module):
    """Groups of trunk cells attend to the measurement tokens."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attention = nn.MultiheadAttention(
            channels, _HEADS, kdim=TOKEN_WIDTH, vdim=TOKEN_WIDTH, batch_first=True
        )

    def forward(self, features: Tensor, tokens: Tensor, present: Tensor) -> Tensor:
        """Features (report, channel, side, side) with what they took from the tokens."""
        pooled = nn.functional.avg_pool2d(features, _QUERY_CELLS, ceil_mode=True)
        query = self.norm(pooled.flatten(2).transpose(1, 2))
        answer, _ = self.attention(query, tokens, tokens, key_padding_mask=~present)
        answer = answer.transpose(1, 2).reshape(pooled.shape)
        return features + nn.functional.interpolate(answer, size=features.shape[-2:])


class ConvolutionBlock(nn.Module):
    """Two convolutions around which the features pass by."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Features of the same shape."""
        hidden = nn.functional.gelu(self.first(self.norm(features)))
        return features + self.second(hidden)  # type: ignore[no-any-return]


def pooled_planes(planes: Tensor) -> Tensor:
    """Means of 2 x 2 pixels: on a CPU faster than the general pooling."""
    west, east = planes[..., ::2], planes[..., 1::2]
    both = west + east
    return (both[..., ::2, :] + both[..., 1::2, :]) / 4


def masked_mean(tokens: Tensor, present: Tensor) -> Tensor:
    """Mean over the slots that hold a sector, shape (report, feature)."""
    total = (tokens * present[..., None]).sum(dim=1)
    return total / present.sum(dim=1, keepdim=True).clamp_min(1)
