"""The training recipe of evaluation networks."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch.nn.functional as F
from jsonargparse import lazy_instance
from torch import Tensor

from bacon_pl.augment import DSA, Augmentation, Mixing
from bacon_pl.errors import BaconError, unknown_name
from bacon_pl.networks import Acceleration, ConvNet, NetworkFactory

Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["step", "cosine", "milestones"]
SoftLoss = Literal["kl", "cross_entropy"]


@dataclass(frozen=True)
class SoftLabels:
    """Soft labels of every augmented batch, given by a teacher that was trained on the real images.

    Args:
        network: Architecture of the teacher; by default that of the recipe.
        steps: Training steps of the teacher on all real images, rounded up to whole epochs. In all other respects it is
            trained with the recipe of its students.
        temperature: Temperature T by which the teacher's logits are divided.
        loss: ``kl``: T² times the Kullback-Leibler divergence of the student's outputs from the teacher's, both at
            temperature T; ``cross_entropy``: cross-entropy of the student's outputs at temperature 1 with the teacher's
            outputs at temperature T.

    Raises:
        BaconError: An argument is out of range.
    """

    network: NetworkFactory | None = None
    steps: int = 4000
    temperature: float = 4.0
    loss: SoftLoss = "kl"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise BaconError(f"--evaluation.soft_labels.steps must be at least 1, got {self.steps}.")
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise BaconError(
                f"--evaluation.soft_labels.temperature must be positive and finite, got {self.temperature}."
            )
        if self.loss not in get_args(SoftLoss):
            raise unknown_name("soft-label loss", str(self.loss), get_args(SoftLoss))

    def losses(self, logits: Tensor, teacher: Tensor) -> Tensor:
        """Compute the losses of students with respect to their teacher.

        Args:
            logits: Logits of the students (K, B, C).
            teacher: Logits of the teacher for the same images (K, B, C).

        Returns:
            Mean loss over the batch of each student, (K,).
        """
        target = F.log_softmax(teacher / self.temperature, 2)
        if self.loss == "cross_entropy":
            return -(target.exp() * F.log_softmax(logits, 2)).sum(2).mean(1)
        own = F.log_softmax(logits / self.temperature, 2)
        divergence = F.kl_div(own, target, reduction="none", log_target=True).sum(2).mean(1)
        # The gradient decreases with 1/T²; the factor T² makes a change of the learning rate unnecessary.
        return self.temperature**2 * divergence


@dataclass(frozen=True)
class Recipe:
    """Training recipe of an evaluation.

    Args:
        network: Architecture of the networks.
        num_networks: Number of networks, each with its own initial weights.
        epochs: Passes over the training set.
        batch_size: Images per step.
        lr: Initial learning rate.
        momentum: Momentum of SGD; AdamW uses its own default values.
        weight_decay: Weight decay.
        lr_drop: The ``step`` schedule multiplies the learning rate by this factor halfway through the training and
            resets the optimizer's state; 1 changes nothing. ``milestones`` multiplies it at each of them.
        augment: Augmentation of every batch.
        acceleration: Whether to compile the networks and run them in bfloat16 if the device supports it: ``on``,
            ``off``, or ``auto``, which does so if the training is long enough for it to pay off.
        optimizer: ``sgd`` or ``adamw``; the latter needs a different learning rate, such as 0.001.
        schedule: ``step``: one drop of the learning rate halfway; ``cosine``: decrease from lr to 0 over the whole
            training; ``milestones``: a drop at each of ``milestones``, without a reset of the optimizer.
        mixing: CutMix or MixUp, applied after the augmentation.
        soft_labels: Labels from a teacher instead of the set's own; {} selects the default values.
        whole_epochs: Passes if the training set consists of all real images, where a pass has far more steps; by
            default the same as ``epochs``.
        coreset_steps: Steps, rounded up to whole epochs, of training on the real images for the networks in whose
            feature spaces herding and k-center select images.
        milestones: Shares of the epochs, ascending, between 0 and 1 and rounded to whole epochs, after which the
            schedule ``milestones`` drops the learning rate.
        warmup: Share of the training, in [0, 1), in which the learning rate rises from lr/100 to lr first, step by
            step. The schedule ``cosine`` falls over what is left; drops of the others come when they do without it.

    Raises:
        BaconError: An argument is out of range.
    """

    network: NetworkFactory = ConvNet
    num_networks: int = 5
    epochs: int = 1000
    batch_size: int = 256
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    lr_drop: float = 0.1
    augment: Augmentation = field(default_factory=lambda: lazy_instance(DSA))
    acceleration: Acceleration = "auto"
    optimizer: Optimizer = "sgd"
    schedule: Schedule = "step"
    mixing: Mixing | None = None
    soft_labels: SoftLabels | None = None
    whole_epochs: int | None = None
    coreset_steps: int = 500
    milestones: tuple[float, ...] = ()
    warmup: float = 0.0

    def __post_init__(self) -> None:
        for name in ("num_networks", "epochs", "batch_size", "whole_epochs", "coreset_steps"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise BaconError(f"--evaluation.{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("lr", "lr_drop"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise BaconError(f"--evaluation.{name} must be positive and finite, got {value}.")
        if not 0 <= self.warmup < 1:
            raise BaconError(f"--evaluation.warmup must be in [0, 1), got {self.warmup}.")
        for name, choices in (("optimizer", get_args(Optimizer)), ("schedule", get_args(Schedule))):
            if getattr(self, name) not in choices:
                raise unknown_name(name, str(getattr(self, name)), choices)
        if (self.schedule == "milestones") != bool(self.milestones):
            raise BaconError(
                "--evaluation.milestones and --evaluation.schedule milestones need each other: give both, or neither, "
                f"got {list(self.milestones)} with the schedule {self.schedule}."
            )
        marks = [0.0, *self.milestones, 1.0]
        if not all(a < b for a, b in itertools.pairwise(marks)):
            raise BaconError(
                f"--evaluation.milestones must ascend, between 0 and 1, got {', '.join(map(str, self.milestones))}."
            )

    def lr_at(self, step: int, steps_per_epoch: int) -> float:
        """The learning rate of a step.

        Args:
            step: Number of the step, from 0.
            steps_per_epoch: Steps in an epoch.
        """
        total = self.epochs * steps_per_epoch
        first = min(round(self.warmup * total), total - 1)
        if step < first:
            return self.lr * (0.01 + 0.99 * step / first)
        if self.schedule == "cosine":
            return self.lr * (1 + math.cos(math.pi * (step - first) / (total - first))) / 2
        if self.schedule == "milestones":
            epoch = step // steps_per_epoch
            return self.lr * self.lr_drop ** sum(epoch >= round(share * self.epochs) for share in self.milestones)
        return self.lr * self.lr_drop if step >= total // 2 else self.lr

    def described(self) -> dict[str, Any]:
        """Return the settings that are reported with the results, as JSON values."""
        soft = self.soft_labels
        return {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "optimizer": self.optimizer,
            "lr": self.lr,
            "momentum": self.momentum if self.optimizer == "sgd" else None,
            "weight_decay": self.weight_decay,
            "schedule": self.schedule,
            "warmup": self.warmup or None,
            "lr_drop": None if self.schedule == "cosine" else self.lr_drop,
            "milestones": list(self.milestones) or None,
            "augment": _class_name(self.augment),
            "mixing": None if self.mixing is None else _mixing_name(self.mixing),
            "labels": "hard" if soft is None else "soft",
            "soft_loss": soft and soft.loss,
            "temperature": soft and soft.temperature,
            "teacher_steps": soft and soft.steps,
        }


def _class_name(instance: object) -> str:
    """Return the name of an object's class, ignoring classes that wrap default values."""
    return next(c.__name__ for c in type(instance).__mro__ if "Lazy" not in c.__name__)


def _mixing_name(mixing: Mixing) -> str:
    """Name a mixing, with its probability where it has one below 1."""
    probability = getattr(mixing, "probability", 1.0)
    return _class_name(mixing) + (f" with probability {probability:g}" if probability < 1 else "")
