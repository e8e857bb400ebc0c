"""Stored labels of FKD and SRe2L: reading their files without running anything in them, and writing them.

``<labels>/epoch_<e>/batch_<b>.tar`` is, in spite of its name, a file of torch.save with a list of six: crops, flips,
partners, λ, box and logits (see :class:`~bacon_pl.distilled_set.stored_labels.BatchLabels`).
"""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bacon_pl.distilled_set.stored_labels import SEED, BatchLabels, StoredLabels
from bacon_pl.errors import BaconError, one_line
from bacon_pl.interop.safe_calls import Stored
from bacon_pl.interop.unpickle import Pickle
from bacon_pl.runtime import replacing

_NUMBERED = re.compile(r"(epoch_|batch_)(0|[1-9]\d{0,8})(\.tar)?")
_ROUNDING = 1e-4  # by which a crop may go beyond its image, since its shares are rounded
_MOST_PIXELS = 1 << 20


def open_labels(
    folder: str | os.PathLike[str], count: int, classes: int, size: tuple[int, int] | None = None, *, seed: int = SEED
) -> StoredLabels:
    """Open the labels that were stored for a set of pictures, in the layout of FKD and SRe2L.

    Files are read when they are asked for, and each is checked then. All have the batch size of the first.

    Args:
        folder: The folder with ``epoch_0``, ``epoch_1``, …
        count: Number of images of the set, which are in the order of torchvision's ImageFolder: class by class, in each
            class by the names of their files, as ``open_set`` reads them.
        classes: Number of classes.
        size: Height and width of the images that networks see, within which boxes must lie, or None.
        seed: Seed of the order of the images, ``fkd_seed`` of the published code.

    Returns:
        The labels.

    Raises:
        BaconError: The folder holds no such labels, epochs or batches are missing, or the first batch does not fit.
    """
    place = Path(os.path.expanduser(folder))
    epochs = _numbers(place, "epoch_")
    if not epochs:
        raise BaconError(f"'{place}' holds no stored labels, which are in epoch_0/batch_0.tar and so on.")
    if epochs != list(range(len(epochs))):
        raise BaconError(f"'{place}' lacks epoch_{_first_gap(epochs)}: fetch or make the labels again.")
    first = _read(place / "epoch_0" / "batch_0.tar", classes, size)
    batch_size = len(first.logits)
    wanted = -(-count // batch_size)
    for epoch in epochs:
        found = _numbers(place / f"epoch_{epoch}", "batch_")
        if found != list(range(wanted)):
            raise BaconError(
                f"'{place / f'epoch_{epoch}'}' holds {len(found)} batches, but a set of {count} images needs {wanted} "
                f"of {batch_size} images: give the labels of this set."
            )

    read = _Reader(place, count, classes, size, batch_size)
    for number in {0, wanted - 1}:  # only the last batch tells sets apart that need as many batches
        read(0, number)
    return StoredLabels(count, classes, len(epochs), batch_size, read, seed, os.fspath(folder))


@dataclass(frozen=True)
class _Reader:
    """Reads batches of labels; unlike a function within a function, it can be sent to another process."""

    folder: Path
    count: int
    classes: int
    size: tuple[int, int] | None
    batch_size: int

    def __call__(self, epoch: int, number: int) -> BatchLabels:
        path = self.folder / f"epoch_{epoch}" / f"batch_{number}.tar"
        labels = _read(path, self.classes, self.size)
        needed = min(self.batch_size, self.count - number * self.batch_size)
        if len(labels.logits) != needed:
            raise BaconError(
                f"'{path}' holds labels of {len(labels.logits)} images, but {needed} are needed: give the labels of "
                "this set."
            )
        return labels


def write_labels(labels: StoredLabels, folder: str | os.PathLike[str]) -> Path:
    """Write stored labels in the layout of FKD and SRe2L.

    The order of the images is not part of the files: it is that of ``labels.seed``, which readers have to be told if it
    is not 42.

    Args:
        labels: The labels.
        folder: A new or empty folder.

    Returns:
        The folder.

    Raises:
        BaconError: The folder is not empty or cannot be written, or a batch cannot be read.
    """
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
        if any(place.iterdir()):
            raise BaconError(f"'{place}' is not empty; choose a new folder for the labels.")
        for epoch in range(labels.epochs):
            (place / f"epoch_{epoch}").mkdir()
            for number in range(labels.batches):
                batch = labels.batch(epoch, number)
                box = None if batch.box is None else [np.int64(side) for side in batch.box]
                buffer = io.BytesIO()
                torch.save([batch.crops, batch.flipped, batch.partner, batch.lam, box, batch.logits], buffer)
                with replacing(place / f"epoch_{epoch}" / f"batch_{number}.tar") as file:
                    file.write(buffer.getvalue())
    except OSError as error:
        raise BaconError(f"cannot write labels to '{place}' ({error.strerror}); choose another folder.") from error
    return place


def _numbers(folder: Path, kind: str) -> list[int]:
    """List the numbers of the epochs or batches in a folder, ascending."""
    try:
        names = [match for entry in os.scandir(folder) if (match := _NUMBERED.fullmatch(entry.name))]
    except (OSError, ValueError) as error:  # a path with a zero byte is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise BaconError(f"cannot read the folder of labels '{one_line(folder)}' ({reason}).") from error
    suffix = ".tar" if kind == "batch_" else None
    return sorted(int(match[2]) for match in names if match[1] == kind and match[3] == suffix)


def _first_gap(numbers: list[int]) -> int:
    return next(i for i, number in enumerate([*numbers, -1]) if i != number)


def _read(path: Path, classes: int, size: tuple[int, int] | None) -> BatchLabels:
    if not path.is_file():
        raise BaconError(f"there are no stored labels at '{path}': fetch or make them again.")
    with Pickle(path) as file:
        content = file.content
        if not isinstance(content, list | tuple) or len(content) != 6:
            raise _flawed(path, "is no list of crops, flips, partners, λ, box and logits")
        crops, flipped, partner, lam, box, logits = (
            file.read(part) if isinstance(part, Stored) else part for part in content
        )
    _check_tensor(path, "logits", logits, (None, classes), (torch.float16, torch.float32))
    count = len(logits)
    _check_tensor(path, "crops", crops, (count, 4), (torch.float32,))
    _check_tensor(path, "flips", flipped, (count,), (torch.bool,))
    if not count:
        raise _flawed(path, "holds no labels")
    _check_crops(path, crops)
    if partner is not None:
        _check_tensor(path, "partners", partner, (count,), (torch.int64,))
        if int(partner.min()) < 0 or int(partner.max()) >= count:
            raise _flawed(path, "names partners that are not in the batch")
    if lam is not None and not (isinstance(lam, float) and 0 <= lam <= 1):
        raise _flawed(path, "has a λ that is no number from 0 to 1")
    if (partner is None) != (lam is None) or (box is not None and partner is None):
        raise _flawed(path, "has partners, λ and box that do not belong together")
    return BatchLabels(torch.empty(0, dtype=torch.int64), crops, flipped, partner, lam, _box(path, box, size), logits)


def _check_tensor(
    path: Path, what: str, given: Any, shape: tuple[int | None, ...], dtypes: tuple[torch.dtype, ...]
) -> None:
    if not isinstance(given, Tensor) or given.ndim != len(shape):
        raise _flawed(path, f"has {what} that are no tensor of {len(shape)} dimensions")
    if any(side not in (None, found) for side, found in zip(shape, given.shape, strict=True)):
        sides = ", ".join("B" if side is None else str(side) for side in shape)
        raise _flawed(path, f"has {what} of shape {tuple(given.shape)} where ({sides}) is needed")
    if given.dtype not in dtypes:
        raise _flawed(path, f"has {what} of type {given.dtype}")
    if given.is_floating_point() and not bool(given.isfinite().all()):
        raise _flawed(path, f"has {what} that are not finite")


def _check_crops(path: Path, crops: Tensor) -> None:
    start, side = crops[:, :2].double(), crops[:, 2:].double()
    if bool((start < 0).any() or (side <= 0).any() or (start + side > 1 + _ROUNDING).any()):
        raise _flawed(path, "has crops beyond the images")


def _box(path: Path, box: Any, size: tuple[int, int] | None) -> tuple[int, int, int, int] | None:
    if box is None:
        return None
    if not isinstance(box, list | tuple) or len(box) != 4 or any(type(side) is not int for side in box):
        raise _flawed(path, "has a box that is not four whole numbers")
    top, left, bottom, right = box
    height, width = (_MOST_PIXELS, _MOST_PIXELS) if size is None else size
    if not (0 <= top <= bottom <= height and 0 <= left <= right <= width):
        raise _flawed(path, "has a box beyond the images")
    return top, left, bottom, right


def _flawed(path: Path, flaw: str) -> BaconError:
    return BaconError(f"'{path}' {flaw}, as stored labels have: fetch or make it again.")
