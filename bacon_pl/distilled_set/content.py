"""The content of a distilled set: its images and labels with everything needed to use and trace them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from bacon_pl.data.images import DatasetMeta
from bacon_pl.distilled_set.file import checksum, describe, description_flaw
from bacon_pl.distilled_set.labels import LabelKind, counts_text, hard_label_bytes
from bacon_pl.distilled_set.provenance import package_version
from bacon_pl.distilled_set.tensors import Tensors, kind_flaw, shape_flaw, value_flaw
from bacon_pl.errors import BaconError, one_line
from bacon_pl.partition import Upscaling, check_upscaling

_FIELDS = ("factor", "upscaling", "method", "config", "seed", "version", "commit", "step_size", "label_kind")


class Content(Dataset[tuple[Tensor, int]]):
    """The content of a :class:`~bacon_pl.distilled_set.DistilledSet`, where its attributes are documented.

    Objects with the same content are equal.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        meta: DatasetMeta,
        *,
        factor: int = 1,
        method: str = "",
        config: Mapping[str, Any] | None = None,
        seed: int = 0,
        version: str | None = None,
        commit: str | None = None,
        step_size: float | None = None,
        soft_labels: Tensor | None = None,
        label_kind: LabelKind | None = None,
        upscaling: Upscaling = "bilinear",
    ) -> None:
        """Create a set from a copy of images on any device.

        Args:
            images: (N, ch, H, W), finite, in the normalized or whitened space of ``meta``. Images in another order than
                class by class are sorted stably by class, and their soft labels with them.
            labels: (N,), integers in [0, C); every class must occur.
            meta: Description of the dataset that was distilled.
            factor: Partition factor, at least 1; it must divide H and W.
            method: Name of the distillation method.
            config: Resolved configuration of the run; values that JSON cannot represent are stored as their ``str``.
            seed: Seed of the run.
            version: Version of this package; by default the installed version.
            commit: Git commit, as found by :func:`git_commit`.
            step_size: Positive learning rate that was learned together with the images, or None.
            soft_labels: Floating-point numbers (N, C), one row per image, or (N, factor², C), one row per tile, which
                are numbered as in :mod:`bacon_pl.partition`; or None. They are rounded to float16, and (N, 1, C)
                becomes (N, C).
            label_kind: ``logits``, which must be finite in float16, or ``probabilities``, which must not be negative
                and must sum to 1 within the rounding; None without soft labels.
            upscaling: How tiles are scaled up for networks, ``bilinear`` or ``bicubic``.

        Raises:
            BaconError: The arguments are inconsistent, a class has no image, or a number is not finite.
        """
        _check_types(images, labels, soft_labels, meta)
        # A copy, since the trained parameter passed here continues to change.
        pixels = images.detach().to("cpu", torch.float32).clone(memory_format=torch.contiguous_format)
        soft = None if soft_labels is None else _rounded(soft_labels, factor)
        tensors = Tensors(pixels, labels.detach().to("cpu", torch.int64).clone(), soft)
        self.meta = meta
        self.factor = factor
        check_upscaling(upscaling, "upscaling of a distilled set")
        self.upscaling: Upscaling = upscaling if factor != 1 else "bilinear"  # nothing is scaled up
        self.method = method
        self.config: dict[str, Any] = json.loads(json.dumps(dict(config or {}), default=str))
        self.seed = seed
        self.version = package_version() if version is None else version
        self.commit = commit
        self.step_size = step_size
        self.label_kind = label_kind
        is_number = isinstance(step_size, int | float)
        if step_size is not None and not (is_number and step_size > 0 and math.isfinite(step_size)):
            raise BaconError(f"a distilled set's step_size must be positive and finite, or None, got {step_size}.")
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.held().items()}
        if flaw := (
            shape_flaw(shapes, meta, factor)
            or kind_flaw(soft is not None, label_kind)
            or description_flaw(describe(meta, self._fields(), ()))
            or value_flaw(tensors, meta, label_kind)
        ):
            raise BaconError(f"cannot make a distilled set of {one_line(meta.name, 80)}: {flaw}.")
        self.images, self.labels, self.soft_labels = tensors.in_class_order()

    @property
    def ipc(self) -> int:
        """Stored images (canvases) per class; if the numbers of the classes differ, their mean, rounded up.

        So real images that are compared with the set, ``ipc`` of each class, have at least as many pixels.
        """
        return -(-len(self.images) // self.meta.num_classes)

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Stored images (canvases) of each class, at least one."""
        return tuple(self.labels.bincount(minlength=self.meta.num_classes).tolist())

    @property
    def counts_text(self) -> str:
        """The numbers of stored images per class in words, such as ``10``, or ``8 to 12`` if they differ."""
        return counts_text(self.counts)

    @property
    def storage_bytes(self) -> int:
        """Bytes of the image tensor as stored in the file, in float32, without labels and description."""
        return self.images.numel() * self.images.element_size()

    @property
    def pixel_bytes(self) -> int:
        """Bytes of the canvases at one byte per value, the convention for comparing sets with the same ipc.

        This is only a count: the values are trained floats and would lose some precision if rounded to bytes.
        """
        return self.images.numel()

    @property
    def label_bytes(self) -> int:
        """Bytes of the labels: the class of every canvas, and soft labels at two bytes per value.

        A class takes the fewest whole bytes that can number all classes: one for up to 256 classes, two for up to
        65,536. (The file stores classes in eight bytes, for the convenience of its readers.)
        """
        hard = hard_label_bytes(len(self.labels), self.meta.num_classes)
        return hard + (0 if self.soft_labels is None else 2 * self.soft_labels.numel())

    @property
    def step_size_bytes(self) -> int:
        """Bytes of the learned step size: four, as it is learned in float32, or none."""
        return 0 if self.step_size is None else 4

    @property
    def total_bytes(self) -> int:
        """Bytes of everything that a network is trained on: ``pixel_bytes``, ``label_bytes`` and ``step_size_bytes``.

        If labels are made by a teacher during training, the teacher is part of what has to be stored, too, but not of
        the set.
        """
        return self.pixel_bytes + self.label_bytes + self.step_size_bytes

    @property
    def share(self) -> float | None:
        """``pixel_bytes`` as a fraction of the uint8 training images, or None if their size is unknown."""
        return self.pixel_bytes / self.meta.train_bytes if self.meta.train_bytes else None

    @cached_property
    def checksum(self) -> str:
        """Eight hexadecimal digits that identify the set: the CRC-32 of its tensors, description and provenance.

        The set's file records this checksum, so it stays the same when a set is saved and loaded. It is computed only
        once, so do not modify a set's images afterwards.
        """
        return f"{checksum(self._tensors, self._description):08x}"

    @property
    def _tensors(self) -> Tensors:
        return Tensors(self.images, self.labels, self.soft_labels)

    @property
    def _description(self) -> dict[str, Any]:
        return describe(self.meta, self._fields(), self.counts)

    def _fields(self) -> dict[str, Any]:
        """Return the values that a file stores besides tensors and the dataset's description."""
        return {name: getattr(self, name) for name in _FIELDS}

    def __eq__(self, other: object) -> bool:
        """Compare tensors, description and provenance bit by bit, as if comparing the files of the sets."""
        if not isinstance(other, Content):
            return NotImplemented
        if self is other:
            return True
        mine, theirs = (json.dumps(s._description, sort_keys=True) for s in (self, other))
        return mine == theirs and all(map(_same_bits, self._tensors, other._tensors))

    def __hash__(self) -> int:
        return int(self.checksum, 16)

    def __repr__(self) -> str:
        size = "×".join(map(str, self.images.shape[1:]))
        parts = [
            f"{self.meta.num_classes} classes × {self.counts_text} images of {size}",
            f"factor={self.factor}" + (f" ({self.upscaling})" if self.upscaling != "bilinear" else ""),
            f"seed={self.seed}",
        ]
        if self.soft_labels is not None:
            parts.append(f"soft labels: {self.label_kind} per {'image' if self.soft_labels.ndim == 2 else 'tile'}")
        if self.meta.whitening is not None:
            parts.append(f"whitening={self.meta.whitening.kind}")
        return f"DistilledSet({self.meta.name}, method={self.method!r}, {', '.join(parts)})"

    def check_fits(self, meta: DatasetMeta) -> None:
        """Check that networks trained on this set can be tested on a dataset.

        Args:
            meta: Description of the dataset used for testing.

        Raises:
            BaconError: Classes, size, channels, normalization or whitening differ.
        """
        mine = {"classes": self.meta.class_names, "image size": self.meta.size, "channels": self.meta.channels}
        theirs = {"classes": meta.class_names, "image size": meta.size, "channels": meta.channels}
        for what, value in mine.items():
            if value != theirs[what]:
                raise BaconError(
                    f"the distilled set was made from {_short(self.meta.name)} with {what} {_short(value)}, but the "
                    f"data ({meta.name}) have {_short(theirs[what])}: give the dataset it was made from (--data.name, "
                    "--data.root)."
                )
        self.check_space(meta)
        if meta.whitening is not None:
            return  # which is made of pixels that were not normalized
        statistics = zip(self.meta.mean + self.meta.std, meta.mean + meta.std, strict=True)
        if any(abs(a - b) > 1e-3 for a, b in statistics):
            raise BaconError(
                f"the distilled set is normalized by mean {self.meta.mean} and std {self.meta.std}, the data by "
                f"{meta.mean} and {meta.std}: give its numbers as --data.mean and --data.std."
            )

    def check_space(self, meta: DatasetMeta) -> None:
        """Check that this set and a dataset are whitened alike, or neither is.

        Args:
            meta: Description of the dataset.

        Raises:
            BaconError: They are in different spaces.
        """
        mine, theirs = self.meta.whitening, meta.whitening
        if mine == theirs:
            return
        if theirs is None:
            raise BaconError(
                f"the distilled set is {mine}, and the data are not: give --data.whitening {mine.kind if mine else ''} "
                "(in Python, whitening='zca' to the DataModule)."
            )
        if mine is None:
            raise BaconError(
                "the distilled set is in normalized pixel space, and the data are whitened: leave --data.whitening out."
            )
        raise BaconError(
            f"the distilled set is {mine}, and the data are {theirs}, which is another space: give the training images "
            "that it was made from (--data.name, --data.root, --data.image_size)."
        )


def _check_types(images: object, labels: object, soft_labels: object, meta: object) -> None:
    """Raise an error for arguments of other types, which would fail later in ways that are harder to understand."""
    if not isinstance(meta, DatasetMeta):
        raise BaconError(f"a distilled set's meta must be a DatasetMeta, got {type(meta).__name__}.")
    for name, given in (("images", images), ("labels", labels), ("soft_labels", soft_labels)):
        if not isinstance(given, Tensor) and not (given is None and name == "soft_labels"):
            raise BaconError(f"a distilled set's {name} must be a tensor, got {type(given).__name__}.")
    if isinstance(labels, Tensor) and (labels.is_complex() or not torch.equal(labels, labels.to(torch.int64))):
        raise BaconError("a distilled set's labels must be whole numbers, one class for each image.")
    if isinstance(soft_labels, Tensor) and not soft_labels.is_floating_point():
        raise BaconError(f"a distilled set's soft_labels must be floating-point numbers, got {soft_labels.dtype}.")


def _rounded(soft_labels: Tensor, factor: int) -> Tensor:
    """Copy soft labels to float16 on the CPU; labels of the only tile are those of the canvas."""
    rounded = soft_labels.detach().to("cpu", torch.float16).clone(memory_format=torch.contiguous_format)
    return rounded[:, 0] if factor == 1 and rounded.ndim == 3 and rounded.shape[1] == 1 else rounded


def _same_bits(one: Tensor | None, other: Tensor | None) -> bool:
    """Compare tensors by bits, not values: 0.0 equals -0.0, but their checksums, and therefore their hashes, differ."""
    if one is None or other is None:
        return one is other
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[one.element_size()]
    return torch.equal(one.view(integers), other.view(integers))


def _short(value: object) -> str:
    return one_line(", ".join(map(str, value)) if isinstance(value, tuple) else value, 80)
