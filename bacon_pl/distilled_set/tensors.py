"""The tensors of a distilled set with the checks of their shapes and values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from bacon_pl import partition
from bacon_pl.data.images import DatasetMeta
from bacon_pl.distilled_set.labels import KINDS, LabelKind, class_order, soft_shape_flaw, soft_value_flaw
from bacon_pl.errors import one_line


class Tensors(NamedTuple):
    """The tensors of a set, on the CPU.

    Attributes:
        images: (N, ch, H, W), float32.
        labels: (N,), int64.
        soft_labels: (N, C) or (N, factor², C), float16, or None.
    """

    images: Tensor
    labels: Tensor
    soft_labels: Tensor | None = None

    def held(self) -> dict[str, Tensor]:
        """Return the tensors that are there by name."""
        return {name: tensor for name, tensor in self._asdict().items() if tensor is not None}

    def in_class_order(self) -> Tensors:
        """Sort the rows stably by class; returns the same object if they are in order."""
        order = class_order(self.labels)
        return self if order is None else Tensors(**{name: part[order] for name, part in self.held().items()})


def kind_flaw(soft: bool, kind: object) -> str | None:
    """Describe what is wrong with the kind of soft labels that are there or not, or return None."""
    if soft and kind not in KINDS:
        return f"it must be said whether the soft labels are {' or '.join(KINDS)} (label_kind)"
    if not soft and kind is not None:
        return "there is a kind of soft labels (label_kind) without soft labels"
    return None


def shape_flaw(shapes: Mapping[str, tuple[int, ...]], meta: DatasetMeta, factor: int) -> str | None:
    """Describe what is wrong with the shapes of a set's parts, as part of a sentence, or return None.

    Args:
        shapes: Shapes of the tensors by name.
        meta: Description of the dataset.
        factor: Partition factor.
    """
    images, labels = shapes["images"], shapes["labels"]
    shape = (meta.channels, *meta.size)
    if len(meta.mean) != meta.channels or len(meta.std) != meta.channels:
        return f"there are {len(meta.mean)} means and {len(meta.std)} deviations for {meta.channels} channels"
    if len(images) != 4 or images[1:] != shape:
        return f"the images have shape {images} where (N, {', '.join(map(str, shape))}) is needed"
    if labels != images[:1]:
        return f"there are {images[0]} images but labels of shape {labels}"
    if images[0] < meta.num_classes:
        return f"{images[0]} images are too few for {meta.num_classes} classes, each of which needs at least one"
    if factor not in partition.allowed_factors(meta.size):
        return f"partition factor {factor} does not cut images of {meta.size[0]}×{meta.size[1]} pixels into tiles"
    if "soft_labels" in shapes:
        return soft_shape_flaw(shapes["soft_labels"], images[0], meta.num_classes, factor)
    return None


def value_flaw(tensors: Tensors, meta: DatasetMeta, kind: LabelKind | None) -> str | None:
    """Describe what is wrong with the values of a set with correct shapes, as part of a sentence, or return None."""
    images, labels, soft_labels = tensors
    classes = meta.num_classes
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        return f"the labels run from {int(labels.min())} to {int(labels.max())} but there are {classes} classes"
    missing = (labels.bincount(minlength=classes) == 0).nonzero().flatten().tolist()
    if missing:
        name = one_line(meta.class_names[missing[0]], 40)
        return f"class {missing[0]} ('{name}') has no image, and every class needs at least one"
    if not bool(images.isfinite().all()):
        return "some pixels are not finite numbers, as after a training run that diverged"
    return None if soft_labels is None or kind is None else soft_value_flaw(soft_labels, kind)
