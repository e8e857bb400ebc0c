"""How many images fit into the free memory of a device."""

from __future__ import annotations

import torch

from bacon_pl.distributed import gather_objects

AT_ONCE = 512
"""Images at once where memory is not asked, as on a CPU, which gains nothing by more."""

SHARE = 0.5
"""Share of the free memory that is used: a pass also takes what its layers work with, and other programs want some."""


def free_bytes(device: torch.device) -> int | None:
    """Return the memory of a GPU that is free or kept by torch for later use; None for other devices."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return None
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def images_at_once(each: int, reserved: float, device: torch.device) -> int:
    """Return how many images a device embeds at once; all processes must call this together, and get the same number.

    The number is a power of two, so that a little more or less free memory does not change it.

    Args:
        each: Bytes of the activations of one image.
        reserved: Bytes that are needed for other things.
        device: The device.

    Returns:
        At least 1; ``AT_ONCE`` for other devices than GPUs.
    """
    free = free_bytes(device)
    own = AT_ONCE if free is None else 1 << max(int(SHARE * (free - reserved)) // each, 1).bit_length() - 1
    return min(gather_objects(own))
