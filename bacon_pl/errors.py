"""Errors a user can mend: one sentence that says what, where and what to do. Programming errors stay ordinary ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_MOST_NAMES = 20


class BaconError(Exception):
    """Bad input. The command line prints its message as the whole error and exits with a non-zero status."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> BaconError:
    """Build the error for a name that no catalog holds.

    Args:
        kind: What was looked up, e.g. ``"dataset"``.
        name: The name as the user gave it.
        known: The names that exist.

    Returns:
        An error that suggests the nearest known name and lists them, or the nearest of many.
    """
    options = sorted(known)
    near = difflib.get_close_matches(name.lower(), [o.lower() for o in options], n=1, cutoff=0.5)
    hint = next((f" Did you mean '{o}'?" for o in options if near and o.lower() == near[0]), "")
    options = [name for name in options if name]
    shown, others = options, ""
    if len(options) > _MOST_NAMES:
        near_ones = difflib.get_close_matches(name.lower(), options, n=_MOST_NAMES // 2, cutoff=0.1)
        shown = sorted(near_ones or options[: _MOST_NAMES // 2])
        others = f" and {len(options) - len(shown)} others"
    return BaconError(f"unknown {kind} '{one_line(name, 80)}'.{hint} Known: {', '.join(shown)}{others}.")


class DivergedError(BaconError):
    """Numbers that went wrong: a loss or an image is not finite.

    Args:
        message: What is not finite, since which iteration, and what to do.
        state_is_good: The state is still that of the iteration before.
    """

    def __init__(self, message: str, state_is_good: bool = False) -> None:
        super().__init__(message)
        self.state_is_good = state_is_good


class StoppedError(Exception):
    """A run ended before its last iteration, after a checkpoint, because a signal had told it to.

    Args:
        number: The signal's number.
        iterations: Iterations done.
    """

    def __init__(self, number: int, iterations: int) -> None:
        super().__init__(f"stopped after {iterations} iterations; the same command with --ckpt_path last continues.")
        self.number = int(number)
        self.iterations = iterations

    @property
    def status(self) -> int:
        """Exit status of the command."""
        return 128 + self.number


class TimeUpError(StoppedError):
    """A run ended before its last iteration, after a checkpoint, because its time was up.

    Args:
        iterations: Iterations done.
        total: Iterations that were asked for.
    """

    status = 124  # that of timeout(1)

    def __init__(self, iterations: int, total: int) -> None:
        Exception.__init__(
            self,
            f"the time that --trainer.max_time gives was up after iteration {iterations:,} of {total:,}, so there is a "
            "checkpoint and no distilled set yet; the same command with --ckpt_path last continues.",
        )
        self.iterations = iterations
        self.total = total


def one_line(value: object, longest: int = 200) -> str:
    """Show text that may come from anywhere within a sentence.

    Args:
        value: Its ``str`` is shown.
        longest: Most characters kept.

    Returns:
        One line without characters that move a terminal's cursor or break lines; what is too long ends in ``…``.
    """
    text = " ".join(str(value).split())
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[: longest + 1])
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
