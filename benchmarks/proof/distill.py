"""A program: ``bacon fit`` with a clock. ``python -m benchmarks.proof.distill JSON WORD...``.

The words are those of ``bacon fit``; the JSON object has the clock's ``path`` and ``every``, and ``random``, whether
the data are random pixels of CIFAR-10's size (the words name them).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from bacon_pl import cli
from bacon_pl.commands.fit import Fit
from benchmarks.proof.clock import Clock
from benchmarks.workload import synthetic

RANDOM = (10, 5000, 32)
"""Classes, images of each and side of the random pixels."""


def main() -> None:
    """Run the command."""
    given = json.loads(sys.argv[1])
    if given["random"]:
        synthetic(*RANDOM)

    class Timed(Fit):
        """The command, whose Trainer has a clock that is none of the run's settings."""

        def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
            trainer = super().instantiate_trainer(**kwargs)
            callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
            callbacks.insert(0, Clock(Path(given["path"]), given["every"]))
            return trainer

    cli.COMMANDS["fit"] = lambda: Timed
    cli.main(["fit", *sys.argv[2:]])


if __name__ == "__main__":
    main()
