"""The numbers of a table: our accuracies and the published ones."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from bacon_pl.errors import BaconError
from bacon_pl.learners import spread
from bacon_pl.table.plan import Cell
from bacon_pl.table.risk import read_bounds
from bacon_pl.table.runner import RESULTS

SCORES = ("lrs", "ars", "hlr", "ior")
"""Names of the robust scores in the results of an evaluation."""


@dataclass(frozen=True)
class Entry:
    """The results of a cell.

    Attributes:
        cell: The cell.
        accuracies: Test accuracy of every network in percent, one tuple per finished repeat.
        wanted: Number of requested repeats.
        published: Published accuracy in percent, or None.
        reason: Reason for missing repeats; empty if none are missing.
        hard: Like ``accuracies``, with hard labels beside the soft ones of ``accuracies``; None for a repeat without.
        labels: With which labels ``accuracies`` were reached, ``hard`` or ``soft``; empty if it is not known.
        storage: Bytes of all that a network of the evaluation needs; None if it was not counted.
        scores: Robust scores of every repeat that has them, by the names in :data:`SCORES`.
        bounds: Bound and risk of the sets that were measured (see :func:`~bacon_pl.table.risk.read_bounds`).
    """

    cell: Cell
    accuracies: tuple[tuple[float, ...], ...]
    wanted: int
    published: float | None
    reason: str = ""
    bounds: tuple[Mapping[str, Mapping[str, float | None]], ...] = ()
    hard: tuple[tuple[float, ...], ...] = ()
    labels: str = ""
    storage: int | None = None
    scores: tuple[Mapping[str, float], ...] = ()

    @property
    def mean(self) -> float | None:
        """Mean over all networks of all repeats, in percent."""
        return mean_and_std(self.accuracies)[0]

    @property
    def std(self) -> float | None:
        """Standard deviation over all networks of all repeats, in percent; None for a single network."""
        return mean_and_std(self.accuracies)[1]

    @property
    def std_of_repeats(self) -> float | None:
        """Standard deviation of the means of the repeats, in percent; None for a single repeat."""
        means = torch.tensor([sum(repeat) / len(repeat) for repeat in self.accuracies], dtype=torch.float64)
        return float(spread(means)) if len(means) > 1 else None

    @property
    def difference(self) -> float | None:
        """Our accuracy minus the published one, in percentage points."""
        return None if self.mean is None or self.published is None else self.mean - self.published

    def seen(self, view: str, number: str) -> float | None:
        """Mean over repeats of the bound or the risk as one of the networks sees it; None if there are no numbers."""
        known = [value for one in self.bounds if (value := one[view][number]) is not None]
        return sum(known) / len(known) if known else None

    def score(self, name: str) -> float | None:
        """Mean over repeats of one of :data:`SCORES`; None if there is none."""
        return sum(one[name] for one in self.scores) / len(self.scores) if self.scores else None


def mean_and_std(repeats: Sequence[Sequence[float]]) -> tuple[float | None, float | None]:
    """Compute mean and standard deviation over all networks of all repeats; None where there are too few."""
    every = torch.tensor([accuracy for repeat in repeats for accuracy in repeat], dtype=torch.float64)
    return float(every.mean()) if len(every) else None, float(spread(every)) if len(every) > 1 else None


def published() -> dict[tuple[str, str, int], float]:
    """Read the published accuracies in percent by (method, dataset, ipc)."""
    text = resources.files("bacon_pl.table").joinpath("published.csv").read_text(encoding="utf-8")
    found = {}
    for row in csv.DictReader(io.StringIO(text)):
        for dataset, value in row.items():
            if dataset not in ("ipc", "method") and value:
                found[row["method"], dataset, int(row["ipc"])] = float(value)
    return found


@dataclass(frozen=True)
class Read:
    """What a table takes from the results of a run.

    Attributes:
        accuracies: Test accuracy of every network in percent.
        hard: The same with hard labels, if they are evaluated beside soft ones; else empty.
        labels: ``hard`` or ``soft``: the labels of ``accuracies``; empty in results of earlier versions.
        storage: Bytes of all that a network needs; None in results of earlier versions.
        scores: Robust scores by name; None if they were not computed.
    """

    accuracies: tuple[float, ...]
    hard: tuple[float, ...]
    labels: str
    storage: int | None
    scores: Mapping[str, float] | None


def read_results(folder: Path) -> tuple[float, ...] | None:
    """Read the accuracies from a run's evaluation; None if it is not finished.

    Raises:
        BaconError: The file is damaged.
    """
    found = read_all(folder)
    return None if found is None else found.accuracies


def read_all(folder: Path) -> Read | None:
    """Read what a table takes from a run's evaluation; None if it is not finished.

    Raises:
        BaconError: The file is damaged.
    """
    path = folder / RESULTS
    if not path.is_file():
        return None
    try:
        numbers: Any = json.loads(path.read_text(encoding="utf-8"))
        hard: Any = next(
            (
                run["accuracy"]["per_network"]
                for run in numbers.get("runs", ())
                if (run["network"], run["training_set"], run["variant"]) == (numbers["network"], "distilled", "hard")
            ),
            (),
        )
        return Read(
            tuple(map(float, numbers["accuracy"]["per_network"])),
            tuple(map(float, hard)),
            str((numbers.get("labels") or {}).get("kind") or ""),
            (numbers.get("storage") or {}).get("total"),
            {name: float(scores[name]) for name in SCORES} if (scores := numbers.get("scores")) else None,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BaconError(f"cannot read '{path}' ({error}): remove it, and it is made again.") from error


def entries(
    cells: Sequence[Cell],
    out: Path,
    seeds: Sequence[int],
    reasons: Mapping[Cell, str],
    bound: bool = False,
    scores: bool = False,
) -> list[Entry]:
    """Collect the results of all cells.

    Args:
        cells: Cells of the table.
        out: Folder of the table.
        seeds: Seeds of the repeats.
        reasons: Reasons for missing repeats by cell.
        bound: Whether to read the bound and the risk, too.
        scores: Whether to take the robust scores, too.

    Returns:
        One entry per cell.
    """
    known = published()
    found = []
    for cell in cells:
        repeats = [read for seed in seeds if (read := read_all(cell.folder(out, seed))) and read.accuracies]
        there = tuple(repeat.accuracies for repeat in repeats)
        reason = "" if len(there) == len(seeds) else reasons.get(cell, "not yet run")
        number = known.get((cell.method, cell.dataset, cell.ipc))
        measured = [read_bounds(cell.folder(out, seed)) for seed in seeds] if bound else []
        hard = tuple(repeat.hard for repeat in repeats if repeat.hard)
        labels = "+".join(sorted({repeat.labels for repeat in repeats}))
        stored = max((repeat.storage for repeat in repeats if repeat.storage is not None), default=None)
        bounds = tuple(one for one in measured if one)
        scored = tuple(repeat.scores for repeat in repeats if repeat.scores) if scores else ()
        found.append(Entry(cell, there, len(seeds), number, reason, bounds, hard, labels, stored, scored))
    return found
