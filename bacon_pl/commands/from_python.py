"""What the functions of Python need around the commands: settings as arguments, and the caller's process as it was."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng

from bacon_pl.configured import plain
from bacon_pl.data import DataModule
from bacon_pl.errors import BaconError, StoppedError, TimeUpError
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


@contextlib.contextmanager
def as_library(talks: bool, out: Any) -> Iterator[None]:
    """Restore the state of the caller's process afterwards, and convert a stop to what a caller expects.

    Ctrl-C becomes a KeyboardInterrupt, another signal ends the process, and a time limit is an error.
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
    finally:
        for name, value in seeds.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
