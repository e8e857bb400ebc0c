"""Experts: networks trained on the real images whose weights after every epoch a student is to follow."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, get_args

import torch
from jsonargparse import lazy_instance
from torch import Tensor
from torch.func import functional_call

from bacon_pl import ranges, rng
from bacon_pl.augment import DSA, Augmentation
from bacon_pl.distillers.reference import HeldNetworks
from bacon_pl.errors import unknown_name
from bacon_pl.learners import FlatStep, RealTraining, Recipe, Storage, TrainedNetworks
from bacon_pl.networks import Acceleration, FlatNetwork, NetworkFactory


@dataclass(frozen=True)
class ExpertSettings(RealTraining):
    """How experts are trained on the real images before the run.

    Their weights are kept after the epochs that the run reads, and training ends after the last of these. They have
    the architecture of the student.

    Args:
        count: How many.
        epochs: Passes over the training images; only those that are read take place.
        batch_size: Images per step.
        lr: Learning rate, the highest that the schedule reaches.
        momentum: Momentum of SGD; AdamW does not use it.
        weight_decay: Weight decay.
        augment: Augmentation of every batch; null is none.
        seed: Seed of their weights, batches and augmentation; the run's own plays no part, so that runs share them.
        optimizer: ``sgd`` or ``adamw``; the latter needs a different learning rate, such as 0.001.
        schedule: ``constant``, or ``cosine``: decrease from lr to 0 over the training.
        warmup: Share of the training, in [0, 1), in which the learning rate rises to lr first, step by step.
        epoch_steps: Most steps of an epoch, which is then the beginning of a shuffled pass; null makes whole passes.
        flat: Flat steps, as FTD's and DATM's experts take them; null takes plain ones.
        storage: Type of the numbers in their files: ``float32``, or ``float16`` or ``bfloat16`` for half the space.

    Raises:
        BaconError: An argument is out of range.
    """

    count: int = 100
    epochs: int = 50
    momentum: float = 0.0
    weight_decay: float = 0.0
    augment: Augmentation | None = field(default_factory=lambda: lazy_instance(DSA))
    epoch_steps: int | None = None
    flat: FlatStep | None = None
    storage: Storage = "float32"

    option: ClassVar[str] = "--model.experts"

    def __post_init__(self) -> None:
        super().__post_init__()
        ranges.whole(self.named(""), **ranges.given(epoch_steps=self.epoch_steps))
        if self.storage not in get_args(Storage):
            raise unknown_name(self.named("storage"), str(self.storage), get_args(Storage))

    def recipe(self, network: NetworkFactory, acceleration: Acceleration) -> Recipe:
        """See :meth:`RealTraining.recipe`."""
        made = super().recipe(network, acceleration)
        return replace(made, epoch_steps=self.epoch_steps, flat=self.flat)


@dataclass(frozen=True)
class Expansion:
    """The growing range of start epochs of DATM's sequential schedule (arXiv 2310.05773).

    Args:
        first: Upper bound, exclusive, of the start epochs in the first iteration.
        iterations: Number of iterations in which it grows evenly up to ``max_start``.

    Raises:
        BaconError: An argument is out of range.
    """

    first: int
    iterations: int

    def __post_init__(self) -> None:
        ranges.whole("--model.expansion.", first=self.first, iterations=self.iterations)


@dataclass(frozen=True)
class Segments:
    """Which parts of the experts' trajectories are matched: from an epoch to one so many epochs later.

    Args:
        low: Lowest epoch to start from.
        high: Upper bound, exclusive, of the epochs to start from.
        length: Epochs from start to target.
        expansion: How the upper bound grows to ``high``; None is ``high`` from the beginning.
    """

    low: int
    high: int
    length: int
    expansion: Expansion | None = None

    def within(self, epochs: int) -> Segments:
        """Return the segments that end within so many epochs, moved down as far as needed."""
        high = max(1, min(self.high, epochs + 1 - self.length))
        low = min(self.low, high - 1)
        expansion = self.expansion
        if expansion is not None and not low < expansion.first <= high:
            expansion = replace(expansion, first=high)
        return Segments(low, high, self.length, expansion)

    def bound(self, iteration: int) -> int:
        """Return the upper bound, exclusive, of the start epochs in an iteration."""
        if self.expansion is None:
            return self.high
        first = self.expansion.first
        return min(self.high, first + (self.high - first) * iteration // self.expansion.iterations)

    def drawn(self, seed: int, iteration: int, place: int) -> int:
        """Draw the start epoch of one of an iteration's experts."""
        return self.low + rng.derive(seed, "start epoch", iteration, place) % (self.bound(iteration) - self.low)

    @property
    def epochs(self) -> list[int]:
        """All epochs after which weights are read."""
        starts = range(self.low, self.high)
        return sorted({*starts, *(start + self.length for start in starts)})


def drawn_expert(count: int, seed: int, iteration: int, place: int, together: int) -> int:
    """Draw the expert of a place in an iteration: in random order, each of them once before the next round.

    Args:
        count: Number of experts.
        seed: Seed of the run.
        iteration: Number of the iteration.
        place: Place in the iteration, in [0, together).
        together: Experts of an iteration.
    """
    round_, position = divmod(iteration * together + place, count)
    return int(rng.permutation(count, seed, "order of experts", round_)[position])


class Experts:
    """The experts of a run, their weights as vectors where the student is.

    Args:
        trained: Their files.
        network: The architecture, on the device and of the type of the student.
    """

    def __init__(self, trained: TrainedNetworks, network: FlatNetwork) -> None:
        self.trained = trained
        self.network = network
        self._held = HeldNetworks(trained, network.template)

    @property
    def count(self) -> int:
        """Number of experts."""
        return self.trained.count

    def weights(self, number: int, epochs: int) -> Tensor:
        """Return an expert's weights after so many epochs, (P,)."""
        return self.network.vector(self._held.state(number, epochs))

    def logits(self, number: int, epochs: int, images: Tensor, batch_size: int = 500) -> Tensor:
        """Return what an expert says of normalized images (N, ch, H, W), without gradient: (N, C)."""
        template, state = self.network.template, self._held.state(number, epochs)
        template.eval()  # running statistics, if there are any, are those of its training
        with torch.no_grad():
            parts = [functional_call(template, state, (x,))[1] for x in images.split(batch_size)]
        template.train()
        return torch.cat(parts)
