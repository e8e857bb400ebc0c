"""The command line: ``bacon fit`` distils, ``bacon eval`` evaluates, each a LightningCLI; ``bacon convert`` translates
files, ``bacon table`` runs many of the first two. Nothing is computed here.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, Protocol

import lightning.pytorch as pl
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from bacon_pl import __version__
from bacon_pl.bound import BoundSettings
from bacon_pl.callbacks import ImageGrid, ValidationAccuracy
from bacon_pl.checkpoints import Checkpoints, claimed
from bacon_pl.data import DataModule, DatasetMeta
from bacon_pl.distill import DistillModule
from bacon_pl.distilled_set import FILE_NAME, DistilledSet
from bacon_pl.errors import BaconError, StoppedError, one_line
from bacon_pl.evaluate import (
    Baseline,
    Comparison,
    EvalModule,
    LearningCurve,
    Recipe,
    Run,
    bound_line,
    bounds,
    results,
    score_line,
    summary,
    write_results,
)
from bacon_pl.explain import explain
from bacon_pl.foreign import is_ours, open_set
from bacon_pl.foreign.convert import Convert, add_source_options
from bacon_pl.networks import NetworkFactory, by_name
from bacon_pl.partition import check_factor
from bacon_pl.preflight import check_devices, check_writable, disk_sentence
from bacon_pl.report import figures, show, write_report
from bacon_pl.runtime import end_with_parent, keep_memory, standard_streams
from bacon_pl.table import Table

# One YAML file serves both commands, so each accepts the other's sections and leaves them unread.
_SHARED = {"fit": ("evaluation",), "eval": ("model", "image_grid", "validation", "checkpoint")}
# So does one that fit has printed or saved; given on the command line, they are mistakes.
_FIT_ONLY = ("ckpt_path", "overwrite")


class _Command(LightningCLI):
    name: str

    def __init__(self, args: Sequence[str]) -> None:
        # Where it stands, the parser prints and leaves: what comes after it would not be printed.
        args = sorted(args, key=lambda word: word.startswith("--print_config"))
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


class Fit(_Command):
    """Distil a dataset; writes distilled.safetensors and distilled.png into --trainer.default_root_dir."""

    name = "fit"

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callbacks of a distillation."""
        super().add_arguments_to_parser(parser)
        parser.link_arguments("seed_everything", "model.seed", compute_fn=int)
        parser.add_lightning_class_args(ImageGrid, "image_grid")
        parser.add_lightning_class_args(ValidationAccuracy, "validation")
        parser.add_lightning_class_args(Checkpoints, "checkpoint")
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="Resume from this checkpoint, the newest one of this run's folder, or 'last': the newest of "
            "--trainer.default_root_dir, where there is one.",
        )
        parser.add_argument("--overwrite", type=bool, default=False, help="Replace the run in that folder.")

    def run(self) -> None:
        """Distil."""
        self.check()
        # How a run was resumed is no setting of it: a resumed run ends in the same file.
        self.model.config = {k: v for k, v in self.resolved.items() if k not in ("ckpt_path", "overwrite")}
        root, config = Path(self.trainer.default_root_dir), self.config
        with claimed(root, config.ckpt_path, config.overwrite, exclusive=self.trainer.is_global_zero) as checkpoint:
            checkpoints = self.trainer.checkpoint_callback
            assert isinstance(checkpoints, Checkpoints)
            checkpoints.replaces = config.overwrite and checkpoint is None
            self.trainer.fit(self.model, self.datamodule, ckpt_path=checkpoint)
        if self.trainer.is_global_zero and self.trainer.state.finished:
            picture = DistilledSet.load(root).save_grid(root / "distilled.png")
            print(f"distilled set: {root / FILE_NAME}\npicture: {picture}")

    def check(self) -> None:
        """Tell what is wrong before data are read and hours spent."""
        self.check_settings()
        check_writable(self.trainer.default_root_dir, "--trainer.default_root_dir")

    def check_settings(self) -> None:
        """Tell what is wrong with the settings."""
        if self.trainer.max_steps < 1 or 0 in (self.trainer.max_epochs, self.trainer.limit_train_batches):
            raise BaconError(
                "distillation is counted in iterations: give --trainer.max_steps N, at least 1, and neither "
                "--trainer.max_epochs 0 nor --trainer.limit_train_batches 0."
            )
        if size := self.datamodule.known_size:
            check_factor(size, self.model.factor, "--model.factor")


