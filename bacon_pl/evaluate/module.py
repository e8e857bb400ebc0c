"""Evaluation as a LightningModule: several fresh networks trained side by side on one set, then tested."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Protocol

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassConfusionMatrix

from bacon_pl import rng
from bacon_pl.data import DatasetMeta, normalize
from bacon_pl.data.images import denormalize
from bacon_pl.distributed import all_reduce_sum, broadcast, own_share
from bacon_pl.errors import BaconError
from bacon_pl.evaluate.recipe import Recipe
from bacon_pl.evaluate.run_result import RunResult, Variant, accuracies, spread
from bacon_pl.evaluate.training_set import TrainingSet
from bacon_pl.networks import Network, StatelessNetwork, resolve_acceleration


class Labeller(Protocol):
    """Gives soft labels."""

    def prepare(self, device: torch.device) -> None:
        """Get ready on a device; all processes of a run call this together."""

    def logits(self, x: Tensor) -> Tensor:
        """Classify normalized images: (B, ch, H, W) to (B, C)."""


class EvalModule(pl.LightningModule):
    """Trains ``recipe.num_networks`` fresh networks on a training set and tests them (method.md §7).

    Network k's initial weights, batches and augmentation depend on (seed, k) alone. The networks take their steps
    together: one training step is step s of every network. Several processes share the networks out; every process
    ends with all of them, and with the counts of all tests.

    Args:
        training_set: What they learn from.
        recipe: How they learn.
        meta: The dataset.
        seed: Seed of every draw.
        labeller: Where the labels come from if ``recipe.soft_labels`` is set.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    epoch_loss: Tensor

    def __init__(
        self,
        training_set: TrainingSet,
        recipe: Recipe,
        meta: DatasetMeta,
        seed: int = 0,
        labeller: Labeller | None = None,
    ) -> None:
        super().__init__()
        if (recipe.soft_labels is None) != (labeller is None):
            raise ValueError("a labeller is needed where, and only where, the recipe has soft labels.")
        self.automatic_optimization = False  # a data-parallel wrapper would average the processes' gradients
        self.name = training_set.name
        self.storage_bytes = training_set.storage_bytes
        self.recipe = recipe
        self.meta = meta
        self.seed = seed
        self.labeller = labeller
        for name in ("images", "labels", "index"):
            self.register_buffer(name, getattr(training_set, name), persistent=False)
        networks = []
        for k in range(recipe.num_networks):
            with rng.seeded(seed, "evaluation network", k):
                networks.append(recipe.network(meta.channels, meta.size, meta.num_classes))
        self.networks = nn.ModuleList(networks)
        self.register_buffer("epoch_loss", torch.zeros(len(networks), recipe.epochs), persistent=False)
        count = partial(MulticlassConfusionMatrix, meta.num_classes, sync_on_compute=False, validate_args=False)
        self.confusion = MetricCollection({str(k): count() for k in range(len(networks))}, compute_groups=False)
        self.hits_after: dict[int, Tensor] = {}
        """Hits (K,) of this process's networks on the probed images, by the epochs done by then; see :meth:`probe`."""
        self.probed_images = 0
        self._orders: dict[int, tuple[int, Tensor]] = {}
        # A data-parallel wrapper would copy its first process's buffers to the others before every step.
        self._ddp_params_and_buffers_to_ignore = [name for name, _ in self.named_buffers()]

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
    def share(self) -> range:
        """Numbers of the networks that this process trains and tests."""
        return own_share(len(self.networks))

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over the training set; the last may be smaller."""
        return -(-self.index.shape[1] // self.recipe.batch_size)

    @property
    def total_steps(self) -> int:
        """Steps of the whole training."""
        return self.recipe.epochs * self.steps_per_epoch

    # Training.

    def train_dataloader(self) -> Sequence[int]:
        """Yield step numbers: the batches themselves are gathered on the device."""
        return range(self.total_steps)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One optimizer over all networks: their gradients never mix, so it is each network's own."""
        r = self.recipe
        if r.optimizer == "adamw":
            return torch.optim.AdamW(self.networks.parameters(), lr=r.lr, weight_decay=r.weight_decay)
        return torch.optim.SGD(self.networks.parameters(), lr=r.lr, momentum=r.momentum, weight_decay=r.weight_decay)

    def on_fit_start(self) -> None:
        """Get the labels' source ready.

        Raises:
            BaconError: The Trainer's precision needs loss scaling.
        """
        if self.trainer.precision == "16-mixed":
            raise BaconError(
                "--trainer.precision 16-mixed scales losses, which the networks' gradients do not go through: use "
                "bf16-mixed."
            )
        self.prepare()

    def prepare(self) -> None:
        """Get ready to train where the module is; all processes of a run call this together."""
        if self.labeller is not None:
            self.labeller.prepare(self.device)

    def on_train_batch_start(self, batch: int, batch_idx: int) -> None:
        """Set the learning rate."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        self.schedule(optimizer, batch)

    def training_step(self, step: int, batch_idx: int) -> None:
        """Take a step with each of this process's networks."""
        losses = self.descend(step)
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        optimizer.step()  # networks of other processes have no gradient, so they stay as they are
        if len(losses):
            self.log("train/loss", losses.mean(), prog_bar=True)

    def on_train_end(self) -> None:
        """Hand every network to all processes."""
        self.broadcast_networks()

    def schedule(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Set the learning rate of a step.

        ``step``: half-way through, multiply it by ``recipe.lr_drop`` and restart the optimizer's state (method.md §7);
        ``cosine``: fall from ``recipe.lr`` towards 0.
        """
        r = self.recipe
        if r.schedule == "cosine":
            for group in optimizer.param_groups:
                group["lr"] = r.lr * (1 + math.cos(math.pi * step / self.total_steps)) / 2
        elif step == self.total_steps // 2 and r.lr_drop != 1:
            for group in optimizer.param_groups:
                group["lr"] = r.lr * r.lr_drop
            optimizer.state.clear()

    def descend(self, step: int) -> Tensor:
        """Set the gradients of this process's networks at a step; returns their losses, as :meth:`losses`."""
        losses = self.losses(step)
        parameters = [p for k in self.share for p in self.networks[k].parameters()]
        if parameters:
            # Not through backward(), where a data-parallel wrapper waits to average the processes' gradients.
            for p, gradient in zip(parameters, torch.autograd.grad(losses.sum(), parameters), strict=True):
                p.grad = gradient
        losses = losses.detach()
        own = slice(self.share.start, None, self.share.step)
        self.epoch_loss[own, step // self.steps_per_epoch] += losses / self.steps_per_epoch
        return losses

    def losses(self, step: int) -> Tensor:
        """Loss of each of this process's networks on its own augmented batch: (networks,)."""
        if not self.share:
            return self.epoch_loss.new_zeros(0)
        batches = (self.augmented_batch(k, step) for k in self.share)
        x, y = (torch.stack(parts) for parts in zip(*batches, strict=True))
        networks = [self.networks[k] for k in self.share]
        states = [dict(network.named_parameters()) | dict(network.named_buffers()) for network in networks]
        stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}
        logits = self._network.side_by_side(stacked, x)[1]
        for i, network in enumerate(networks):  # running statistics, where there are any
            for name, buffer in network.named_buffers():
                buffer.copy_(stacked[name][i])
        if self.recipe.soft_labels is not None:
            assert self.labeller is not None
            taught = self.labeller.logits(x.flatten(0, 1)).unflatten(0, x.shape[:2])
            return self.recipe.soft_labels.losses(logits, taught)
        if y.ndim == 3:
            y = y.transpose(1, 2)
        return F.cross_entropy(logits.transpose(1, 2), y, reduction="none").mean(1)

    def augmented_batch(self, network: int, step: int) -> tuple[Tensor, Tensor]:
        """Network k's batch of a step (see :meth:`batch`), augmented; labels that were mixed are (B, C)."""
        x, y = self.batch(network, step)
        augment, where = self.recipe.augment, (network, step)
        if augment.on_pixels:
            pixels = denormalize(x, self.meta.mean, self.meta.std)
            pixels = augment.per_image(pixels, self.seed, "evaluation augment", *where)
            x = self.normalize(pixels)
        else:
            x = augment.per_image(x, self.seed, "evaluation augment", *where)
        if self.recipe.mixing is None:
            return x, y
        return self.recipe.mixing.mix(x, y, self.meta.num_classes, self.seed, "evaluation mixing", *where)

    def batch(self, network: int, step: int) -> tuple[Tensor, Tensor]:
        """Gather network k's batch of a step: normalized images (B, ch, H, W) and labels (B,)."""
        epoch, part = divmod(step, self.steps_per_epoch)
        if self._orders.get(network, (-1,))[0] != epoch:
            n = self.index.shape[1]
            order = rng.permutation(n, self.seed, "evaluation order", network, epoch, device=self.device)
            self._orders[network] = (epoch, order)
        size = self.recipe.batch_size
        position = self.index[network % len(self.index)][self._orders[network][1][part * size : (part + 1) * size]]
        x = self.images[position]
        return self.normalize(x) if x.dtype == torch.uint8 else x, self.labels[position]

    def normalize(self, images: Tensor) -> Tensor:
        """Map images (..., ch, H, W), uint8 or pixels in [0, 1], to normalized pixel space."""
        dtype = next(self.networks.parameters()).dtype
        if images.dtype != torch.uint8:
            images = images * 255
        return normalize(images, self.meta.mean, self.meta.std, dtype)

    @torch.no_grad()
    def broadcast_networks(self) -> None:
        """Give every process all networks as the one that trained them left them."""
        for k, network in enumerate(self.networks):
            state = [*network.parameters(), *network.buffers()]
            for dtype in {t.dtype for t in state}:
                broadcast([t for t in state if t.dtype == dtype], k % self.share.step)

    # Use and test.

    @torch.no_grad()
    def classify(self, network: int, x: Tensor) -> Tensor:
        """Classify normalized images (B, ch, H, W) by a network as it is at the moment: (B, C)."""
        model = self.networks[network]
        state = dict(model.named_parameters()) | dict(model.named_buffers())
        self._network.template.eval()
        logits = self._network(state, x)[1]
        self._network.template.train()
        return logits

    def logits(self, x: Tensor) -> Tensor:
        """Classify normalized images (B, ch, H, W) by network 0: (B, C)."""
        return self.classify(0, x)

    @torch.no_grad()
    def embed(self, images: Tensor, network: int = 0, batch_size: int = 500) -> Tensor:
        """Embed images by a trained network.

        Args:
            images: (N, ch, H, W), uint8 or normalized, on the module's device.
            network: Number of the network.
            batch_size: Images embedded at once.

        Returns:
            (N, d).
        """
        model = self.networks[network].eval()
        assert isinstance(model, Network)
        parts = (self.normalize(x) if x.dtype == torch.uint8 else x for x in images.split(batch_size))
        return torch.cat([model.embed(x) for x in parts])

    @torch.no_grad()
    def probe(self, x: Tensor, y: Tensor, epochs: int) -> None:
        """Count the hits of this process's networks in the middle of their training, for display alone.

        Args:
            x: Test images (B, ch, H, W), normalized.
            y: Their labels (B,).
            epochs: Epochs done by now.
        """
        hits = self.hits_after.setdefault(epochs, torch.zeros(len(self.networks), device=self.device))
        for k in self.share:
            hits[k] += (self.classify(k, x).argmax(1) == y).sum()

    def on_test_start(self) -> None:
        """Forget the counts of an earlier test."""
        self.confusion.reset()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Count what this process's networks take normalized images (B, ch, H, W) for."""
        x, y = batch
        for k in self.share:
            self.confusion[str(k)].update(self.classify(k, x), y)

    def on_test_epoch_end(self) -> None:
        """Log mean and standard deviation of the top-1 accuracies in percent."""
        per_network = self.per_network()
        self.log_dict({"test/accuracy": per_network.mean(), "test/accuracy_std": spread(per_network)})

    def confusions(self) -> Tensor:
        """What the tested images were taken for; all processes of a run call this together.

        Returns:
            (num_networks, C, C) int64 on the CPU: images of class i (row) that a network took for class j (column).
        """
        classes = self.meta.num_classes
        counts = torch.zeros(len(self.networks), classes, classes, dtype=torch.int64, device=self.device)
        for k in self.share:
            counts[k] = self.confusion[str(k)].compute()
        all_reduce_sum([counts])
        return counts.cpu()

    def per_network(self) -> Tensor:
        """Top-1 accuracy of every network in percent, (num_networks,); all processes of a run call this together."""
        return accuracies(self.confusions())

    def run_result(self, network: str, variant: Variant = "given") -> RunResult:
        """What the training and the test found out; all processes of a run call this together.

        Args:
            network: Name of the architecture.
            variant: Name of the recipe.
        """
        loss = self.epoch_loss.clone()
        curve = loss.new_zeros(len(loss), len(self.hits_after))
        for i, hits in enumerate(self.hits_after.values()):
            curve[:, i] = 100 * hits / self.probed_images
        all_reduce_sum([loss, curve])
        return RunResult(
            training_set=self.name,
            network=network,
            variant=variant,
            recipe=self.recipe.described(),
            seed=self.seed,
            confusion=self.confusions(),
            loss=loss.float().cpu(),
            curve=curve.float().cpu(),
            curve_epochs=tuple(self.hits_after),
            storage_bytes=self.storage_bytes,
            train_images=self.index.shape[1],
        )


def train_without_trainer(module: EvalModule) -> EvalModule:
    """Train a module where it is, without a Trainer: for use inside another Trainer's run.

    Args:
        module: Trained in place.

    Returns:
        The module.
    """
    optimizer = module.configure_optimizers()
    with torch.enable_grad():
        module.prepare()
        for step in range(module.total_steps):
            module.schedule(optimizer, step)
            module.descend(step)
            optimizer.step()
    module.broadcast_networks()
    return module
