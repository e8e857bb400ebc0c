"""Trials: each is a set that is distilled from a part of the training images, and judged by the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import bacon_pl
from bacon_pl.data import DatasetMeta, InMemoryData, LabeledImages
from bacon_pl.data.split import stratified_split
from bacon_pl.errors import BaconError
from bacon_pl.table.sources import loading, training_images

SIZES = ("batch_real", "pool_batch")
"""Settings of the data that may be tuned: numbers of real images."""


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


def hold_out(dataset: str, root: str, share: float, data: Mapping[str, Any]) -> Split:
    """Read a dataset's training images and hold a share of every class out, the same images every time.

    The test images are not loaded.

    Args:
        dataset: Catalog name.
        root: Folder of the data.
        share: Share of the images that are held out, in (0, 1).
        data: Settings of the data by name, of which those count by which images are read.

    Raises:
        BaconError: The data are missing or damaged, or no image would be held out.
    """
    train, meta = training_images(dataset, Path(root).expanduser(), loading(data))
    kept, held = stratified_split(train.labels, share, 0, "tuning split")
    if not len(held):
        raise BaconError(f"--held_out {share} holds no image of {dataset} out: give a larger share.")
    return Split(meta, train.subset(kept), train.subset(held))


@dataclass(frozen=True)
class Trials:
    """What all trials of a method have in common: each distills a set of the kept images and tests it on the others.

    Args:
        split: The images.
        data: Settings of the data by name, of which :data:`SIZES` and ``whitening`` are used.
        ipc: Images per class.
        method: The method's configuration.
        budget: The budget's configuration.
        iterations: Number of iterations.
        seed: Seed of the distillation and of the evaluation.
    """

    split: Split
    data: Mapping[str, Any]
    ipc: int
    method: Path
    budget: Path
    iterations: int
    seed: int

    def accuracies(self, settings: Mapping[str, Any]) -> list[float]:
        """Run one trial.

        Args:
            settings: Those that the trial changes, by dotted names.

        Returns:
            Accuracies in percent on the images held out, one for each network of the evaluation.
        """
        kept, held = self.split.kept, self.split.held
        meta = replace(self.split.meta, train_bytes=kept.images.numel())
        sizes = {name: settings.get(f"data.{name}", self.data[name]) for name in SIZES}
        whitening = self.data.get("whitening")
        others = {name: value for name, value in settings.items() if name.removeprefix("data.") not in sizes}
        distilled = bacon_pl.distill(
            InMemoryData(kept, name=meta.name, meta=meta, whitening=whitening, **sizes),
            self.ipc,
            self.method,
            budget=self.budget,
            iterations=self.iterations,
            seed=self.seed,
            progress=False,
            settings={**others, "validation.every_n_steps": 0},  # what is chosen is chosen by the trial
        )
        data = InMemoryData(kept, held, meta=meta, whitening=whitening)
        return bacon_pl.evaluate(distilled, data, seed=self.seed, progress=False).per_network
