"""What a command would run with."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from bacon_pl.commands.evaluate import Eval
from bacon_pl.commands.fit import Fit


def settings_of(command: str, args: Sequence[str]) -> dict[str, Any]:
    """All settings that ``fit`` or ``eval`` would run with, without running it.

    Raises:
        BaconError: The arguments are bad.
    """
    with silenced():  # what the Trainer says of the machine
        run = Fit(args) if command == "fit" else Eval(args)
    if isinstance(run, Fit):
        run.check_settings()
    return run.resolved


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Leave out what Lightning only informs of."""
    names = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed")
    before = {logging.getLogger(name): logging.getLogger(name).level for name in names}
    try:
        for logger in before:
            logger.setLevel(logging.WARNING)
        yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)
