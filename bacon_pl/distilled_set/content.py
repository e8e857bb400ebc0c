"""What a distilled set consists of: its images and labels with all that is needed to use and trace them."""

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
    """The parts of a :class:`~bacon_pl.distilled_set.DistilledSet`, which says what they are and what to do with them.

    Values with the same content are equal.
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
        """Take a copy of the images, from any device.

        Args:
            images: (C·ipc, ch, H, W), finite, normalized pixel space, class by class.
            labels: (C·ipc,), integers in [0, C), ascending, ipc of each class.
            meta: The dataset that was distilled.
            factor: Partition factor, at least 1; divides H and W.
            method: Name of the distillation method.
            config: Resolved configuration of the run; values that JSON does not know are kept as their ``str``.
            seed: Seed of the run.
            version: Version of this package; by default the one that runs.
            commit: Git commit, as :func:`git_commit` finds it.
            step_size: Learning rate that was learned with the images, positive; None where there is none.

        Raises:
            BaconError: The parts do not fit each other, or a pixel is not finite.
        """
        # A copy: the trained parameter that comes in here goes on changing.
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
        """Bytes of the image tensor as the file stores it, in float32; labels and description come on top."""
        return self.images.numel() * self.images.element_size()

    @property
    def pixel_bytes(self) -> int:
        """Bytes of the canvases at one byte per value, which is how the field counts images per class.

        A count, not a measurement: the values are trained floats and lose a little when rounded to bytes.
        """
        return self.images.numel()

    @property
    def share(self) -> float | None:
        """``pixel_bytes`` as a fraction of the uint8 training images, or None where their size is unknown."""
        return self.pixel_bytes / self.meta.train_bytes if self.meta.train_bytes else None

    @cached_property
    def checksum(self) -> str:
        """Eight hexadecimal digits that name the set: the CRC-32 of its images, labels, description and provenance.

        It is the checksum that the set's file records, so a set keeps it through saving and loading, and sets that
        differ in anything have different ones. It is computed once: do not write to a set's images afterwards.
        """
        return f"{checksum(self.images, self.labels, describe(self.meta, self._fields())):08x}"

    def _fields(self) -> dict[str, Any]:
        """What a file keeps beside images, labels and dataset."""
        return {name: getattr(self, name) for name in _FIELDS}

    def __eq__(self, other: object) -> bool:
        """Sets are equal if their files are: images and labels to the bit, dataset, factor, step size, provenance."""
        if not isinstance(other, Content):
            return NotImplemented
        if self is other:
            return True
        # Bits, not values: 0.0 equals -0.0, but the checksum, and so the hash, tells them apart.
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
        """Check that images of a dataset can test what is trained on this set.

        Args:
            meta: The dataset to test on.

        Raises:
            BaconError: Classes, size, channels or normalization differ.
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
        statistics = zip(self.meta.mean + self.meta.std, meta.mean + meta.std, strict=True)
        if any(abs(a - b) > 1e-3 for a, b in statistics):
            raise BaconError(
                f"the distilled set is normalized by mean {self.meta.mean} and std {self.meta.std}, the data by "
                f"{meta.mean} and {meta.std}: give its numbers as --data.mean and --data.std."
            )


def _short(value: object) -> str:
    return one_line(", ".join(map(str, value)) if isinstance(value, tuple) else value, 80)
