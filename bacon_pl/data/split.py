"""Splitting a labeled dataset in two, class by class."""

from __future__ import annotations

import torch
from torch import Tensor

from bacon_pl import rng


def stratified_split(labels: Tensor, fraction: float, *keys: int | str) -> tuple[Tensor, Tensor]:
    """Hold out a share of every class.

    Unlike scikit-learn's splitter, this one guarantees that every class remains in the larger part, and accepts
    classes with a single image.

    Args:
        labels: (N,), int64.
        fraction: Share to hold out, in (0, 1). ``round(fraction * size)`` images of each class are held out: at least
            one from a class with two or more images, and never all of them.
        keys: Coordinates of the draw; see :func:`bacon_pl.rng.bits`.

    Returns:
        ``(kept, held)``: positions in ``labels``, int64, each in ascending order.
    """
    n = len(labels)
    counts = torch.bincount(labels)
    # Shuffle, then sort by class, so that the rank of an image within its class is random.
    order = rng.permutation(n, *keys, device=labels.device)
    order = order[torch.argsort(labels[order], stable=True)]
    first = torch.cumsum(counts, 0) - counts
    rank = torch.empty(n, dtype=torch.int64, device=labels.device)
    rank[order] = torch.arange(n, device=labels.device) - first[labels[order]]
    # Rounded in float64, so that every device rounds in the same way.
    take = torch.round(counts.to(torch.float64) * fraction).to(torch.int64).clamp(min=1)
    take = torch.minimum(take, counts - 1)
    held = rank < take[labels]
    return torch.nonzero(~held).flatten(), torch.nonzero(held).flatten()
