"""The published distillation, written literally and eagerly (docs/methods), as the reference for timings.

It is slow on purpose, in the ways that the published code is: one class at a time, an autograd graph for the real
images, two forward passes of the same synthetic images, one step of the whole image tensor per class, the pool's
networks trained one after another, numbers read back after every step. It takes its draws from the same coordinates
as :class:`bacon_pl.distillers.DistributionMatching`, so that a test can show that both do the same mathematics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bacon_pl import rng
from bacon_pl.augment import DSA
from bacon_pl.data import DatasetMeta, IterationBatch, normalize
from bacon_pl.distillers import PoolSettings
from bacon_pl.networks import Network, NetworkFactory
from bacon_pl.partition import expand


@dataclass
class PoolNetwork:
    """A network of the pool with what belongs to it."""

    network_id: int
    network: Network
    optimizer: torch.optim.SGD
    hits: int = 0
    seen: int = 0

    @property
    def accuracy(self) -> float:
        """Running training accuracy in percent, 0 before the first step."""
        return 100 * self.hits / self.seen if self.seen else 0.0


class LiteralDistillation:
    """BACON with the published schedule.

    Args:
        images: (C·ipc, ch, H, W), normalized; they set device and type.
        meta: The dataset.
        ipc: Images per class.
        network: What the pool is made of.
        pool: How the pool lives.
        augment: Siamese augmentation.
        factor: Tiles per side of a canvas.
        tv_weight: λ of the loss.
        ce_weight: w of the loss.
        lr: Learning rate of one class's step.
        momentum: Its momentum.
        accuracy_window: Running accuracies restart every this many iterations.
        seed: Seed of every draw.
    """

    def __init__(
        self,
        images: Tensor,
        meta: DatasetMeta,
        ipc: int,
        network: NetworkFactory,
        pool: PoolSettings,
        augment: DSA,
        factor: int = 2,
        tv_weight: float = 0.8,
        ce_weight: float = 0.5,
        lr: float = 0.2,
        momentum: float = 0.5,
        accuracy_window: int = 100,
        seed: int = 0,
    ) -> None:
        self.images = images.detach().clone().requires_grad_()
        self.optimizer = torch.optim.SGD([self.images], lr=lr, momentum=momentum)
        self.meta = meta
        self.ipc = ipc
        self.network = network
        self.pool_settings = pool
        self.strategies = augment.strategies
        # A DSA of one strategy draws the same parameters as one of all, and applies no other on any device.
        ratios = (augment.crop_ratio, augment.cutout_ratio, augment.scale_ratio, augment.rotate_degrees)
        self.augment_by = {name: DSA((name,), *ratios) for name in self.strategies}
        self.factor = factor
        self.tv_weight = tv_weight
        self.ce_weight = ce_weight
        self.accuracy_window = accuracy_window
        self.seed = seed
        self.pool: list[PoolNetwork] = []
        self.created = 0
        for _ in range(pool.initial):
            self.push()

    def push(self) -> None:
        """Add a fresh network to the pool; the oldest drops out of a full one."""
        with rng.seeded(self.seed, "network", self.created):
            network = self.network(self.meta.channels, self.meta.size, self.meta.num_classes)
        network = network.to(self.images.device, self.images.dtype).train()
        s = self.pool_settings
        optimizer = torch.optim.SGD(network.parameters(), lr=s.lr, momentum=s.momentum, weight_decay=s.weight_decay)
        self.pool.append(PoolNetwork(self.created, network, optimizer))
        self.created += 1
        if len(self.pool) > s.capacity:
            self.pool.pop(0)

    def iteration(self, batch: IterationBatch) -> list[float]:
        """Run one iteration.

        Args:
            batch: Its real images.

        Returns:
            The loss of each class, at the moment of its step.
        """
        t = batch.iteration
        if t % self.pool_settings.push_every == 0:
            self.push()
        if t % self.accuracy_window == 0:
            for member in self.pool:
                member.hits = member.seen = 0
        matched = self.pool[rng.derive(self.seed, "matched network", t) % len(self.pool)]
        losses = [self.step_class(c, batch, matched) for c in range(self.meta.num_classes)]
        order = rng.permutation(len(self.pool), self.seed, "trained networks", t)
        for i in order[: self.pool_settings.train_networks].tolist():
            self.train(self.pool[i], *batch.random_batches(self.pool[i].network_id, self.pool_settings.train_steps))
        return losses

    def step_class(self, c: int, batch: IterationBatch, matched: PoolNetwork) -> float:
        """Match class ``c`` and make one SGD step of all images, of which momentum moves the other classes'."""
        net, t = matched.network, batch.iteration
        chosen, mask = batch.matching(torch.tensor([c]))
        real = chosen[0] if mask is None else chosen[0][mask[0]]
        x_real = self.augment(self.normalize(real), c, t)
        x_syn = self.augment(expand(self.images[c * self.ipc : (c + 1) * self.ipc], self.factor), c, t)

        z_real = net.embed(x_real).detach()  # the graph is built, and thrown away
        z_syn = net.embed(x_syn)
        loss = matching_loss(z_syn, z_real, self.tv_weight)
        _, logits = net(x_syn)  # the same images a second time
        labels = torch.full((len(x_syn),), c, device=x_syn.device)
        loss = loss + self.ce_weight * matched.accuracy * F.cross_entropy(logits, labels)

        self.optimizer.zero_grad()
        loss.backward(inputs=[self.images])
        self.optimizer.step()
        return loss.item()

    def augment(self, x: Tensor, c: int, t: int) -> Tensor:
        """Augment images (n, ch, H, W) by class ``c``'s draw of iteration ``t``; the host knows its group."""
        row = torch.tensor([c])
        keys = (self.seed, "augment", t)
        group = int(rng.integers(len(self.strategies), *keys, "group", row))
        return self.augment_by[self.strategies[group]].siamese(x[None], row.to(x.device), *keys)[0]

    def train(self, member: PoolNetwork, images: Tensor, labels: Tensor) -> None:
        """Train one network on uint8 batches (steps, B, ch, H, W) with labels (steps, B)."""
        for x, y in zip(images, labels, strict=True):
            _, logits = member.network(self.normalize(x))
            loss = F.cross_entropy(logits, y)
            member.optimizer.zero_grad()
            loss.backward()
            member.optimizer.step()
            member.hits += int((logits.argmax(1) == y).sum())
            member.seen += len(y)

    def normalize(self, images: Tensor) -> Tensor:
        """Map uint8 images to normalized pixel space."""
        return normalize(images, self.meta.mean, self.meta.std, self.images.dtype)


def matching_loss(z_syn: Tensor, z_real: Tensor, tv_weight: float) -> Tensor:
    """L_LH + λ·L_TV of one class, embeddings (m, d) and (n, d); the published clip term is zero."""
    mean_real, std_real = z_real.mean(0), z_real.std(0)
    mean_syn = z_syn.mean(0)
    sigma = torch.exp(std_real)
    likelihood = (0.5 * math.log(2 * math.pi) + std_real + 0.5 * ((mean_syn - mean_real) / sigma) ** 2).sum()
    variation = 0.5 * (mean_syn - mean_real).abs().sum()
    return likelihood + tv_weight * variation
