"""The ball B(z̃, ε) of BACON's bound: its volume, and uniform draws from it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bacon_pl import rng


def log_volume(d: int, radius: Tensor) -> Tensor:
    """Compute the logarithm of the volume of a ball.

    Args:
        d: Dimension of the ball.
        radius: (…), positive.

    Returns:
        (…), the same shape as ``radius``.
    """
    return d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1) + d * radius.log()


def draw_in_ball(
    samples: int, d: int, *keys: int | str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Tensor:
    """Draw points uniformly from the unit ball: a normal direction, scaled to the length U^(1/d).

    Point i is a function of the keys and i alone; it does not depend on the device or on the number of points.

    Args:
        samples: Number of points.
        d: Dimension.
        keys: Coordinates of the draw: seed, purpose, iteration.
        device: Device of the result.
        dtype: Type of the result.

    Returns:
        (samples, d).
    """
    row = torch.arange(samples, device=device)[:, None]
    column = torch.arange(d, device=device)
    # The Box-Muller transform; 1 - U is never 0.
    length = (-2 * torch.log1p(-rng.uniform(*keys, "length", row, column).to(dtype))).sqrt()
    direction = length * torch.cos(2 * math.pi * rng.uniform(*keys, "angle", row, column).to(dtype))
    distance = rng.uniform(*keys, "distance", row).to(dtype) ** (1 / d)
    return direction * (distance / torch.linalg.vector_norm(direction, dim=1, keepdim=True))
