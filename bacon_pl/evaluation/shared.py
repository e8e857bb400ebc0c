"""Accuracies that evaluations share through a folder, so that a training for several sets' scores is made once."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bacon_pl.configured import plain
from bacon_pl.data import LabeledImages
from bacon_pl.distilled_set import git_commit, package_version
from bacon_pl.distributed import first_then_others, gather_objects, process_rank, together, wait_for_lock
from bacon_pl.errors import BaconError
from bacon_pl.evaluation.comparison import Comparison, Run
from bacon_pl.evaluation.report import write_text
from bacon_pl.learners import described, digest, identified


class SharedAccuracies:
    """A folder with a file for every training, named after a digest of all that its accuracies depend on.

    Args:
        folder: The folder; it is made at the first turn.
        test: The test images.
        trainer: Settings of the Trainer that change results.
    """

    def __init__(self, folder: Path, test: LabeledImages, trainer: Mapping[str, Any]) -> None:
        self.folder = folder
        self.facts = {"test": digest(test), "trainer": {name: str(value) for name, value in trainer.items()}}

    def about(self, comparison: Comparison, run: Run) -> dict[str, Any]:
        """Describe a training by all that its accuracies depend on, as JSON values."""
        recipe, distilled = comparison.recipe_of(run), comparison.distilled
        soft = recipe.soft_labels
        # They are made by the recipe as it is given, whose network, for one, may be another than that of the run.
        ensemble = None if soft is None else comparison.teachers
        return {
            **described(comparison.store, comparison.meta, recipe, comparison.seed, "evaluation"),
            **self.facts,
            "training_set": run.training_set,
            "distilled": None,  # sets of one's own are not shared, but kept files are named by all keys
            "ipc": None if run.training_set == "whole" else distilled.ipc,
            "networks": recipe.num_networks,
            "cut_tiles": recipe.cut_tiles,
            **identified({"soft_labels": None if soft is None else plain(soft), "test_resize": recipe.test_resize}),
            "teacher": None if ensemble is None else [teacher.origin for teacher in ensemble.teachers],
        }

    @contextlib.contextmanager
    def turn(self, comparison: Comparison, run: Run) -> Iterator[tuple[Path, Tensor | None]]:
        """Keep other evaluations from making the same training meanwhile; all processes must call this together.

        Args:
            comparison: The evaluation.
            run: One of its runs.

        Yields:
            The file of the training, and its accuracies in percent, (K,), if they are there already.

        Raises:
            BaconError: The folder cannot be written, or the file is damaged.
        """
        text = json.dumps(self.about(comparison, run), sort_keys=True)
        name = f"{run.training_set}-{blake2b(text.encode(errors='surrogateescape'), digest_size=10).hexdigest()}"
        path = self.folder / f"{name}.json"
        try:
            together(lambda: self.folder.mkdir(parents=True, exist_ok=True))
            file = open(self.folder / f".{name}.lock", "a")  # noqa: SIM115
        except OSError as error:
            raise BaconError(
                f"accuracies cannot be kept in '{self.folder}' ({error.strerror or error}): give another --shared."
            ) from error
        with file:
            wait_for_lock(file, f"another evaluation that makes '{path}'")
            yield path, gather_objects(_read(path, comparison.recipe.num_networks))[0]

    def keep(self, path: Path, comparison: Comparison, run: Run, accuracies: Tensor) -> None:
        """Keep the accuracies of a training; all processes must call this together.

        Args:
            path: Its file, from :meth:`turn`.
            comparison: The evaluation.
            run: The run.
            accuracies: Accuracies in percent, (K,).
        """
        made = {"version": package_version(), "commit": git_commit()}
        found = {"accuracies": accuracies.tolist(), "training": self.about(comparison, run), **made}

        def write() -> None:
            if process_rank() == 0:
                write_text(path, json.dumps(found, indent=2) + "\n")

        first_then_others(write)


def _read(path: Path, networks: int) -> Tensor | None:
    """Read the accuracies in a file, (K,); None if there is none."""
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))["accuracies"]
        if not isinstance(values, list) or len(values) != networks or not all(0 <= float(v) <= 100 for v in values):
            raise ValueError(f"it should hold {networks} accuracies in percent")
        return torch.tensor([float(v) for v in values])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BaconError(f"cannot read '{path}' ({error}): remove it, and it is made again.") from error
