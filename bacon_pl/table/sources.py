"""Locating the datasets of a table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from bacon_pl.data import DatasetMeta, LabeledImages, load_dataset
from bacon_pl.data.catalog import DatasetSpec, find
from bacon_pl.errors import BaconError


@dataclass(frozen=True)
class Source:
    """A dataset on disk.

    Attributes:
        arguments: Arguments of ``fit`` and ``eval`` that select the dataset.
        note: Note for readers of the table; may be empty.
    """

    arguments: tuple[str, ...]
    note: str = ""


def locate(name: str, root: Path, download: bool = False) -> Source:
    """Find a dataset in its own format, or as image files in class folders (``root`` or ``root/<name>``).

    Image files are normalized in the same way as the original dataset. The data is read once, so that errors in it are
    reported before any run starts.

    Args:
        name: Catalog name, or ``module.NAME`` of a DatasetSpec.
        root: Folder of the data.
        download: Download missing files.

    Returns:
        The dataset.

    Raises:
        BaconError: The dataset is missing or damaged.
    """
    _, meta, folder = _read(name, root, download, test=True)
    spec = find(name)
    if folder is None:
        own = name if "." in name else spec.name  # a user's own dataset is selected by its module
        return Source(("--data.name", own, "--data.root", str(root)))
    arguments = ["--data.name", "folder", "--data.root", str(folder)]
    for what, values in (("mean", meta.mean), ("std", meta.std)):
        arguments += [f"--data.{what}", str(list(values))]
    return Source(tuple(arguments), f"{spec.name} is read from image files, which may have lost a little")


def training_images(name: str, root: Path) -> tuple[LabeledImages, DatasetMeta]:
    """Read the training images alone of a dataset that :func:`locate` finds; files of test images are not opened.

    Args:
        name: Catalog name, or ``module.NAME`` of a DatasetSpec.
        root: Folder of the data.

    Returns:
        The training images, and the description of the original dataset.

    Raises:
        BaconError: The dataset is missing or damaged.
    """
    train, meta, _ = _read(name, root, test=False)
    return train, replace(meta, name=find(name).name)


def _read(
    name: str, root: Path, download: bool = False, test: bool = True
) -> tuple[LabeledImages, DatasetMeta, Path | None]:
    """The training images, their description, and the folder of image files, if they are not in their own format."""
    spec = find(name)
    try:
        train, _, meta = load_dataset(name, root, download=download, test=test)
    except BaconError as error:
        for folder in (root / spec.name, root):
            if spec.name != "folder" and (folder / "train").is_dir() and (folder / "test").is_dir():
                return *_as_files(spec, folder, test), folder
        raise error
    return train, meta, None


def _as_files(spec: DatasetSpec, folder: Path, test: bool) -> tuple[LabeledImages, DatasetMeta]:
    train, _, meta = load_dataset("folder", folder, mean=spec.mean, std=spec.std, test=test)
    shape = (meta.channels, meta.size, meta.num_classes)
    if shape != (spec.channels, spec.size, spec.num_classes):
        raise BaconError(
            f"'{folder}' holds {meta.num_classes} classes of {meta.channels}×{meta.size[0]}×{meta.size[1]} images, "
            f"which is not {spec.name}: point --data.root at the folder that holds it."
        )
    return train, meta
