"""What a table consists of: cells of a method on a dataset at some images per class, from files in ``configs``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bacon_pl
from bacon_pl.data.catalog import find
from bacon_pl.distillers.identity import difference, identity
from bacon_pl.errors import BaconError, unknown_name
from bacon_pl.evaluate import write_text

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
    """The folder of YAML files: as given, else ``configs`` here or beside the package.

    Raises:
        BaconError: There is none.
    """
    beside = Path(bacon_pl.__file__).parents[1] / "configs"
    folders = [Path(given)] if given else [Path("configs"), beside]
    for folder in folders:
        if (folder / "methods").is_dir():
            return folder
    raise BaconError(
        f"no folder of configurations at '{folders[0]}': give the one that holds methods/ and <dataset>/ipc<k>.yaml as "
        "--configs."
    )


def overlays(names: Iterable[str], configs: Path) -> dict[str, Path]:
    """Find methods: names in ``configs/methods``, folders in ``configs`` (all their files), or paths of either.

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
        file, folder = configs / "methods" / f"{name}.yaml", configs / name
        if Path(name).suffix in (".yaml", ".yml") and Path(name).is_file():
            paths = [Path(name)]
        elif file.is_file():
            paths = [file]
        elif folder.is_dir() or Path(name).is_dir():
            paths = sorted((folder if folder.is_dir() else Path(name)).glob("*.yaml"))
        else:
            known = [path.stem for path in sorted((configs / "methods").glob("*.yaml"))]
            raise unknown_name("method", name, known)
        for path in paths:
            if found.setdefault(path.stem, path) != path:
                raise BaconError(
                    f"two methods are called '{path.stem}': '{found[path.stem]}' and '{path}'; rename one."
                )
    if not found:
        raise BaconError("no methods: give --methods, e.g. dm,idm,bacon.")
    return found


def budget_file(name: str, configs: Path) -> Path:
    """The overlay of a budget: its name in ``configs/budgets``, or a path.

    Raises:
        BaconError: There is none.
    """
    if (path := configs / "budgets" / f"{name}.yaml").is_file():
        return path
    if Path(name).is_file():
        return Path(name)
    raise unknown_name("budget", name, [path.stem for path in sorted((configs / "budgets").glob("*.yaml"))])


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
    own = {**identity(fit), "trainer": {"max_steps": fit["trainer"]["max_steps"]}, "evaluation": evaluation}
    own["evaluation"] = {name: value for name, value in own["evaluation"].items() if name != "acceleration"}
    return json.loads(json.dumps(own, default=str))


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
