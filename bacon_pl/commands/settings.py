"""The resolved settings of a command, without running it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bacon_pl.commands.evaluate import Eval
from bacon_pl.commands.fit import Fit
from bacon_pl.quiet import silenced


def settings_of(command: str, args: Sequence[str]) -> dict[str, Any]:
    """Return all settings with which ``fit`` or ``eval`` would run.

    Args:
        command: ``fit`` or ``eval``.
        args: Arguments of the command.

    Raises:
        BaconError: The arguments are invalid.
    """
    with silenced():  # hide the Trainer's messages about the machine
        run = Fit(args) if command == "fit" else Eval(args)
    if isinstance(run, Fit):
        run.check_settings()
    return run.resolved
