"""How many images fit into the free memory of a device."""

from __future__ import annotations

from typing import Literal

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


def images_at_once(chosen: int | Literal["auto"], each: int, reserved_gib: float, device: torch.device) -> int:
    """Return how many images are embedded at once; all processes must call this together, and get the same number.

    A number by memory is a power of two, so that a little more or less free memory does not change it.

    Args:
        chosen: The number, or ``auto``: by the free memory of a GPU, and ``AT_ONCE`` on other devices.
        each: Bytes of the activations of one image.
        reserved_gib: GiB that are needed for other things.
        device: The device.

    Returns:
        At least 1.
    """
    if chosen != "auto":
        return chosen
    free = free_bytes(device)
    own = AT_ONCE if free is None else 1 << max(int(SHARE * (free - reserved_gib * 2**30)) // each, 1).bit_length() - 1
    return min(gather_objects(own))
