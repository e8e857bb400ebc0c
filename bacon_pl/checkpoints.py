"""Checkpoints of a distillation: written whole or not at all, checked before they are trusted, and found again.

A checkpoint is what ``torch.save`` writes: a zip archive of plain tensors, numbers and text. It is loaded without
running code (``weights_only``), after its checksums and sizes have been compared with the file.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import re
import shutil
import signal
import subprocess
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_only

from bacon_pl import time_limit
from bacon_pl.distilled_set import FILE_NAME
from bacon_pl.distillers import Distiller
from bacon_pl.distillers.lifecycle import CHECKPOINT_FORMAT
from bacon_pl.errors import BaconError, DivergedError, StoppedError
from bacon_pl.runtime import held, replacing

FOLDER = "checkpoints"
_NAME = re.compile(r"iteration=(\d+)\.ckpt")
_log = logging.getLogger(__name__)


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Load a checkpoint onto the CPU, without running code from it.

    Args:
        path: Its file.

    Raises:
        BaconError: The file is missing, damaged or not a checkpoint of a distillation.
    """
    path = Path(path)
    if not path.is_file():
        raise BaconError(
            f"there is no checkpoint at '{path}' (--ckpt_path): give a .ckpt file of an earlier run, its folder, or "
            "'last'."
        )
    damaged = f"the checkpoint '{path}' is damaged: use an earlier one or --ckpt_path last, which finds it."
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            # torch stores without compression: anything else, or more than the file holds, is not to be unpacked.
            if any(e.compress_type != zipfile.ZIP_STORED or e.file_size != e.compress_size for e in entries):
                raise BaconError(damaged)
            if sum(e.file_size for e in entries) > path.stat().st_size or archive.testzip() is not None:
                raise BaconError(damaged)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise BaconError(f"the checkpoint '{path}' holds more than tensors, numbers and text: not loaded.") from None
    except (OSError, zipfile.BadZipFile, RuntimeError, ValueError, KeyError, EOFError, NotImplementedError) as error:
        _log.debug("reading %s: %s", path, error)
        raise BaconError(damaged) from None
    if not (isinstance(checkpoint, dict) and {"global_step", "loops"} <= checkpoint.keys()):
        raise BaconError(f"the file '{path}' is not a checkpoint of a distillation: give one that bacon fit wrote.")
    if not isinstance(checkpoint.get("bacon_pl"), dict) or checkpoint["bacon_pl"].get("format") != CHECKPOINT_FORMAT:
        raise BaconError(
            f"the checkpoint '{path}' is of another version of this package, or no distillation's: use the version "
            "that wrote it, or start anew in another --trainer.default_root_dir."
        )
    return checkpoint


def iterations_done(path: str | os.PathLike[str]) -> int:
    """Iterations that a checkpoint was written after, which is read without the rest of it.

    Args:
        path: A file that :func:`read` takes.
    """
    return int(torch.load(path, map_location="cpu", mmap=True, weights_only=True)["global_step"])


