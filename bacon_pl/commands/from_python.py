"""What the functions of Python need around the commands: settings as arguments, and the caller's process as it was."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.seed import isolate_rng

from bacon_pl.configured import plain
from bacon_pl.data import DataModule
from bacon_pl.errors import BaconError, StoppedError, TimeUpError, one_line
from bacon_pl.quiet import quietly, silenced
from bacon_pl.settings_text import nested, value_at

IN_MEMORY = ("mean", "std", "val_fraction", "batch_real", "pool_batch", "eval_batch", "split_seed", "whitening")
"""Settings of the data that also apply to images in memory."""


def arguments_of(layers: list[Any], *more: Mapping[str, Any] | None) -> list[str]:
    """Convert layers of settings to command-line arguments: names of configurations, and settings as YAML."""
    texts = [layer if isinstance(layer, str) else json.dumps(nested(layer), default=plain) for layer in layers]
    texts += [json.dumps(nested(part), default=plain) for part in more if part]
    return [f"--config={text}" for text in texts]


def check_settings(settings: Mapping[str, Any] | None, arguments: Mapping[str, str]) -> None:
    """Fail if settings hold what an argument of the function is for, which they would override.

    Args:
        settings: The settings, nested or with dotted names.
        arguments: Names of the function's arguments by dotted name of the setting.

    Raises:
        BaconError: They do.
    """
    given = nested(settings or {})
    for name, argument in arguments.items():
        if value_at(given, name) is not None:
            raise BaconError(f"the setting {name} is an argument of this function: give {argument}=....")


def several(given: Any, kind: type) -> list[Any]:
    """Return what is given in one of Lightning's forms as a list: nothing, a flag, one object, or several."""
    if given is None or isinstance(given, bool):
        return []
    return list(given) if isinstance(given, Iterable) and not isinstance(given, (kind, str)) else [given]


def check_unread(settings: Mapping[str, Any] | None, data: Any, read: Collection[str] = IN_MEMORY) -> None:
    """Fail if settings of the data are not read, because the images are given, and are not what is done anyway.

    Args:
        settings: The settings, nested or with dotted names.
        data: The images.
        read: Settings of the data that apply to images in memory all the same.

    Raises:
        BaconError: They are not read.
    """
    given = nested(settings or {}).get("data")
    for name, value in given.items() if isinstance(given, Mapping) else ():
        if isinstance(data, DataModule):
            if getattr(data, name, None) != value:
                raise BaconError(f"the setting data.{name} is that of the DataModule: give it there.")
        elif name not in read:
            raise BaconError(f"the setting data.{name} does not apply to images in memory here: leave it out.")


def check_kind(name: str, value: Any, kinds: tuple[type, ...], words: str) -> None:
    """Fail if an argument is of another kind.

    Args:
        name: Name of the argument.
        value: Its value.
        kinds: What it may be.
        words: The same in words.

    Raises:
        BaconError: It is of another kind.
    """
    if not isinstance(value, kinds):
        raise BaconError(f"{name}=... must be {words}, got {one_line(repr(value), 60)}.")


def in_python(said: str, arguments: Mapping[str, str]) -> str:
    """Say a sentence about options of a command to who has called a function of Python.

    Args:
        said: The sentence.
        arguments: Names of the function's arguments by dotted name of the setting; other settings have dotted names.
    """

    def named(found: re.Match[str]) -> str:
        name, value = found[1], found[2]
        if name is None:  # a quoted name or path
            return found[0]
        if value and name in arguments:
            return f"{arguments[name]}={_VALUES.get(value.strip(), value.strip())}"
        return arguments.get(name, name) + value

    said = re.sub(r" `--help` lists all\.| \(on the command line[^)]*\)", "", said)
    option = r"(?<![\w/.-])--([a-z_]+(?:\.\w+)*)((?: (?:true|false|last|N|null)\b)?)"
    return re.sub(rf"(?<!\w)'[^']*'|{option}", named, said)


_VALUES = {"true": "True", "false": "False", "last": "True", "null": "None"}
"""Values of options in Python; ``--ckpt_path last`` is ``resume=True``."""


@contextlib.contextmanager
def as_library(talks: bool, out: Any, arguments: Mapping[str, str]) -> Iterator[None]:
    """Restore the state of the caller's process afterwards, and convert a stop to what a caller expects.

    Ctrl-C becomes a KeyboardInterrupt, another signal ends the process, and a time limit is an error. Errors name
    arguments and settings in place of options.

    Args:
        talks: Whether progress is printed.
        out: The folder that the caller has given, if any.
        arguments: Names of the caller's arguments by dotted name of the setting.
    """
    seeds = {name: os.environ.get(name) for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")}
    try:
        # Gradients are needed whatever the caller has switched off.
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            isolate_rng(),
            quietly(),
            contextlib.nullcontext() if talks else silenced(),
        ):
            yield
    except TimeUpError as stop:
        remedy = "give out=..., and resume=True goes on" if out is None else "call it again with resume=True to go on"
        raise BaconError(
            f"the time that trainer.max_time gives was up after iteration {stop.iterations:,} of {stop.total:,}: "
            f"{remedy}."
        ) from stop
    except StoppedError as stop:
        if stop.number == signal.SIGINT:
            raise KeyboardInterrupt from stop
        raise SystemExit(stop.status) from stop
    except MisconfigurationException as error:
        raise BaconError(
            f"Lightning refuses this ({one_line(error, 400).rstrip('.')}): change the settings."
        ) from error
    except BaconError as error:
        if error.args and isinstance(error.args[0], str):
            error.args = (in_python(error.args[0], arguments), *error.args[1:])
        raise
    finally:
        for name, value in seeds.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
