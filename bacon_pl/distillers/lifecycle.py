"""The Lightning side of a distillation: start, iterations, checkpoints, and the set written at the end."""

from __future__ import annotations

import argparse
import inspect
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from bacon_pl.configured import Configured, arguments, class_path, plain, remake
from bacon_pl.data import DataModule, DatasetMeta, IterationBatch
from bacon_pl.device_log import DeviceLog
from bacon_pl.distilled_set import FILE_NAME, DistilledSet, package_version
from bacon_pl.distillers.checks import (
    check_counts,
    check_ended,
    check_nothing_is_lost,
    check_nothing_is_new,
    check_trainer,
    run_seed,
)
from bacon_pl.distillers.identity import difference, identity
from bacon_pl.distillers.synthetic_set import SyntheticSet
from bacon_pl.errors import BaconError, one_line
from bacon_pl.loggers import log_end, log_start
from bacon_pl.networks import picks
from bacon_pl.selection import Start

CHECKPOINT_FORMAT = 2
"""Version of the entry ``bacon_pl`` of a checkpoint."""


class Lifecycle(Configured, DeviceLog, ABC):
    """The part of a :class:`~bacon_pl.distillers.Distiller` with which methods are not concerned.

    Args:
        synthetic: The trained set.
        method: Name of the method in results; by default the name of the class.
        seed: Seed of every draw; by default that of ``seed_everything``.
    """

    free_settings: ClassVar[tuple[str, ...]] = ()
    """Settings that may change when a run is resumed, because they change results only by rounding."""

    num_iterations: int | None = None
    """Number of iterations after which the method is finished; None continues up to the Trainer's limit."""

    def __init__(self, synthetic: SyntheticSet, method: str, seed: int | None) -> None:
        super().__init__()
        self.automatic_optimization = False  # an iteration is more than a loss, and may step any number of optimizers
        self.seed = run_seed(seed)
        self.method = method or type(self).__name__.lower()
        self.synthetic = synthetic
        self.iteration = 0
        self.taken_after: int | None = None
        """Iteration after which the images were taken, if they are not the current ones."""
        self.overwrite = False
        self.config: dict[str, Any] = {}
        # ``load_from_checkpoint`` recreates a module from these. Loggers get the settings when the fit starts.
        given = arguments(self)
        self.save_hyperparameters({**given, **({"seed": self.seed} if "seed" in given else {})}, logger=False)
        self.picks: list[picks.Pick] = []
        self._described: dict[str, Any] = {}
        self._done_before = 0
        self._prepared = False
        self._pending: dict[str, Any] | None = None
        self._of_run: dict[str, Any] = {}
        self._last_step: float | None = None

    attribute_of: ClassVar[dict[str, str]] = {}
    """Names of attributes that hold a setting, for arguments of the constructor with another name."""

    @abstractmethod
    def iterate(self, batch: IterationBatch) -> None:
        """Run one iteration, whose number is both ``batch.iteration`` and ``self.iteration``."""

    @abstractmethod
    def prepare(self) -> None:
        """Create the objects that iterations need."""

    @abstractmethod
    def raise_if_diverged(self, state_is_good: bool = False) -> None:
        """Raise an error if a number has not been finite."""

    @abstractmethod
    def extra_state(self) -> dict[str, Any]:
        """Return the state to save in checkpoints besides parameters and optimizers."""

    @abstractmethod
    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Restore a state returned by :meth:`extra_state`."""

    def configure_optimizers(self) -> Any:
        """Return no optimizer. Methods that optimize override this and may return any number of optimizers."""
        return

    @property
    def ipc(self) -> int:
        """Images per class."""
        return self.synthetic.ipc

    @property
    def factor(self) -> int:
        """Tiles per side of a canvas."""
        return self.synthetic.factor

    @property
    def start(self) -> Start:
        """Kind of the initial images."""
        return self.synthetic.start

    @property
    def images(self) -> nn.Parameter:
        """The synthetic images (C·ipc, ch, H, W), normalized, class by class."""
        return self.synthetic.canvases

    @property
    def meta(self) -> DatasetMeta:
        """Description of the dataset."""
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
        """Check the settings and initialize the images.

        Raises:
            BaconError: The Trainer's settings do not suit a distillation, or the data does not match the images.
        """
        if stage != "fit":
            return
        check_trainer(self.trainer)
        self._described = self._describe()  # now, since a method may change its attributes during the run
        self._done_before = self.iteration
        if self.synthetic.images is None:
            self.synthetic.initialize(self.data.train, self.data.meta, self.seed)
        elif self.meta != self.data.meta:
            raise BaconError(
                f"this module holds images of {self.meta.name}, and the data are {self.data.meta.name}, or differ in "
                "classes, size or normalization: make a new module for other data."
            )

    def on_fit_start(self) -> None:
        """Prepare the iterations on the device to which the images have been moved.

        Raises:
            BaconError: A finished set would be lost, or this module or its Trainer has already been used.
        """
        # Checked here, because only now is it known whether the Trainer resumes a run.
        check_nothing_is_lost(self.trainer, self.overwrite)
        check_counts(self.trainer, self._done_before, self.iteration)
        before = set(self.state_dict())
        with picks.holding(self.picks):
            self.prepare()
        check_nothing_is_new(self, before)
        self._prepared = True
        if self._pending is not None:
            self.load_extra_state(self._pending)
            self._pending = None
        if self.trainer.is_global_zero:
            log_start(self.trainer, self._own_settings(), self.settings(), self.iteration)

    # Iterations.

    def real_images(self) -> IterationBatch:
        """The real images of this iteration."""
        return self.data.iteration_batch(self.iteration, self.seed, self.device)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Run one iteration, followed by one step of every learning-rate scheduler from ``configure_optimizers``.

        Args:
            batch: Unused, since each iteration draws its images on the device.
            batch_idx: Unused.
        """
        if self.num_iterations is not None and self.iteration >= self.num_iterations:
            self.trainer.should_stop = True  # a finished run is being resumed
            return
        self.iterate(self.real_images())
        for scheduler in self._schedulers():
            scheduler.step()
        self.iteration += 1
        # Limits, checkpoints and loggers use Lightning's count of optimizer steps, of which an iteration may take any
        # number. So the count is set to the number of iterations.
        steps = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total
        steps.ready = steps.completed = self.iteration
        now = time.perf_counter()
        if self._last_step is not None:
            self.log("iterations_per_second", 1 / (now - self._last_step))
        self._last_step = now
        if self.num_iterations is not None and self.iteration >= self.num_iterations:
            self.trainer.should_stop = True

    def _schedulers(self) -> list[Any]:
        found: Any = self.lr_schedulers()
        return found if isinstance(found, list) else [] if found is None else [found]

    # Checkpoints.

    def settings(self) -> dict[str, Any]:
        """Return the settings of the run as plain values, from the command line or from Python arguments."""
        return self.config or self._own_settings()

    def _own_settings(self) -> dict[str, Any]:
        model = self._described or self._describe()
        found: dict[str, Any] = {"seed_everything": self.seed, "model": {"class_path": class_path(type(self)), **model}}
        if self._trainer is None:
            found |= self._of_run
        else:
            found |= {"data": dict(self.data.hparams), "trainer": {"precision": str(self.trainer.precision)}}
            # Callbacks that select the images describe how they do it.
            callbacks: list[Any] = getattr(self.trainer, "callbacks", [])
            found["validation"] = next((c.run_settings for c in callbacks if getattr(c, "run_settings", None)), None)
        return found

    def _describe(self) -> dict[str, Any]:
        """Return the arguments of this module and of its base classes, which a subclass may have fixed or changed."""
        found = {name: value for name, value in self.hparams.items() if name != "seed"}
        known = set(dir(self)) - {"self", "seed", "synthetic"}
        for base in type(self).__mro__:
            for name in inspect.signature(base.__init__).parameters if issubclass(base, Lifecycle) else ():
                attribute = self.attribute_of.get(name, name)
                # A module with the name of an argument was made from it and changes; the argument is more informative.
                if attribute in known and not isinstance(value := getattr(self, attribute), nn.Module):
                    found[name] = plain(value)
        return found

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the settings of the run and the method's own state to a checkpoint.

        Raises:
            DivergedError: A number is not finite, so the checkpoint would be useless.
        """
        self.raise_if_diverged()
        for state in checkpoint.get("optimizer_states", []):  # learning rates may be NumPy numbers
            for group in state.get("param_groups", []):
                group.update({name: value.item() for name, value in group.items() if isinstance(value, np.generic)})
        checkpoint["bacon_pl"] = {
            "format": CHECKPOINT_FORMAT,
            "version": package_version(),
            "run": identity(self._own_settings(), self.free_settings),
            "extra": self.extra_state() if self._prepared else self._pending or {},
            "measured": [pick.to_json() for pick in self.picks],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint belongs to this run, and keep the method's own state until it can be restored.

        Raises:
            BaconError: The checkpoint has another format, or is from a run with other settings.
        """
        found = checkpoint.get("bacon_pl")
        if not isinstance(found, dict) or found.get("format") != CHECKPOINT_FORMAT:
            raise BaconError(
                "the checkpoint is of another version of this package, or no distillation's: start a new run in "
                "another default_root_dir, or use the version that wrote it."
            )
        self._pending = found["extra"]
        self.picks = picks.of_checkpoint(found.get("measured", []))
        if self._trainer is None:  # load_from_checkpoint has made this module from the checkpoint's own settings
            self._of_run = {
                name: found["run"][name] for name in ("data", "trainer", "validation") if name in found["run"]
            }
            return
        if flaw := difference(found["run"], identity(self._own_settings(), self.free_settings)):
            raise BaconError(
                f"the checkpoint is of another run: {flaw}. Give the settings it was made with, or start a new run in "
                "another --trainer.default_root_dir."
            )
        # The last iteration of a shorter run is not the last one of this run.
        checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Recreate a module with its images from a checkpoint.

        Args:
            checkpoint_path: The file.
            args: See Lightning.
            kwargs: See Lightning. Also arguments of the constructor that should differ, or that the checkpoint cannot
                describe, such as a function that makes networks.

        Raises:
            BaconError: The module or one of its arguments cannot be recreated from the checkpoint.
        """
        try:
            held = torch.load(checkpoint_path, map_location="cpu", weights_only=True)
            described = dict(held.get(cls.CHECKPOINT_HYPER_PARAMS_KEY, {}))
            made = remake(cls, {name: value for name, value in described.items() if name not in kwargs})
            return super().load_from_checkpoint(checkpoint_path, *args, **{**made, **kwargs})
        except (argparse.ArgumentError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise BaconError(
                f"cannot make a {cls.__name__} of '{checkpoint_path}' ({one_line(error).rstrip('.')}): call this of "
                "the class that the checkpoint is of, and pass what it cannot make by itself, such as network=..."
            ) from error

    def get_extra_state(self) -> dict[str, Any]:
        """Return the number of iterations, which is part of the state dict."""
        return {"iteration": self.iteration}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the number of iterations."""
        self.iteration = int(state["iteration"])

    # End.

    def distilled(self) -> DistilledSet:
        """Return the current images as a distilled set, which records after how many iterations they were taken."""
        facts: dict[str, Any] = {"iterations": self.iteration if self.taken_after is None else self.taken_after}
        if self.picks:
            facts["measured"] = [pick.to_json() for pick in self.picks]
        return self.synthetic.distilled(self.method, {**self.settings(), **facts}, self.seed)

    def on_fit_end(self) -> None:
        """Write ``distilled.safetensors`` to the Trainer's root directory, except in a ``fast_dev_run``.

        Callbacks that select the images have already done so at the end of the training.

        Raises:
            BaconError: The run ended before its last iteration without a request to stop.
        """
        trainer: Any = self.trainer
        if trainer.fast_dev_run:
            return
        self.raise_if_diverged()
        check_ended(trainer, self.iteration, self.num_iterations)
        if trainer.is_global_zero:
            self.distilled().save(Path(self.trainer.default_root_dir) / FILE_NAME)
            if self._last_step is not None:  # otherwise no iteration was run
                log_end(self.trainer, self._own_settings())
