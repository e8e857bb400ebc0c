"""``bacon eval``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import TensorBoardLogger

from bacon_pl.bound import BoundSettings
from bacon_pl.commands.base import FIT_ONLY, LightningCommand
from bacon_pl.commands.loggers import make_loggers
from bacon_pl.data import DataModule, DatasetMeta
from bacon_pl.distilled_set import DistilledSet
from bacon_pl.errors import BaconError
from bacon_pl.evaluate import (
    Baseline,
    Comparison,
    EvalModule,
    LearningCurve,
    Run,
    bound_line,
    bounds,
    results,
    score_line,
    summary,
    write_results,
)
from bacon_pl.interop import is_ours, open_set
from bacon_pl.interop.convert import add_source_options
from bacon_pl.learners import Recipe
from bacon_pl.loggers import PartLogger, close_loggers
from bacon_pl.networks import NetworkFactory, by_name
from bacon_pl.preflight import check_writable
from bacon_pl.report import figures, show, write_report


class Eval(LightningCommand):
    """Train fresh networks on a distilled set and test them; writes results.json beside the set."""

    name = "eval"

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the trainer and the data, but no model: there is one per training set."""
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.set_defaults({f"trainer.{name}": value for name, value in self.trainer_defaults.items()})
        parser.add_lightning_class_args(DataModule, "data")

    def __init__(self, args: Sequence[str]) -> None:
        given = [word.partition("=")[0] for word in args]
        for name in FIT_ONLY:
            if f"--{name}" in given:
                raise BaconError(f"unknown option --{name}, which is fit's. `--help` lists all.")
        super().__init__(args)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the recipe and what is evaluated."""
        super().add_arguments_to_parser(parser)
        for name in FIT_ONLY:
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
            help="Also evaluate real images: smaller ones that fill as many canvases, which is what a run starts from "
            "(tiles); as many whole ones, drawn at random or chosen by herding or k-center; or the whole training set.",
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
        if self.config.trainer.logger is not False:
            check_writable(self.trainer.default_root_dir, "--trainer.default_root_dir")
        self.loggers = make_loggers(self.config.trainer.logger, Path(self.trainer.default_root_dir))
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
        run_results, first, compiled = [], None, None
        for run in comparison.runs:
            if run.architecture != compiled:
                # torch keeps so many programs of a function (networks.stateless.MOST_PROGRAMS), then compiles no more.
                # An architecture's runs share theirs, ten or so, its teacher's and its feature spaces' among them; so
                # any number of architectures fits if each starts anew.
                torch.compiler.reset()
                compiled = run.architecture
            module = comparison.module(run, self.trainer.strategy.root_device)
            trainer = self.evaluation_trainer(module, run)
            trainer.fit(module)
            trainer.test(module, datamodule=data, verbose=False)
            run_results.append(module.run_result(run.architecture, run.variant))
            first = first or (module, trainer.loggers)
        assert first is not None
        device = self.trainer.strategy.root_device
        views = comparison.views(first[0], device) if self.config.bound else None
        if self.trainer.is_global_zero:
            scores = comparison.scores(run_results) if comparison.scored else None
            bound = views and bounds(views, distilled, data.train.to(device), self.config_init.bound_settings, seed)
            numbers = results(distilled, run_results, self.resolved, scores, bound)
            pictures = {}
            if self.config.figures:
                pictures = figures(run_results, data.meta.class_names, comparison.embedded(first[0]), seed)
            print(f"results: {write_results(folder / 'results.json', numbers)}")
            print(f"report: {write_report(folder, numbers, distilled, pictures)}")
            show(first[1] if self.loggers is None else self.loggers, numbers, distilled, pictures)
            close_loggers(self.loggers or ())
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
        flags: dict[str, Any] = {
            "max_steps": module.learners.total_steps,
            "max_epochs": 1,
            "enable_checkpointing": False,
        }
        if self.config.trainer.logger in (None, True):
            root = self.config.trainer.default_root_dir or os.getcwd()
            flags["logger"] = TensorBoardLogger(root, name=f"evaluation_{run.name}")
        elif self.loggers is not None:  # one for all trainings
            flags["logger"] = [PartLogger(logger, run.name) for logger in self.loggers]
        if self.config.figures:
            given = self.config_init.trainer.callbacks or []
            curve = LearningCurve(self.datamodule.test, self.datamodule.eval_batch)
            flags["callbacks"] = [*(given if isinstance(given, list) else [given]), curve]
        return self.trainer_class(**{**self.config_init.trainer, **flags})
