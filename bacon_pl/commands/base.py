"""What ``fit`` and ``eval`` share: a LightningCLI whose complaints are sentences."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as pl
import yaml
from jsonargparse import ActionConfigFile, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from bacon_pl import __version__
from bacon_pl.commands.arguments import CLASS_PATH, FIRST, CommandLine
from bacon_pl.commands.families import BASE
from bacon_pl.commands.help import TRAINER_HELP, CommandParser, trainer_help
from bacon_pl.commands.loggers import SaveConfig, is_described
from bacon_pl.commands.renamed import sentence as renamed
from bacon_pl.data import DataModule
from bacon_pl.errors import BaconError, one_line
from bacon_pl.explain import explain
from bacon_pl.preflight import check_devices

# One YAML file serves both commands, so each accepts the other's sections and options in it and leaves them unread; on
# the command line they are mistakes.
_SECTIONS = {
    "fit": ("evaluation", "bound_settings", "tune"),
    "eval": ("model", "image_grid", "validation", "checkpoint", "tune"),
}
_OPTIONS = {
    "fit": ("distilled", "out", "factor", "epoch_index", "baselines", "networks", "scores", "bound", "figures"),
    "eval": ("ckpt_path",),
}
_OTHER = {"fit": "eval", "eval": "fit"}
FIT_ONLY = ("ckpt_path", "overwrite")
"""Options of fit that are no settings of a run."""
# Earlier versions printed these, always empty: a distillation's optimizers are its family's own.
_EMPTY = ("optimizer", "lr_scheduler")
_LONGEST = 1000


class LightningCommand(LightningCLI):
    """A command that builds its objects from the command line and YAML.

    Args:
        args: Its arguments.

    Raises:
        BaconError: They are bad.
    """

    name: str
    builds_model = False
    """Whether the command builds a family's module; one that does not leaves the model's settings unread."""

    def __init__(self, args: Sequence[str]) -> None:
        # Where it stands, the parser prints and leaves: what comes after it would not be printed.
        args = sorted(args, key=lambda word: word.startswith("--print_config"))
        self._check_own(args)
        self.command_line = CommandLine(args)
        if self.builds_model:
            self.command_line.check_methods()
        self.family = self.command_line.family() if self.builds_model else BASE
        super().__init__(
            model_class=self.family,
            datamodule_class=DataModule,
            seed_everything_default=0,
            # The loader is as long as the run; and what is trained is no stack of layers that a table would describe.
            trainer_defaults={"max_epochs": 1, "enable_model_summary": False},
            run=False,
            args=args,
            save_config_callback=SaveConfig,
            save_config_kwargs={"overwrite": True},
            auto_configure_optimizers=False,
            parser_kwargs={
                "prog": f"bacon {self.name}",
                "description": self.__doc__,
                "version": __version__,
                "exit_on_error": False,
                "default_env": False,
                "allow_abbrev": False,  # the family is looked for before there is a parser that knows what is short
            },
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Make the parser."""
        parser = CommandParser.of(dump_header=[f"lightning.pytorch=={pl.__version__}"], **kwargs)
        parser.add_argument(
            "-c",
            "--config",
            action=ActionConfigFile,
            help="A configuration: a name that `bacon configs` lists, or a YAML file; of several, later ones on top.",
        )
        return parser

    def setup_parser(self, *args: Any, **kwargs: Any) -> None:
        """Add the command's own arguments, and then the Trainer's, which help shows last."""
        super().setup_parser(*args, **kwargs)
        assert isinstance(self.parser, CommandParser)
        self.parser.add_trainer(self.trainer_class, self.trainer_defaults)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Accept the other command's sections and options, which files may hold."""
        for section in _SECTIONS[self.name]:
            parser.add_argument(f"--{section}", type=dict[str, Any], default={}, help=argparse.SUPPRESS)
        for option in (*_OPTIONS[self.name], *_EMPTY):
            parser.add_argument(f"--{option}", type=Any, default=None, help=argparse.SUPPRESS)

    def _check_own(self, args: Sequence[str]) -> None:
        """Refuse the other command's options.

        Raises:
            BaconError: One is given on the command line.
        """
        others = (*_SECTIONS[self.name], *_OPTIONS[self.name])
        for word in args:
            name = word.partition("=")[0]
            if name.startswith("--") and name[2:].partition(".")[0] in others:
                raise BaconError(
                    f"unknown option {name}: bacon {self.name} does not take it, but bacon {_OTHER[self.name]} does; "
                    "`--help` lists all."
                )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and turn the parser's complaints into sentences."""
        if TRAINER_HELP in args:
            print(trainer_help(parser.prog, self.trainer_class, self.trainer_defaults), end="")
            sys.exit()
        options = re.findall(r"--[\w.]+", parser.format_usage())
        try:
            words = self.command_line.words(options if self.builds_model else None)
            super().parse_arguments(parser, words)
        except (argparse.ArgumentError, UnicodeDecodeError) as error:
            raise BaconError(self._sentence(error, options)) from error
        if silent := renamed(self.command_line.given(), None, self._exists(options)):
            raise BaconError(self._placed(silent))
        for name in _EMPTY:
            if self.config.pop(name) is not None:
                raise BaconError(f"unknown option --{name}. `--help` lists all.")
        if not 0 <= (seed := int(self.config.seed_everything)) < 1 << 32:
            raise BaconError(f"--seed_everything must be a whole number from 0 to {(1 << 32) - 1}, got {seed}.")

    def _sentence(self, error: Exception, options: Sequence[str]) -> str:
        """What is wrong with the settings, and in which file it stands."""
        old = renamed(self.command_line.given(), one_line(error, _LONGEST), self._exists(options))
        said = old or explain(error, options, self.family.__name__ if self.builds_model else "")
        return self._placed(said)

    def _placed(self, said: str) -> str:
        """A sentence about an option, and one that says in which file it stands, if it does in one."""
        option = re.search(r"--[\w.]+", said)
        origin = option and self.command_line.origin(option[0].rstrip("."))
        if origin and FIRST in origin:  # there is nothing to look for among the options
            said = re.sub(r" Did you mean \S+\?| `--help` lists all\.", "", said)
        return f"{said} {origin}" if origin else said

    @staticmethod
    def _exists(options: Sequence[str]) -> Callable[[str], bool]:
        """Tells whether an option of some name is there, or one within which it may lie."""

        def exists(name: str) -> bool:
            words = name.split(".")
            within = {f"--{'.'.join(words[: i + 1])}" for i in range(min(1, len(words) - 1), len(words))}
            return not within.isdisjoint(options)

        return exists

    def instantiate_classes(self) -> None:
        """Build the objects. The name of the family is a setting of the run, and no argument of the family.

        Raises:
            BaconError: One of them refuses its settings.
        """
        self._check_groups()
        self._whole = self.config
        self.config = self.config.clone()
        if is_described(self.config.trainer.logger):  # made when their folder is known
            self.config.trainer.logger = False
        if self.builds_model:
            self.config.pop(CLASS_PATH.removeprefix("--"))
        try:
            super().instantiate_classes()
        except (ValueError, TypeError, AttributeError) as error:
            if os.environ.get("BACON_DEBUG") == "1":
                raise
            # An alternative's own sentence stands in the parser's list of what was wrong with each of them.
            listed = re.search(r"^ +- (--.*|the .*)$", str(error), re.MULTILINE)
            who = self.family.__name__ if self.builds_model else "the evaluation"
            raise BaconError(
                listed[1] if listed else f"{who} cannot be made of its settings ({one_line(error).rstrip('.')})."
            ) from error

    def _check_groups(self) -> None:
        """Refuse a number, or nothing, where settings by name are needed.

        Raises:
            BaconError: There is one.
        """
        for name in ("data", "trainer", "model", "validation", "checkpoint", "image_grid", "evaluation"):
            value = self.config.get(name, {})
            if not isinstance(value, (dict, Namespace)):
                said = f"--{name} must be settings by name, such as {name}: {{…}} in a file, got {one_line(value, 40)}."
                raise BaconError(self._placed(said))

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Build the Trainer; what it refuses is bad input, whichever exception it chose."""
        self.config = self._whole  # one of its callbacks saves the settings
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError) as error:
            raise BaconError(
                f"the Trainer refuses its settings ({one_line(error).rstrip('.')}): mend the --trainer options, e.g. "
                "--trainer.accelerator auto --trainer.devices auto."
            ) from error
        check_devices(trainer)
        return trainer

    @property
    def resolved(self) -> dict[str, Any]:
        """The whole configuration of this run, as plain values."""
        return yaml.safe_load(self.parser.dump(self.config))
