"""Distilled sets of other projects: reading their files safely, and writing ours in their forms."""

from bacon_pl.foreign.meta import dataset_meta
from bacon_pl.foreign.sets import is_ours, open_set
from bacon_pl.foreign.write import write_set

__all__ = ["dataset_meta", "is_ours", "open_set", "write_set"]
