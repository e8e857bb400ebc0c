"""Initial images that experts recognize, and what they say of them: the start of DATM (arXiv 2310.05773)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bacon_pl import rng
from bacon_pl.data import LabeledImages
from bacon_pl.data.draw import check_enough


def recognized(
    store: LabeledImages, each: int, logits: Callable[[int], Tensor], count: int, *keys: int | str
) -> Tensor:
    """Draw real images of every class that the first expert classifies right.

    Where a class has too few of them, those follow that the next expert classifies right, and so on; in the end those
    that none does.

    Args:
        store: The training images.
        each: Images per class.
        logits: Function from the number of an expert to its logits (N, C) for all images of the store.
        count: Number of experts.
        keys: Coordinates of the draw: seed and purpose.

    Returns:
        Positions in the store (C, each), int64.

    Raises:
        BaconError: A class has too few images.
    """
    check_enough(store, each)
    table, valid = store.class_table
    by = torch.full_like(store.labels, count)  # the first expert that classifies the image right
    for number in range(count):
        if bool((((by[table] < count) & valid).sum(1) >= each).all()):
            break
        right = logits(number).argmax(1) == store.labels
        by = torch.where((by == count) & right, number, by)
    draws = rng.bits(*keys, torch.arange(len(store), device=table.device))
    order = draws[table].argsort(dim=1)
    shuffled = table.gather(1, order)
    rank = by[table].masked_fill(~valid, count + 1).gather(1, order)
    return shuffled.gather(1, rank.argsort(dim=1, stable=True))[:, :each]


def agreed(logits: Tensor, labels: Tensor) -> Tensor:
    """Average what those experts say of an image that classify it right.

    Args:
        logits: (E, M, C), of E experts for M images.
        labels: (M,), int64.

    Returns:
        (M, C): for an image that no expert classifies right, the average of all of them.
    """
    right = logits.argmax(2) == labels
    counted = (right | ~right.any(0)).to(logits.dtype)
    return (logits * counted[..., None]).sum(0) / counted.sum(0)[:, None]
