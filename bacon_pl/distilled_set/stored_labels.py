"""Soft labels stored for every augmented batch of every epoch, as FKD and SRe2L do (arXiv 2112.01528, 2306.13092).

Such labels belong to a set and to one way of training on it: they name the crop, the flip and the partner of each
image, and hold what a teacher said of the mixed batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

SEED = 42
"""Seed of the order of images in published labels."""


@dataclass(frozen=True)
class BatchLabels:
    """Stored labels of one augmented batch.

    Attributes:
        images: (B,), int64, positions of the images in the set; filled in by :meth:`StoredLabels.batch`.
        crops: (B, 4), float32: top and height as shares of the image's height, left and width of its width, in the
            order top, left, height, width.
        flipped: (B,), bool: whether the crop is mirrored from left to right.
        partner: (B,), int64, position in the batch of the image that is mixed in, or None if nothing is mixed.
        lam: Share of the first image in the mix, in [0, 1], or None.
        box: First row, first column, end row and end column of what CutMix pastes, or None for MixUp or no mixing.
        logits: (B, C), float16 or float32, the teacher's logits of the mixed batch.
    """

    images: Tensor
    crops: Tensor
    flipped: Tensor
    partner: Tensor | None
    lam: float | None
    box: tuple[int, int, int, int] | None
    logits: Tensor

    def crop_boxes(self, size: tuple[int, int]) -> Tensor:
        """Return the crops in pixels of images of ``size`` (height, width): (B, 4), int64, top, left, height, width."""
        height, width = size
        sides = torch.tensor([height, width, height, width], dtype=torch.float64)
        return (self.crops.double() * sides).round().to(torch.int64)


class StoredLabels:
    """Labels of all batches of all epochs, which are read one batch at a time.

    Args:
        count: Number N of images of the set.
        classes: Number C of classes.
        epochs: Number of epochs.
        batch_size: Images in a batch; the last one of an epoch may have fewer.
        read: Function from an epoch and the number of a batch in it to the labels; its positions of images are ignored.
        seed: Seed of the order of the images.
        folder: The folder that they are read from, or None.
    """

    def __init__(
        self,
        count: int,
        classes: int,
        epochs: int,
        batch_size: int,
        read: Callable[[int, int], BatchLabels],
        seed: int = SEED,
        folder: str | None = None,
    ) -> None:
        self.folder = folder
        self.count = count
        self.classes = classes
        self.epochs = epochs
        self.batch_size = batch_size
        self.seed = seed
        self._read = read
        self._orders = Orders(count, seed)

    @property
    def batches(self) -> int:
        """Number of batches in an epoch."""
        return -(-self.count // self.batch_size)

    def bytes_of(self, epochs: int, batches: int | None = None) -> int:
        """Count the bytes of the labels of some epochs, as if all batches were like the first one.

        Args:
            epochs: Number of epochs.
            batches: Number of batches that are used of each epoch; by default all.

        Returns:
            Bytes of the logits, crops, flips, partners, shares and boxes.
        """
        first = self.batch(0, 0)
        per_image = first.logits.element_size() * self.classes + 4 * 4 + 1 + (0 if first.partner is None else 8)
        per_batch = 8 * (first.lam is not None) + 4 * 8 * (first.box is not None)
        batches = self.batches if batches is None else batches
        return epochs * (min(self.count, batches * self.batch_size) * per_image + batches * per_batch)

    def batch(self, epoch: int, number: int) -> BatchLabels:
        """Read the labels of a batch.

        Args:
            epoch: Number of the epoch, in [0, epochs).
            number: Number of the batch in the epoch, in [0, batches).

        Returns:
            The labels, with the positions of their images.

        Raises:
            BaconError: The file of the batch is missing, damaged, or does not fit the others.
            IndexError: There is no such epoch or batch.
        """
        if not (0 <= epoch < self.epochs and 0 <= number < self.batches):
            raise IndexError(
                f"there are {self.epochs} epochs of {self.batches} batches, and no batch {number} of epoch {epoch}."
            )
        labels = self._read(epoch, number)
        images = self._orders[epoch][number * self.batch_size :][: self.batch_size]
        return replace(labels, images=images)


class Orders:
    """The order of the images in each epoch: that of torch's RandomSampler with a generator that is seeded once.

    The sampler draws two permutations an epoch and uses the first.

    Args:
        count: Number of images.
        seed: Seed of the generator.
    """

    def __init__(self, count: int, seed: int = SEED) -> None:
        self.count = count
        self.seed = seed
        self._rewind()

    def _rewind(self) -> None:
        self._generator = torch.Generator().manual_seed(self.seed)
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def __getitem__(self, epoch: int) -> Tensor:
        """Return the order of an epoch, (count,), int64; going back in epochs draws all of them again."""
        if epoch < self._epoch:
            self._rewind()
        while self._epoch < epoch:
            self._order = torch.randperm(self.count, generator=self._generator)
            torch.randperm(self.count, generator=self._generator)
            self._epoch += 1
        return self._order
