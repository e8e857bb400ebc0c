"""The optimizer of the synthetic images in distribution matching."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from bacon_pl.distillers.batched_sgd import batched_sgd
from bacon_pl.distillers.pixel_adamw import PixelAdamW

if TYPE_CHECKING:
    from bacon_pl.distillers.distribution_matching import DistributionMatching


def image_optimizer(distiller: DistributionMatching) -> torch.optim.Optimizer:
    """Make the optimizer, which takes all classes' steps at once if the schedule is one step per class.

    Args:
        distiller: The distiller with the images and the settings.
    """
    d = distiller
    lr, momentum, classes = d.lr, d.momentum, d.meta.num_classes
    if d.optimizer == "adamw":
        mean, std = (d.meta.mean, d.meta.std) if d.space == "pixels" else ((0.0,), (1.0,))
        decay, each = d.weight_decay, d.per_class_steps
        return PixelAdamW(d.images, mean, std, classes, lr, weight_decay=decay, per_class_steps=each)
    if d.per_class_steps:
        lr, momentum = batched_sgd(lr, momentum, classes)
    return torch.optim.SGD([d.images], lr=lr, momentum=momentum)
