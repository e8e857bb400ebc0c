"""Gradients of a network's weights, class by class: constants on real images, differentiable on synthetic ones.

On a GPU, classes run side by side as one program, ``torch.vmap`` of ``torch.func.grad``. On a CPU, where batched
convolutions take about twice as long (see docs/speed.md), they run one after another, each with its own graph. Tests
hold the two to each other.

A gradient that is to be differentiated again must not come from a compiled program or from the fused kernels, both of
which refuse that, so these passes run torch's own modules in full precision, whatever the plan of the run. Real images
need no second derivatives, so their passes may be compiled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from bacon_pl.networks import Network, Plan, StatelessNetwork

Gradients = dict[str, Tensor]


class WeightGradients:
    """Computes the gradient of each class's mean cross-entropy by some of the weights of a network.

    The network is in evaluation mode: batch norms use their running statistics and nothing is dropped, so the images of
    a class do not affect each other.

    Args:
        template: The architecture; its own weights are never used.
        names: Names of the weight tensors by which is differentiated.
        plan: How real images are passed.
        side_by_side: Whether classes run as one program; by default on a GPU, if the network can.
    """

    def __init__(self, template: Network, names: list[str], plan: Plan, side_by_side: bool | None = None) -> None:
        self.model = StatelessNetwork(template, plan._replace(bfloat16=False, fused=False))
        self.template = template.eval()
        self.names = names
        if side_by_side is None:
            side_by_side = template.batchable and next(template.parameters()).device.type == "cuda"
        self.side_by_side = side_by_side

    def real(
        self, state: Mapping[str, Tensor], x: Tensor, labels: Tensor, mask: Tensor | None, chunk: int
    ) -> Gradients:
        """Compute the gradients of real images, as constants.

        Args:
            state: Parameters and buffers of the network.
            x: Normalized images (R, n, ch, H, W) of R classes.
            labels: (R,), int64.
            mask: (R, n), bool, True where an image counts; None if all do.
            chunk: Number of images of a class that are passed at once. It changes results by rounding alone.

        Returns:
            (R, …) by the name of the weight tensor.
        """
        counts = torch.ones(x.shape[:2], device=x.device, dtype=x.dtype) if mask is None else mask.to(x.dtype)
        shares = counts / counts.sum(1, keepdim=True)
        found: Gradients = {}
        for part, share in zip(x.split(chunk, 1), shares.split(chunk, 1), strict=True):
            for name, gradient in self._gradients(state, part, labels, share, create_graph=False).items():
                found[name] = found[name] + gradient if name in found else gradient
        return found

    def synthetic(self, state: Mapping[str, Tensor], x: Tensor, labels: Tensor) -> Gradients:
        """Compute the gradients of synthetic images, differentiable by the images; see :meth:`real`."""
        shares = x.new_full(x.shape[:2], 1 / x.shape[1])
        return self._gradients(state, x, labels, shares, create_graph=True)

    @torch.enable_grad()
    def _gradients(
        self, state: Mapping[str, Tensor], x: Tensor, labels: Tensor, shares: Tensor, create_graph: bool
    ) -> Gradients:
        weights = {name: state[name].detach() for name in self.names}
        others = {name: t for name, t in state.items() if name not in weights}
        with torch.autocast(x.device.type, enabled=False):  # the Trainer's would bring the fused kernels with it
            if self.side_by_side:

                def loss(weights: Gradients, x: Tensor, labels: Tensor, shares: Tensor) -> Tensor:
                    logits = functional_call(self.template, {**weights, **others}, (x,), strict=True)[1]
                    return cross_entropy(logits, labels, shares)

                slopes = torch.vmap(torch.func.grad(loss), (None, 0, 0, 0))(weights, x, labels, shares)
                return dict(slopes) if create_graph else {name: g.detach() for name, g in slopes.items()}
            run: Any = self._plain if create_graph else self.model
            rows = []
            for images, label, share in zip(x, labels, shares, strict=True):
                leaves = {name: w.detach().requires_grad_() for name, w in weights.items()}
                logits = run({**leaves, **others}, images)[1]
                total = cross_entropy(logits, label, share)
                rows.append(torch.autograd.grad(total, list(leaves.values()), create_graph=create_graph))
        return {name: torch.stack(parts) for name, parts in zip(weights, zip(*rows, strict=True), strict=True)}

    def _plain(self, state: dict[str, Tensor], x: Tensor) -> Any:
        return functional_call(self.template, state, (x,), strict=True)


def cross_entropy(logits: Tensor, label: Tensor, shares: Tensor) -> Tensor:
    """Compute the weighted sum of the images' cross-entropies.

    Args:
        logits: (n, C).
        label: Label of all images, 0-d, int64.
        shares: Weights of the images (n,); they sum to 1 over all chunks of a class.

    Returns:
        0-d.
    """
    losses = F.cross_entropy(logits, label.expand(len(logits)), reduction="none")
    return (losses * shares).sum()
