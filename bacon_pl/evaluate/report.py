"""What an evaluation leaves behind: ``results.json`` and one line for people."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import torch

from bacon_pl.distilled_set import DistilledSet, git_commit, package_version
from bacon_pl.evaluate.module import EvalModule, spread

_LABELS = {"distilled": "distilled", "random": "random real", "whole": "all real"}


def _numbers(module: EvalModule) -> dict[str, Any]:
    accuracies = module.per_network()
    return {
        "accuracy": {
            "mean": float(accuracies.mean()),
            "std": float(spread(accuracies)),
            "per_network": accuracies.tolist(),
        },
        "storage_bytes": module.storage_bytes,
        "train_images": module.index.shape[1],
    }


def results(
    distilled: DistilledSet, modules: Mapping[str, EvalModule], config: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Collect the numbers of an evaluation.

    Args:
        distilled: The set that was evaluated.
        modules: Tested modules by training-set name; ``distilled`` is among them, the others are baselines.
        config: Resolved configuration of the evaluation.

    Returns:
        A mapping for JSON; accuracies are in percent, ``storage_bytes`` counts one byte a value.
    """
    main = modules["distilled"]
    return {
        "dataset": distilled.meta.name,
        "method": distilled.method,
        "ipc": distilled.ipc,
        "factor": distilled.factor,
        "network": type(main.networks[0]).__name__,
        "epochs": main.recipe.epochs,
        "seed": main.seed,
        **_numbers(main),
        "storage_share": distilled.share,
        "baselines": {name: _numbers(module) for name, module in modules.items() if name != "distilled"},
        "distilled": {"seed": distilled.seed, "version": distilled.version, "commit": distilled.commit},
        "config": dict(config or {}),
        "versions": {
            "bacon_pl": package_version(),
            "torch": torch.__version__,
            "lightning": lightning.__version__,
        },
        "commit": git_commit(),
    }


def write_results(path: str | os.PathLike[str], numbers: Mapping[str, Any]) -> Path:
    """Write results as JSON, whole or not at all; returns the file's path."""
    target = Path(path)
    temporary = target.with_suffix(".tmp")
    text = json.dumps(numbers, indent=2, ensure_ascii=False, default=str) + "\n"
    # Names may hold what UTF-8 cannot: half a surrogate pair, from a file's name; its escape is JSON's, too.
    temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    temporary.replace(target)
    return target


def summary(numbers: Mapping[str, Any]) -> str:
    """One line: ``accuracy: distilled 84.1 ± 0.6 % | random real 52.0 ± 2.1 % | all real 97.9 %``."""
    parts = []
    for name, entry in {"distilled": numbers, **numbers["baselines"]}.items():
        accuracy = entry["accuracy"]
        # All real images are one fixed set; its spread is that of the networks alone and stays in the file.
        doubt = "" if name == "whole" else f" ± {accuracy['std']:.1f}"
        parts.append(f"{_LABELS[name]} {accuracy['mean']:.1f}{doubt} %")
    return "accuracy: " + " | ".join(parts)