def in_folder(root: str | os.PathLike[str]) -> list[Path]:
    """The checkpoints in a run's folder, newest first."""
    found = [(int(m[1]), path) for path in Path(root, FOLDER).glob("*.ckpt") if (m := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def newest(root: str | os.PathLike[str]) -> Path | None:
    """The newest checkpoint of a run's folder that is whole, None if there is none; damaged ones are warned of.

    Raises:
        BaconError: There are checkpoints, but all of them are damaged.
    """
    paths = in_folder(root)
    for path in paths:
        try:
            read(path)
        except BaconError as error:
            warnings.warn(f"{error} Trying the one before.", stacklevel=2)
        else:
            return path
    if paths:
        raise BaconError(
            f"all checkpoints in '{Path(root, FOLDER)}' are damaged: start anew with --overwrite true, or in another "
            "--trainer.default_root_dir."
        )
    return None


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place, and moves it there when it is on the disk; reads with :func:`read`."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint; whatever happens, an old file at ``path`` or the new one is there, whole.

        Raises:
            BaconError: The disk is full, or the folder cannot be written.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch's zip writer turns a full disk into a RuntimeError
            raise BaconError(
                f"cannot write the checkpoint '{path}' ({error}): make room or choose another "
                "--trainer.default_root_dir; earlier checkpoints are as they were."
            ) from None

    def load_checkpoint(self, path: str | os.PathLike[str], *_: Any, **__: Any) -> dict[str, Any]:
        """See :func:`read`."""
        return read(path)


class Checkpoints(Checkpoint):
    """Saves a run at intervals and when it is told to stop; keeps the last few.

    A signal (Ctrl-C, SIGTERM, SLURM's requeue signal) takes effect at the end of the iteration: a checkpoint is
    written, and the run ends with :class:`~bacon_pl.errors.StoppedError`. A second Ctrl-C stops at once. A Trainer's
    ``max_time``, which is counted anew at every start, ends a run with a checkpoint and
    :class:`~bacon_pl.errors.TimeUpError`.

    Args:
        every_n_train_steps: Iterations between two checkpoints; the last iteration gets one, too.
        keep: How many are kept.

    Raises:
        BaconError: An argument is out of range.
    """

    def __init__(self, every_n_train_steps: int = 1000, keep: int = 2) -> None:
        if every_n_train_steps < 1 or keep < 1:
            raise BaconError(
                "--checkpoint.every_n_train_steps and --checkpoint.keep must be at least 1, got "
                f"{every_n_train_steps} and {keep}."
            )
        self.every_n_train_steps = every_n_train_steps
        self.keep = keep
        self.replaces = False
        """Whether an earlier run's files are to be thrown away once this one starts."""
        self.last: int | None = None
        """Iteration of the newest checkpoint of the run, if there is one."""
        self._signal: int | None = None
        self._interrupted = False
        self._before: dict[int, Any] = {}
        self._saved: int | None = None
        self._writes = True

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take charge of the run's checkpoint files."""
        trainer.strategy.checkpoint_io = WholeFiles()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse to mix two runs' checkpoints.

        Raises:
            BaconError: The root directory holds another run's, or there is no time to run.
        """
        run: Any = trainer
        self._signal = self._saved = None
        self._interrupted = False
        self._writes = not run.fast_dev_run
        self.replaces = self.replaces or getattr(pl_module, "overwrite", False)
        if self._writes and not (run.ckpt_path or self.replaces) and in_folder(trainer.default_root_dir):
            raise BaconError(
                f"'{trainer.default_root_dir}' holds an unfinished run: resume it with ckpt_path (--ckpt_path last), "
                "or give another default_root_dir."
            )
        if time_limit.is_up(trainer):
            raise BaconError("--trainer.max_time is over before the first iteration: give a time above 00:00:00:00.")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Throw away what is to be replaced, now that nothing can be wrong with the input, and listen to signals."""
        self.last = trainer.global_step if trainer.ckpt_path else None
        if self.replaces and trainer.is_global_zero:
            # Its set stays until the new one takes its place.
            shutil.rmtree(Path(trainer.default_root_dir, FOLDER), ignore_errors=True)
        wanted = [signal.SIGINT, signal.SIGTERM]
        environment = self._slurm(trainer)
        if environment is not None and environment.requeue_signal is not None:
            wanted.append(environment.requeue_signal)
        with contextlib.suppress(ValueError):  # not in the main thread, where Python allows no handlers
            for number in wanted:
                self._before[number] = signal.signal(number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True
            # Not by print, which may be in the middle of another one.
            rank_zero_only(os.write)(2, b"\nstopping at the end of this iteration; Ctrl-C again stops at once\n")
        self._signal = number

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave signals to whom they belonged."""
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before = {}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time, and stop if a signal has come.

        Raises:
            StoppedError: A signal has come to this process or another of the run, or time is up.
        """
        stop = self._signal is not None
        if trainer.world_size > 1:  # all processes stop after the same iteration
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        done = trainer.global_step
        due = done % self.every_n_train_steps == 0 or done == trainer.max_steps or trainer.should_stop
        if self._writes and (stop or due):
            assert isinstance(pl_module, Distiller)
            pl_module.raise_if_diverged()
            self.save(trainer)
        if stop:
            self._requeue(trainer)
            raise StoppedError(self._signal or signal.SIGTERM, done)
        if self._writes:
            assert isinstance(pl_module, Distiller)
            time_limit.raise_if_up(trainer, done, pl_module.num_iterations or trainer.max_steps)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Leave out how long the run has taken: its limit is one for each start, or none could resume."""
        time_limit.forget(trainer, checkpoint)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save the last good state of a run whose numbers went wrong, where it is still at hand."""
        if (
            isinstance(exception, DivergedError)
            and exception.state_is_good
            and self._writes
            and self._saved != trainer.global_step
        ):
            self.save(trainer)

    def save(self, trainer: pl.Trainer) -> Path:
        """Write a checkpoint of this moment and remove those that are too old, or newer; returns its path."""
        path = Path(trainer.default_root_dir, FOLDER, f"iteration={trainer.global_step}.ckpt")
        trainer.save_checkpoint(path, weights_only=False)
        if trainer.is_global_zero:
            if self._saved is None:
                rank_zero_info(
                    f"checkpoints: {path.stat().st_size / 1e6:.3g} MB every {self.every_n_train_steps} iterations, the "
                    f"last {self.keep} are kept in {path.parent}"
                )
            parts = path.parent.glob(".*.part")  # of a process that was killed while it wrote
            there = in_folder(trainer.default_root_dir)
            # Newer ones are of an attempt that was given up when the run was resumed from before it.
            given_up = there[: there.index(path)]
            for old in [*given_up, *there[len(given_up) :][self.keep :], *parts]:
                old.unlink(missing_ok=True)
        self._saved = self.last = trainer.global_step
        return path

    @staticmethod
    def _slurm(trainer: pl.Trainer) -> SLURMEnvironment | None:
        # A strategy of one device has no environment of its own.
        environment = getattr(trainer.strategy, "cluster_environment", None)
        if environment is None and SLURMEnvironment.detect():
            environment = SLURMEnvironment()
        return environment if isinstance(environment, SLURMEnvironment) and environment.auto_requeue else None

    @rank_zero_only
    def _requeue(self, trainer: pl.Trainer) -> None:
        environment = self._slurm(trainer)
        if environment is None or self._signal != environment.requeue_signal:
            return
        job = os.environ.get("SLURM_ARRAY_JOB_ID")
        job = f"{job}_{os.environ['SLURM_ARRAY_TASK_ID']}" if job else os.environ["SLURM_JOB_ID"]
        if subprocess.run(["scontrol", "requeue", job], check=False).returncode:
            warnings.warn(f"SLURM did not requeue job {job}: submit it again, with --ckpt_path last.", stacklevel=2)


@contextlib.contextmanager
def claimed(root: Path, resume: str | None, overwrite: bool, exclusive: bool = True) -> Iterator[Path | None]:
    """Hold a run's folder for this process, so that nothing in it is lost by mistake.

    Args:
        root: The folder.
        resume: ``last``, a checkpoint's file, a run's folder, or None to start anew.
        overwrite: The run may replace an earlier one.
        exclusive: Keep other processes out; to be false in all but one of a run's own processes.

    Yields:
        The checkpoint to resume from, if any: ``last`` starts anew where there is none yet.

    Raises:
        BaconError: The folder holds a run and neither was asked for, another process is writing into it, it cannot be
            written, or the checkpoint is missing or damaged.
    """
    with contextlib.ExitStack() as stack:
        try:
            free = not exclusive or stack.enter_context(held(root))
        except OSError as error:
            raise BaconError(
                f"cannot write into '{root}' ({error.strerror}): choose another --trainer.default_root_dir."
            ) from None
        if not free:
            raise BaconError(
                f"another process is distilling into '{root}': wait for it, or choose another "
                "--trainer.default_root_dir."
            )
        finished = (root / FILE_NAME).exists()
        if resume is None and not overwrite and (finished or in_folder(root)):
            what = "a finished" if finished else "an unfinished"
            raise BaconError(
                f"'{root}' holds {what} run: continue it with --ckpt_path last, replace it with --overwrite true, or "
                "choose another --trainer.default_root_dir."
            )
        if resume == "last":
            yield newest(root)
        elif resume is not None:
            path = Path(resume)
            given = newest(path) if path.is_dir() else path
            if given is None:
                raise BaconError(f"there is no checkpoint in '{path}': give a checkpoint's file or another folder.")
            read(given)
            yield given
        else:
            yield None
