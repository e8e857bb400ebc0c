"""The training recipe of evaluation networks."""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from jsonargparse import lazy_instance

from bacon_pl import ranges
from bacon_pl.augment import DSA, Augmentation, Mixing
from bacon_pl.data import DatasetMeta
from bacon_pl.errors import BaconError, one_line, unknown_name
from bacon_pl.learners.flat_step import FlatStep
from bacon_pl.learners.real_training import Optimizer
from bacon_pl.learners.soft_labels import DESCRIBED, SoftLabels
from bacon_pl.networks import Acceleration, ConvNet, NetworkFactory
from bacon_pl.networks.base import check_factory

Schedule = Literal["step", "cosine", "milestones"]


@dataclass(frozen=True)
class Recipe:
    """Training recipe of an evaluation.

    Args:
        network: Architecture of the networks.
        num_networks: Number of networks, each with its own initial weights.
        epochs: Passes over the training set.
        batch_size: Images per step.
        lr: Initial learning rate; ``stored``: the step size that was learned with the set.
        momentum: Momentum of SGD; AdamW has ``betas``.
        weight_decay: Weight decay.
        lr_drop: The ``step`` schedule multiplies the learning rate by this factor halfway through the training and
            resets the optimizer's state; 1 changes nothing. ``milestones`` multiplies it at each of them.
        augment: Augmentation of every batch.
        acceleration: Whether to compile the networks and run them in bfloat16 if the device supports it: ``on``,
            ``off``, or ``auto``, which does so if the training is long enough for it to pay off. ``measured`` tries
            what is fastest on a GPU, and keeps to it; on a CPU it is ``auto``.
        optimizer: ``sgd`` or ``adamw``; the latter needs a different learning rate, such as 0.001.
        schedule: ``step``: one drop of the learning rate halfway; ``cosine``: decrease from lr to 0 over the whole
            training; ``milestones``: a drop at each of ``milestones``.
        mixing: CutMix or MixUp, applied after the augmentation.
        soft_labels: Soft labels, from teachers or stored with the set, instead of classes; {} selects the default
            values.
        whole_epochs: Passes if the training set consists of all real images, where a pass has far more steps; by
            default the same as ``epochs``.
        coreset_steps: Steps, rounded up to whole epochs, of training on the real images for the networks in whose
            feature spaces herding and k-center select images.
        milestones: Shares of the epochs, ascending, between 0 and 1 and rounded to whole epochs, after which the
            schedule ``milestones`` drops the learning rate.
        warmup: Share of the training, in [0, 1), in which the learning rate rises from lr/100 to lr first, step by
            step. The schedule ``cosine`` falls over what is left; drops of the others come when they do without it.
        reset_at_milestones: Whether ``milestones`` resets the optimizer's state at each of them, as ``step`` does.
        lr_by_epoch: Whether the schedule ``cosine`` changes the learning rate at the start of each epoch alone, and not
            at each step.
        cosine_stretch: The schedule ``cosine`` is that of a training so many times as long, at least 1: at 2 it is half
            a cosine, and the learning rate ends at half of lr.
        decay_norms_and_biases: Whether weight decay applies to all parameters, and not only to those with more than one
            dimension.
        betas: Coefficients of AdamW's moving averages.
        fixed_lr: With ``lr: stored``, the learning rate of what has no learned step size: real images and teachers. The
            training on the set is repeated with it, for comparison.
        cut_tiles: Whether networks are trained on the tiles of the set's canvases, cut out and scaled up, and not on
            the canvases as they are.
        epoch_steps: Most steps of an epoch, which is then the beginning of a shuffled pass; by default a whole pass.
        flat: Take flat steps, at twice the time (see :class:`FlatStep`).
        test_resize: Pixels to which the shorter side of test images is enlarged before the center is cut out of them at
            their size, as RDED does (72 of 64); by default they are tested as they are.

    Raises:
        BaconError: An argument is out of range.
    """

    network: NetworkFactory = ConvNet
    num_networks: int = 5
    epochs: int = 1000
    batch_size: int = 256
    lr: float | Literal["stored"] = 0.01
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
    reset_at_milestones: bool = False
    lr_by_epoch: bool = False
    cosine_stretch: float = 1.0
    decay_norms_and_biases: bool = True
    betas: tuple[float, float] = (0.9, 0.999)
    fixed_lr: float = 0.01
    cut_tiles: bool = True
    epoch_steps: int | None = None
    flat: FlatStep | None = None
    test_resize: int | None = None

    def __post_init__(self) -> None:
        of = "--evaluation."
        check_factory(f"{of}network", self.network)
        ranges.whole(of, num_networks=self.num_networks, epochs=self.epochs, batch_size=self.batch_size)
        ranges.whole(of, coreset_steps=self.coreset_steps, **ranges.given(whole_epochs=self.whole_epochs))
        ranges.whole(of, **ranges.given(epoch_steps=self.epoch_steps, test_resize=self.test_resize))
        if isinstance(self.lr, str) and self.lr != "stored":
            raise BaconError(f"--evaluation.lr must be a number or 'stored', got '{one_line(self.lr, 40)}'.")
        ranges.positive(of, **({} if self.lr == "stored" else {"lr": self.lr}))
        ranges.positive(of, lr_drop=self.lr_drop, fixed_lr=self.fixed_lr)
        ranges.below_one(of, momentum=self.momentum, warmup=self.warmup)
        ranges.not_negative(of, weight_decay=self.weight_decay)
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
        if not (self.cosine_stretch >= 1 and math.isfinite(self.cosine_stretch)):
            raise BaconError(f"--evaluation.cosine_stretch must be at least 1, got {self.cosine_stretch}.")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise BaconError(f"--evaluation.betas must be two numbers in [0, 1), got {list(self.betas)}.")
        for needs, acts, names in (
            ("--evaluation.schedule cosine", self.schedule == "cosine", ("lr_by_epoch", "cosine_stretch")),
            ("--evaluation.schedule milestones", self.schedule == "milestones", ("reset_at_milestones",)),
            ("--evaluation.optimizer adamw", self.optimizer == "adamw", ("betas",)),
            ("--evaluation.lr stored", self.lr == "stored", ("fixed_lr",)),
        ):
            for name in names:
                if not acts and getattr(self, name) != getattr(Recipe, name):
                    raise BaconError(f"--evaluation.{name} acts only with {needs}: give that, or leave it out.")

    def check_fits(self, meta: DatasetMeta) -> None:
        """Fail if test images of a dataset cannot be enlarged as the recipe says.

        Raises:
            BaconError: They would be reduced or enlarged beyond twice their side, or they are whitened.
        """
        check_test_resize(self.test_resize, meta.size, meta.whitening is not None)

    @property
    def rate(self) -> float:
        """The learning rate as a number.

        Raises:
            BaconError: It is the step size that was learned with a set (see :meth:`with_rate_of`).
        """
        if isinstance(self.lr, str):
            raise BaconError(
                "--evaluation.lr stored is the step size that was learned with a set: evaluate one that has it."
            )
        return self.lr

    def with_rate_of(self, step_size: float | None) -> Recipe:
        """Return the recipe with a number for the learning rate ``stored``: the step size, or ``fixed_lr`` if None."""
        if self.lr != "stored":
            return self
        return replace(self, lr=self.fixed_lr if step_size is None else step_size, fixed_lr=Recipe.fixed_lr)

    def lr_at(self, step: int, steps_per_epoch: int) -> float:
        """The learning rate of a step.

        Args:
            step: Number of the step, from 0.
            steps_per_epoch: Steps in an epoch.
        """
        total = self.epochs * steps_per_epoch
        epoch = step // steps_per_epoch
        first = min(round(self.warmup * total), total - 1)
        if step < first:
            return self.rate * (0.01 + 0.99 * step / first)
        if self.schedule == "cosine":
            done = max(epoch * steps_per_epoch, first) if self.lr_by_epoch else step
            return self.rate * (1 + math.cos(math.pi * (done - first) / ((total - first) * self.cosine_stretch))) / 2
        if self.schedule == "milestones":
            return self.rate * self.lr_drop ** sum(epoch >= drop for drop in self._drops)
        return self.rate * self.lr_drop if step >= total // 2 else self.rate

    def resets_at(self, step: int, steps_per_epoch: int) -> bool:
        """Whether the optimizer's state is reset before a step (see :meth:`lr_at`)."""
        if self.lr_drop == 1:
            return False
        if self.schedule == "milestones" and self.reset_at_milestones:
            return step % steps_per_epoch == 0 and step // steps_per_epoch in self._drops
        return self.schedule == "step" and step == self.epochs * steps_per_epoch // 2

    @property
    def _drops(self) -> list[int]:
        """Numbers of epochs after which the schedule ``milestones`` drops the learning rate."""
        return [round(share * self.epochs) for share in self.milestones]

    def described(self) -> dict[str, Any]:
        """Return the settings that are reported with the results, as JSON values."""
        soft = {} if self.soft_labels is None else self.soft_labels.described()
        cosine, adamw = self.schedule == "cosine", self.optimizer == "adamw"
        return {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "optimizer": self.optimizer,
            "lr": self.lr,
            "momentum": None if adamw else self.momentum,
            "betas": list(self.betas) if adamw else None,
            "weight_decay": self.weight_decay,
            "decay_norms_and_biases": self.decay_norms_and_biases,
            "schedule": self.schedule,
            "warmup": self.warmup or None,
            "lr_by_epoch": self.lr_by_epoch if cosine else None,
            "cosine_stretch": self.cosine_stretch if cosine else None,
            "lr_drop": None if cosine else self.lr_drop,
            "milestones": list(self.milestones) or None,
            "reset_at_milestones": self.reset_at_milestones if self.milestones else None,
            "augment": _class_name(self.augment),
            "mixing": None if self.mixing is None else _mixing_name(self.mixing),
            "cut_tiles": self.cut_tiles,
            "epoch_steps": self.epoch_steps,
            "flat": self.flat and asdict(self.flat),
            "test_resize": self.test_resize,
            "labels": "soft" if soft else "hard",
            **{name: soft.get(name) for name in DESCRIBED},
        }


def check_test_resize(test_resize: int | None, size: tuple[int, int], whitened: bool) -> None:
    """Fail if test images cannot be enlarged as a recipe says.

    Args:
        test_resize: Pixels of their shorter side, or None to leave them as they are.
        size: Height and width of the images in pixels.
        whitened: Whether the images are whitened.

    Raises:
        BaconError: They would be reduced or enlarged beyond twice their side, or they are whitened.
    """
    if test_resize is None:
        return
    side = min(size)
    if not side <= test_resize <= 2 * side:
        raise BaconError(
            f"--evaluation.test_resize must be from {side}, the shorter side of the images, to {2 * side}, got "
            f"{test_resize}."
        )
    if whitened:
        raise BaconError("--evaluation.test_resize enlarges pixels, but the images are whitened: leave it out.")


def _class_name(instance: object) -> str:
    """Return the name of an object's class, ignoring classes that wrap default values."""
    return next(c.__name__ for c in type(instance).__mro__ if "Lazy" not in c.__name__)


def _mixing_name(mixing: Mixing) -> str:
    """Name a mixing, with its probability where it has one below 1."""
    probability = getattr(mixing, "probability", 1.0)
    return _class_name(mixing) + (f" with probability {probability:g}" if probability < 1 else "")
