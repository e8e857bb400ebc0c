"""How an evaluation network is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from jsonargparse import lazy_instance

from bacon_pl.augment import DSA, Augmentation
from bacon_pl.errors import BaconError
from bacon_pl.networks import Acceleration, ConvNet, NetworkFactory


@dataclass(frozen=True)
class Recipe:
    """Training recipe of an evaluation (method.md §7).

    Args:
        network: Architecture trained.
        num_networks: Networks trained, each from its own initial weights.
        epochs: Passes over the training set.
        batch_size: Images per step.
        lr: Learning rate of SGD.
        momentum: Momentum of SGD.
        weight_decay: Weight decay of SGD.
        lr_drop: The learning rate is multiplied by this half-way, where momentum restarts; 1 changes nothing.
        augment: Augmentation of every batch.
        acceleration: Compile the networks and run them in bfloat16 where the device has it: ``on``, ``off``, or
            ``auto``, which does so where the training is long enough to repay it.

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

    def __post_init__(self) -> None:
        for name in ("num_networks", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise BaconError(f"--evaluation.{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("lr", "lr_drop"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise BaconError(f"--evaluation.{name} must be positive and finite, got {value}.")
