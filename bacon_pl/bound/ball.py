"""The ball B(z̃, ε) of BACON's bound: its volume and uniform draws in it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bacon_pl import rng


def log_volume(d: int, radius: Tensor) -> Tensor:
    """Logarithm of the volume of a ball.

    Args:
        d: Its dimension.
        radius: (…), positive.

    Returns:
        (…).
    """
    return d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1) + d * radius.log()


def draw_in_ball(
    samples: int, d: int, *keys: int | str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Tensor:
    """Draw points uniformly in the ball of radius 1: a normal direction at the distance U^(1/d).

    Draw i is a function of the keys and i alone, on every device and however many others there are.

    Args:
        samples: How many.
        d: Dimension.
        keys: Coordinates of the draw: seed, purpose, iteration.
        device: Where to draw.
        dtype: Type of the result.

    Returns:
        (samples, d).
    """
    row = torch.arange(samples, device=device)[:, None]
    column = torch.arange(d, device=device)
    # Box and Muller; 1 - U is never 0.
    length = (-2 * torch.log1p(-rng.uniform(*keys, "length", row, column).to(dtype))).sqrt()
    direction = length * torch.cos(2 * math.pi * rng.uniform(*keys, "angle", row, column).to(dtype))
    distance = rng.uniform(*keys, "distance", row).to(dtype) ** (1 / d)
    return direction * (distance / torch.linalg.vector_norm(direction, dim=1, keepdim=True))
