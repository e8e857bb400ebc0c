"""What is found in the files of another project, before it becomes a distilled set."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bacon_pl.data.images import DatasetMeta
from bacon_pl.data.whitening import Whitening
from bacon_pl.distilled_set import LabelKind
from bacon_pl.distilled_set.file import is_whitening
from bacon_pl.errors import BaconError
from bacon_pl.interop.pixels import SPACES, PixelSpace

_AGREES = 0.5
"""Soft labels whose largest numbers agree with the order of the classes in no more than this share are not in it."""

_SUM = 1e-3  # by which rows of probabilities, perhaps of half precision, may differ from a sum of 1


@dataclass
class Found:
    """The content of a foreign file.

    Attributes:
        images: (N, …), of any layout and type.
        labels: (N,) classes, or (N, C) soft labels in place of classes.
        factor: Partition factor that the file records, or None.
        pixels: What its numbers are according to the file, or None.
        sign: What files beside it say of its numbers, or None.
        whitening: The whitened space that the file records, or None.
        step_size: Learned step size, or None.
        soft_labels: Soft labels that the file holds beside the classes, or None.
        label_kind: What those are, or None.
    """

    images: Tensor
    labels: Tensor
    factor: int | None = None
    pixels: PixelSpace | None = None
    sign: PixelSpace | None = None
    whitening: Whitening | None = None
    step_size: float | None = None
    soft_labels: Tensor | None = None
    label_kind: LabelKind | None = None


def recorded(source: Path, entries: Mapping[str, Any]) -> dict[str, Any]:
    """Read what this package records in a foreign format beside images and labels.

    Args:
        source: The file, for messages.
        entries: Plain values by name; those of other names, and a foreign program's of the same name, are left out.

    Returns:
        Arguments of :class:`Found`.

    Raises:
        BaconError: The description of a whitening makes no sense.
    """
    found: dict[str, Any] = {}
    if type(entries.get("factor")) is int:
        found["factor"] = entries["factor"]
    if entries.get("pixels") in SPACES:
        found["pixels"] = entries["pixels"]
    if type(entries.get("step_size")) is float:
        found["step_size"] = entries["step_size"]
    if entries.get("label_kind") in ("logits", "probabilities"):
        found["label_kind"] = entries["label_kind"]
    text = entries.get("whitening")
    if isinstance(text, str):
        try:
            described = json.loads(text)
        except (ValueError, RecursionError):
            described = None
        if described is None or not is_whitening(described):
            raise BaconError(f"the whitening in '{source}' makes no sense: fetch or make the file again.")
        found["whitening"] = Whitening.from_json(described)
    return found


def classes(source: Path, labels: Tensor, count: int) -> Tensor:
    """Check labels and convert them to int64.

    Args:
        source: The file, for messages.
        labels: Labels of any shape and type.
        count: Number of images.

    Returns:
        Classes (count,).

    Raises:
        BaconError: They are not one whole number for each image.
    """
    if labels.ndim != 1 or len(labels) != count:
        raise BaconError(
            f"the labels in '{source}' have shape {tuple(labels.shape)}, but one class number is needed for each of "
            f"{count} images."
        )
    whole = labels.to(torch.int64)
    if labels.is_complex() or (labels.is_floating_point() and not torch.equal(whole.to(labels.dtype), labels)):
        raise BaconError(f"the labels in '{source}' are not whole numbers.")
    return whole


def soft(source: Path, labels: Tensor, meta: DatasetMeta) -> tuple[Tensor, LabelKind]:
    """Tell the classes of images, and the kind of their labels, from soft labels that stand in place of classes.

    Files with such labels (TESLA, DATM) have the same number of images for each class, class by class. Rows that are
    never negative and sum to 1 are probabilities, all others are logits.

    Args:
        source: The file, for messages.
        labels: (N, C), floating point.
        meta: Description of the dataset.

    Returns:
        Classes (N,), int64, and the kind.

    Raises:
        BaconError: The labels are not finite, or do not follow that order.
    """
    if not bool(labels.isfinite().all()):
        raise BaconError(f"some soft labels in '{source}' are not finite numbers.")
    count = meta.num_classes
    order = torch.arange(count).repeat_interleave(max(1, len(labels) // count))
    if len(order) != len(labels) or float((labels.argmax(1) == order).float().mean()) <= _AGREES:
        raise BaconError(
            f"the labels in '{source}' have shape {tuple(labels.shape)}, so they are soft, but they do not follow the "
            f"order of the {count} classes, with the same number of images for each, in which such files are written."
        )
    wide = labels.double()
    is_shares = bool((wide >= 0).all()) and bool(((wide.sum(1) - 1).abs() <= _SUM).all())
    return order, "probabilities" if is_shares else "logits"


def warn_of_rounding(source: Path, labels: Tensor) -> None:
    """Warn if soft labels lose precision in a set, which keeps them in float16."""
    change = float((labels.double() - labels.half().double()).abs().max()) if labels.numel() else 0.0
    if change:
        warnings.warn(
            f"the soft labels in '{source}' are {labels.dtype} and are rounded to float16, by {change:.2g} at most.",
            stacklevel=4,
        )
