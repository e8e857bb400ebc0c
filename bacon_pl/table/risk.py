"""The bound and the risk of a table's sets, seen through the same networks, and whether risk ranks as accuracy does.

What a distillation logs is seen through its own networks, and selected real images have no log. So all sets of a cell
are measured once they are made, through two networks that they share.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from scipy.stats import spearmanr

from bacon_pl.bound import BoundSettings
from bacon_pl.configured import remake
from bacon_pl.data import DatasetMeta, LabeledImages
from bacon_pl.data.whitening import fitted
from bacon_pl.distilled_set import FILE_NAME, DistilledSet
from bacon_pl.errors import BaconError
from bacon_pl.evaluation import VIEWS, bounds, markdown_table, write_text
from bacon_pl.learners import Learners, Recipe, TrainingSet, feature_spaces
from bacon_pl.selection import Embed
from bacon_pl.table.runner import Job
from bacon_pl.table.sources import loading, training_images

if TYPE_CHECKING:
    from bacon_pl.table.numbers import Entry

BOUND = "bound.json"
SEEN_BY = ("fresh", "real")
"""Names of the two networks, those of :data:`bacon_pl.evaluation.VIEWS` that do not depend on a set."""


def measure_sets(jobs: Iterable[Job], sources: Mapping[str, tuple[str, Path]], seed: int, device: torch.device) -> None:
    """Measure the bound and the risk of the sets that have not been measured yet, and write each into its folder.

    Args:
        jobs: Runs of the table; those that have not been made are left out.
        sources: Name and folder of each dataset, by its name in the catalog.
        seed: Seed of the two networks and of the draws, the same for all sets.
        device: Device for the networks.

    Raises:
        BaconError: A set or its dataset cannot be read.
    """
    waiting: dict[str, dict[str, list[Job]]] = {}
    for job in jobs:
        if job.done and (job.folder / FILE_NAME).is_file() and _told(job.folder) != _asked(job, seed):
            recipe = json.dumps(job.record["evaluation"], sort_keys=True)
            waiting.setdefault(job.cell.dataset, {}).setdefault(recipe, []).append(job)
    for dataset, by_recipe in waiting.items():
        number = sum(map(len, by_recipe.values()))
        print(f"measuring the bound and the risk of {number} set{'s' * (number != 1)} of {dataset} …", flush=True)
        first = next(iter(by_recipe.values()))[0]
        store, meta = training_images(*sources[dataset], loading(first.record["data"]))
        store = store.to(device)
        for recipe, own in by_recipe.items():
            views: dict[DatasetMeta, dict[str, Embed]] = {}
            for job in own:
                distilled = DistilledSet.load(job.folder)
                whitened = distilled.meta.whitening is not None
                here = replace(meta, whitening=fitted(store.images, name=meta.name)) if whitened else meta
                distilled.check_fits(here)
                if here not in views:
                    views[here] = _views(json.loads(recipe), store, here, seed)
                found = bounds(views[here], distilled, store, BoundSettings(), seed)
                text = json.dumps({"asked": _asked(job, seed), **found}, indent=2)
                write_text(job.folder / BOUND, text + "\n")


def _views(evaluation: Mapping[str, Any], store: LabeledImages, meta: DatasetMeta, seed: int) -> dict[str, Embed]:
    """Return the embeddings of the evaluation's network: with its initial weights, and trained on the real images."""
    recipe = Recipe(**remake(Recipe, evaluation))
    # Not compiled: two networks and a few hundred steps do not repay it.
    recipe = replace(recipe.with_rate_of(None), num_networks=1, soft_labels=None, acceleration="off")
    fresh = Learners(TrainingSet.whole(store), recipe, meta, seed).to(store.images.device)
    return {"fresh": fresh.embed, "real": feature_spaces(recipe, store, meta, seed)[0]}


def _asked(job: Job, seed: int) -> dict[str, Any]:
    """All that the numbers of a run depend on but its own settings, which do not change."""
    return {"evaluation": dict(job.record["evaluation"]), "seed": seed}


def _told(folder: Path) -> Any:
    found = _read(folder)
    return None if found is None else found.get("asked")


def read_bounds(folder: Path) -> dict[str, dict[str, float | None]] | None:
    """Read the bound and the risk of a run's set.

    Args:
        folder: Folder of the run.

    Returns:
        Means over classes by the name of the network and of the number; None if the set has not been measured.

    Raises:
        BaconError: The file is damaged.
    """
    found = _read(folder)
    if found is None:
        return None
    try:
        return {view: {n: found["networks"][view][n] for n in ("bound", "risk")} for view in SEEN_BY}
    except (KeyError, TypeError) as error:
        raise _damaged(folder, error) from error


def _read(folder: Path) -> dict[str, Any] | None:
    path = folder / BOUND
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(folder, error) from error
    if not isinstance(found, dict):
        raise _damaged(folder, TypeError("it holds no numbers by name"))
    return found


def _damaged(folder: Path, error: Exception) -> BaconError:
    return BaconError(f"cannot read '{folder / BOUND}' ({error}): remove it, and it is made again.")


def rank_correlation(entries: Sequence[Entry], view: str) -> float | None:
    """Spearman's rank correlation of risk and accuracy.

    Args:
        entries: Entries of a table; those without risk are left out.
        view: Which network saw the sets.

    Returns:
        The correlation; None if there are fewer than three entries, or all have the same risk or accuracy.
    """
    pairs = [(e.seen(view, "risk"), e.mean) for e in entries]
    known = [(risk, mean) for risk, mean in pairs if risk is not None and mean is not None]
    if len(known) < 3 or any(len(set(values)) == 1 for values in zip(*known, strict=True)):
        return None
    return float(spearmanr(*zip(*known, strict=True)).statistic)


def risk_note(entries: Sequence[Entry]) -> list[str]:
    """Say whether the risk ranks methods as their accuracy does.

    Args:
        entries: Entries of a table.

    Returns:
        Paragraphs in Markdown; none if no risk was measured.
    """
    measured = [entry for entry in entries if entry.seen(SEEN_BY[0], "risk") is not None]
    if not measured:
        return []
    groups: dict[str, list[Entry]] = {}
    for entry in measured:
        groups.setdefault(f"{entry.cell.dataset}, ipc {entry.cell.ipc}", []).append(entry)
    found = {name: [rank_correlation(own, view) for view in SEEN_BY] for name, own in groups.items()}
    rows = [[name, str(len(groups[name])), *map(_signed, values)] for name, values in found.items()]
    means = [_mean(values[i] for values in found.values()) for i in range(len(SEEN_BY))]
    rows.append([f"mean of the {len(groups)} above", str(len(measured)), *map(_signed, means)])
    if len(groups) > 1:
        together = [rank_correlation(measured, view) for view in SEEN_BY]
        rows.append(["all at once, which mixes datasets", str(len(measured)), *map(_signed, together)])
    return [
        "Spearman's rank correlation of the risk (see `bacon eval --bound`) with the accuracy over n methods, tuned "
        "settings counting as methods; means over repeats. It is -1 where a lower risk always goes with a higher "
        "accuracy. The risk is that of a set without augmentation, seen by one network for all sets of a row.",
        markdown_table(["", "n", *(VIEWS[view] for view in SEEN_BY)], rows),
    ]


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


def _signed(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:+.2f}"
