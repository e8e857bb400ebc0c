"""AutoAugment and RandAugment from torchvision. They are not differentiable, so they serve for evaluation only."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torchvision.transforms import v2

from bacon_pl import rng
from bacon_pl.augment.base import Augmentation
from bacon_pl.errors import BaconError


class _TorchvisionAugmentation(Augmentation):
    """A torchvision transform, applied to every image separately."""

    on_pixels = True
    transform: v2.Transform

    def siamese(self, x: Tensor, rows: Tensor, *keys: rng.Key) -> Tensor:
        """Raise an error, since these operations have no gradient.

        Raises:
            BaconError: Always.
        """
        raise BaconError(
            f"{type(self).__name__} lets no gradient through to the images: give it as --evaluation.augment and leave "
            "--model.augment at DSA."
        )

    def per_image(self, x: Tensor, *keys: int | str) -> Tensor:
        """See :meth:`Augmentation.per_image`; images are pixels in [0, 1]."""
        # torchvision draws from the CPU's global generator, regardless of the images' device.
        with rng.seeded(*keys):
            return torch.stack([self.transform(image) for image in x])


class AutoAugment(_TorchvisionAugmentation):
    """Apply one of 25 pairs of operations found by a search (arXiv 1805.09501).

    Args:
        policy: Dataset on which the pairs were found.
    """

    def __init__(self, policy: Literal["cifar10", "imagenet", "svhn"] = "cifar10") -> None:
        self.policy = policy
        self.transform = v2.AutoAugment(v2.AutoAugmentPolicy(policy))


class RandAugment(_TorchvisionAugmentation):
    """Apply random operations of a fixed strength (arXiv 1909.13719).

    Args:
        num_ops: Number of operations per image.
        magnitude: Strength of the operations, from 0 to 30.

    Raises:
        BaconError: An argument is out of range.
    """

    def __init__(self, num_ops: int = 2, magnitude: int = 9) -> None:
        if num_ops < 1 or not 0 <= magnitude <= 30:
            raise BaconError(
                f"RandAugment's num_ops must be at least 1 and its magnitude from 0 to 30, got {num_ops} and "
                f"{magnitude}."
            )
        self.num_ops = num_ops
        self.magnitude = magnitude
        self.transform = v2.RandAugment(num_ops, magnitude)
