"""Writing distilled sets in the formats of other projects."""

from __future__ import annotations

import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bacon_pl.distilled_set import DistilledSet
from bacon_pl.distilled_set.labels import counts_text
from bacon_pl.distilled_set.pictures import share_clipped
from bacon_pl.errors import BaconError

_PICTURE = re.compile(r"\d{4,}\.png")


@dataclass(frozen=True)
class _Form:
    """A set in the form in which it will be written.

    Attributes:
        distilled: The set.
        images: (N, ch, H, W), float32, normalized pixel space.
        labels: (N,), int64, ascending.
        factor: Partition factor of the images; 1 if tiles have been cut out.
    """

    distilled: DistilledSet
    images: Tensor
    labels: Tensor
    factor: int


def write_set(
    distilled: DistilledSet,
    target: str | os.PathLike[str],
    *,
    canvases: bool | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a set atomically in the format given by the suffix of the target.

    ``.safetensors`` is the format of this package; ``.pt`` and ``.pth`` contain ``{"data": [[images, labels]]}``, the
    format of DatasetCondensation; ``.npz`` contains ``images`` and ``labels``; a name without a suffix is a folder of
    class folders with PNG files. Images are normalized float32, or rounded to 8 bits in PNG files.

    Other projects train on the images of a file without cutting them. The tiles of a partitioned set are therefore cut
    out and scaled up, giving factor²·ipc images per class, class by class. In ``.safetensors``, canvases are kept.

    Args:
        distilled: The set.
        target: File or folder to write.
        canvases: Whether to keep the tiles on their canvases; by default they are cut out. Must be None for
            ``.safetensors``, and must not be True for a set without tiles.
        overwrite: Whether to replace an existing target. A folder is replaced only if it contains nothing but such PNG
            files.

    Returns:
        The path of the target.

    Raises:
        BaconError: The target exists, has an unknown suffix or cannot be written, or ``canvases`` does not apply to it.
    """
    path = Path(target)
    writer = _WRITERS.get(path.suffix.lower())
    if writer is None:
        raise BaconError(
            f"'{path}' has a suffix that is not known: use one of {', '.join(filter(None, _WRITERS))}, or none for a "
            "folder of PNG files."
        )
    form = _form(distilled, path, canvases)
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
            writer(form, made)
            if is_folder and path.is_dir():
                shutil.rmtree(path)  # empty, or pictures of an older set
            os.replace(made, path)
    except OSError as error:
        raise BaconError(f"cannot write '{path}' ({error.strerror}); choose a place you can write to.") from error
    return path


def _form(distilled: DistilledSet, path: Path, canvases: bool | None) -> _Form:
    """Prepare the images and labels to write, with tiles cut out if necessary."""
    if _is_ours(path):
        if canvases is not None:
            raise BaconError(f"'{path}' keeps a set's canvases and its factor in any case: leave --canvases out.")
        canvases = True
    elif canvases and distilled.factor == 1:
        raise BaconError("the set has factor 1, so its images are not canvases of tiles: leave --canvases out.")
    if canvases or distilled.factor == 1:
        return _Form(distilled, distilled.images, distilled.labels, distilled.factor)
    # Expanded images are ordered by tile and then by class, but a set in a file is ordered by class.
    images, labels = distilled.expanded()
    order = labels.argsort(stable=True)
    return _Form(distilled, images[order], labels[order], 1)


def written(distilled: DistilledSet, target: str | os.PathLike[str], *, canvases: bool | None = None) -> str:
    """Describe what :func:`write_set` has written.

    Args:
        distilled: The set.
        target: The file or folder that was written.
        canvases: The argument of :func:`write_set`.

    Returns:
        One sentence with the number, size and factor of the images, the range of their pixels, and the target.
    """
    path = Path(target)
    form = _form(distilled, path, canvases)
    meta, count = distilled.meta, len(form.images)
    kind = "images" if form.factor == 1 else "canvases"
    each = counts_text(tuple(form.labels.bincount().tolist()))
    parts = [
        f"{count} {kind} of {'×'.join(map(str, form.images.shape[1:]))} ({each} for each of {meta.num_classes} "
        "classes, class by class)"
    ]
    if form.factor > 1:
        unsaid = "" if path.suffix else ", which a folder does not record"
        parts.append(f"factor {form.factor}{unsaid}: {count * form.factor**2} images are to be cut out of them")
    elif distilled.factor > 1:
        parts.append(f"factor 1: cut out of {len(distilled.images)} canvases of factor {distilled.factor}")
    else:
        parts.append("factor 1")
    if path.suffix:
        space = f"normalized by mean {_numbers(meta.mean)} and std {_numbers(meta.std)}"
        parts.append(f"pixels float32, {meta.whitening or space}")
    else:
        outside = 100 * share_clipped(form.images, meta)
        clipped = f", {outside:.2g} % of them clipped" if outside else ""
        parts.append(f"pixels of 0 to 255, not normalized{clipped}")
    if distilled.soft_labels is not None and not _is_ours(path):
        parts.append("the soft labels have no place in this format")
    if distilled.step_size is not None and not _is_ours(path):
        parts.append(f"the learned step size {distilled.step_size:g} has no place in this format")
    return f"wrote {'; '.join(parts)}; to {path}"


def _numbers(values: tuple[float, ...]) -> str:
    return f"({', '.join(f'{value:.4g}' for value in values)})"


def _is_ours(path: Path) -> bool:
    return path.suffix.lower() == ".safetensors"


def _not_pictures(folder: Path) -> str | None:
    """Return the name of an entry in a folder that :meth:`DistilledSet.export_png` would not have written, or None."""
    for entry in sorted(folder.iterdir()):
        if entry.is_symlink() or not entry.is_dir():
            return entry.name
        for file in entry.iterdir():
            if file.is_symlink() or not file.is_file() or not _PICTURE.fullmatch(file.name):
                return f"{entry.name}/{file.name}"
    return None


def _write_ours(form: _Form, path: Path) -> None:
    form.distilled.save(path)


def _write_pictures(form: _Form, path: Path) -> None:
    form.distilled.export_png(path, expanded=form.factor < form.distilled.factor)


def _write_torch(form: _Form, path: Path) -> None:
    content = {
        "data": [[form.images, form.labels]],
        "accs_all_exps": {},
        "factor": form.factor,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.write_bytes(buffer.getvalue())


def _write_npz(form: _Form, path: Path) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=form.images.numpy(), labels=form.labels.numpy(), factor=np.array(form.factor))
    path.write_bytes(buffer.getvalue())


_WRITERS: dict[str, Callable[[_Form, Path], None]] = {
    ".safetensors": _write_ours,
    ".pt": _write_torch,
    ".pth": _write_torch,
    ".npz": _write_npz,
    "": _write_pictures,
}
