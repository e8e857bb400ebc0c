"""The command ``bacon eval``."""

from __future__ import annotations

import contextlib
import difflib
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import lightning.pytorch as pl
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import TensorBoardLogger

from bacon_pl.callbacks import PICTURE_NAME
from bacon_pl.checkpoint_files import FOLDER as CHECKPOINTS
from bacon_pl.commands.base import LightningCommand
from bacon_pl.commands.evaluate_options import add_options, check_dataset, check_trainer, whole_recipe
from bacon_pl.commands.evaluate_runs import train_all
from bacon_pl.commands.loggers import make_loggers
from bacon_pl.data import DataModule, DatasetMeta
from bacon_pl.data.catalog import find
from bacon_pl.data.whitening import EPSILON, Whitening
from bacon_pl.distilled_set import FILE_NAME, DistilledSet, StoredLabels
from bacon_pl.errors import BaconError, one_line
from bacon_pl.evaluation import (
    Baseline,
    Comparison,
    EvalModule,
    Labels,
    LearningCurve,
    Results,
    Run,
    SharedAccuracies,
    bound_line,
    bounds,
    labels_note,
    recipe_lines,
    results,
    score_line,
    set_line,
    summary,
    teacher_line,
    training_name,
    trainings_line,
    write_results,
)
from bacon_pl.interop import is_ours, open_labels, open_set
from bacon_pl.learners import TESTING, Recipe, TrainingSet, check_stored, identified
from bacon_pl.loggers import PartLogger, close_loggers
from bacon_pl.networks import NetworkFactory, by_name
from bacon_pl.opening import describe_data, laid_out
from bacon_pl.preflight import check_writable
from bacon_pl.progress import progress, with_progress
from bacon_pl.report import EVALUATIONS, RESULTS, claimed, figures, folder_name, show, write_report
from bacon_pl.runtime import undone
from bacon_pl.settings_text import names_in
from bacon_pl.time_limit import LENGTHS

LOGS = "logs"
"""Name of the folder, in that of an evaluation, with the logs of the trainings."""

# Settings that change results only by rounding or that only fit uses.
_FREE_DATA = ("download", "eval_batch", "batch_real", "pool_batch")
_FREE_RECIPE = ("acceleration",)
_PRECISIONS = ("32-true", "bf16-mixed")
"""Precisions in which networks can be evaluated."""


