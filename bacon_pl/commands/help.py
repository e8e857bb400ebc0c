"""The help of fit and eval: the package's own options, and a paragraph about the options of Lightning's Trainer."""

from __future__ import annotations

import argparse
import contextlib
import inspect
from collections.abc import Iterator
from typing import Any, ClassVar

from jsonargparse import ArgumentParser
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import Logger

from bacon_pl.commands.loggers import RUN_FOLDER

TRAINER_HELP = "--trainer.help"
_TITLE = "Lightning's Trainer"
_MOST_USED = (
    f"{TRAINER_HELP} shows all of its options. The most used: --trainer.max_steps N (iterations of a distillation), "
    "--trainer.max_time DD:HH:MM:SS (when to stop), --trainer.default_root_dir DIR (where everything is written), "
    "--trainer.accelerator auto, cpu or gpu, --trainer.devices N (how many of them), --trainer.precision bf16-mixed, "
    "--trainer.logger false, --trainer.enable_progress_bar false."
)


class CommandParser(LightningArgumentParser):
    """A parser with a short help.

    Args:
        args: Arguments of Lightning's parser.
        prog: The command as typed by the user. jsonargparse omits it for the help of a single class, where the command
            of the main parser is used.
        kwargs: Arguments of Lightning's parser.
    """

    command: ClassVar[str] = "bacon"

    def __init__(self, *args: Any, prog: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, prog=prog or self.command, **kwargs)

    @classmethod
    def of(cls, **kwargs: Any) -> CommandParser:
        """Create the parser of a command.

        Args:
            kwargs: Arguments of the class, with the command as ``prog``.

        Returns:
            The parser.
        """
        return type(cls.__name__, (cls,), {"command": kwargs["prog"]})(**kwargs)

    def add_class_arguments(self, theclass: Any, nested_key: str | None = None, *args: Any, **kwargs: Any) -> Any:
        """Add the arguments of a class; the default folder of loggers is that of the run.

        A class of one's own need not say the types of its parameters.
        """
        kwargs["fail_untyped"] = False
        added = super().add_class_arguments(theclass, nested_key, *args, **kwargs)
        if nested_key is None and inspect.isclass(theclass) and issubclass(theclass, Logger) and "save_dir" in added:
            self.set_defaults(save_dir=RUN_FOLDER)
        return added

    def add_trainer(self, trainer_class: Any, defaults: dict[str, Any]) -> None:
        """Add the options of the Trainer. Call this last, so that the help shows them after all others.

        Args:
            trainer_class: The class of the Trainer.
            defaults: Values by name that replace the Trainer's own defaults.
        """
        self.add_lightning_class_args(trainer_class, "trainer")
        self.set_defaults({f"trainer.{name}": value for name, value in defaults.items()})
        group = (self.groups or {})["trainer"]
        group.title, group.description = _TITLE, _MOST_USED

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """Return the help without the Trainer's options and with a usage of one line."""
        with self._short():
            return super().format_help(*args, **kwargs)

    @contextlib.contextmanager
    def _short(self) -> Iterator[None]:
        options = self._option_string_actions.items()
        before = [(action, action.help) for name, action in options if name.partition(".")[0] == "--trainer"]
        usage = self.usage
        try:
            for action, _ in before:
                action.help = argparse.SUPPRESS
            if before:  # not the help of a single class
                self.usage = f"{self.command} --config NAME [--OPTION VALUE ...]"
            yield
        finally:
            self.usage = usage
            for action, said in before:
                action.help = said


def trainer_help(command: str, trainer_class: Any, defaults: dict[str, Any]) -> str:
    """Return the help for all options of the Trainer.

    Args:
        command: The command as typed by the user.
        trainer_class: The class of the Trainer.
        defaults: Values by name that replace the Trainer's own defaults.
    """
    parser = ArgumentParser(prog=command, usage=f"{command} --trainer.OPTION VALUE ...", add_help=False)
    parser.add_class_arguments(trainer_class, "trainer", fail_untyped=False)
    parser.set_defaults({f"trainer.{name}": value for name, value in defaults.items()})
    return parser.format_help()
