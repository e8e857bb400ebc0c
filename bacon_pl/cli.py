"""The command line: ``bacon fit`` distils, ``bacon eval`` evaluates, each a LightningCLI; ``bacon convert`` translates
files. Nothing is computed here.
"""

from __future__ import annotations

import argparse
import inspect
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from bacon_pl import __version__
from bacon_pl.augment import Augmentation
from bacon_pl.callbacks import ImageGrid, ValidationAccuracy
from bacon_pl.data import DataModule
from bacon_pl.distill import DistillModule
from bacon_pl.distilled_set import FILE_NAME, DistilledSet
from bacon_pl.errors import BaconError, unknown_name
from bacon_pl.evaluate import (
    EvalModule,
    Recipe,
    TrainingSet,
    results,
    summary,
    write_results,
)
from bacon_pl.foreign import open_set
from bacon_pl.foreign.convert import Convert, add_source_options
from bacon_pl.networks import Network
from bacon_pl.objectives import Objective
from bacon_pl.runtime import keep_memory

# One YAML file serves both commands, so each accepts the other's sections and leaves them unread.
_SHARED = {"fit": ("evaluation",), "eval": ("model", "image_grid", "validation", "checkpoint")}


class _Command(LightningCLI):
    name: str

    def __init__(self, args: Sequence[str]) -> None:
        super().__init__(
            model_class=DistillModule,
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
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)

    @property
    def resolved(self) -> dict[str, Any]:
        """The whole configuration of this run, as plain values."""
        return yaml.safe_load(self.parser.dump(self.config))


class Fit(_Command):
    """Distil a dataset; writes distilled.safetensors and distilled.png into --trainer.default_root_dir."""

    name = "fit"

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callbacks of a distillation."""
        super().add_arguments_to_parser(parser)
        parser.link_arguments("seed_everything", "model.seed", compute_fn=int)
        parser.add_lightning_class_args(ImageGrid, "image_grid")
        parser.add_lightning_class_args(ValidationAccuracy, "validation")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults({"checkpoint.every_n_train_steps": 1000, "checkpoint.save_last": True})
        parser.add_argument("--ckpt_path", type=str | None, default=None, help="Checkpoint to resume from, or 'last'.")

    def run(self) -> None:
        """Distil."""
        self.model.config = self.resolved
        self.trainer.fit(self.model, self.datamodule, ckpt_path=self.config.ckpt_path)
        if self.trainer.is_global_zero and self.trainer.state.finished:
            root = Path(self.trainer.default_root_dir)
            picture = DistilledSet.load(root).save_grid(root / "distilled.png")
            print(f"distilled set: {root / FILE_NAME}\npicture: {picture}")


class Eval(_Command):
    """Train fresh networks on a distilled set and test them; writes results.json beside the set."""

    name = "eval"

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the trainer and the data, but no model: there is one per training set."""
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.set_defaults({f"trainer.{name}": value for name, value in self.trainer_defaults.items()})
        parser.add_lightning_class_args(DataModule, "data")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the recipe and what is evaluated."""
        super().add_arguments_to_parser(parser)
        parser.add_class_arguments(Recipe, "evaluation")
        parser.add_argument(
            "--distilled",
            type=str,
            required=True,
            help="The distilled set: its file or the folder of its run, or another project's file (see bacon convert).",
        )
        add_source_options(parser)
        parser.add_argument(
            "--baselines",
            type=list[Literal["random", "whole"]],
            default=[],
            help="Also evaluate random real images of the same number, the whole training set, or both.",
        )

    def run(self) -> None:
        """Evaluate."""
        data, recipe, seed = self.datamodule, self.config_init.evaluation, int(self.config.seed_everything)
        data.prepare_data()
        data.setup("test")
        given, factor, index = self.config.distilled, self.config.factor, self.config.epoch_index
        distilled = open_set(given, data.meta, factor=factor, index=index)
        distilled.check_fits(data.meta)
        sources: dict[str, Callable[[], TrainingSet]] = {
            "distilled": lambda: TrainingSet.distilled(distilled),
            "random": lambda: TrainingSet.random(data.train, distilled.ipc, recipe.num_networks, seed),
            "whole": lambda: TrainingSet.whole(data.train),
        }
        modules = {}
        for name in ("distilled", *self.config.baselines):
            module = EvalModule(sources[name](), recipe, data.meta, seed)
            trainer = self.evaluation_trainer(module)
            trainer.fit(module)
            trainer.test(module, datamodule=data, verbose=False)
            modules[name] = module
        if self.trainer.is_global_zero:
            given = Path(self.config.distilled)
            folder = given if given.is_dir() else given.parent
            numbers = results(distilled, modules, self.resolved)
            print(f"results: {write_results(folder / 'results.json', numbers)}")
            if (folder / "distilled.png").is_file():
                print(f"picture: {folder / 'distilled.png'}")
            print(summary(numbers))

    def evaluation_trainer(self, module: EvalModule) -> pl.Trainer:
        """Build a Trainer with the user's flags and the recipe's length, which takes the place of max_steps."""
        flags: dict[str, Any] = {"max_steps": module.total_steps, "max_epochs": 1, "enable_checkpointing": False}
        if self.config.trainer.logger in (None, True):
            root = self.config.trainer.default_root_dir or os.getcwd()
            flags["logger"] = TensorBoardLogger(root, name=f"evaluation_{module.name}")
        return self.trainer_class(**{**self.config_init.trainer, **flags})


COMMANDS: dict[str, type[Fit | Eval | Convert]] = {"fit": Fit, "eval": Eval, "convert": Convert}

CHOICES: dict[str, type] = {"network": Network, "objective": Objective, "augment": Augmentation}

USAGE = """usage: bacon COMMAND [options]

