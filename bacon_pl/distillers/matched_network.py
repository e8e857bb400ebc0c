"""The network whose gradients are matched: made anew every few iterations, and trained in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.sgd import sgd

from bacon_pl import ranges, rng
from bacon_pl.augment import Augmentation, Mixing
from bacon_pl.errors import BaconError
from bacon_pl.networks import Network, Plan, StatelessNetwork

Batches = Iterator[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class NetworkSettings:
    """The life of the network whose gradients are matched.

    Args:
        renew_every: Number of iterations after which a new random network takes its place; the first one in which a
            network is matched is before its first training step.
        synthetic_epochs: Passes of training over the synthetic images after every iteration, as in DC and DSA; 0 takes
            none.
        real_steps: Training steps on real images after every iteration, as in IDC, of ``--data.pool_batch`` images
            each; 0 takes none. A network that is about to be replaced is not trained.
        batch_size: Synthetic images per step of training.
        lr: Learning rate of the network's SGD.
        momentum: Momentum of it, in [0, 1).
        weight_decay: Weight decay of it.
        augment: Augmentation in training, with one draw for each image; null is none.
        mixing: CutMix or MixUp on top of the augmentation; null is none.

    Raises:
        BaconError: An argument is out of range, or the augmentation takes pixels.
    """

    renew_every: int = 10
    synthetic_epochs: int = 50
    real_steps: int = 0
    batch_size: int = 256
    lr: float = 0.01
    momentum: float = 0.0
    weight_decay: float = 0.0
    augment: Augmentation | None = None
    mixing: Mixing | None = None

    def __post_init__(self) -> None:
        of = "--model.networks."
        ranges.whole(of, renew_every=self.renew_every, batch_size=self.batch_size)
        ranges.whole(of, 0, synthetic_epochs=self.synthetic_epochs, real_steps=self.real_steps)
        ranges.positive(of, lr=self.lr)
        ranges.below_one(of, momentum=self.momentum)
        ranges.not_negative(of, weight_decay=self.weight_decay)
        if self.augment is not None and self.augment.on_pixels:
            raise BaconError(
                f"--model.networks.augment {type(self.augment).__name__} takes pixels, and the network is trained on "
                "normalized images: use DSA or Chain."
            )

    def number(self, iteration: int) -> int:
        """Return the number of the network of an iteration."""
        return iteration // self.renew_every

    def is_new(self, iteration: int) -> bool:
        """Return whether an iteration is the first one of its network."""
        return iteration % self.renew_every == 0

    def is_trained(self, iteration: int) -> bool:
        """Return whether the network is trained after an iteration."""
        return not self.is_new(iteration + 1) and bool(self.synthetic_epochs or self.real_steps)


class MatchedNetwork:
    """The network of the current iteration: weights, running statistics and momentum.

    The initial weights of network k depend on (seed, k) alone, and every draw of its training on the seed, the
    iteration and the step.

    Args:
        settings: Its life.
        make: Function that makes network k with its initial weights.
        plan: How its training is run.
        num_classes: Number of classes.
        seed: Seed of the run.
    """

    def __init__(
        self, settings: NetworkSettings, make: Callable[[int], Network], plan: Plan, num_classes: int, seed: int
    ) -> None:
        self.settings = settings
        self.make = make
        self.num_classes = num_classes
        self.seed = seed
        template = make(0)
        self.model = StatelessNetwork(template, plan)
        self.shapes = {name: tuple(t.shape) for name, t in template.state_dict().items()}
        self.has_batch_norm = any(isinstance(module, _BatchNorm) for module in template.modules())
        self.number = -1
        self.weights: dict[str, Tensor] = {}
        self.buffers: dict[str, Tensor] = {}
        self.velocity: dict[str, Tensor] = {}

    def advance(self, iteration: int) -> None:
        """Make the network of an iteration, if it is another one than that of the iteration before."""
        if (number := self.settings.number(iteration)) != self.number:
            network = self.make(number)
            self.weights = {name: p.detach() for name, p in network.named_parameters()}
            self.buffers = dict(network.named_buffers())
            self.velocity = {name: torch.zeros_like(w) for name, w in self.weights.items()}
            self.number = number

    @property
    def state(self) -> dict[str, Tensor]:
        """Parameters and buffers by name."""
        return {**self.weights, **self.buffers}

    @torch.no_grad()
    def see(self, x: Tensor) -> None:
        """Let batch norms update their running statistics from normalized images (B, ch, H, W)."""
        self.model(self.state, x, keys=(self.seed, "statistics", self.number))

    def synthetic_batches(self, images: Tensor, labels: Tensor, iteration: int) -> Batches:
        """Yield the batches of the passes over the synthetic images, shuffled anew in each.

        Args:
            images: The synthetic images as networks see them, (N, ch, H, W).
            labels: (N,), int64.
            iteration: Number of the iteration.
        """
        for epoch in range(self.settings.synthetic_epochs):
            keys = (self.seed, "synthetic order", iteration, epoch)
            for rows in rng.permutation(len(images), *keys, device=images.device).split(self.settings.batch_size):
                yield images[rows], labels[rows]

    def train(self, batches: Batches, iteration: int, kind: str) -> None:
        """Take a step of SGD with each batch.

        Args:
            batches: Normalized images (B, ch, H, W) and labels (B,), int64.
            iteration: Number of the iteration.
            kind: What the images are, which is a coordinate of the draws.
        """
        with self.model.plan.flags():
            self._train(batches, iteration, kind)

    def _train(self, batches: Batches, iteration: int, kind: str) -> None:
        s = self.settings
        parameters = {name: w.clone().requires_grad_() for name, w in self.weights.items()}
        velocity = [v.clone() for v in self.velocity.values()]
        for step, (x, y) in enumerate(batches):
            where = (kind, iteration, step)
            if s.augment is not None:
                x = s.augment.per_image(x, self.seed, "training augmentation", *where)
            if s.mixing is not None:
                x, y = s.mixing.mix(x, y, self.num_classes, self.seed, "training mixing", *where)
                y = y.to(x.dtype)
            _, logits = self.model({**parameters, **self.buffers}, x, keys=(self.seed, "training", *where))
            gradients = torch.autograd.grad(F.cross_entropy(logits, y), list(parameters.values()))
            with torch.no_grad():
                sgd(
                    list(parameters.values()),
                    list(gradients),
                    list(velocity),
                    lr=s.lr,
                    momentum=s.momentum,
                    weight_decay=s.weight_decay,
                    dampening=0.0,
                    nesterov=False,
                    maximize=False,
                )
        self.weights = {name: p.detach() for name, p in parameters.items()}
        self.velocity = dict(zip(self.velocity, velocity, strict=True))

    def tensors(self) -> list[Tensor]:
        """Return the tensors that training changes, which must be sent to the other processes."""
        return [*self.weights.values(), *self.buffers.values(), *self.velocity.values()]

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {"number": self.number, "network": self.state, "velocity": self.velocity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state from :meth:`state_dict`.

        Raises:
            BaconError: The state belongs to a network of another architecture.
        """
        there = {name: tuple(t.shape) for name, t in state["network"].items()}
        # A state without a network contains no names.
        if wrong := sorted(n for n in self.shapes | there if self.shapes.get(n) != there.get(n)) if there else []:
            raise BaconError(
                f"the checkpoint's network has another architecture ('{wrong[0]}' is "
                f"{there.get(wrong[0], 'not there')}, here {self.shapes.get(wrong[0], 'not there')}): give the "
                "--model.network that it was made with."
            )
        device = next(self.model.template.parameters()).device
        network = {name: t.to(device) for name, t in state["network"].items()}
        self.velocity = {name: t.to(device) for name, t in state["velocity"].items()}
        self.weights = {name: network[name] for name in self.velocity}
        self.buffers = {name: t for name, t in network.items() if name not in self.velocity}
        self.number = int(state["number"])
