"""The map-conditioned network: measurements and maps in, a Gaussian-mixture posterior out.

Two encoders meet. The measurement encoder is a transformer over the report's slots; without
positions along the sequence, so the order of neighbours never matters. The map encoder sees,
per reported sector, the difference between reported and mapped level at every grid cell and
sums over sectors what its kernels, set by the sector's token, make of it: a learned
log-likelihood. The serving sector's timing, angle and beams come as one raster of their
log-likelihood under the measurement model, whatever of them is reported. Coarse: blocks of the
window attend to the measurement tokens and get a heatmap. Fine: the densest blocks are read again
at full resolution, through a wider evidence network, and become Gaussians with full covariance.
Every layer takes any number of sectors and any window size.
"""

import math

import torch
from torch import Tensor, nn

from ueloc_core.grid import BLOCK_CELLS
from ueloc_core.localization.posterior import Posterior
from ueloc_core.localization.windows import TOKEN_FEATURES, WindowBatch

_TOKEN_WIDTH = 64
_HEADS = 4
_LAYERS = 2
_EVIDENCE_FEATURES = 7
_KERNELS = 2
_SHIFTS = 5
_SHIFT_REACH, _SHIFT_SIGMA = 0.7, 0.35  # of the common shifts, in units of 10 dB
_SILENCE_START = 0.5  # weight of the unreported sectors' evidence before anything is learned
_CONTEXT_FEATURES = 9
_HALF = 2
_TRUNK_STRIDE = 4  # half-resolution cells a side of one cell of the trunk
_QUERY_CELLS = 2  # trunk cells a side of one query of the cross-attention
_NOTHING_LOG = -12.0


