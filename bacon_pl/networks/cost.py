"""What one image costs in a network: arithmetic and memory, counted and not timed, so that plans are reproducible."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bacon_pl.networks.base import Network


@contextlib.contextmanager
def _one_image(network: Network, image: tuple[int, int, int]) -> Iterator[Tensor]:
    """Hand out one blank image for a pass in evaluation mode, which leaves running statistics alone."""
    reference = next(network.parameters())
    was_training = network.training
    network.eval()
    yield torch.zeros(1, *image, device=reference.device, dtype=reference.dtype)
    network.train(was_training)


def forward_flops(network: Network, image: tuple[int, int, int]) -> float:
    """Count the floating-point operations of one image's forward pass; ``image`` is (ch, H, W)."""
    counter = FlopCounterMode(display=False)
    with _one_image(network, image) as x, counter, torch.no_grad():
        network(x)
    return float(counter.get_total_flops())


def activation_bytes(network: Network, image: tuple[int, int, int]) -> int:
    """Count the bytes that one image's forward pass keeps for the backward one; ``image`` is (ch, H, W)."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with _one_image(network, image) as x, torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        outputs = network(x.requires_grad_())
    del outputs
    return sum(kept.values())
