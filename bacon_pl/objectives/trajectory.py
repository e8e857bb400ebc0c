"""Trajectory matching: how far a student trained on synthetic images ends from an expert, and the gradient of that.

The student takes N steps of plain SGD from an expert's weights. What is matched is where it ends (MTT, arXiv
2203.11932). The gradient goes through all of the steps; there are several ways to compute it behind one function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from bacon_pl.errors import unknown_name
from bacon_pl.objectives.slopes import Slopes

Way = Literal["exact", "graph", "tesla", "tesla_direct"]
"""How the gradient is computed.

``exact`` goes back through the steps one at a time, with the graph of one step in memory. ``graph`` keeps the graph of
all steps (as MTT's published code does), whose memory grows with their number. Both are the gradient. TESLA (arXiv
2211.10586) is an approximation, exact for a single step only: it takes the weights of every step for constants.
``tesla_direct`` is what its formula says, ``tesla`` what its published code computes, half of that for the images."""

View = Callable[[Tensor, int], Tensor]
"""Differentiable augmentation of a batch at a step. The same step must always give the same draw."""


def unchanged(images: Tensor, step: int) -> Tensor:
    """Return ``images``: the view without augmentation."""
    return images


@dataclass(frozen=True)
class Student:
    """The training of a student on synthetic images.

    Args:
        slopes: Derivatives of its loss on one batch.
        batches: Positions of the images of each step, (B,) int64 each and without repeats.
        view: Augmentation of the batch of a step.
    """

    slopes: Slopes
    batches: Sequence[Tensor]
    view: View = unchanged

    def path(self, start: Tensor, images: Tensor, labels: Tensor, step_size: Tensor) -> list[Tensor]:
        """Return the weights before the first step and after each, N+1 vectors (P,), without a graph."""
        weights = [start.detach()]
        for step, batch in enumerate(self.batches):
            with torch.no_grad():
                seen = self.view(images[batch], step)
            slope = self.slopes.first(weights[-1], seen, labels[batch])
            weights.append(weights[-1] - step_size.detach() * slope)
        return weights


class Matched(NamedTuple):
    """The trajectory loss and its gradients.

    Attributes:
        loss: 0-d; 1 is that of a student that has not moved.
        images: (M, ch, H, W).
        labels: (M, C), with respect to the logits of soft labels; None for hard labels.
        step_size: 0-d.
    """

    loss: Tensor
    images: Tensor
    labels: Tensor | None
    step_size: Tensor


def trajectory_loss(end: Tensor, start: Tensor, target: Tensor) -> Tensor:
    """Compute the squared distance of a student's end from the target, as a share of that of the start (0-d)."""
    return (end - target).square().sum() / (start - target).square().sum()


def match_trajectory(
    way: Way, student: Student, start: Tensor, target: Tensor, images: Tensor, labels: Tensor, step_size: Tensor
) -> Matched:
    """Compute the trajectory loss and its gradients by the images, the step size and, if they are soft, the labels.

    Args:
        way: How; see :data:`Way`.
        student: The training of the student.
        start: The expert's weights from which the student starts, (P,).
        target: The expert's later weights, (P,).
        images: All synthetic images (M, ch, H, W), tiles cut out.
        labels: (M,), int64; or logits (M, C), floating point.
        step_size: Learning rate of the student, 0-d.

    Returns:
        The loss and the gradients, without a graph.

    Raises:
        BaconError: There is no such way.
    """
    if way not in get_args(Way):
        raise unknown_name("way to a trajectory's gradient", str(way), get_args(Way))
    run = _in_one_graph if way == "graph" else _step_by_step
    return run(way, student, start.detach(), target.detach(), images.detach(), labels.detach(), step_size.detach())


def _step_by_step(
    way: Way, student: Student, start: Tensor, target: Tensor, images: Tensor, labels: Tensor, step_size: Tensor
) -> Matched:
    """Go back from the last step to the first, with the graph of one step at a time.

    With λ the gradient of the loss by the weights after a step and g the slope of the step, the step passes on
    λ − β·∂⟨g, λ⟩/∂θ, and adds −β·∂⟨g, λ⟩/∂x to the gradient of its images and −⟨g, λ⟩ to that of the step size.
    """
    path = student.path(start, images, labels, step_size)
    by_images, by_step_size = torch.zeros_like(images), torch.zeros_like(step_size)
    by_labels = torch.zeros_like(labels) if labels.is_floating_point() else None
    direction = 2 * (path[-1] - target) / (start - target).square().sum()
    loss = trajectory_loss(path.pop(), start, target)
    for step in range(len(student.batches) - 1, -1, -1):
        batch = student.batches[step]
        with torch.enable_grad():
            own = images[batch].requires_grad_()
            seen = student.view(own, step)
        onward = way == "exact" and step > 0
        pull = student.slopes.second(path.pop(), seen, labels[batch], direction, by_weights=onward)
        # The augmentation is differentiated once, so it may be of any kind.
        by_own = pull.images if seen is own else torch.autograd.grad(seen, own, pull.images)[0]
        by_images.index_add_(0, batch, -step_size * by_own)
        if by_labels is not None and pull.labels is not None:
            by_labels.index_add_(0, batch, -step_size * pull.labels)
        by_step_size -= pull.value
        if pull.weights is not None:
            direction = direction - step_size * pull.weights
    if way == "tesla":
        by_images /= 2
    return Matched(loss, by_images, by_labels, by_step_size)


def _in_one_graph(
    way: Way, student: Student, start: Tensor, target: Tensor, images: Tensor, labels: Tensor, step_size: Tensor
) -> Matched:
    """Differentiate through the graph of all steps."""
    with torch.enable_grad():
        images, step_size = images.requires_grad_(), step_size.requires_grad_()
        soft = labels.is_floating_point()
        labels = labels.requires_grad_() if soft else labels
        weights = start.clone().requires_grad_()
        for step, batch in enumerate(student.batches):
            loss = student.slopes.loss(weights, student.view(images[batch], step), labels[batch])
            (slope,) = torch.autograd.grad(loss, weights, create_graph=True)
            weights = weights - step_size * slope
        total = trajectory_loss(weights, start, target)
        found = torch.autograd.grad(total, [images, step_size, *([labels] if soft else [])])
    return Matched(total.detach(), found[0], found[2] if soft else None, found[1])
