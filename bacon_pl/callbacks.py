"""Callbacks of a distillation: logging of the synthetic images, and validation of their accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from bacon_pl import rng
from bacon_pl.data import DataModule
from bacon_pl.distillers import Distiller
from bacon_pl.errors import BaconError
from bacon_pl.learners import Learners, Recipe, TrainingSet
from bacon_pl.loggers import log_image
from bacon_pl.networks.base import state_of

PICTURE_NAME = "distilled.png"


class ImageGrid(Callback):
    """Logs pictures of the synthetic images, one row per class, and writes a picture to a file at the end.

    The file is ``distilled.png`` in the Trainer's root directory, next to the set.

    Args:
        every_n_steps: Interval in iterations between pictures in the loggers. ``log`` selects iterations 0, 1, 2, 5,
            10, 20, 50, 100 and so on; 0 turns the pictures off. Unless it is 0, the last iteration is always shown.
        max_classes: Maximum number of classes in the loggers' pictures.

    Raises:
        BaconError: An argument is out of range.
    """

    def __init__(self, every_n_steps: int | Literal["log"] = "log", max_classes: int = 20) -> None:
        if (every_n_steps != "log" and (isinstance(every_n_steps, str) or every_n_steps < 0)) or max_classes < 1:
            raise BaconError(
                "--image_grid.every_n_steps must be 'log' or at least 0, and --image_grid.max_classes at least 1, got "
                f"{every_n_steps} and {max_classes}."
            )
        self.every_n_steps = every_n_steps
        self.max_classes = max_classes
        self._began: int | None = None
        self._shown: int | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Reset the state for a new run."""
        self._began = self._shown = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Log the images before an iteration for which this is due.

        The picture of step N is logged after the checkpoint of N iterations is written. A run that resumes from this
        checkpoint therefore logs it exactly once, even if the earlier process had already logged it.
        """
        step = trainer.global_step
        self._began = step if self._began is None else self._began
        assert isinstance(pl_module, Distiller)
        if self._due(step) and step != pl_module.num_iterations:
            self._show(trainer, pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the final images, and write them to ``distilled.png``."""
        run: Any = trainer
        if run.fast_dev_run:
            return
        step = trainer.global_step
        done = self._began is not None and step > self._began  # False if a finished run is resumed
        if self.every_n_steps and done and self._shown != step:
            self._show(trainer, pl_module)
        if trainer.is_global_zero:
            assert isinstance(pl_module, Distiller)
            pl_module.distilled().save_grid(Path(trainer.default_root_dir) / PICTURE_NAME)

    def _due(self, step: int) -> bool:
        if self.every_n_steps != "log":
            return bool(self.every_n_steps) and step % int(self.every_n_steps) == 0
        while step and step % 10 == 0:
            step //= 10
        return step in (0, 1, 2, 5)

    def _show(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, Distiller)
        self._shown = trainer.global_step
        if trainer.is_global_zero and trainer.loggers:
            log_image(trainer.loggers, "images", module.distilled().grid_tensor(self.max_classes), trainer.global_step)


