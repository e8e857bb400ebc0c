"""Reading the files of trajectory matching: MTT, TESLA, FTD and DATM write images, labels and step sizes one by one."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from bacon_pl.errors import BaconError
from bacon_pl.interop.foreign import Found
from bacon_pl.interop.pixels import PixelSpace
from bacon_pl.interop.safe_calls import Stored
from bacon_pl.interop.unpickle import Pickle

_MOST_LISTED = 10


def image_files(folder: Path) -> list[Path]:
    """List the image files in a folder; FTD's moving averages only if there are no others."""
    return sorted(folder.glob("images_*.pt")) or sorted(folder.glob("ema_images_*.pt"))


def one_of(folder: Path) -> Path:
    """Choose among the image files of a folder that has at least one.

    Raises:
        BaconError: There are several sets, and none is called images_best.pt.
    """
    every = image_files(folder)
    # Files without labels, and those of images with the whitening undone, are no sets of their own.
    own = [file for file in every if not _is_unwhitened(file)] or every
    files = [file for file in own if beside(file, "labels").is_file()] or own
    best = folder / "images_best.pt"
    if len(files) > 1 and best not in files:
        names = [file.name for file in files]
        shown = ", ".join(names if len(names) <= _MOST_LISTED else [*names[: _MOST_LISTED - 1], f"… {names[-1]}"])
        raise BaconError(
            f"the folder '{folder}' holds {len(files)} sets and none is called images_best.pt: give one of these "
            f"files: {shown}."
        )
    chosen = best if best in files else files[0]
    if len(files) > 1:
        warnings.warn(
            f"the folder '{folder}' holds {len(files)} sets: '{best.name}' is taken, which is the one that did best on "
            "the test images; give another file to read that one.",
            stacklevel=3,
        )
    return chosen


def beside(images: Path, what: str) -> Path:
    """Return the path of what is stored for an image file.

    Args:
        images: The image file; images with the whitening undone have the labels of the whitened ones.
        what: ``labels`` or ``lr``.
    """
    name = images.name.replace("images_zca", "images", 1) if _is_unwhitened(images) else images.name
    if what == "lr":  # which an averaged set shares with the other
        name = name.removeprefix("ema_")
    return images.with_name(name.replace("images", what, 1))


def read(source: Path, images: Tensor) -> Found:
    """Read what belongs to images that were found alone in their file.

    Args:
        source: The image file.
        images: Its content.

    Returns:
        Images and labels, with the learned step size if there is one.

    Raises:
        BaconError: There are no labels, or a file is damaged.
    """
    labels, step_size = beside(source, "labels"), beside(source, "lr")
    if labels == source or not labels.is_file():
        raise BaconError(
            f"'{source}' holds one tensor, without labels: MTT's files are called images_….pt with labels_….pt beside."
        )
    sign: PixelSpace | None = None
    if _is_unwhitened(source):
        sign = "unit"
    elif any(map(_is_unwhitened, source.parent.glob("images_zca*.pt"))):
        sign = "zca"
    learned = _number(step_size) if step_size != source and step_size.is_file() else None
    return Found(images, _tensor(labels, "labels"), sign=sign, step_size=learned)


def _is_unwhitened(images: Path) -> bool:
    return images.name.startswith("images_zca")


def _tensor(path: Path, what: str) -> Tensor:
    with Pickle(path) as file:
        if not isinstance(file.content, Stored):
            raise BaconError(f"'{path}' holds no tensor of {what}.")
        return file.read(file.content)


def _number(path: Path) -> float:
    """Read a learned step size: a tensor of one number, or a number."""
    with Pickle(path) as file:
        value: Any = file.content
        if isinstance(value, Stored):
            tensor = file.read(value)
            value = None if tensor.numel() != 1 or tensor.is_complex() else float(tensor)
    if type(value) not in (int, float) or not (value > 0 and math.isfinite(value)):
        raise BaconError(f"'{path}' holds no step size, which is one positive number.")
    return float(value)
