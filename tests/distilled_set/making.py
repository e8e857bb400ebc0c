"""Distilled sets, good ones and forged files, for the tests of this folder."""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open

from bacon_pl.data.images import DatasetMeta
from bacon_pl.distilled_set import DistilledSet

META = DatasetMeta(
    name="toy",
    class_names=("ant", "bee", "cat"),
    channels=3,
    size=(8, 12),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2023, 0.1994, 0.2010),
    train_bytes=100_000,
)
CONFIG = {"method": {"lambda": 0.8, "clip": None}, "b": [1, 2.5], "a": "ä"}


def make(meta: DatasetMeta = META, ipc: int = 2, factor: int = 2, **fields: Any) -> DistilledSet:
    shape = (meta.num_classes * ipc, meta.channels, *meta.size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    labels = torch.arange(meta.num_classes).repeat_interleave(ipc)
    given_fields = {"method": "bacon", "config": CONFIG, "seed": 7, "version": "1.2.3", "commit": "abc"} | fields
    return DistilledSet(images, labels, meta, factor=factor, **given_fields)


def description_of(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert list(metadata) == ["bacon_pl"]
    description: dict[str, Any] = json.loads(metadata["bacon_pl"])
    return description


def forge(
    path: Path,
    images: torch.Tensor | None = None,
    labels: torch.Tensor | None = None,
    soft_labels: torch.Tensor | None = None,
    without: tuple[str, ...] = (),
    **entries: Any,
) -> Path:
    """Write a file that differs from a good one where told."""
    good = make()
    good.save(path)
    description = description_of(path) | entries
    for key in without:
        del description[key]
    tensors = {
        "images": good.images if images is None else images,
        "labels": good.labels if labels is None else labels,
    }
    if soft_labels is not None:
        tensors["soft_labels"] = soft_labels
    safetensors.torch.save_file(tensors, path, metadata={"bacon_pl": json.dumps(description)})
    return path
