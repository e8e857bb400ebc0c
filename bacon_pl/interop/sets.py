"""Reading distilled sets from the files of other projects, recognized by their content."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bacon_pl import partition
from bacon_pl.data.files import subfolders
from bacon_pl.data.images import DatasetMeta
from bacon_pl.distilled_set import FILE_NAME, DistilledSet
from bacon_pl.errors import BaconError
from bacon_pl.interop import npz, pictures, trajectories
from bacon_pl.interop.foreign import Found, classes, recorded, soft, warn_of_rounding
from bacon_pl.interop.pixels import PixelSpace, check_range, check_space, guessed, to_set
from bacon_pl.interop.safe_calls import Stored
from bacon_pl.interop.unpickle import Pickle

_PAIRS = (("images", "labels"), ("x", "y"), ("data", "target"), ("data", "targets"), ("data", "labels"))
_PICKLES = (".pt", ".pth", ".pkl", ".pickle")


def is_ours(path: str | os.PathLike[str]) -> bool:
    """Return whether a path should be read by :meth:`DistilledSet.load`, which also reports missing files."""
    given = Path(path)
    if given.is_dir():
        pictures = trajectories.image_files(given) or subfolders(given)
        return (given / FILE_NAME).is_file() or any(given.glob(f"*/{FILE_NAME}")) or not pictures
    return not given.is_file() or given.suffix.lower() not in (".npz", *_PICKLES)


def open_set(
    path: str | os.PathLike[str],
    meta: DatasetMeta | None = None,
    *,
    factor: int | None = None,
    index: int = -1,
    pixels: PixelSpace | None = None,
) -> DistilledSet:
    """Read a distilled set of this package or of another project.

    Bytes are taken as pixels from 0 to 255. What floating-point numbers are is not recorded by other projects: it is
    said by ``pixels``, or else guessed, with a warning, or refused where guesses are as good as each other.

    =====================================  ============================================================================
    File or folder                         Format
    =====================================  ============================================================================
    ``.safetensors``, folder of a run      a set of this package; no other information is needed
    ``.pt``, ``.pth``, ``.pkl``            ``{"data": [[images, labels], …]}`` of DC, DSA, DM, IDM and DataDAM;
                                           ``(images, labels)`` of IDC and NCFM, or a list of such pairs; the pickle is
                                           never executed
    ``images_*.pt``, or its folder         MTT, TESLA, FTD, DATM, with ``labels_*.pt``, hard or soft, in the same
                                           folder, and the learned step size in ``lr_*.pt``, if there is one; if a
                                           folder contains several sets, the one called ``images_best.pt``
    ``.npz``                               ``images`` and ``labels``, ``x`` and ``y``, or ``data`` and ``target``
    folder of class folders                pictures; the folders have the names of the classes or numbers in class order
                                           (``0``, ``new000`` of SRe2L, ``00000`` of RDED)
    =====================================  ============================================================================

    Args:
        path: The file or folder.
        meta: Description of the dataset from which the set was made; not needed for sets of this package.
        factor: Partition factor, for sets such as those of IDM and BACON whose images hold factor² smaller images; by
            default the factor recorded in the file, else 1.
        index: Which set of the file to read, counting from 0, or from the end if negative.
        pixels: What the numbers of a foreign file are; ``zca`` needs ``meta.whitening``.

    Returns:
        The set, in the space of ``meta``.

    Raises:
        BaconError: The file does not exist, is damaged, is not safe to read, or does not match the dataset; or it does
            not tell what its numbers are.
    """
    source = Path(path)
    check_space(pixels)
    if is_ours(source):
        distilled = DistilledSet.load(path)
        if factor not in (None, distilled.factor):
            raise BaconError(f"'{source}' has partition factor {distilled.factor}, not {factor}: leave --factor out.")
        if pixels is not None:
            raise BaconError(f"'{source}' is a set of this package, which says what it holds: leave --pixels out.")
        return distilled
    if meta is None:
        raise BaconError(f"'{source}' does not say which dataset it was made from: give its name, e.g. cifar10.")
    if source.is_dir() and trajectories.image_files(source):
        source = trajectories.one_of(source)
    if source.is_dir():
        found = Found(*pictures.read(source, meta))
    elif source.suffix.lower() == ".npz":
        found = _from_npz(source)
    else:
        found = _from_pickle(source, index)
    for option, given, own in (("factor", factor, found.factor), ("pixels", pixels, found.pixels)):
        if own is not None and given not in (None, own):
            what = "partition factor" if option == "factor" else "numbers that are"
            raise BaconError(f"'{source}' has {what} {own}, not {given}: leave --{option} out.")
    if found.whitening is not None and meta.whitening is None:
        meta = replace(meta, whitening=found.whitening)
    elif found.whitening not in (None, meta.whitening):
        raise BaconError(f"'{source}' is {found.whitening}, and the data are {meta.whitening}, which is another space.")
    found.factor = found.factor if factor is None else factor
    found.pixels = found.pixels or pixels
    check_space(found.pixels, meta)
    return _assemble(source, found, meta)


# ---- from archives and pickles to tensors


def _from_npz(source: Path) -> Found:
    held = npz.names(source)
    pair = _named_pair(held)
    if pair is None:
        raise BaconError(
            f"'{source}' holds {', '.join(held)[:80] or 'nothing'}, but images and labels are looked for: name the "
            "arrays so."
        )
    entries: dict[str, Any] = {}
    if "factor" in held:
        entries["factor"] = _whole(source, npz.read(source, "factor"))
    if "step_size" in held and (value := npz.read(source, "step_size")).numel() == 1:
        entries["step_size"] = float(value)
    for name in ("pixels", "label_kind", "whitening"):
        if name in held:
            entries[name] = npz.read_text(source, name)
    soft_labels = npz.read(source, "soft_labels") if "label_kind" in entries and "soft_labels" in held else None
    images, labels = (npz.read(source, name) for name in pair)
    return Found(images, labels, soft_labels=soft_labels, **recorded(source, entries))


def _from_pickle(source: Path, index: int) -> Found:
    with Pickle(source) as file:
        content = file.content
        if isinstance(content, Stored):
            return trajectories.read(source, file.read(content))
        pairs = _pairs(content)
        if not pairs:
            raise BaconError(
                f"'{source}' holds no images with labels: a pair (images, labels), a list of pairs, or "
                '{"data": [[images, labels], …]} is looked for.'
            )
        if not -len(pairs) <= index < len(pairs):
            raise BaconError(f"'{source}' holds {len(pairs)} set(s), from 0 to {len(pairs) - 1}: there is no {index}.")
        images, labels = (part if isinstance(part, list) else file.read(part) for part in pairs[index])
        entries = content if isinstance(content, dict) else {}
        soft_labels = entries.get("soft_labels") if "label_kind" in entries else None
        read = file.read(soft_labels) if isinstance(soft_labels, Stored) else None
    return Found(_tensor(source, images), _tensor(source, labels), soft_labels=read, **recorded(source, entries))


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


def _assemble(source: Path, found: Found, meta: DatasetMeta) -> DistilledSet:
    images = _in_layout(source, found.images, meta)
    factor = 1 if found.factor is None else found.factor
    partition.check_factor(meta.size, factor)
    if factor > 1 and meta.whitening is not None and not (images.is_floating_point() and found.pixels == "zca"):
        raise BaconError(
            f"'{source}' holds canvases of tiles, which cannot be whitened, since whitening mixes all pixels of an "
            "image: leave --data.whitening out, or give --pixels zca if they are whitened already."
        )
    if images.is_floating_point():
        pixels = found.pixels or guessed(source, images, meta, found.sign)
        check_range(source, images, pixels, meta)
        images = to_set(images, pixels, meta)
    elif images.dtype != torch.uint8:
        raise BaconError(f"the images in '{source}' are {images.dtype}: save uint8 pixels or floats.")
    elif found.pixels is not None:
        raise BaconError(f"the images in '{source}' are bytes, pixels from 0 to 255: leave --pixels out.")
    else:
        images = meta.normalize(images, torch.float32)
    labels, soft_labels, kind = found.labels, found.soft_labels, found.label_kind
    if labels.is_floating_point() and tuple(labels.shape) == (len(images), meta.num_classes):
        soft_labels = labels
        labels, kind = soft(source, labels, meta)
    if soft_labels is not None:
        warn_of_rounding(source, soft_labels)
    labels = classes(source, labels, len(images))
    try:
        return DistilledSet(
            images,
            labels,
            meta,
            factor=factor,
            method="unknown",
            config={"converted_from": source.name},
            step_size=found.step_size,
            soft_labels=soft_labels,
            label_kind=None if soft_labels is None else kind,
        )
    except BaconError as error:
        raise BaconError(f"'{source}' does not fit: {error}") from error


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
