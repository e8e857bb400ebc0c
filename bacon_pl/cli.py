"""The command line: which command there is, and how each ends. Nothing is computed here."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn, Protocol

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from bacon_pl import __version__
from bacon_pl.commands import Eval, Fit, settings_of
from bacon_pl.errors import BaconError, StoppedError
from bacon_pl.explain import explain
from bacon_pl.interop.convert import Convert
from bacon_pl.preflight import disk_sentence
from bacon_pl.runtime import end_with_parent, keep_memory, standard_streams
from bacon_pl.table import Table


class Command(Protocol):
    """What the command line runs."""

    def run(self) -> None:
        """Do it."""


COMMANDS: dict[str, Callable[[Sequence[str]], Command]] = {
    "fit": Fit,
    "eval": Eval,
    "convert": Convert,
    "table": partial(Table, settings=settings_of),
}

USAGE = """usage: bacon COMMAND [options]

commands:
  fit      distill a dataset:  bacon fit --config configs/mnist/ipc10.yaml --data.root DIR
  eval     evaluate the set:  bacon eval --config configs/mnist/ipc10.yaml --distilled PATH --data.root DIR
  table    ours beside the published accuracies: bacon table --datasets mnist --data.root DIR --budget small
  convert  other formats:     bacon convert theirs.pt ours.safetensors --dataset cifar10

`bacon COMMAND --help` lists a command's options, `bacon COMMAND --print_config` prints its settings as YAML.
"""


def quiet() -> None:
    """Silence what Lightning says that is no news to this command's users."""
    advice = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    advice.addFilter(_is_news)
    warnings.filterwarnings("ignore", ".*is deprecated, use.*", module="lightning.*")
    # sys.argv stays whole, for Lightning starts the other processes of a DDP run by it.
    warnings.filterwarnings("ignore", "LightningCLI's args parameter is intended to run from within Python.*")
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*configure_optimizers` returned `None`.*")  # selection optimizes nothing


def _is_news(record: logging.LogRecord) -> bool:
    return "litlogger" not in record.getMessage()


def main(args: Sequence[str] | None = None) -> None:
    """Run a command.

    Bad input ends in one sentence on stderr and exit status 2; ``BACON_DEBUG=1`` shows the traceback instead.

    Args:
        args: Command-line arguments; ``sys.argv`` by default.
    """
    end_with_parent()
    standard_streams()
    command, *rest = list(sys.argv[1:] if args is None else args) or ["--help"]
    if command in ("-h", "--help"):
        print(USAGE, end="")
        return
    if command == "--version":
        print(f"bacon_pl {__version__}")
        return
    try:
        if command not in COMMANDS:
            raise BaconError(f"unknown command '{command}'; the commands are {', '.join(COMMANDS)}.")
        keep_memory()
        quiet()
        COMMANDS[command](rest).run()
        sys.stdout.flush()  # here, where a full disk still is an error to tell
    except StoppedError as stop:
        rank_zero_only(print)(
            f"bacon {command}: stopped after {stop.iterations} iterations; the same command with --ckpt_path last "
            "continues.",
            file=sys.stderr,
        )
        sys.exit(128 + stop.number)
    except (KeyboardInterrupt, SystemExit) as stop:
        # Lightning turns an interrupt into exit status 1.
        if not isinstance(stop, KeyboardInterrupt) and not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        print(f"bacon {command}: interrupted.", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except (BaconError, MisconfigurationException, argparse.ArgumentError, OSError) as error:
        if os.environ.get("BACON_DEBUG") == "1":
            raise
        sentence = disk_sentence(error) if isinstance(error, OSError) else explain(error)
        with contextlib.suppress(OSError):
            print(f"bacon{f' {command}' if command in COMMANDS else ''}: error: {sentence}", file=sys.stderr)
        leave(2)


def leave(code: int) -> NoReturn:
    """End the process; output that cannot be written any more is dropped without another word."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
