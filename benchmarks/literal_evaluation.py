"""The published evaluation, written literally and eagerly (docs/evaluation.md): networks trained one after another."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from bacon_pl import rng
from bacon_pl.data import DatasetMeta
from bacon_pl.learners import Recipe, TrainingSet


class LiteralEvaluation:
    """Trains fresh networks as the published code does; draws are those of :class:`bacon_pl.learners.Learners`.

    Args:
        training_set: Normalized images and labels; they set device and type.
        recipe: How the networks learn.
        meta: The dataset.
        seed: Seed of every draw.
    """

    def __init__(self, training_set: TrainingSet, recipe: Recipe, meta: DatasetMeta, seed: int = 0) -> None:
        self.images, self.labels = training_set.images, training_set.labels
        self.recipe = recipe
        self.seed = seed
        self.networks = []
        self.optimizers = []
        for k in range(recipe.num_networks):
            with rng.seeded(seed, "evaluation network", k):
                network = recipe.network(meta.channels, meta.size, meta.num_classes)
            self.networks.append(network.to(self.images.device, self.images.dtype).train())
            self.optimizers.append(self.optimizer(k, recipe.lr))

    def optimizer(self, k: int, lr: float) -> torch.optim.SGD:
        """A fresh optimizer for network ``k``."""
        r = self.recipe
        return torch.optim.SGD(self.networks[k].parameters(), lr=lr, momentum=r.momentum, weight_decay=r.weight_decay)

    def epoch(self, k: int, epoch: int) -> list[float]:
        """Train network ``k`` for one epoch and return its loss at every step."""
        n, size = len(self.images), self.recipe.batch_size
        steps = -(-n // size)
        order = rng.permutation(n, self.seed, "evaluation order", k, epoch, device=self.images.device)
        losses, hits = [], 0
        for part in range(steps):
            step = epoch * steps + part
            if step == self.recipe.epochs * steps // 2:
                self.optimizers[k] = self.optimizer(k, self.recipe.lr * self.recipe.lr_drop)
            chosen = order[part * size : (part + 1) * size]
            x = self.recipe.augment.per_image(self.images[chosen], self.seed, "evaluation augment", k, step)
            _, logits = self.networks[k](x)
            loss = F.cross_entropy(logits, self.labels[chosen])
            self.optimizers[k].zero_grad()
            loss.backward()
            self.optimizers[k].step()
            losses.append(loss.item())
            hits += int((logits.argmax(1) == self.labels[chosen]).sum())
        return losses
