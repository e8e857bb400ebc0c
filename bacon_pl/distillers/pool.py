"""The pool of networks for matching: its membership, and the networks' weights and training.

All networks share one architecture. Each weight is one tensor for the whole pool, (slots, …), and a network is one
slot. A checkpoint therefore consists of a few tensors, and drawing a network means choosing an index.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.sgd import sgd

from bacon_pl import ranges, rng
from bacon_pl.errors import BaconError
from bacon_pl.networks import PLAIN, Captured, Network, Plan, Read, StatelessNetwork, embedding
from bacon_pl.networks.acceleration import even_rows
from bacon_pl.networks.placing import place
from bacon_pl.networks.stateless import Keys

Weights = dict[str, Tensor]
Draw = Callable[[int], tuple[Tensor, Tensor]]

MOST_STEPS = 16
"""Most training steps in one recording."""


@dataclass(frozen=True)
class PoolSettings:
    """Settings of the network pool.

    Args:
        initial: Number of networks at the start.
        push_every: Interval in iterations at which a new network is added.
        capacity: Maximum number of active networks; when it is exceeded, the oldest is removed.
        train_networks: Number of networks drawn for training in each iteration; 0 keeps all networks untrained.
        train_steps: Training steps of each drawn network.
        lr: Learning rate of the networks' SGD.
        momentum: Momentum of the networks' SGD, in [0, 1).
        weight_decay: Weight decay of the networks' SGD.

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
        of = "--model.pool."
        ranges.whole(of, initial=self.initial, push_every=self.push_every, capacity=self.capacity)
        ranges.whole(of, 0, train_networks=self.train_networks, train_steps=self.train_steps)
        ranges.positive(of, lr=self.lr)
        ranges.below_one(of, momentum=self.momentum)
        ranges.not_negative(of, weight_decay=self.weight_decay)


