"""What Lightning asks of a distillation: start, count of iterations, checkpoints, and the set at the end."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl
from torch import nn

from bacon_pl.configured import Configured, arguments, class_path
from bacon_pl.data import DataModule, DatasetMeta, IterationBatch
from bacon_pl.distilled_set import FILE_NAME, DistilledSet, package_version
from bacon_pl.distillers.checks import check_nothing_is_lost, check_trainer, run_seed
from bacon_pl.distillers.identity import difference, identity
from bacon_pl.distillers.synthetic_set import SyntheticSet
from bacon_pl.errors import BaconError

CHECKPOINT_FORMAT = 2
"""Version of what a checkpoint holds under ``bacon_pl``."""


class Lifecycle(Configured, pl.LightningModule, ABC):
    """The part of a :class:`~bacon_pl.distillers.Distiller` that no method needs to know.

    Args:
        synthetic: What is trained.
        method: Name under which results are recorded; the class's name by default.
        seed: Seed of every draw; by default that of ``seed_everything``.
    """

    free_settings: ClassVar[tuple[str, ...]] = ()
    """Settings that may change on a resume, because they change no result but by rounding."""

    num_iterations: int | None = None
    """Iterations after which there is nothing left to do; None goes on until the Trainer's limit."""

    def __init__(self, synthetic: SyntheticSet, method: str, seed: int | None) -> None:
        super().__init__()
        self.automatic_optimization = False  # an iteration is more than a loss, and may step any number of optimizers
        self.seed = run_seed(seed)
        self.method = method or type(self).__name__.lower()
        self.synthetic = synthetic
        self.iteration = 0
        self.overwrite = False
        self.config: dict[str, Any] = {}
        # Lightning's loggers show them, and its ``load_from_checkpoint`` makes a module again from them.
        self.save_hyperparameters(
            {**arguments(self), "seed": self.seed, "_instantiator": "lightning.pytorch.cli.instantiate_module"}
        )
        self._done_before = 0
        self._pending: dict[str, Any] | None = None
        self._last_step: float | None = None

    @abstractmethod
    def iterate(self, batch: IterationBatch) -> None:
        """Run iteration ``batch.iteration``, the same as ``self.iteration``."""

    @abstractmethod
    def prepare(self) -> None:
        """Make what iterations need."""

    @abstractmethod
    def extra_state(self) -> dict[str, Any]:
        """What a checkpoint must hold besides parameters and optimizers."""

    @abstractmethod
    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take it over."""

    def configure_optimizers(self) -> Any:
        """Nothing is optimized, unless a method says what; Lightning takes any number of optimizers."""
        return

    @property
    def images(self) -> nn.Parameter:
        """The synthetic images (C·ipc, ch, H, W), normalized, class by class."""
        return self.synthetic.canvases

    @property
    def meta(self) -> DatasetMeta:
        """The dataset."""
        if self.synthetic.meta is None:
            raise BaconError("there are no data yet: fit the module first, or load a checkpoint.")
        return self.synthetic.meta

    @property
    def data(self) -> DataModule:
        """The real images of the run."""
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, DataModule):
            raise BaconError(
                f"{type(self).__name__} needs its real images: pass trainer.fit(module, datamodule=DataModule(...))."
            )
        return data

    # Start.

    def setup(self, stage: str) -> None:
        """Check what can be checked, and initialize the images.

        Raises:
            BaconError: The Trainer's settings do not go with a distillation, or the data do not fit.
        """
        if stage != "fit":
            return
        check_trainer(self.trainer)
        self._done_before = self.iteration
        if self.synthetic.images is None:
            self.synthetic.initialize(self.data.train, self.data.meta, self.seed)
        elif self.meta != self.data.meta:
            raise BaconError(
                f"this module holds images of {self.meta.name}, and the data are {self.data.meta.name}, or differ in "
                "classes, size or normalization: make a new module for other data."
            )

    def on_fit_start(self) -> None:
        """Make what iterations need where the images have been moved to.

        Raises:
            BaconError: A finished set would be lost, or this module has been fitted already.
        """
        # Here, for only now the Trainer tells whether it resumes.
        check_nothing_is_lost(self.trainer, self.overwrite)
        if self._done_before and not self.trainer.ckpt_path:
            raise BaconError(
                f"this module has done {self._done_before} iterations already: make a new one for another run, or "
                "resume its own with trainer.fit(..., ckpt_path=...)."
            )
        self.prepare()
        if self._pending is not None:
            self.load_extra_state(self._pending)
            self._pending = None

    # Iterations.

    def real_images(self) -> IterationBatch:
        """The real images of this iteration."""
        return self.data.iteration_batch(self.iteration, self.seed, self.device)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Run one iteration.

        Args:
            batch: Unused: the images are drawn on the device, by the iteration.
            batch_idx: Unused.
        """
        self.iterate(self.real_images())
        self.iteration += 1
        # Lightning counts the steps of optimizers, of which an iteration may take any number: its own count, which
        # limits, checkpoints and loggers go by, is set to ours.
        steps = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total
        steps.ready = steps.completed = self.iteration
        now = time.perf_counter()
        if self._last_step is not None:
            self.log("iterations_per_second", 1 / (now - self._last_step))
        self._last_step = now
        if self.num_iterations is not None and self.iteration >= self.num_iterations:
            self.trainer.should_stop = True

    # Checkpoints.

    def settings(self) -> dict[str, Any]:
        """The run's settings as plain values: the command line's, or those that Python code gave."""
        return self.config or self._own_settings()

    def _own_settings(self) -> dict[str, Any]:
        model = {name: value for name, value in self.hparams.items() if name not in ("_instantiator", "seed")}
        found: dict[str, Any] = {"seed_everything": self.seed, "model": {"class_path": class_path(type(self)), **model}}
        if self._trainer is not None:
            found |= {"data": dict(self.data.hparams), "trainer": {"precision": str(self.trainer.precision)}}
        return found

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the run is, and the method's own state."""
        checkpoint["bacon_pl"] = {
            "format": CHECKPOINT_FORMAT,
            "version": package_version(),
            "run": identity(self._own_settings(), self.free_settings),
            "extra": self.extra_state(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint is of this run, and keep the method's own state until it can be taken over.

        Raises:
            BaconError: The checkpoint is of another format, or of a run with other settings.
        """
        found = checkpoint.get("bacon_pl")
        if not isinstance(found, dict) or found.get("format") != CHECKPOINT_FORMAT:
            raise BaconError(
                "the checkpoint is of another version of this package, or no distillation's: start anew in another "
                "default_root_dir, or use the version that wrote it."
            )
        if self._trainer is None:
            return  # load_from_checkpoint has made this module from the checkpoint's own settings
        if flaw := difference(found["run"], identity(self._own_settings(), self.free_settings)):
            raise BaconError(
                f"the checkpoint is of another run: {flaw}. Give the settings it was made with, or start anew in "
                "another --trainer.default_root_dir."
            )
        # What was the last iteration of a shorter run is not the last one of this.
        checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False
        self._pending = found["extra"]

    def get_extra_state(self) -> dict[str, Any]:
        """The count of iterations, which is part of the state dict."""
        return {"iteration": self.iteration}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over the count of iterations."""
        self.iteration = int(state["iteration"])

    # End.

    def distilled(self) -> DistilledSet:
        """The distilled set of this moment."""
        return self.synthetic.distilled(self.method, self.settings(), self.seed)

    def on_fit_end(self) -> None:
        """Write ``distilled.safetensors`` into the Trainer's root directory; a ``fast_dev_run`` leaves nothing.

        Callbacks that choose the images do so when training ends, which is before.
        """
        trainer: Any = self.trainer
        if trainer.is_global_zero and not trainer.fast_dev_run:
            self.distilled().save(Path(self.trainer.default_root_dir) / FILE_NAME)
