"""The command ``bacon tune``."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jsonargparse import ArgumentParser

import bacon_pl
from bacon_pl import config_files
from bacon_pl.commands.settings import settings_of
from bacon_pl.data.catalog import find
from bacon_pl.distilled_set import git_commit
from bacon_pl.distillers.identity import difference
from bacon_pl.errors import BaconError, DivergedError
from bacon_pl.pace import duration
from bacon_pl.runtime import replacing
from bacon_pl.table.plan import knobs_of, record, tuned_name
from bacon_pl.table.sources import told_apart
from bacon_pl.table.tuned import HISTORY
from bacon_pl.tuning.checks import HEADER, check_out, fitting, own_places
from bacon_pl.tuning.knobs import Knob, read_knobs
from bacon_pl.tuning.shared_study import Turn, finished, load_optuna, opening, points, take_turn, under_way
from bacon_pl.tuning.trials import Trials, hold_out

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial


class Tune:
    """Tune a method: its knobs, which its configuration names under `tune`, are chosen on held-out training images.

    Every trial distills a set from the other training images at half the budget's iterations, and evaluates it on the
    held-out ones; the test images are not loaded. The first trial has the method's own settings, so that what is chosen
    is not worse than these by more than chance. The result is a configuration that is laid over the method's, with the
    history of its trials.

    The trials are kept in a file: the same command goes on with those that are missing, and several processes that run
    it at the same time share the trials.
    """

    name = "tune"

    def __init__(self, args: Sequence[str]) -> None:
        parser = ArgumentParser(
            prog="bacon tune",
            description=self.__doc__,
            version=bacon_pl.__version__,
            exit_on_error=False,
            default_env=False,
        )
        parser.add_argument("--method", type=str, required=True, help="Name of a configuration in methods/, or a file.")
        parser.add_argument("--dataset", type=str, required=True, help="Catalog name; NAME=DIR says where it lies.")
        parser.add_argument("--ipc", type=int, default=10, help="Images per class.")
        parser.add_argument(
            "--budget", type=str, default="small", help="Name of a configuration in budgets/, or a file."
        )
        parser.add_argument("--trials", type=int, default=8, help="Trials, the method's own settings included.")
        parser.add_argument(
            "--iterations",
            type=int | None,
            default=None,
            help="Iterations of a trial; half of the budget's by default.",
        )
        parser.add_argument(
            "--held_out", type=float, default=0.1, help="Share of the training images that the trials are judged by."
        )
        parser.add_argument("--seed_everything", type=int, default=0, help="Seed of the trials.")
        parser.add_argument(
            "--out", type=str | None, default=None, help="The configuration; tuned/METHOD-DATASET-ipcK.yaml by default."
        )
        parser.add_argument(
            "--storage",
            type=str | None,
            default=None,
            help="Where Optuna keeps the trials: the address of a database; a file beside the result by default.",
        )
        self.config = parser.parse_args(list(args))
        self.words = list(args)

    def run(self) -> None:
        """Tune.

        Raises:
            BaconError: A setting is wrong, or Optuna is not installed.
        """
        c = self.config
        if c.trials < 1 or c.ipc < 1:
            raise BaconError(f"--trials and --ipc must be at least 1, got {c.trials} and {c.ipc}.")
        if c.iterations is not None and c.iterations < 1:
            raise BaconError(f"--iterations must be at least 1, got {c.iterations}.")
        if not 0 <= c.seed_everything < 1 << 32:
            seed = c.seed_everything
            raise BaconError(f"--seed_everything must be a whole number from 0 to {(1 << 32) - 1}, got {seed}.")
        if not 0 < c.held_out < 1:
            raise BaconError(f"--held_out must be between 0 and 1 (both excluded), got {c.held_out}.")
        name, _, root = c.dataset.partition("=")
        dataset = find(name).name
        file = _overlay(c.method, "methods")
        budget = _overlay(c.budget, "budgets")
        knobs = read_knobs(knobs_of(file, dataset, c.ipc, budget), f"the configuration of {c.method}")
        out = Path(c.out or f"tuned/{tuned_name(file.stem, dataset, c.ipc)}")
        below = config_files.layers(str(file))
        check_out(out, below)
        configs = self._configs(dataset, file, budget)
        settings, _ = record(settings_of, {"fit": configs, "eval": [*configs, f"--distilled={out.parent}"]})
        steps = c.iterations or max(1, int(settings["trainer"]["max_steps"]) // 2)
        side = settings["data"].get("image_size")
        knobs = fitting(knobs, (side, side) if side else find(dataset).size)
        methods = [found for layer in below if (found := config_files.method_of(layer))]
        own = own_places(knobs, settings, budget, (dataset, c.ipc, methods[-1:]))
        planned = points(knobs, own, c.trials, c.seed_everything)
        split = None
        if find(dataset).num_classes is None:  # its name does not say which images it holds
            split = hold_out(dataset, root or "data", c.held_out, settings["data"])
            settings["data"]["root"] = told_apart(split.kept, split.held)
        marks = {"settings": self._own(dataset, steps, knobs), "resolved": settings}
        study = self._study(out, marks)
        done = len(finished(study).keys() & set(range(c.trials)))
        print(
            f"{done} of {c.trials} trials are there, in {self._storage(out)}; knobs: "
            f"{', '.join(knob.name for knob in knobs)}",
            flush=True,
        )
        if done < c.trials:
            split = split or hold_out(dataset, root or "data", c.held_out, settings["data"])
            trials = Trials(split, settings["data"], c.ipc, file, budget, steps, c.seed_everything)
            self._fill(study, marks, planned, knobs, trials, out)
        written = -1
        while written < (there := len(finished(study))):  # others may have ended theirs meanwhile
            self._write(out, study, knobs, file)
            written = there

    def _configs(self, dataset: str, file: Path, budget: Path) -> list[str]:
        """Arguments that name the configurations of the first trial."""
        schedule = f"{dataset}/ipc{self.config.ipc}"
        if not config_files.named(schedule):
            raise BaconError(f"there is no schedule {schedule}: `bacon configs` lists them.")
        return [f"--config={part}" for part in (schedule, file, budget)]

    def _storage(self, out: Path) -> str:
        return self.config.storage or f"sqlite:///{out.with_suffix('.db')}"

    def _own(self, dataset: str, steps: int, knobs: Sequence[Knob]) -> dict[str, Any]:
        """The settings of all trials of a study, as they are given."""
        c = self.config
        return {
            "method": c.method, "dataset": dataset, "ipc": c.ipc, "budget": c.budget, "iterations": steps,
            "held_out": c.held_out, "seed": c.seed_everything, "knobs": {k.name: repr(k) for k in knobs},
        }  # fmt: skip

    def _study(self, out: Path, marks: Mapping[str, Any]) -> Study:
        """Open the study and mark it as one of these settings, unless it holds trials of others."""
        optuna = load_optuna()
        with opening(out):  # Optuna lays a database out without a lock
            try:
                study: Study = optuna.create_study(
                    storage=self._storage(out), study_name=out.stem, direction="maximize", load_if_exists=True
                )
            except Exception as error:  # whatever a database raises
                raise BaconError(f"cannot open --storage {self._storage(out)} ({error}): give another one.") from error
            flaw = _flaw(study, marks)
            if flaw and (study.get_trials(deepcopy=False) or under_way(out)):
                raise BaconError(f"'{self._storage(out)}' holds trials of other settings ({flaw}): give another --out.")
            for name, value in marks.items():
                study.set_user_attr(name, value)
        return study

    def _turn(self, study: Study, marks: Mapping[str, Any], count: int, out: Path) -> Turn | None:
        """Take a turn, unless a tuning with other settings has taken the study before its first trial."""
        with opening(out):  # so that the other one sees either this turn, or its own marks are seen here
            turn = take_turn(study, count, out)
            if flaw := _flaw(study, marks):
                if turn is not None:
                    turn.close()
                raise BaconError(
                    f"another tuning, of other settings ({flaw}), has begun in '{self._storage(out)}' meanwhile: "
                    "give another --out."
                )
        return turn

    def _fill(
        self,
        study: Study,
        marks: Mapping[str, Any],
        planned: Sequence[FrozenTrial],
        knobs: Sequence[Knob],
        trials: Trials,
        out: Path,
    ) -> None:
        """Run the trials that are missing and that no other process is running."""
        while (turn := self._turn(study, marks, len(planned), out)) is not None:
            with closing(turn):
                begun = time.monotonic()
                chosen = _values(knobs, planned[turn.point])
                try:
                    accuracies = trials.accuracies(chosen)
                except DivergedError:
                    accuracies = [0.0]
                took = time.monotonic() - begun
                accuracy = sum(accuracies) / len(accuracies)
                told = {"per_network": accuracies, "seconds": took, "commit": git_commit()}
                turn.store(study, planned[turn.point], accuracy, told)
            said = ", ".join(f"{name} {_short(value)}" for name, value in chosen.items())
            print(f"[{turn.point + 1}/{self.config.trials}] {said}: {accuracy:.1f} % ({duration(took)})", flush=True)

    def _write(self, out: Path, study: Study, knobs: Sequence[Knob], file: Path) -> None:
        """Write the configuration of the best trial, with the history of all."""
        done = {point: trial for point, trial in finished(study).items() if point < self.config.trials}
        if not done:
            print("no trial is finished yet: other processes are running them")
            return
        number, best = max(done.items(), key=lambda found: (found[1].value, -found[0]))
        settings: dict[str, Any] = {}
        chosen = _values(knobs, best)
        for name, value in chosen.items():
            _put(settings, name, value)
        own = study.user_attrs["settings"]
        lines = [
            f"# {file.stem} tuned for {own['dataset']}, {own['ipc']} image{'s' * (own['ipc'] != 1)} per class: trial "
            f"{number} of {len(done)}, {best.value:.1f} % on held-out training images.",
            f"# Command: bacon tune {shlex.join(self.words)}",
            f"# Version {bacon_pl.__version__}, commit {git_commit() or 'unknown'}; {own['iterations']} iterations a "
            f"trial. The test images were not loaded.",
            HEADER,
        ]
        for point, trial in done.items():
            said = ", ".join(f"{name} {_short(value)}" for name, value in _values(knobs, trial).items())
            lines.append(f"# {point:5d}  {trial.user_attrs['seconds']:7.0f}  {trial.value:8.2f}  {said}")
        known = config_files.named(f"methods/{file.stem}")
        above = f"methods/{file.stem}" if known == file else str(file.resolve())
        method = f"{file.stem}-tuned"
        settings.setdefault("model", {})["method"] = method
        history = {
            "method": file.stem, "dataset": own["dataset"], "ipc": own["ipc"],
            "budget": _overlay(own["budget"], "budgets").stem, "trials": len(done), "iterations": own["iterations"],
            "held_out": own["held_out"], "seed": own["seed"], "best": number, "accuracy": best.value,
            "settings": chosen, "version": bacon_pl.__version__,
            "commits": list(dict.fromkeys(trial.user_attrs["commit"] or "unknown" for trial in done.values())),
        }  # fmt: skip
        text = yaml.safe_dump({config_files.EXTENDS: above, **settings, HISTORY: history}, sort_keys=False)
        with replacing(out) as written:
            written.write("\n".join([*lines, text]).encode())
        if len(done) < self.config.trials:
            print(f"{self.config.trials - len(done)} trials are being run by other processes, the last of which writes")
        print(f"best: trial {number}, {best.value:.1f} % on held-out training images\nconfiguration: {out}")


def _overlay(given: str, group: str) -> Path:
    return config_files.overlay(given, group) or config_files.find(f"{group}/{given}", None, f"--{group[:-1]}")


def _flaw(study: Study, marks: Mapping[str, Any]) -> str:
    """Say in which settings a study is another; what only one side has may be a newer version's."""
    there = study.user_attrs
    old, new = there.get("settings", {}), marks["settings"]
    if flaw := ", ".join(name for name in new if name in old and old[name] != new[name]):
        return flaw
    if "resolved" in there and "root" in marks["resolved"]["data"] and "root" not in there["resolved"]["data"]:
        return "the images, which an earlier version did not record"
    # The method and the budget may have been edited since.
    return difference(there["resolved"], marks["resolved"]) if "resolved" in there else ""


def _values(knobs: Sequence[Knob], trial: FrozenTrial) -> dict[str, Any]:
    """The settings of a trial."""
    return {knob.name: knob.value(trial.params[knob.name]) for knob in knobs}


def _put(settings: dict[str, Any], name: str, value: Any) -> None:
    *sections, last = name.split(".")
    for part in sections:
        settings = settings.setdefault(part, {})
    settings[last] = value


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
