"""Evaluation as a LightningModule: networks are trained on one set, then tested."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassConfusionMatrix

from bacon_pl.device_log import DeviceLog
from bacon_pl.distributed import all_reduce_sum
from bacon_pl.errors import BaconError, DivergedError
from bacon_pl.evaluation.run_result import RunResult, Variant
from bacon_pl.learners import Learners, accuracies, spread


class EvalModule(DeviceLog):
    """Trains and tests :class:`~bacon_pl.learners.Learners` with a Trainer and its strategies and loggers.

    One training step is a step of every network. Several processes divide the networks among themselves; at the end,
    every process has all networks and the results of all tests.

    Args:
        learners: The networks with their training set.
    """

    def __init__(self, learners: Learners) -> None:
        super().__init__()
        self.automatic_optimization = False  # a data-parallel wrapper would average the processes' gradients
        self.learners = learners
        networks = range(len(learners.networks))
        count = partial(
            MulticlassConfusionMatrix, learners.meta.num_classes, sync_on_compute=False, validate_args=False
        )
        self.confusion = MetricCollection({str(k): count() for k in networks}, compute_groups=False)
        self.hits_after: dict[int, Tensor] = {}
        """Correct predictions (K,) of this process's networks during their training, by number of finished epochs."""
        self.probed_images = 0
        """Number of images used for ``hits_after``."""
        self.untested = "no test images"
        """What the last test has counted instead of all test images; empty if it has counted all."""
        # Otherwise a data-parallel wrapper would copy the buffers of the first process to the others before each step.
        # Labels of the images are made later.
        names = [name for name, _ in self.named_buffers()]
        self._ddp_params_and_buffers_to_ignore = [*names, "learners.soft", "learners._labeled"]

    # Training.

    def train_dataloader(self) -> Sequence[int]:
        """Return the step numbers, since the batches are gathered on the device."""
        return range(self.learners.total_steps)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return one optimizer for all networks."""
        return self.learners.optimizer()

    def on_fit_start(self) -> None:
        """Prepare the source of the labels.

        Raises:
            BaconError: The Trainer's precision needs loss scaling.
        """
        if self.trainer.precision == "16-mixed":
            raise BaconError(
                "--trainer.precision 16-mixed scales losses, which the networks' gradients do not go through: use "
                "bf16-mixed."
            )
        self.learners.prepare()

    def on_train_batch_start(self, batch: int, batch_idx: int) -> None:
        """Set the learning rate."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        self.learners.schedule(optimizer, batch)

    def training_step(self, step: int, batch_idx: int) -> None:
        """Take a training step with each of this process's networks."""
        losses = self.learners.descend(step)
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        optimizer.step()
        if len(losses):
            self.log("train/loss", losses.mean(), prog_bar=True)

    def on_train_end(self) -> None:
        """Send every network to all processes, and check them: logits that are NaN would all count as class 0.

        Raises:
            DivergedError: A network has a parameter that is not finite.
        """
        learners = self.learners
        learners.broadcast_networks()
        for k, network in enumerate(learners.networks, 1):
            if not all(bool(p.isfinite().all()) for p in network.parameters()):
                raise DivergedError(
                    f"network {k} of {len(learners.networks)} ({type(network).__name__}) diverged in its training on "
                    f"the set '{learners.name}' with the learning rate {learners.recipe.rate:g}: lower "
                    "--evaluation.lr, or --evaluation.fixed_lr where that of real images is fixed."
                )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the number of steps that the networks have taken."""
        self.learners.steps_taken = int(checkpoint["global_step"])

    # Test.

    def on_test_start(self) -> None:
        """Reset the counts of an earlier test."""
        self.confusion.reset()
        self.untested = "no test images"

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Count the predictions of this process's networks for normalized images (B, ch, H, W)."""
        x, y = self.learners.resized(batch[0]), batch[1]
        for k in self.learners.share:
            self.confusion[str(k)].update(self.learners.classify(k, x), y)

    def on_test_epoch_end(self) -> None:
        """Log the mean and, for several networks, the standard deviation of the top-1 accuracies in percent."""
        counted, there = sum(self.trainer.num_test_batches), _batches(self.trainer.test_dataloaders)
        self.untested = f"{counted} of {there} batches of the test images" if counted < there else ""
        per_network = self.per_network()
        self.log("test/accuracy", per_network.mean())
        if len(per_network) > 1:
            self.log("test/accuracy_std", spread(per_network))

    def confusions(self) -> Tensor:
        """Compute the confusion matrices of the test; all processes of a run must call this together.

        Returns:
            (num_networks, C, C), int64 on the CPU: number of images of class i (row) classified as class j (column).
        """
        classes = self.learners.meta.num_classes
        shape = (len(self.learners.networks), classes, classes)
        counts = torch.zeros(shape, dtype=torch.int64, device=self.device)
        for k in self.learners.share:
            counts[k] = self.confusion[str(k)].compute()
        all_reduce_sum([counts])
        return counts.cpu()

    def per_network(self) -> Tensor:
        """Compute the top-1 accuracy of every network in percent, (num_networks,); all processes must call this."""
        return accuracies(self.confusions())

    def run_result(self, architecture: str, variant: Variant = "given") -> RunResult:
        """Collect the results of the training and the test; all processes of a run must call this together.

        Args:
            architecture: Name of the architecture.
            variant: Variant of the recipe.

        Returns:
            The results.

        Raises:
            BaconError: The training or the test has been cut short, so the accuracies would not be those of the recipe.
        """
        learners = self.learners
        if learners.steps_taken < learners.total_steps:
            raise BaconError(
                f"the networks on the set '{learners.name}' have taken {learners.steps_taken:,} of the "
                f"{learners.total_steps:,} steps of their recipe: fit them by a Trainer with "
                "max_steps=module.learners.total_steps, and without limits or max_time."
            )
        if self.untested:
            raise BaconError(
                f"the networks on the set '{learners.name}' have been tested on {self.untested}: call "
                "trainer.test(module, datamodule=...) with a Trainer without limit_test_batches."
            )
        loss = learners.epoch_loss.clone()
        curve = loss.new_zeros(len(loss), len(self.hits_after))
        for i, hits in enumerate(self.hits_after.values()):
            curve[:, i] = 100 * hits / self.probed_images
        all_reduce_sum([loss, curve])
        return RunResult(
            training_set=learners.name,
            architecture=architecture,
            variant=variant,
            recipe=learners.described(),
            seed=learners.seed,
            confusion=self.confusions(),
            loss=loss.float().cpu(),
            curve=curve.float().cpu(),
            curve_epochs=tuple(self.hits_after),
            storage_bytes=learners.storage_bytes,
            train_images=learners.index.shape[1],
            measured=tuple(pick.to_json() for pick in learners.picks),
        )


def _batches(loaders: Any) -> int:
    """Return the number of batches of one or several data loaders, counting 0 for those that do not know it."""
    found = 0
    for loader in loaders if isinstance(loaders, (list, tuple)) else [loaders]:
        with contextlib.suppress(TypeError):  # of an iterable dataset
            found += len(loader)
    return found
