"""Probabilities of codes: what a Gaussian puts into the bin of a quantised field."""

import math
from typing import Any

import torch
from torch import Tensor

from ueloc_core.measurement.reports import QuantisedField

SMALLEST_PROBABILITY = 1e-20
_OPEN_END = 1e4  # an open bin's edge: finite, so that gradients stay so


def decode(field: QuantisedField, code: Tensor) -> Tensor:
    """Mid-bin value of codes, as `QuantisedField.decode`, for tensors."""
    value = field.lower_edge(code.to(torch.float32) + 0.5)
    return torch.where(code == field.missing, torch.nan, value)


def normal_cdf(z: Tensor) -> Tensor:
    """Standard normal distribution; `torch.special.ndtr` has no lower tail in single precision."""
    return 0.5 * torch.erfc(-z * math.sqrt(0.5))


def bin_probability(low: Tensor, high: Tensor, loc: Any, scale: Any) -> Tensor:
    """Probability that a Gaussian lies in ``[low, high)``, accurate in both tails."""
    a, b = (low - loc) / scale, (high - loc) / scale
    upper = a > 0
    a, b = torch.where(upper, -b, a), torch.where(upper, -a, b)
    return normal_cdf(b) - normal_cdf(a)


def log_bin(low: Tensor, high: Tensor, loc: Any, scale: Any) -> Tensor:
    """Logarithm of `bin_probability`, at least that of 1e-20."""
    return bin_probability(low, high, loc, scale).clamp_min(SMALLEST_PROBABILITY).log()


def edges(field: QuantisedField, code: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper edge of codes' bins; the end codes reach very far."""
    low = field.lower_edge(code if code.is_floating_point() else code.to(torch.float32))
    return (
        torch.where(code <= field.first, -_OPEN_END, low),
        torch.where(code >= field.last, _OPEN_END, low + field.step),
    )


def log_code(field: QuantisedField, code: Tensor, loc: Any, scale: Any) -> Tensor:
    """Log-probability of a field's code under a Gaussian; a missing code gives 0."""
    low, high = edges(field, code)
    return torch.where(code == field.missing, 0.0, log_bin(low, high, loc, scale))


def log_interval(code: Tensor, thresholds: Tensor, loc: Any, scale: Any) -> Tensor:
    """Log-probability of an index into rising thresholds under a Gaussian.

    Index k lies between thresholds k - 1 and k; a negative index (missing) gives 0.
    """
    end = torch.tensor([_OPEN_END], dtype=thresholds.dtype, device=thresholds.device)
    bounds = torch.cat([-end, thresholds, end])
    index = code.long().clamp_min(0)
    return torch.where(code < 0, 0.0, log_bin(bounds[index], bounds[index + 1], loc, scale))


def widened(values: Tensor, sigma: Any) -> Tensor:
    """Values convolved with Gaussians along the last axis, which is taken as periodic.

    Where the axis is not periodic, what lies within the Gaussian's reach of its ends is of no
    use. In double precision, values 36 nats below the peak are rounding.

    Parameters
    ----------
    values
        Shape (..., node).
    sigma
        Standard deviation in nodes, a number or of a shape that broadcasts to (..., 1).
    """
    count = values.shape[-1]
    wave = torch.fft.rfftfreq(count, dtype=torch.float64)
    kernel = torch.exp(-2.0 * (math.pi * sigma * wave) ** 2)
    found: Tensor = torch.fft.irfft(torch.fft.rfft(values.double()) * kernel, count)
    return found.clamp_min(0.0)
