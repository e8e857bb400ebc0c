"""Errors that users can fix, with messages that say what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_MOST_NAMES = 20


class BaconError(Exception):
    """Invalid input. The command line prints only the message and exits with a non-zero status."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> BaconError:
    """Create the error for an unknown name.

    Args:
        kind: Kind of the name, e.g. ``"dataset"``.
        name: The name as given by the user.
        known: The existing names.

    Returns:
        An error that suggests the most similar name and lists the existing ones, or the most similar of many.
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


class TooFewImagesError(BaconError):
    """A method means nothing with so few images of a class. A table leaves such cells out and makes the others."""


class DivergedError(BaconError):
    """A loss, a gradient or an image is not finite.

    Args:
        message: What is not finite, since which iteration, and what to do.
        state_is_good: Whether the parameters are still those of the previous iteration.
    """

    def __init__(self, message: str, state_is_good: bool = False) -> None:
        super().__init__(message)
        self.state_is_good = state_is_good


class StoppedError(Exception):
    """A run was stopped by a signal before its last iteration, after a checkpoint was written.

    Args:
        number: Number of the signal.
        iterations: Number of finished iterations.
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
    """A run reached its time limit before its last iteration, after a checkpoint was written.

    Args:
        iterations: Number of finished iterations.
        total: Number of requested iterations.
    """

    status = 124  # the status of timeout(1)

    def __init__(self, iterations: int, total: int) -> None:
        Exception.__init__(
            self,
            f"the time that --trainer.max_time gives was up after iteration {iterations:,} of {total:,}, so there is a "
            "checkpoint and no distilled set yet; the same command with --ckpt_path last continues.",
        )
        self.iterations = iterations
        self.total = total


def one_line(value: object, longest: int = 200) -> str:
    """Make arbitrary text safe for use in a sentence.

    Args:
        value: Object whose ``str`` is used.
        longest: Maximum number of characters.

    Returns:
        One line without control characters; longer text is cut off and ends with ``…``.
    """
    text = " ".join(str(value).split())
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[: longest + 1])
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
