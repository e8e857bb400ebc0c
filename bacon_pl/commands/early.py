"""Early checks of the command line, before torch and Lightning are imported, which takes seconds.

Only errors that the command would report as well are detected here. Doubtful cases are left to the parser.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence

from bacon_pl.config_files import Layer, layers
from bacon_pl.errors import BaconError

OPTIONS = (
    *("help", "version", "config", "print_config", "print_shtab", "seed_everything", "trainer", "data"),
    *("model", "image_grid", "validation", "checkpoint", "ckpt_path", "overwrite"),
    *("evaluation", "distilled", "factor", "epoch_index", "epoch-index", "out", "baselines", "networks"),
    *("scores", "score_weights", "shared", "labels", "pixels", "bound", "bound_settings", "figures"),
    *("optimizer", "lr_scheduler", "tune", "tuned"),
)
"""First words of the options of fit and eval; a test compares them with the parsers."""

_CLOSE = 0.8  # similarity of a typing error; for less similar words, the parser gives better suggestions
_NO_SETTINGS = (
    *("--data.name", "--data.root", "--seed_everything", "--overwrite", "--ckpt_path"),
    *("--trainer.default_root_dir", "--trainer.accelerator", "--trainer.devices", "--trainer.precision"),
    *("--trainer.max_time", "--trainer.logger"),
)
"""Options that do not replace a configuration."""


def check(command: str, args: Sequence[str]) -> None:
    """Check a command line for errors that need no parser.

    Args:
        command: ``fit`` or ``eval``.
        args: Arguments of the command.

    Raises:
        BaconError: An option is misspelled, no configuration is given, or one is missing or not a YAML file with
            settings.
    """
    only_shows = any(word in ("-h", "--version") or word.startswith("--print") or "help" in word for word in args)
    if not only_shows:
        _check_names(args)
    read = [_read(given) for given in _configurations(args)]
    if not only_shows:
        _check_missing(command, args, read)


def _check_names(args: Sequence[str]) -> None:
    """Reject options whose first word is a likely misspelling of an existing one."""
    for word in args:
        option = word.partition("=")[0]
        first, dot, rest = option.removeprefix("--").rstrip("+").partition(".")
        if not option.startswith("--") or option == "--" or first in OPTIONS:
            continue
        if near := difflib.get_close_matches(first, OPTIONS, n=1, cutoff=_CLOSE):
            raise BaconError(f"unknown option {option}. Did you mean --{near[0]}{dot}{rest}? `--help` lists all.")


def _check_missing(command: str, args: Sequence[str], read: Sequence[list[Layer] | None]) -> None:
    """Reject a command line without a required option or configuration."""
    names = [word.partition("=")[0] for word in args]
    if command == "fit" and all(name in _NO_SETTINGS for name in names if name.startswith("-")):
        raise BaconError(
            "no configuration is given: add --config NAME, e.g. --config digits/ipc1 (`bacon configs` lists the "
            "names), or --config FILE with a YAML file of your own."
        )
    named = any("distilled" in layer.settings for found in read for layer in found or ())
    if command == "eval" and "--distilled" not in names and None not in read and not named:
        raise BaconError(
            "--distilled is missing: give the set, its file or the folder of its run, as `--help` describes."
        )


def _configurations(args: Sequence[str]) -> Iterator[str]:
    """Yield the values of ``--config``."""
    for word, following in zip(args, [*args[1:], "--"], strict=False):
        name, equals, value = word.partition("=")
        if word.startswith("-c") and word != "-c":
            yield word[2:].removeprefix("=")
        elif name in ("--config", "-c") and equals:
            yield value
        elif name in ("--config", "-c") and not following.startswith("--"):
            yield following


def _read(given: str) -> list[Layer] | None:
    """Read a configuration; return None for a pipe, which can be read only once, or a remote file."""
    special = os.path.exists(given) and not (os.path.isfile(given) or os.path.isdir(given))
    if "://" in given or special:
        return None
    return layers(given)
