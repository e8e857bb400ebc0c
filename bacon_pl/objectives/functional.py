"""The matching terms as pure functions of tensors, with one row per class. Sums are over the embedding dimension d."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

ClipVariant = Literal["none", "acting", "symmetric"]


def moments(z: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Compute the mean and the unbiased standard deviation of the embeddings of each class.

    Args:
        z: Embeddings (C, n, d).
        mask: (C, n) bool, True for rows that count; None if all do.

    Returns:
        Mean and standard deviation, (C, d) each. A class with a single row has standard deviation 0.
    """
    if mask is None:
        std, mean = torch.std_mean(z, dim=1, correction=min(1, z.shape[1] - 1))
        return mean, std
    weight = mask.unsqueeze(-1).to(z.dtype)
    count = weight.sum(1)
    mean = (z * weight).sum(1) / count
    variance = ((z - mean.unsqueeze(1)).square() * weight).sum(1) / (count - 1).clamp(min=1)
    return mean, variance.sqrt()


def class_mean(z: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of each class's rows.

    Args:
        z: (C, n, …).
        mask: (C, n) bool, rows that count; None for all.

    Returns:
        (C, …).
    """
    if mask is None:
        return z.mean(1)
    weight = mask.to(z.dtype)
    return torch.einsum("cn,cn...->c...", weight / weight.sum(1, keepdim=True), z)


def at_least_float32(x: Tensor) -> Tensor:
    """The same numbers in float32 where their type is a shorter one."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def likelihood(mean_syn: Tensor, mean_real: Tensor, std_real: Tensor) -> Tensor:
    """Compute L_LH, the Gaussian NEGATIVE log-likelihood of the synthetic mean, with log σ = real standard deviation.

    Args:
        mean_syn: Mean synthetic embeddings (C, d).
        mean_real: Mean real embeddings (C, d).
        std_real: Standard deviation of the real embeddings (C, d).

    Returns:
        (C,).
    """
    difference = (mean_syn - mean_real) * torch.exp(-std_real)
    return (0.5 * math.log(2 * math.pi) + std_real + 0.5 * difference.square()).sum(-1)


def total_variation(mean_syn: Tensor, mean_real: Tensor) -> Tensor:
    """Compute L_TV, half the L1 distance between means (C, d): (C,). It is unrelated to the smoothness of images."""
    return 0.5 * (mean_syn - mean_real).abs().sum(-1)


def clip(
    mean_syn: Tensor, mean_real: Tensor, std_real: Tensor, variant: ClipVariant = "acting", floor: float = 1e-3
) -> Tensor:
    """Compute L_CLIP, the squared distance of the standardized difference from an interval.

    Args:
        mean_syn: Mean synthetic embeddings (C, d).
        mean_real: Mean real embeddings (C, d).
        std_real: Standard deviation of the real embeddings (C, d).
        variant: ``acting`` clamps to [0, 1], ``symmetric`` to [-1, 1]; ``none`` is zero, as in the published code.
        floor: Lower limit of the standard deviations by which differences are divided.

    Returns:
        (C,).
    """
    if variant == "none":
        return mean_syn.new_zeros(mean_syn.shape[0])
    u = (mean_syn - mean_real) / std_real.clamp(min=floor)
    return (u - u.clamp(0.0 if variant == "acting" else -1.0, 1.0)).square().sum(-1)


def mean_match(mean_syn: Tensor, mean_real: Tensor) -> Tensor:
    """Compute the squared distance between means (C, d), the matching term of DM and IDM: (C,)."""
    return (mean_syn - mean_real).square().sum(-1)
