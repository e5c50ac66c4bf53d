"""The network: a measurement encoder, a map encoder, cross-attention, and a coarse-to-fine head.

It starts as Bayes' rule. The likelihood of the report is evaluated coarsely on all blocks of
the window, and at the grid cells of the most likely ones as the measurement model has it
(`evidence`); what is learned moves its spreads, biases and weights, and the logarithm of
every block's mass. So an untrained network is a grid posterior of a coarse likelihood, and a
trained one knows what maps and model get wrong: what the measurement encoder (a transformer over
the heard sectors) sees in the report, and the map encoder (convolutions over residual maps and
context, with cross-attention to the sectors) in the surroundings.

Every layer takes any number of sectors and any window size, and no order of sectors matters.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ueloc_core.grid import BLOCK_CELLS
from ueloc_core.localization.block_grid import CELLS, take, take_rows
from ueloc_core.localization.encoders import (
    CONTEXT_PLANES,
    HALF,
    TOKEN_WIDTH,
    ConvolutionBlock,
    MapAttention,
    MeasurementEncoder,
    ResidualEncoder,
    context_planes,
    masked_mean,
    pooled_planes,
)
from ueloc_core.localization.evidence import block_timing, quality_evidence, serving_evidence
from ueloc_core.localization.level_evidence import (
    ClassTables,
    PairMaps,
    Pairs,
    Shifts,
    level_evidence,
    unheard_silence,
)
from ueloc_core.localization.posterior import Posterior
from ueloc_core.localization.rasters import to_raster, turned
from ueloc_core.localization.windows import WindowBatch
from ueloc_core.measurement.reports import MISSING

INPUTS = ("all", "no_residuals", "no_maps")
"""What the network may see: everything; maps but no likelihood or residual of a report on them;
or the report alone."""

_NOWHERE = -18.0  # log-mass of a cell indoors, against one outdoors
_COARSE_STEP_DB, _FINE_STEP_DB = 4.0, 2.2
_EXAMINED = 96  # blocks whose cells are looked at before the candidates are chosen
_DIRECTED = 160  # blocks at which angles and beams are looked at
_LEAST_TOLD = -12.0
_HEATMAP_SHARE = 0.8  # of a component: sharp where the likelihood is right; the rest is Gaussian
_STAGES = ("coarse", "fine")
_CORRECTIONS = 4
_OTHERS = 8  # of the strongest unreported sectors, at the candidates


@dataclass(frozen=True)
class _Moves:
    """What is learned about one report.

    Attributes
    ----------
    widen, bias_db
        Logarithm of the factor of the spread of each heard sector's level, and a bias [dB],
        shape (report, slot).
    levels, timing, directions, quality
        Weight of each evidence, shape (report,).
    """

    widen: Tensor
    bias_db: Tensor
    levels: Tensor
    timing: Tensor
    directions: Tensor
    quality: Tensor


@dataclass(frozen=True)
class _Ground:
    """Blocks of the windows: row, column, and row of the ground's tables, (report, block)."""

    row: Tensor
    column: Tensor
    row_of: Tensor

    def at(self, chosen: Tensor) -> "_Ground":
        """Chosen blocks of each report, shape (report, k)."""
        return _Ground(*(v.gather(1, chosen) for v in vars(self).values()))


