"""Reading distilled sets from the files of other projects, recognized by their content."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bacon_pl import partition
from bacon_pl.data.files import subfolders
from bacon_pl.data.images import DatasetMeta
from bacon_pl.distilled_set import FILE_NAME, DistilledSet
from bacon_pl.errors import BaconError
from bacon_pl.interop import npz, pictures
from bacon_pl.interop.safe_calls import Stored
from bacon_pl.interop.unpickle import Pickle

_PAIRS = (("images", "labels"), ("x", "y"), ("data", "target"), ("data", "targets"), ("data", "labels"))
_PICKLES = (".pt", ".pth", ".pkl", ".pickle")
_MOST_LISTED = 10


def is_ours(path: str | os.PathLike[str]) -> bool:
    """Return whether a path should be read by :meth:`DistilledSet.load`, which also reports missing files."""
    given = Path(path)
    if given.is_dir():
        return (given / FILE_NAME).is_file() or not (_trajectory_files(given) or subfolders(given))
    return not given.is_file() or given.suffix.lower() not in (".npz", *_PICKLES)


def open_set(
    path: str | os.PathLike[str], meta: DatasetMeta | None = None, *, factor: int | None = None, index: int = -1
) -> DistilledSet:
    """Read a distilled set of this package or of another project.

    Floating-point numbers are taken as normalized pixels, the convention of those projects; bytes are taken as pixels
    from 0 to 255. Files do not record this, so numbers that look different cause an error or a warning.

    =====================================  ============================================================================
    File or folder                         Format
    =====================================  ============================================================================
    ``.safetensors``, folder of a run      a set of this package; no other information is needed
    ``.pt``, ``.pth``, ``.pkl``            ``{"data": [[images, labels], …]}`` of DC, DSA, DM and IDM; ``(images,
                                           labels)``, or a list of such pairs; the pickle is never executed
    ``images_*.pt``, or its folder         MTT, with ``labels_*.pt`` in the same folder; if a folder contains several
                                           sets, the one called ``images_best.pt``
    ``.npz``                               ``images`` and ``labels``, ``x`` and ``y``, or ``data`` and ``target``
    folder of class folders                pictures
    =====================================  ============================================================================

    Args:
        path: The file or folder.
        meta: Description of the dataset from which the set was made; not needed for sets of this package.
        factor: Partition factor, for sets such as those of IDM and BACON whose images hold factor² smaller images; by
            default the factor recorded in the file, else 1.
        index: Which set of the file to read, counting from 0, or from the end if negative.

    Returns:
        The set.

    Raises:
        BaconError: The file does not exist, is damaged, is not safe to read, or does not match the dataset.
    """
    source = Path(path)
    if is_ours(source):
        distilled = DistilledSet.load(path)
        if factor not in (None, distilled.factor):
            raise BaconError(f"'{source}' has partition factor {distilled.factor}, not {factor}: leave --factor out.")
        return distilled
    if meta is None:
        raise BaconError(f"'{source}' does not say which dataset it was made from: give its name, e.g. cifar10.")
    if source.is_dir() and _trajectory_files(source):
        source = _one_of(source)
    if source.is_dir():
        images, labels = pictures.read(source, meta)
        own_factor = None
    elif source.suffix.lower() == ".npz":
        images, labels, own_factor = _from_npz(source)
    else:
        images, labels, own_factor = _from_pickle(source, index)
    if own_factor is not None and factor not in (None, own_factor):
        raise BaconError(f"'{source}' has partition factor {own_factor}, not {factor}: leave --factor out.")
    given = own_factor if factor is None else factor
    return _assemble(source, images, labels, meta, 1 if given is None else given)


def _trajectory_files(folder: Path) -> list[Path]:
    """List the image files of MTT in a folder."""
    return sorted(folder.glob("images_*.pt"))


def _one_of(folder: Path) -> Path:
    """Choose among the image files of MTT in a folder that has at least one."""
    every = _trajectory_files(folder)
    # Some of the files without labels contain the images of other files with the whitening undone.
    files = [file for file in every if _beside(file).is_file()] or every
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
    if any(file.name.startswith("images_zca_") for file in every):
        warnings.warn(
            f"the files images_zca_….pt in '{folder}' say that its sets were whitened by ZCA, which is not undone "
            f"here: '{chosen.name}' is taken as normalized by mean and std, and will not reach its published accuracy.",
            stacklevel=3,
        )
    return chosen


def _beside(images: Path) -> Path:
    """Return the path of the labels that MTT stores for an image file."""
    return images.with_name(images.name.replace("images", "labels", 1))


# ---- from archives and pickles to tensors


def _from_npz(source: Path) -> tuple[Tensor, Tensor, int | None]:
    held = npz.names(source)
    pair = _named_pair(held)
    if pair is None:
        raise BaconError(
            f"'{source}' holds {', '.join(held)[:80] or 'nothing'}, but images and labels are looked for: name the "
            "arrays so."
        )
    factor = npz.read(source, "factor") if "factor" in held else None
    return npz.read(source, pair[0]), npz.read(source, pair[1]), None if factor is None else _whole(source, factor)


def _from_pickle(source: Path, index: int) -> tuple[Tensor, Tensor, int | None]:
    with Pickle(source) as file:
        content = file.content
        if isinstance(content, Stored):
            return file.read(content), _labels_beside(source), None
        pairs = _pairs(content)
        if not pairs:
            raise BaconError(
                f"'{source}' holds no images with labels: a pair (images, labels), a list of pairs, or "
                '{"data": [[images, labels], …]} is looked for.'
            )
        if not -len(pairs) <= index < len(pairs):
            raise BaconError(f"'{source}' holds {len(pairs)} set(s), from 0 to {len(pairs) - 1}: there is no {index}.")
        images, labels = (part if isinstance(part, list) else file.read(part) for part in pairs[index])
        factor = content.get("factor") if isinstance(content, dict) else None
        return _tensor(source, images), _tensor(source, labels), factor if type(factor) is int else None


def _labels_beside(source: Path) -> Tensor:
    """Read the labels that MTT stores for an image file."""
    beside = _beside(source)
    if beside == source or not beside.is_file():
        raise BaconError(
            f"'{source}' holds one tensor, without labels: MTT's files are called images_….pt with labels_….pt beside."
        )
    with Pickle(beside) as file:
        if not isinstance(file.content, Stored):
            raise BaconError(f"'{beside}' holds no tensor of labels.")
        return file.read(file.content)


def _pairs(content: Any) -> list[tuple[Any, Any]]:
    """Find all pairs of images and labels in a pickle, without reading the tensors."""
    if isinstance(content, dict):
        pair = _named_pair(content)
        if pair is not None and (found := _pair((content[pair[0]], content[pair[1]]))):
            return [found]
        content = content.get("data")
    if (found := _pair(content)) is not None:
        return [found]
    several = [_pair(part) for part in content] if isinstance(content, list | tuple) else []
    return [pair for pair in several if pair is not None] if None not in several else []


def _pair(content: Any) -> tuple[Any, Any] | None:
    """Return a pair of images (a tensor) and labels (a tensor or a list of numbers), or None if it is not one."""
    if not isinstance(content, list | tuple) or len(content) != 2 or not isinstance(content[0], Stored):
        return None
    images, labels = content
    is_numbers = isinstance(labels, list) and all(type(label) is int for label in labels)
    return (images, labels) if isinstance(labels, Stored) or is_numbers else None


def _named_pair(held: Iterable[str] | Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the names of the images and of the labels, or None if there are no known names."""
    by_name = {name.lower(): name for name in held if isinstance(name, str)}
    return next(((by_name[a], by_name[b]) for a, b in _PAIRS if a in by_name and b in by_name), None)


