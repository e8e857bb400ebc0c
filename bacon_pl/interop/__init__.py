"""Distilled sets of other projects: reading their files safely, and writing our sets in their formats."""

from bacon_pl.interop.fkd import open_labels, write_labels
from bacon_pl.interop.meta import dataset_meta
from bacon_pl.interop.pixels import PixelSpace
from bacon_pl.interop.sets import is_ours, open_set
from bacon_pl.interop.write import write_set

__all__ = ["PixelSpace", "dataset_meta", "is_ours", "open_labels", "open_set", "write_labels", "write_set"]
