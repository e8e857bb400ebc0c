"""Random draws of real images, the same number from every class."""

from __future__ import annotations

import torch
from torch import Tensor

from bacon_pl import rng
from bacon_pl.data.images import LabeledImages
from bacon_pl.errors import BaconError


def draw_real(store: LabeledImages, ipc: int, draws: int, *keys: int | str) -> Tensor:
    """Draw real images of every class.

    Args:
        store: The training images.
        ipc: Images per class and draw.
        draws: Number of draws. If a class has fewer than ``draws · ipc`` images, some of them appear in several draws,
            but never twice in the same draw.
        keys: Coordinates of the draw: seed and purpose.

    Returns:
        Positions in the store (C, draws · ipc), int64, one draw after another.

    Raises:
        BaconError: A class has fewer than ``ipc`` images.
    """
    check_enough(store, ipc)
    counts = store.counts
    table, valid = store.class_table
    classes = torch.arange(len(table), device=table.device)[:, None]
    keyed = rng.bits(*keys, classes, torch.arange(table.shape[1], device=table.device))
    shuffled = table.gather(1, keyed.masked_fill(~valid, -1).argsort(dim=1, descending=True, stable=True))
    position = torch.arange(draws * ipc, device=table.device) % counts[:, None]
    return shuffled.gather(1, position)


def check_enough(store: LabeledImages, ipc: int, remedy: str = "lower --model.ipc") -> None:
    """Check that every class has enough images.

    Args:
        store: The training images.
        ipc: Images needed per class.
        remedy: What the user can do instead of adding images, for the message.

    Raises:
        BaconError: A class has fewer than ``ipc`` images.
    """
    counts = store.counts
    smallest = int(counts.argmin())
    if not int(counts[smallest]):
        raise BaconError(
            f"class '{store.class_names[smallest]}' has no training images: add some, or number the labels without "
            "gaps."
        )
    if int(counts[smallest]) < ipc:
        raise BaconError(
            f"ipc {ipc} asks for more images per class than class '{store.class_names[smallest]}' has "
            f"({int(counts[smallest])}): {remedy} or add images."
        )
