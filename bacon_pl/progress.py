"""Progress of a run: a bar in terminals, and lines at growing intervals elsewhere."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from bacon_pl.checkpoints import Checkpoints
from bacon_pl.pace import Pace, duration, speed

_LONG = 3600.0  # duration in seconds from which a hint at shorter runs is printed
_BAR = 12  # minimum number of columns of a bar, including the spaces around it
_REFRESH = 0.25  # seconds between updates of a bar


def in_terminal() -> bool:
    """Return whether a bar can be drawn: stdout is a terminal with a movable cursor."""
    return sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


def progress(
    label: str = "", unit: str = "iteration", estimate: bool = False, transient: bool = False
) -> TrainingProgress:
    """Create the progress callback for stdout: :class:`ProgressBarLine` in terminals, else :class:`ProgressLines`.

    Args:
        label: Name of the training, printed first.
        unit: Name of a training step.
        estimate: Print an estimate of the total duration, and again if it changes much.
        transient: Remove the bar at the end, or print no final line.

    Returns:
        The callback.
    """
    return (ProgressBarLine if in_terminal() else ProgressLines)(label, unit, estimate, transient)


def with_progress(
    callbacks: Callback | Sequence[Callback] | None, enabled: bool | None, shown: TrainingProgress
) -> list[Callback]:
    """Add a progress callback to the callbacks of a Trainer, unless there is one or progress is disabled.

    Args:
        callbacks: Callbacks of the user.
        enabled: The Trainer's ``enable_progress_bar``.
        shown: The progress callback to add.

    Returns:
        The callbacks.
    """
    given = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or ())
    if enabled is False or any(isinstance(callback, ProgressBar) for callback in given):
        return given
    return [*given, shown]


def planned(trainer: pl.Trainer, module: pl.LightningModule) -> int:
    """Return the total number of steps of a training; 0 if it is unknown."""
    limits = [trainer.max_steps, getattr(module, "num_iterations", None) or -1]
    batches = trainer.num_training_batches
    if not any(limit > 0 for limit in limits) and math.isfinite(batches):
        limits.append(int(batches) * max(trainer.max_epochs or 1, 1))
    return min((limit for limit in limits if limit > 0), default=0)


class TrainingProgress(ProgressBar):
    """The common base of both forms of progress, which counts steps and measures the speed.

    The loss is read from the device only when it is shown, so that the training does not wait otherwise.

    Args:
        label: Name of the training, printed first.
        unit: Name of a training step.
        estimate: Print an estimate of the total duration.
        transient: Leave no output at the end.
        pace: Measures the speed and determines when output is due.
    """

    def __init__(
        self,
        label: str = "",
        unit: str = "iteration",
        estimate: bool = False,
        transient: bool = False,
        pace: Pace | None = None,
    ) -> None:
        super().__init__()
        self.label = label
        self.unit = unit
        self.estimate = estimate
        self.transient = transient
        self.pace = pace or Pace()
        self.hint = ""
        """Hint printed with the first estimate of a run that takes more than an hour."""
        self._enabled = True

    def disable(self) -> None:
        """Turn the output off."""
        self._enabled = False

    def enable(self) -> None:
        """Turn the output on."""
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._begun_at = trainer.global_step
        self.pace.begin(trainer.global_step, planned(trainer, pl_module))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the step, and show the progress if it is due."""
        if self._enabled and self.pace.step(trainer.global_step):
            metrics = self._metrics(trainer, pl_module)  # waits for the device, so this precedes the measurement
            self.pace.mark()
            again = self.pace.told is not None
            if self.estimate and (whole := self.pace.news()) is not None:
                self.print(self._estimate(whole, again))
            self._show(trainer, metrics)

    def _show(self, trainer: pl.Trainer, metrics: list[str]) -> None:
        raise NotImplementedError

    def _metrics(self, trainer: pl.Trainer, module: pl.LightningModule) -> list[str]:
        """Format the metrics logged with ``prog_bar=True``, with the loss first."""
        numbers = dict(trainer.progress_bar_metrics)
        if kept := getattr(module, "shown", {}):  # read from the device at once
            numbers.update(zip(kept, torch.stack([value.double() for value in kept.values()]).tolist(), strict=True))
        found = sorted(numbers.items(), key=lambda item: not item[0].endswith("loss"))
        return [f"{name} {value:.4g}" for name, value in found]

    def _estimate(self, whole: float, again: bool) -> str:
        """Format an estimate of the total duration since this start."""
        pace, each = self.pace, self.pace.seconds_each
        assert each is not None
        steps, left = pace.total - self._begun_at, " that are left" if self._begun_at else ""
        hint = self.hint if whole > _LONG and not again else ""
        about = f"{self._prefix}{'now ' if again else ''}about {duration(whole)}"
        return f"{about} for the {steps:,} {self.unit}s{left}, {speed(each, self.unit)}{hint}"

    @property
    def _prefix(self) -> str:
        return f"{self.label}: " if self.label else ""

    def _times(self) -> list[str]:
        """Format speed and remaining time, if they are known."""
        each, left = self.pace.seconds_each, self.pace.seconds_left
        return [] if each is None or left is None else [speed(each, self.unit), f"{duration(left)} left"]


