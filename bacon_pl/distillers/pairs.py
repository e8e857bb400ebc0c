"""Pairs in place of a pool: networks between their initial state and that after training on the real images (NCFM)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from bacon_pl import ranges, rng
from bacon_pl.augment import Mixing
from bacon_pl.distillers.reference import HeldNetworks
from bacon_pl.errors import BaconError
from bacon_pl.learners import RealTraining, Recipe, TrainedNetworks
from bacon_pl.networks import Acceleration, Network, NetworkFactory, Plan, Read, StatelessNetwork, embedding
from bacon_pl.networks.stateless import Keys


@dataclass(frozen=True)
class PairSettings(RealTraining):
    """Networks trained on the real images before the run, matched through at random places between their initial and
    their trained weights (NCFM, arXiv 2502.20653).

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
        schedule: ``constant``, which ``milestones`` may lower; or ``cosine``, which needs ``milestones: []``.
        warmup: Share of the training, in [0, 1), in which the learning rate rises to lr first, step by step.
        milestones: After which shares of the epochs the learning rate drops; none leaves it to the schedule.
        lr_drop: What it is multiplied by there.
        mixing: CutMix or MixUp on top of the augmentation.
        calibration: Weight of the cross-entropy of the synthetic images under the pair's trained network, for which
            every iteration takes a second step on the images; 0 takes none.

    Raises:
        BaconError: An argument is out of range.
    """

    count: int = 20
    epochs: int = 60
    batch_size: int = 128
    milestones: tuple[float, ...] = (2 / 3, 5 / 6)
    lr_drop: float = 0.2
    mixing: Mixing | None = None
    calibration: float = 1.0

    option: ClassVar[str] = "--model.pairs"

    def __post_init__(self) -> None:
        super().__post_init__()
        marks = [0.0, *self.milestones, 1.0]
        if any(a >= b for a, b in itertools.pairwise(marks)):
            raise BaconError(f"--model.pairs.milestones must ascend, between 0 and 1, got {list(self.milestones)}.")
        if self.milestones and self.schedule != "constant":
            raise BaconError(
                "--model.pairs.milestones and --model.pairs.schedule cosine exclude each other: set "
                "--model.pairs.milestones []."
            )
        ranges.not_negative("--model.pairs.", calibration=self.calibration)
        ranges.positive("--model.pairs.", lr_drop=self.lr_drop)

    def recipe(self, network: NetworkFactory, acceleration: Acceleration) -> Recipe:
        """See :meth:`RealTraining.recipe`."""
        found = replace(super().recipe(network, acceleration), mixing=self.mixing)
        if not self.milestones:
            return found
        return replace(found, schedule="milestones", milestones=self.milestones, lr_drop=self.lr_drop)


class PairPool:
    """What a :class:`~bacon_pl.distillers.pool.NetworkPool` offers to matching, of networks that are never trained.

    Iteration t draws a pair and a number l in [0, 1) from (seed, t); its network has the weights
    l · initial + (1 − l) · trained, and is run in training mode, as the pool's are.

    Args:
        networks: Their files, of their initial and their trained states.
        template: The architecture, where the images are and of their type; its own weights are never used.
        plan: How passes are run.
        seed: The run's seed.
    """

    def __init__(self, networks: TrainedNetworks, template: Network, plan: Plan, seed: int) -> None:
        self.networks = networks
        self.model = StatelessNetwork(template, plan)
        self.template = template
        self._seed = seed
        self._held = HeldNetworks(networks, template)
        self._state: dict[str, Tensor] = {}
        self._buffers = [name for name, _ in template.named_buffers()]

    def matched(self, iteration: int) -> int:
        """Number of the pair that iteration t matches through."""
        return rng.derive(self._seed, "pair", iteration) % self.networks.count

    def share(self, iteration: int) -> float:
        """The share l of the initial weights in iteration t."""
        return rng.derive(self._seed, "share of the initial weights", iteration) / 2**63

    def advance(self, iteration: int) -> None:
        """Mix the weights of iteration t."""
        number, share = self.matched(iteration), self.share(iteration)
        first, last = (self._held.state(number, epochs) for epochs in self.networks.snapshots)
        self._state = {
            name: torch.lerp(t, first[name], share) if t.is_floating_point() else t for name, t in last.items()
        }

    def state(self, network_id: int) -> dict[str, Tensor]:
        """Return weights and running statistics of the iteration's network by name; see the pool's."""
        return dict(self._state)

    def forward(self, network_id: int, x: Tensor, read: Read = embedding, keys: Keys = ()) -> Any:
        """Run a pass of the iteration's network on normalized images; see the pool's."""
        state = self.state(network_id)
        state |= {name: state[name].clone() for name in self._buffers}
        return self.model(state, x, read, (self._seed, "forward", network_id, *keys))

    def trained_forward(self, iteration: int, x: Tensor) -> Any:
        """Run a pass of the trained network of an iteration's pair, in evaluation mode, on normalized images.

        Args:
            iteration: Number of the iteration.
            x: (B, ch, H, W).

        Returns:
            Embeddings (B, d) and logits (B, K).
        """
        number = self.matched(iteration)
        self.template.eval()
        try:
            return self.model(self._held.state(number, self.networks.snapshots[-1]), x)
        finally:
            self.template.train()

    def accuracy(self, network_id: int) -> Tensor:
        """Nothing is known of it: 0."""
        return torch.zeros((), device=next(self.template.parameters()).device)

    def reset_meters(self) -> None:
        """There are none."""

    def active(self, iteration: int) -> range:
        """All pairs."""
        return range(self.networks.count)

    def state_dict(self) -> dict[str, Any]:
        """Nothing changes."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing changes."""
