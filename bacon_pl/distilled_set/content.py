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
from bacon_pl.distilled_set.file import checksum, describe, shape_flaw, value_flaw
from bacon_pl.distilled_set.provenance import package_version
from bacon_pl.errors import BaconError, one_line

_FIELDS = ("factor", "method", "config", "seed", "version", "commit", "step_size")


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
    ) -> None:
        """Create a set from a copy of images on any device.

        Args:
            images: (C·ipc, ch, H, W), finite, in the normalized or whitened space of ``meta``, class by class.
            labels: (C·ipc,), integers in [0, C), ascending, ipc of each class.
            meta: Description of the dataset that was distilled.
            factor: Partition factor, at least 1; it must divide H and W.
            method: Name of the distillation method.
            config: Resolved configuration of the run; values that JSON cannot represent are stored as their ``str``.
            seed: Seed of the run.
            version: Version of this package; by default the installed version.
            commit: Git commit, as found by :func:`git_commit`.
            step_size: Positive learning rate that was learned together with the images, or None.

        Raises:
            BaconError: The arguments are inconsistent, or a pixel is not finite.
        """
        # A copy, since the trained parameter passed here continues to change.
        self.images = images.detach().to("cpu", torch.float32).clone(memory_format=torch.contiguous_format)
        self.labels = labels.detach().to("cpu", torch.int64).clone()
        self.meta = meta
        self.factor = factor
        self.method = method
        self.config: dict[str, Any] = json.loads(json.dumps(dict(config or {}), default=str))
        self.seed = seed
        self.version = package_version() if version is None else version
        self.commit = commit
        self.step_size = step_size
        shapes = tuple(self.images.shape), tuple(self.labels.shape)
        if step_size is not None and not (step_size > 0 and math.isfinite(step_size)):
            raise BaconError(f"a distilled set's step_size must be positive and finite, or None, got {step_size}.")
        if flaw := shape_flaw(*shapes, meta, factor) or value_flaw(self.images, self.labels, meta):
            raise BaconError(f"cannot make a distilled set of {meta.name}: {flaw}.")

    @property
    def ipc(self) -> int:
        """Stored images (canvases) per class."""
        return len(self.images) // self.meta.num_classes

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
    def share(self) -> float | None:
        """``pixel_bytes`` as a fraction of the uint8 training images, or None if their size is unknown."""
        return self.pixel_bytes / self.meta.train_bytes if self.meta.train_bytes else None

    @cached_property
    def checksum(self) -> str:
        """Eight hexadecimal digits that identify the set: the CRC-32 of its images, labels, description and provenance.

        The set's file records this checksum, so it stays the same when a set is saved and loaded. It is computed only
        once, so do not modify a set's images afterwards.
        """
        return f"{checksum(self.images, self.labels, describe(self.meta, self._fields())):08x}"

    def _fields(self) -> dict[str, Any]:
        """Return the values that a file stores besides images, labels and the dataset's description."""
        return {name: getattr(self, name) for name in _FIELDS}

    def __eq__(self, other: object) -> bool:
        """Compare images, labels, description and provenance bit by bit, as if comparing the files of the sets."""
        if not isinstance(other, Content):
            return NotImplemented
        if self is other:
            return True
        # Bits, not values: 0.0 equals -0.0, but their checksums, and therefore their hashes, differ.
        bits, others = self.images.view(torch.int32), other.images.view(torch.int32)
        mine, theirs = (json.dumps(describe(s.meta, s._fields()), sort_keys=True) for s in (self, other))
        return mine == theirs and torch.equal(bits, others)

    def __hash__(self) -> int:
        return int(self.checksum, 16)

    def __repr__(self) -> str:
        return (
            f"DistilledSet({self.meta.name}, method={self.method!r}, {self.meta.num_classes} classes × {self.ipc} "
            f"images of {'×'.join(map(str, self.images.shape[1:]))}, factor={self.factor}, seed={self.seed})"
        )

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


def _short(value: object) -> str:
    return one_line(", ".join(map(str, value)) if isinstance(value, tuple) else value, 80)
