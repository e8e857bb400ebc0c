"""Datasets: reading them, splitting them, and drawing from them on the device."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bacon_pl.data.batch import InOrder, IterationBatch
from bacon_pl.data.catalog import CATALOG, DatasetSpec, load_dataset, register
from bacon_pl.data.images import DatasetMeta, LabeledImages, denormalize, normalize
from bacon_pl.data.options import LoadOptions
from bacon_pl.data.whitening import Whitening

if TYPE_CHECKING:
    from bacon_pl.data.datamodule import DataModule
    from bacon_pl.data.in_memory import InMemoryData, labeled_images

__all__ = [
    "CATALOG",
    "DataModule",
    "DatasetMeta",
    "DatasetSpec",
    "InMemoryData",
    "InOrder",
    "IterationBatch",
    "LabeledImages",
    "LoadOptions",
    "Whitening",
    "denormalize",
    "labeled_images",
    "load_dataset",
    "normalize",
    "register",
]


_WITH_LIGHTNING = {"DataModule": "datamodule", "InMemoryData": "in_memory", "labeled_images": "in_memory"}


def __getattr__(name: str) -> Any:
    """Import on first use what needs Lightning, which reading images and distilled sets does not."""
    if name not in _WITH_LIGHTNING:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    found = getattr(importlib.import_module(f"bacon_pl.data.{_WITH_LIGHTNING[name]}"), name)
    globals()[name] = found
    return found
