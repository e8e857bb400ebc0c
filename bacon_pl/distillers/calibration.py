"""NCFM's second step of an iteration: the synthetic images as a trained network classifies them (arXiv 2502.20653)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bacon_pl.distributed import all_reduce_sum
from bacon_pl.objectives import CrossEntropy

if TYPE_CHECKING:
    from bacon_pl.distillers.distribution_matching import DistributionMatching

TERM = "calibration"
"""Name of the term in the logs."""


def calibrate(distiller: DistributionMatching, iteration: int, weight: float) -> tuple[Tensor, Tensor]:
    """Compute the cross-entropy of the synthetic images under the trained network of an iteration's pair.

    The images are augmented anew, one draw per class. All processes of a run call this together and share the classes.

    Args:
        distiller: Whose images and pairs these are.
        iteration: Number of the iteration.
        weight: Weight of the term.

    Returns:
        The term of each class (C,), and the gradient of its sum by the images (C·ipc, ch, H, W).
    """
    d = distiller
    gradient = torch.zeros_like(d.synthetic.by_class())
    found = gradient.new_zeros(len(gradient))
    entropy = CrossEntropy(weight, accuracy="none")
    for _, classes in d.matching.own_blocks():
        canvases = d.synthetic.by_class()[classes].requires_grad_()
        x = d.augment.siamese(d.synthetic.expand(canvases), classes, d.seed, "calibration augment", iteration)
        logits = d.pool.trained_forward(iteration, x.flatten(0, 1))[1].unflatten(0, x.shape[:2])  # type: ignore[union-attr]
        term = entropy.term(logits, classes, logits.new_zeros(()))
        gradient[classes] = torch.autograd.grad(term.sum(), canvases)[0]
        found[classes] = term.detach()
    all_reduce_sum([gradient, found])
    return found, gradient.flatten(0, 1)
