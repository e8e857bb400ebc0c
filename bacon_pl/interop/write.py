"""Distilled sets in the forms that other projects read."""

from __future__ import annotations

import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from bacon_pl.distilled_set import DistilledSet
from bacon_pl.errors import BaconError

_PICTURE = re.compile(r"\d{4,}\.png")


def write_set(distilled: DistilledSet, target: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write a set, whole or not at all, in the form that the target's name asks for.

    ``.safetensors`` is ours; ``.pt`` or ``.pth`` is ``{"data": [[images, labels]]}``, as DatasetCondensation writes it;
    ``.npz`` has ``images`` and ``labels``; a name without a suffix is a folder of class folders of PNG files. Images
    are the canvases as trained, normalized float32, and in PNG files rounded to 8 bits.

    Args:
        distilled: The set.
        target: Where to.
        overwrite: Put it in the place of an older one. A folder must then hold nothing but such PNG files.

    Returns:
        The target.

    Raises:
        BaconError: The target exists, has another suffix, or cannot be written.
    """
    path = Path(target)
    writer = _WRITERS.get(path.suffix.lower())
    if writer is None:
        raise BaconError(
            f"'{path}' has a suffix that is not known: use one of {', '.join(filter(None, _WRITERS))}, or none for a "
            "folder of PNG files."
        )
    is_folder = path.suffix == ""
    in_use = path.exists() and not (is_folder and path.is_dir() and not any(path.iterdir()))
    if in_use and not overwrite:
        raise BaconError(f"'{path}' exists: choose another target or give --overwrite true.")
    if in_use and path.is_dir() != is_folder:
        raise BaconError(f"'{path}' is a {'folder' if path.is_dir() else 'file'}: choose another target.")
    if in_use and is_folder and (strange := _not_pictures(path)):
        raise BaconError(f"'{path}' holds more than a set's pictures ('{strange}'), so it is left alone.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as work:
            made = Path(work) / path.name
            writer(distilled, made)
            if is_folder and path.is_dir():
                shutil.rmtree(path)  # empty, or pictures of an older set
            os.replace(made, path)
    except OSError as error:
        raise BaconError(f"cannot write '{path}' ({error.strerror}); choose a place you can write to.") from error
    return path


def _not_pictures(folder: Path) -> str | None:
    """Name of something in a folder that :meth:`DistilledSet.export_png` would not have written, or None."""
    for entry in sorted(folder.iterdir()):
        if entry.is_symlink() or not entry.is_dir():
            return entry.name
        for file in entry.iterdir():
            if file.is_symlink() or not file.is_file() or not _PICTURE.fullmatch(file.name):
                return f"{entry.name}/{file.name}"
    return None


def _write_ours(distilled: DistilledSet, path: Path) -> None:
    distilled.save(path)


def _write_pictures(distilled: DistilledSet, path: Path) -> None:
    distilled.export_png(path)


def _write_torch(distilled: DistilledSet, path: Path) -> None:
    content = {
        "data": [[distilled.images, distilled.labels]],
        "accs_all_exps": {},
        "factor": distilled.factor,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.write_bytes(buffer.getvalue())


def _write_npz(distilled: DistilledSet, path: Path) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer, images=distilled.images.numpy(), labels=distilled.labels.numpy(), factor=np.array(distilled.factor)
    )
    path.write_bytes(buffer.getvalue())


_WRITERS: dict[str, Callable[[DistilledSet, Path], None]] = {
    ".safetensors": _write_ours,
    ".pt": _write_torch,
    ".pth": _write_torch,
    ".npz": _write_npz,
    "": _write_pictures,
}