def _tensor(source: Path, values: Tensor | list[int]) -> Tensor:
    try:
        return torch.as_tensor(values)
    except (RuntimeError, ValueError, OverflowError) as error:
        raise BaconError(f"the labels in '{source}' are beyond any number of classes.") from error


def _whole(source: Path, factor: Tensor) -> int:
    if factor.numel() != 1 or factor.is_floating_point():
        raise BaconError(f"the partition factor in '{source}' is no whole number: remove it or write it as one.")
    return int(factor)


# ---- from tensors to a set


def _assemble(source: Path, images: Tensor, labels: Tensor, meta: DatasetMeta, factor: int) -> DistilledSet:
    images = _in_layout(source, images, meta)
    labels = _classes(source, labels, len(images))
    if not images.is_floating_point():
        if images.dtype != torch.uint8:
            raise BaconError(f"the images in '{source}' are {images.dtype}: save uint8 pixels or normalized floats.")
        images = meta.normalize(images, torch.float32)
    else:
        _check_range(source, images, meta)
    partition.check_factor(meta.size, factor)
    order = labels.argsort(stable=True)
    try:
        return DistilledSet(
            images[order].float(),
            labels[order],
            meta,
            factor=factor,
            method="unknown",
            config={"converted_from": source.name},
        )
    except BaconError as error:
        raise BaconError(f"'{source}' does not fit: {error}") from error