class Eval(_Command):
    """Train fresh networks on a distilled set and test them; writes results.json beside the set."""

    name = "eval"

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the trainer and the data, but no model: there is one per training set."""
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.set_defaults({f"trainer.{name}": value for name, value in self.trainer_defaults.items()})
        parser.add_lightning_class_args(DataModule, "data")

    def __init__(self, args: Sequence[str]) -> None:
        given = [word.partition("=")[0] for word in args]
        for name in _FIT_ONLY:
            if f"--{name}" in given:
                raise BaconError(f"unknown option --{name}, which is fit's. `--help` lists all.")
        super().__init__(args)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the recipe and what is evaluated."""
        super().add_arguments_to_parser(parser)
        for name in _FIT_ONLY:
            parser.add_argument(f"--{name}", type=Any, default=None, help=argparse.SUPPRESS)
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
            type=list[Baseline],
            default=[],
            help="Also evaluate real images: of the same number, drawn at random or chosen by herding or k-centre; or "
            "the whole training set.",
        )
        parser.add_argument(
            "--networks",
            type=str | list[str],
            default=[],
            help="Architectures to compare, by name; by default only --evaluation.network.",
        )
        parser.add_argument(
            "--scores", type=bool, default=False, help="Compute DD-Ranking's robust scores, with the runs they need."
        )
        parser.add_argument(
            "--bound",
            type=bool,
            default=False,
            nargs="?",
            const=True,
            help="Compute BACON's bound and the risk of the set, as three networks see it.",
        )
        parser.add_class_arguments(BoundSettings, "bound_settings")
        parser.add_argument(
            "--figures",
            type=bool,
            default=False,
            help="Draw pictures, too: accuracies, learning curves, confusion, embeddings and the images.",
        )

    def run(self) -> None:
        """Evaluate."""
        given = Path(self.config.distilled)
        # Ours needs no dataset to be read, so what is wrong with it is told before the data are loaded.
        ours = self.source() if is_ours(given) else None
        folder = given if given.is_dir() else given.parent
        check_writable(folder, "--distilled")
        if self.config.trainer.logger in (None, True):
            check_writable(self.trainer.default_root_dir, "--trainer.default_root_dir")
        data, recipe, seed = self.datamodule, self.config_init.evaluation, int(self.config.seed_everything)
        data.prepare_data()
        data.setup("test")
        distilled = self.source(data.meta) if ours is None else ours
        distilled.check_fits(data.meta)
        comparison = Comparison(
            distilled,
            data.train,
            data.meta,
            recipe,
            self.architectures(),
            self.config.baselines,
            self.config.scores,
            seed,
        )
        outcomes, first = [], None
        for run in comparison.runs:
            torch.compiler.reset()  # torch keeps eight programs of a function, then compiles no more
            module = comparison.module(run, self.trainer.strategy.root_device)
            trainer = self.evaluation_trainer(module, run)
            trainer.fit(module)
            trainer.test(module, datamodule=data, verbose=False)
            outcomes.append(module.outcome(run.network, run.variant))
            first = first or (module, trainer.loggers)
        assert first is not None
        device = self.trainer.strategy.root_device
        views = comparison.views(first[0], device) if self.config.bound else None
        if self.trainer.is_global_zero:
            scores = comparison.scores(outcomes) if comparison.scored else None
            bound = views and bounds(views, distilled, data.train.to(device), self.config_init.bound_settings, seed)
            numbers = results(distilled, outcomes, self.resolved, scores, bound)
            pictures = {}
            if self.config.figures:
                pictures = figures(outcomes, data.meta.class_names, comparison.embedded(first[0]), seed)
            print(f"results: {write_results(folder / 'results.json', numbers)}")
            print(f"report: {write_report(folder, numbers, distilled, pictures)}")
            show(first[1], numbers, distilled, pictures)
            if (folder / "distilled.png").is_file():
                print(f"picture: {folder / 'distilled.png'}")
            if scores is not None:
                print(score_line(scores))
            if bound is not None:
                print(bound_line(bound))
            print(summary(numbers))

    def source(self, meta: DatasetMeta | None = None) -> DistilledSet:
        """The set that is evaluated; another project's needs the dataset it was made from."""
        return open_set(self.config.distilled, meta, factor=self.config.factor, index=self.config.epoch_index)

    def architectures(self) -> dict[str, NetworkFactory]:
        """What ``--networks`` names, or else the recipe's network; that one keeps its options where it is named."""
        meta, own = self.datamodule.meta, self.config_init.evaluation.network
        own_name = type(own(meta.channels, meta.size, meta.num_classes)).__name__.lower()
        given = self.config.networks
        names = [name.strip() for name in (given.split(",") if isinstance(given, str) else given)]
        return {name: own if name.lower() == own_name else by_name(name) for name in names} or {own_name: own}

    def evaluation_trainer(self, module: EvalModule, run: Run) -> pl.Trainer:
        """Build a Trainer with the user's flags and the recipe's length, which takes the place of max_steps."""
        flags: dict[str, Any] = {"max_steps": module.total_steps, "max_epochs": 1, "enable_checkpointing": False}
        if self.config.trainer.logger in (None, True):
            root = self.config.trainer.default_root_dir or os.getcwd()
            flags["logger"] = TensorBoardLogger(root, name=f"evaluation_{run.name}")
        if self.config.figures:
            given = self.config_init.trainer.callbacks or []
            curve = LearningCurve(self.datamodule.test, self.datamodule.eval_batch)
            flags["callbacks"] = [*(given if isinstance(given, list) else [given]), curve]
        return self.trainer_class(**{**self.config_init.trainer, **flags})


