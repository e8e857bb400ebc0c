"""One trial: a set that is distilled from a part of the training images, and judged by the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import bacon_pl
from bacon_pl.data import DatasetMeta, InMemoryData, LabeledImages
from bacon_pl.data.split import stratified_split
from bacon_pl.errors import BaconError
from bacon_pl.table.sources import training_images


@dataclass(frozen=True)
class Split:
    """Training images for trials, and those that they are judged by.

    Args:
        meta: Description of the dataset.
        kept: The images that sets are distilled from.
        held: Those held out.
    """

    meta: DatasetMeta
    kept: LabeledImages
    held: LabeledImages


def hold_out(dataset: str, root: str, share: float) -> Split:
    """Read a dataset's training images and hold a share of every class out, the same images every time.

    The test images are not loaded.

    Args:
        dataset: Catalog name.
        root: Folder of the data.
        share: Share of the images that are held out, in (0, 1).

    Raises:
        BaconError: The data are missing or damaged, or no image would be held out.
    """
    train, meta = training_images(dataset, Path(root).expanduser())
    kept, held = stratified_split(train.labels, share, 0, "tuning split")
    if not len(held):
        raise BaconError(f"--held_out {share} holds no image of {dataset} out: give a larger share.")
    return Split(meta, train.subset(kept), train.subset(held))


def held_out_accuracies(
    split: Split,
    data: Mapping[str, Any],
    ipc: int,
    method: Path,
    budget: Path,
    iterations: int,
    seed: int,
    settings: Mapping[str, Any],
) -> list[float]:
    """Distill a set of the kept images and test it on those held out.

    Args:
        split: The images.
        data: Settings of the data by name, of which ``batch_real`` and ``pool_batch`` are used.
        ipc: Images per class.
        method: The method's configuration.
        budget: The budget's configuration.
        iterations: Number of iterations.
        seed: Seed of the distillation and of the evaluation.
        settings: Other settings by dotted names.

    Returns:
        Accuracies in percent, one for each network of the evaluation.
    """
    sizes = {name: settings.get(f"data.{name}", data[name]) for name in ("batch_real", "pool_batch")}
    others = {name: value for name, value in settings.items() if name.removeprefix("data.") not in sizes}
    meta = replace(split.meta, train_bytes=split.kept.images.numel())
    distilled = bacon_pl.distill(
        InMemoryData(split.kept, name=meta.name, meta=meta, **sizes),
        ipc,
        method,
        budget=budget,
        iterations=iterations,
        seed=seed,
        progress=False,
        settings={**others, "validation.every_n_steps": 0},  # what is chosen is chosen by the trial
    )
    found = bacon_pl.evaluate(distilled, InMemoryData(split.kept, split.held, meta=meta), seed=seed, progress=False)
    return found.per_network
