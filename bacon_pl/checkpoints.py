"""The saving of checkpoints, handling of signals, and locking of a run's folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_only

from bacon_pl import time_limit
from bacon_pl.checkpoint_files import FOLDER, WholeFiles, in_folder, newest, read
from bacon_pl.distilled_set import FILE_NAME
from bacon_pl.distillers import Distiller
from bacon_pl.errors import BaconError, DivergedError, StoppedError
from bacon_pl.runtime import held


class Checkpoints(Checkpoint):
    """Saves checkpoints at intervals and when the run is stopped, and keeps the most recent ones.

    A signal (Ctrl-C, SIGTERM, SLURM's requeue signal) takes effect at the end of the iteration: a checkpoint is
    written, and the run ends with :class:`~bacon_pl.errors.StoppedError`. A second Ctrl-C stops immediately. The
    Trainer's ``max_time``, which is counted from each start, ends a run with a checkpoint and
    :class:`~bacon_pl.errors.TimeUpError`.

    Args:
        every_n_train_steps: Interval in iterations between checkpoints; the last iteration is always saved.
        keep: Number of checkpoints to keep.

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
        """Whether the files of an earlier run are deleted when this one starts."""
        self.last: int | None = None
        """Iteration of the newest checkpoint of the run, or None if there is none."""
        self.names_files = True
        """Whether it is said where checkpoints are kept."""
        self._signal: int | None = None
        self._interrupted = False
        self._before: dict[int, Any] = {}
        self._saved: int | None = None
        self._writes = True

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Install the writer of checkpoint files."""
        trainer.strategy.checkpoint_io = WholeFiles()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check that the checkpoints of two runs will not be mixed.

        Raises:
            BaconError: The root directory contains checkpoints of another run, or the time limit is already reached.
        """
        run: Any = trainer
        self._signal = self._saved = None
        self._interrupted = False
        self._writes = not run.fast_dev_run
        self.replaces = self.replaces or getattr(pl_module, "overwrite", False)
        if self._writes and not (run.ckpt_path or self.replaces) and (there := in_folder(trainer.default_root_dir)):
            raise BaconError(
                f"'{trainer.default_root_dir}' holds an unfinished run: resume it with ckpt_path='{there[0]}' (on the "
                "command line with --ckpt_path last), or give another default_root_dir."
            )
        if time_limit.is_up(trainer):
            raise BaconError("--trainer.max_time is over before the first iteration: give a time above 00:00:00:00.")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Delete the files to be replaced, now that the input has been checked, and install signal handlers."""
        self.last = trainer.global_step if trainer.ckpt_path else None
        if self.replaces and trainer.is_global_zero:
            # The set of the earlier run stays until it is replaced by the new one.
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
            # Not by print, since the signal may have interrupted another print.
            rank_zero_only(os.write)(2, b"\nstopping at the end of this iteration; Ctrl-C again stops at once\n")
        self._signal = number

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Restore the previous signal handlers, but for those that Lightning has restored already."""
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._remember:
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before = {}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save a checkpoint if it is due, and stop if a signal has been received.

        Raises:
            StoppedError: A process of the run has received a signal, or the time limit is reached.
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
        """Remove the elapsed time from the checkpoint, since the time limit applies to each start separately."""
        time_limit.forget(trainer, checkpoint)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save the last good state of a run that diverged, if it is still available."""
        if (
            isinstance(exception, DivergedError)
            and exception.state_is_good
            and self._writes
            and self._saved != trainer.global_step
        ):
            self.save(trainer)

    def save(self, trainer: pl.Trainer) -> Path:
        """Write a checkpoint, remove outdated checkpoints and those of abandoned attempts, and return its path."""
        path = Path(trainer.default_root_dir, FOLDER, f"iteration={trainer.global_step}.ckpt")
        trainer.save_checkpoint(path, weights_only=False)
        if trainer.is_global_zero:
            if self._saved is None and self.names_files:
                rank_zero_info(
                    f"checkpoints: {path.stat().st_size / 1e6:.3g} MB every {self.every_n_train_steps} iterations, the "
                    f"last {self.keep} are kept in {path.parent}"
                )
            parts = path.parent.glob(".*.part")  # left by a process that was killed while writing
            there = in_folder(trainer.default_root_dir)
            # Newer checkpoints belong to an attempt that was abandoned by resuming from an earlier checkpoint.
            given_up = there[: there.index(path)]
            for old in [*given_up, *there[len(given_up) :][self.keep :], *parts]:
                old.unlink(missing_ok=True)
        self._saved = self.last = trainer.global_step
        return path

    @staticmethod
    def _slurm(trainer: pl.Trainer) -> SLURMEnvironment | None:
        # A strategy for a single device has no environment.
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
    """Lock a run's folder for this process, and check that no earlier run in it is lost.

    Args:
        root: The folder.
        resume: ``last``, a checkpoint file, the folder of a run, or None to start a new run.
        overwrite: Whether an earlier run may be replaced.
        exclusive: Whether to lock the folder; must be False in all but one of the processes of a run.

    Yields:
        The checkpoint from which to resume, or None to start a new run. ``last`` gives None if there is no checkpoint.

    Raises:
        BaconError: The folder contains a run that is neither resumed nor overwritten, another process is using it, it
            is not writable, or the checkpoint is missing or damaged.
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
