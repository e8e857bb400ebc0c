"""A distilled set as a map-style dataset of its expanded images."""

from __future__ import annotations

from functools import cached_property
from typing import Any, overload

import numpy as np
from torch import Tensor

from bacon_pl import partition
from bacon_pl.distilled_set.content import Content
from bacon_pl.distilled_set.indexing import Index, is_single, position, positions
from bacon_pl.distilled_set.labels import expand_soft_labels


class Expanded(Content):
    """The expanded images of a :class:`~bacon_pl.distilled_set.DistilledSet`, by index and all at once."""

    @cached_property
    def _expanded(self) -> tuple[Tensor, Tensor]:
        return (
            partition.expand(self.images, self.factor, self.upscaling),
            partition.expand_labels(self.labels, self.factor),
        )

    def expanded(self) -> tuple[Tensor, Tensor]:
        """Return all expanded images with their labels, as used in evaluation.

        Returns:
            Images (factor²·N, ch, H, W), float32 in normalized pixel space, and labels (factor²·N,), int64. They are
            computed once and shared between calls, so do not modify them.
        """
        return self._expanded

    def expanded_soft_labels(self) -> Tensor | None:
        """Return the soft labels of all expanded images, in the order of :meth:`expanded`.

        Returns:
            (factor²·N, C), float16, logits or probabilities as :attr:`label_kind` says; None if the set has none. The
            tiles of a canvas have the same label if there is only one for the canvas.
        """
        return None if self.soft_labels is None else expand_soft_labels(self.soft_labels, self.factor)

    def __len__(self) -> int:
        return len(self.images) * self.factor**2

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> tuple[Tensor, int]: ...

    @overload
    def __getitem__(self, index: Index) -> tuple[Tensor, Tensor]: ...

    def __getitem__(self, index: Any) -> tuple[Tensor, int] | tuple[Tensor, Tensor]:
        """Return one expanded image with its class, or several of them.

        Soft labels are not part of it: :meth:`expanded_soft_labels` has them in the same order.

        Args:
            index: An integer; or a slice, or a list, tensor or array of integers or of ``len(self)`` booleans.
                Negative numbers count from the end.

        Returns:
            For an integer, an image (ch, H, W) and its label as an int; otherwise images (N, ch, H, W) and labels (N,),
            int64, as new tensors.

        Raises:
            IndexError: There is no such image, or the number of booleans is not ``len(self)``.
            TypeError: The index has another type.
        """
        images, labels = self._expanded
        if is_single(index):
            single = position(index, len(self))
            return images[single], int(labels[single])
        several = positions(index, len(self))
        return images[several], labels[several]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order, under the same attribute name as in torchvision's datasets."""
        return self.meta.class_names

    @property
    def class_to_idx(self) -> dict[str, int]:
        """Labels by class name. If several classes have the same name, the label of the last one."""
        return {name: label for label, name in enumerate(self.classes)}

    @property
    def targets(self) -> Tensor:
        """Classes of the expanded images, (factor²·N,), int64, in the order of indexing. Do not modify them."""
        return self._expanded[1]
