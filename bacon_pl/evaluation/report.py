"""The results of an evaluation as written to ``results.json``."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
import torchvision
from torch import Tensor

from bacon_pl.distilled_set import DistilledSet, git_commit, package_version
from bacon_pl.evaluation.kinds import labels_note
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
        "storage": None if run_result.storage is None else dict(run_result.storage),
        "train_images": run_result.train_images,
    }


def _std(values: Tensor) -> float | None:
    """Compute the standard deviation of (n,) values; None for a single value."""
    return float(spread(values)) if len(values) > 1 else None


def _finite(value: Any) -> Any:
    """Replace numbers that are not finite, for which JSON has no words, by None."""
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _run(run_result: RunResult) -> dict[str, Any]:
    per_class = run_result.per_class
    present = per_class[0].isfinite()  # JSON has no NaN
    return {
        "network": run_result.architecture,
        "training_set": run_result.training_set,
        "variant": run_result.variant,
        "recipe": run_result.recipe,
        "seed": run_result.seed,
        **({"measured": [dict(pick) for pick in run_result.measured]} if run_result.measured else {}),
        **_numbers(run_result),
        "per_class": {
            "mean": [float(m) if p else None for m, p in zip(per_class.mean(0), present, strict=True)],
            "std": [_std(column) if p else None for column, p in zip(per_class.T, present, strict=True)],
        },
        "final_loss": _finite(run_result.loss[:, -1].tolist()),
        "test_curve": {"epochs": list(run_result.curve_epochs), "per_network": run_result.curve.tolist()},
    }


def results(
    distilled: DistilledSet,
    run_results: Sequence[RunResult],
    config: Mapping[str, Any] | None = None,
    scores: Mapping[str, Any] | None = None,
    bound: Mapping[str, Any] | None = None,
    path: str | os.PathLike[str] | None = None,
    teachers: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Collect the results of an evaluation.

    Args:
        distilled: The evaluated set.
        run_results: Results of all runs. The first is that of the main architecture on the distilled set; the values at
            the top level of the results are those of this architecture.
        config: Resolved configuration of the evaluation.
        scores: Robust scores, or None.
        bound: Bound and risk (see :func:`bacon_pl.evaluation.bounds`), or None.
        path: Path of the set as given by the user, or None.
        teachers: Descriptions of the teachers that labeled images, with their test accuracies.

    Returns:
        A mapping for JSON. Accuracies are in percent (in [0, 1] in ``scores``), and ``std`` is None for a single
        network. ``storage_bytes`` counts pixels at one byte per value, and ``storage`` all that a network needs, in
        bytes. ``labels`` says with which labels the networks learned, ``teachers`` who made them. ``confusion`` is the
        sum of the confusion matrices of the main architecture's networks, with true classes as rows. ``distilled``
        identifies the set.
    """
    main, whitening = run_results[0], distilled.meta.whitening
    both = any(o.variant == "hard" and o.training_set == "distilled" for o in run_results)
    baselines = {o.training_set: _numbers(o) for o in of_main(run_results)[1:]}
    return {
        "dataset": distilled.meta.name,
        "method": distilled.method,
        "ipc": distilled.ipc,
        "factor": distilled.factor,
        "upscaling": distilled.upscaling,
        "network": main.architecture,
        "epochs": main.recipe["epochs"],
        "seed": main.seed,
        **_numbers(main),
        "storage_share": distilled.share,
        "labels": {
            "kind": main.recipe.get("labels"),
            "note": labels_note(main.recipe, both, distilled.soft_labels is not None, len(teachers))
            if main.recipe
            else "",
        },
        "teachers": [dict(teacher) for teacher in teachers],
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
            **({} if whitening is None else {"whitening": whitening.to_json()}),
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
    """Select the results of the main architecture with the unchanged recipe, one per training set, distilled first."""
    return [o for o in run_results if o.architecture == run_results[0].architecture and o.variant == "given"]


def write_results(path: str | os.PathLike[str], numbers: Mapping[str, Any]) -> Path:
    """Write results to a JSON file atomically and return its path; numbers that are not finite become null."""
    text = json.dumps(_finite(numbers), indent=2, ensure_ascii=False, allow_nan=False, default=str)
    return write_text(path, text + "\n")


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write a text file atomically and return its path."""
    target = Path(path)
    # File names may contain lone surrogates, which UTF-8 cannot encode; they are escaped in the same way as in JSON.
    with replacing(target) as file:
        file.write(text.encode(errors="backslashreplace"))
    return target
