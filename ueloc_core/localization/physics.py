"""The physics term: how likely the report is on the twin's maps at the predicted places."""

import torch
from torch import Tensor

from ueloc_core.localization.posterior import Posterior
from ueloc_core.localization.windows import WindowBatch
from ueloc_core.measurement.levels import LevelMaps
from ueloc_core.measurement.model import MeasurementModel

_UNKNOWN_NOISE_DB = 2.0  # where no path arrives, beside an error that is far larger


def bilinear(rasters: Tensor, points_m: Tensor, cell_m: float) -> Tensor:
    """Differentiable bilinear lookup of rasters at points, with pixel centres where they are.

    Parameters
    ----------
    rasters
        Shape (batch, channel, rows, columns); row 0 in the south, frame centred on the raster.
    points_m
        Shape (batch, point, 2), metres east and north of the centre; clamped to the raster.
    cell_m
        Side of a grid cell [m].

    Returns
    -------
    Tensor
        Shape (batch, channel, point). A NaN neighbour of weight above zero gives NaN.
    """
    rows, columns = rasters.shape[-2:]
    count = rasters.shape[0]
    limit = torch.tensor([columns, rows], device=points_m.device) - 1
    place = points_m / cell_m + (limit + 1) / 2 - 0.5  # in pixels, from the first pixel's centre
    place = torch.minimum(place.clamp_min(0), limit)
    corner = torch.minimum(place.detach().floor().long(), (limit - 1).clamp_min(0))
    part = place - corner
    batch = torch.arange(count, device=points_m.device)[:, None]
    total = torch.zeros((), device=points_m.device)
    unknown = torch.zeros((), dtype=torch.bool, device=points_m.device)
    for dy in (0, 1):
        for dx in (0, 1):
            row = (corner[..., 1] + dy).clamp_max(rows - 1)
            column = (corner[..., 0] + dx).clamp_max(columns - 1)
            value = rasters[batch, :, row, column]  # (batch, point, channel)
            wx = part[..., 0] if dx else 1 - part[..., 0]
            wy = part[..., 1] if dy else 1 - part[..., 1]
            weight = (wx * wy)[..., None]
            total = total + weight * value.nan_to_num(0.0)  # finite, so that gradients stay so
            unknown = unknown | (value.isnan() & (weight != 0))
    return torch.where(unknown, torch.nan, total).transpose(1, 2)


def physics_loss(posterior: Posterior, batch: WindowBatch, model: MeasurementModel) -> Tensor:
    """Expected negative log-likelihood of the heard levels under the posterior's components.

    The twin's RSRP is looked up at the components' means, and so is the likelihood of timing,
    angle and beams; the gradient moves both the means and the weights. A mean beside an unknown
    map value counts as one that no ray reaches. Nats a reported sector, averaged over the batch.
    """
    mean = posterior.mean_m
    rsrp, error, noise = (
        bilinear(raster, mean, posterior.cell_m)
        for raster in (batch.rsrp_dbm, batch.se_db, batch.noise_db)
    )
    maps = LevelMaps(rsrp, error, noise.nan_to_num(_UNKNOWN_NOISE_DB), torch.zeros(0))
    log_prob = model.levels.marginal(batch.rsrp_code[:, :, None], maps)
    present = batch.present[:, :, None]
    levels = torch.where(present, log_prob, 0.0).sum(dim=1)
    serving = bilinear(batch.evidence[:, None], mean, posterior.cell_m)[:, 0]
    per_component = (levels + serving) / present.sum(dim=1)
    weights = posterior.weights
    weights = weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-12)
    return -(weights * per_component).sum(dim=1).mean()
