"""Listing, decoding and resizing image files into one uint8 tensor. Callers decide what the folders mean."""

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

# Maximum number of unreadable files listed in a message.
_MOST_NAMED = 20

# Files decoded by one task: enough to hide the overhead of a task, and few enough that all threads finish at about the
# same time and that their results take little memory compared to the dataset.
_CHUNK = 64
_GREY_MODES = frozenset(("1", "L", "LA", "La"))


@dataclass(frozen=True)
class ImageFile:
    """One image file.

    Attributes:
        path: Path relative to the dataset's root.
        size: Size in bytes.
        mtime_ns: Time of the last modification in nanoseconds.
        label: Class id.
    """

    path: str
    size: int
    mtime_ns: int
    label: int


def scan_images(root: Path, folder: str, label: int) -> list[ImageFile]:
    """List the image files under a folder and its subfolders, sorted by path.

    Image files are recognized by torchvision's ``IMG_EXTENSIONS``; names that start with a dot are skipped.

    Args:
        root: The dataset's root.
        folder: Path of the folder, relative to ``root``.
        label: Class id assigned to all of the files.

    Returns:
        The files, sorted by path.

    Raises:
        BaconError: A folder cannot be read.
    """
    found: list[ImageFile] = []
    seen: set[tuple[int, int]] = set()  # a link to a parent folder would otherwise cause an endless loop
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
                        # For a dangling link, take the state of the link itself; decoding will report the error.
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
    """List the names of the subfolders of a folder, sorted, without those that start with a dot.

    Raises:
        BaconError: The folder is missing or cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except OSError as error:
        raise BaconError(
            f"cannot read the folder '{folder}' ({error.strerror}): give --data.root the folder that holds the images."
        ) from error


def fit(images: Tensor, size: int) -> Tensor:
    """Make images square: scale the shorter side to ``size`` (bilinear, antialiased), then crop the center.

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
        uint8 (1, H, W) for gray images, with 16-bit images scaled to 8 bits; uint8 (3, H, W) for all others, without
        transparency.

    Raises:
        Exception: The file is damaged; Pillow's plugins raise exceptions of many types.
    """
    with Image.open(path) as image:
        return pixels_of(image)


def pixels_of(image: Image.Image) -> Tensor:
    """Return the pixels of a picture as :func:`decode` does.

    Raises:
        Exception: The picture is damaged, or its pixels have no known range.
    """
    if image.mode.startswith("I"):  # gray with more than 8 bits; Pillow's own conversion would clip the values
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
    root: Path, files: Sequence[ImageFile], options: LoadOptions, channels: int | None = None, part: str = ""
) -> tuple[Tensor, Tensor]:
    """Decode image files, or read the decoded images from the cache.

    Args:
        root: The dataset's root.
        files: Files to read, in order; at least one.
        options: Loading options, of which ``image_size`` and ``on_bad_image`` are used.
        channels: 3 converts all images to RGB; None gives one channel if every image is gray, else three.
        part: Name of the part of the dataset that the files are, if they are not all of it: it has a file of its own
            in the cache, so that neither takes the place of the other.

    Returns:
        ``(images, kept)``: images are uint8 (n, ch, H, W); kept, (n,) int64, are their positions in ``files``. There
        are fewer images than files only if unreadable files were skipped.

    Raises:
        BaconError: A file cannot be read, or the images differ in size and no ``image_size`` is given.
    """
    # Options that change the result are part of the place; the state of the files is the fingerprint.
    of_part = (part,) if part else ()
    place = repr((os.path.realpath(root), options.image_size, options.on_bad_image, channels, *of_part))
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
    # A single block of memory for all images: joining a list of parts would temporarily double the memory.
    images: Tensor | None = None
    kept: list[int] = []
    bad: list[tuple[str, Exception]] = []
    for position, image in enumerate(_decoded(root, files, options)):
        if isinstance(image, Exception):
            bad.append((files[position].path, image))
            continue
        if bad and options.on_bad_image == "error":  # keep decoding only to find more unreadable files
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
    """Make one error for all files that cannot be read, so that users can repair a folder in one go."""
    remedy = "or give --data.on_bad_image skip"
    if len(bad) == 1:
        path, error = bad[0]
        do = "scale it down, remove it," if _is_too_large(error) else "fix or remove it,"
        return BaconError(f"cannot read the image file '{root / path}' ({_reason(error)}): {do} {remedy}.")
    return BaconError(
        f"cannot read {len(bad)} of the {count} image files under '{root}': {_listed(bad)}; fix or remove them, "
        f"{remedy}."
    )


def _listed(bad: Sequence[tuple[str, Exception]]) -> str:
    """List unreadable files, grouped by reason; empty if there are none."""
    reasons: dict[str, list[str]] = {}
    for path, error in bad[:_MOST_NAMED]:
        reasons.setdefault(_reason(error), []).append(f"'{one_line(path)}'")
    more = f", and {len(bad) - _MOST_NAMED} more" if len(bad) > _MOST_NAMED else ""
    return "; ".join(f"{', '.join(paths)} ({reason})" for reason, paths in reasons.items()) + more


def _decoded(root: Path, files: Sequence[ImageFile], options: LoadOptions) -> Iterator[Tensor | Exception]:
    """Decode files in several threads and yield the results in order, with a bounded number of results in flight."""
    threads = os.cpu_count() or 1  # more threads would only contend for the interpreter lock
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
        except Exception as error:  # Pillow's plugins raise exceptions of many types for damaged files
            results.append(error)
    return results


def _is_too_large(error: Exception) -> bool:
    return isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning))


def _reason(error: Exception) -> str:
    # Pillow repeats the path in "cannot identify image file '...'".
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image, or damaged"
    if _is_too_large(error):  # Pillow warns above its limit and refuses images above twice the limit
        most = (2 if isinstance(error, Image.DecompressionBombError) else 1) * (Image.MAX_IMAGE_PIXELS or 0)
        return f"too large: Pillow opens pictures of at most {most:,} pixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return one_line(error) or type(error).__name__
