"""What an evaluation found, for Python code and notebooks: the numbers of ``results.json`` with names."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bacon_pl.errors import BaconError, one_line
from bacon_pl.evaluation.lines import accuracy_cells, accuracy_rule, summary


class Results:
    """An evaluation's numbers.

    Accuracies are top-1, on the test images, in percent; nothing was chosen by them.

    Args:
        numbers: What ``results.json`` holds, as :func:`bacon_pl.evaluation.results` collects it.

    Attributes:
        numbers: The same.

    Raises:
        BaconError: They are not an evaluation's.

    Example:
        >>> one = {"mean": 84.0, "std": None, "per_network": [84.0]}
        >>> run = {"network": "convnet", "training_set": "distilled", "variant": "given", "accuracy": one}
        >>> results = Results({"network": "convnet", "accuracy": one, "runs": [run], "baselines": {}})
        >>> print(results)
        Test accuracy in percent, of one network:
        network  distilled
        convnet       84.0
    """

    def __init__(self, numbers: Mapping[str, Any]) -> None:
        if missing := [name for name in ("network", "accuracy", "runs", "baselines") if name not in numbers]:
            raise BaconError(f"these are no evaluation's results: they lack '{missing[0]}'; give a results.json.")
        self.numbers = dict(numbers)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Results:
        """Read results.

        Args:
            path: A ``results.json``, or the folder that holds it.

        Raises:
            BaconError: There is none, or it is damaged.
        """
        file = Path(path) / "results.json" if os.path.isdir(path) else Path(path)
        try:
            numbers = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BaconError(f"cannot read results from '{file}' ({one_line(error)}): give a results.json.") from error
        if not isinstance(numbers, dict):
            raise BaconError(f"'{file}' holds no evaluation's results: give a results.json.")
        return cls(numbers)

    @property
    def accuracy(self) -> float:
        """Mean accuracy of the main architecture's networks on the set."""
        return float(self.numbers["accuracy"]["mean"])

    @property
    def std(self) -> float | None:
        """Standard deviation of their accuracies; None of a single network."""
        return self.numbers["accuracy"]["std"]

    @property
    def per_network(self) -> list[float]:
        """Accuracy of each of them."""
        return list(self.numbers["accuracy"]["per_network"])

    @property
    def baselines(self) -> dict[str, float]:
        """Mean accuracy on real images, by name: ``tiles``, ``random``, ``herding``, ``k_center``, ``whole``."""
        return {name: float(found["accuracy"]["mean"]) for name, found in self.numbers["baselines"].items()}

    def __str__(self) -> str:
        return summary(self.numbers)

    def __repr__(self) -> str:
        std = "" if self.std is None else f" ± {self.std:.1f}"
        others = "".join(f", {name} {mean:.1f}" for name, mean in self.baselines.items())
        return f"Results({self.numbers['network']}: {self.accuracy:.1f}{std} %{others})"

    def _repr_markdown_(self) -> str:
        sets, rows = accuracy_cells(self.numbers["runs"])
        lines = [["network", *sets], ["---", *["---:"] * len(sets)], *([name, *cells] for name, cells in rows.items())]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"{table}\n\n{accuracy_rule(self.numbers).capitalize()}."