class PosteriorNetwork(nn.Module):
    """From a `WindowBatch` to a `Posterior`.

    Parameters
    ----------
    channels
        Width of the map encoder.
    components
        Number of Gaussian components K.
    cell_m
        Side of a grid cell [m].
    """

    def __init__(self, channels: int, components: int, cell_m: float) -> None:
        super().__init__()
        self.components = components
        self.cell_m = cell_m
        self.measurements = _MeasurementEncoder()
        self.kernels = _SectorKernels()
        self.context = nn.Conv2d(_KERNELS + 1 + _CONTEXT_FEATURES, channels, 1)
        self.local_logit = nn.Conv2d(channels, 1, 1)
        self.evidence = _SectorEvidence(channels)
        self.down = nn.Conv2d(channels, channels, _TRUNK_STRIDE, stride=_TRUNK_STRIDE)
        self.attention = _MapAttention(channels)
        self.blocks = nn.ModuleList(_Residual(channels) for _ in range(2))
        self.correction = nn.Conv2d(channels, 1, 1)
        self.outside = nn.Sequential(nn.Linear(_TOKEN_WIDTH, 32), nn.GELU(), nn.Linear(32, 1))
        self.fine_logit = nn.Linear(channels, 1)
        self.serving_weight = nn.Parameter(torch.ones(2))  # coarse, fine: starts as Bayes' rule
        self.fine_block = nn.Sequential(nn.Linear(channels + 2, 32), nn.GELU(), nn.Linear(32, 2))
        _zero(self.correction)
        _zero(self.fine_block[-1])

    def forward(self, batch: WindowBatch) -> tuple[Posterior, Tensor]:
        """The posterior, and the coarse log-mass before the fine stage, (report, blocks + 1).

        The last entry of the coarse log-mass is the mass beyond the window.
        """
        tokens = self.measurements(batch.tokens, batch.present)
        coarse, features = self._coarse(batch, tokens)
        pooled = _masked_mean(tokens, batch.present)
        outside = self.outside(pooled) - 4.0 + coarse.logsumexp(dim=1, keepdim=True)
        coarse_mass = torch.log_softmax(torch.cat([coarse, outside], dim=1), dim=1)
        side = math.isqrt(coarse.shape[1])
        top = coarse.detach().topk(min(self.components, coarse.shape[1]), dim=1).indices
        shift, mean, covariance = self._fine(batch, tokens, features, top, side)
        refined = coarse_mass[:, :-1].scatter_add(1, top, shift.to(coarse_mass.dtype))
        log_mass = torch.log_softmax(torch.cat([refined, coarse_mass[:, -1:]], dim=1), dim=1)
        posterior = Posterior(
            log_mass=log_mass[:, :-1].reshape(-1, side, side),
            log_outside=log_mass[:, -1],
            top=top,
            mean_m=mean,
            covariance_m2=covariance,
            outdoor=batch.outdoor,
            outside_m2=batch.outside_m2,
            cell_m=self.cell_m,
        )
        return posterior, coarse_mass

    def _coarse(self, batch: WindowBatch, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logit of each block (report, block) and trunk features (report, channel, side, side)."""
        kernels = self.kernels(batch, tokens)
        outdoor = nn.functional.avg_pool2d(batch.outdoor[:, None].float(), _HALF)
        context = torch.cat([kernels, _context(batch, outdoor)], dim=1)
        local = nn.functional.gelu(self.context(context))
        start = kernels.sum(dim=1, keepdim=True) + _SILENCE_START * batch.half_silence[:, None]
        logit = start + self.local_logit(local)
        told = nn.functional.avg_pool2d(batch.evidence[:, None], _HALF)
        logit = logit + self.serving_weight[0] * told
        logit = logit + outdoor.clamp_min(math.exp(_NOTHING_LOG)).log()
        features = nn.functional.gelu(self.down(local))
        features = self.attention(features, tokens, batch.present)
        for block in self.blocks:
            features = block(features)
        per_block = nn.functional.pixel_unshuffle(logit, _HALF).logsumexp(dim=1, keepdim=True)
        correction = nn.functional.interpolate(
            self.correction(features), scale_factor=_TRUNK_STRIDE // _HALF, mode="bilinear"
        )
        return (per_block + correction).flatten(1), features

    def _fine(
        self, batch: WindowBatch, tokens: Tensor, features: Tensor, top: Tensor, side: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Change of log-mass, mean [m] and covariance [m2] of the chosen blocks."""
        row, column = top // side, top % side
        level, error = (_patches(v, row, column) for v in (batch.rsrp_dbm, batch.se_db))
        evidence = self.evidence(
            batch.level_dbm[:, :, None, None].expand_as(level), level, error, tokens, batch.present
        )  # (report, block, cell, channel)
        open_land = _patches(batch.outdoor[:, None].float(), row, column)[:, 0]
        told = _patches(batch.evidence[:, None], row, column)[:, 0]
        logit = self.fine_logit(evidence)[..., 0] + self.serving_weight[1] * told
        logit = logit + open_land.clamp_min(1e-4).log()
        weight = torch.softmax(logit, dim=2)
        place = self._cell_centres(row, column, side)
        mean = (weight[..., None] * place).sum(dim=2)
        delta = place - mean[:, :, None]
        spread = torch.einsum("bkp,bkpi,bkpj->bkij", weight, delta, delta)
        ratio = _TRUNK_STRIDE // _HALF
        report = torch.arange(len(top), device=top.device)[:, None]
        at_block = features[report, :, row // ratio, column // ratio]
        summary = torch.stack([logit.logsumexp(dim=2) / 5, weight.amax(dim=2)], dim=2)
        change = self.fine_block(torch.cat([at_block, summary], dim=2))
        pixel = self.cell_m**2 / 12 * 2 * torch.exp(change[..., 1].clamp(-3, 5))
        covariance = spread + pixel[..., None, None] * torch.eye(2, device=spread.device)
        return change[..., 0], mean, covariance

    def _cell_centres(self, row: Tensor, column: Tensor, side: int) -> Tensor:
        """Centres [m] of the grid cells of blocks, shape (report, block, cell, 2)."""
        inner = torch.arange(BLOCK_CELLS, device=row.device) + 0.5
        dy, dx = torch.meshgrid(inner, inner, indexing="ij")
        x = column[..., None] * BLOCK_CELLS + dx.reshape(-1)
        y = row[..., None] * BLOCK_CELLS + dy.reshape(-1)
        return (torch.stack([x, y], dim=-1) - side * BLOCK_CELLS / 2) * self.cell_m


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class _MeasurementEncoder(nn.Module):
    """A transformer over the slots of a report; equivariant to their order."""

    def __init__(self) -> None:
        super().__init__()
        self.inward = nn.Linear(TOKEN_FEATURES, _TOKEN_WIDTH)
        layer = nn.TransformerEncoderLayer(
            _TOKEN_WIDTH, _HEADS, 2 * _TOKEN_WIDTH, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, _LAYERS, enable_nested_tensor=False)

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        out: Tensor = self.layers(self.inward(tokens), src_key_padding_mask=~present)
        return torch.where(present[..., None], out, 0.0)


class _SectorKernels(nn.Module):
    """Heavy-tailed kernels of the level difference, set by each sector's token.

    Channel k is ``log sum_j v_j exp(-sum_s w_sk log(1 + ((d_s - c_j - b_sk) / a_sk)^2))`` over the
    sectors s that a ray reaches, d the reported minus the mapped level in units of 10 dB: a
    learned likelihood in which what all levels share (the terminal's gain offset, common
    shadowing) is summed out over a few shifts c_j, as the measurement model does. A last channel
    sums a penalty over the sectors that no ray reaches.
    """

    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.condition = nn.Linear(_TOKEN_WIDTH, 3 * _KERNELS + 1)
        nn.init.normal_(self.condition.weight, std=0.02)
        width = torch.linspace(-1.2, 0.6, _KERNELS)
        start = torch.cat([torch.full((_KERNELS,), -0.5), torch.zeros(_KERNELS), width])
        with torch.no_grad():
            self.condition.bias.copy_(torch.cat([start, torch.tensor([0.5])]))
        shift = torch.linspace(-1.0, 1.0, _SHIFTS)
        self.spacing = nn.Parameter(torch.tensor(_SHIFT_REACH))  # in units of 10 dB
        self.register_buffer("shift", shift, persistent=False)
        self.shift_logit = nn.Parameter(-0.5 * (shift * _SHIFT_REACH / _SHIFT_SIGMA) ** 2)

    def forward(self, batch: WindowBatch, tokens: Tensor) -> Tensor:
        mapped = batch.half_rsrp_dbm
        hit = ~mapped.isnan()
        difference = (batch.level_dbm[:, :, None, None] - mapped.nan_to_num(0.0)) / 10
        known = hit & batch.present[:, :, None, None]
        parameters = self.condition(tokens)[..., None, None].unbind(dim=2)
        log_weight = torch.log_softmax(self.shift_logit, dim=0)
        channels = []
        for k in range(_KERNELS):
            weight = torch.where(known, nn.functional.softplus(parameters[k]), 0.0)
            inverse = torch.exp(-parameters[2 * _KERNELS + k])
            scaled = (difference - parameters[_KERNELS + k]) * inverse
            terms = [
                log_weight[j] - (torch.log1p((scaled - shift * inverse) ** 2) * weight).sum(dim=1)
                for j, shift in enumerate(self.shift * self.spacing)
            ]
            channels.append(torch.stack(terms).logsumexp(dim=0))
        unknown = ~hit & batch.present[:, :, None, None]
        penalty = nn.functional.softplus(parameters[-1])
        channels.append(-torch.where(unknown, penalty, 0.0).sum(dim=1))
        return torch.stack(channels, dim=1)


class _SectorEvidence(nn.Module):
    """Pointwise evidence of each sector, conditioned on its token, summed over sectors."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inward = nn.Linear(_EVIDENCE_FEATURES, channels)
        self.condition = nn.Linear(_TOKEN_WIDTH, 2 * channels)
        # nonlinear after the sum: what the levels share shows in the sums of powers alone
        self.outward = nn.Sequential(
            nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels)
        )

    def forward(
        self, reported: Tensor, mapped: Tensor, se: Tensor, tokens: Tensor, present: Tensor
    ) -> Tensor:
        """Evidence of shape (report, ..., channel) from levels of shape (report, slot, ...)."""
        hit = ~mapped.isnan()
        difference = torch.where(hit, (reported - mapped.nan_to_num(0.0)) / 10, 0.0)
        features = torch.stack(
            [
                difference,
                difference.clamp_min(0.0),
                torch.log1p(difference**2),
                torch.log1p(4 * difference**2),
                hit.float(),
                torch.where(hit, se.nan_to_num(4.34), 0.0) / 4,
                torch.where(hit, (mapped.nan_to_num(0.0) + 95) / 20, 0.0),
            ],
            dim=-1,
        )
        scale, shift = self.condition(tokens)[:, :, None, None].chunk(2, dim=-1)
        hidden = nn.functional.relu(self.inward(features) * (1 + scale) + shift)
        hidden = torch.where(present[:, :, None, None, None], hidden, 0.0).sum(dim=1)
        return self.outward(hidden)  # type: ignore[no-any-return]


class _MapAttention(nn.Module):
    """Groups of trunk cells attend to the measurement tokens."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attention = nn.MultiheadAttention(
            channels, _HEADS, kdim=_TOKEN_WIDTH, vdim=_TOKEN_WIDTH, batch_first=True
        )

    def forward(self, features: Tensor, tokens: Tensor, present: Tensor) -> Tensor:
        pooled = nn.functional.avg_pool2d(features, _QUERY_CELLS, ceil_mode=True)
        query = self.norm(pooled.flatten(2).transpose(1, 2))
        answer, _ = self.attention(query, tokens, tokens, key_padding_mask=~present)
        answer = answer.transpose(1, 2).reshape(pooled.shape)
        return features + nn.functional.interpolate(answer, size=features.shape[-2:])


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        hidden = nn.functional.gelu(self.first(self.norm(features)))
        return features + self.second(hidden)  # type: ignore[no-any-return]


def _context(batch: WindowBatch, outdoor: Tensor) -> Tensor:
    """Context channels (report, channel, n/2, n/2): ground, unreported sectors, geometry."""
    count, _, rows, columns = outdoor.shape
    gap = (batch.half_unheard_dbm - batch.ceiling_dbm[:, None, None]) / 10
    axis = torch.linspace(-1, 1, rows, device=outdoor.device)
    y, x = torch.meshgrid(axis, axis[:columns], indexing="ij")
    site = batch.tokens[:, 0, 9:11]
    dx, dy = x - site[:, 0, None, None], y - site[:, 1, None, None]
    distance = torch.sqrt(dx**2 + dy**2 + 1e-4)
    bore = batch.tokens[:, 0, 12:14]
    cosine = (dx * bore[:, 0, None, None] + dy * bore[:, 1, None, None]) / distance
    channels = [
        outdoor[:, 0],
        batch.half_height_m / 30,
        nn.functional.softplus(gap.clamp(-12, 8)),
        batch.half_silence,
        (gap > 0).float(),
        distance,
        distance.log(),
        cosine,
        nn.functional.avg_pool2d(batch.evidence[:, None], _HALF)[:, 0] / 5,
    ]
    return torch.stack([c.expand(count, rows, columns) for c in channels], dim=1)


def _patches(rasters: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Grid cells of chosen blocks: (report, slot, n, n) to (report, slot, block, cell)."""
    count, slots, n, _ = rasters.shape
    side = n // BLOCK_CELLS
    blocks = rasters.reshape(count, slots, side, BLOCK_CELLS, side, BLOCK_CELLS)
    report = torch.arange(count, device=rasters.device)[:, None]
    picked = blocks[report, :, row, :, column]  # (report, block, slot, cell, cell)
    return picked.flatten(3).transpose(1, 2)


def _masked_mean(tokens: Tensor, present: Tensor) -> Tensor:
    total = (tokens * present[..., None]).sum(dim=1)
    return total / present.sum(dim=1, keepdim=True).clamp_min(1)
