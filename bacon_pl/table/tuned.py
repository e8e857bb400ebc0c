"""Tuned settings, which ``bacon tune`` writes: those of a table's cells, and how they were chosen."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bacon_pl import config_files
from bacon_pl.errors import BaconError, one_line
from bacon_pl.evaluation import markdown_table
from bacon_pl.settings_text import value_at
from bacon_pl.table.plan import Cell

HISTORY = "tuned"
"""The section of a configuration that says how its settings were chosen; other commands leave it unread."""

_FACTS = ("method", "dataset", "ipc", "budget", "trials", "iterations", "held_out", "seed", "best", "accuracy",
          "settings", "commits")  # fmt: skip


@dataclass(frozen=True)
class Tuned:
    """A file with tuned settings.

    Attributes:
        path: The file.
        facts: Content of its section :data:`HISTORY`.
    """

    path: Path
    facts: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Tuned:
        """Read a file.

        Raises:
            BaconError: It was not written by ``bacon tune``, or by a version that did not say how it tuned.
        """
        facts = config_files.layers(str(path), "--tuned")[-1].settings.get(HISTORY)
        lacking = [name for name in _FACTS if not isinstance(facts, Mapping) or name not in facts]
        if not isinstance(facts, Mapping) or lacking:
            raise BaconError(
                f"'{path}' does not say how it was tuned (`{HISTORY}` has no {lacking[0]}): give the command of its "
                "first lines again, which writes the file anew from the trials that are there."
            )
        return cls(path, facts)

    def check(self, **wanted: Any) -> None:
        """Check that the settings were tuned for a cell.

        Args:
            wanted: What the cell has, by the name of the fact.

        Raises:
            BaconError: They were tuned for something else.
        """
        for name, value in wanted.items():
            if self.facts[name] != value:
                raise BaconError(
                    f"'{self.path}' was tuned for {name} {one_line(self.facts[name], 80)}, not {value}: tune anew, or "
                    "give another folder as --tuned."
                )

    def check_kept(self, resolved: Mapping[str, Any]) -> None:
        """Check that nothing above the file changes a setting that it has tuned.

        Args:
            resolved: Settings of the run by section.

        Raises:
            BaconError: An option, a configuration or the budget changes one.
        """
        for name, value in dict(self.facts["settings"]).items():
            found = value_at(resolved, name)
            if found != value and not isinstance(value, (Mapping, list)):
                raise BaconError(
                    f"'{self.path}' tunes {name} to {value}, but an option of this table, or its budget, sets it to "
                    f"{one_line(found, 80)}: leave that out, or leave out --tuned."
                )


def tuned_settings(
    cells: Iterable[Cell], budget: Path, said: str, datasets: Mapping[str, str]
) -> tuple[dict[Cell, Tuned], dict[Cell, str]]:
    """Read the tuned settings of the cells that need some.

    Args:
        cells: Cells of the table.
        budget: File of the table's budget.
        said: The budget as the user has given it.
        datasets: What ``--dataset`` takes for each dataset, by its name.

    Returns:
        The settings by cell, and for every cell without a file the reason why it is not run, with the command that
        makes the file.

    Raises:
        BaconError: A file was not written by ``bacon tune``, or was tuned for something else.
    """
    found: dict[Cell, Tuned] = {}
    missing: dict[Cell, str] = {}
    for cell in cells:
        if not cell.tuned_from:
            continue
        path = cell.configs[1]
        if path.is_file():
            found[cell] = Tuned.read(path)
            found[cell].check(method=cell.tuned_from, dataset=cell.dataset, ipc=cell.ipc, budget=budget.stem)
        else:
            words = ["--method", cell.asked, "--dataset", datasets[cell.dataset], "--ipc", cell.ipc]
            command = shlex.join(map(str, ["bacon", "tune", *words, "--budget", said, "--out", path]))
            missing[cell] = f"no {path}: `{command}` makes it"
    return found, missing


def tuning_note(tuned: Sequence[Tuned]) -> list[str]:
    """Describe how settings were chosen, and whether all methods had the same effort.

    Args:
        tuned: The files of the table.

    Returns:
        Paragraphs in Markdown; none if there are no files.
    """
    if not tuned:
        return []
    head = ["tuned settings", "trials", "iterations", "held out", "seed", "best trial", "its accuracy", "commit"]
    rows = []
    for one in tuned:
        f = one.facts
        commits = ", ".join(str(commit)[:9] for commit in f["commits"])
        rows.append([f"`{one.path}`", str(f["trials"]), str(f["iterations"]), f"{100 * f['held_out']:g} %",
                     str(f["seed"]), str(f["best"]), f"{f['accuracy']:.1f}", commits])  # fmt: skip
    said = []
    for name, what in (("trials", "trials"), ("iterations", "iterations in a trial"), ("held_out", "share held out")):
        values = sorted({one.facts[name] for one in tuned})
        if len(values) > 1:
            said.append(f"the {what} ({', '.join(f'{value:g}' for value in values)})")
    fair = (
        f"**The tuning was not the same for all**: they differ in {' and '.join(said)}."
        if said
        else "Every method was tuned with the same number of trials of the same length."
    )
    intro = (
        "Tuned settings were chosen by `bacon tune` on held-out training images; the accuracy of the best trial, in "
        f"percent, is the one on these images. {fair}"
    )
    return [intro, markdown_table(head, rows)]
