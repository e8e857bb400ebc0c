"""The results of an evaluation for Python code and notebooks, with the content of ``results.json``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bacon_pl.errors import BaconError, one_line
from bacon_pl.evaluation.lines import accuracy_rule, summary
from bacon_pl.evaluation.markdown import accuracy_table


class Results:
    """The results of an evaluation.

    Accuracies are top-1 accuracies on the test images in percent. They were not used to select anything.

    Args:
        numbers: Content of ``results.json``, as collected by :func:`bacon_pl.evaluation.results`.

    Attributes:
        numbers: Content of ``results.json``.

    Raises:
        BaconError: The mapping does not contain the results of an evaluation.

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
            raise BaconError(
                f"these are not the results of an evaluation: they lack '{missing[0]}'; give a results.json."
            )
        self.numbers = dict(numbers)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Results:
        """Read results from a file.

        Args:
            path: A ``results.json`` file, or the folder that contains it.

        Returns:
            The results.

        Raises:
            BaconError: The file does not exist or is damaged.
        """
        file = Path(path) / "results.json" if os.path.isdir(path) else Path(path)
        try:
            numbers = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BaconError(f"cannot read results from '{file}' ({one_line(error)}): give a results.json.") from error
        if not isinstance(numbers, dict):
            raise BaconError(f"'{file}' does not contain the results of an evaluation: give a results.json.")
        return cls(numbers)

    @property
    def accuracy(self) -> float:
        """Mean accuracy in percent of the main architecture's networks, trained on the set."""
        return float(self.numbers["accuracy"]["mean"])

    @property
    def std(self) -> float | None:
        """Standard deviation of the networks' accuracies in percent; None for a single network."""
        return self.numbers["accuracy"]["std"]

    @property
    def per_network(self) -> list[float]:
        """Accuracy of each network in percent."""
        return list(self.numbers["accuracy"]["per_network"])

    @property
    def baselines(self) -> dict[str, float]:
        """Mean accuracies in percent by baseline: ``tiles``, ``random``, ``herding``, ``k_center``, ``whole``."""
        return {name: float(found["accuracy"]["mean"]) for name, found in self.numbers["baselines"].items()}

    def __str__(self) -> str:
        return summary(self.numbers)

    def __repr__(self) -> str:
        std = "" if self.std is None else f" ± {self.std:.1f}"
        others = "".join(f", {name} {mean:.1f}" for name, mean in self.baselines.items())
        return f"Results({self.numbers['network']}: {self.accuracy:.1f}{std} %{others})"

    def _repr_markdown_(self) -> str:
        return f"{accuracy_table(self.numbers['runs'])}\n\n{accuracy_rule(self.numbers).capitalize()}."