class NetworkPool:
    """A changing pool of networks that are added, trained for a while, and removed.

    Networks are numbered in the order of their creation, and the initial weights of network k depend on (seed, k)
    alone. The iteration t determines which networks are active. The pool stores their weights, momentum and running
    accuracy.

    Args:
        settings: Settings of the pool.
        factory: Function that creates a freshly initialized network.
        seed: Seed of the run.
        device: Device of the weights.
        dtype: Type of the weights.
        plan: Function that decides how the passes of an architecture are executed.
    """

    def __init__(
        self,
        settings: PoolSettings,
        factory: Callable[[], Network],
        seed: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        plan: Callable[[Network], Plan] = lambda _: PLAIN,
    ) -> None:
        self.settings = settings
        self._factory = factory
        self._seed = seed
        self._device = torch.device(device)
        self._dtype = dtype
        with rng.seeded(self._seed, "template"):  # its weights are never used; every call passes those of a network
            template = factory().to(device, dtype)
        self.model = StatelessNetwork(template, plan(template))
        self.created = 0
        self.weights: Weights = {}
        self.buffers: Weights = {}
        self.velocity: Weights = {}
        self.meters = torch.zeros(0, 2, device=device)
        self.captured: Captured | None = None
        """:meth:`steps` as a recorded function, if it is one."""
        self._numbers = torch.arange(settings.capacity, device=device)

    @property
    def template(self) -> Network:
        """The architecture."""
        return self.model.template

    # Active networks. They depend on the iteration alone, so they are computed on the host without a sync.

    def num_created(self, iteration: int) -> int:
        """Return the number of networks created up to and including iteration t (from 0)."""
        return self.settings.initial + iteration // self.settings.push_every + 1

    def active(self, iteration: int) -> range:
        """Return the ids of the networks that are active in iteration t."""
        created = self.num_created(iteration)
        return range(max(0, created - self.settings.capacity), created)

    def matched(self, iteration: int) -> int:
        """Return the id of the network that is matched in iteration t."""
        active = self.active(iteration)
        return active[rng.derive(self._seed, "matched network", iteration) % len(active)]

    def trained(self, iteration: int) -> list[int]:
        """Return the ids of the distinct networks that are trained in iteration t."""
        active = self.active(iteration)
        order = rng.permutation(len(active), self._seed, "trained networks", iteration)
        return [active[i] for i in order[: self.settings.train_networks].tolist()]

    # State of the networks.

    def slot(self, network_id: int) -> int:
        """Return the slot that holds the state of an active network."""
        return network_id % self.settings.capacity

    def _slots(self, network_ids: Sequence[int]) -> Tensor:
        """Return slots as a tensor that the device puts together: a list would have to be copied there."""
        return torch.cat([self._numbers[slot : slot + 1] for slot in map(self.slot, network_ids)])

    def advance(self, iteration: int) -> None:
        """Create the networks that iteration t needs and that do not exist yet."""
        created = self.num_created(iteration)
        for network_id in range(max(self.created, created - self.settings.capacity), created):
            with rng.seeded(self._seed, "network", network_id):
                model = self._factory()
            place(model, self._device, self._dtype)
            self._write(self.slot(network_id), model)
        self.created = max(self.created, created)

    def _write(self, slot: int, model: nn.Module) -> None:
        parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
        if not self.weights:
            empty = {name: p.detach().new_empty(0, *p.shape) for name, p in parameters.items()}
            self.weights, self.velocity = empty, dict(empty)
            self.buffers = {name: b.new_empty(0, *b.shape) for name, b in buffers.items()}
        if slot >= len(self.meters):
            # Grow by half at a time, since the capacity may be far larger than a short run needs.
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

    def state(self, network_id: int) -> dict[str, Tensor]:
        """Return views of the weights and running statistics of a network by name."""
        slot = self.slot(network_id)
        return {name: t[slot] for stack in (self.weights, self.buffers) for name, t in stack.items()}

    def forward(self, network_id: int, x: Tensor, read: Read = embedding, keys: Keys = ()) -> Any:
        """Run a pass of a network on normalized images without changing its running statistics.

        Args:
            network_id: Id of the network.
            x: (B, ch, H, W).
            read: Function that selects the results; by default embeddings (B, d) and logits (B, C).
            keys: Further coordinates of the pass's random draws, after seed and network: purpose, iteration.

        Returns:
            The result of ``read``.
        """
        state = self.state(network_id)
        state |= {name: state[name].clone() for name in self.buffers}
        return self.model(state, x, read, (self._seed, "forward", network_id, *keys))

    def accuracy(self, network_id: int) -> Tensor:
        """Return the running training accuracy of a network in percent, 0-d; 0 before its first step."""
        correct, seen = self.meters[self.slot(network_id)]
        return 100 * correct / seen.clamp(min=1)

    def reset_meters(self) -> None:
        """Reset all running accuracies."""
        self.meters.zero_()

    def train(
        self, network_ids: Sequence[int], draw: Draw, normalize: Callable[[Tensor], Tensor], iteration: int
    ) -> None:
        """Train networks with SGD, one step per batch, and update their momentum and running accuracy.

        The networks take their steps together (see :meth:`StatelessNetwork.side_by_side`). The result for a network
        does not depend on the other networks.

        Args:
            network_ids: Distinct ids of networks.
            draw: Function from a network's id to its batches: uint8 images (steps, B, ch, H, W) and int64 labels
                (steps, B).
            normalize: Function that maps uint8 images to normalized pixel space.
            iteration: Number of the iteration.
        """
        if network_ids and self.settings.train_steps:
            with self.model.plan.flags():
                self._train(network_ids, draw, normalize, iteration)

    def _train(
        self, network_ids: Sequence[int], draw: Draw, normalize: Callable[[Tensor], Tensor], iteration: int
    ) -> None:
        slots = self._slots(network_ids)
        parameters, velocity, buffers = (
            {name: t[slots] for name, t in stack.items()} for stack in (self.weights, self.velocity, self.buffers)
        )
        images, labels = (torch.stack(parts, 1) for parts in zip(*map(draw, network_ids), strict=True))
        if self.captured is None:
            keys = [(self._seed, "training", network_id, iteration) for network_id in network_ids]
            done = self.steps(normalize, parameters, velocity, buffers, images, labels, keys)
            parameters, velocity, buffers, hits = done
        else:
            rows = even_rows(len(images), MOST_STEPS)
            hits = torch.zeros(len(network_ids), device=self._device, dtype=torch.int64)
            for x, y in zip(images.split(rows), labels.split(rows), strict=True):
                parameters, velocity, buffers, more = self.captured(parameters, velocity, buffers, x, y)
                hits += more
        for stacks, parts in ((self.weights, parameters), (self.velocity, velocity), (self.buffers, buffers)):
            for name, part in parts.items():
                stacks[name][slots] = part
        counts = hits.to(self.meters.dtype)
        self.meters[slots] += torch.stack([counts, torch.full_like(counts, labels[:, 0].numel())], 1)

    def steps(
        self,
        normalize: Callable[[Tensor], Tensor],
        parameters: Weights,
        velocity: Weights,
        buffers: Weights,
        images: Tensor,
        labels: Tensor,
        keys: Sequence[Keys] = (),
    ) -> tuple[Weights, Weights, Weights, Tensor]:
        """Take a step of SGD with each of several batches, as a function of tensors, which it overwrites.

        Args:
            normalize: Function that maps uint8 images to normalized pixel space.
            parameters: Weights of K networks by name, (K, …) each.
            velocity: Their momentum.
            buffers: Their running statistics.
            images: uint8 (steps, K, B, ch, H, W).
            labels: int64 (steps, K, B).
            keys: Coordinates of the random draws of each network but for the step; not needed if it does not draw.

        Returns:
            The parameters, momentum and running statistics after the steps, and the number of images that each network
            classified rightly, int64 (K,).
        """
        parameters = {name: w.detach().requires_grad_() for name, w in parameters.items()}
        hits = torch.zeros_like(labels[0, :, 0])
        for step, (x, y) in enumerate(zip(images, labels, strict=True)):
            own = [(*key, step) for key in keys]
            _, logits = self.model.side_by_side(parameters | buffers, normalize(x), keys=own)
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
        return {name: w.detach() for name, w in parameters.items()}, velocity, buffers, hits

    def state_of(self, network_id: int) -> list[Tensor]:
        """Return views of the tensors that training a network changes, which must be sent to the other processes."""
        slot = self.slot(network_id)
        stacks = (self.weights, self.velocity, self.buffers)
        return [w[slot] for stack in stacks for w in stack.values()] + [self.meters[slot]]

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state of the pool, for a checkpoint."""
        return {
            "created": self.created,
            "weights": self.weights,
            "buffers": self.buffers,
            "velocity": self.velocity,
            "meters": self.meters,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state from :meth:`state_dict` on this pool's device.

        Raises:
            BaconError: The state belongs to networks of another architecture.
        """
        weights = {name: tuple(p.shape) for name, p in self.template.named_parameters()}
        buffers = {name: tuple(b.shape) for name, b in self.template.named_buffers()}
        for kind, here in (("weights", weights), ("velocity", weights), ("buffers", buffers)):
            there = {name: tuple(t.shape[1:]) for name, t in state[kind].items()}
            # The state of a pool without networks contains no names.
            if wrong := sorted(name for name in here | there if here.get(name) != there.get(name)) if there else []:
                raise BaconError(
                    f"the checkpoint's pool holds networks of another architecture ('{wrong[0]}' is "
                    f"{there.get(wrong[0], 'not there')}, here {here.get(wrong[0], 'not there')}): give the "
                    "--model.network that it was made with."
                )
        self.created = int(state["created"])
        for name in ("weights", "buffers", "velocity"):
            setattr(self, name, {k: v.to(self._device) for k, v in state[name].items()})
        self.meters = state["meters"].to(self._device)
