"""What gives soft labels during a training: one teacher, or several whose labels are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from bacon_pl.data import DatasetMeta, LabeledImages
from bacon_pl.learners.recipe import Recipe
from bacon_pl.learners.soft_labels import SoftLabels
from bacon_pl.learners.teachers import Teacher, teachers


class Labeler(Protocol):
    """A source of soft labels."""

    def prepare(self, device: torch.device) -> None:
        """Get ready for a device; all processes of a run call this together."""

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits (B, C) of normalized images (B, ch, H, W)."""


class Ensemble:
    """Several teachers, whose logits or probabilities are averaged.

    Args:
        teachers: The teachers.
        soft: Says what is averaged.
    """

    def __init__(self, teachers: Sequence[Teacher], soft: SoftLabels) -> None:
        self.teachers = tuple(teachers)
        self.soft = soft

    def prepare(self, device: torch.device) -> None:
        """Train the teachers if this has not been done; all processes of a run must call this together."""
        for teacher in self.teachers:
            teacher.prepare(device)

    def logits(self, x: Tensor) -> Tensor:
        """Return the averaged logits (B, C) of normalized images (B, ch, H, W)."""
        return self.soft.averaged([teacher.logits(x) for teacher in self.teachers])

    def tested(self, test: LabeledImages) -> list[dict[str, Any]]:
        """Describe the teachers with their test accuracies; all processes of a run must call this together.

        The accuracies are told, and nothing is chosen by them.

        Args:
            test: The test images, on the device of the teachers.
        """
        for teacher in self.teachers:
            teacher.test(test)
        return [teacher.described() for teacher in self.teachers]

    @property
    def bytes(self) -> int:
        """Bytes of the weights of all teachers."""
        return sum(teacher.bytes for teacher in self.teachers)


def labeler(recipe: Recipe, store: LabeledImages, meta: DatasetMeta, seed: int) -> Ensemble:
    """Make the teachers of a recipe's soft labels, which are trained when they are first needed.

    Args:
        recipe: Recipe of the students, with soft labels.
        store: The real training images, and no others.
        meta: Description of the dataset.
        seed: Seed of a teacher that is trained by the students' recipe; the settings of others have their own.
    """
    soft = recipe.soft_labels
    assert soft is not None
    if soft.teacher is None:
        return Ensemble([Teacher(recipe, store, meta, seed)], soft)
    return Ensemble(teachers(soft.teacher, store, meta, recipe.network, recipe.acceleration), soft)
