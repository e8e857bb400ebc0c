"""The artefact of a distillation: synthetic images with all that is needed to use, trace and show them, as one file."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import secrets
import subprocess
import unicodedata
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

import safetensors.torch
import torch
from matplotlib.figure import Figure
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.functional import to_pil_image

from bacon_pl import grid, partition
from bacon_pl.data.images import DatasetMeta, denormalise
from bacon_pl.errors import BaconError

FILE_NAME = "distilled.safetensors"
FORMAT_VERSION = 1

# safetensors writes its metadata entries in an order that changes from process to process. A single entry that holds
# sorted JSON keeps equal sets byte-identical.
_METADATA_KEY = "bacon_pl"

# Names that Windows keeps for devices, whatever their extension.
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(10))}


def package_version() -> str:
    """Return the installed version of this package, or ``"unknown"`` where it runs without being installed."""
    try:
        return importlib.metadata.version("bacon-pl")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def git_commit() -> str | None:
    """Return the commit of the checkout this package runs from, else of the working directory's, else None."""
    package = Path(__file__).resolve().parent
    for folder in (str(package), "."):
        command = ["git", "-C", folder, "rev-parse", "--show-prefix", "HEAD"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
            prefix, commit = done.stdout.splitlines()  # the prefix is an empty line at the checkout's top
        except (OSError, ValueError, subprocess.SubprocessError):
            continue
        # Installed into a virtual environment the package may lie inside somebody else's repository.
        if folder == "." or prefix == f"{package.name}/":
            return commit
    return None


class DistilledSet(Dataset[tuple[Tensor, int]]):
    """A distilled dataset: a map-style dataset of its expanded images, and a file (method.md §3).

    Indexing gives expanded, normalised images, as evaluation uses them; ``images`` are the canvases as trained.

    Attributes:
        images: (C·ipc, ch, H, W), float32 on the CPU, normalised pixel space, class by class.
        labels: (C·ipc,), int64 on the CPU: 0 ipc times, then 1 ipc times, …
        meta: The dataset that was distilled.
        factor: Partition factor: every canvas holds factor² images.
        method: Name of the distillation method.
        config: Resolved configuration of the run, as JSON values.
        seed: Seed of the run.
        version: Version of this package that made the set.
        commit: Git commit that made the set, or None.

    Example:
        >>> from bacon_pl.distilled_set import DistilledSet
        >>> distilled = DistilledSet.load("distilled.safetensors")  # doctest: +SKIP
        >>> image, label = distilled[0]  # doctest: +SKIP
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        meta: DatasetMeta,
        *,
        factor: int = 1,
        method: str = "",
        config: Mapping[str, Any] | None = None,
        seed: int = 0,
        version: str | None = None,
        commit: str | None = None,
    ) -> None:
        """Take a copy of the images, from any device.

        Args:
            images: (C·ipc, ch, H, W), finite, normalised pixel space, class by class.
            labels: (C·ipc,), integers in [0, C), ascending, ipc of each class.
            meta: The dataset that was distilled.
            factor: Partition factor, at least 1; divides H and W.
            method: Name of the distillation method.
            config: Resolved configuration of the run; values that JSON does not know are kept as their ``str``.
            seed: Seed of the run.
            version: Version of this package; by default the one that runs.
            commit: Git commit, as :func:`git_commit` finds it.

        Raises:
            BaconError: The parts do not fit each other, or a pixel is not finite.
        """
        # A copy: the trained parameter that comes in here goes on changing.
        self.images = images.detach().to("cpu", torch.float32).clone(memory_format=torch.contiguous_format)
        self.labels = labels.detach().to("cpu", torch.int64).clone()
        self.meta = meta
        self.factor = factor
        self.method = method
        self.config: dict[str, Any] = json.loads(json.dumps(dict(config or {}), default=str))
        self.seed = seed
        self.version = package_version() if version is None else version
        self.commit = commit
        if flaw := _flaw(self.images, self.labels, meta, factor):
            raise BaconError(f"cannot make a distilled set of {meta.name}: {flaw}.")

    @property
    def ipc(self) -> int:
        """Stored images (canvases) per class."""
        return len(self.images) // self.meta.num_classes

    @property
    def storage_bytes(self) -> int:
        """Bytes of the image tensor as the file stores it, in float32; labels and description come on top."""
        return self.images.numel() * self.images.element_size()

    @property
    def pixel_bytes(self) -> int:
        """Bytes of the canvases at one byte per value, which is how the field counts images per class.

        A count, not a measurement: the values are trained floats and lose a little when rounded to bytes.
        """
        return self.images.numel()

    @property
    def share(self) -> float | None:
        """``pixel_bytes`` as a fraction of the uint8 training images, or None where their size is unknown."""
        return self.pixel_bytes / self.meta.train_bytes if self.meta.train_bytes else None

    def __repr__(self) -> str:
        return (
            f"DistilledSet({self.meta.name}, method={self.method!r}, {self.meta.num_classes} classes × {self.ipc} "
            f"images of {'×'.join(map(str, self.images.shape[1:]))}, factor={self.factor}, seed={self.seed})"
        )

    def check_fits(self, meta: DatasetMeta) -> None:
        """Check that images of a dataset can test what is trained on this set.

        Args:
            meta: The dataset to test on.

        Raises:
            BaconError: Classes, size, channels or normalisation differ.
        """
        mine = {"classes": self.meta.class_names, "image size": self.meta.size, "channels": self.meta.channels}
        theirs = {"classes": meta.class_names, "image size": meta.size, "channels": meta.channels}
        for what, value in mine.items():
            if value != theirs[what]:
                raise BaconError(
                    f"the distilled set was made from {self.meta.name} with {what} {_short(value)}, but the data "
                    f"({meta.name}) have {_short(theirs[what])}: give the dataset it was made from (--data.name, "
                    "--data.root)."
                )
        statistics = zip(self.meta.mean + self.meta.std, meta.mean + meta.std, strict=True)
        if any(abs(a - b) > 1e-3 for a, b in statistics):
            raise BaconError(
                f"the distilled set is normalised by mean {self.meta.mean} and std {self.meta.std}, the data by "
                f"{meta.mean} and {meta.std}: give its numbers as --data.mean and --data.std."
            )

    # ---- as a dataset

    @cached_property
    def _expanded(self) -> tuple[Tensor, Tensor]:
        return partition.expand(self.images, self.factor), partition.expand_labels(self.labels, self.factor)

    def expanded(self) -> tuple[Tensor, Tensor]:
        """Return the set as evaluation uses it, all at once (method.md §3).

        Returns:
            Images (factor²·C·ipc, ch, H, W), float32 in normalised pixel space, and labels (factor²·C·ipc,), int64.
            They are computed once and shared between calls: do not write to them.
        """
        return self._expanded

    def __len__(self) -> int:
        return len(self.images) * self.factor**2

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        images, labels = self._expanded
        return images[index], int(labels[index])

    # ---- as a file

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the set to one self-contained safetensors file.

        The file appears whole or not at all, and equal sets give equal bytes.

        Args:
            path: The file, or an existing folder, in which it is named ``distilled.safetensors``. Missing parent
                folders are made.

        Returns:
            The file's path.

        Raises:
            BaconError: The file cannot be written.
        """
        target = _file_in(path)
        description = {
            "channels": self.meta.channels,
            "class_names": list(self.meta.class_names),
            "config": self.config,
            "dataset": self.meta.name,
            "factor": self.factor,
            "format_version": FORMAT_VERSION,
            "git_commit": self.commit,
            "mean": list(self.meta.mean),
            "method": self.method,
            "package_version": self.version,
            "seed": self.seed,
            "size": list(self.meta.size),
            "std": list(self.meta.std),
            "train_bytes": self.meta.train_bytes,
        }
        data = safetensors.torch.save(
            {"images": self.images, "labels": self.labels},
            metadata={_METADATA_KEY: json.dumps(description, sort_keys=True)},
        )
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _write_atomically(target, data)
        except OSError as error:
            raise BaconError(f"cannot write '{target}' ({error.strerror}); choose a place you can write to.") from error
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> DistilledSet:
        """Read a set that :meth:`save` wrote. Everything in the file is checked; nothing in it is ever run.

        Args:
            path: The file, or a folder that holds ``distilled.safetensors``.

        Raises:
            BaconError: There is no such file, it is damaged or of another kind, or a newer version wrote it.
        """
        source = _file_in(path)
        if not source.is_file():
            raise BaconError(f"there is no distilled set at '{source}'; give a file or the folder of a finished run.")
        try:
            with safe_open(source, framework="pt") as file:
                held = set(file.keys())
                entry = (file.metadata() or {}).get(_METADATA_KEY)
                # Cloned, for the file's tensors are views of a memory map.
                tensors = {name: file.get_tensor(name).clone() for name in ("images", "labels") if name in held}
        except (SafetensorError, OSError, ValueError) as error:
            raise BaconError(
                f"'{source}' cannot be read as a safetensors file (damaged, cut short or of another kind: {error}); "
                "fetch or make it again."
            ) from error
        if entry is None or len(tensors) < 2:
            raise BaconError(
                f"'{source}' is a safetensors file but no distilled set (it lacks the "
                f"{'description' if entry is None else 'images or labels'}); give a file that DistilledSet.save wrote."
            )
        try:
            description = json.loads(entry)
        except (ValueError, RecursionError):
            description = None
        if not isinstance(description, dict):
            raise _damaged(source, "its description is not a JSON object")
        version = description.get("format_version")
        if not _is_int(version, 1):
            raise _damaged(source, "its format version is missing")
        if version > FORMAT_VERSION:
            raise BaconError(
                f"'{source}' has format version {version} and this package reads up to {FORMAT_VERSION}; "
                "install a newer version of the package."
            )
        for key, is_valid in _FIELDS.items():
            if key not in description or not is_valid(description[key]):
                raise _damaged(source, f"'{key}' in its description is missing or has a value that makes no sense")
        meta = DatasetMeta(
            name=description["dataset"],
            class_names=tuple(description["class_names"]),
            channels=description["channels"],
            size=(description["size"][0], description["size"][1]),
            mean=tuple(map(float, description["mean"])),
            std=tuple(map(float, description["std"])),
            train_bytes=description["train_bytes"],
        )
        images, labels = tensors["images"], tensors["labels"]
        if images.dtype != torch.float32 or labels.dtype != torch.int64:
            raise _damaged(source, f"its images are {images.dtype}, its labels {labels.dtype}, not float32 and int64")
        if flaw := _flaw(images, labels, meta, description["factor"]):
            raise _damaged(source, flaw)
        return cls(
            images,
            labels,
            meta,
            factor=description["factor"],
            method=description["method"],
            config=description["config"],
            seed=description["seed"],
            version=description["package_version"],
            commit=description["git_commit"],
        )

    # ---- as pictures

    def pixels(self, *, expanded: bool = False) -> Tensor:
        """Return the images as pixels, class by class.

        Args:
            expanded: The expanded images instead of the canvases.

        Returns:
            (C, n, ch, H, W), float32 in [0, 1], n being ipc or, expanded, factor²·ipc.
        """
        canvases = self.images.unflatten(0, (self.meta.num_classes, self.ipc))
        shown = partition.expand(canvases, self.factor) if expanded else canvases
        return denormalise(shown, self.meta.mean, self.meta.std)

    def export_png(self, folder: str | os.PathLike[str], *, expanded: bool = False) -> Path:
        """Write one PNG file per image, as ``<folder>/<class>/<number>.png``, which torchvision's ImageFolder reads.

        Class folders are named after the classes as far as that is safe, and numbered where their alphabetical order
        would not be the order of the labels. Pixels are rounded to bytes, clamped to [0, 255].

        Args:
            folder: A new or empty folder.
            expanded: Write the expanded images instead of the stored canvases.

        Returns:
            The folder.

        Raises:
            BaconError: The folder holds something already or cannot be written.
        """
        target = Path(folder)
        pixels = self.pixels(expanded=expanded).mul(255).round().to(torch.uint8)
        try:
            target.mkdir(parents=True, exist_ok=True)
            # Older files would become training images of the new set.
            if any(target.iterdir()):
                raise BaconError(f"'{target}' is not empty; choose a new folder for the images.")
            for name, images in zip(folder_names(self.meta.class_names), pixels, strict=True):
                (target / name).mkdir()
                for index, image in enumerate(images):
                    to_pil_image(image).save(target / name / f"{index:04d}.png")
        except OSError as error:
            raise BaconError(f"cannot write images to '{target}' ({error.strerror}); choose another folder.") from error
        return target

    def grid_tensor(self, max_classes: int | None = None, *, expanded: bool = False) -> Tensor:
        """Lay the images out with one row per class, for a logger.

        Args:
            max_classes: Show the first so many classes; all by default.
            expanded: Show the expanded images instead of the canvases.

        Returns:
            (3, height, width), float32 in [0, 1].
        """
        return grid.grid_tensor(self.pixels(expanded=expanded)[:max_classes])

    def grid(self, *, expanded: bool = False, scale: int | None = None) -> Figure:
        """Draw the images with one row per class and its name beside it.

        Args:
            expanded: Show the expanded images instead of the canvases.
            scale: Screen pixels per image pixel and side, at least 1; chosen by the size of the set by default.

        Returns:
            A matplotlib figure outside pyplot's state.
        """
        return grid.grid_figure(self.pixels(expanded=expanded), self.meta.class_names, scale)

    def save_grid(self, path: str | os.PathLike[str], *, expanded: bool = False, scale: int | None = None) -> Path:
        """Write the picture that :meth:`grid` draws; the file's suffix chooses the format.

        Raises:
            BaconError: The file cannot be written, or matplotlib does not know its suffix.
        """
        target = Path(path)
        figure = self.grid(expanded=expanded, scale=scale)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(target, bbox_inches="tight", pad_inches=0.05)
        except (OSError, ValueError) as error:
            raise BaconError(f"cannot write the picture '{target}' ({error}); choose another .png file.") from error
        return target


def _short(value: object, longest: int = 80) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def folder_names(class_names: tuple[str, ...]) -> list[str]:
    """Turn class names, which may come from anywhere, into folder names that sort in label order.

    Args:
        class_names: Any strings, in label order.

    Returns:
        One plain path component per class, all different even where case is ignored, in ascending order.
    """
    names = [_safe_component(name) for name in class_names]
    folded = {name.casefold() for name in names}
    if len(folded) == len(names) and names == sorted(names):
        return names
    digits = len(str(len(names) - 1))
    return [f"{index:0{digits}d}_{name}" for index, name in enumerate(names)]


def _safe_component(name: str) -> str:
    """Make one path component of a string: never empty, hidden, reserved, a step upwards, or over 120 bytes."""
    # Compatibility forms first: they turn some harmless-looking characters into slashes and dots.
    plain = unicodedata.normalize("NFKC", name)
    plain = "".join(c if c.isalnum() or c in "-_. " else "_" for c in plain)
    plain = plain.strip(". ").encode()[:120].decode(errors="ignore").rstrip(". ")
    if plain.partition(".")[0].rstrip().casefold() in _RESERVED:
        plain = f"_{plain}"
    return plain or "class"


def _file_in(path: str | os.PathLike[str]) -> Path:
    given = Path(path)
    return given / FILE_NAME if given.is_dir() else given


def _write_atomically(target: Path, data: bytes) -> None:
    """Write beside the target, then rename, so that no reader and no crash ever sees half a file."""
    # Not tempfile, whose files only their owner may read.
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _flaw(images: Tensor, labels: Tensor, meta: DatasetMeta, factor: int) -> str | None:
    """Say what is wrong with the parts of a set, as the rest of a sentence, or None."""
    classes = meta.num_classes
    shape = (meta.channels, *meta.size)
    if len(meta.mean) != meta.channels or len(meta.std) != meta.channels:
        return f"there are {len(meta.mean)} means and {len(meta.std)} deviations for {meta.channels} channels"
    if images.ndim != 4 or tuple(images.shape[1:]) != shape:
        return f"the images have shape {tuple(images.shape)} where (N, {', '.join(map(str, shape))}) is needed"
    if labels.shape != images.shape[:1]:
        return f"there are {len(images)} images but labels of shape {tuple(labels.shape)}"
    if len(images) == 0 or len(images) % classes:
        return f"{len(images)} images cannot be shared equally among {classes} classes"
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        return f"the labels run from {int(labels.min())} to {int(labels.max())} but there are {classes} classes"
    if not torch.equal(labels, torch.arange(classes).repeat_interleave(len(images) // classes)):
        return "the labels are not in class order with the same number of images for each class"
    if not bool(images.isfinite().all()):
        return "some pixels are not finite numbers, as after a training run that diverged"
    if factor not in partition.allowed_factors(meta.size):
        return f"partition factor {factor} does not divide images of {meta.size[0]}×{meta.size[1]} pixels"
    return None


def _damaged(source: Path, flaw: str) -> BaconError:
    return BaconError(f"'{source}' is damaged: {flaw}; fetch or make it again.")


def _is_int(value: object, least: int | None = None) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and (least is None or value >= least)


def _is_numbers(value: object) -> bool:
    """Tell whether this is a list of numbers of a sane size (NaN and infinity are not)."""
    return isinstance(value, list) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e6 for v in value
    )


# What a description holds, and what each value must look like; shapes are compared afterwards, by _flaw.
_FIELDS: dict[str, Callable[[Any], bool]] = {
    "channels": lambda v: _is_int(v) and v in (1, 3),
    "class_names": lambda v: isinstance(v, list) and len(v) > 0 and all(isinstance(name, str) for name in v),
    "config": lambda v: isinstance(v, dict),
    "dataset": lambda v: isinstance(v, str),
    "factor": lambda v: _is_int(v, 1),
    "git_commit": lambda v: v is None or isinstance(v, str),
    "mean": _is_numbers,
    "method": lambda v: isinstance(v, str),
    "package_version": lambda v: isinstance(v, str),
    "seed": _is_int,
    "size": lambda v: isinstance(v, list) and len(v) == 2 and all(_is_int(side, 1) for side in v),
    "std": lambda v: _is_numbers(v) and all(s > 0 for s in v),
    "train_bytes": lambda v: _is_int(v, 0),
}
