"""Datasets: reading them, splitting them, and drawing from them on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bacon_pl.data.batch import InOrder, IterationBatch
from bacon_pl.data.catalog import CATALOG, DatasetSpec, load_dataset, register
from bacon_pl.data.images import DatasetMeta, LabeledImages, denormalize, normalize
from bacon_pl.data.in_memory import InMemoryData, labeled_images
from bacon_pl.data.options import LoadOptions

if TYPE_CHECKING:
    from bacon_pl.data.datamodule import DataModule

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
    "denormalize",
    "labeled_images",
    "load_dataset",
    "normalize",
    "register",
]


def __getattr__(name: str) -> Any:
    """Import ``DataModule`` on first use: it needs Lightning, which reading images and distilled sets does not."""
    if name != "DataModule":
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from bacon_pl.data.datamodule import DataModule

    globals()[name] = DataModule
    return DataModule
