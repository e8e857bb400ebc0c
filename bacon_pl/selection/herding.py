"""Herding: images whose mean embedding approximates that of their class (Welling 2009; iCaRL)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bacon_pl.selection.embeddings import centered, dot, take


def herding(z: Tensor, valid: Tensor, n: int) -> Tensor:
    """Select images greedily, such that their running mean stays as close as possible to the mean of their class.

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
    # For centered embeddings, the best next image is the one nearest to minus the sum of those selected so far.
    total = torch.zeros_like(z[:, 0])
    chosen = []
    for _ in range(n):
        cost = norms + 2 * dot(z, total)
        pick = cost.masked_fill(~free, math.inf).argmin(1, keepdim=True)
        free.scatter_(1, pick, False)
        total = total + take(z, pick)
        chosen.append(pick)
    return torch.cat(chosen, 1)
