"""Coresets: real images of every class selected in a feature space."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bacon_pl.data import LabeledImages
from bacon_pl.data.draw import check_enough

Select = Callable[[Tensor, Tensor, int], Tensor]
"""A selection rule such as :func:`~bacon_pl.selection.herding`: a function of embeddings (C, m, d), a mask (C, m) and a
number n that returns positions (C, n)."""

Embed = Callable[[Tensor], Tensor]
"""A function from images (B, ch, H, W) to embeddings (B, d)."""

BLOCK_BYTES = 1 << 30
"""Memory for embeddings: classes are processed in blocks that fit into it, at least one class at a time."""


def choose(store: LabeledImages, ipc: int, select: Select, embed: Embed) -> Tensor:
    """Select images of every class in a feature space.

    Args:
        store: The real training images.
        ipc: Images per class.
        select: The rule, :func:`~bacon_pl.selection.herding` or :func:`~bacon_pl.selection.k_center`.
        embed: Function from uint8 images (B, ch, H, W) to embeddings (B, d).

    Returns:
        Positions in the store (C, ipc), int64.

    Raises:
        BaconError: A class has fewer than ``ipc`` images.
    """
    check_enough(store, ipc)
    index, valid = store.class_table
    width = embed(store.images[:1]).shape[1]
    classes = max(1, BLOCK_BYTES // (4 * width * index.shape[1]))
    chosen = []
    for where, there in zip(index.split(classes), valid.split(classes), strict=True):
        z = torch.zeros(*where.shape, width, device=where.device)
        z[there] = embed(store.images[where[there]]).float()
        chosen.append(where.gather(1, select(z, there, ipc)))
    return torch.cat(chosen)