def settings_of(command: str, args: Sequence[str]) -> dict[str, Any]:
    """All settings that ``fit`` or ``eval`` would run with, without running it.

    Raises:
        BaconError: The arguments are bad.
    """
    with silenced():  # what the Trainer says of the machine
        run = Fit(args) if command == "fit" else Eval(args)
    if isinstance(run, Fit):
        run.check_settings()
    return run.resolved


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
  fit      distil a dataset:  bacon fit --config configs/mnist/ipc10.yaml --data.root DIR
  eval     evaluate the set:  bacon eval --config configs/mnist/ipc10.yaml --distilled PATH --data.root DIR
  table    ours beside the published accuracies: bacon table --datasets mnist --data.root DIR --budget small
  convert  other formats:     bacon convert theirs.pt ours.safetensors --dataset cifar10

`bacon COMMAND --help` lists a command's options, `bacon COMMAND --print_config` prints its settings as YAML.
"""


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Leave out what Lightning only informs of."""
    names = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed")
    before = {logging.getLogger(name): logging.getLogger(name).level for name in names}
    try:
        for logger in before:
            logger.setLevel(logging.WARNING)
        yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)


def quiet() -> None:
    """Silence what Lightning says that is no news to this command's users."""
    advice = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    advice.addFilter(lambda record: "litlogger" not in record.getMessage())
    warnings.filterwarnings("ignore", ".*is deprecated, use.*", module="lightning.*")
    # sys.argv stays whole, for Lightning starts the other processes of a DDP run by it.
    warnings.filterwarnings("ignore", "LightningCLI's args parameter is intended to run from within Python.*")
    warnings.filterwarnings("ignore", ".*does not have many workers.*")


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
