"""How networks are trained on the real images before they are used: teachers, observers, references and pairs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, get_args

from bacon_pl import ranges
from bacon_pl.augment import Augmentation, NoAugmentation
from bacon_pl.errors import unknown_name
from bacon_pl.networks import Acceleration, NetworkFactory

if TYPE_CHECKING:  # which may hold such settings, for its teachers
    from bacon_pl.learners.recipe import Recipe

Optimizer = Literal["sgd", "adamw"]

Limited = TypeVar("Limited", bound="RealTraining")
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
    narrowed_to: ClassVar[str] = "network"
    """Which architecture of a :class:`Pretraining` takes the place of theirs; ``teacher`` has batch norm."""

    def __post_init__(self) -> None:
        named, of = self.named, self.named("")
        ranges.whole(of, count=self.count, epochs=self.epochs, batch_size=self.batch_size)
        ranges.whole(of, 0, seed=self.seed)
        ranges.positive(of, lr=self.lr)
        ranges.below_one(of, momentum=self.momentum, warmup=self.warmup)
        ranges.not_negative(of, weight_decay=self.weight_decay)
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


@dataclass(frozen=True)
class Pretraining:
    """Most that a run spends on networks that are trained on the real images before it (``pairs``, ``reference``,
    ``observer``).

    A budget sets it, so that methods which train such networks fit into it, too; methods without them are unaffected.

    Args:
        count: Most networks; null sets no limit.
        epochs: Most epochs of each; null sets no limit.
        network: Architecture of reference networks, in place of their own; null keeps it. Pairs have the architecture
            of the matched network in any case, and a network that is read from a file has its own.
        teacher: Architecture, with batch norm, of the teacher from which ``Recovery`` recovers images and of RDED's
            observer, in place of their own; null keeps it.
        epoch_steps: Most steps of an epoch of the experts whose trajectories are matched; null sets no limit.
        student_steps: Most steps of the students that follow them; null sets no limit. With fewer steps, the initial
            step size is larger by as much.
        student_batch: Most images of one of their steps; null sets no limit.

    Raises:
        BaconError: An argument is out of range.
    """

    count: int | None = None
    epochs: int | None = None
    network: NetworkFactory | None = None
    teacher: NetworkFactory | None = None
    epoch_steps: int | None = None
    student_steps: int | None = None
    student_batch: int | None = None

    def __post_init__(self) -> None:
        limits = ranges.given(count=self.count, epochs=self.epochs, epoch_steps=self.epoch_steps)
        limits |= ranges.given(student_steps=self.student_steps, student_batch=self.student_batch)
        ranges.whole("--model.pretraining.", **limits)

    def limit(self, settings: Limited) -> Limited:
        """Return settings within the limits; those of a network that is read from a file are not changed."""
        if getattr(settings, "file", None) is not None:
            return settings
        changed: dict[str, Any] = {
            name: most
            for name in ("count", "epochs")
            if (most := getattr(self, name)) is not None and most < getattr(settings, name)
        }
        if self.epoch_steps is not None and hasattr(settings, "epoch_steps"):
            changed["epoch_steps"] = min(self.epoch_steps, settings.epoch_steps or self.epoch_steps)
        network = getattr(self, settings.narrowed_to)
        if network is not None and hasattr(settings, "network"):
            changed["network"] = network
        return replace(settings, **changed)
