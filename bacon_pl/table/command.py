"""The command ``bacon table``."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, get_args

import torch
from jsonargparse import ArgumentParser

from bacon_pl import __version__
from bacon_pl.config_files import layers
from bacon_pl.data.catalog import find
from bacon_pl.distilled_set import git_commit
from bacon_pl.errors import BaconError, TooFewImagesError, one_line, unknown_name
from bacon_pl.evaluation import Labels
from bacon_pl.table.numbers import entries
from bacon_pl.table.options import OF_FIT, SECTIONS, add_options, split, whole_numbers, without_comments, words_of
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
    read_configs,
    record,
)
from bacon_pl.table.risk import measure_sets
from bacon_pl.table.runner import Job, claimed, places, run_all
from bacon_pl.table.screen import Screen
from bacon_pl.table.sources import Source, check_images, in_own_format, loading, locate
from bacon_pl.table.tuned import Tuned, tuned_settings, tuning_note

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
        add_options(parser)
        self.config = parser.parse_args(own)
        known = functools.cache(lambda command, words: settings(command, list(words)))
        self.settings: Settings = lambda command, words: known(command, tuple(words))  # resolving takes half a second

    def run(self) -> None:
        """Make the table.

        Raises:
            BaconError: The arguments are invalid, runs failed, or none could be made.
        """
        c = self.config
        if c.repeats < 1:
            raise BaconError(f"--repeats must be at least 1, got {c.repeats}.")
        seeds = range(c.seed_everything, c.seed_everything + c.repeats)
        configs = config_folder(c.configs)
        budget = budget_file(c.budget, configs)
        out = Path(c.out or f"runs/table-{budget.stem}")
        given = self._datasets()
        methods = overlays(words_of(c.methods, "--methods"), configs)
        folder = Path(c.tuned).expanduser() if c.tuned else None
        cells, without = plan(methods, given, whole_numbers(c.ipcs), budget, configs, folder)
        absent = [f"{dataset}, ipc {ipc}: {reason}" for (dataset, ipc), reason in without.items()]
        if not cells:
            raise BaconError(f"there is nothing to run: {'; '.join(absent)}. `bacon configs` lists the schedules.")
        words = {name: f"{word}={root}" for name, (word, root) in given.items()}
        tuned, reasons = tuned_settings(cells, budget, c.budget, words)
        sources: dict[Cell, Source] = {}
        jobs = self._jobs(cells, seeds, given, sources, reasons, out, tuned)
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
        if not jobs:
            why = one_line(reasons[cells[0]].rstrip("."), 400)
            raise BaconError(f"no cell of the table could be run, the first, {cells[0]}, for this reason: {why}.")
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

    def _notes(self, budget: Path, seeds: Sequence[int], sources: Mapping[Cell, Source]) -> list[str]:
        """Return the notes that explain the table."""
        return [
            f"Budget {budget.stem}{self._changes()}; seeds {', '.join(map(str, seeds))}; bacon_pl {__version__}, "
            f"commit {git_commit() or 'unknown'}.",
            "Networks and schedules are those of `<dataset>/ipc<k>` in `bacon configs`, with the method's and the "
            f"budget's changes; the budget's are:\n\n```yaml\n{without_comments(budget)}\n```",
            *dict.fromkeys(f"{source.note}." for source in sources.values() if source.note),
        ]

    def _check_family(self, cell: Cell, own: Mapping[str, Any], source: Source, out: Path) -> None:
        """Check that no option changes the family of a method, since its row would then hold results of another one.

        Raises:
            BaconError: An option, or a configuration for every run, selects another family.
        """
        for section, word, text in self._options():
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

    def _datasets(self) -> dict[str, tuple[str, Path]]:
        """Return the word and the folder of each dataset, by its name in the catalog.

        Raises:
            BaconError: A dataset is unknown, or given twice.
        """
        found: dict[str, tuple[str, Path]] = {}
        for word in words_of(self.config.datasets, "--datasets"):
            name, _, root = word.partition("=")
            known = find(name).name
            if known in found:
                raise BaconError(
                    f"--datasets gives {known} twice, the second time as '{word}': leave one out; another folder's "
                    "images need a table of their own, with another --out."
                )
            found[known] = name, Path(root or self._override("--data.root") or "data").expanduser()
        return found

    def _jobs(
        self,
        cells: Sequence[Cell],
        seeds: Sequence[int],
        given: Mapping[str, tuple[str, Path]],
        sources: dict[Cell, Source],
        reasons: dict[Cell, str],
        out: Path,
        tuned: Mapping[Cell, Tuned],
    ) -> list[Job]:
        """Create the jobs of all repeats; settings are resolved once per cell, as repeats differ only in the seed.

        The data are looked at by a cell's own settings. They are added to ``sources`` or, if they are missing, to
        ``reasons``, whose cells have no jobs.
        """
        cells = [cell for cell in cells if cell not in reasons]
        if cells:
            print(f"resolving the settings of {len(cells)} cell{'s' if len(cells) > 1 else ''} …", flush=True)
        of_all = [text for section, _, text in self._options() if section == "config"]
        seen: dict[str, Source | str] = {}
        kept: dict[Cell, dict[str, Any]] = {}
        for cell in cells:
            configs = read_configs([*map(str, cell.configs), *of_all])  # before the settings are resolved from them
            place = given[cell.dataset]
            named = self._arguments(cell, seeds[0], in_own_format(*place), out)["fit"]
            try:
                data = self.settings("fit", named)["data"]
            except TooFewImagesError as error:
                reasons[cell] = str(error)
                continue
            asked = json.dumps([cell.dataset, data["download"], loading(data)])
            if asked not in seen:
                try:
                    seen[asked] = locate(*place, data["download"], loading(data))
                except BaconError as error:
                    seen[asked] = str(error)
            if isinstance(found := seen[asked], str):
                reasons[cell] = found
                continue
            sources[cell] = found
            arguments = self._arguments(cell, seeds[0], found, out)
            arguments["eval"] += ["--distilled", str(cell.folder(out, seeds[0]))]
            own, scoring = record(self.settings, arguments)
            if found.images:
                own["data"]["root"] = found.images
            self._check_family(cell, own, found, out)
            if cell in tuned:
                tuned[cell].check_kept(own)
            check_images(own["data"], cell.dataset, own["evaluation"].get("test_resize"), found, self.config.bound)
            kept[cell] = {"record": own, "configs": configs, **scoring}
        return [
            Job(
                cell,
                seed,
                cell.folder(out, seed),
                self._arguments(cell, seed, sources[cell], out),
                **{**facts, "record": of_seed(facts["record"], seed)},
                scored=self.config.scores,
            )
            for seed in seeds
            for cell, facts in kept.items()
        ]

    def _arguments(
        self, cell: Cell, seed: int, source: Source, out: Path, overrides: Sequence[tuple[str, list[str]]] | None = None
    ) -> dict[str, list[str]]:
        """Return the arguments of ``fit`` and ``eval`` for a repeat, by default with the options for every run."""
        overrides = self.overrides if overrides is None else overrides
        common = [part for path in cell.configs for part in ("--config", str(path))]
        fixed = ["--seed_everything", str(seed), "--trainer.default_root_dir", str(cell.folder(out, seed))]
        arguments = {}
        for command in ("fit", "eval"):
            given = [
                part
                for section, parts in overrides
                for part in parts
                if command in SECTIONS[section] and not (command == "eval" and parts[0].partition("=")[0] in OF_FIT)
            ]
            arguments[command] = [*common, *given, *source.arguments, *fixed]
        if labels := self._labels:
            arguments["eval"] += ["--labels", ",".join(labels)]
        if self.config.scores:
            arguments["eval"] += ["--scores", "true", "--shared", str(out / SHARED)]
        return arguments

    def _override(self, option: str) -> str | None:
        """Return the value of one of the options for every run, or None; if it is repeated, the last value."""
        found = [text for _, word, text in self._options() if word == option]
        return found[-1] if found else None

    def _options(self) -> list[tuple[str, str, str]]:
        """Return section, name and value of the options for every run."""
        split_up = [(section, *parts[0].partition("="), parts[-1]) for section, parts in self.overrides]
        return [(section, word, text if equals else last) for section, word, equals, text, last in split_up]

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
