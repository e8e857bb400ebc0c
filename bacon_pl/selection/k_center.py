"""Greedy k-center: every image of a class is close to a selected one (Gonzalez 1985; Sener and Savarese 2018)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bacon_pl.selection.embeddings import centered, dot, take


def k_center(z: Tensor, valid: Tensor, n: int) -> Tensor:
    """Select the image nearest to the mean of its class, then repeatedly the one farthest from all selected images.

    Args:
        z: Embeddings (C, m, d).
        valid: (C, m) bool, False for padding; at least n per class are True.
        n: Number of images per class.

    Returns:
        Positions (C, n), int64, in the order of selection.
    """
    z = centered(z, valid)
    norms = z.square().sum(2)
    free = valid.clone()
    pick = norms.masked_fill(~free, math.inf).argmin(1, keepdim=True)
    nearest = torch.full_like(norms, math.inf)
    chosen = [pick]
    for _ in range(n - 1):
        free.scatter_(1, pick, False)
        distance = norms - 2 * dot(z, take(z, pick)) + norms.gather(1, pick)
        nearest = torch.minimum(nearest, distance)
        pick = nearest.masked_fill(~free, -math.inf).argmax(1, keepdim=True)
        chosen.append(pick)
    return torch.cat(chosen, 1)
