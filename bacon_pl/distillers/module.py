"""Distillation as a LightningModule: the synthetic images are its parameters, one training step is one iteration."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from jsonargparse import lazy_instance
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from bacon_pl.augment import DSA, Augmentation
from bacon_pl.data import DataModule, DatasetMeta, IterationBatch, LabeledImages, normalize
from bacon_pl.data.draw import draw_real
from bacon_pl.distilled_set import FILE_NAME, DistilledSet, git_commit
from bacon_pl.distillers.bound_log import BoundLog, LoggedBound
from bacon_pl.distillers.identity import difference, identity
from bacon_pl.distillers.pool import NetworkPool, PoolSettings
from bacon_pl.distillers.watch import FiniteWatch
from bacon_pl.distributed import all_reduce_sum, broadcast, shard
from bacon_pl.errors import BaconError, unknown_name
from bacon_pl.networks import (
    Acceleration,
    ConvNet,
    Network,
    NetworkFactory,
    Plan,
    resolve_acceleration,
)
from bacon_pl.networks.acceleration import even_rows
from bacon_pl.networks.cost import activation_bytes
from bacon_pl.objectives import BaconObjective, Objective
from bacon_pl.partition import assemble, check_factor, expand

MIN_CPU_BLOCKS = 8
"""Blocks of classes on a CPU, if there are so many classes: enough to deal out evenly, few enough to be fast."""

_ACCURACY_SCALES: dict[str, Callable[[Tensor], Tensor]] = {
    "percent": lambda accuracy: accuracy,
    "fraction": lambda accuracy: accuracy / 100,
    "none": torch.ones_like,
}


def batched_sgd(lr: float, momentum: float, num_classes: int) -> tuple[float, float]:
    """Turn one SGD step per class into one step for all classes (method.md §5).

    Args:
        lr: Learning rate of a single class's step.
        momentum: Its momentum m.
        num_classes: Number of classes C, one step each.

    Returns:
        Learning rate lr·(1 - m^C)/(1 - m) and momentum m^C of the one step.
    """
    return lr * (1 - momentum**num_classes) / (1 - momentum), momentum**num_classes


class DistillModule(pl.LightningModule):
    """Optimizes a few synthetic images per class so that their embeddings match the real ones.

    BACON, IDM and DM are settings of this module (method.md §2): they differ in objective, networks, partition and
    step. One training step is one iteration (§5): draw, augment, embed, match, step, train the pool.

    Args:
        ipc: Images per class.
        method: Name under which results are recorded.
        objective: Matching term.
        network: What the pool is made of.
        augment: Siamese augmentation: one draw per class and iteration for real and synthetic images alike.
        factor: Every synthetic image holds factor × factor smaller ones (§3); 1 keeps whole images.
        ce_weight: Weight w of the cross-entropy; 0 leaves the term out.
        ce_accuracy: How the matched network's running training accuracy multiplies that weight: in ``percent``, as
            published, as a ``fraction`` of 1, or not at all: ``none``.
        lr: Learning rate of the images' SGD.
        momentum: Momentum of the images' SGD, in [0, 1).
        clip_gradient: Largest norm of an image's gradient; longer ones are shortened to it. 0 lets all be.
        clamp_pixels: Keep the images within black and white.
        per_class_steps: The published schedule of one step per class, done as one equivalent step; false makes one
            plain step for all classes.
        pool: How the network pool lives (§4).
        bound: How and when bound and risk (§1) are logged; they do not enter the loss.
        accuracy_window: Running accuracies restart every this many iterations.
        real_chunk: Most real images embedded at once: bounds memory, changes no result beyond rounding.
        memory_gib: Memory in GiB for what the synthetic images' pass keeps for the backward one: classes are taken in
            blocks that fit. More is faster up to the point where all classes fit at once.
        acceleration: Compile the networks and run them in bfloat16 where the device has it: ``on``, ``off``, or
            ``auto``, which does so where the run is long enough to repay it. ``off`` leaves precision to the Trainer.
        seed: Seed of every draw; the command line takes it from ``--seed_everything``.

    Raises:
        BaconError: An argument is out of range.
    """

    def __init__(
        self,
        ipc: int = 10,
        method: str = "bacon",
        objective: Objective = lazy_instance(BaconObjective),
        network: NetworkFactory = ConvNet,
        augment: Augmentation = lazy_instance(DSA),
        factor: int = 2,
        ce_weight: float = 0.5,
        ce_accuracy: Literal["percent", "fraction", "none"] = "percent",
        lr: float = 0.2,
        momentum: float = 0.5,
        clip_gradient: float = 0.0,
        clamp_pixels: bool = False,
        per_class_steps: bool = True,
        pool: PoolSettings = PoolSettings(),
        bound: LoggedBound = LoggedBound(),
        accuracy_window: int = 100,
        real_chunk: int = 512,
        memory_gib: float = 4.0,
        acceleration: Acceleration = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in {"ipc": ipc, "accuracy_window": accuracy_window, "real_chunk": real_chunk}.items():
            if value < 1:
                raise BaconError(f"--model.{name} must be at least 1, got {value}.")
        if not (lr > 0 and math.isfinite(lr)):
            raise BaconError(f"--model.lr must be positive and finite, got {lr}.")
        if not memory_gib > 0:
            raise BaconError(f"--model.memory_gib must be positive, got {memory_gib}.")
        if not 0 <= momentum < 1:
            raise BaconError(f"--model.momentum must be in [0, 1), got {momentum}.")
        for name, weight in {"ce_weight": ce_weight, "clip_gradient": clip_gradient}.items():
            if not (weight >= 0 and math.isfinite(weight)):
                raise BaconError(f"--model.{name} must be zero or positive and finite, got {weight}.")
        self.automatic_optimization = False  # the step reads as the algorithm, and the pool trains after the images
        self.ipc = ipc
        self.method = method
        self.objective = objective
        self.network = network
        self.augment = augment
        self.factor = factor
        if ce_accuracy not in _ACCURACY_SCALES:
            raise unknown_name("ce_accuracy", str(ce_accuracy), _ACCURACY_SCALES)
        self.ce_weight = ce_weight
        self.ce_accuracy = ce_accuracy
        self.lr = lr
        self.momentum = momentum
        self.clip_gradient = clip_gradient
        self.clamp_pixels = clamp_pixels
        self.per_class_steps = per_class_steps
        self.pool_settings = pool
        self.accuracy_window = accuracy_window
        self.real_chunk = real_chunk
        self.memory_gib = memory_gib
        self.acceleration: Acceleration = acceleration
        self.seed = seed
        self.bound_log = BoundLog(bound, seed)
        self.config: dict[str, Any] = {}
        """The run's resolved settings, recorded in the distilled set; the command line fills it in."""
        self.images: nn.Parameter
        """(C·ipc, ch, H, W), normalized, class by class."""
        self._pool_state: dict[str, Any] | None = None
        self._terms: tuple[str, ...] | None = None
        self._finite = FiniteWatch()
        self._last_step: float | None = None

    # Life before and after the loop.

    def setup(self, stage: str) -> None:
        """Initialize the synthetic images from real ones of the attached data module (method.md §3)."""
        if hasattr(self, "images"):
            return
        self.initialize(self._data.train, self._data.meta)

    @property
    def _data(self) -> DataModule:
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, DataModule):
            raise BaconError(
                "DistillModule needs its real images: pass trainer.fit(module, datamodule=DataModule(...))."
            )
        return data

    def initialize(self, store: LabeledImages, meta: DatasetMeta) -> None:
        """Set the synthetic images to real ones: with factor f, f² draws of ipc images of each class, one per tile.

        Args:
            store: The real training images.
            meta: What they are.

        Raises:
            BaconError: A class has fewer than ipc images, or the factor does not divide the image size.
        """
        check_factor(meta.size, self.factor, "--model.factor")
        self.meta = meta
        index = draw_real(store, self.ipc, self.factor**2, self.seed, "initial images")
        tiles = normalize(store.images[index], meta.mean, meta.std, torch.get_default_dtype())
        self.images = nn.Parameter(assemble(tiles, self.factor).flatten(0, 1))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD on the images, in the one-step form of method.md §5."""
        lr, momentum = self.lr, self.momentum
        if self.per_class_steps:
            lr, momentum = batched_sgd(lr, momentum, self.meta.num_classes)
        return torch.optim.SGD([self.images], lr=lr, momentum=momentum)

    def on_fit_start(self) -> None:
        """Build the pool where the images have been moved to.

        Raises:
            BaconError: The Trainer's precision needs loss scaling.
        """
        if self.trainer.precision == "16-mixed":
            raise BaconError(
                "--trainer.precision 16-mixed scales losses, which the images' own gradient does not go through: use "
                "bf16-mixed."
            )
        meta = self.meta
        self.pool = NetworkPool(
            self.pool_settings,
            lambda: self.network(meta.channels, meta.size, meta.num_classes),
            self.seed,
            self.device,
            self.images.dtype,
            self._accelerates,
        )
        if self._pool_state is not None:
            self.pool.load_state_dict(self._pool_state)
            self._pool_state = None

    def _accelerates(self, template: Network) -> Plan:
        """Whether this run's work repays compiling the given architecture."""
        meta, data, pool = self.meta, self._data, self.pool_settings
        real = meta.num_classes * data.batch_real / 3  # forward only: a third of the work
        synthetic = len(self.images) * self.factor**2
        trained = pool.train_networks * pool.train_steps * data.pool_batch
        images = max(self.trainer.max_steps, 0) * (real + synthetic + trained)
        image = (meta.channels, *meta.size)
        return resolve_acceleration(self.acceleration, template, image, images, self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the pool, and what the run is."""
        checkpoint["pool"] = self.pool.state_dict()
        checkpoint["run"] = identity(self.config)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the pool's state until there is a pool to take it.

        Raises:
            BaconError: The checkpoint is of a run with other settings.
        """
        if flaw := difference(checkpoint["run"], identity(self.config)):
            raise BaconError(
                f"the checkpoint is of another run: {flaw}. Give the settings it was made with, or start anew in "
                "another --trainer.default_root_dir."
            )
        # What was the last iteration of a shorter run is not the last one of this.
        checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False
        self._pool_state = checkpoint["pool"]

    def on_train_end(self) -> None:
        """Write ``distilled.safetensors`` into the trainer's root directory."""
        if self.trainer.is_global_zero:
            self.distilled().save(Path(self.trainer.default_root_dir) / FILE_NAME)

    # The algorithm.

    def training_step(self, batch: IterationBatch, batch_idx: int) -> None:
        """Run one iteration (method.md §4, §5); several devices share its work.

        Args:
            batch: The iteration's real images.
            batch_idx: Unused: what is random depends on ``batch.iteration``.
        """
        t = batch.iteration
        self.pool.advance(t)
        if t % self.accuracy_window == 0:
            self.pool.reset_meters()

        network = self.pool.matched(t)
        accuracy = self.pool.accuracy(network).clone()
        terms = self.match(batch, network, accuracy)
        assert self.images.grad is not None
        # Before they reach the images.
        numbers = {**{name: [value] for name, value in terms.items()}, "gradient": [self.images.grad]}
        self.watch(t, numbers, state_is_good=True)
        with self._profile("update"):
            self.update()
        with self._profile("pool"):
            self.train_pool(batch)
        self.report(t, terms, accuracy)
        self.bound_log.write(self.loggers)

    def update(self) -> None:
        """Take the images' step, within the bounds that are set."""
        gradient = self.images.grad
        assert gradient is not None
        if self.clip_gradient > 0:
            norms = gradient.flatten(1).norm(dim=1).clamp(min=self.clip_gradient)
            gradient.mul_((self.clip_gradient / norms).view(-1, 1, 1, 1))
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        optimizer.step()
        if self.clamp_pixels:
            black, white = (
                normalize(torch.full((self.meta.channels, 1, 1), value, dtype=torch.uint8, device=self.device),
                          self.meta.mean, self.meta.std, self.images.dtype)
                for value in (0, 255)
            )  # fmt: skip
            with torch.no_grad():
                self.images.clamp_(black, white)

    def watch(self, iteration: int, numbers: dict[str, list[Tensor]], state_is_good: bool = False) -> None:
        """Notice numbers that are not finite.

        A CPU says so at once. A GPU, which asking would make wait, remembers the iteration until it is asked: at
        intervals and before a checkpoint.

        Args:
            iteration: Number of the iteration.
            numbers: What is watched, by name.
            state_is_good: The state is still that of the iteration before.

        Raises:
            DivergedError: Something is not finite.
        """
        self._finite.note(iteration, numbers)
        if self.device.type == "cpu":
            self.raise_if_diverged(state_is_good)
        elif iteration % getattr(self.trainer, "log_every_n_steps", 50) == 0:
            self.raise_if_diverged()

    def raise_if_diverged(self, state_is_good: bool = False) -> None:
        """Stop if something has not been finite since the start.

        Raises:
            DivergedError: Names the iteration and what it was.
        """
        self._finite.check(state_is_good)

    def match(self, batch: IterationBatch, network: int, accuracy: Tensor) -> dict[str, Tensor]:
        """Match the synthetic images to the real ones and set their gradient.

        Args:
            batch: The iteration's real images.
            network: Birth number of the network to match through.
            accuracy: Its running accuracy in percent.

        Returns:
            The loss terms, (C,) each, without gradient.
        """
        gradient = torch.zeros_like(self.images).unflatten(0, (-1, self.ipc))
        found: dict[str, Tensor] = {}
        self.bound_log.begin(batch.iteration, gradient.new_zeros(self.meta.num_classes), bool(self.loggers))
        for classes in shard(self.class_blocks(), self.global_rank, self.trainer.world_size):
            terms, gradient[classes] = self.match_block(batch, classes, network, accuracy)
            for name, value in terms.items():
                found.setdefault(name, value.new_zeros(self.meta.num_classes))[classes] = value
        with self._profile("share"):
            if self._terms is None:  # a process without classes does not know their names
                self._terms = self.trainer.strategy.broadcast(tuple(found))
            for name in self._terms:
                found.setdefault(name, gradient.new_zeros(self.meta.num_classes))
            all_reduce_sum([gradient, *found.values(), *self.bound_log.values])
        # Not through backward(): a data-parallel wrapper would average, and round, what is complete already.
        self.images.grad = gradient.flatten(0, 1)
        return found

    def match_block(
        self, batch: IterationBatch, classes: Tensor, network: int, accuracy: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Match the synthetic images of some classes; classes do not meet in the loss.

        Args:
            batch: The iteration's real images.
            classes: (C',), int64.
            network: Birth number of the network to match through.
            accuracy: Its running accuracy in percent.

        Returns:
            The loss terms, (C',) each, without gradient; and the gradient of their sum, (C', ipc, ch, H, W).
        """
        with self._profile("real"):
            z_real, mask = self.embed_real(batch, network, classes)
        with self._profile("synthetic"):
            canvases = self.images.detach().unflatten(0, (-1, self.ipc))[classes].requires_grad_()
            z_syn, logits = self.embed_synthetic(canvases, network, classes, batch.iteration)
        with self._profile("objective"):
            terms = self.objective.terms(z_syn, z_real, mask)
            if self.ce_weight > 0:
                scale = _ACCURACY_SCALES[self.ce_accuracy](accuracy)
                terms["ce"] = self.ce_weight * scale * self.cross_entropy(logits, classes)
        with self._profile("bound"):
            self.bound_log.measure(z_syn.detach(), z_real, mask, classes)
        with self._profile("backward"):
            gradient = self.gradient(terms, canvases)
        return {name: value.detach() for name, value in terms.items()}, gradient

    @staticmethod
    def gradient(terms: dict[str, Tensor], canvases: Tensor) -> Tensor:
        """Gradient of the terms' sum by the images it was computed from."""
        return torch.autograd.grad(torch.stack(list(terms.values())).sum(), canvases)[0]

    def train_pool(self, batch: IterationBatch) -> None:
        """Train the pool networks whose turn it is, each on one device, and tell the others."""
        births = self.pool.trained(batch.iteration)
        rank, devices = self.global_rank, self.trainer.world_size
        steps = self.pool_settings.train_steps
        self.pool.train(
            shard(births, rank, devices),
            lambda birth: batch.random_batches(birth, steps),
            self._normalize,
            batch.iteration,
        )
        for i, birth in enumerate(births):
            broadcast(self.pool.state_of(birth), i % devices)
        if births:
            self.watch(batch.iteration, {"pool networks": [t for b in births for t in self.pool.state_of(b)]})

    def class_blocks(self) -> tuple[Tensor, ...]:
        """Cut the classes into blocks that fit ``memory_gib`` and can be dealt out to devices.

        On CPUs the blocks do not depend on the number of devices: there a block's result has the same bits wherever it
        is computed. A GPU, which fast work needs large batches for, takes its whole share at once.
        """
        return torch.arange(self.meta.num_classes, device=self.device).split(self._block_rows)

    @cached_property
    def _block_rows(self) -> int:
        image = (self.meta.channels, *self.meta.size)
        per_class = self.ipc * self.factor**2 * activation_bytes(self.pool.template, image)
        classes = self.meta.num_classes
        blocks = MIN_CPU_BLOCKS if self.device.type == "cpu" else self.trainer.world_size
        return even_rows(classes, min(int(self.memory_gib * 2**30 / per_class), -(-classes // blocks)))

    @torch.no_grad()
    def embed_real(self, batch: IterationBatch, network: int, classes: Tensor) -> tuple[Tensor, Tensor | None]:
        """Embed this iteration's real images of the given classes, augmented, in chunks.

        Returns:
            Embeddings (C, n, d) and the mask of :meth:`IterationBatch.matching`.
        """
        real, mask = batch.matching(classes)
        rows = even_rows(len(real), self.real_chunk // real.shape[1])

        def embed(ids: Tensor, chunk: Tensor) -> Tensor:
            x = self.augment.siamese(self._normalize(chunk), ids, self.seed, "augment", batch.iteration)
            z, _ = self.pool.forward(network, x.flatten(0, 1))
            return z.unflatten(0, chunk.shape[:2])

        blocks = [
            torch.cat([embed(ids, chunk) for chunk in block.split(self.real_chunk, dim=1)], 1)
            for ids, block in zip(classes.split(rows), real.split(rows), strict=True)
        ]
        return torch.cat(blocks), mask

    def embed_synthetic(self, canvases: Tensor, network: int, classes: Tensor, iteration: int) -> tuple[Tensor, Tensor]:
        """Expand, augment and embed the synthetic images (C, ipc, ch, H, W) of the given classes.

        Returns:
            Embeddings (C, factor²·ipc, d) and logits (C, factor²·ipc, number of classes).
        """
        x = expand(canvases, self.factor)
        x = self.augment.siamese(x, classes, self.seed, "augment", iteration)
        z, logits = self.pool.forward(network, x.flatten(0, 1))
        return z.unflatten(0, x.shape[:2]), logits.unflatten(0, x.shape[:2])

    @staticmethod
    def cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
        """Mean cross-entropy of each class's images: logits (C, m, K) and class ids (C,) → (C,)."""
        target = classes[:, None].expand(logits.shape[:2])
        return F.cross_entropy(logits.transpose(1, 2), target, reduction="none").mean(1)

    def _profile(self, part: str) -> AbstractContextManager[None]:
        """Name a part of the iteration for ``--trainer.profiler``."""
        trainer: Any = self.trainer
        return trainer.profiler.profile(f"[bacon]{part}")

    def _normalize(self, images: Tensor) -> Tensor:
        return normalize(images, self.meta.mean, self.meta.std, self.images.dtype)

    # What is seen from outside.

    def report(self, iteration: int, terms: dict[str, Tensor], accuracy: Tensor) -> None:
        """Log the terms (means over classes, weights applied), the matched network's accuracy, pool size and speed."""
        means = {name: value.detach().mean() for name, value in terms.items()}
        self.log("loss", torch.stack(list(means.values())).sum(), prog_bar=True)
        self.log_dict({f"loss/{name}": value for name, value in means.items()})
        self.log("pool/accuracy", accuracy, prog_bar=True)
        self.log("pool/size", float(len(self.pool.active(iteration))))
        now = time.perf_counter()
        if self._last_step is not None:
            self.log("iterations_per_second", 1 / (now - self._last_step))
        self._last_step = now

    def distilled(self) -> DistilledSet:
        """The distilled set of this moment."""
        return DistilledSet(
            images=self.images.detach().float().cpu(),
            labels=torch.arange(self.meta.num_classes).repeat_interleave(self.ipc),
            meta=self.meta,
            factor=self.factor,
            method=self.method,
            config=self.config,
            seed=self.seed,
            commit=git_commit(),
        )
