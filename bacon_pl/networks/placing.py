"""Tensors and networks that are made on the host and used on a GPU."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn


def placed(t: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Copy a tensor to a device without waiting for what the device has still to do.

    On a GPU, the copy comes from pinned memory and takes its turn among the device's work.

    Args:
        t: A tensor on the host or on the device.
        device: Where it is needed.
        dtype: Its type there; by default its own.

    Returns:
        The tensor on the device, which shares its memory with ``t`` if nothing had to be done.
    """
    t = t.to(dtype or t.dtype)
    if device.type == "cuda" and t.device.type == "cpu":
        return t.pin_memory().to(device, non_blocking=True)
    return t.to(device)


def place(network: nn.Module, device: torch.device | str, dtype: torch.dtype | None = None) -> None:
    """Move a new network to a device as :func:`placed` does a tensor.

    Networks are built on the host, so that their weights do not depend on the device.

    Args:
        network: The network, none of whose parameters an optimizer holds yet.
        device: Where it is needed.
        dtype: Type of its floating-point numbers; by default their own.
    """
    device = torch.device(device)
    if dtype is not None:
        network.to(dtype)
    if device.type == "cuda":
        for t in itertools.chain(network.parameters(), network.buffers()):
            if t.device.type == "cpu":
                t.data = t.data.pin_memory()
    network.to(device, non_blocking=True)