def _check_range(source: Path, images: Tensor, meta: DatasetMeta) -> None:
    """Warn or raise an error if floating-point images, which are taken as normalized, look different."""
    if meta.whitening is not None or not images.numel() or not bool(images.isfinite().all()):
        return  # whitened images have no black and white, and the others are refused with the set
    least, most = float(images.min()), float(images.max())
    black = min(-m / s for m, s in zip(meta.mean, meta.std, strict=True))
    white = max((1 - m) / s for m, s in zip(meta.mean, meta.std, strict=True))
    far = white - black  # values this far beyond black or white are suspicious
    if least >= 0 and white + far < most <= 255:
        raise BaconError(
            f"the images in '{source}' run from {least:.4g} to {most:.4g}, so they look like bytes kept as "
            "floating-point numbers, which are taken as normalized: save them as uint8."
        )
    if least >= 0 and most <= 1:
        warnings.warn(
            f"the images in '{source}' lie between 0 and 1, so they look like pixels that were never normalized; they "
            "are taken as normalized. Save pixels as uint8.",
            stacklevel=4,
        )
    elif least < black - far or most > white + far:
        warnings.warn(
            f"the images in '{source}' run from {least:.4g} to {most:.4g}, far beyond black ({black:.4g}) and white "
            f"({white:.4g}) of {meta.name} normalized by mean {meta.mean} and std {meta.std}, as they are taken to be: "
            "if they were normalized by others, give those.",
            stacklevel=4,
        )


def _in_layout(source: Path, images: Tensor, meta: DatasetMeta) -> Tensor:
    """Convert images to (N, ch, H, W) from layouts with channels first, channels last or no channels."""
    shape = (meta.channels, *meta.size)
    found = tuple(images.shape[1:])
    if found == shape:
        return images
    if found == (*meta.size, meta.channels):
        return images.permute(0, 3, 1, 2)
    if found == meta.size and meta.channels == 1:
        return images[:, None]
    raise BaconError(
        f"the images in '{source}' have shape {tuple(images.shape)}, but those of {meta.name} are "
        f"(N, {', '.join(map(str, shape))}): give the dataset they were made from."
    )


def _classes(source: Path, labels: Tensor, count: int) -> Tensor:
    """Check labels and convert them to int64."""
    if labels.ndim != 1 or len(labels) != count:
        raise BaconError(
            f"the labels in '{source}' have shape {tuple(labels.shape)}, but one class number is needed for each of "
            f"{count} images."
        )
    whole = labels.to(torch.int64)
    if labels.is_floating_point() and not torch.equal(whole.to(labels.dtype), labels):
        raise BaconError(f"the labels in '{source}' are not whole numbers.")
    return whole
