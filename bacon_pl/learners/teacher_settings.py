"""How teachers are made: networks trained on the real images, or read from a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bacon_pl.errors import BaconError
from bacon_pl.learners.real_training import RealSchedule, RealTraining
from bacon_pl.networks import NetworkFactory


@dataclass(frozen=True)
class TeacherSettings(RealTraining):
    """Networks that label images: trained on the real images before they are needed, or read from a file.

    Args:
        count: How many.
        epochs: Passes over the training images.
        batch_size: Images per step.
        lr: Learning rate, the highest that the schedule reaches.
        momentum: Momentum of SGD; AdamW does not use it.
        weight_decay: Weight decay.
        augment: Augmentation of every batch; null is none.
        seed: Seed of their weights, batches and augmentation; the run's own plays no part, so that runs share them.
        optimizer: ``sgd`` or ``adamw``; the latter needs a different learning rate, such as 0.001.
        schedule: ``constant``, or ``cosine``: decrease from lr to 0 over the training.
        warmup: Share of the training, in [0, 1), in which the learning rate rises to lr first, step by step.
        network: Their architecture; by default that of the networks which they are used for.
        file: A trained network of one's own instead: a safetensors file with the parameters and buffers of ``network``
            under the names that they have there. It is never trained, so that of the other settings only ``network``
            counts.

    Raises:
        BaconError: An argument is out of range, or several networks are wanted of one file.
    """

    count: int = 1
    epochs: int = 50
    lr: float = 0.05
    schedule: RealSchedule = "cosine"
    network: NetworkFactory | None = None
    file: str | None = None

    option: ClassVar[str] = "--evaluation.soft_labels.teacher"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.file is not None and self.count != 1:
            raise BaconError(f"{self.named('file')} holds one network, so {self.named('count')} must be 1.")