commands:
  fit      distil a dataset:  bacon fit --config configs/mnist/ipc10.yaml --data.root DIR
  eval     evaluate the set:  bacon eval --config configs/mnist/ipc10.yaml --distilled PATH --data.root DIR
  convert  other formats:     bacon convert theirs.pt ours.safetensors --dataset cifar10

`bacon COMMAND --help` lists a command's options, `bacon COMMAND --print_config` prints its settings as YAML.
"""


def _subclasses(base: type) -> set[type]:
    direct: list[type] = base.__subclasses__()
    return set(direct).union(*map(_subclasses, direct))


def quiet() -> None:
    """Silence what Lightning says that is no news to this command's users."""
    advice = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    advice.addFilter(lambda record: "litlogger" not in record.getMessage())
    # The module keeps images, momentum and pool of the same moment: after the step.
    warnings.filterwarnings("ignore", ".*ModelCheckpoint with manual optimization.*")
    warnings.filterwarnings("ignore", ".*is deprecated, use.*", module="lightning.*")
    # sys.argv stays whole, for Lightning starts the other processes of a DDP run by it.
    warnings.filterwarnings("ignore", "LightningCLI's args parameter is intended to run from within Python.*")
    warnings.filterwarnings("ignore", ".*does not have many workers.*")


def explain(error: Exception) -> str:
    """Turn a parser's or Lightning's message into one sentence; names of classes get the nearest known one."""
    text = " ".join(str(error).split())
    wrong = re.search(r'Parser key "(?:\w+\.)*(\w+)".*dot import path string: (\S+)', text)
    if wrong and wrong[1] in CHOICES:
        known = [
            c.__name__ for c in _subclasses(CHOICES[wrong[1]]) if not inspect.isabstract(c) and "Lazy" not in c.__name__
        ]
        return f"{unknown_name(wrong[1], wrong[2], known)} A class_path such as my_module.MyClass works, too."
    return re.sub(r'Parser key "([\w.]+)": ', r"--\1: ", text)


def main(args: Sequence[str] | None = None) -> None:
    """Run a command.

    Bad input ends in one sentence on stderr and exit status 2; ``BACON_DEBUG=1`` shows the traceback instead.

    Args:
        args: Command-line arguments; ``sys.argv`` by default.
    """
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
    except (BaconError, MisconfigurationException, argparse.ArgumentError) as error:
        if os.environ.get("BACON_DEBUG") == "1":
            raise
        sentence = explain(error)
        print(
            f"bacon {command}: error: {sentence}" if command in COMMANDS else f"bacon: error: {sentence}",
            file=sys.stderr,
        )
        sys.exit(2)
