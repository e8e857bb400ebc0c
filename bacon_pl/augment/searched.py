"""AutoAugment and RandAugment: policies of ordinary image operations, for training alone; torchvision computes them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torchvision.transforms import v2

from bacon_pl import rng
from bacon_pl.augment.base import Augmentation
from bacon_pl.errors import BaconError


class _TorchvisionAugmentation(Augmentation):
    """Applies a torchvision transform to every image by itself."""

    on_pixels = True
    transform: v2.Transform

    def siamese(self, x: Tensor, rows: Tensor, *keys: rng.Key) -> Tensor:
        """Refuse: these operations have no gradient.

        Raises:
            BaconError: Always.
        """
        raise BaconError(
            f"{type(self).__name__} lets no gradient through to the images: give it as --evaluation.augment and leave "
            "--model.augment at DSA."
        )

    def per_image(self, x: Tensor, *keys: int | str) -> Tensor:
        """See :meth:`Augmentation.per_image`; images are pixels in [0, 1]."""
        # torchvision draws from the global generator of the CPU, wherever the images are.
        with rng.seeded(*keys):
            return torch.stack([self.transform(image) for image in x])


class AutoAugment(_TorchvisionAugmentation):
    """Apply one of 25 pairs of operations that were found by search (arXiv 1805.09501).

    Args:
        policy: The dataset that the pairs were found on.
    """

    def __init__(self, policy: Literal["cifar10", "imagenet", "svhn"] = "cifar10") -> None:
        self.policy = policy
        self.transform = v2.AutoAugment(v2.AutoAugmentPolicy(policy))


class RandAugment(_TorchvisionAugmentation):
    """Apply random operations of one strength (arXiv 1909.13719).

    Args:
        num_ops: Operations per image.
        magnitude: Their strength, from 0 to 30.

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
