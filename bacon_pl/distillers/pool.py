"""The pool of networks that distillation matches through (method.md §4): who is in it, their weights, their training.

All networks share one architecture, so a weight is one tensor for the whole pool, (slots, …), and a network is a slot
of it. That makes a checkpoint a handful of tensors and a draw an index.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.sgd import sgd

from bacon_pl import rng
from bacon_pl.errors import BaconError
from bacon_pl.networks import Network, StatelessNetwork

Weights = dict[str, Tensor]
Draw = Callable[[int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class PoolSettings:
    """How the pool lives.

    Args:
        initial: Networks at the start.
        push_every: A new network joins at every iteration divisible by this.
        capacity: Most networks alive; the oldest makes room.
        train_networks: Networks drawn for training in each iteration; 0 leaves all of them random.
        train_steps: Steps of training each of them gets.
        lr: Learning rate of their SGD.
        momentum: Momentum of their SGD.
        weight_decay: Weight decay of their SGD.

    Raises:
        BaconError: An argument is out of range.
    """

    initial: int = 3
    push_every: int = 30
    capacity: int = 100
    train_networks: int = 2
    train_steps: int = 10
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        least = {"initial": 1, "push_every": 1, "capacity": 1, "train_networks": 0, "train_steps": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise BaconError(f"--model.pool.{name} must be at least {low}, got {getattr(self, name)}.")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise BaconError(f"--model.pool.lr must be positive and finite, got {self.lr}.")
        if not 0 <= self.momentum < 1:
            raise BaconError(f"--model.pool.momentum must be in [0, 1), got {self.momentum}.")
        if not (self.weight_decay >= 0 and math.isfinite(self.weight_decay)):
            raise BaconError(f"--model.pool.weight_decay must be zero or positive and finite, got {self.weight_decay}.")


class NetworkPool:
    """Networks that come, are trained a little, and go.

    Networks are numbered by birth, and number k's initial weights depend on (seed, k) alone. Which networks are alive
    at iteration t follows from t; the pool keeps their weights, momentum and running accuracy.

    Args:
        settings: How the pool lives.
        factory: Makes one freshly initialized network.
        seed: The run's seed.
        device: Where the weights live.
        dtype: Their type.
        accelerate: Decides, given an architecture, whether its passes are compiled.
    """

    def __init__(
        self,
        settings: PoolSettings,
        factory: Callable[[], Network],
        seed: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        accelerate: Callable[[Network], bool] = lambda _: False,
    ) -> None:
        self.settings = settings
        self._factory = factory
        self._seed = seed
        self._device = torch.device(device)
        self._dtype = dtype
        with rng.seeded(seed, "template"):  # its weights are never used: every call brings a pool network's
            template = factory().to(device, dtype)
        self.network = StatelessNetwork(template, accelerate(template))
        self.born = 0
        self.weights: Weights = {}
        self.buffers: Weights = {}
        self.velocity: Weights = {}
        self.meters = torch.zeros(0, 2, device=device)

    # Who is alive. These depend on the iteration alone, so they live on the host and cost no sync.

    def births(self, iteration: int) -> int:
        """How many networks have been born by iteration t (0-based), t's own push included."""
        return self.settings.initial + iteration // self.settings.push_every + 1

    def alive(self, iteration: int) -> range:
        """Birth numbers of the networks alive in iteration t."""
        births = self.births(iteration)
        return range(max(0, births - self.settings.capacity), births)

    def matched(self, iteration: int) -> int:
        """Birth number of the network that iteration t matches through."""
        alive = self.alive(iteration)
        return alive[rng.derive(self._seed, "matched network", iteration) % len(alive)]

    def trained(self, iteration: int) -> list[int]:
        """Birth numbers of the distinct networks that iteration t trains."""
        alive = self.alive(iteration)
        order = rng.permutation(len(alive), self._seed, "trained networks", iteration)
        return [alive[i] for i in order[: self.settings.train_networks].tolist()]

    # Their state.

    def slot(self, birth: int) -> int:
        """Where a living network's state is kept."""
        return birth % self.settings.capacity

    def advance(self, iteration: int) -> None:
        """Give birth to the networks that iteration t needs and are not there yet."""
        births = self.births(iteration)
        for birth in range(max(self.born, births - self.settings.capacity), births):
            with rng.seeded(self._seed, "network", birth):
                network = self._factory().to(self._device, self._dtype)
            self._write(self.slot(birth), network)
        self.born = max(self.born, births)

    def _write(self, slot: int, network: nn.Module) -> None:
        parameters, buffers = dict(network.named_parameters()), dict(network.named_buffers())
        if not self.weights:
            empty = {name: p.detach().new_empty(0, *p.shape) for name, p in parameters.items()}
            self.weights, self.velocity = empty, dict(empty)
            self.buffers = {name: b.new_empty(0, *b.shape) for name, b in buffers.items()}
        if slot >= len(self.meters):
            # Room grows by half, for the capacity may be far more than a short run fills.
            rows = min(self.settings.capacity, max(self.settings.initial + 1, slot + 1 + slot // 2))
            for stack in (self.weights, self.velocity, self.buffers):
                for name, old in stack.items():
                    stack[name] = torch.cat([old, old.new_zeros(rows - len(old), *old.shape[1:])])
            self.meters = torch.cat([self.meters, self.meters.new_zeros(rows - len(self.meters), 2)])
        for name, p in parameters.items():
            self.weights[name][slot] = p.detach()
            self.velocity[name][slot] = 0
        for name, b in buffers.items():
            self.buffers[name][slot] = b
        self.meters[slot] = 0

    def forward(self, birth: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Run a network on normalized images (B, ch, H, W); returns embeddings (B, d) and logits (B, C)."""
        slot = self.slot(birth)
        state = {name: w[slot] for name, w in (self.weights | self.buffers).items()}
        return self.network(state, x)

    def accuracy(self, birth: int) -> Tensor:
        """A network's running training accuracy in percent, a 0-d tensor; 0 before its first step."""
        correct, seen = self.meters[self.slot(birth)]
        return 100 * correct / seen.clamp(min=1)

    def reset_meters(self) -> None:
        """Restart all running accuracies."""
        self.meters.zero_()

    def train(self, births: Sequence[int], draw: Draw, normalize: Callable[[Tensor], Tensor]) -> None:
        """Train networks by SGD, one step per batch, keeping their momentum and counting their hits.

        They take their steps together (see :meth:`StatelessNetwork.side_by_side`); a network's result does not depend
        on which others there are.

        Args:
            births: Distinct networks.
            draw: Gives a network its batches: uint8 images (steps, B, ch, H, W) and int64 labels (steps, B).
            normalize: Maps uint8 images to normalized pixel space.
        """
        if not births or not self.settings.train_steps:
            return
        slots = torch.tensor([self.slot(birth) for birth in births], device=self._device)
        parameters = {name: w[slots].requires_grad_() for name, w in self.weights.items()}
        buffers = {name: b[slots] for name, b in self.buffers.items()}
        velocity = {name: v[slots] for name, v in self.velocity.items()}
        images, labels = (torch.stack(parts, 1) for parts in zip(*map(draw, births), strict=True))
        hits = torch.zeros(len(births), device=self._device)
        for x, y in zip(images, labels, strict=True):
            _, logits = self.network.side_by_side(parameters | buffers, normalize(x))
            losses = F.cross_entropy(logits.transpose(1, 2), y, reduction="none").mean(1)
            gradients = torch.autograd.grad(losses.sum(), list(parameters.values()))
            hits += (logits.argmax(2) == y).sum(1)
            with torch.no_grad():
                sgd(
                    list(parameters.values()),
                    list(gradients),
                    list(velocity.values()),
                    lr=self.settings.lr,
                    momentum=self.settings.momentum,
                    weight_decay=self.settings.weight_decay,
                    dampening=0.0,
                    nesterov=False,
                    maximize=False,
                )
        for stacks, parts in ((self.weights, parameters), (self.velocity, velocity), (self.buffers, buffers)):
            for name, part in parts.items():
                stacks[name][slots] = part.detach()
        self.meters[slots] += torch.stack([hits, torch.full_like(hits, labels[:, 0].numel())], 1)

    def state_of(self, birth: int) -> list[Tensor]:
        """All that training a network changes, as views: what another process must be told."""
        slot = self.slot(birth)
        stacks = (self.weights, self.velocity, self.buffers)
        return [w[slot] for stack in stacks for w in stack.values()] + [self.meters[slot]]

    def state_dict(self) -> dict[str, Any]:
        """The pool's whole state, for a checkpoint."""
        return {
            "born": self.born,
            "weights": self.weights,
            "buffers": self.buffers,
            "velocity": self.velocity,
            "meters": self.meters,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state from :meth:`state_dict`, onto this pool's device."""
        self.born = int(state["born"])
        for name in ("weights", "buffers", "velocity"):
            setattr(self, name, {k: v.to(self._device) for k, v in state[name].items()})
        self.meters = state["meters"].to(self._device)