class Eval(LightningCommand):
    """Train new networks on a distilled set, test them, and write results.json to the folder of the evaluation."""

    name = "eval"

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the data, but no model, since there is one per training set."""
        parser.add_lightning_class_args(DataModule, "data")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the recipe and the options of the evaluation."""
        super().add_arguments_to_parser(parser)
        add_options(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments, and accept lists of names as text, too."""
        super().parse_arguments(parser, args)
        check_trainer(self.config.trainer, self.command_line.typed("trainer"))
        self.baselines: list[Any] = names_in(self.config.baselines)
        self.labels: list[Any] = names_in(self.config.labels)
        for option, given, known in (("baselines", self.baselines, Baseline), ("labels", self.labels, Labels)):
            for name in given:
                if name not in get_args(known):
                    near = difflib.get_close_matches(name.lower(), get_args(known), n=1)
                    hint = f" (did you mean {near[0]}?)" if near else ""
                    words = ", ".join(get_args(known))
                    said = f"--{option} must be one of {words}, or several, got {one_line(name, 80)}{hint}."
                    raise BaconError(self._sentence(BaconError(said), re.findall(r"--[\w.]+", parser.format_usage())))

    def run(self) -> None:
        """Evaluate the set given on the command line."""
        # A set of this package can be read without its dataset, so its errors are reported before the data is loaded.
        ours = self.source() if is_ours(self.config.distilled) else None
        if ours is not None:
            check_dataset(ours, self.datamodule.name, self.command_line.given())
        else:
            if self.config.pixels == "zca" and self.datamodule.whitening is None:
                self.datamodule.whiten("zca")
            self.read_data()
        self.evaluate(ours or self.source(self.datamodule.meta))

    def evaluate(self, distilled: DistilledSet, data: DataModule | None = None) -> Results:
        """Evaluate a set.

        Args:
            distilled: The set.
            data: Real images to use instead of those named in the settings.

        Returns:
            The results.
        """
        if self.config.shared is not None and not self.config.scores:
            raise BaconError("--shared keeps what --scores true needs, which is not asked for: leave it out.")
        if data is not None:
            self.use(data)
        if data is None:
            self.take_space(distilled)
        networks = self.architectures(distilled.meta)
        batch_labels = self.batch_labels(distilled)
        self.config_init.evaluation.check_fits(distilled.meta)
        if self.trainer.precision not in _PRECISIONS:
            raise BaconError(
                f"--trainer.precision must be one of {', '.join(_PRECISIONS)} in an evaluation, got "
                f"{self.trainer.precision}."
            )
        folder = self.place(distilled, list(networks))
        with contextlib.ExitStack() as stack:
            if self.trainer.is_global_zero:
                stack.enter_context(claimed(folder, self.config.overwrite))
                check_writable(folder, "--out")
                if self.config.shared is not None:
                    check_writable(Path(self.config.shared).expanduser(), "--shared")
            self.read_data()
            distilled.check_fits(self.datamodule.meta)
            self.loggers = make_loggers(self.config.trainer.logger, folder)
            return self._evaluate(distilled, networks, folder, batch_labels)

    def take_space(self, distilled: DistilledSet) -> None:
        """Whiten the data, unless they are loaded, if the set is whitened.

        Raises:
            BaconError: The settings ask for whitened data, and the set is not whitened.
        """
        whitening, data = distilled.meta.whitening, self.datamodule
        if whitening is None and data.whitening is not None:
            distilled.check_space(replace(distilled.meta, whitening=Whitening(data.whitening, EPSILON, "")))
        elif whitening is not None and data.whitening is None:
            data.whiten(whitening.kind)

    def read_data(self) -> None:
        """Load the dataset; later calls do nothing."""
        self.datamodule.prepare_data()
        self.datamodule.setup("test")

    def _evaluate(
        self,
        distilled: DistilledSet,
        networks: dict[str, NetworkFactory],
        folder: Path,
        batch_labels: StoredLabels | None,
    ) -> Results:
        """Run all trainings, and write and print their results."""
        data, seed = self.datamodule, int(self.config.seed_everything)
        recipe, scores = self.config_init.evaluation, self.config.scores
        comparison = Comparison(
            distilled,
            data.train,
            data.meta,
            recipe,
            networks,
            self.baselines,
            scores,
            seed,
            self.labels,
            self.config_init.score_weights,
            batch_labels,
        )
        self._open(comparison, folder)
        device = self.trainer.strategy.root_device
        teachers = comparison.tested_teachers(data.test.to(device))
        if teachers:
            self.say(teacher_line(teachers))
        made = train_all(
            comparison,
            self.shared_accuracies(),
            lambda run, others: self._trained(comparison.module(run, device), run, folder, others),
            self.say,
        )
        module, run_results = made.module, made.run_results
        assert module is not None
        views = comparison.views(module, device) if self.config.bound else None
        scored = comparison.scores_of(made.accuracies) if comparison.scored else None
        zero = self.trainer.is_global_zero
        bound = None
        if zero and views:
            bound = bounds(views, distilled, data.train.to(device), self.config_init.bound_settings, seed)
        numbers = results(distilled, run_results, self.resolved, scored, bound, self.config.distilled, teachers)
        if zero:
            pictures = {}
            if self.config.figures:
                pictures = figures(run_results, data.meta.class_names, comparison.embedded(module), seed)
            report = write_report(folder, numbers, distilled, pictures)
            written = write_results(folder / RESULTS, numbers)
            show(made.loggers if self.loggers is None else self.loggers, numbers, distilled, pictures)
            close_loggers(self.loggers or ())
            self.say(f"\n{summary(numbers)}")
            if scored is not None:
                self.say(score_line(scored))
            if bound is not None:
                self.say(bound_line(bound))
            if self.keeps:
                self.say(f"results: {written}\nreport: {report}")
        return Results(numbers)

    def _open(self, comparison: Comparison, folder: Path) -> None:
        """Say what is going to be done."""
        distilled, data, recipe = comparison.distilled, self.datamodule, comparison.recipe
        teachers = 0 if comparison.teachers is None else len(comparison.teachers.teachers)
        stored = distilled.soft_labels is not None
        note = labels_note(recipe.described(), "hard" in self.labels, stored, teachers)
        own = whole_recipe(distilled.config.get("evaluation"))
        lines = {
            "set": [set_line(self.config.distilled, distilled)],
            "data": describe_data(data),
            "runs": [trainings_line(comparison)],
            "recipe": recipe_lines(recipe.described(), comparison.seed, own, self.resolved["evaluation"]),
            **({"labels": [note]} if note else {}),
            **({"result": [str(folder / RESULTS)]} if self.keeps else {}),
        }
        self.say(laid_out(lines))

    def _trained(self, module: EvalModule, run: Run, folder: Path, others: bool) -> tuple[EvalModule, pl.Trainer]:
        """Train and test the networks of a run; if this fails, its logs are kept if there are results of others."""
        trainer = self.evaluation_trainer(module, run, folder)
        with undone(folder / LOGS, keep=lambda: others or not self.trainer.is_global_zero):
            trainer.fit(module)
            trainer.test(module, datamodule=self.datamodule, verbose=False)
        return module, trainer

    def batch_labels(self, distilled: DistilledSet) -> StoredLabels | None:
        """Open the labels that were stored for every batch of a set if the recipe takes them, and check them."""
        recipe: Recipe = self.config_init.evaluation
        soft, meta = recipe.soft_labels, distilled.meta
        if soft is None or soft.folder is None or (self.labels and "soft" not in self.labels):
            return None
        count = len(distilled.images)
        found = open_labels(soft.folder, count, meta.num_classes, meta.size, seed=soft.folder_seed)
        check_stored(found, TrainingSet.distilled(distilled, recipe.cut_tiles).labels, meta.num_classes, recipe)
        return found

    def shared_accuracies(self) -> SharedAccuracies | None:
        """Return the accuracies that evaluations share in the folder ``--shared``."""
        if self.config.shared is None:
            return None
        return SharedAccuracies(Path(self.config.shared).expanduser(), self.datamodule.test, self._trainer_facts())

    def _trainer_facts(self) -> dict[str, Any]:
        """Settings of the Trainer that change results; limits, which are refused, stand for folders of before."""
        return {**dict.fromkeys(TESTING), "precision": self.trainer.precision}  # normalized

    def say(self, text: str) -> None:
        """Print text on one of the processes, and flush it so that it appears immediately in files."""
        if self.talks and self.trainer.is_global_zero:
            print(text, flush=True)

    def source(self, meta: DatasetMeta | None = None) -> DistilledSet:
        """Read the set to evaluate; the set of another project needs the description of its dataset."""
        c = self.config
        return open_set(c.distilled, meta, factor=c.factor, index=c.epoch_index, pixels=c.pixels)

    def place(self, distilled: DistilledSet, networks: list[str]) -> Path:
        """Return the folder of this evaluation, which is in a folder of another project only if this is requested."""
        if self.config.out:
            return Path(self.config.out).expanduser()
        file, ours = Path(self.config.distilled), is_ours(self.config.distilled)
        if ours and file.is_dir():
            file /= FILE_NAME
        of_a_run = ours and any((file.parent / name).exists() for name in (CHECKPOINTS, PICTURE_NAME))
        root = file.parent if of_a_run else Path(self.config.trainer.default_root_dir or "runs").expanduser()
        epochs = self.config_init.evaluation.epochs
        return root / EVALUATIONS / folder_name(file, networks, epochs, self.identity(distilled, networks))

    def identity(self, distilled: DistilledSet, networks: list[str]) -> dict[str, Any]:
        """Return all settings that affect the results of this evaluation, regardless of the machine."""
        settings, name = self.resolved, self.datamodule.name
        data = {key: value for key, value in settings["data"].items() if key not in _FREE_DATA}
        recipe = {key: value for key, value in settings["evaluation"].items() if key not in _FREE_RECIPE}
        if data.get("whitening") is None:  # the set's own, if it has one
            data.pop("whitening", None)
        # Datasets that the catalog fully describes are the same in every folder.
        root = str(Path(self.datamodule.root).resolve()) if find(name).num_classes is None else None
        return {
            "distilled": distilled.checksum,
            "data": {**data, "name": name, "root": root},
            "evaluation": identified(recipe),
            "networks": networks,
            "baselines": list(dict.fromkeys(self.baselines)),
            "labels": self.labels,
            "scores": self.config.scores,
            "score_weights": settings["score_weights"] if self.config.scores else None,
            "bound": settings["bound_settings"] if self.config.bound else None,
            "figures": self.config.figures,  # figures add test accuracies during training to the results
            "trainer": self._trainer_facts(),
            "seed": int(self.config.seed_everything),
        }

    def architectures(self, meta: DatasetMeta) -> dict[str, NetworkFactory]:
        """Return the networks of ``--networks``, by default the recipe's, which keeps its options if it is named."""
        own = self.config_init.evaluation.network
        own_name = type(own(meta.channels, meta.size, meta.num_classes)).__name__.lower()
        names = names_in(self.config.networks)
        return {name: own if name.lower() == own_name else by_name(name) for name in names} or {own_name: own}

    def evaluation_trainer(self, module: EvalModule, run: Run, folder: Path) -> pl.Trainer:
        """Build a Trainer with the user's flags, but with the recipe's number of steps instead of fit's length."""
        given, steps = self.config_init.trainer, module.learners.total_steps
        callbacks = given.callbacks or []
        callbacks = list(callbacks) if isinstance(callbacks, list) else [callbacks]
        if self.config.figures:
            callbacks.append(LearningCurve(self.datamodule.test, self.datamodule.eval_batch))
        shown = progress(training_name(run), "step", transient=True)
        flags: dict[str, Any] = {
            **dict.fromkeys(LENGTHS),
            "max_steps": steps,
            "max_epochs": 1,
            "enable_checkpointing": False,
            "default_root_dir": folder,
            "callbacks": with_progress(callbacks, given.enable_progress_bar, shown),
            "log_every_n_steps": min(50 if given.log_every_n_steps is None else given.log_every_n_steps, steps),
        }
        if self.config.trainer.logger in (None, True):
            if self.trainer.is_global_zero:  # remove logs of an interrupted or replaced evaluation
                shutil.rmtree(folder / LOGS / run.name, ignore_errors=True)
            flags["logger"] = TensorBoardLogger(folder, name=LOGS, version=run.name)
        elif self.loggers is not None:  # one for all trainings
            flags["logger"] = [PartLogger(logger, run.name) for logger in self.loggers]
        return self.trainer_class(**{**given, **flags})
