"""First and second derivatives of a student's loss on one batch, as plain functions of tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, grad_and_value

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A loss (0-d) as a function of weights (P,), images (B, ch, H, W) and labels: (B,) int64, or logits (B, C)."""


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the mean cross-entropy of a batch, differentiable twice.

    Args:
        logits: (B, C).
        labels: (B,), int64; or the logits (B, C) of soft labels.

    Returns:
        0-d.
    """
    if labels.is_floating_point():
        return -(labels.softmax(1) * logits.log_softmax(1)).sum(1).mean()
    return F.cross_entropy(logits, labels)


class Pull(NamedTuple):
    """Derivatives of ⟨∂loss/∂weights, direction⟩ at one step.

    Attributes:
        value: The product itself, 0-d.
        weights: Its gradient with respect to the weights (P,), the Hessian times the direction; None if not asked for.
        images: Its gradient with respect to the images.
        labels: Its gradient with respect to soft labels; None for hard ones.
    """

    value: Tensor
    weights: Tensor | None
    images: Tensor
    labels: Tensor | None


class Slopes:
    """The derivatives of a loss on one batch that a trajectory's gradient needs.

    Args:
        loss: The loss. It must be differentiable twice, so its forward pass must not be compiled itself.
        compiled: Trace and compile each derivative as one function, the second ones included. This changes results by
            rounding.
    """

    def __init__(self, loss: Loss, compiled: bool = False) -> None:
        self.loss = loss
        self._first: Callable[..., Tensor] | None = None
        self._second: dict[tuple[int, ...], Callable[..., Any]] = {}
        self.compiled = compiled
        if compiled:
            settings: Any = torch._dynamo.config
            settings.recompile_limit = max(settings.recompile_limit, 64)  # a last batch may be smaller
            self._first = torch.compile(grad(loss), dynamic=False)

    def first(self, weights: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """Return the gradient of the loss with respect to the weights, (P,), without a graph."""
        weights, images, labels = weights.detach(), images.detach(), labels.detach()
        if self._first is not None:
            with torch.no_grad():
                return self._first(weights, images, labels)
        with torch.enable_grad():
            leaf = weights.requires_grad_()
            (slope,) = torch.autograd.grad(self.loss(leaf, images, labels), leaf)
        return slope

    def second(
        self, weights: Tensor, images: Tensor, labels: Tensor, direction: Tensor, by_weights: bool = True
    ) -> Pull:
        """Return the derivatives of the product of the slope with a direction.

        Args:
            weights: (P,).
            images: (B, ch, H, W).
            labels: (B,), int64, or logits (B, C).
            direction: (P,), held constant.
            by_weights: Whether the gradient with respect to the weights is needed, too.

        Returns:
            The product and its gradients, without a graph.
        """
        soft = labels.is_floating_point()
        wanted = [*([0] if by_weights else []), 1, *([2] if soft else [])]
        inputs = [weights.detach(), images.detach(), labels.detach()]
        if self.compiled:
            with torch.no_grad():
                gradients, value = self._traced(tuple(wanted))(*inputs, direction.detach())
        else:
            with torch.enable_grad():
                for i in {0, *wanted}:
                    inputs[i].requires_grad_()
                (slope,) = torch.autograd.grad(self.loss(*inputs), inputs[0], create_graph=True)
                value = torch.dot(slope, direction.detach())
                gradients = torch.autograd.grad(value, [inputs[i] for i in wanted])
        by = dict(zip(wanted, gradients, strict=True))
        return Pull(value.detach(), by.get(0), by[1], by.get(2))

    def _traced(self, wanted: tuple[int, ...]) -> Callable[..., Any]:
        """Return the compiled second derivatives by some of the inputs."""
        if wanted not in self._second:

            def product(weights: Tensor, images: Tensor, labels: Tensor, direction: Tensor) -> Tensor:
                return torch.dot(grad(self.loss)(weights, images, labels), direction)

            self._second[wanted] = torch.compile(grad_and_value(product, argnums=wanted), dynamic=False)
        return self._second[wanted]