class ProgressLines(TrainingProgress):
    """Prints lines at growing intervals and at the end, for files, pipes and notebooks.

    Args:
        label: Name of the training, printed first.
        unit: Name of a training step.
        estimate: Print an estimate of the total duration.
        transient: Print no line at the end.
        pace: Measures the speed and determines when a line is due.
    """

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the last line."""
        if self._enabled and not self.transient and self.pace.done > self._begun_at:
            took = f"{duration(self.pace.elapsed)} in all"
            self._line(trainer, [*self._metrics(trainer, pl_module), took])

    def _show(self, trainer: pl.Trainer, metrics: list[str]) -> None:
        self._line(trainer, [*metrics, *self._times()])

    def _line(self, trainer: pl.Trainer, parts: list[str]) -> None:
        checkpoints = next((c for c in trainer.checkpoint_callbacks if isinstance(c, Checkpoints)), None)
        if checkpoints is not None and checkpoints.last is not None:
            parts = [*parts, f"last checkpoint at {checkpoints.last:,}"]
        of = f" of {self.pace.total:,}" if self.pace.total else ""
        self.print(f"{self._prefix}{self.unit} {self.pace.done:,}{of}: {', '.join(parts)}")

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print and flush, so that the text appears in files immediately."""
        print(*args, **{"flush": True, **kwargs})


class ProgressBarLine(TrainingProgress):
    """Draws a bar with the remaining time, for terminals.

    Args:
        label: Name of the training, shown first.
        unit: Name of a training step.
        estimate: Print an estimate of the total duration.
        transient: Remove the bar at the end.
        pace: Measures the speed.
        console: Console in which the bar is drawn; by default stdout.
    """

    def __init__(
        self,
        label: str = "",
        unit: str = "iteration",
        estimate: bool = False,
        transient: bool = False,
        pace: Pace | None = None,
        console: Console | None = None,
    ) -> None:
        super().__init__(label, unit, estimate, transient, pace or Pace(first=2.0, longest=10.0))
        self.console = console
        self._drawn: Progress | None = None
        self._task = TaskID(0)
        self._looked = 0.0
        self._text: list[str] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the bar."""
        super().on_train_start(trainer, pl_module)
        if not self._enabled:
            return
        self._drawn = Progress(
            *([TextColumn("{task.description}", markup=False)] if self.label else []),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[text]}", markup=False),
            console=self.console or Console(),
            auto_refresh=False,  # avoids a thread during the training
            transient=self.transient,
            expand=True,
        )
        total = self.pace.total or None
        self._task = self._drawn.add_task(self.label, total=total, completed=self.pace.done, text=self._where())
        self._drawn.start()
        self._look()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the bar, at most a few times per second."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self.pace.elapsed - self._looked >= _REFRESH:
            self._look()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the final state of the bar."""
        if self._drawn is not None:
            self._show(trainer, self._metrics(trainer, pl_module))
            self._look(f"{duration(self.pace.elapsed)} in all", *self._text)
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Stop drawing, so that the error can be printed."""
        self._stop()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Stop drawing."""
        self._stop()

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar."""
        print(*args, **kwargs)

    def _show(self, trainer: pl.Trainer, metrics: list[str]) -> None:
        self._text = metrics[:1]  # only one metric fits on the line

    def _where(self, *parts: str) -> str:
        of = f"/{self.pace.total:,}" if self.pace.total else ""
        said = [f"{self.pace.done:,}{of}", *(parts or (*reversed(self._times()), *self._text))]
        room = (self._drawn.console.width if self._drawn else 80) - len(self.label) - _BAR
        while len(said) > 1 and len(", ".join(said)) > room:  # the last parts are the least important
            said.pop()
        return ", ".join(said)

    def _look(self, *parts: str) -> None:
        if self._drawn is not None:
            self._looked = self.pace.elapsed
            self._drawn.update(self._task, completed=self.pace.done, text=self._where(*parts))
            self._drawn.refresh()

    def _stop(self) -> None:
        if self._drawn is not None:
            self._drawn.stop()
            self._drawn = None
