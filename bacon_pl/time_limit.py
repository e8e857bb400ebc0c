"""The Trainer's ``max_time`` as a limit for each start of a run, so that the same command can continue the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Timer

from bacon_pl.errors import BaconError, TimeUpError

LENGTHS = ("max_steps", "max_epochs", "min_steps", "min_epochs", "max_time")
"""Settings of the Trainer that say how long a distillation takes, and nothing about an evaluation."""


def check_no_lengths(trainer: Any) -> None:
    """Check that an evaluation is given none of these settings.

    Args:
        trainer: Settings of the Trainer that are meant for the evaluation alone; what is no mapping is told elsewhere.

    Raises:
        BaconError: It is given one.
    """
    given = trainer if isinstance(trainer, Mapping) else {}
    for name in (key.partition(".")[0] for key, value in given.items() if value is not None):
        if name in LENGTHS:
            raise BaconError(
                f"--trainer.{name} is for bacon fit: an evaluation takes the steps of its recipe (--evaluation.epochs)."
            )


def is_up(trainer: pl.Trainer) -> bool:
    """Return whether there is a time limit and it has been reached."""
    left = [timer.time_remaining() for timer in _timers(trainer)]
    return any(seconds is not None and seconds <= 0 for seconds in left)


def raise_if_up(trainer: pl.Trainer, done: int, total: int) -> None:
    """End a run that has reached its time limit; all processes of the run must call this together.

    Args:
        trainer: The Trainer of the run; at the limit, Lightning's timer sets its ``should_stop``.
        done: Number of finished iterations.
        total: Total number of iterations.

    Raises:
        TimeUpError: The time limit is reached and iterations are left.
    """
    # The clock of the first process decides, as in Lightning's timer.
    if trainer.should_stop and done < total and _timers(trainer) and trainer.strategy.broadcast(is_up(trainer)):
        raise TimeUpError(done, total)


def forget(trainer: pl.Trainer, checkpoint: dict[str, Any]) -> None:
    """Remove the elapsed time from a checkpoint, since it would otherwise count for the next start."""
    for timer in _timers(trainer):
        checkpoint.get("callbacks", {}).pop(timer.state_key, None)


def _timers(trainer: pl.Trainer) -> list[Timer]:
    callbacks: list[Any] = getattr(trainer, "callbacks", [])
    return [callback for callback in callbacks if isinstance(callback, Timer)]
