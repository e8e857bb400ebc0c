"""How networks are trained on the real images before they are used: teachers, observers, references and pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from bacon_pl.augment import Augmentation, NoAugmentation
from bacon_pl.errors import BaconError, unknown_name
from bacon_pl.networks import Acceleration, NetworkFactory

if TYPE_CHECKING:  # which may hold such settings, for its teachers
    from bacon_pl.learners.recipe import Recipe

Optimizer = Literal["sgd", "adamw"]
RealSchedule = Literal["constant", "cosine"]


@dataclass(frozen=True)
class RealTraining:
    """How networks are trained on the real images before a run; runs, whatever their seed, share those of equal
    settings, which lie in the cache.

    Args:
        count: How many.
        epochs: Passes over the training images.
        batch_size: Images per step.
        lr: Learning rate, the highest that the schedule reaches.
        momentum: Momentum of SGD; AdamW does not use it.
        weight_decay: Weight decay.
        augment: Augmentation of every batch; null, as published for IID, is none.
        seed: Seed of their weights, batches and augmentation; the run's own plays no part.
        optimizer: ``sgd`` or ``adamw``; the latter needs a different learning rate, such as 0.001.
        schedule: ``constant``, or ``cosine``: decrease from lr to 0 over the training.
        warmup: Share of the training, in [0, 1), in which the learning rate rises to lr first, step by step.

    Raises:
        BaconError: An argument is out of range.
    """

    count: int = 10
    epochs: int = 40
    batch_size: int = 256
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augment: Augmentation | None = None
    seed: int = 0
    optimizer: Optimizer = "sgd"
    schedule: RealSchedule = "constant"
    warmup: float = 0.0

    option: ClassVar[str] = "--model.reference"

    def __post_init__(self) -> None:
        named = self.named
        for name, low in (("count", 1), ("epochs", 1), ("batch_size", 1), ("seed", 0)):
            if getattr(self, name) < low:
                raise BaconError(f"{named(name)} must be at least {low}, got {getattr(self, name)}.")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise BaconError(f"{named('lr')} must be positive and finite, got {self.lr}.")
        for name in ("momentum", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise BaconError(f"{named(name)} must be in [0, 1), got {getattr(self, name)}.")
        if not (self.weight_decay >= 0 and math.isfinite(self.weight_decay)):
            raise BaconError(f"{named('weight_decay')} must be zero or positive and finite, got {self.weight_decay}.")
        for name, known in (("optimizer", get_args(Optimizer)), ("schedule", get_args(RealSchedule))):
            if getattr(self, name) not in known:
                raise unknown_name(named(name), str(getattr(self, name)), known)

    @classmethod
    def named(cls, name: str) -> str:
        """Name the option of a setting, for messages."""
        return f"{cls.option}.{name}" if cls.option else f"--{name}"

    def recipe(self, network: NetworkFactory, acceleration: Acceleration) -> Recipe:
        """How they are trained.

        Args:
            network: What they are.
            acceleration: See :class:`Recipe`.
        """
        from bacon_pl.learners.recipe import Recipe

        return Recipe(
            network=network,
            num_networks=1,
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            lr_drop=1.0,
            augment=self.augment or NoAugmentation(),
            acceleration=acceleration,
            optimizer=self.optimizer,
            schedule="cosine" if self.schedule == "cosine" else "step",
            warmup=self.warmup,
        )
