"""The artifact of a distillation: synthetic images with all that is needed to use, trace and show them, as one file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.functional import to_pil_image

from bacon_pl import grid, partition
from bacon_pl.data.images import DatasetMeta, denormalize
from bacon_pl.distilled_set.file import file_in, read, shape_flaw, value_flaw, write
from bacon_pl.distilled_set.folders import folder_names
from bacon_pl.distilled_set.provenance import package_version
from bacon_pl.errors import BaconError, one_line

_FIELDS = ("factor", "method", "config", "seed", "version", "commit", "step_size")


class DistilledSet(Dataset[tuple[Tensor, int]]):
    """A distilled dataset: a map-style dataset of its expanded images, and a file.

    Indexing gives expanded, normalized images, as evaluation uses them; ``images`` are the canvases as trained.

    Attributes:
        images: (C·ipc, ch, H, W), float32 on the CPU, normalized pixel space, class by class.
        labels: (C·ipc,), int64 on the CPU: 0 ipc times, then 1 ipc times, …
        meta: The dataset that was distilled.
        factor: Partition factor: every canvas holds factor² images.
        method: Name of the distillation method.
        config: Resolved configuration of the run, as JSON values.
        seed: Seed of the run.
        version: Version of this package that made the set.
        commit: Git commit that made the set, or None.
        step_size: Learning rate that was learned with the images, or None.

    Examples:
        >>> import tempfile
        >>> import torch
        >>> from bacon_pl.data import DatasetMeta
        >>> from bacon_pl.distilled_set import DistilledSet
        >>> meta = DatasetMeta("toy", ("ant", "bee"), channels=1, size=(8, 8), mean=(0.5,), std=(0.25,))
        >>> made = DistilledSet(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]), meta, factor=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     distilled = DistilledSet.load(made.save(folder))
        >>> len(distilled), distilled.ipc
        (8, 1)
        >>> image, label = distilled[1]
        >>> tuple(image.shape), label
        ((1, 8, 8), 1)
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

    # ---- as a dataset

    @cached_property
    def _expanded(self) -> tuple[Tensor, Tensor]:
        return partition.expand(self.images, self.factor), partition.expand_labels(self.labels, self.factor)

    def expanded(self) -> tuple[Tensor, Tensor]:
        """Return the set as evaluation uses it, all at once.

        Returns:
            Images (factor²·C·ipc, ch, H, W), float32 in normalized pixel space, and labels (factor²·C·ipc,), int64.
            They are computed once and shared between calls: do not write to them.
        """
        return self._expanded

    def __len__(self) -> int:
        return len(self.images) * self.factor**2

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        images, labels = self._expanded
        return images[index], int(labels[index])

    # ---- as a file

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the set to one self-contained safetensors file.

        The file appears whole or not at all, and equal sets give equal bytes.

        Args:
            path: The file, or an existing folder, in which it is named ``distilled.safetensors``. Missing parent
                folders are made.

        Returns:
            The file's path.

        Raises:
            BaconError: The file cannot be written.
        """
        target = file_in(path)
        fields = {name: getattr(self, name) for name in _FIELDS}
        write(target, self.images, self.labels, self.meta, fields)
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> DistilledSet:
        """Read a set that :meth:`save` wrote. Everything in the file is checked; nothing in it is ever run.

        Args:
            path: The file, or a folder that holds ``distilled.safetensors``.

        Raises:
            BaconError: There is no such file, it is damaged or of another kind, or a newer version wrote it.
        """
        images, labels, meta, fields = read(file_in(path))
        return cls(images, labels, meta, **fields)

    # ---- as pictures

    def pixels(self, *, expanded: bool = False) -> Tensor:
        """Return the images as pixels, class by class.

        Args:
            expanded: The expanded images instead of the canvases.

        Returns:
            (C, n, ch, H, W), float32 in [0, 1], n being ipc or, expanded, factor²·ipc.
        """
        canvases = self.images.unflatten(0, (self.meta.num_classes, self.ipc))
        shown = partition.expand(canvases, self.factor) if expanded else canvases
        return denormalize(shown, self.meta.mean, self.meta.std)

    def export_png(self, folder: str | os.PathLike[str], *, expanded: bool = False) -> Path:
        """Write one PNG file per image, as ``<folder>/<class>/<number>.png``, which torchvision's ImageFolder reads.

        Class folders are named after the classes as far as that is safe, and numbered where their alphabetical order
        would not be the order of the labels. Pixels are rounded to bytes, clamped to [0, 255].

        Args:
            folder: A new or empty folder.
            expanded: Write the expanded images instead of the stored canvases.

        Returns:
            The folder.

        Raises:
            BaconError: The folder holds something already or cannot be written.
        """
        target = Path(folder)
        pixels = self.pixels(expanded=expanded).mul(255).round().to(torch.uint8)
        try:
            target.mkdir(parents=True, exist_ok=True)
            # Older files would become training images of the new set.
            if any(target.iterdir()):
                raise BaconError(f"'{target}' is not empty; choose a new folder for the images.")
            for name, images in zip(folder_names(self.meta.class_names), pixels, strict=True):
                (target / name).mkdir()
                for index, image in enumerate(images):
                    to_pil_image(image).save(target / name / f"{index:04d}.png")
        except OSError as error:
            raise BaconError(f"cannot write images to '{target}' ({error.strerror}); choose another folder.") from error
        return target

    def grid_tensor(self, max_classes: int | None = None, *, expanded: bool = False) -> Tensor:
        """Lay the images out with one row per class, for a logger.

        Args:
            max_classes: Show the first so many classes; all by default.
            expanded: Show the expanded images instead of the canvases.

        Returns:
            (3, height, width), float32 in [0, 1].
        """
        return grid.grid_tensor(self.pixels(expanded=expanded)[:max_classes])

    def grid(self, *, expanded: bool = False, scale: int | None = None) -> Figure:
        """Draw the images with one row per class and its name beside it.

        Args:
            expanded: Show the expanded images instead of the canvases.
            scale: Screen pixels per image pixel and side, at least 1; chosen by the size of the set by default.

        Returns:
            A matplotlib figure outside pyplot's state.
        """
        return grid.grid_figure(self.pixels(expanded=expanded), self.meta.class_names, scale)

    def save_grid(self, path: str | os.PathLike[str], *, expanded: bool = False, scale: int | None = None) -> Path:
        """Write the picture that :meth:`grid` draws; the file's suffix chooses the format.

        Raises:
            BaconError: The file cannot be written, or matplotlib does not know its suffix.
        """
        target = Path(path)
        figure = self.grid(expanded=expanded, scale=scale)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(target, bbox_inches="tight", pad_inches=0.05)
        except (OSError, ValueError) as error:
            raise BaconError(f"cannot write the picture '{target}' ({error}); choose another .png file.") from error
        return target


def _short(value: object) -> str:
    return one_line(", ".join(map(str, value)) if isinstance(value, tuple) else value, 80)
