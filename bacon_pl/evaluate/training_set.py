"""What an evaluation trains on: a distilled set, random real images or all of them, in one form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bacon_pl.data import LabelledImages
from bacon_pl.distill.initialise import draw_real
from bacon_pl.distilled_set import DistilledSet


@dataclass(frozen=True)
class TrainingSet:
    """Labelled images and which of them each network sees.

    Attributes:
        name: What they are, for the report.
        images: (N, ch, H, W): uint8, or floating point in normalised pixel space.
        labels: (N,), int64.
        index: (K, n) int64, positions in ``images``: row k % K belongs to network k.
        storage_bytes: Bytes of one network's images at one byte a value, as they are stored.
    """

    name: str
    images: Tensor
    labels: Tensor
    index: Tensor
    storage_bytes: int

    @classmethod
    def distilled(cls, distilled: DistilledSet) -> TrainingSet:
        """All expanded images of a distilled set."""
        images, labels = distilled.expanded()
        return cls("distilled", images, labels, torch.arange(len(images))[None], distilled.pixel_bytes)

    @classmethod
    def random(cls, store: LabelledImages, ipc: int, draws: int, seed: int) -> TrainingSet:
        """Random real images, ``ipc`` of each class, another draw for each network.

        Args:
            store: The real training images.
            ipc: Images per class.
            draws: Number of draws.
            seed: Seed of the draws.

        Raises:
            BaconError: A class has fewer than ``ipc`` images.
        """
        index = torch.stack([draw_real(store, ipc, 1, seed, "random real", k).flatten() for k in range(draws)])
        return cls("random", store.images, store.labels, index, index.shape[1] * store.images[0].numel())

    @classmethod
    def whole(cls, store: LabelledImages) -> TrainingSet:
        """All real images."""
        return cls("whole", store.images, store.labels, torch.arange(len(store))[None], store.images.numel())
