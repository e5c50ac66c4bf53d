"""The loss: L = coarse_weight L_coarse + fine_weight L_fine + physics_weight L_phys."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from ueloc_core.city_sections import TrainingConfig
from ueloc_core.errors import ModelError
from ueloc_core.grid import BLOCK_CELLS
from ueloc_core.localization.physics import physics_loss
from ueloc_core.localization.posterior import Posterior
from ueloc_core.localization.windows import WindowBatch


def coarse_loss(coarse: Tensor, truth_m: Tensor, cell_m: float) -> Tensor:
    """Cross-entropy of the block that holds the truth (the last class is beyond the window)."""
    blocks = coarse.shape[1] - 1
    side = round(blocks**0.5)
    block_m = BLOCK_CELLS * cell_m
    index = ((truth_m + side * block_m / 2) / block_m).floor().long()
    inside = ((index >= 0) & (index < side)).all(dim=1)
    target = torch.where(inside, index[:, 1] * side + index[:, 0], blocks)
    return torch.nn.functional.nll_loss(coarse, target)


def nll_loss(posterior: Posterior, truth_m: Tensor) -> Tensor:
    """Mean negative log-density of the posteriors at the true positions [nats, 1/m2]."""
    return -posterior.log_density(truth_m).mean()


def loss_terms(
    network: nn.Module,
    batch: WindowBatch,
    config: TrainingConfig,
    *,
    scored: bool = False,
) -> dict[str, Tensor]:
    """Terms of the loss, means over a batch [nats].

    Parameters
    ----------
    network
        Gives the posterior and the coarse log-mass. It may run in an autocast region; the terms
        are always computed in single precision, which the determinants of narrow covariances
        need.
    batch
        Reports with their true positions.
    config
        Weights. A term of weight 0 is not computed.
    scored
        Whether the negative log-density ``nll`` is wanted too, whatever the weights.

    Returns
    -------
    dict
        ``coarse``, ``fine`` and ``physics`` as far as their weights are above 0, their weighted
        sum ``total``, and ``nll`` if asked for.

    Raises
    ------
    ModelError
        If the network's answer or the loss is no number.
    """
    posterior, coarse = network(batch)
    _check(posterior.mean_m, config)  # a map is looked up there
    with torch.autocast(batch.tokens.device.type, enabled=False):
        posterior, coarse = _single(posterior), coarse.float()
        terms: dict[str, Tensor] = {}
        total = torch.zeros((), device=coarse.device)
        if config.coarse_weight > 0:
            terms["coarse"] = coarse_loss(coarse, batch.truth_m, posterior.cell_m)
            total = total + config.coarse_weight * terms["coarse"]
        if config.fine_weight > 0:
            terms["fine"] = nll_loss(posterior, batch.truth_m)
            total = total + config.fine_weight * terms["fine"]
        if config.physics_weight > 0:
            terms["physics"] = physics_loss(posterior, batch)
            total = total + config.physics_weight * terms["physics"]
        _check(total, config)
        terms["total"] = total
        if scored:
            known = terms.get("fine")
            terms["nll"] = nll_loss(posterior, batch.truth_m) if known is None else known
    return terms


def _check(values: Tensor, config: TrainingConfig) -> None:
    if not torch.isfinite(values).all():
        raise ModelError(
            "the loss is no finite number",
            where=f"training.learning_rate = {config.learning_rate:g}",
            remedy="Lower training.learning_rate.",
        )


def _single(posterior: Posterior) -> Posterior:
    """The posterior in single precision."""
    return replace(
        posterior,
        log_mass=posterior.log_mass.float(),
        log_outside=posterior.log_outside.float(),
        mean_m=posterior.mean_m.float(),
        covariance_m2=posterior.covariance_m2.float(),
        heatmap=posterior.heatmap.float(),
    )
