"""What the numbers of a foreign file are: pixels, normalized pixels or whitened ones, as said or guessed."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from bacon_pl.data.images import DatasetMeta
from bacon_pl.errors import BaconError, one_line, unknown_name

PixelSpace: TypeAlias = Literal["unit", "normalized", "zca", "imagenet"]
"""``unit``: pixels of about 0 to 1. ``normalized``: by the dataset's mean and deviation. ``zca``: whitened by the ZCA
of the dataset's training images. ``imagenet``: normalized by ImageNet's mean and deviation, whatever the dataset."""

SPACES: tuple[PixelSpace, ...] = get_args(PixelSpace)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_UNIT_LIKE = (-0.5, 1.5)
"""Floats within these bounds may be pixels of 0 to 1, or normalized images of little contrast."""


def check_space(pixels: str | None, meta: DatasetMeta | None = None) -> None:
    """Check what was said of a file's numbers.

    Args:
        pixels: Value of ``--pixels``.
        meta: Description of the dataset, or None if it is not known yet.

    Raises:
        BaconError: There is no such space, or it does not suit the dataset.
    """
    if pixels is not None and pixels not in SPACES:
        raise unknown_name("--pixels", str(pixels), SPACES)
    if meta is None:
        return
    if pixels == "zca" and meta.whitening is None:
        raise BaconError(
            f"--pixels zca needs the whitening of {one_line(meta.name, 80)}, which is fitted to its training images: "
            "give their folder, as --root to bacon convert and as --data.root to bacon eval."
        )
    if pixels == "imagenet" and meta.channels != 3:
        raise BaconError(f"--pixels imagenet is for images in color, and those of {one_line(meta.name, 80)} are gray.")


def to_set(images: Tensor, pixels: PixelSpace, meta: DatasetMeta) -> Tensor:
    """Map floating-point images of a file to the space of a set.

    Numbers that are in that space already keep their bits; others are computed in float64 and rounded once.

    Args:
        images: (N, ch, H, W), floating point.
        pixels: What their numbers are, as checked by :func:`check_space`.
        meta: Description of the dataset; it says the space of the set.

    Returns:
        (N, ch, H, W), float32, normalized or whitened.

    Raises:
        BaconError: The matrices of the whitening are not in the cache.
    """
    if _same(pixels, meta):
        return images.float()
    mean, std = _statistics(pixels, meta)
    unit = images.double() * std + mean
    if meta.whitening is not None:
        return meta.whitening.whiten(unit).float()
    mean, std = _statistics("normalized", meta)
    return ((unit - mean) / std).float()


def from_set(images: Tensor, pixels: PixelSpace, meta: DatasetMeta) -> Tensor:
    """Map images of a set to what a file holds, the inverse of :func:`to_set`, up to rounding.

    Args:
        images: (N, ch, H, W), float32, in the space of ``meta``.
        pixels: What the numbers of the file are.
        meta: Description of the dataset.

    Returns:
        (N, ch, H, W), float32.

    Raises:
        BaconError: The matrices of the whitening are not in the cache.
    """
    if _same(pixels, meta):
        return images
    mean, std = _statistics(pixels, meta)
    return ((meta.pixels(images.double()) - mean) / std).float()


def guessed(source: Path, images: Tensor, meta: DatasetMeta, sign: PixelSpace | None = None) -> PixelSpace:
    """Guess what the numbers of a file are that does not say so, and warn of the guess.

    Args:
        source: The file, for messages.
        images: (N, ch, H, W), floating point.
        meta: Description of the dataset.
        sign: What files beside this one say of its numbers.

    Returns:
        The space.

    Raises:
        BaconError: Several guesses are as good as each other.
    """
    if not images.numel() or not bool(images.isfinite().all()):
        return "normalized"  # refused with the set
    how = f"say what they are by --pixels {', '.join(SPACES[:-1])} or {SPACES[-1]}"
    least, most = float(images.min()), float(images.max())
    black, white = _black_and_white("normalized", meta)
    if sign == "zca" and meta.whitening is None:
        raise BaconError(
            f"the files images_zca_….pt beside '{source}' say that its images were whitened by ZCA: give --pixels zca, "
            "with the folder of the dataset (--root to bacon convert), or --pixels normalized if they were not."
        )
    if sign is None and least >= 0 and max(2 * white - black, _UNIT_LIKE[1]) < most <= 255:
        raise BaconError(
            f"the images in '{source}' run from {least:.4g} to {most:.4g}, so they look like bytes kept as "
            "floating-point numbers, which no --pixels means: save them as uint8."
        )
    if sign is None and _UNIT_LIKE[0] <= least and most <= _UNIT_LIKE[1]:
        raise BaconError(
            f"the images in '{source}' run from {least:.4g} to {most:.4g}, so they may be pixels that were never "
            f"normalized, or normalized ones of little contrast, and the file does not tell: {how}."
        )
    taken: PixelSpace = sign or ("normalized" if meta.whitening is None else "zca")
    warnings.warn(
        f"'{source}' does not say what its numbers are, which run from {least:.4g} to {most:.4g}: they are taken as "
        f"{_described(taken, meta)} (--pixels {taken}); if they are not, {how}.",
        stacklevel=4,
    )
    return taken


def check_range(source: Path, images: Tensor, pixels: PixelSpace, meta: DatasetMeta) -> None:
    """Warn if the numbers of a file are far from what they are taken to be."""
    if pixels == "zca" or not images.numel() or not bool(images.isfinite().all()):
        return  # whitened images have no black and white, and those without numbers are refused with the set
    black, white = _black_and_white(pixels, meta)
    far = white - black
    least, most = float(images.min()), float(images.max())
    if least < black - far or most > white + far:
        warnings.warn(
            f"the images in '{source}' run from {least:.4g} to {most:.4g}, far beyond black ({black:.4g}) and white "
            f"({white:.4g}) of {_described(pixels, meta)}, as they are taken to be: if they are something else, give "
            "--pixels, or the mean and std by which they were normalized.",
            stacklevel=4,
        )


def _described(pixels: PixelSpace, meta: DatasetMeta) -> str:
    name = one_line(meta.name, 80)
    return {
        "unit": f"{name} in pixels of 0 to 1",
        "normalized": f"{name} normalized by mean {meta.mean} and std {meta.std}",
        "zca": f"{name} whitened by ZCA",
        "imagenet": f"{name} normalized by ImageNet's mean {IMAGENET_MEAN} and std {IMAGENET_STD}",
    }[pixels]


def _same(pixels: PixelSpace, meta: DatasetMeta) -> bool:
    """Return whether the numbers of a file are those of a set."""
    if meta.whitening is not None:
        return pixels == "zca"
    of_imagenet = (tuple(meta.mean), tuple(meta.std)) == (IMAGENET_MEAN, IMAGENET_STD)
    return pixels == "normalized" or (pixels == "imagenet" and of_imagenet)


def _statistics(pixels: PixelSpace, meta: DatasetMeta) -> tuple[Tensor, Tensor]:
    """Return mean and deviation (ch, 1, 1), float64, by which the numbers of a file were normalized."""
    known = {"unit": ((0.0,) * meta.channels, (1.0,) * meta.channels), "imagenet": (IMAGENET_MEAN, IMAGENET_STD)}
    mean, std = known.get(pixels, (meta.mean, meta.std))
    first, second = (torch.tensor(values, dtype=torch.float64).view(-1, 1, 1) for values in (mean, std))
    return first, second


def _black_and_white(pixels: PixelSpace, meta: DatasetMeta) -> tuple[float, float]:
    """Return the least number of a black pixel and the largest of a white one."""
    mean, std = _statistics(pixels, meta)
    return float((-mean / std).min()), float(((1 - mean) / std).max())
