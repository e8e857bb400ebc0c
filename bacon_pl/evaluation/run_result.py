"""The results of one evaluation run as tensors on the CPU, from which reports are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from bacon_pl.learners import accuracies

Variant = Literal["given", "hard", "plain", "fixed_lr"]


@dataclass(frozen=True)
class RunResult:
    """Results of the training and the test of K networks.

    Attributes:
        training_set: Name of the training set: ``distilled``, ``tiles``, ``random``, ``herding``, ``k_center`` or
            ``whole``.
        architecture: Name of the architecture.
        variant: Variant of the recipe: unchanged (``given``), without soft labels (``hard``), without augmentation
            and mixing (``plain``), or with a fixed learning rate instead of the set's own (``fixed_lr``).
        recipe: Settings of the recipe.
        seed: Seed of every draw.
        confusion: (K, C, C), int64: number of test images of class i (row) classified as class j (column).
        loss: (K, epochs), mean training loss of every epoch.
        curve: (K, P), test accuracy in percent during the training; P is 0 if it was not measured.
        curve_epochs: Numbers of finished epochs, one for each of the P columns of ``curve``.
        storage_bytes: Bytes of the stored images of one network at one byte per value.
        train_images: Number of images on which each network was trained.
        storage: Bytes of all that one network needs (see :func:`bacon_pl.evaluation.storage`); None if not counted.
        measured: What was picked by measuring, as JSON values; empty where nothing was.
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
    storage: Mapping[str, int] | None = None
    measured: tuple[Mapping[str, Any], ...] = ()

    @property
    def accuracies(self) -> Tensor:
        """Top-1 accuracy of every network in percent, (K,)."""
        return accuracies(self.confusion)

    @property
    def per_class(self) -> Tensor:
        """Accuracy of every network on every class in percent, (K, C); NaN for a class without test images."""
        return 100 * self.confusion.diagonal(dim1=1, dim2=2) / self.confusion.sum(2)


@dataclass(frozen=True)
class Embedded:
    """Real and synthetic images in the feature space of one network.

    Attributes:
        real: Embeddings of real images (n, d).
        real_labels: (n,), int64.
        synthetic: Embeddings of synthetic images (m, d).
        synthetic_labels: (m,), int64.
    """

    real: Tensor
    real_labels: Tensor
    synthetic: Tensor
    synthetic_labels: Tensor
