"""The command ``bacon fit``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import Logger

from bacon_pl.callbacks import PICTURE_NAME, ImageGrid, ValidationAccuracy
from bacon_pl.checkpoint_files import iterations_done
from bacon_pl.checkpoints import Checkpoints, claimed
from bacon_pl.commands.arguments import CLASS_PATH
from bacon_pl.commands.base import FIT_ONLY, LightningCommand
from bacon_pl.commands.evaluate_options import recipe_of
from bacon_pl.commands.loggers import make_loggers
from bacon_pl.config_files import Layer, budget_of
from bacon_pl.configured import class_path
from bacon_pl.data import DataModule
from bacon_pl.distilled_set import FILE_NAME
from bacon_pl.errors import BaconError, one_line
from bacon_pl.explain import explain
from bacon_pl.loggers import close_loggers
from bacon_pl.opening import Opening
from bacon_pl.partition import check_factor
from bacon_pl.preflight import check_writable
from bacon_pl.progress import planned, progress, with_progress
from bacon_pl.settings_text import FLAG
from bacon_pl.traces import leave_no_trace


class Fit(LightningCommand):
    """Distill a dataset and write distilled.safetensors and distilled.png to --trainer.default_root_dir."""

    name = "fit"
    builds_model = True
    given_loggers: Sequence[Logger] = ()
    """Loggers that are not described by the settings."""

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of the data and of the family."""
        parser.add_lightning_class_args(DataModule, "data")
        parser.add_argument(
            CLASS_PATH,
            type=str,
            default=class_path(self.family),
            help="The family of methods: a class name, or my_module.MyClass for a class of your own. The options of "
            "--model are its arguments, so `--help` lists those of the family that is given along with it.",
        )
        parser.add_lightning_class_args(self.family, "model")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of the callbacks, and those for resuming and overwriting."""
        super().add_arguments_to_parser(parser)
        if "--model.seed" not in parser.format_usage():
            raise BaconError(
                f"{self.family.__name__} takes no 'seed', so --seed_everything could not reach it: let its __init__ "
                "take **kwargs and hand them on to super().__init__."
            )
        parser.link_arguments("seed_everything", "model.seed", compute_fn=int)
        parser.add_lightning_class_args(ImageGrid, "image_grid")
        parser.add_lightning_class_args(ValidationAccuracy, "validation")
        parser.add_lightning_class_args(Checkpoints, "checkpoint")
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="Resume from a checkpoint: a checkpoint file; a run's folder, for its newest checkpoint; or 'last', "
            "for the newest checkpoint in --trainer.default_root_dir, if there is one.",
        )
        parser.add_argument("--overwrite", **FLAG, help="Replace an existing run in that folder.")

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Build the Trainer with callbacks that show the progress."""
        given = self.config_init.trainer
        shown = progress(estimate=True)
        layers = [part for part in self.command_line.parts if isinstance(part, Layer)]
        if not (self.config.ckpt_path or any(map(budget_of, layers))):
            shown.hint = "; for a first look, add --config budgets/small"
        callbacks = with_progress(given.callbacks, given.enable_progress_bar, shown)
        return super().instantiate_trainer(callbacks=[*callbacks, Opening()], **kwargs)

    def run(self) -> None:
        """Distill and print the path of the set. If the run is rejected before it starts, no files are left."""
        self.distill()
        root = Path(self.trainer.default_root_dir)
        tried = getattr(self.trainer, "fast_dev_run", False)  # writes no files
        if self.trainer.is_global_zero and self.trainer.state.finished and not tried:
            if (done := self.model.iteration) < (total := planned(self.trainer, self.model)):
                print(f"ended after iteration {done:,} of {total:,}, for one of the callbacks stopped the run")
            print(f"distilled set: {root / FILE_NAME}\npicture: {root / PICTURE_NAME}")

    def distill(self, data: DataModule | None = None) -> None:
        """Distill and write the set to ``--trainer.default_root_dir``.

        Args:
            data: Real images to use instead of those named in the settings.
        """
        with leave_no_trace(self.trainer):
            self._distill(data)

    def _distill(self, data: DataModule | None) -> None:
        if data is not None:
            self.use(data)
        if not self.talks:
            self.leave_out(Opening)
        if not self.keeps:
            callbacks: list[pl.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
            for callback in callbacks:
                if isinstance(callback, (Opening, Checkpoints)):
                    callback.names_files = False
        self.check()
        # Options for resuming are not recorded, so that a resumed run gives the same file as an uninterrupted one.
        self.model.config = {k: v for k, v in self.resolved.items() if k not in FIT_ONLY}
        if "method" in (settings := self.model.config["model"]):  # which may follow from the objective
            settings["method"] = self.model.method
        if recipe := recipe_of(self.command_line.sections("evaluation")):  # record the intended one
            self.model.config["evaluation"] = recipe
        root, config = Path(self.trainer.default_root_dir), self.config
        zero = self.trainer.is_global_zero
        with claimed(root, config.ckpt_path, config.overwrite, exclusive=zero) as checkpoint:
            # The Trainer's own property has the first checkpoint callback, which may be one of the user's.
            checkpoints = next(one for one in self.trainer.checkpoint_callbacks if isinstance(one, Checkpoints))
            checkpoints.replaces = config.overwrite and checkpoint is None
            self.model.overwrite = config.overwrite
            self.connect_loggers(root, checkpoint)
            self.trainer.fit(self.model, self.datamodule, ckpt_path=checkpoint)
            if not self.given_loggers:  # which are their giver's to close
                close_loggers(self.trainer.loggers)

    def add(self, callbacks: Sequence[pl.Callback], loggers: Sequence[Logger]) -> None:
        """Add callbacks to those of the settings, and take loggers in place of theirs.

        Args:
            callbacks: The callbacks. They come before those that write checkpoints.
            loggers: The loggers; none leaves those of the settings.

        Raises:
            BaconError: There is something else among them.
        """
        kinds = (("callbacks", callbacks, pl.Callback), ("logger", loggers, Logger))
        if wrong := [(name, one) for name, given, kind in kinds for one in given if not isinstance(one, kind)]:
            (name, one), *_ = wrong
            raise BaconError(f"{name}=... takes objects of Lightning's classes, got {one_line(repr(one), 60)}.")
        there: list[pl.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        there[:0] = callbacks
        self.given_loggers = list(loggers)

    def connect_loggers(self, root: Path, checkpoint: Path | None) -> None:
        """Give the Trainer the requested loggers; if a run is resumed, its loggers are continued."""
        if getattr(self.trainer, "fast_dev_run", False):
            return
        if self.given_loggers:
            self.trainer.loggers = list(self.given_loggers)
            return
        begins = None
        if checkpoint is not None:
            begins = iterations_done(checkpoint)
            # If nothing is left to do, the values logged at the end of the run are kept, too.
            begins += begins >= min(self.trainer.max_steps, self.model.num_iterations or self.trainer.max_steps)
        loggers = make_loggers(self.config.trainer.logger, root, begins)
        if loggers is not None:
            self.trainer.loggers = loggers

    def check(self) -> None:
        """Check the settings and the output folder before data is read.

        Raises:
            BaconError: A setting is invalid, or the folder is not writable.
        """
        self.check_settings()
        check_writable(self.trainer.default_root_dir, "--trainer.default_root_dir")

    def check_settings(self) -> None:
        """Check the settings.

        Raises:
            BaconError: A setting is invalid.
        """
        if self.trainer.max_steps < 1 or 0 in (self.trainer.max_epochs, self.trainer.limit_train_batches):
            raise BaconError(
                "distillation is counted in iterations: give --trainer.max_steps N, at least 1, as schedules such as "
                "--config mnist/ipc10 do, and neither --trainer.max_epochs 0 nor --trainer.limit_train_batches 0."
            )
        try:
            recipe_of(self.command_line.sections("evaluation"))
        except argparse.ArgumentError as error:
            raise BaconError(self._placed(explain(error, [], ""))) from error
        factor = self.config.model.get("factor")
        if isinstance(factor, int) and (size := self.datamodule.known_size):
            check_factor(size, factor, "--model.factor")
