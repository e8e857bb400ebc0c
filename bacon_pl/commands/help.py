"""``--help`` of fit and eval: the package's own options, and a paragraph on those of Lightning's Trainer."""

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
    """A parser whose help is short.

    Args:
        args: As Lightning's.
        prog: The command as its user writes it; jsonargparse makes parsers for the help of one class without it, which
            then are of the command's.
        kwargs: As Lightning's.
    """

    command: ClassVar[str] = "bacon"

    def __init__(self, *args: Any, prog: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, prog=prog or self.command, **kwargs)

    @classmethod
    def of(cls, **kwargs: Any) -> CommandParser:
        """Make a command's parser.

        Args:
            kwargs: As for the class, with the command as ``prog``.
        """
        return type(cls.__name__, (cls,), {"command": kwargs["prog"]})(**kwargs)

    def add_class_arguments(self, theclass: Any, nested_key: str | None = None, *args: Any, **kwargs: Any) -> Any:
        """Add a class's arguments; a logger's folder is the run's by default."""
        added = super().add_class_arguments(theclass, nested_key, *args, **kwargs)
        if nested_key is None and inspect.isclass(theclass) and issubclass(theclass, Logger) and "save_dir" in added:
            self.set_defaults(save_dir=RUN_FOLDER)
        return added

    def add_trainer(self, trainer_class: Any, defaults: dict[str, Any]) -> None:
        """Add the Trainer's options; after all others, where help shows them.

        Args:
            trainer_class: The Trainer.
            defaults: Values by name that take the place of its own defaults.
        """
        self.add_lightning_class_args(trainer_class, "trainer")
        self.set_defaults({f"trainer.{name}": value for name, value in defaults.items()})
        group = (self.groups or {})["trainer"]
        group.title, group.description = _TITLE, _MOST_USED

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """The help without the Trainer's options, with a usage of one line."""
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
            if before:  # not the help of one class
                self.usage = f"{self.command} --config NAME [--OPTION VALUE ...]"
            yield
        finally:
            self.usage = usage
            for action, said in before:
                action.help = said


def trainer_help(command: str, trainer_class: Any, defaults: dict[str, Any]) -> str:
    """All of the Trainer's options.

    Args:
        command: The command as its user writes it.
        trainer_class: The Trainer.
        defaults: Values by name that take the place of its own defaults.
    """
    parser = ArgumentParser(prog=command, usage=f"{command} --trainer.OPTION VALUE ...", add_help=False)
    parser.add_class_arguments(trainer_class, "trainer", fail_untyped=False)
    parser.set_defaults({f"trainer.{name}": value for name, value in defaults.items()})
    return parser.format_help()
