"""Image files on disk to one uint8 tensor: listing, decoding, resizing. What the folders mean is the caller's."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from bacon_pl.data.cache import Built, cached
from bacon_pl.data.options import LoadOptions
from bacon_pl.errors import BaconError, one_line

# Bad files that a message names.
_MOST_NAMED = 20

# Files decoded by one task: enough to hide the cost of a task, few enough that threads finish together and that what
# they hold is little beside the dataset.
_CHUNK = 64
_GREY_MODES = frozenset(("1", "L", "LA", "La"))


@dataclass(frozen=True)
class ImageFile:
    """One image file.

    Attributes:
        path: Relative to the dataset's root.
        size: Bytes.
        mtime_ns: Time of the last change.
        label: Class id.
    """

    path: str
    size: int
    mtime_ns: int
    label: int


def scan_images(root: Path, folder: str, label: int) -> list[ImageFile]:
    """List the image files under a folder and its subfolders, in order of their paths.

    Names that start with a dot are left out; other files are told apart by torchvision's ``IMG_EXTENSIONS``.

    Args:
        root: The dataset's root.
        folder: Path of the folder, relative to ``root``.
        label: Class id that all of them get.

    Raises:
        BaconError: If a folder cannot be read.
    """
    found: list[ImageFile] = []
    seen: set[tuple[int, int]] = set()  # a link to a folder above would be walked for ever
    pending = [folder]
    try:
        while pending:
            current = pending.pop()
            stat = os.stat(root / current)
            if (stat.st_dev, stat.st_ino) in seen:
                continue
            seen.add((stat.st_dev, stat.st_ino))
            with os.scandir(root / current) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    path = f"{current}/{entry.name}"
                    if entry.name.lower().endswith(IMG_EXTENSIONS):
                        # A link to nowhere has a state of its own; decoding says that it cannot be read.
                        stat = entry.stat(follow_symlinks=os.path.exists(root / path))
                        found.append(ImageFile(path, stat.st_size, stat.st_mtime_ns, label))
                    elif entry.is_dir():
                        pending.append(path)
    except OSError as error:
        raise BaconError(
            f"cannot read '{error.filename or root / folder}' ({error.strerror}): make it readable, or remove it."
        ) from error
    return sorted(found, key=lambda file: file.path)


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted, without those that start with a dot.

    Raises:
        BaconError: If the folder is missing or cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except OSError as error:
        raise BaconError(
            f"cannot read the folder '{folder}' ({error.strerror}): give --data.root the folder that holds the images."
        ) from error


def fit(images: Tensor, size: int) -> Tensor:
    """Make images square: scale the shorter side to ``size`` (bilinear, antialiased), then cut out the center.

    Args:
        images: (..., ch, H, W), uint8.
        size: Side of the result in pixels.

    Returns:
        (..., ch, size, size), uint8.
    """
    if images.shape[-2:] == (size, size):
        return images
    scaled = functional.resize(images, [size], interpolation=InterpolationMode.BILINEAR, antialias=True)
    return functional.center_crop(scaled, [size, size])


def decode(path: str | os.PathLike[str]) -> Tensor:
    """Read one image file.

    Args:
        path: A file in any format that Pillow reads.

    Returns:
        uint8 (1, H, W) for gray images, 16-bit ones scaled to 8 bits; (3, H, W) for all others, without transparency.

    Raises:
        Exception: Whatever Pillow's plugin for the format raises on a damaged file.
    """
    with Image.open(path) as image:
        if image.mode.startswith("I"):  # gray of more than 8 bits; Pillow's own conversion would clip it
            wide = np.asarray(image).astype(np.int64)
            if wide.min() < 0 or wide.max() > 65535:
                raise ValueError("its pixels are beyond 16 bits")
            return torch.from_numpy(((wide * 255 + 32767) // 65535).astype(np.uint8))[None]
        if image.mode == "F":
            raise ValueError("its pixels are floating point numbers, of unknown range")
        if image.mode in _GREY_MODES:
            return torch.from_numpy(np.array(image.convert("L")))[None]
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def load_files(
    root: Path, files: Sequence[ImageFile], options: LoadOptions, channels: int | None = None
) -> tuple[Tensor, Tensor]:
    """Decode image files, or take them from the cache.

    Args:
        root: The dataset's root.
        files: What to read, in order; not empty.
        options: ``image_size`` and ``on_bad_image`` are used.
        channels: 3 makes all images RGB; None gives one channel if every image is gray, else three.

    Returns:
        ``(images, kept)``: uint8 (n, ch, H, W), and the positions in ``files`` they come from, (n,) int64, which are
        fewer than the files only where bad ones were skipped.

    Raises:
        BaconError: If a file cannot be read, or images differ in size and no ``image_size`` is given.
    """
    # What changes the result at one place is part of the place; what the files are is the fingerprint.
    place = repr((os.path.realpath(root), options.image_size, options.on_bad_image, channels))
    state = hashlib.blake2b(digest_size=16)
    for file in files:
        line = f"{file.path}\0{file.size}\0{file.mtime_ns}\0{file.label}\n"
        state.update(line.encode(errors="surrogateescape"))
    build = partial(_decode_all, root, files, options, channels)
    tensors, info = cached(root.resolve().name or "root", place, state.hexdigest(), build, of=str(root.resolve()))
    if info["skipped"]:
        what = f"{info['skipped']} image file{'s' * (info['skipped'] > 1)}"
        warnings.warn(f"skipped {what} that cannot be read: {info['named']}.", stacklevel=2)
    return tensors["images"], tensors["kept"]


def _decode_all(root: Path, files: Sequence[ImageFile], options: LoadOptions, channels: int | None) -> Built:
    # One block of memory for all: a list of parts would take as much again while it is joined.
    images: Tensor | None = None
    kept: list[int] = []
    bad: list[tuple[str, Exception]] = []
    for position, image in enumerate(_decoded(root, files, options)):
        if isinstance(image, Exception):
            bad.append((files[position].path, image))
            continue
        if bad and options.on_bad_image == "error":  # the rest is looked through for more of them
            continue
        depth, height, width = image.shape
        if images is None:
            images = torch.empty(len(files), channels or depth, height, width, dtype=torch.uint8)
        elif images.shape[2:] != (height, width):
            first = tuple(images.shape[2:])
            raise BaconError(
                f"the images under '{root}' differ in size, '{files[position].path}' has {height}x{width} pixels and "
                f"'{files[kept[0]].path}' {first[0]}x{first[1]}: give --data.image_size N, e.g. "
                f"{min(*first, height, width)}, to resize them."
            )
        elif depth > images.shape[1]:  # the first color after gray ones
            gray, images = images, torch.empty(len(files), depth, height, width, dtype=torch.uint8)
            images[: len(kept)] = gray[: len(kept)]
        images[len(kept)] = image  # gray goes into all three channels
        kept.append(position)
    if bad and options.on_bad_image == "error":
        raise _unreadable(root, bad, len(files)) from bad[0][1]
    if images is None:
        raise BaconError(f"none of the {len(files)} image files under '{root}' can be read: {_listed(bad)}.")
    tensors = {"images": images[: len(kept)], "kept": torch.tensor(kept, dtype=torch.int64)}
    info: dict[str, Any] = {"skipped": len(bad), "named": _listed(bad)}
    return tensors, info


def _unreadable(root: Path, bad: Sequence[tuple[str, Exception]], count: int) -> BaconError:
    """The error for files that cannot be read: all of them at once, for nobody mends a folder file by file."""
    remedy = "or give --data.on_bad_image skip"
    if len(bad) == 1:
        path, error = bad[0]
        do = "scale it down, remove it," if _is_too_large(error) else "mend or remove it,"
        return BaconError(f"cannot read the image file '{root / path}' ({_reason(error)}): {do} {remedy}.")
    return BaconError(
        f"cannot read {len(bad)} of the {count} image files under '{root}': {_listed(bad)}; mend or remove them, "
        f"{remedy}."
    )


def _listed(bad: Sequence[tuple[str, Exception]]) -> str:
    """Bad files by what is wrong with them; empty where there are none."""
    reasons: dict[str, list[str]] = {}
    for path, error in bad[:_MOST_NAMED]:
        reasons.setdefault(_reason(error), []).append(f"'{one_line(path)}'")
    more = f", and {len(bad) - _MOST_NAMED} more" if len(bad) > _MOST_NAMED else ""
    return "; ".join(f"{', '.join(paths)} ({reason})" for reason, paths in reasons.items()) + more


def _decoded(root: Path, files: Sequence[ImageFile], options: LoadOptions) -> Iterator[Tensor | Exception]:
    """Decode files by several threads and yield the results in order; few are ahead of the one who takes them."""
    threads = os.cpu_count() or 1  # more would only pass the interpreter lock around
    pending: deque[Future[list[Tensor | Exception]]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for start in range(0, len(files), _CHUNK):
            if len(pending) == 2 * threads:
                yield from pending.popleft().result()
            pending.append(pool.submit(_decode_chunk, root, files[start : start + _CHUNK], options))
        while pending:
            yield from pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _decode_chunk(root: Path, files: Sequence[ImageFile], options: LoadOptions) -> list[Tensor | Exception]:
    results: list[Tensor | Exception] = []
    for file in files:
        try:
            image = decode(os.path.join(root, file.path))
            results.append(image if options.image_size is None else fit(image, options.image_size))
        except Exception as error:  # on damaged files Pillow's plugins raise anything
            results.append(error)
    return results


def _is_too_large(error: Exception) -> bool:
    return isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning))


def _reason(error: Exception) -> str:
    # Pillow repeats the path in "cannot identify image file '...'".
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image, or damaged"
    if _is_too_large(error):  # Pillow warns from its limit on, and refuses twice that
        most = (2 if isinstance(error, Image.DecompressionBombError) else 1) * (Image.MAX_IMAGE_PIXELS or 0)
        return f"too large: Pillow opens pictures of at most {most:,} pixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return one_line(error) or type(error).__name__
