"""The densities of BACON's bound (arXiv 2406.01112): a Gaussian likelihood, and a prior from the TV and clip terms."""

from __future__ import annotations

import math
from typing import get_args

import torch
from torch import Tensor

from bacon_pl import ranges
from bacon_pl.errors import BaconError, unknown_name
from bacon_pl.objectives import functional as F

FLOOR = 1e-3
"""Lower limit of the standard deviations by which differences are divided, as in the clip term of the loss."""


def check_prior(tv_weight: float, clip: F.ClipVariant) -> None:
    """Check that the settings define a density.

    Args:
        tv_weight: λ, in [0, 1].
        clip: Variant of the clip term.

    Raises:
        BaconError: ``tv_weight`` is outside [0, 1], ``clip`` is unknown, or the prior has no finite integral.
    """
    ranges.share("the bound's ", tv_weight=tv_weight)
    if clip not in get_args(F.ClipVariant):
        raise unknown_name("clip variant", str(clip), get_args(F.ClipVariant))
    if tv_weight == 0 and clip == "none":
        raise BaconError(
            "the bound's prior with tv_weight 0 and clip none is flat everywhere, which is not a density: give a "
            "tv_weight above 0, or clip acting or symmetric."
        )


def log_likelihood(difference: Tensor, std: Tensor) -> Tensor:
    """Compute the Gaussian log p(z̃ | z) with log σ_d = s_d, the convention of the training loss.

    Args:
        difference: z̃ - z, (…, d).
        std: Standard deviation s of the real embeddings, (…, d).

    Returns:
        (…), in nats.
    """
    return -F.likelihood(difference, torch.zeros_like(difference), std)


def log_prior(difference: Tensor, std: Tensor, tv_weight: float, clip: F.ClipVariant) -> Tensor:
    """Compute log p(z), normalized, where p is the density with the energy λ·L_TV + (1 - λ)·L_CLIP.

    In each dimension, p ∝ exp(-λ·½|v| - (1 - λ)·(u - clamp(u))²) with v = z_d - μ_d and u = v / max(s_d, 1e-3).

    Args:
        difference: v, (…, d).
        std: s, (…, d).
        tv_weight: λ, in [0, 1].
        clip: ``none``, ``acting`` (clamped to [0, 1]) or ``symmetric`` (clamped to [-1, 1]).

    Returns:
        (…), in nats.

    Raises:
        BaconError: The settings do not define a density (see :func:`check_prior`).
    """
    check_prior(tv_weight, clip)
    energy = 0.5 * tv_weight * difference.abs().sum(-1)
    if clip != "none" and tv_weight < 1:
        u = difference / std.clamp(min=FLOOR)
        energy = energy + (1 - tv_weight) * (u - u.clamp(_low(clip), 1.0)).square().sum(-1)
    return -energy - log_normalizer(std, tv_weight, clip).sum(-1)


def log_normalizer(std: Tensor, tv_weight: float, clip: F.ClipVariant) -> Tensor:
    """Compute the logarithm of the prior's integral over one dimension, in closed form.

    In terms of u, with α = λ·max(s, 1e-3)/2 and b = 1 - λ, the integral consists of an exponential over the interval
    where the clip term is zero, and of ∫_0^∞ exp(-α·t - b·t²) dt = ½·√(π/b)·erfcx(α / (2·√b)) on either side of it,
    weighted by e^-α where the interval ends at a distance of 1 from 0. The function erfcx(x) = exp(x²)·erfc(x) neither
    overflows nor underflows here.

    Args:
        std: s, (…).
        tv_weight: λ, in [0, 1].
        clip: Variant of the clip term.

    Returns:
        (…), in nats.
    """
    scale = std.clamp(min=FLOOR)
    if clip == "none" or tv_weight == 1:
        return torch.full_like(scale, math.log(4) - math.log(tv_weight))  # a Laplace density
    alpha = (0.5 * tv_weight * scale).clamp(min=torch.finfo(scale.dtype).tiny)  # never 0, since it is a divisor below
    b = 1 - tv_weight
    tail = 0.5 * math.sqrt(math.pi / b) * torch.special.erfcx(alpha / (2 * math.sqrt(b)))
    inner = -torch.expm1(-alpha) / alpha  # over an interval of length 1
    far = tail * torch.exp(-alpha)
    total = inner + far + tail if clip == "acting" else 2 * (inner + far)
    return scale.log() + total.log()


def _low(clip: F.ClipVariant) -> float:
    """Return the lower end of the interval where the clip term is zero."""
    return 0.0 if clip == "acting" else -1.0