class PosteriorNetwork(nn.Module):
    """From a `WindowBatch` to a `Posterior`.

    Parameters
    ----------
    channels
        Width of the map encoder.
    components
        Number of Gaussian components K.
    candidates
        Number of blocks whose grid cells are looked at.
    inputs
        One of `INPUTS`.
    """

    def __init__(
        self, channels: int, components: int, candidates: int = 40, inputs: str = "all"
    ) -> None:
        super().__init__()
        if inputs not in INPUTS:
            raise ValueError(f"inputs = '{inputs}' must be one of {', '.join(INPUTS)}")
        self.components, self.candidates, self.inputs = components, candidates, inputs
        self.measurements = MeasurementEncoder()
        self.moves = nn.Linear(TOKEN_WIDTH, 2 * len(_STAGES))
        self.weights = nn.Linear(TOKEN_WIDTH, 4 * len(_STAGES))
        self.outside = nn.Sequential(nn.Linear(TOKEN_WIDTH, 32), nn.GELU(), nn.Linear(32, 1))
        self.residuals = ResidualEncoder(channels)
        self.context = nn.Conv2d(CONTEXT_PLANES, channels, 1)
        self.attention = MapAttention(channels)
        self.blocks = nn.ModuleList(ConvolutionBlock(channels) for _ in range(2))
        self.correction = nn.Conv2d(channels, _CORRECTIONS, 1)
        self.fine = nn.Sequential(nn.Linear(channels + 4, 32), nn.GELU(), nn.Linear(32, 2))
        self.rest = nn.Parameter(torch.zeros(2))
        for layer in (self.moves, self.weights, self.correction, self.fine[-1], self.outside[-1]):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def forward(self, batch: WindowBatch) -> tuple[Posterior, Tensor]:
        """The posterior, and the coarse log-mass before the fine stage, (report, blocks + 1).

        The last entry of the coarse log-mass is the mass beyond the window.
        """
        device = batch.tokens.device.type
        encoder = torch.autocast(
            device,
            dtype=torch.get_autocast_dtype(device),
            enabled=torch.is_autocast_enabled(device),
        )
        with encoder:
            tokens = self.measurements(batch.tokens, batch.present).float()
        # likelihoods need single precision; the encoders may have less
        with torch.autocast(device, enabled=False):
            return self._posterior(batch, tokens, encoder)

    def _posterior(
        self, batch: WindowBatch, tokens: Tensor, encoder: torch.autocast
    ) -> tuple[Posterior, Tensor]:
        """The answer of `forward`, the map encoder in the precision of `encoder`."""
        pooled = masked_mean(tokens, batch.present)
        for_coarse, for_fine = self._moves(tokens, pooled)
        ground = _ground_of(batch)
        outdoor = take(batch.maps.outdoor, ground.row_of)
        open_cells = take(batch.maps.open_cells, ground.row_of)
        if self.inputs == "no_maps":
            outdoor, open_cells = torch.ones_like(outdoor), torch.full_like(open_cells, CELLS)
        prior = torch.where(open_cells > 0, open_cells.clamp_min(1).log(), _NOWHERE)
        coarse, features, moved = self._coarse(
            batch, tokens, for_coarse, ground, outdoor, prior, encoder
        )
        outside = self.outside(pooled) - 5.0
        coarse_mass = _with_outside(coarse, outside)
        count = min(self.candidates, coarse.shape[1])
        chosen = coarse.detach().topk(count, dim=1).indices
        at_block = _features_at(features, chosen, batch.blocks)
        own = take_rows(moved.transpose(1, 2), chosen)
        cells = self._cells(batch, for_fine, ground.at(chosen), own)
        inside = take_rows(outdoor, chosen)
        cells = cells + torch.where(inside, 0.0, _NOWHERE)
        mass, mean, covariance = self._moments(batch, cells, at_block, coarse, chosen)
        logit = self._joined(coarse, chosen, mass)
        log_mass = _with_outside(logit, outside + self.rest[1])
        kept = mass.detach().topk(min(self.components, count), dim=1).indices
        posterior = Posterior(
            log_mass=log_mass[:, :-1].reshape(-1, batch.blocks, batch.blocks),
            log_outside=log_mass[:, -1],
            top=chosen.gather(1, kept),
            mean_m=take_rows(mean, kept),
            covariance_m2=take_rows(covariance, kept),
            outdoor=to_raster(outdoor, batch.blocks),
            outside_m2=batch.outside_m2,
            cell_m=batch.maps.grid.cell_m,
            heatmap=_HEATMAP_SHARE * take_rows(torch.softmax(cells, dim=2), kept),
        )
        return posterior, coarse_mass

    def _moves(self, tokens: Tensor, pooled: Tensor) -> tuple[_Moves, _Moves]:
        """What is learned for the coarse stage, and for the fine one.

        What serves the choice of blocks is not what serves the density: each has its own.
        """
        of_slots = self.moves(tokens).chunk(len(_STAGES), dim=2)
        of_reports = (2 * torch.sigmoid(self.weights(pooled))).chunk(len(_STAGES), dim=1)
        coarse, fine = (
            _Moves(slots[..., 0].clamp(-1.5, 1.5), 4 * slots[..., 1], *weights.unbind(dim=1))
            for slots, weights in zip(of_slots, of_reports, strict=True)
        )
        return coarse, fine

    # -- coarse ---------------------------------------------------------------------------

    def _coarse(
        self,
        batch: WindowBatch,
        tokens: Tensor,
        moves: _Moves,
        ground: _Ground,
        outdoor: Tensor,
        prior: Tensor,
        encoder: torch.autocast,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-mass of all blocks (report, block), the map encoder's features, and corrections."""
        if self.inputs != "all":
            with encoder:
                features = self._trunk(batch, tokens, prior, prior, ground).float()
            moved = self._of_blocks(features)
            return prior + moved[:, 0], features, moved
        pairs = Pairs.of(batch.reports.sector, batch.maps.site, apart=True)
        tables = self._tables(batch, moves, pairs)
        sector = batch.reports.sector
        rows = _window_rows(batch, sector[pairs.report, pairs.slot], pairs.report)
        levels = tables.at(take(batch.maps.levels.block_class, rows), ground.row_of)
        own = _window_rows(batch, sector[:, 0], torch.arange(len(batch), device=sector.device))
        with torch.no_grad():
            timing = block_timing(batch.model, batch.maps, batch.reports, own)
        exponent = batch.model.levels.map_error.level_exponent * moves.levels[:, None]
        timing = moves.timing[:, None] * timing
        logit = exponent * levels + timing + prior
        logit = self._examined(batch, tables, pairs, ground, outdoor, logit, exponent, timing)
        logit = _directed(batch, moves, ground, logit)
        with encoder:
            features = self._trunk(batch, tokens, logit, prior, ground, (pairs, rows)).float()
        moved = self._of_blocks(features)
        return logit + moved[:, 0], features, moved

    def _tables(self, batch: WindowBatch, moves: _Moves, pairs: Pairs) -> ClassTables:
        levels = batch.model.levels
        shifts = Shifts.of(levels, _COARSE_STEP_DB).to(batch.tokens.device)
        at = (pairs.report, pairs.slot)
        reported = batch.reports.level_dbm.nan_to_num(0.0)[at] - moves.bias_db[at]
        return ClassTables(
            batch.maps.levels, shifts, pairs, reported, batch.ceilings_dbm, moves.widen[at].exp()
        )

    def _examined(
        self,
        batch: WindowBatch,
        tables: ClassTables,
        pairs: Pairs,
        ground: _Ground,
        outdoor: Tensor,
        logit: Tensor,
        exponent: Tensor,
        timing: Tensor,
    ) -> Tensor:
        """The log-mass with the cells of the likeliest blocks looked at one by one."""
        chosen = logit.detach().topk(min(_EXAMINED, logit.shape[1]), dim=1).indices
        near = ground.at(chosen)
        rows = _pair_rows(batch, pairs, near)
        levels = tables.at(take(batch.maps.levels.cell_class, rows), near.row_of)
        cells = exponent[..., None] * levels
        cells = cells + torch.where(take_rows(outdoor, chosen), 0.0, _NOWHERE)
        found = cells.logsumexp(dim=2) + timing.gather(1, chosen)
        return _put(logit, chosen, found)

    # -- the map encoder ------------------------------------------------------------------

    def _trunk(
        self,
        batch: WindowBatch,
        tokens: Tensor,
        logit: Tensor,
        prior: Tensor,
        ground: _Ground,
        heard: tuple[Pairs, Tensor] | None = None,
    ) -> Tensor:
        """Features of half the blocks' resolution, shape (report, channel, side, side)."""
        side = batch.blocks
        planes = context_planes(batch, logit.detach(), prior, ground.row_of, self.inputs)
        planes = planes.reshape(*planes.shape[:2], side, side)
        value = self.context(pooled_planes(planes))
        if heard is not None:
            value = value + self.residuals(batch, tokens, *heard)
        value = nn.functional.gelu(turned(value, batch.symmetry))
        wide = nn.functional.avg_pool2d(value, HALF, ceil_mode=True)
        wide = self.attention(wide, tokens, batch.present)
        for block in self.blocks:
            wide = block(wide)
        value = value + nn.functional.interpolate(wide, size=value.shape[-2:], mode="bilinear")
        return turned(value, batch.symmetry, back=True)

    def _of_blocks(self, features: Tensor) -> Tensor:
        """Corrections at all blocks, shape (report, `_CORRECTIONS`, block).

        Of the log-mass for the coarse stage; of log-mass, spread and sharpness for the fine one.
        """
        small = self.correction(features)
        return nn.functional.interpolate(small, scale_factor=HALF, mode="bilinear").flatten(2)

    # -- fine -----------------------------------------------------------------------------

    def _cells(
        self, batch: WindowBatch, moves: _Moves, ground: _Ground, corrections: Tensor
    ) -> Tensor:
        """Log-likelihood of the cells of chosen blocks, shape (report, block, cell).

        `corrections` are those of `_of_blocks` there, shape (report, block, `_CORRECTIONS`).
        """
        _, log_mass, widen, sharpen = corrections.unbind(dim=2)
        if self.inputs != "all":
            return log_mass[..., None].expand(-1, -1, CELLS)
        levels, reports, maps = batch.model.levels, batch.reports, batch.maps
        shifts = Shifts.of(levels, _FINE_STEP_DB).to(batch.tokens.device)
        pairs = Pairs.of(reports.sector, maps.site)
        at = (pairs.report, pairs.slot)
        seen = PairMaps.cells(maps.levels, _pair_rows(batch, pairs, ground))
        factor = (
            moves.widen[at][:, None]
            + widen.clamp(-1.5, 1.5).repeat_interleave(CELLS, 1)[pairs.report]
        )
        seen = PairMaps(seen.mean_dbm, seen.spread_db * factor.exp(), seen.tail_share)
        reported = reports.level_dbm.nan_to_num(0.0)[at] - moves.bias_db[at]
        with torch.no_grad():
            blocks = (ground.row, ground.column, ground.row_of)
            silence = unheard_silence(
                maps, shifts, reports.sector, batch.ceilings_dbm, *blocks, _OTHERS
            )
            every = torch.arange(CELLS, device=widen.device).expand(*widen.shape, CELLS)
            told = serving_evidence(batch.model, maps, reports, ground.row, ground.column, every)
            quality = quality_evidence(
                batch.model, maps.levels, reports, pairs, seen, ground.row_of
            )
        value = level_evidence(levels, shifts, pairs, seen, reported, silence)
        value = levels.map_error.level_exponent * moves.levels[:, None] * value
        value = value + moves.timing[:, None] * told.timing
        value = value + moves.directions[:, None] * told.directions
        value = value + moves.quality[:, None] * quality
        value = value.reshape(*widen.shape, CELLS)
        middle = value.detach().amax(dim=2, keepdim=True)
        value = middle + (value - middle) * sharpen.clamp(-1.5, 1.5).exp()[..., None]
        found: Tensor = value + log_mass[..., None]
        return found

    def _moments(
        self, batch: WindowBatch, cells: Tensor, at_block: Tensor, coarse: Tensor, chosen: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-mass, mean [m] and covariance [m2] of the chosen blocks."""
        cell_m = batch.maps.grid.cell_m
        mass = cells.logsumexp(dim=2)
        weight = torch.softmax(cells, dim=2)
        place = _cell_centres(chosen, batch.blocks, cell_m)
        mean = (weight[..., None] * place).sum(dim=2)
        delta = place - mean[:, :, None]
        spread = torch.einsum("bkp,bkpi,bkpj->bkij", weight, delta, delta)
        whole = mass - mass.logsumexp(dim=1, keepdim=True)
        before = coarse.gather(1, chosen)
        summary = torch.stack(
            [
                whole.clamp_min(-15) / 5,
                (mass - before).clamp(-15, 15) / 5,
                weight.amax(dim=2),
                (spread[..., 0, 0] + spread[..., 1, 1]) / cell_m**2 / 3,
            ],
            dim=2,
        )
        change = self.fine(torch.cat([at_block, summary.detach()], dim=2))
        pixel = cell_m**2 / 12 * torch.exp(change[..., 1].clamp(-3, 5))
        covariance = spread + pixel[..., None, None] * torch.eye(2, device=spread.device)
        return mass + change[..., 0], mean, covariance

    def _joined(self, coarse: Tensor, chosen: Tensor, mass: Tensor) -> Tensor:
        """Log-mass of all blocks, those that were not looked at moved along.

        They change by as much as the last half of those that were: the less likely ones.
        """
        return _put(coarse + self.rest[0], chosen, mass, last=chosen.shape[1] // 2)


def _with_outside(logit: Tensor, outside: Tensor) -> Tensor:
    """Normalised log-mass of blocks, and beyond them: `outside` is relative to all blocks."""
    whole = logit.logsumexp(dim=1, keepdim=True)
    return torch.log_softmax(torch.cat([logit - whole, outside], dim=1), dim=1)


def _features_at(features: Tensor, chosen: Tensor, side: int) -> Tensor:
    """Features of the map encoder at blocks, shape (report, k, channel)."""
    half = features.shape[-1]
    small = chosen // side // HALF * half + chosen % side // HALF
    return take_rows(features.flatten(2).transpose(1, 2), small)


def _put(logit: Tensor, chosen: Tensor, found: Tensor, last: int = 0) -> Tensor:
    """Better values at the chosen blocks; all others change by as much as these do as a whole.

    With `last` those that come after it are the ones to go by.
    """
    before = logit.gather(1, chosen)
    shift = found[:, last:].logsumexp(1, keepdim=True) - before[:, last:].logsumexp(1, keepdim=True)
    return (logit + shift.clamp(-15.0, 5.0)).scatter(1, chosen, found)


def _ground_of(batch: WindowBatch) -> _Ground:
    row, column = batch.all_blocks()
    return _Ground(row, column, batch.maps.grid.ground_rows(row, column))


def _pair_rows(batch: WindowBatch, pairs: Pairs, ground: _Ground) -> Tensor:
    """Rows of the tables of heard sectors at blocks, shape (pair, block)."""
    sector, grid = batch.reports.sector[pairs.report, pairs.slot], batch.maps.grid
    return grid.rows(sector[:, None], ground.row[pairs.report], ground.column[pairs.report])


def _window_rows(batch: WindowBatch, sector: Tensor, report: Tensor) -> Tensor:
    """Rows of sectors' tables at all blocks of reports' windows, shape (pair, block)."""
    return batch.maps.grid.square_rows(sector, batch.corner[report], batch.blocks)


def _directed(batch: WindowBatch, moves: _Moves, ground: _Ground, logit: Tensor) -> Tensor:
    """The log-mass with angles and beams, looked at in the likeliest blocks."""
    reports = batch.reports
    told = (reports.aoa != MISSING) | (reports.beam[:, 0] != MISSING)
    n = torch.nonzero(told)[:, 0]
    if not len(n):
        return logit
    some = logit[n]
    chosen = some.detach().topk(min(_DIRECTED, some.shape[1]), dim=1).indices
    near = _Ground(*(v[n] for v in vars(ground).values())).at(chosen)
    with torch.no_grad():
        cell = take(batch.maps.centre, near.row_of)[..., None]
        value = serving_evidence(
            batch.model, batch.maps, reports[n], near.row, near.column, cell, timing=False
        ).directions
        value = (value - value.amax(dim=1, keepdim=True)).clamp_min(_LEAST_TOLD)
    found = some.gather(1, chosen) + moves.directions[n, None] * value
    return logit.index_copy(0, n, _put(some, chosen, found))


def _cell_centres(block: Tensor, side: int, cell_m: float) -> Tensor:
    """Centres [m] of the grid cells of blocks, shape (report, block, cell, 2)."""
    inner = torch.arange(BLOCK_CELLS, device=block.device) + 0.5
    dy, dx = torch.meshgrid(inner, inner, indexing="ij")
    x = block[..., None] % side * BLOCK_CELLS + dx.reshape(-1)
    y = block[..., None] // side * BLOCK_CELLS + dy.reshape(-1)
    return (torch.stack([x, y], dim=-1) - side * BLOCK_CELLS / 2) * cell_m
