"""Test accuracy during the training of an evaluation. It is only displayed and never used to select anything."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch

from bacon_pl.data import LabeledImages
from bacon_pl.evaluation.module import EvalModule


class LearningCurve(pl.Callback):
    """Tests the networks of an :class:`EvalModule` several times during their training.

    Args:
        test: The test images.
        batch_size: Images tested at once.
        points: Number of tests at regular intervals; the last one is at the end of the training.
        images: Maximum number of images per test, taken at regular intervals; a curve needs less precision than a
            result.
    """

    def __init__(self, test: LabeledImages, batch_size: int = 1000, points: int = 10, images: int = 1000) -> None:
        self.test = test.subset(torch.linspace(0, len(test) - 1, min(images, len(test))).long())
        self.batch_size = batch_size
        self.points = points

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: int, batch_idx: int
    ) -> None:
        """Test at the end of some epochs."""
        assert isinstance(pl_module, EvalModule)
        learners = pl_module.learners
        epochs, rest = divmod(batch + 1, learners.steps_per_epoch)
        total = learners.recipe.epochs
        if rest or epochs not in {max(1, total * i // self.points) for i in range(1, self.points + 1)}:
            return
        pl_module.probed_images = len(self.test)
        self.test = self.test.to(pl_module.device)
        hits = learners.hits(self.test.images, self.test.labels, self.batch_size)
        pl_module.hits_after[epochs] = hits
        if learners.share:
            accuracy = 100 * hits[list(learners.share)].float().mean() / len(self.test)
            for logger in trainer.loggers:  # not by the module's log method, which skips most steps
                logger.log_metrics({"curve/test_accuracy": float(accuracy)}, step=trainer.global_step)
