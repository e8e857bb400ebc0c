"""The cells of a table: a method on a dataset with a number of images per class, made from configuration files."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bacon_pl import config_files
from bacon_pl.data.catalog import find
from bacon_pl.distillers.identity import difference, identity
from bacon_pl.errors import BaconError, unknown_name
from bacon_pl.evaluation import write_text
from bacon_pl.learners import identified
from bacon_pl.settings_text import names_in

Settings = Callable[[str, Sequence[str]], Mapping[str, Any]]
"""A function from the name and the arguments of a command to its resolved settings. It raises errors for bad arguments.
"""

RECORD = "cell.json"

KNOBS = "tune"
"""The section of a configuration that names what ``bacon tune`` chooses; other commands leave it unread."""


@dataclass(frozen=True)
class Cell:
    """One entry of the table: all repeats of a method on a dataset.

    Attributes:
        method: Name of the method's overlay.
        dataset: Catalog name.
        ipc: Images per class.
        configs: YAML files, each of which overrides those before it: schedule, method, budget.
        tuned_from: For a cell with tuned settings, the method that they were tuned for; else empty.
        asked: For such a cell, the method's name or file, as ``bacon tune`` takes it; else empty.
    """

    method: str
    dataset: str
    ipc: int
    configs: tuple[Path, ...]
    tuned_from: str = ""
    asked: str = ""

    def folder(self, out: Path, seed: int) -> Path:
        """Return the folder of the run with a given seed."""
        return out / f"{self.dataset}-ipc{self.ipc}" / self.method / f"seed{seed}"

    def __str__(self) -> str:
        return f"{self.method} on {self.dataset}, ipc {self.ipc}"


def config_folder(given: str | None) -> Path:
    """Return the folder of YAML files: the given one, or by default that of the package.

    Raises:
        BaconError: The folder does not contain configurations.
    """
    folder = Path(given) if given else config_files.folder()
    if not (folder / "methods").is_dir():
        raise BaconError(
            f"no folder of configurations at '{folder}': give the one that holds methods/ and <dataset>/ipc<k>.yaml as "
            "--configs."
        )
    return folder


def overlays(names: Iterable[str], configs: Path) -> dict[str, Path]:
    """Find methods: files, names of configurations (``idm`` stands for ``methods/idm``), or folders of files.

    Args:
        names: Names as given by the user.
        configs: Folder of configurations.

    Returns:
        Files by name of the method, in order.

    Raises:
        BaconError: A method is unknown, there is none, or two files have the same name.
    """
    found: dict[str, Path] = {}
    for name in names:
        folder = configs / name
        if file := config_files.overlay(name, "methods", configs):
            paths = [file]
        elif folder.is_dir() or Path(name).is_dir():
            paths = sorted((folder if folder.is_dir() else Path(name)).glob("*.yaml"))
        else:
            raise unknown_name("method", name, config_files.names(configs / "methods"))
        for path in paths:
            if found.setdefault(path.stem, path) != path:
                raise BaconError(
                    f"two methods are called '{path.stem}': '{found[path.stem]}' and '{path}'; rename one."
                )
    if not found:
        raise BaconError("no methods: give --methods, e.g. dm,idm,bacon.")
    return found


def budget_file(name: str, configs: Path) -> Path:
    """Find the file of a budget: a path, or the name of a configuration (``small`` stands for ``budgets/small``).

    Raises:
        BaconError: There is no such budget.
    """
    if path := config_files.overlay(name, "budgets", configs):
        return path
    raise unknown_name("budget", name, config_files.names(configs / "budgets"))


def plan(
    methods: Mapping[str, Path],
    datasets: Iterable[str],
    ipcs: Sequence[int],
    budget: Path,
    configs: Path,
    tuned: Path | None = None,
) -> tuple[list[Cell], dict[tuple[str, int], str]]:
    """Create the cells of the table.

    Args:
        methods: Files by name of the method.
        datasets: Names of the datasets.
        ipcs: Numbers of images per class.
        budget: File of the budget.
        configs: Folder of configurations.
        tuned: Folder of tuned settings, by which every method that can be tuned has a second cell, after its own.

    Returns:
        The cells, and for every (dataset, ipc) without a schedule the reason why it has no cells.

    Raises:
        BaconError: A dataset is unknown, or there is no such folder.
    """
    if tuned is not None and not tuned.is_dir():
        raise BaconError(
            f"there is no folder '{tuned}' of tuned settings: give the one that `bacon tune` writes into as --tuned."
        )
    cells: list[Cell] = []
    without = {}
    for dataset in datasets:
        name = find(dataset).name
        for ipc in ipcs:
            schedule = configs / name / f"ipc{ipc}.yaml"
            if not schedule.is_file():
                without[name, ipc] = f"there is no schedule {schedule.parent.name}/{schedule.name}"
                continue
            for method, path in methods.items():
                cells.append(Cell(method, name, ipc, (schedule, path, budget)))
                if tuned is not None and knobs_of(path, name, ipc, budget):
                    file = tuned / tuned_name(method, name, ipc)
                    asked = method if path == config_files.named(f"methods/{method}") else str(path)
                    cells.append(Cell(f"{method}-tuned", name, ipc, (schedule, file, budget), method, asked))
    if twice := sorted(methods.keys() & {cell.method for cell in cells if cell.tuned_from}):
        raise BaconError(f"--tuned has a row '{twice[0]}' of its own: leave that name out of --methods.")
    return cells, without


def tuned_name(method: str, dataset: str, ipc: int) -> str:
    """Return the name of the file of a method's tuned settings."""
    return f"{method}-{dataset}-ipc{ipc}.yaml"


