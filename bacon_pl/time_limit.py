"""A Trainer's ``max_time``: a limit for each start of a run, so that the same command can go on where it ended."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Timer

from bacon_pl.errors import TimeUpError


def is_up(trainer: pl.Trainer) -> bool:
    """Whether there is a limit, and it has been reached."""
    left = [timer.time_remaining() for timer in _timers(trainer)]
    return any(seconds is not None and seconds <= 0 for seconds in left)


def raise_if_up(trainer: pl.Trainer, done: int, total: int) -> None:
    """End a run whose time is up; all its processes call this together.

    Args:
        trainer: Its Trainer, which Lightning's timer has told to stop then.
        done: Iterations done.
        total: Iterations of the whole run.

    Raises:
        TimeUpError: Its time is up, and iterations are left.
    """
    # The first process's clock decides, as it does in Lightning's timer.
    if trainer.should_stop and done < total and _timers(trainer) and trainer.strategy.broadcast(is_up(trainer)):
        raise TimeUpError(done, total)


def forget(trainer: pl.Trainer, checkpoint: dict[str, Any]) -> None:
    """Take out of a checkpoint how long the run has taken, which would count for the next start."""
    for timer in _timers(trainer):
        checkpoint.get("callbacks", {}).pop(timer.state_key, None)


def _timers(trainer: pl.Trainer) -> list[Timer]:
    callbacks: list[Any] = getattr(trainer, "callbacks", [])
    return [callback for callback in callbacks if isinstance(callback, Timer)]
