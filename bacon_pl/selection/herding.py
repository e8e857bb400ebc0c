"""Herding: images whose mean is their class's mean (Welling 2009; iCaRL)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bacon_pl.selection.embeddings import centered, dot, take


def herding(z: Tensor, valid: Tensor, n: int) -> Tensor:
    """Choose images whose running mean stays nearest to the mean of their class.

    Args:
        z: Embeddings (C, m, d).
        valid: Which of them exist: (C, m), at least n of each class.
        n: Images chosen per class.

    Returns:
        Positions (C, n) int64 in the order of choice.
    """
    z = centered(z, valid)
    norms = z.square().sum(2)
    free = valid.clone()
    # Centered, the mean of i + 1 images is best when the next one is minus the sum of the others.
    total = torch.zeros_like(z[:, 0])
    chosen = []
    for _ in range(n):
        cost = norms + 2 * dot(z, total)
        pick = cost.masked_fill(~free, math.inf).argmin(1, keepdim=True)
        free.scatter_(1, pick, False)
        total = total + take(z, pick)
        chosen.append(pick)
    return torch.cat(chosen, 1)
