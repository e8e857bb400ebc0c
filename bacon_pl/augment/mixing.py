"""CutMix and MixUp: augmentations that mix the images of a training batch together with their labels."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

from bacon_pl import ranges, rng
from bacon_pl.errors import BaconError


class Mixing(ABC):
    """A mixing augmentation whose draws depend on their coordinates alone."""

    @abstractmethod
    def mix(self, x: Tensor, labels: Tensor, num_classes: int, *keys: int | str) -> tuple[Tensor, Tensor]:
        """Mix a training batch.

        Args:
            x: (B, ch, H, W), normalized.
            labels: (B,) int64, or probabilities (B, C).
            num_classes: Number of classes C.
            keys: Coordinates of the draw: seed, purpose, network, step.

        Returns:
            Images (B, ch, H, W) and label probabilities (B, C), float32 or of the type of ``labels``.
        """


class _TorchvisionMixing(Mixing):
    transform: type[v2.CutMix] | type[v2.MixUp]

    def __init__(self, alpha: float = 1.0, probability: float = 1.0) -> None:
        ranges.positive(f"{type(self).__name__}'s ", alpha=alpha)
        if not 0 < probability <= 1:
            raise BaconError(f"{type(self).__name__}'s probability must be above 0 and at most 1, got {probability}.")
        self.alpha = alpha
        self.probability = probability

    def mix(self, x: Tensor, labels: Tensor, num_classes: int, *keys: int | str) -> tuple[Tensor, Tensor]:
        """See :meth:`Mixing.mix`; every image is mixed with its neighbor, since the batch is already shuffled."""
        if self.probability < 1 and rng.derive(*keys, "mixed") >= self.probability * 2**63:
            return x, labels if labels.ndim == 2 else F.one_hot(labels, num_classes).float()
        with rng.seeded(*keys):
            mixed: tuple[Tensor, Tensor] = self.transform(alpha=self.alpha, num_classes=num_classes)(x, labels)
        return mixed


class CutMix(_TorchvisionMixing):
    """Paste a rectangle of one image into another and mix the labels by area (arXiv 1905.04899).

    Args:
        alpha: The areas' shares are drawn from Beta(alpha, alpha), one draw per batch.
        probability: Probability, above 0, that a batch is mixed at all.

    Raises:
        BaconError: An argument is out of range.
    """

    transform = v2.CutMix


class MixUp(_TorchvisionMixing):
    """Average two images and their labels with random weights (arXiv 1710.09412).

    Args:
        alpha: The weights are drawn from Beta(alpha, alpha), one draw per batch.
        probability: Of a batch to be mixed at all, above 0.

    Raises:
        BaconError: An argument is out of range.
    """

    transform = v2.MixUp
