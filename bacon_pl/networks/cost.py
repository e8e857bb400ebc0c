"""The cost of one image in a network: operations and memory, counted rather than timed to make plans reproducible."""

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
    """Provide a blank image while the network is in evaluation mode, which keeps running statistics unchanged."""
    reference = next(network.parameters())
    was_training = network.training
    network.eval()
    yield torch.zeros(1, *image, device=reference.device, dtype=reference.dtype)
    network.train(was_training)


def forward_flops(network: Network, image: tuple[int, int, int]) -> float:
    """Count the floating-point operations of the forward pass of one image, whose shape is ``image``, (ch, H, W)."""
    counter = FlopCounterMode(display=False)
    with _one_image(network, image) as x, counter, torch.no_grad():
        network(x)
    return float(counter.get_total_flops())


def activation_bytes(network: Network, image: tuple[int, int, int], read: Read | None = None) -> int:
    """Count the bytes that the forward pass of one image keeps for the backward pass.

    Args:
        network: The architecture.
        image: Channels, height and width.
        read: Function that runs the pass; by default it computes embeddings and logits.
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
    """Count the values of one image over which each normalization layer takes its statistics.

    The batch dimension of batch norm is not counted.

    Args:
        network: The architecture.
        image: Channels, height and width.

    Returns:
        One number per normalization layer, in order of execution.
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