def knobs_of(method: Path, dataset: str, ipc: int, budget: Path) -> Any:
    """Return what a method's configuration says may be tuned.

    A file's section replaces those below it, and what the file's section ``for`` holds for the run adds to it.

    Args:
        method: The method's file.
        dataset: Catalog name.
        ipc: Images per class.
        budget: File of the budget.

    Returns:
        The section ``tune`` as it was written; None if there is none.
    """
    budgets = [
        name for layer in config_files.layers(str(budget), "--budget") if (name := config_files.budget_of(layer))
    ]
    found: Any = None
    for layer in config_files.layers(str(method), "--method"):
        general, *own = config_files.for_data(layer, dataset, ipc, budgets)
        found = general.settings.get(KNOBS, found)
        for part in own:
            more = part.settings.get(KNOBS, {})
            found = {**(found or {}), **more} if isinstance(more, Mapping) else more
    return found


def record(settings: Settings, arguments: Mapping[str, Sequence[str]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Collect the settings of distillation and evaluation that identify a cell's run.

    Args:
        settings: Function that resolves arguments.
        arguments: Arguments of ``fit`` and of ``eval``.

    Returns:
        The settings as JSON values; and those of the scores, which are not among them because they change no accuracy:
        the passes of an evaluation over all real images (None: as many as over a set), and the weights.

    Raises:
        BaconError: The settings are invalid, or the labels of one set would be those of all.
    """
    fit = dict(settings("fit", arguments["fit"]))
    resolved = settings("eval", arguments["eval"])
    evaluation = resolved["evaluation"]
    if (evaluation.get("soft_labels") or {}).get("source") == "folder":
        raise BaconError(
            "--evaluation.soft_labels.source folder: labels of a folder are those of one set, and a table makes many: "
            "evaluate that set by `bacon eval`."
        )
    module, _, name = fit["model"]["class_path"].rpartition(".")
    free = getattr(importlib.import_module(module), name).free_settings  # settings has imported it already
    own = {**identity(fit, free), "evaluation": evaluation}
    for option in ("labels", "networks"):
        own[option] = ",".join(names_in(resolved.get(option) or [])) or "as the recipe says"
    own["trainer"] = {**own.get("trainer", {}), "max_steps": fit["trainer"]["max_steps"]}
    others = ("acceleration", "whole_epochs")
    own["evaluation"] = identified({name: value for name, value in evaluation.items() if name not in others})
    scoring = {"whole_epochs": evaluation.get("whole_epochs"), "score_weights": resolved["score_weights"]}
    return json.loads(json.dumps(own, default=str)), scoring


def read_configs(given: Iterable[str]) -> dict[str, str]:
    """Return what configurations hold, by what names each.

    Args:
        given: Paths, names, or settings as YAML text.

    Raises:
        BaconError: A file is missing or is not a YAML file with settings.
    """
    return {one: repr([layer.settings for layer in config_files.layers(one)]) for one in given}


def of_seed(own: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return the record of another repeat of a cell, which differs only in the seed."""
    return {**own, "seed_everything": seed}


def check_record(folder: Path, own: Mapping[str, Any]) -> None:
    """Check that a folder is empty or contains the same run.

    Raises:
        BaconError: The folder contains another run or other files, or its record cannot be read.
    """
    path = folder / RECORD
    if not path.exists():
        # Hidden files may be remains of a record that was being written when the process was killed.
        if folder.is_dir() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
            raise BaconError(f"'{folder}' holds files that do not belong to a table: give another --out.")
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BaconError(f"cannot read '{path}' ({error}): remove the folder, or give another --out.") from error
    if flaw := difference(there, dict(own)):
        raise BaconError(
            f"'{folder}' holds a run with other settings: {flaw}. Give another --out, or the settings it was made with."
        )


def write_record(folder: Path, own: Mapping[str, Any]) -> None:
    """Record in a folder which run it contains."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / RECORD, json.dumps(own, indent=2, ensure_ascii=False) + "\n")
