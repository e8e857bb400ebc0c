"""What one image costs in a network: arithmetic and memory, counted and not timed, so that plans are reproducible."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils.flop_counter import FlopCounterMode

from bacon_pl.networks.base import Network, Read


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


def activation_bytes(network: Network, image: tuple[int, int, int], read: Read | None = None) -> int:
    """Count the bytes that one image's forward pass keeps for the backward one.

    Args:
        network: The architecture.
        image: Channels, height and width.
        read: What is kept of the pass; by default embedding and logits.
    """
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with _one_image(network, image) as x, torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        outputs = network(x.requires_grad_(), read)
    del outputs
    return sum(kept.values())


def normalizations(network: Network, image: tuple[int, int, int]) -> list[int]:
    """Over how many values of one image each normalization takes its statistics, in the order in which they run.

    Batch norm takes its own over the batch, too, which is not counted.

    Args:
        network: The architecture.
        image: Channels, height and width.
    """
    found: list[int] = []

    def count(module: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        groups = module.num_groups if isinstance(module, nn.GroupNorm) else 1
        per_channel = isinstance(module, (_BatchNorm, _InstanceNorm))
        found.append(inputs[0][0, 0].numel() if per_channel else inputs[0][0].numel() // groups)

    kinds = (nn.GroupNorm, nn.LayerNorm, _BatchNorm, _InstanceNorm)
    hooks = [module.register_forward_hook(count) for module in network.modules() if isinstance(module, kinds)]
    with _one_image(network, image) as x, torch.no_grad():
        network.trace(x)
    for hook in hooks:
        hook.remove()
    return found
