"""The command line: dispatch to the commands, error messages and exit status."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import FrameType
from typing import NoReturn, Protocol

from bacon_pl.errors import BaconError, StoppedError, one_line
from bacon_pl.quiet import quiet
from bacon_pl.runtime import end_with_parent, keep_memory, standard_streams
from bacon_pl.threads import choose_waiting, limit_threads


class Command(Protocol):
    """A command of the command line."""

    def run(self) -> None:
        """Run the command."""


Build = Callable[[Sequence[str]], Command]

# Only the requested command is imported, since importing torch and Lightning takes seconds.


def _fit() -> Build:
    from bacon_pl.commands.fit import Fit

    return Fit


def _eval() -> Build:
    from bacon_pl.commands.evaluate import Eval

    return Eval


def _table() -> Build:
    from bacon_pl.commands.settings import settings_of
    from bacon_pl.table import Table

    return partial(Table, settings=settings_of)


def _tune() -> Build:
    from bacon_pl.tuning import Tune

    return Tune


def _teach() -> Build:
    from bacon_pl.commands.teach import Teach

    return Teach


def _convert() -> Build:
    from bacon_pl.interop.convert import Convert

    return Convert


def _configs() -> Build:
    from bacon_pl.commands.configs import Configs

    return Configs


def _cache() -> Build:
    from bacon_pl.commands.cache import Cache

    return Cache


COMMANDS: dict[str, Callable[[], Build]] = {
    "fit": _fit,
    "eval": _eval,
    "table": _table,
    "tune": _tune,
    "teach": _teach,
    "convert": _convert,
    "configs": _configs,
    "cache": _cache,
}

USAGE = """usage: bacon COMMAND [options]

commands:
  fit      distill a dataset:  bacon fit --config mnist/ipc10 --data.root DIR
  eval     evaluate the set:  bacon eval --config mnist/ipc10 --distilled PATH --data.root DIR
  table    ours beside the published accuracies: bacon table --datasets mnist --data.root DIR --budget small
  tune     choose a method's knobs on held-out training images: bacon tune --method idm --dataset mnist=DIR
  teach    train networks on the real images: bacon teach --dataset mnist=DIR; those there are: bacon teach list
  convert  other formats:     bacon convert theirs.pt ours.safetensors --dataset cifar10
  configs  what --config takes by name: bacon configs; one to edit: bacon configs copy mnist/ipc10
  cache    what is kept between runs: bacon cache; to remove it: bacon cache clear

`bacon COMMAND --help` lists a command's options; with --print_config, fit and eval print their settings as YAML.
"""


def check(command: str, args: Sequence[str]) -> None:
    """Report errors that can be detected before the command is imported."""
    if command in ("fit", "eval"):
        from bacon_pl.commands import early  # imported here, since other commands do not need it

        early.check(command, args)


def find_modules_here() -> None:
    """Allow class paths to name modules in the working directory, with lower priority than installed packages."""
    with contextlib.suppress(OSError):  # the directory may have been removed
        here = os.getcwd()
        if here not in sys.path and "" not in sys.path:
            sys.path.append(here)


@contextlib.contextmanager
def interrupts_end(said: str) -> Iterator[None]:
    """Make Ctrl-C end the process immediately during a block of imports, which may convert interrupts to other errors.

    Args:
        said: Message to print.
    """

    def end(number: int, frame: FrameType | None) -> None:
        os.write(2, f"{said}\n".encode())
        os._exit(128 + number)

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # a handler of the caller
        yield
        return
    try:
        before = signal.signal(signal.SIGINT, end)
    except ValueError:  # not in the main thread, where signals are handled
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def ignore_interrupts() -> None:
    """Ignore further Ctrl-C while the process is ending."""
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)


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
        from bacon_pl import __version__

        print(f"bacon_pl {__version__}")
        return
    try:
        if command not in COMMANDS:
            raise BaconError(f"unknown command '{command}'; the commands are {', '.join(COMMANDS)}.")
        find_modules_here()
        check(command, rest)
        choose_waiting()
        if command != "table":  # divides the cores among its runs itself
            limit_threads()
        with interrupts_end(f"bacon {command}: interrupted."):
            build = COMMANDS[command]()
        keep_memory()
        quiet()  # after the import, in which Lightning installs its own filters
        warnings.formatwarning = lambda message, *_, **__: f"bacon {command}: warning: {one_line(message, 1000)}\n"
        build(rest).run()
        sys.stdout.flush()  # here, where a full disk is still reported as an error
    except StoppedError as stop:
        from lightning.pytorch.utilities.rank_zero import rank_zero_only

        ignore_interrupts()
        rank_zero_only(print)(f"bacon {command}: {stop}", file=sys.stderr)
        sys.exit(stop.status)
    except (KeyboardInterrupt, SystemExit) as stop:
        # Lightning converts an interrupt to exit status 1.
        if not isinstance(stop, KeyboardInterrupt) and not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        ignore_interrupts()
        print(f"bacon {command}: interrupted.", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except _user_errors() as error:
        if os.environ.get("BACON_DEBUG") == "1":
            raise
        sentence = _sentence(error)
        with contextlib.suppress(OSError):
            print(f"bacon{f' {command}' if command in COMMANDS else ''}: error: {sentence}", file=sys.stderr)
        leave(2)


def _user_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions raised for bad input, including Lightning's if it has been imported."""
    module = sys.modules.get("lightning.fabric.utilities.exceptions")
    of_lightning = (module.MisconfigurationException,) if module else ()
    return (BaconError, argparse.ArgumentError, OSError, *of_lightning)


def _sentence(error: Exception) -> str:
    if isinstance(error, BaconError):
        return one_line(error, 4000)
    if isinstance(error, OSError):
        from bacon_pl.preflight import disk_sentence

        return disk_sentence(error)
    from bacon_pl.explain import explain

    return explain(error)


def leave(code: int) -> NoReturn:
    """End the process, and silently discard output that can no longer be written."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
