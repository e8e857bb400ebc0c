"""Evaluation as a LightningModule: several fresh networks trained side by side on one set, then tested."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from bacon_pl import rng
from bacon_pl.data import DatasetMeta, normalise
from bacon_pl.evaluate.recipe import Recipe
from bacon_pl.evaluate.training_set import TrainingSet
from bacon_pl.networks import Network, StatelessNetwork, resolve_acceleration


class EvalModule(pl.LightningModule):
    """Trains ``recipe.num_networks`` fresh networks on a training set and tests them (method.md §7).

    Network k's initial weights, batches and augmentation depend on (seed, k) alone. The networks take their steps
    together: one training step is step s of every network.

    Args:
        training_set: What they learn from.
        recipe: How they learn.
        meta: The dataset.
        seed: Seed of every draw.
    """

    images: Tensor
    labels: Tensor
    index: Tensor

    def __init__(self, training_set: TrainingSet, recipe: Recipe, meta: DatasetMeta, seed: int = 0) -> None:
        super().__init__()
        self.name = training_set.name
        self.storage_bytes = training_set.storage_bytes
        self.recipe = recipe
        self.meta = meta
        self.seed = seed
        for name in ("images", "labels", "index"):
            self.register_buffer(name, getattr(training_set, name), persistent=False)
        networks = []
        for k in range(recipe.num_networks):
            with rng.seeded(seed, "evaluation network", k):
                networks.append(recipe.network(meta.channels, meta.size, meta.num_classes))
        self.networks = nn.ModuleList(networks)
        self.accuracies = MetricCollection(
            {str(k): MulticlassAccuracy(num_classes=meta.num_classes, average="micro") for k in range(len(networks))},
            compute_groups=False,  # every network's hits are its own
        )
        self._order = (-1, torch.empty(0))

    @cached_property
    def _network(self) -> StatelessNetwork:
        """The architecture that all networks share, compiled where their training is long enough to repay it."""
        template = copy.deepcopy(self.networks[0])
        assert isinstance(template, Network)
        images = self.recipe.num_networks * self.recipe.epochs * self.index.shape[1]
        shape = (self.meta.channels, *self.meta.size)
        accelerated = resolve_acceleration(self.recipe.acceleration, template, shape, images, self.device)
        return StatelessNetwork(template, accelerated)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over the training set; the last may be smaller."""
        return -(-self.index.shape[1] // self.recipe.batch_size)

    @property
    def total_steps(self) -> int:
        """Steps of the whole training."""
        return self.recipe.epochs * self.steps_per_epoch

    def train_dataloader(self) -> Sequence[int]:
        """Yield step numbers: the batches themselves are gathered on the device."""
        return range(self.total_steps)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One SGD over all networks: their gradients never mix, so it is each network's own."""
        r = self.recipe
        return torch.optim.SGD(self.networks.parameters(), lr=r.lr, momentum=r.momentum, weight_decay=r.weight_decay)

    def training_step(self, step: int, batch_idx: int) -> Tensor:
        """Compute the sum of the networks' losses at a step."""
        loss = self.losses(step)
        self.log("train/loss", loss.detach().mean(), prog_bar=True)
        return loss.sum()

    def on_train_batch_start(self, batch: int, batch_idx: int) -> None:
        """Lower the learning rate half-way."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        self.schedule(optimizer, batch)

    def schedule(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Half-way through, multiply the learning rate by ``recipe.lr_drop`` and restart momentum (method.md §7)."""
        if step == self.total_steps // 2 and self.recipe.lr_drop != 1:
            for group in optimizer.param_groups:
                group["lr"] = self.recipe.lr * self.recipe.lr_drop
            optimizer.state.clear()

    def losses(self, step: int) -> Tensor:
        """Cross-entropy of each network on its own augmented batch: (num_networks,)."""
        batches = (self.augmented_batch(k, step) for k in range(len(self.networks)))
        x, y = (torch.stack(parts) for parts in zip(*batches, strict=True))
        states = [dict(network.named_parameters()) | dict(network.named_buffers()) for network in self.networks]
        stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}
        logits = self._network.side_by_side(stacked, x)[1]
        return F.cross_entropy(logits.transpose(1, 2), y, reduction="none").mean(1)

    def augmented_batch(self, network: int, step: int) -> tuple[Tensor, Tensor]:
        """Network k's batch of a step (see :meth:`batch`), augmented."""
        x, y = self.batch(network, step)
        return self.recipe.augment.per_image(x, self.seed, "evaluation augment", network, step), y

    def batch(self, network: int, step: int) -> tuple[Tensor, Tensor]:
        """Gather network k's batch of a step: normalised images (B, ch, H, W) and labels (B,)."""
        epoch, part = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            n = self.index.shape[1]
            orders = [
                rng.permutation(n, self.seed, "evaluation order", k, epoch, device=self.device)
                for k in range(len(self.networks))
            ]
            self._order = (epoch, torch.stack(orders))
        size = self.recipe.batch_size
        position = self.index[network % len(self.index)][self._order[1][network, part * size : (part + 1) * size]]
        x = self.images[position]
        return self.normalise(x) if x.dtype == torch.uint8 else x, self.labels[position]

    def normalise(self, images: Tensor) -> Tensor:
        """Map uint8 images (..., ch, H, W) to normalised pixel space."""
        return normalise(images, self.meta.mean, self.meta.std, next(self.networks.parameters()).dtype)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Count hits of every network on normalised images (B, ch, H, W)."""
        x, y = batch
        for k, network in enumerate(self.networks):
            self.accuracies[str(k)].update(network(x)[1], y)

    def on_test_epoch_end(self) -> None:
        """Log mean and standard deviation of the top-1 accuracies in percent."""
        per_network = self.per_network()
        self.log_dict({"test/accuracy": per_network.mean(), "test/accuracy_std": spread(per_network)})

    def per_network(self) -> Tensor:
        """Top-1 accuracy of every network in percent: (num_networks,)."""
        hits = self.accuracies.compute()  # a collection sorts its names as text: 0, 1, 10, 2
        return torch.stack([100 * hits[str(k)] for k in range(len(self.networks))]).cpu()


def spread(values: Tensor) -> Tensor:
    """Unbiased standard deviation of (n,) values; 0 for a single one."""
    return values.std() if len(values) > 1 else values.new_zeros(())


def train_without_trainer(module: EvalModule) -> EvalModule:
    """Train a module where it is, without a Trainer: for use inside another Trainer's run.

    Args:
        module: Trained in place.

    Returns:
        The module.
    """
    optimizer = module.configure_optimizers()
    with torch.enable_grad():
        for step in range(module.total_steps):
            module.schedule(optimizer, step)
            optimizer.zero_grad()
            module.losses(step).sum().backward()
            optimizer.step()
    return module
