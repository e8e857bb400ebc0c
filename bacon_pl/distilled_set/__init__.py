"""The result of a distillation: the set, its file, its pictures and its provenance."""

from bacon_pl.distilled_set.artifact import DistilledSet
from bacon_pl.distilled_set.file import FILE_NAME, FORMAT_VERSION
from bacon_pl.distilled_set.folders import folder_names
from bacon_pl.distilled_set.labels import LabelKind
from bacon_pl.distilled_set.provenance import git_commit, package_version
from bacon_pl.distilled_set.start import recorded_scaling, start_images
from bacon_pl.distilled_set.stored_labels import BatchLabels, StoredLabels

__all__ = [
    "FILE_NAME",
    "FORMAT_VERSION",
    "BatchLabels",
    "DistilledSet",
    "LabelKind",
    "StoredLabels",
    "folder_names",
    "git_commit",
    "package_version",
    "recorded_scaling",
    "start_images",
]
