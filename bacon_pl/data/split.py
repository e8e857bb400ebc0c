"""Splitting a labeled set in two, class by class. Which images are in which file is not decided here."""

from __future__ import annotations

import torch
from torch import Tensor

from bacon_pl import rng


def stratified_split(labels: Tensor, fraction: float, *keys: int | str) -> tuple[Tensor, Tensor]:
    """Hold out a share of every class.

    Unlike scikit-learn's splitter this one promises that no class vanishes from the larger part, and works for
    classes with one image.

    Args:
        labels: (N,), int64.
        fraction: Share to hold out, in (0, 1). Each class gives ``round(fraction * its size)`` images, at least one
            where it has two or more, and never its last.
        keys: Coordinates of the draw, see :func:`bacon_pl.rng.bits`.

    Returns:
        ``(kept, held)``: positions in ``labels``, int64, each in ascending order.
    """
    n = len(labels)
    counts = torch.bincount(labels)
    # Shuffle, then order by class: a position's rank within its class is a random one.
    order = rng.permutation(n, *keys, device=labels.device)
    order = order[torch.argsort(labels[order], stable=True)]
    first = torch.cumsum(counts, 0) - counts
    rank = torch.empty(n, dtype=torch.int64, device=labels.device)
    rank[order] = torch.arange(n, device=labels.device) - first[labels[order]]
    # Rounded on whole numbers of float64, so that every device rounds alike.
    take = torch.round(counts.to(torch.float64) * fraction).to(torch.int64).clamp(min=1)
    take = torch.minimum(take, counts - 1)
    held = rank < take[labels]
    return torch.nonzero(~held).flatten(), torch.nonzero(held).flatten()
