"""The common base of ``fit`` and ``eval``: a LightningCLI with error messages in plain sentences."""

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

# The same YAML file can be used with both commands, so each accepts the other's sections and options in files and
# ignores them. On the command line they are errors.
_OF_TUNE = ("tune", "tuned")  # sections for bacon tune and bacon table
_SECTIONS = {
    "fit": ("evaluation", "bound_settings", "score_weights", *_OF_TUNE),
    "eval": ("model", "image_grid", "validation", "checkpoint", *_OF_TUNE),
}
_OPTIONS = {
    "fit": (
        "distilled",
        "out",
        "factor",
        "epoch_index",
        "baselines",
        "labels",
        "networks",
        "scores",
        "shared",
        "bound",
        "figures",
    ),
    "eval": ("ckpt_path",),
}
_OTHER = {"fit": "eval", "eval": "fit"}
FIT_ONLY = ("ckpt_path", "overwrite")
"""Options of fit that are not settings of a run."""
# Earlier versions wrote these sections, always empty; the optimizers of a distillation are defined by its family.
_EMPTY = ("optimizer", "lr_scheduler")
_LONGEST = 1000


class LightningCommand(LightningCLI):
    """A command that builds its objects from the command line and YAML.

    Args:
        args: Arguments of the command.

    Raises:
        BaconError: The arguments are invalid.
    """

    name: str
    talks = True
    """Whether the command prints its progress and results."""
    keeps = True
    """Whether its files are kept; if not, they are nowhere named."""
    builds_model = False
    """Whether the command builds the module of a family; otherwise it ignores the settings of the model."""

    def __init__(self, args: Sequence[str]) -> None:
        # The parser prints and exits at --print_config, so options after it would be ignored; move it to the end.
        args = sorted(args, key=lambda word: word.startswith("--print_config"))
        self._check_own(args)
        self._given: DataModule | None = None
        self.command_line = CommandLine(args)
        if self.builds_model:
            self.command_line.check_methods()
        self.command_line.check_order()
        self.family = self.command_line.family() if self.builds_model else BASE
        super().__init__(
            model_class=self.family,
            datamodule_class=DataModule,
            seed_everything_default=0,
            # One epoch is the whole run, and a summary of layers would not describe the trained images.
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
                "allow_abbrev": False,  # the family is searched for before a parser could resolve abbreviations
            },
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Create the parser."""
        parser = CommandParser.of(dump_header=[f"lightning.pytorch=={pl.__version__}"], **kwargs)
        parser.add_argument(
            "-c",
            "--config",
            action=ActionConfigFile,
            help="A configuration: a name from `bacon configs`, or a YAML file. Later ones override earlier ones.",
        )
        return parser

    def setup_parser(self, *args: Any, **kwargs: Any) -> None:
        """Add the command's own arguments, followed by those of the Trainer, which the help shows last."""
        super().setup_parser(*args, **kwargs)
        assert isinstance(self.parser, CommandParser)
        self.parser.add_trainer(self.trainer_class, self.trainer_defaults)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Accept the sections and options of the other command, which files may contain."""
        for section in _SECTIONS[self.name]:
            parser.add_argument(f"--{section}", type=dict[str, Any], default={}, help=argparse.SUPPRESS)
        for option in (*_OPTIONS[self.name], *_EMPTY):
            parser.add_argument(f"--{option}", type=Any, default=None, help=argparse.SUPPRESS)

    def _check_own(self, args: Sequence[str]) -> None:
        """Reject options of the other command.

        Raises:
            BaconError: The command line contains one.
        """
        others = (*_SECTIONS[self.name], *_OPTIONS[self.name])
        for word in args:
            name = word.partition("=")[0]
            first = name[2:].partition(".")[0] if name.startswith("--") else ""
            if first in _OF_TUNE:
                raise BaconError(
                    f"unknown option {name}: `{first}` is a section of a method's file, which bacon tune reads; for "
                    "fit and eval, give the settings themselves."
                )
            if first in others:
                raise BaconError(
                    f"unknown option {name}: bacon {self.name} does not take it, but bacon {_OTHER[self.name]} does; "
                    "`--help` lists all."
                )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments, and convert errors of the parser to plain sentences."""
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
        """Describe an error in the settings and name the file that contains it."""
        old = renamed(self.command_line.given(), one_line(error, _LONGEST), self._exists(options))
        said = old or explain(error, options, self.family.__name__ if self.builds_model else "")
        return self._placed(said)

    def _placed(self, said: str) -> str:
        """Append to a sentence about an option the name of the file that contains it, if there is one."""
        if said.startswith("unknown argument"):  # a word of the command line; what it suggests may be in a file
            return said
        option = re.search(r"--[\w.]+", said)
        origin = option and self.command_line.origin(option[0].rstrip("."))
        if origin and FIRST in origin:  # the name of the option is right, so suggestions would be misleading
            said = re.sub(r" Did you mean \S+\?| `--help` lists all\.", "", said)
        return f"{said} {origin}" if origin else said

    @staticmethod
    def _exists(options: Sequence[str]) -> Callable[[str], bool]:
        """Return a function that tests whether an option with a given name, or one that contains it, exists."""

        def exists(name: str) -> bool:
            words = name.split(".")
            within = {f"--{'.'.join(words[: i + 1])}" for i in range(min(1, len(words) - 1), len(words))}
            return not within.isdisjoint(options)

        return exists

    def instantiate_classes(self) -> None:
        """Build the objects. The name of the family is a setting of the run, but not an argument of the family.

        Raises:
            BaconError: A class rejects its settings.
        """
        self._check_groups()
        self._whole = self.config
        self.config = self.config.clone()
        if is_described(self.config.trainer.logger):  # loggers are created when their folder is known
            self.config.trainer.logger = False
        if self.builds_model:
            self.config.pop(CLASS_PATH.removeprefix("--"))
        try:
            super().instantiate_classes()
        except (ValueError, TypeError, AttributeError) as error:
            if os.environ.get("BACON_DEBUG") == "1":
                raise
            # If there are alternatives, the parser lists the error of each; use the sentence of our own, if any.
            listed = re.search(r"^ +- (--.*|the .*)$", str(error), re.MULTILINE)
            who = self.family.__name__ if self.builds_model else "the evaluation"
            raise BaconError(
                listed[1] if listed else f"{who} cannot be made of its settings ({one_line(error).rstrip('.')})."
            ) from error

    def _check_groups(self) -> None:
        """Check that every section is a mapping, and not for example a number or empty.

        Raises:
            BaconError: A section is not a mapping.
        """
        for name in ("data", "trainer", "model", "validation", "checkpoint", "image_grid", "evaluation"):
            value = self.config.get(name, {})
            if not isinstance(value, (dict, Namespace)):
                said = f"--{name} must be settings by name, such as {name}: {{…}} in a file, got {one_line(value, 40)}."
                raise BaconError(self._placed(said))

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Build the Trainer, and convert its exceptions, which are due to bad settings, to errors.

        Raises:
            BaconError: The Trainer rejects its settings.
        """
        self.config = self._whole  # a callback saves all settings
        given = self.config.trainer
        if (self.builds_model and given.get("enable_checkpointing") is False) or given.get("barebones"):
            name = "barebones" if given.get("barebones") else "enable_checkpointing"
            raise BaconError(
                f"--trainer.{name} {given[name]} does not go with this command, which says itself what it keeps: leave "
                "it out; --checkpoint.every_n_train_steps and --checkpoint.keep of bacon fit say which checkpoints."
            )
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError) as error:
            raise BaconError(
                f"the Trainer refuses its settings ({one_line(error).rstrip('.')}): fix the --trainer options, e.g. "
                "--trainer.accelerator auto --trainer.devices auto."
            ) from error
        check_devices(trainer)
        return trainer

    def use(self, data: DataModule) -> None:
        """Use the given real images instead of those named in the settings, which no file then saves."""
        self.datamodule, self._given = data, data
        self.leave_out(SaveConfig)

    def leave_out(self, kind: type[pl.Callback]) -> None:
        """Remove the callbacks of a class from the Trainer."""
        callbacks: list[pl.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        callbacks[:] = [callback for callback in callbacks if not isinstance(callback, kind)]

    @property
    def resolved(self) -> dict[str, Any]:
        """The resolved configuration of this run as plain values."""
        settings = yaml.safe_load(self.parser.dump(self.config))
        if not self.keeps:
            settings["trainer"]["default_root_dir"] = None
            settings |= {"out": None} if "out" in settings else {}
        return settings if self._given is None else {**settings, "data": dict(self._given.hparams)}
