"""Writing distilled sets in the formats of other projects."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from bacon_pl.distilled_set import DistilledSet
from bacon_pl.distilled_set.labels import counts_text
from bacon_pl.distilled_set.pictures import share_clipped
from bacon_pl.errors import BaconError
from bacon_pl.interop.layouts import LAYOUTS, SUFFIXES, Form, Layout, WrittenAs, strange_in


def write_set(
    distilled: DistilledSet,
    target: str | os.PathLike[str],
    *,
    canvases: bool | None = None,
    overwrite: bool = False,
    layout: Layout | None = None,
) -> Path:
    """Write a set atomically in a layout, by default in one that the suffix of the target says.

    ``.safetensors`` is the format of this package; ``.pt`` and ``.pth`` contain ``{"data": [[images, labels]]}``, the
    format of DatasetCondensation; ``.npz`` contains ``images`` and ``labels``; a name without a suffix is a folder of
    class folders with PNG files. Images are normalized (or whitened) float32, or rounded to 8 bits in PNG files.

    The layouts ``idc`` and ``ncfm`` are ``.pt`` files of a pair of images, which are pixels of about 0 to 1, and
    labels; ``mtt``, ``tesla``, ``ftd`` and ``datm`` are a folder with ``images_best.pt``, ``labels_best.pt`` (soft ones
    if the set has some) and ``lr_best.pt``; ``sre2l`` and ``rded`` are a folder of PNG files in numbered class folders.

    Other projects train on the images of a file without cutting them. The tiles of a partitioned set are therefore cut
    out and scaled up, giving factor²·ipc images per class, class by class. In ``.safetensors``, and in the layouts
    ``idc`` and ``ncfm``, whose programs cut tiles out themselves, canvases are kept.

    Args:
        distilled: The set.
        target: File or folder to write.
        canvases: Whether to keep the tiles on their canvases; by default they are cut out. Must be None for
            ``.safetensors``, and must not be True for a set without tiles.
        overwrite: Whether to replace an existing target. A folder is replaced only if it contains nothing but such
            files.
        layout: Name of the project in whose layout the set is written.

    Returns:
        The path of the target.

    Raises:
        BaconError: The target exists, has an unknown suffix or cannot be written; ``canvases`` does not apply to it; or
            the layout cannot hold the set.
    """
    path = Path(target)
    kind, form = _form(distilled, path, canvases, layout)
    is_folder = kind.suffix == ""
    in_use = path.exists() and not (is_folder and path.is_dir() and not any(path.iterdir()))
    if in_use and not overwrite:
        raise BaconError(f"'{path}' exists: choose another target or give --overwrite true.")
    if in_use and path.is_dir() != is_folder:
        raise BaconError(f"'{path}' is a {'folder' if path.is_dir() else 'file'}: choose another target.")
    if in_use and is_folder and (strange := strange_in(path)):
        raise BaconError(f"'{path}' holds more than a set's pictures ('{strange}'), so it is left alone.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as work:
            made = Path(work) / path.name
            kind.write(form, made)
            if is_folder and path.is_dir():
                shutil.rmtree(path)  # empty, or files of an older set
            os.replace(made, path)
    except OSError as error:
        raise BaconError(f"cannot write '{path}' ({error.strerror}); choose a place you can write to.") from error
    return path


def _form(distilled: DistilledSet, path: Path, canvases: bool | None, layout: Layout | None) -> tuple[WrittenAs, Form]:
    """Choose the layout, and prepare the images and labels to write, with tiles cut out if necessary."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise BaconError(
            f"'{path}' has a suffix that is not known: use one of {', '.join(filter(None, SUFFIXES))}, or none for a "
            "folder of PNG files."
        )
    if layout is not None and layout not in LAYOUTS:
        raise BaconError(f"--layout must be one of {', '.join(LAYOUTS)}, got {str(layout)[:40]!r}.")
    kind = SUFFIXES[suffix] if layout is None else LAYOUTS[layout]
    if layout is not None and suffix not in ((".pt", ".pth") if kind.suffix else ("",)):
        wanted = "a name ending in .pt" if kind.suffix else "a folder's name, without a suffix"
        raise BaconError(f"'{path}' is no name for --layout {layout}: give {wanted}.")
    if kind.ours:
        if canvases is not None:
            raise BaconError(f"'{path}' keeps a set's canvases and its factor in any case: leave --canvases out.")
        canvases = True
    elif canvases and distilled.factor == 1:
        raise BaconError("the set has factor 1, so its images are not canvases of tiles: leave --canvases out.")
    kept = kind.canvases if canvases is None else canvases
    form = Form.whole(distilled) if kept or distilled.factor == 1 else Form.cut_out(distilled)
    if flaw := kind.flaw(form):
        raise BaconError(f"the set does not fit the layout of '{path}': {flaw}.")
    return kind, form


def written(
    distilled: DistilledSet,
    target: str | os.PathLike[str],
    *,
    canvases: bool | None = None,
    layout: Layout | None = None,
) -> str:
    """Describe what :func:`write_set` has written, and what it has left out.

    Args:
        distilled: The set.
        target: The file or folder that was written.
        canvases: The argument of :func:`write_set`.
        layout: The argument of :func:`write_set`.

    Returns:
        One sentence with the number, size and factor of the images, the range of their pixels, what the layout cannot
        hold, and the target.
    """
    path = Path(target)
    kind, form = _form(distilled, path, canvases, layout)
    meta, count = distilled.meta, len(form.images)
    each = counts_text(tuple(form.labels.bincount().tolist()))
    images, size = "images" if form.factor == 1 else "canvases", "×".join(map(str, form.images.shape[1:]))
    parts = [f"{count} {images} of {size} ({each} for each of {meta.num_classes} classes, class by class)"]
    if form.factor > 1:
        unsaid = "" if kind.keeps_factor else f", which {'a file' if kind.suffix else 'a folder'} does not record"
        parts.append(f"factor {form.factor}{unsaid}: {count * form.factor**2} images are to be cut out of them")
    elif distilled.factor > 1:
        parts.append(f"factor 1: cut out of {len(distilled.images)} canvases of factor {distilled.factor}")
    else:
        parts.append("factor 1")
    if kind.pictures:
        outside = 100 * share_clipped(form.images, meta)
        clipped = f", {outside:.2g} % of them clipped" if outside else ""
        parts.append(f"pixels of 0 to 255, not normalized{clipped}")
    elif kind.unit:
        parts.append("pixels float32 of about 0 to 1, not normalized")
    else:
        space = f"normalized by mean {_numbers(meta.mean)} and std {_numbers(meta.std)}"
        parts.append(f"pixels float32, {meta.whitening or space}")
    if form.soft_labels is not None and not kind.ours and kind.keeps_soft_labels:
        alone = "" if kind.keeps_both else " in place of the classes"
        parts.append(f"soft labels ({distilled.label_kind}){alone}")
    if lost := kind.lost(form):
        listed = " and ".join(filter(None, (", ".join(lost[:-1]), lost[-1])))
        parts.append(f"{listed} {'has' if len(lost) == 1 else 'have'} no place in this format")
    return f"wrote {'; '.join(parts)}; to {path}"


def _numbers(values: tuple[float, ...]) -> str:
    return f"({', '.join(f'{value:.4g}' for value in values)})"
