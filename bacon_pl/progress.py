"""Where a run is: one bar in a terminal, and anywhere else a line at sensible intervals."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from bacon_pl.checkpoints import Checkpoints
from bacon_pl.pace import Pace, duration, speed

_LONG = 3600.0  # seconds of a run that nobody starts to see whether all works
_BAR = 12  # least columns of a bar, with the spaces around it
_REFRESH = 0.25  # seconds between two looks of a bar


def in_terminal() -> bool:
    """Whether a bar can be drawn: stdout is a terminal whose cursor moves."""
    return sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


def progress(
    label: str = "", unit: str = "iteration", estimate: bool = False, transient: bool = False
) -> TrainingProgress:
    """The callback for where stdout goes: :class:`ProgressBarLine` in a terminal, :class:`ProgressLines` elsewhere.

    Args:
        label: What is trained, said in front.
        unit: What a training step is called.
        estimate: Say how long the whole run takes, too, once that is known and when it has changed much.
        transient: Leave nothing behind: take the bar away at the end, or print no last line.
    """
    return (ProgressBarLine if in_terminal() else ProgressLines)(label, unit, estimate, transient)


def with_progress(
    callbacks: Callback | Sequence[Callback] | None, enabled: bool | None, shown: TrainingProgress
) -> list[Callback]:
    """Add a progress bar to the callbacks of a Trainer, unless there is one or none is wanted.

    Args:
        callbacks: The user's.
        enabled: The Trainer's ``enable_progress_bar``.
        shown: The one to add.
    """
    given = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or ())
    if enabled is False or any(isinstance(callback, ProgressBar) for callback in given):
        return given
    return [*given, shown]


def planned(trainer: pl.Trainer, module: pl.LightningModule) -> int:
    """Steps of a whole training; 0 where nobody knows."""
    limits = [trainer.max_steps, getattr(module, "num_iterations", None) or -1]
    batches = trainer.num_training_batches
    if not any(limit > 0 for limit in limits) and math.isfinite(batches):
        limits.append(int(batches) * max(trainer.max_epochs or 1, 1))
    return min((limit for limit in limits if limit > 0), default=0)


class TrainingProgress(ProgressBar):
    """What both forms share: which step a training is at, and how fast it goes.

    A device is asked for the loss only when that is shown, and never waited for otherwise.

    Args:
        label: What is trained, said in front.
        unit: What a training step is called.
        estimate: Say how long the whole run takes, too.
        transient: Leave nothing behind at the end.
        pace: When something is shown.
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
        """Said with the first estimate of a run that takes more than an hour."""
        self._enabled = True

    def disable(self) -> None:
        """Show nothing."""
        self._enabled = False

    def enable(self) -> None:
        """Show it again."""
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._begun_at = trainer.global_step
        self.pace.begin(trainer.global_step, planned(trainer, pl_module))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the step, and show what is due."""
        if self._enabled and self.pace.step(trainer.global_step):
            metrics = self._metrics(trainer, pl_module)  # waits for the device, so before the time is taken
            self.pace.mark()
            again = self.pace.told is not None
            if self.estimate and (whole := self.pace.news()) is not None:
                self.print(self._estimate(whole, again))
            self._show(trainer, metrics)

    def _show(self, trainer: pl.Trainer, metrics: list[str]) -> None:
        raise NotImplementedError

    def _metrics(self, trainer: pl.Trainer, module: pl.LightningModule) -> list[str]:
        """What was logged with ``prog_bar=True``, as text, the loss first."""
        found = sorted(trainer.progress_bar_metrics.items(), key=lambda item: not item[0].endswith("loss"))
        return [f"{name} {value:.4g}" for name, value in found]

    def _estimate(self, whole: float, again: bool) -> str:
        """A sentence on how long this start takes in all."""
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
        """Speed and time left, once they are known."""
        each, left = self.pace.seconds_each, self.pace.seconds_left
        return [] if each is None or left is None else [speed(each, self.unit), f"{duration(left)} left"]


class ProgressLines(TrainingProgress):
    """Prints a line after some seconds, then at growing intervals, and one at the end: for files, pipes and notebooks.

    Args:
        label: What is trained, said in front.
        unit: What a training step is called.
        estimate: Say how long the whole run takes, too.
        transient: Print no line at the end.
        pace: When a line is due.
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
        """Print, so that whoever reads the file sees it at once."""
        print(*args, **{"flush": True, **kwargs})


class ProgressBarLine(TrainingProgress):
    """Draws one bar with the time left, for terminals.

    Args:
        label: What is trained, said in front.
        unit: What a training step is called.
        estimate: Say how long the whole run takes, too.
        transient: Take the bar away at the end.
        pace: When speed is measured.
        console: Where it is drawn; stdout by default.
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
        """Draw it."""
        super().on_train_start(trainer, pl_module)
        if not self._enabled:
            return
        self._drawn = Progress(
            *([TextColumn("{task.description}", markup=False)] if self.label else []),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[text]}", markup=False),
            console=self.console or Console(),
            auto_refresh=False,  # no thread beside the training
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
        """Move it on, a few times a second at most."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self.pace.elapsed - self._looked >= _REFRESH:
            self._look()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw it for the last time."""
        if self._drawn is not None:
            self._show(trainer, self._metrics(trainer, pl_module))
            self._look(f"{duration(self.pace.elapsed)} in all", *self._text)
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the terminal to what is said about it."""
        self._stop()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the terminal."""
        self._stop()

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar."""
        print(*args, **kwargs)

    def _show(self, trainer: pl.Trainer, metrics: list[str]) -> None:
        self._text = metrics[:1]  # there is one line for all

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
