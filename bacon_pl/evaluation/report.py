"""What an evaluation leaves behind: ``results.json``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
import torchvision
from torch import Tensor

from bacon_pl.distilled_set import DistilledSet, git_commit, package_version
from bacon_pl.evaluation.run_result import RunResult
from bacon_pl.learners import spread
from bacon_pl.runtime import replacing


def _numbers(run_result: RunResult) -> dict[str, Any]:
    accuracies = run_result.accuracies
    return {
        "accuracy": {
            "mean": float(accuracies.mean()),
            "std": _std(accuracies),
            "per_network": accuracies.tolist(),
        },
        "storage_bytes": run_result.storage_bytes,
        "train_images": run_result.train_images,
    }


def _std(values: Tensor) -> float | None:
    """The standard deviation of (n,) values; a single one has none."""
    return float(spread(values)) if len(values) > 1 else None


def _run(run_result: RunResult) -> dict[str, Any]:
    per_class = run_result.per_class
    present = per_class[0].isfinite()  # JSON has no NaN
    return {
        "network": run_result.architecture,
        "training_set": run_result.training_set,
        "variant": run_result.variant,
        "recipe": run_result.recipe,
        "seed": run_result.seed,
        **_numbers(run_result),
        "per_class": {
            "mean": [float(m) if p else None for m, p in zip(per_class.mean(0), present, strict=True)],
            "std": [_std(column) if p else None for column, p in zip(per_class.T, present, strict=True)],
        },
        "final_loss": run_result.loss[:, -1].tolist(),
        "test_curve": {"epochs": list(run_result.curve_epochs), "per_network": run_result.curve.tolist()},
    }


def results(
    distilled: DistilledSet,
    run_results: Sequence[RunResult],
    config: Mapping[str, Any] | None = None,
    scores: Mapping[str, Any] | None = None,
    bound: Mapping[str, Any] | None = None,
    path: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Collect the numbers of an evaluation.

    Args:
        distilled: The set that was evaluated.
        run_results: Of all runs; the first is the main architecture's on the distilled set, and what is said of the
            evaluation as a whole is said of this architecture.
        config: Resolved configuration of the evaluation.
        scores: Robust scores.
        bound: Bound and risk (see :func:`bacon_pl.evaluation.bounds`).
        path: Where the set was read from, as the user gave it.

    Returns:
        A mapping for JSON; accuracies are in percent (those in ``scores`` in [0, 1]), and a single network's have no
        standard deviation: ``std`` is None. ``storage_bytes`` counts one byte a value. ``confusion`` sums what the main
        architecture's networks took images of class i (row) for. ``distilled`` says which set it was.
    """
    main = run_results[0]
    baselines = {o.training_set: _numbers(o) for o in of_main(run_results)[1:]}
    return {
        "dataset": distilled.meta.name,
        "method": distilled.method,
        "ipc": distilled.ipc,
        "factor": distilled.factor,
        "network": main.architecture,
        "epochs": main.recipe["epochs"],
        "seed": main.seed,
        **_numbers(main),
        "storage_share": distilled.share,
        "confusion": main.confusion.sum(0).tolist(),
        "baselines": baselines,
        "scores": None if scores is None else dict(scores),
        "bound": None if bound is None else dict(bound),
        "classes": list(distilled.meta.class_names),
        "runs": [_run(run_result) for run_result in run_results],
        "distilled": {
            "path": None if path is None else os.fspath(path),
            "checksum": distilled.checksum,
            "method": distilled.method,
            "seed": distilled.seed,
            "version": distilled.version,
            "commit": distilled.commit,
        },
        "config": dict(config or {}),
        "versions": {
            "bacon_pl": package_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "lightning": lightning.__version__,
        },
        "commit": git_commit(),
    }


def of_main(run_results: Sequence[RunResult]) -> list[RunResult]:
    """The main architecture's results with the recipe given: one per training set, the distilled set's first."""
    return [o for o in run_results if o.architecture == run_results[0].architecture and o.variant == "given"]


def write_results(path: str | os.PathLike[str], numbers: Mapping[str, Any]) -> Path:
    """Write results as JSON, whole or not at all; returns the file's path."""
    return write_text(path, json.dumps(numbers, indent=2, ensure_ascii=False, default=str) + "\n")


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write a file, whole or not at all; returns its path."""
    target = Path(path)
    # Names may hold what UTF-8 cannot: half a surrogate pair, from a file's name; its escape is JSON's, too.
    with replacing(target) as file:
        file.write(text.encode(errors="backslashreplace"))
    return target
