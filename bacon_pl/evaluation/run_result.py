"""What one evaluation run found out, as plain tensors on the CPU: all that reports are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from bacon_pl.learners import accuracies

Variant = Literal["given", "hard", "plain"]


@dataclass(frozen=True)
class RunResult:
    """K networks' training and test.

    Attributes:
        training_set: What they learned from: ``distilled``, ``tiles``, ``random``, ``herding``,
            ``k_center`` or ``whole``.
        architecture: Its name.
        variant: The recipe: the one ``given``, without its soft labels (``hard``), or without its augmentation and
            mixing (``plain``).
        recipe: The recipe's numbers and names.
        seed: Seed of every draw.
        confusion: (K, C, C) int64: test images of class i (row) that a network took for class j (column).
        loss: (K, epochs): mean training loss of every epoch.
        curve: (K, P): test accuracy in percent during training; P is 0 where it was not followed.
        curve_epochs: After which epochs, P of them.
        storage_bytes: Bytes of one network's images at one byte a value.
        train_images: Images one network saw.
    """

    training_set: str
    architecture: str
    variant: Variant
    recipe: dict[str, Any]
    seed: int
    confusion: Tensor
    loss: Tensor = field(repr=False)
    curve: Tensor = field(repr=False)
    curve_epochs: tuple[int, ...]
    storage_bytes: int
    train_images: int

    @property
    def accuracies(self) -> Tensor:
        """Top-1 accuracy of every network in percent: (K,)."""
        return accuracies(self.confusion)

    @property
    def per_class(self) -> Tensor:
        """Accuracy of every network on every class in percent: (K, C); NaN for a class without test images."""
        return 100 * self.confusion.diagonal(dim1=1, dim2=2) / self.confusion.sum(2)


@dataclass(frozen=True)
class Embedded:
    """Real and synthetic images in the feature space of one network.

    Attributes:
        real: (n, d).
        real_labels: (n,) int64.
        synthetic: (m, d).
        synthetic_labels: (m,) int64.
    """

    real: Tensor
    real_labels: Tensor
    synthetic: Tensor
    synthetic_labels: Tensor
