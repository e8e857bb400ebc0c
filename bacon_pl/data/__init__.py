"""Datasets: reading them, splitting them, and drawing from them on the device."""

from bacon_pl.data.batch import InOrder, IterationBatch
from bacon_pl.data.catalog import CATALOG, DatasetSpec, load_dataset, register
from bacon_pl.data.datamodule import DataModule
from bacon_pl.data.images import DatasetMeta, LabeledImages, denormalize, normalize
from bacon_pl.data.in_memory import InMemoryData, labeled_images
from bacon_pl.data.options import LoadOptions

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
