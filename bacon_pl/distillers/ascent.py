"""The ascent of an objective's own parameters, beside the descent of the images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bacon_pl import rng
from bacon_pl.objectives import Objective, Readings


class Ascent:
    """The adversary of an objective during a run: its pass, its gradient and its optimizer. Without one, it does
    nothing.

    What the adversary returns is a leaf of the graph of the terms. So blocks of classes and processes can share the
    work on the terms: each contributes its part of the gradient by the leaves, and the sum goes back through the
    adversary's own pass.

    Args:
        objective: The objective.
        kept: What it keeps of some images, (B, …) each, for shapes, type and device.
        seed: Seed of the run, on which the initial values depend.

    Attributes:
        leaves: What the adversary has returned in this iteration, as leaves that require a gradient.
    """

    def __init__(self, objective: Objective, kept: Readings, seed: int) -> None:
        with rng.seeded(seed, "adversary"):
            self.adversary = objective.adversary({name: value.unsqueeze(0) for name, value in kept.items()})
        if self.adversary is not None:
            like = next(iter(kept.values()))
            self.adversary.to(like.device, like.dtype)
            # Every group has a learning rate of its own.
            self._optimizer = torch.optim.SGD(self.adversary.param_groups(), lr=1.0, maximize=True)
        self._returned: dict[str, Tensor] = {}
        self.leaves: dict[str, Tensor] = {}

    def draw(self, *keys: rng.Key) -> None:
        """Run the adversary's pass of an iteration; see :meth:`Adversary.forward`."""
        if self.adversary is None:
            return
        device = next(self.adversary.parameters()).device
        with torch.autocast(device.type, enabled=False):
            self._returned = self.adversary(*keys)
        self.leaves = {name: value.detach().requires_grad_() for name, value in self._returned.items()}

    def by_block(self, blocks: int) -> list[Tensor]:
        """Return zeros for the gradients by ``leaves``, with a row for each block of classes.

        Rows are filled in by the processes that have their blocks, and added up in their order. So the sum has the same
        bits whichever process has which block.
        """
        return [leaf.new_zeros(blocks, *leaf.shape) for leaf in self.leaves.values()]

    def differentiate(self, by_leaf: Sequence[Tensor | None]) -> None:
        """Compute the gradient with respect to the parameters.

        Args:
            by_leaf: Gradients of the sum of the terms over all classes, one for each of ``leaves``; None is zero.
        """
        if self.adversary is None:
            return
        parameters = list(self.adversary.parameters())
        used = [(value, g) for value, g in zip(self._returned.values(), by_leaf, strict=True) if g is not None]
        if not used:
            return
        ends, weights = [value for value, _ in used], [g for _, g in used]
        gradients = torch.autograd.grad(ends, parameters, weights, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self._returned = {}

    def gradients(self) -> list[Tensor]:
        """Return the gradients of the parameters."""
        parameters = () if self.adversary is None else self.adversary.parameters()
        return [p.grad for p in parameters if p.grad is not None]

    def step(self) -> None:
        """Take one step up."""
        if self.adversary is not None:
            self._optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Return parameters, buffers and momentum for a checkpoint."""
        if self.adversary is None:
            return {}
        return {"adversary": self.adversary.state_dict(), "adversary_optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state from :meth:`state_dict`."""
        if self.adversary is not None:
            self.adversary.load_state_dict(state["adversary"])
            self._optimizer.load_state_dict(state["adversary_optimizer"])
