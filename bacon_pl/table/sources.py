"""Locating the datasets of a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bacon_pl.data import DatasetMeta, LabeledImages, load_dataset
from bacon_pl.data.catalog import DatasetSpec, find
from bacon_pl.errors import BaconError
from bacon_pl.learners import digest
from bacon_pl.learners.recipe import check_test_resize

_LOADED = ("image_size", "mean", "std", "test_fraction", "on_bad_image")


@dataclass(frozen=True)
class Source:
    """A dataset on disk.

    Attributes:
        arguments: Arguments of ``fit`` and ``eval`` that select the dataset.
        note: Note for readers of the table; may be empty.
        images: What tells the images from others; empty where the dataset's name does.
    """

    arguments: tuple[str, ...]
    note: str = ""
    images: str = ""


def loading(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings by which images are read, as :func:`~bacon_pl.data.load_dataset` calls them.

    Args:
        data: Settings of a :class:`~bacon_pl.data.DataModule` by name.
    """
    return {"seed": data.get("split_seed", 0), **{name: data[name] for name in _LOADED if name in data}}


def told_apart(*stores: LabeledImages) -> str:
    """Return what tells images from others of a dataset whose name does not, as its setting ``data.root`` is told."""
    return f"images {'-'.join(digest(store)[:16] for store in stores)}"


def in_own_format(name: str, root: Path) -> Source:
    """Return a dataset as it is where it lies in its own format, without looking."""
    own = name if "." in name else find(name).name  # a user's own dataset is selected by its module
    return Source(("--data.name", own, "--data.root", str(root)))


def locate(name: str, root: Path, download: bool = False, options: Mapping[str, Any] | None = None) -> Source:
    """Find a dataset in its own format, or as image files in class folders (``root`` or ``root/<name>``).

    Image files are normalized in the same way as the original dataset. The data is read once, so that errors in it are
    reported before any run starts.

    Args:
        name: Catalog name, or ``module.NAME`` of a DatasetSpec.
        root: Folder of the data.
        download: Download missing files.
        options: Settings by which the images are read (see :func:`loading`).

    Returns:
        The dataset.

    Raises:
        BaconError: The dataset is missing or damaged.
    """
    train, test, meta, folder = _read(name, root, options or {}, download)
    spec = find(name)
    if folder is None:
        fixed = spec.num_classes is not None  # datasets that the catalog fully describes are the same in every folder
        return replace(in_own_format(name, root), images="" if fixed else told_apart(train, test))
    arguments = ["--data.name", "folder", "--data.root", str(folder)]
    for what, values in (("mean", meta.mean), ("std", meta.std)):
        arguments += [f"--data.{what}", str(list(values))]
    note = f"{spec.name} is read from image files, which may have lost a little"
    return Source(tuple(arguments), note, told_apart(train, test))


def training_images(
    name: str, root: Path, options: Mapping[str, Any] | None = None
) -> tuple[LabeledImages, DatasetMeta]:
    """Read the training images alone of a dataset that :func:`locate` finds; files of test images are not opened.

    Args:
        name: Catalog name, or ``module.NAME`` of a DatasetSpec.
        root: Folder of the data.
        options: Settings by which the images are read (see :func:`loading`).

    Returns:
        The training images, and the description of the original dataset.

    Raises:
        BaconError: The dataset is missing or damaged.
    """
    train, _, meta, _ = _read(name, root, options or {}, test=False)
    return train, replace(meta, name=find(name).name)


def _read(
    name: str, root: Path, options: Mapping[str, Any], download: bool = False, test: bool = True
) -> tuple[LabeledImages, LabeledImages, DatasetMeta, Path | None]:
    """Training and test images, their description, and the folder of image files, if not in their own format."""
    spec = find(name)
    try:
        return *load_dataset(name, root, download=download, test=test, **options), None
    except BaconError as error:
        for folder in (root / spec.name, root):
            if spec.name != "folder" and (folder / "train").is_dir() and (folder / "test").is_dir():
                return *_as_files(spec, folder, options, test), folder
        raise error


def _as_files(
    spec: DatasetSpec, folder: Path, options: Mapping[str, Any], test: bool
) -> tuple[LabeledImages, LabeledImages, DatasetMeta]:
    given = {"mean": spec.mean, "std": spec.std, **{name: one for name, one in options.items() if one is not None}}
    train, tested, meta = load_dataset("folder", folder, test=test, **given)
    side = options.get("image_size")
    size = (side, side) if side else spec.size
    if (meta.channels, meta.size, meta.num_classes) != (spec.channels, size, spec.num_classes):
        raise BaconError(
            f"'{folder}' holds {meta.num_classes} classes of {meta.channels}×{meta.size[0]}×{meta.size[1]} images, "
            f"which is not {spec.name}: point --data.root at the folder that holds it."
        )
    return train, tested, meta


def check_images(data: Mapping[str, Any], dataset: str, resize: int | None, source: Source, bound: bool) -> None:
    """Check that images can be tested, and measured, as they are asked to be.

    Args:
        data: Settings of the data.
        dataset: Catalog name.
        resize: To how many pixels test images are enlarged, or None.
        source: The dataset on disk.
        bound: Whether sets are measured.

    Raises:
        BaconError: They cannot be enlarged so, or ``--bound`` would measure sets on other images than their own.
    """
    side = data.get("image_size")
    if size := (side, side) if side else find(dataset).size:
        check_test_resize(resize, size, bool(data.get("whitening")))
    for name in ("image_size", "mean", "std"):
        if bound and data.get(name) is not None and f"--data.{name}" not in source.arguments:
            raise BaconError(
                f"--bound measures sets on the dataset's images as they are: leave out --data.{name}, or --bound."
            )
