"""The command ``bacon table``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, get_args

import torch
from jsonargparse import ArgumentParser

from bacon_pl import __version__
from bacon_pl.config_files import layers
from bacon_pl.data.catalog import find
from bacon_pl.distilled_set import git_commit
from bacon_pl.errors import BaconError, one_line, unknown_name
from bacon_pl.evaluation import Labels
from bacon_pl.learners.recipe import check_test_resize
from bacon_pl.table.numbers import entries
from bacon_pl.table.options import SECTIONS, split, whole_numbers, without_comments, words_of
from bacon_pl.table.pages import write
from bacon_pl.table.plan import (
    Cell,
    Settings,
    budget_file,
    check_record,
    config_folder,
    of_seed,
    overlays,
    plan,
    record,
)
from bacon_pl.table.risk import measure_sets
from bacon_pl.table.runner import Job, claimed, places, run_all
from bacon_pl.table.screen import Screen
from bacon_pl.table.sources import Source, locate
from bacon_pl.table.tuned import Tuned, tuned_settings, tuning_note

DEFAULT_METHODS = "tiles,dm,idm,bacon"
SHARED = "shared"
"""Folder, in that of a table, with the accuracies that its evaluations share."""


class Table:
    """Make a table of accuracies for methods, datasets and numbers of images per class, with the published values.

    Missing runs are started, interrupted runs are resumed, and finished runs are kept. Any option of fit or eval
    (--data.*, --model.*, --trainer.*, --evaluation.*, --config NAME) is passed to every run and overrides the budget.
    """

    name = "table"

    def __init__(self, args: Sequence[str], settings: Settings) -> None:
        own, self.overrides = split(args)
        parser = ArgumentParser(
            prog="bacon table", description=self.__doc__, version=__version__, exit_on_error=False, default_env=False
        )
        words = str | list[str]
        parser.add_argument(
            "--methods",
            type=words,
            default=DEFAULT_METHODS,
            help="Names of configurations (idm stands for methods/idm), groups of configurations (ablation), or YAML "
            "files.",
        )
        parser.add_argument(
            "--datasets",
            type=words,
            default="mnist,fashion_mnist,svhn,cifar10,cifar100,tiny_imagenet",
            help="Catalog names; NAME=DIR for a dataset that is not in --data.root.",
        )
        parser.add_argument("--ipcs", type=str | int | list[int], default="1,10,50", help="Images per class.")
        parser.add_argument("--repeats", type=int, default=5, help="Distillations of each cell, with one seed each.")
        parser.add_argument("--seed_everything", type=int, default=0, help="Seed of the first repeat.")
        parser.add_argument(
            "--budget",
            type=str,
            default="full",
            help="full: the published schedules; small: a few minutes per run on two CPU cores; or a YAML file.",
        )
        parser.add_argument(
            "--tuned",
            type=str | None,
            default=None,
            help="Folder of tuned settings, METHOD-DATASET-ipcK.yaml, that bacon tune has written: they have rows of "
            "their own beside those of the methods' own settings.",
        )
        parser.add_argument(
            "--labels",
            type=words,
            default=[],
            help="With which labels every set is evaluated: hard, soft, or hard,soft for both, side by side; by "
            "default as the evaluation's recipe says.",
        )
        parser.add_argument(
            "--bound",
            type=bool,
            default=False,
            nargs="?",
            const=True,
            help="Also measure BACON's bound and the risk of all sets, and say whether it ranks them as accuracy does.",
        )
        parser.add_argument(
            "--scores",
            type=bool,
            default=False,
            nargs="?",
            const=True,
            help="Also compute the robust scores LRS and ARS of all sets. Networks on all real images and on random "
            "ones are trained once for the sets that share them.",
        )
        parser.add_argument(
            "--out", type=str | None, default=None, help="Folder of the table; by default runs/table-<budget>."
        )
        parser.add_argument(
            "--jobs",
            type=int | None,
            default=None,
            help="Number of runs at the same time; by default one per GPU, or one per CPU core if there is no GPU.",
        )
        parser.add_argument(
            "--configs", type=str | None, default=None, help="Folder of configurations; by default that of the package."
        )
        self.config = parser.parse_args(own)
        self.settings = settings

    def run(self) -> None:
        """Make the table.

        Raises:
            BaconError: The arguments are invalid, or runs failed.
        """
        c = self.config
        if c.repeats < 1:
            raise BaconError(f"--repeats must be at least 1, got {c.repeats}.")
        seeds = range(c.seed_everything, c.seed_everything + c.repeats)
        configs = config_folder(c.configs)
        budget = budget_file(c.budget, configs)
        out = Path(c.out or f"runs/table-{budget.stem}")
        given = {find(name).name: (name, root) for name, root in map(self._root, words_of(c.datasets, "--datasets"))}
        methods = overlays(words_of(c.methods, "--methods"), configs)
        folder = Path(c.tuned).expanduser() if c.tuned else None
        cells, without = plan(methods, given, whole_numbers(c.ipcs), budget, configs, folder)
        absent = [f"{dataset}, ipc {ipc}: {reason}" for (dataset, ipc), reason in without.items()]
        if not cells:
            raise BaconError(f"there is nothing to run: {'; '.join(absent)}. `bacon configs` lists the schedules.")
        words = {name: f"{word}={root}" for name, (word, root) in given.items()}
        tuned, reasons = tuned_settings(cells, budget, c.budget, words)
        sources, without_data = self._sources(cells, given)
        made = [cell for cell in cells if cell.dataset in sources and cell not in reasons]
        reasons.update(without_data)
        jobs = self._jobs(made, seeds, sources, out, tuned)
        for job in jobs:
            check_record(job.folder, job.record)
        notes = [*self._notes(budget, seeds, sources), *tuning_note(list(tuned.values()))]

        def publish() -> list[Path]:
            return write(out, entries(cells, out, seeds, reasons, c.bound, c.scores), notes, absent)

        with claimed(out) as held:
            failed = self._fill(jobs, out, held, reasons, publish)
            if c.bound:
                gpu = self._accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
                measure_sets(jobs, given, seeds[0], torch.device("cuda" if gpu else "cpu"))
            files = publish()
        print("\n".join(["", files[0].read_text(encoding="utf-8"), *(f"table: {path}" for path in files)]))
        if failed:
            raise BaconError(
                f"{len(failed)} of {len(jobs)} runs failed, the first in '{failed[0].folder}' "
                f"({reasons[failed[0].cell]}): fix it and give the same command."
            )

    def _fill(
        self, jobs: Sequence[Job], out: Path, held: BinaryIO, reasons: dict[Cell, str], publish: Callable[[], object]
    ) -> list[Job]:
        """Run the missing jobs, publish after each of them, record reasons of failures, and return the failed jobs."""
        missing, cells = [job for job in jobs if not job.done], len({job.cell for job in jobs})
        where = places(self.config.jobs, self._accelerator, self._override("--trainer.devices") is not None)
        print(
            f"{cells} cell{'s' * (cells != 1)}: {len(jobs)} run{'s' * (len(jobs) != 1)}, "
            f"{len(jobs) - len(missing)} of them there; "
            f"{len(where)} side by side in {out}, with their logs",
            flush=True,
        )
        publish()
        failed: list[Job] = []
        screen = Screen(len(missing), len(where))

        def after(job: Job, flaw: str | None, seconds: float) -> None:
            screen.ended(job, flaw, seconds)
            if flaw:
                reasons[job.cell] = f"seed {job.seed} failed: {flaw}"
                failed.append(job)
            publish()

        try:
            run_all(missing, where, held, after, screen.meanwhile)
        except KeyboardInterrupt:
            print("the same command goes on with the runs that were broken off", flush=True)
            raise
        return failed

    def _notes(self, budget: Path, seeds: Sequence[int], sources: dict[str, Source]) -> list[str]:
        """Return the notes that explain the table."""
        return [
            f"Budget {budget.stem}{self._changes()}; seeds {', '.join(map(str, seeds))}; bacon_pl {__version__}, "
            f"commit {git_commit() or 'unknown'}.",
            "Networks and schedules are those of `<dataset>/ipc<k>` in `bacon configs`, with the method's and the "
            f"budget's changes; the budget's are:\n\n```yaml\n{without_comments(budget)}\n```",
            *(f"{source.note}." for source in sources.values() if source.note),
        ]

    def _check_family(self, cell: Cell, own: Mapping[str, Any], source: Source, out: Path) -> None:
        """Check that no option changes the family of a method, since its row would then hold results of another one.

        Raises:
            BaconError: An option, or a configuration for every run, selects another family.
        """
        for section, (option, *value) in self.overrides:
            word, equals, text = option.partition("=")
            text = text if equals else value[0]
            given = [layer.settings.get("model") for layer in layers(text)] if section == "config" else []
            if word not in ("--model", "--model.class_path") and not any(
                isinstance(model, str) or (isinstance(model, Mapping) and "class_path" in model) for model in given
            ):
                continue
            alone = self.settings("fit", self._arguments(cell, 0, source, out, [])["fit"])["model"]["class_path"]
            if own["model"]["class_path"] != alone:
                raise BaconError(
                    f"{word} {one_line(text, 80)} would run {own['model']['class_path'].rpartition('.')[2]} in the "
                    f"row of '{cell.method}': leave it out, and name what is to be compared as --methods, e.g. "
                    "--methods tiles,mine.yaml."
                )

    def _root(self, word: str) -> tuple[str, Path]:
        name, _, root = word.partition("=")
        return name, Path(root or self._override("--data.root") or "data").expanduser()

    def _sources(
        self, cells: Sequence[Cell], given: dict[str, tuple[str, Path]]
    ) -> tuple[dict[str, Source], dict[Cell, str]]:
        """Find the datasets, and return the reasons for the cells whose dataset is missing."""
        sources: dict[str, Source] = {}
        reasons: dict[Cell, str] = {}
        download = (self._override("--data.download") or "false").lower() == "true"
        for name in dict.fromkeys(cell.dataset for cell in cells):
            try:
                sources[name] = locate(*given[name], download)
            except BaconError as error:
                reasons.update({cell: str(error) for cell in cells if cell.dataset == name})
        return sources, reasons

    def _jobs(
        self,
        cells: Sequence[Cell],
        seeds: Sequence[int],
        sources: dict[str, Source],
        out: Path,
        tuned: Mapping[Cell, Tuned],
    ) -> list[Job]:
        """Create the jobs of all repeats; settings are resolved once per cell, as repeats differ only in the seed."""
        if cells:
            print(f"resolving the settings of {len(cells)} cell{'s' if len(cells) > 1 else ''} …", flush=True)
        records, whole_epochs = {}, {}
        for cell in cells:
            arguments = self._arguments(cell, seeds[0], sources[cell.dataset], out)
            asked = [*arguments["eval"], "--distilled", str(cell.folder(out, seeds[0]))]
            records[cell], whole_epochs[cell] = record(self.settings, {**arguments, "eval": asked})
            self._check_family(cell, records[cell], sources[cell.dataset], out)
            if cell in tuned:
                tuned[cell].check_kept(records[cell])
            self._check_images(records[cell], cell, sources[cell.dataset])
        return [
            Job(
                cell,
                seed,
                cell.folder(out, seed),
                self._arguments(cell, seed, sources[cell.dataset], out),
                of_seed(records[cell], seed),
                self.config.scores,
                whole_epochs[cell],
            )
            for seed in seeds
            for cell in cells
        ]

    def _check_images(self, own: Mapping[str, Any], cell: Cell, source: Source) -> None:
        """Check that images can be tested, and measured, as they are asked to be.

        Raises:
            BaconError: They cannot be enlarged so, or ``--bound`` would measure sets on other images than their own.
        """
        data = own["data"]
        side = data.get("image_size")
        if size := (side, side) if side else find(cell.dataset).size:
            check_test_resize(own["evaluation"].get("test_resize"), size, bool(data.get("whitening")))
        for name in ("image_size", "mean", "std"):
            if self.config.bound and data.get(name) is not None and f"--data.{name}" not in source.arguments:
                raise BaconError(f"--bound measures sets on the dataset's images as they are: leave out --data.{name}.")

    def _arguments(
        self, cell: Cell, seed: int, source: Source, out: Path, overrides: Sequence[tuple[str, list[str]]] | None = None
    ) -> dict[str, list[str]]:
        """Return the arguments of ``fit`` and ``eval`` for a repeat, by default with the options for every run."""
        overrides = self.overrides if overrides is None else overrides
        common = [part for path in cell.configs for part in ("--config", str(path))]
        fixed = ["--seed_everything", str(seed), "--trainer.default_root_dir", str(cell.folder(out, seed))]
        arguments = {}
        for command in ("fit", "eval"):
            given = [part for section, parts in overrides for part in parts if command in SECTIONS[section]]
            arguments[command] = [*common, *given, *source.arguments, *fixed]
        if labels := self._labels:
            arguments["eval"] += ["--labels", ",".join(labels)]
        if self.config.scores:
            arguments["eval"] += ["--scores", "true", "--shared", str(out / SHARED)]
        return arguments

    def _override(self, option: str) -> str | None:
        """Return the value of one of the options for every run, or None; if it is repeated, the last value."""
        found = [parts[-1].partition("=")[2] if "=" in parts[0] else parts[-1] for _, parts in self.overrides
                 if parts[0].partition("=")[0] == option]  # fmt: skip
        return found[-1] if found else None

    @property
    def _labels(self) -> list[str]:
        """Names of the kinds of labels that are asked for."""
        labels = words_of(self.config.labels, "--labels") if self.config.labels else []
        if unknown := [name for name in labels if name not in get_args(Labels)]:
            raise unknown_name("kind of labels", unknown[0], get_args(Labels))
        return labels

    @property
    def _accelerator(self) -> str:
        return self._override("--trainer.accelerator") or "auto"

    def _changes(self) -> str:
        changed = [" ".join(parts) for section, parts in self.overrides if not parts[0].startswith("--data.root")]
        return f" with {' '.join(changed)}" if changed else ""
