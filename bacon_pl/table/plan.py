"""What a table consists of: cells of a method on a dataset at some images per class, from files in ``configs``."""

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

Settings = Callable[[str, Sequence[str]], Mapping[str, Any]]
"""Resolves a command's arguments to all its settings: command name, arguments → settings; refuses bad ones."""

RECORD = "cell.json"


@dataclass(frozen=True)
class Cell:
    """One entry of the table: all repeats of a method on a dataset.

    Attributes:
        method: Name of the method's overlay.
        dataset: Catalog name.
        ipc: Images per class.
        configs: YAML files, each on top of those before.
    """

    method: str
    dataset: str
    ipc: int
    configs: tuple[Path, ...]

    def folder(self, out: Path, seed: int) -> Path:
        """Where the run with a seed lies."""
        return out / f"{self.dataset}-ipc{self.ipc}" / self.method / f"seed{seed}"

    def __str__(self) -> str:
        return f"{self.method} on {self.dataset}, ipc {self.ipc}"


def config_folder(given: str | None) -> Path:
    """The folder of YAML files: as given, else the package's own.

    Raises:
        BaconError: There is none.
    """
    folder = Path(given) if given else config_files.folder()
    if not (folder / "methods").is_dir():
        raise BaconError(
            f"no folder of configurations at '{folder}': give the one that holds methods/ and <dataset>/ipc<k>.yaml as "
            "--configs."
        )
    return folder


def overlays(names: Iterable[str], configs: Path) -> dict[str, Path]:
    """Find methods: files, names of configurations (``idm`` is ``methods/idm``), or folders with all their files.

    Args:
        names: As the user gave them.
        configs: The folder of configurations.

    Returns:
        Method name → file, in order.

    Raises:
        BaconError: One is unknown, or two files have one name.
    """
    found: dict[str, Path] = {}
    for name in names:
        folder = configs / name
        if file := _overlay(name, "methods", configs):
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


def _overlay(name: str, group: str, configs: Path) -> Path | None:
    """A file of that path, or the configuration of that name in a group or anywhere."""
    if Path(name).is_file():
        return Path(name)
    return config_files.named(f"{group}/{name}", configs) or config_files.named(name, configs)


def budget_file(name: str, configs: Path) -> Path:
    """The overlay of a budget: a path, or a name of a configuration (``small`` is ``budgets/small``).

    Raises:
        BaconError: There is none.
    """
    if path := _overlay(name, "budgets", configs):
        return path
    raise unknown_name("budget", name, config_files.names(configs / "budgets"))


def plan(
    methods: Mapping[str, Path], datasets: Iterable[str], ipcs: Sequence[int], budget: Path, configs: Path
) -> tuple[list[Cell], dict[tuple[str, int], str]]:
    """Lay out the table.

    Returns:
        The cells, and why some (dataset, ipc) have none.

    Raises:
        BaconError: A dataset is unknown.
    """
    cells, without = [], {}
    for dataset in datasets:
        name = find(dataset).name
        for ipc in ipcs:
            schedule = configs / name / f"ipc{ipc}.yaml"
            if not schedule.is_file():
                without[name, ipc] = f"there is no schedule {schedule.parent.name}/{schedule.name}"
                continue
            cells += [Cell(method, name, ipc, (schedule, path, budget)) for method, path in methods.items()]
    return cells, without


def record(settings: Settings, arguments: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What makes a cell's run the same run: settings of its distillation and of its evaluation.

    Args:
        settings: Resolves arguments.
        arguments: Those of ``fit`` and of ``eval``.
    """
    fit = dict(settings("fit", arguments["fit"]))
    evaluation = settings("eval", arguments["eval"])["evaluation"]
    module, _, name = fit["model"]["class_path"].rpartition(".")
    free = getattr(importlib.import_module(module), name).free_settings  # settings has imported it already
    own = {**identity(fit, free), "evaluation": evaluation}
    own["trainer"] = {**own.get("trainer", {}), "max_steps": fit["trainer"]["max_steps"]}
    own["evaluation"] = {name: value for name, value in own["evaluation"].items() if name != "acceleration"}
    return json.loads(json.dumps(own, default=str))


def of_seed(own: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The record of another repeat of a cell, which differs in its seed alone."""
    return {**own, "seed_everything": seed}


def check_record(folder: Path, own: Mapping[str, Any]) -> None:
    """Check that a folder is free for a run, or holds this very run.

    Raises:
        BaconError: It holds another, or nothing that can be told.
    """
    path = folder / RECORD
    if not path.exists():
        # Hidden files may be left of a record that was being written when the table was killed.
        if folder.is_dir() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
            raise BaconError(f"'{folder}' holds files that are no cell of a table: give another --out.")
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
    """Note in a folder which run it holds."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / RECORD, json.dumps(own, indent=2, ensure_ascii=False) + "\n")
