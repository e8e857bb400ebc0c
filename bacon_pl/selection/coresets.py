"""Choosing real images class by class: herding and greedy k-center, all classes at once."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bacon_pl.data import LabeledImages
from bacon_pl.errors import BaconError

Select = Callable[[Tensor, Tensor, int], Tensor]
Embed = Callable[[Tensor], Tensor]

BLOCK_BYTES = 1 << 30
"""Embeddings held at once: classes are taken in blocks that fit, or one by one."""


def herding(z: Tensor, valid: Tensor, n: int) -> Tensor:
    """Choose images whose running mean stays nearest to the mean of their class (Welling 2009; iCaRL).

    Args:
        z: Embeddings (C, m, d).
        valid: Which of them exist: (C, m), at least n of each class.
        n: Images chosen per class.

    Returns:
        Positions (C, n) int64 in the order of choice.
    """
    z = _centered(z, valid)
    norms = z.square().sum(2)
    free = valid.clone()
    # Centered, the mean of i + 1 images is best when the next one is minus the sum of the others.
    total = torch.zeros_like(z[:, 0])
    chosen = []
    for _ in range(n):
        cost = norms + 2 * _dot(z, total)
        pick = cost.masked_fill(~free, math.inf).argmin(1, keepdim=True)
        free.scatter_(1, pick, False)
        total = total + _at(z, pick)
        chosen.append(pick)
    return torch.cat(chosen, 1)


def k_center(z: Tensor, valid: Tensor, n: int) -> Tensor:
    """Choose the image nearest to its class's mean, then again and again the one farthest from all chosen ones.

    Args:
        z: Embeddings (C, m, d).
        valid: Which of them exist: (C, m), at least n of each class.
        n: Images chosen per class.

    Returns:
        Positions (C, n) int64 in the order of choice.
    """
    z = _centered(z, valid)
    norms = z.square().sum(2)
    free = valid.clone()
    pick = norms.masked_fill(~free, math.inf).argmin(1, keepdim=True)
    nearest = torch.full_like(norms, math.inf)
    chosen = [pick]
    for _ in range(n - 1):
        free.scatter_(1, pick, False)
        distance = norms - 2 * _dot(z, _at(z, pick)) + norms.gather(1, pick)
        nearest = torch.minimum(nearest, distance)
        pick = nearest.masked_fill(~free, -math.inf).argmax(1, keepdim=True)
        chosen.append(pick)
    return torch.cat(chosen, 1)


def choose(store: LabeledImages, ipc: int, select: Select, embed: Embed) -> Tensor:
    """Choose images of every class in a feature space.

    Args:
        store: The real training images.
        ipc: Images per class.
        select: :func:`herding` or :func:`k_center`.
        embed: Maps uint8 images (B, ch, H, W) to embeddings (B, d).

    Returns:
        Positions in the store (C, ipc), int64.

    Raises:
        BaconError: A class has fewer than ``ipc`` images.
    """
    if store.smallest_class < ipc:
        raise BaconError(
            f"ipc {ipc} asks for more images per class than the smallest class has ({store.smallest_class}): leave "
            "herding and k_center out of --baselines or add images."
        )
    index, valid = store.class_table
    width = embed(store.images[:1]).shape[1]
    classes = max(1, BLOCK_BYTES // (4 * width * index.shape[1]))
    chosen = []
    for where, there in zip(index.split(classes), valid.split(classes), strict=True):
        z = torch.zeros(*where.shape, width, device=where.device)
        z[there] = embed(store.images[where[there]]).float()
        chosen.append(where.gather(1, select(z, there, ipc)))
    return torch.cat(chosen)


def _centered(z: Tensor, valid: Tensor) -> Tensor:
    mean = (z * valid.unsqueeze(2)).sum(1, keepdim=True) / valid.sum(1).view(-1, 1, 1)
    return z - mean


def _dot(z: Tensor, v: Tensor) -> Tensor:
    return (z @ v.unsqueeze(2)).squeeze(2)


def _at(z: Tensor, pick: Tensor) -> Tensor:
    return z.gather(1, pick.unsqueeze(2).expand(-1, -1, z.shape[2])).squeeze(1)
