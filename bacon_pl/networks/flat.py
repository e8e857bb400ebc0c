"""A network as a function of one flat vector of weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.func import functional_call

from bacon_pl.errors import BaconError
from bacon_pl.networks.base import Network, Trace


class FlatNetwork:
    """A network whose parameters are one vector, in the order of its modules, each flattened row by row.

    Passes run torch's own modules in training mode, in the type of their inputs: they can be differentiated twice,
    which fused operators and compiled forward passes cannot. Buffers, such as running statistics, are never changed.

    Args:
        template: The architecture; its own weights are never used.

    Raises:
        BaconError: The network draws at random, as with dropout: its passes could not be repeated.
    """

    def __init__(self, template: Network) -> None:
        if template.draws_at_random:
            raise BaconError(
                f"{type(template).__name__} draws at random in training (dropout), so that the steps of a student "
                "cannot be repeated: give a network without dropout."
            )
        self.template = template.train()
        self.shapes = {name: p.shape for name, p in template.named_parameters()}
        self.sizes = [shape.numel() for shape in self.shapes.values()]

    def vector(self, state: Mapping[str, Tensor]) -> Tensor:
        """Put the parameters of a state, by name, into one vector (P,)."""
        return torch.cat([state[name].reshape(-1) for name in self.shapes])

    def logits(self, weights: Tensor, x: Tensor) -> Tensor:
        """Compute logits, differentiable any number of times.

        Args:
            weights: (P,).
            x: Normalized images (B, ch, H, W).

        Returns:
            (B, C).
        """
        parts = weights.split(self.sizes)
        state = {name: p.view(shape) for (name, shape), p in zip(self.shapes.items(), parts, strict=True)}
        state |= {name: b.clone() for name, b in self.template.named_buffers()}
        found: Tensor = functional_call(self.template, state, (x, _trace)).logits
        return found


def _trace(network: Network, x: Tensor) -> Trace:
    return network.trace(x)  # never by fused operators
