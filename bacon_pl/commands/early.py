"""What is wrong with a command line that can be told at once, without torch and Lightning, which take seconds to load.

Only what the command itself would say, too, or less well: whatever is doubtful is left to its parser.
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
    *("scores", "bound", "bound_settings", "figures", "optimizer", "lr_scheduler"),
)
"""First words of the options of fit and eval; a test holds them to the parsers'."""

_CLOSE = 0.8  # a slip of the pen; for what is further from all of these, the parser knows better what was meant
_NO_SETTINGS = (
    *("--data.name", "--data.root", "--seed_everything", "--overwrite", "--ckpt_path"),
    *("--trainer.default_root_dir", "--trainer.accelerator", "--trainer.devices", "--trainer.precision"),
    *("--trainer.max_time", "--trainer.logger"),
)
"""Options that a run may be given beside its configuration, and that do not make one."""


def check(command: str, args: Sequence[str]) -> None:
    """Refuse what is wrong in any case.

    Args:
        command: ``fit`` or ``eval``.
        args: Its arguments.

    Raises:
        BaconError: An option is misspelled, a configuration is missing or is no YAML of settings, or none is given.
    """
    if not any(word in ("-h", "--version") or word.startswith("--print") or "help" in word for word in args):
        _check_names(args)
        _check_missing(command, args)
    for given in _configurations(args):
        _read(given)


def _check_names(args: Sequence[str]) -> None:
    """Refuse an option whose first word is nearly that of one there is."""
    for word in args:
        option = word.partition("=")[0]
        first, dot, rest = option.removeprefix("--").rstrip("+").partition(".")
        if not option.startswith("--") or option == "--" or first in OPTIONS:
            continue
        if near := difflib.get_close_matches(first, OPTIONS, n=1, cutoff=_CLOSE):
            raise BaconError(f"unknown option {option}. Did you mean --{near[0]}{dot}{rest}? `--help` lists all.")


def _check_missing(command: str, args: Sequence[str]) -> None:
    """Refuse a command line without what nothing else can give."""
    names = [word.partition("=")[0] for word in args]
    if command == "fit" and all(name in _NO_SETTINGS for name in names if name.startswith("-")):
        raise BaconError(
            "no configuration is given: add --config NAME, e.g. --config digits/ipc1 (`bacon configs` lists the "
            "names), or --config FILE with a YAML file of your own."
        )
    if command == "eval" and "--distilled" not in names:
        read = [_read(given) for given in _configurations(args)]
        if None not in read and not any("distilled" in layer.settings for found in read for layer in found or ()):
            raise BaconError(
                "--distilled is missing: give the set, its file or the folder of its run, as `--help` describes."
            )


def _configurations(args: Sequence[str]) -> Iterator[str]:
    """What ``--config`` is given."""
    for word, following in zip(args, [*args[1:], "--"], strict=False):
        name, equals, value = word.partition("=")
        if word.startswith("-c") and word != "-c":
            yield word[2:].removeprefix("=")
        elif name in ("--config", "-c") and equals:
            yield value
        elif name in ("--config", "-c") and not following.startswith("--"):
            yield following


def _read(given: str) -> list[Layer] | None:
    """Read a configuration; None if it can be read only once, or only from afar."""
    special = os.path.exists(given) and not (os.path.isfile(given) or os.path.isdir(given))
    if "://" in given or special:
        return None
    return layers(given)