class ValidationAccuracy(Callback):
    """Trains a network for a few epochs on the current images, and tests it on held-out training images.

    With ``keep_best``, the best images replace the current ones at the end of the training. The set and its picture
    are written afterwards, at the end of the fit.

    Args:
        every_n_steps: Interval in iterations between validations; 0 turns them off. Needs ``--data.val_fraction``.
        epochs: Epochs of the training of the network.
        keep_best: Keep the images with the best validation accuracy instead of the last ones.

    Raises:
        BaconError: An argument is out of range, or no images are held out.
    """

    def __init__(self, every_n_steps: int = 0, epochs: int = 50, keep_best: bool = False) -> None:
        if every_n_steps < 0 or epochs < 1:
            raise BaconError(
                "--validation.every_n_steps must be at least 0 and --validation.epochs at least 1, got "
                f"{every_n_steps} and {epochs}."
            )
        if keep_best and not every_n_steps:
            raise BaconError("--validation.keep_best needs --validation.every_n_steps to be at least 1.")
        self.every_n_steps = every_n_steps
        self.epochs = epochs
        self.keep_best = keep_best
        self.best_accuracy = -1.0
        self.best_iterations: int | None = None
        self.best_images: Tensor | None = None
        self.best_others: dict[str, Tensor] = {}  # what was learned with them, such as a step size

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Reset the state for a new run, and check that there are images for validation.

        Raises:
            BaconError: No images are held out.
        """
        self.best_accuracy, self.best_iterations, self.best_images, self.best_others = -1.0, None, None, {}
        if self.every_n_steps and self._data(trainer).val is None:
            raise BaconError("validation needs held-out training images: set --data.val_fraction, e.g. to 0.1.")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Validate at intervals."""
        if not self.every_n_steps or trainer.global_step % self.every_n_steps:
            return
        assert isinstance(pl_module, Distiller)
        accuracy = self.validate(pl_module, self._data(trainer), trainer.global_step)
        pl_module.log("val/accuracy", accuracy, prog_bar=True, logger=False)
        for logger in trainer.loggers:  # not by the module's log method, which skips most iterations
            logger.log_metrics({"val/accuracy": accuracy}, step=trainer.global_step - 1)
        if self.keep_best and accuracy > self.best_accuracy:
            self.best_accuracy, self.best_iterations = accuracy, pl_module.iteration
            self.best_images = pl_module.images.detach().clone()
            self.best_others = {name: t.detach().clone() for name, t in _learned_beside(pl_module).items()}

    def validate(self, module: Distiller, data: DataModule, step: int) -> float:
        """Train one network on the module's current images and return its held-out accuracy in percent."""
        assert data.val is not None
        own: Any = module  # methods without a network or augmentation use those of the recipe
        network, augment = getattr(own, "network", Recipe.network), getattr(own, "augment", Recipe().augment)
        recipe = Recipe(network=network, augment=augment, num_networks=1, epochs=self.epochs)
        seed = rng.derive(module.seed, "validation", step)
        learners = Learners(TrainingSet.distilled(module.distilled()), recipe, module.meta, seed).to(module.device)
        learners.fit()
        store = data.val.to(module.device)
        return float(learners.accuracies(store.images, store.labels, data.eval_batch))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the best images if this was requested."""
        if self.best_images is not None:
            assert isinstance(pl_module, Distiller)
            pl_module.images.data.copy_(self.best_images)
            pl_module.taken_after = self.best_iterations
            for name, tensor in _learned_beside(pl_module).items():
                if name in self.best_others:
                    tensor.data.copy_(self.best_others[name])

    @property
    def run_settings(self) -> dict[str, Any] | None:
        """Settings that must stay the same when the run is resumed; None if there is no validation."""
        if not self.every_n_steps:
            return None
        return {"every_n_steps": self.every_n_steps, "epochs": self.epochs, "keep_best": self.keep_best}

    def state_dict(self) -> dict[str, Any]:
        """Return the best images so far."""
        return {
            "best_accuracy": self.best_accuracy,
            "best_iterations": self.best_iterations,
            "best_images": self.best_images,
            "best_others": self.best_others,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best images so far."""
        self.best_accuracy, self.best_images = state_dict["best_accuracy"], state_dict["best_images"]
        # Checkpoints of earlier versions lack these.
        self.best_others, self.best_iterations = state_dict.get("best_others", {}), state_dict.get("best_iterations")

    @staticmethod
    def _data(trainer: pl.Trainer) -> DataModule:
        module = trainer.lightning_module
        if not isinstance(module, Distiller):
            raise BaconError("ValidationAccuracy validates a Distiller's images: leave it out of other modules' runs.")
        return module.data


def _learned_beside(module: Distiller) -> dict[str, Tensor]:
    """Return the tensors of a synthetic set, by name, that make up the distilled set together with the images."""
    held = state_of(module.synthetic)
    return {name: tensor for name, tensor in held.items() if name != "images"}
