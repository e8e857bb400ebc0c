"""The layouts in which sets are written: what each can hold, and how it is written."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from bacon_pl.distilled_set import DistilledSet
from bacon_pl.distilled_set.pictures import png, to_bytes
from bacon_pl.errors import BaconError
from bacon_pl.interop.foreign import soft
from bacon_pl.interop.pixels import from_set

Layout: TypeAlias = Literal["dc", "idc", "ncfm", "mtt", "tesla", "ftd", "datm", "sre2l", "rded"]
"""Name of the project in whose layout a set is written."""

_PICTURE = re.compile(r"(class\d{3,}_id)?\d{3,}\.png")
_TENSOR = re.compile(r"(images|labels|lr)_best\.pt")


@dataclass(frozen=True)
class Form:
    """A set in the form in which it will be written.

    Attributes:
        distilled: The set.
        images: (N, ch, H, W), float32, in the space of the set.
        labels: (N,), int64, ascending.
        factor: Partition factor of the images; 1 if tiles have been cut out.
        soft_labels: (N, C), or (N, factor², C) of canvases, float16, or None.
    """

    distilled: DistilledSet
    images: Tensor
    labels: Tensor
    factor: int
    soft_labels: Tensor | None

    @classmethod
    def whole(cls, distilled: DistilledSet) -> Form:
        """Keep the images as they are stored."""
        return cls(distilled, distilled.images, distilled.labels, distilled.factor, distilled.soft_labels)

    @classmethod
    def cut_out(cls, distilled: DistilledSet) -> Form:
        """Cut the tiles out of the canvases."""
        # Expanded images are ordered by tile and then by class, but a set in a file is ordered by class.
        images, labels = distilled.expanded()
        order = labels.argsort(stable=True)
        rows = distilled.expanded_soft_labels()
        return cls(distilled, images[order], labels[order], 1, None if rows is None else rows[order])

    def pixels(self) -> list[Tensor]:
        """Return the images as pixels in [0, 1], (n, ch, H, W) for each class."""
        return self.distilled.pixels_by_class(expanded=self.factor < self.distilled.factor)


@dataclass(frozen=True)
class WrittenAs:
    """A layout.

    Attributes:
        write: Writes a form to a path.
        suffix: Suffix of a file; empty for a folder.
        ours: Whether it is the format of this package.
        canvases: Whether tiles stay on their canvases unless asked otherwise.
        pictures: Whether pixels are rounded to bytes.
        unit: Whether images are pixels of about 0 to 1.
        keeps_factor: Whether it records the partition factor.
        keeps_soft_labels: Whether it holds soft labels.
        keeps_both: Whether it holds classes beside soft labels.
        keeps_step_size: Whether it holds a learned step size.
    """

    write: Callable[[Form, Path], None]
    suffix: str
    ours: bool = False
    canvases: bool = False
    pictures: bool = False
    unit: bool = False
    keeps_factor: bool = False
    keeps_soft_labels: bool = False
    keeps_both: bool = False
    keeps_step_size: bool = False

    def flaw(self, form: Form) -> str | None:
        """Describe why this layout cannot hold a set, as part of a sentence, or return None."""
        if self.unit and form.factor > 1 and form.distilled.meta.whitening is not None:
            return "its canvases of tiles are whitened, and have no pixels of their own; give --canvases false"
        if not (self.ours or self.pictures) and form.factor > 1 and form.distilled.upscaling != "bilinear":
            return (
                f"its tiles are scaled up by {form.distilled.upscaling} interpolation, and readers of other layouts "
                "know bilinear alone; give --canvases false"
            )
        if form.soft_labels is None or not self.keeps_soft_labels or self.keeps_both:
            return None
        if form.soft_labels.ndim == 3:
            return "it has a soft label for each tile, and the layout one for each image; leave --canvases out"
        try:
            found, _ = soft(Path("set"), form.soft_labels.float(), form.distilled.meta)
        except BaconError:
            found = form.labels[:0]
        if not torch.equal(found, form.labels):
            return (
                "its soft labels take the place of the classes, which can only be told if every class has the same "
                "number of images and most soft labels are largest at their class"
            )
        return None

    def lost(self, form: Form) -> list[str]:
        """List what a set has and this layout cannot hold."""
        distilled = form.distilled
        parts = [] if self.ours else ["the provenance"]
        if form.soft_labels is not None and not self.keeps_soft_labels:
            parts.append("the soft labels")
        if distilled.step_size is not None and not self.keeps_step_size:
            parts.append(f"the learned step size {distilled.step_size:g}")
        return parts


def strange_in(folder: Path) -> str | None:
    """Return the name of an entry in a folder that no layout of folders would have, or None."""
    for entry in sorted(folder.iterdir()):
        if not entry.is_symlink() and entry.is_file() and _TENSOR.fullmatch(entry.name):
            continue
        if entry.is_symlink() or not entry.is_dir():
            return entry.name
        for file in entry.iterdir():
            if file.is_symlink() or not file.is_file() or not _PICTURE.fullmatch(file.name):
                return f"{entry.name}/{file.name}"
    return None


def _records(form: Form) -> dict[str, Any]:
    """Collect what only this package reads in the files of others."""
    distilled, meta = form.distilled, form.distilled.meta
    found: dict[str, Any] = {"factor": form.factor, "pixels": "zca" if meta.whitening else "normalized"}
    if meta.whitening is not None:
        found["whitening"] = json.dumps(meta.whitening.to_json(), sort_keys=True)
    if distilled.step_size is not None:
        found["step_size"] = float(distilled.step_size)
    if form.soft_labels is not None:
        found |= {"soft_labels": form.soft_labels, "label_kind": distilled.label_kind}
    return found


def _write_ours(form: Form, path: Path) -> None:
    form.distilled.save(path)


def _save(content: Any, path: Path) -> None:
    buffer = io.BytesIO()  # torch raises a RuntimeError for paths that cannot be written
    torch.save(content, buffer)
    path.write_bytes(buffer.getvalue())


def _write_dc(form: Form, path: Path) -> None:
    _save({"data": [[form.images, form.labels]], "accs_all_exps": {}, **_records(form)}, path)


def _write_npz(form: Form, path: Path) -> None:
    values: Any = {name: v.numpy() if isinstance(v, Tensor) else np.array(v) for name, v in _records(form).items()}
    with path.open("wb") as file:
        np.savez_compressed(file, images=form.images.numpy(), labels=form.labels.numpy(), **values)


def _write_pair(form: Form, path: Path) -> None:
    _save([from_set(form.images, "unit", form.distilled.meta), form.labels], path)


def _write_trajectories(form: Form, path: Path) -> None:
    path.mkdir()
    _save(form.images, path / "images_best.pt")
    _save(form.labels if form.soft_labels is None else form.soft_labels.float(), path / "labels_best.pt")
    if form.distilled.step_size is not None:
        exact = torch.tensor(form.distilled.step_size, dtype=torch.float64)
        is_single = torch.equal(exact.float().double(), exact)  # as it is if it was learned in float32
        _save(exact.float() if is_single else exact, path / "lr_best.pt")


def _write_pictures(form: Form, path: Path) -> None:
    form.distilled.export_png(path, expanded=form.factor < form.distilled.factor)


def _write_numbered(folder: str, digits: int) -> Callable[[Form, Path], None]:
    """Return a function that writes pictures under the names of SRe2L or RDED.

    Those projects write JPEG files, which would change the pixels; they read PNG files as well.
    """

    def write(form: Form, path: Path) -> None:
        path.mkdir()
        for label, images in enumerate(form.pixels()):
            place = path / folder.format(label)
            place.mkdir()
            for number, image in enumerate(to_bytes(images)):
                name = f"class{label:0{digits}d}_id{number:0{digits}d}.png"
                (place / name).write_bytes(png(image))

    return write


_DC = WrittenAs(_write_dc, ".pt", keeps_factor=True, keeps_soft_labels=True, keeps_both=True, keeps_step_size=True)
_PAIR = WrittenAs(_write_pair, ".pt", canvases=True, unit=True)
_TRAJECTORIES = WrittenAs(_write_trajectories, "", keeps_soft_labels=True, keeps_step_size=True)

LAYOUTS: dict[str, WrittenAs] = {
    "dc": _DC,
    "idc": _PAIR,
    "ncfm": _PAIR,
    "mtt": _TRAJECTORIES,
    "tesla": _TRAJECTORIES,
    "ftd": _TRAJECTORIES,
    "datm": _TRAJECTORIES,
    "sre2l": WrittenAs(_write_numbered("new{:03d}", 3), "", pictures=True),
    "rded": WrittenAs(_write_numbered("{:05d}", 5), "", pictures=True),
}
"""Layouts by the name of a project."""

SUFFIXES: dict[str, WrittenAs] = {
    ".safetensors": WrittenAs(
        _write_ours,
        ".safetensors",
        ours=True,
        canvases=True,
        keeps_factor=True,
        keeps_soft_labels=True,
        keeps_both=True,
        keeps_step_size=True,
    ),
    ".pt": _DC,
    ".pth": _DC,
    ".npz": WrittenAs(
        _write_npz, ".npz", keeps_factor=True, keeps_soft_labels=True, keeps_both=True, keeps_step_size=True
    ),
    "": WrittenAs(_write_pictures, "", pictures=True),
}
"""Layouts that need no name, by the suffix of the target."""
