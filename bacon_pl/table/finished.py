"""What a table takes from the results of its finished runs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bacon_pl.errors import BaconError
from bacon_pl.table.runner import RESULTS


@dataclass(frozen=True)
class Read:
    """What a table takes from the results of a run.

    Attributes:
        accuracies: Test accuracy of every network in percent.
        hard: The same with hard labels, if they are evaluated beside soft ones; else empty.
        labels: ``hard`` or ``soft``: the labels of ``accuracies``; empty in results of earlier versions.
        storage: Bytes of all that a network needs; None in results of earlier versions.
    """

    accuracies: tuple[float, ...]
    hard: tuple[float, ...]
    labels: str
    storage: int | None


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
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BaconError(f"cannot read '{path}' ({error}): remove it, and it is made again.") from error
