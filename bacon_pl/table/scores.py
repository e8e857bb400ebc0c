"""The robust scores of a table's sets, LRS and ARS: trainings that several sets need are made once for all of them.

They need networks on all real images, on random ones, and on every set without augmentation (see
:mod:`bacon_pl.evaluation.scores`), while the accuracies with the evaluation's recipe are those of the table.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from bacon_pl.configured import remake
from bacon_pl.data import DataModule
from bacon_pl.distilled_set import FILE_NAME, DistilledSet
from bacon_pl.evaluation import LABELS, Comparison, Labels, Run, write_text
from bacon_pl.learners import Recipe
from bacon_pl.pace import duration
from bacon_pl.table.finished import read_all
from bacon_pl.table.measured import asked_before, damaged, read_measured
from bacon_pl.table.runner import Job

SCORES = "scores.json"
KEPT = "scores"
"""Folder, in that of the table, with the accuracies of every training that was made for the scores."""
TOLD = ("lrs", "ars", "hlr", "ior")


def score_sets(jobs: Iterable[Job], out: Path, seed: int, device: torch.device) -> None:
    """Score the sets that have not been scored yet, and write the scores of each into its folder.

    Args:
        jobs: Runs of the table; those that have not been made are left out.
        out: Folder of the table.
        seed: Seed of the networks on real images and of the random draws, the same for all sets.
        device: Device for the networks.

    Raises:
        BaconError: A set or its dataset cannot be read.
    """
    waiting: dict[str, list[Job]] = {}
    for job in jobs:
        if job.done and (job.folder / FILE_NAME).is_file() and asked_before(job.folder / SCORES) != _asked(job, seed):
            waiting.setdefault(json.dumps([_root(job), job.record["data"]], sort_keys=True), []).append(job)
    for own in waiting.values():
        print(f"scoring {len(own)} set{'s' * (len(own) != 1)} of {own[0].cell.dataset} …", flush=True)
        spaces: dict[str | None, DataModule] = {}
        for job in own:
            distilled = DistilledSet.load(job.folder)
            space = None if distilled.meta.whitening is None else distilled.meta.whitening.kind
            if space not in spaces:
                spaces[space] = _data(job, space)
            text = json.dumps(_scored(job, distilled, spaces[space], out, seed, device), indent=2)
            write_text(job.folder / SCORES, text + "\n")


def _scored(
    job: Job, distilled: DistilledSet, data: DataModule, out: Path, seed: int, device: torch.device
) -> dict[str, Any]:
    """Make the trainings that are missing, and return the scores of a set with what they were asked with."""
    distilled.check_fits(data.meta)
    recipe = replace(Recipe(**remake(Recipe, job.record["evaluation"])), whole_epochs=job.whole_epochs)
    labels = cast("list[Labels]", [word for word in str(job.record.get("labels") or "").split(",") if word])
    own, shared = (
        Comparison(distilled, data.train, data.meta, recipe, {"network": recipe.network}, (), True, s, labels)
        for s in (job.seed, seed)
    )
    there = read_all(job.folder)
    assert there is not None
    found: dict[Run, Tensor] = {Run(own.main, "distilled"): torch.tensor(there.accuracies)}
    if there.hard:
        found[Run(own.main, "distilled", "hard")] = torch.tensor(there.hard)
    for run in dict.fromkeys(own.scored_runs.values()):
        if run not in found:
            found[run] = _kept(own if run.training_set == "distilled" else shared, run, job, data, out, device)
    return {"asked": _asked(job, seed), **own.scores_of(found)}


def _kept(comparison: Comparison, run: Run, job: Job, data: DataModule, out: Path, device: torch.device) -> Tensor:
    """Return the accuracies of a run's networks, of an earlier training if there was one."""
    whole = run.training_set == "whole"
    recipe = comparison.variant(run.variant)
    key = {
        "training_set": run.training_set,
        "checksum": comparison.distilled.checksum if run.training_set == "distilled" else None,
        "ipc": comparison.distilled.ipc if run.training_set == "random" else None,
        "variant": run.variant,
        "evaluation": job.record["evaluation"],
        "labels": "hard" if recipe.soft_labels is None else job.record.get("labels"),
        "whole_epochs": recipe.whole_epochs if whole else None,
        "data": job.record["data"],
        "whitening": data.whitening,
        "seed": comparison.seed,
    }
    name = sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    path = out / KEPT / f"{run.training_set}-{name}.json"
    kept = read_measured(path)
    if kept is None:
        accuracies = _accuracies(comparison, run, data, device)
        path.parent.mkdir(exist_ok=True)
        write_text(path, json.dumps({"asked": key, "accuracies": accuracies.tolist()}, indent=2) + "\n")
        return accuracies
    try:
        return torch.tensor([float(value) for value in kept["accuracies"]])
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, error) from error


def _accuracies(comparison: Comparison, run: Run, data: DataModule, device: torch.device) -> Tensor:
    """Train the networks of a run and return their test accuracies in percent, (K,)."""
    begun = time.monotonic()
    how = {"hard": ", hard labels", "plain": ", without augmentation"}.get(run.variant, "")
    name = f"{LABELS[run.training_set]}{how}"
    learners = comparison.module(run, device).learners.to(device)
    number, epochs = len(learners.networks), learners.recipe.epochs
    print(f"  {number} network{'s' * (number != 1)} on {name}, {epochs} epoch{'s' * (epochs != 1)} …", flush=True)
    learners.fit()
    test = data.test.to(device)
    accuracies = learners.accuracies(test.images, test.labels).cpu()
    print(f"    {name}: {accuracies.mean():.1f} % ({duration(time.monotonic() - begun)})", flush=True)
    return accuracies


def _data(job: Job, whitening: str | None) -> DataModule:
    """Return the images of a run's evaluation, in the space of its set."""
    given = remake(DataModule, {name: v for name, v in job.record["data"].items() if name != "whitening"})
    data = DataModule(**given, root=_root(job))
    if whitening is not None:
        data.whiten(cast(Literal["zca"], whitening))  # which checks it
    data.prepare_data()
    data.setup("test")
    return data


def _root(job: Job) -> str:
    arguments = list(job.arguments["eval"])
    return arguments[len(arguments) - arguments[::-1].index("--data.root")]


def _asked(job: Job, seed: int) -> dict[str, Any]:
    """All that the scores of a run depend on but its own settings, which do not change."""
    kept = ("evaluation", "labels", "data")
    return {**{name: job.record.get(name) for name in kept}, "whole_epochs": job.whole_epochs, "seed": seed}


def read_scores(folder: Path) -> Mapping[str, float] | None:
    """Read the scores of a run's set.

    Args:
        folder: Folder of the run.

    Returns:
        ``lrs``, ``ars``, ``hlr`` and ``ior``; None if the set has not been scored.

    Raises:
        BaconError: The file is damaged.
    """
    found = read_measured(folder / SCORES)
    if found is None:
        return None
    try:
        return {name: float(found[name]) for name in TOLD}
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(folder / SCORES, error) from error
