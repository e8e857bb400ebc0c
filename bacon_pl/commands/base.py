"""What ``fit`` and ``eval`` share: a LightningCLI whose complaints are sentences."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from bacon_pl import __version__
from bacon_pl.data import DataModule
from bacon_pl.distillers import DistributionMatching
from bacon_pl.errors import BaconError, one_line
from bacon_pl.explain import explain
from bacon_pl.preflight import check_devices

# One YAML file serves both commands, so each accepts the other's sections and leaves them unread.
_SHARED = {"fit": ("evaluation",), "eval": ("model", "image_grid", "validation", "checkpoint")}
# So does one that fit has printed or saved; given on the command line, they are mistakes.
FIT_ONLY = ("ckpt_path", "overwrite")


class LightningCommand(LightningCLI):
    """A command that builds its objects from the command line and YAML.

    Args:
        args: Its arguments.

    Raises:
        BaconError: They are bad.
    """

    name: str

    def __init__(self, args: Sequence[str]) -> None:
        # Where it stands, the parser prints and leaves: what comes after it would not be printed.
        args = sorted(args, key=lambda word: word.startswith("--print_config"))
        super().__init__(
            model_class=DistributionMatching,
            datamodule_class=DataModule,
            seed_everything_default=0,
            trainer_defaults={"max_epochs": 1},  # the loader is as long as the run
            run=False,
            args=list(args),
            save_config_kwargs={"overwrite": True},
            parser_kwargs={
                "prog": f"bacon {self.name}",
                "description": self.__doc__,
                "version": __version__,
                "exit_on_error": False,
                "default_env": False,
            },
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Accept the other command's sections and hand the one seed to the data."""
        for section in _SHARED[self.name]:
            parser.add_argument(f"--{section}", type=dict[str, Any], default={}, help=argparse.SUPPRESS)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and turn the parser's complaints into sentences."""
        try:
            super().parse_arguments(parser, args)
        except (argparse.ArgumentError, UnicodeDecodeError) as error:
            options = re.findall(r"--[\w.]+", parser.format_help())
            raise BaconError(explain(error, options)) from error
        if not 0 <= (seed := int(self.config.seed_everything)) < 1 << 32:
            raise BaconError(f"--seed_everything must be a whole number from 0 to {(1 << 32) - 1}, got {seed}.")

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Build the Trainer; what it refuses is bad input, whichever exception it chose."""
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
