"""The catalog of datasets by name. A new dataset is one entry here, or one call of :func:`register`."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bacon_pl.data import loaders
from bacon_pl.data.files import fit
from bacon_pl.data.folder import load_folder
from bacon_pl.data.images import DatasetMeta, LabeledImages
from bacon_pl.data.options import LoadOptions, OnBadImage, check_statistics
from bacon_pl.data.tiny_imagenet import load_tiny_imagenet
from bacon_pl.errors import BaconError, unknown_name

# Images processed at once where the computation needs a wider type than uint8.
_CHUNK = 1024


@dataclass(frozen=True)
class DatasetSpec:
    """One entry of the catalog.

    Attributes:
        name: Name by which users select the dataset; case, ``_`` and ``-`` are ignored.
        load: Function that returns ``(train, test)`` for the given options.
        channels: Channels of an image, or None if they depend on the data.
        size: Height and width in pixels, or None if they depend on the data.
        num_classes: Number of classes, or None if it depends on the data.
        mean: Mean per channel of pixels in [0, 1], or None to compute it from the training images.
        std: Standard deviation per channel of pixels in [0, 1], or None to compute it from the training images.
    """

    name: str
    load: Callable[[LoadOptions], tuple[LabeledImages, LabeledImages]]
    channels: int | None = None
    size: tuple[int, int] | None = None
    num_classes: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


CATALOG: dict[str, DatasetSpec] = {}


def register(spec: DatasetSpec) -> DatasetSpec:
    """Add a dataset to the catalog.

    Args:
        spec: The new entry.

    Returns:
        The same entry.

    Raises:
        ValueError: The name is already taken.
    """
    if any(_plain(name) == _plain(spec.name) for name in CATALOG):
        raise ValueError(f"the dataset name '{spec.name}' is taken.")
    CATALOG[spec.name] = spec
    return spec


def find(name: str) -> DatasetSpec:
    """Look up a dataset; ``cifar10``, ``CIFAR10`` and ``CIFAR-10`` are the same name.

    A dotted name, ``package.module.SPEC``, is imported, so that YAML files can name a user's own dataset.

    Args:
        name: Catalog name, or dotted name of a :class:`DatasetSpec`.

    Returns:
        The dataset's entry.

    Raises:
        BaconError: There is no dataset with this name.
    """
    for known, spec in CATALOG.items():
        if _plain(known) == _plain(name):
            return spec
    if "." in name:
        return _imported(name)
    raise unknown_name("dataset", name, CATALOG)


def _imported(path: str) -> DatasetSpec:
    module, _, attribute = path.rpartition(".")
    try:
        spec = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise BaconError(
            f"cannot import the dataset '{path}' ({error}): give a catalog name, or module.NAME of a DatasetSpec."
        ) from error
    if not isinstance(spec, DatasetSpec):
        raise BaconError(f"'{path}' is not a DatasetSpec: give module.NAME of one.")
    if CATALOG.get(spec.name) is not spec:
        try:
            register(spec)
        except ValueError as error:
            raise BaconError(f"cannot use the dataset '{path}': {error}") from error
    return spec


def load_dataset(
    name: str,
    root: str | os.PathLike[str],
    *,
    download: bool = False,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    on_bad_image: OnBadImage = "error",
    test: bool = True,
) -> tuple[LabeledImages, LabeledImages, DatasetMeta]:
    """Load a whole dataset as uint8 tensors on the CPU.

    Args:
        name: Catalog name.
        root: Folder of the data.
        download: Download missing files (torchvision's datasets only).
        image_size: Side N of the N×N images in pixels: the shorter side is scaled to N (bilinear, antialiased), then
            the center is cropped. None keeps the size on disk.
        mean: Mean per channel of pixels in [0, 1]; None uses the catalog's value or, if it has none, that of the
            training images.
        std: Standard deviation per channel of pixels in [0, 1]; None uses the catalog's value or, if it has none,
            that of the training images.
        test_fraction: Share of the images held out for testing if the data has no test split.
        seed: Seed of that split.
        on_bad_image: What to do with an image file that cannot be read: ``"error"`` or ``"skip"``.
        test: Whether to load the test images; if false, none are returned, and their files are not opened.

    Returns:
        ``(train, test, meta)``.

    Raises:
        BaconError: The name is unknown, an argument is out of range, or files are missing or damaged.
    """
    spec = find(name)
    options = LoadOptions(Path(root), download, image_size, test_fraction, seed, on_bad_image, test)
    check_statistics(mean, std)
    train, tested = spec.load(options)
    if not test:
        tested = tested.subset(torch.zeros(0, dtype=torch.int64))
    _check_classes(spec, options, train, tested)
    if image_size is not None:
        train, tested = _fit_all(train, image_size), _fit_all(tested, image_size)
    channels, height, width = train.images.shape[1:]
    for what, given in (("mean", mean), ("std", std)):
        if given is not None and len(given) != channels:
            raise BaconError(
                f"--data.{what} has {len(given)} number(s) but the images of {spec.name} have {channels} channels: "
                "give one number for each."
            )
    mean, std = mean or spec.mean, std or spec.std
    if mean is None or std is None:
        own_mean, own_std = channel_statistics(train.images)
        mean, std = mean or own_mean, std or own_std
    meta = DatasetMeta(
        name=spec.name,
        class_names=train.class_names,
        channels=channels,
        size=(height, width),
        mean=tuple(mean),
        std=tuple(std),
        train_bytes=train.images.numel(),
    )
    return train, tested, meta


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Compute the mean and the (population) standard deviation per channel of pixels in [0, 1].

    The sums are exact: they are computed in integers from the histogram of each channel.

    Args:
        images: (N, ch, H, W), uint8.

    Returns:
        ``(mean, std)`` with one number per channel each. A standard deviation is at least one gray level, 1/255, so
        that a constant channel can be normalized.
    """
    channels = images.shape[1]
    histogram = np.zeros((channels, 256), dtype=np.int64)
    # NumPy counts on a single thread; torch's parallel operations stall for seconds when the cores are busy.
    for chunk in images.cpu().split(_CHUNK):
        for channel in range(channels):
            histogram[channel] += np.bincount(chunk[:, channel].numpy().reshape(-1), minlength=256)
    means, stds = [], []
    for counts in histogram.tolist():
        n = sum(counts)
        first = sum(value * count for value, count in enumerate(counts))
        second = sum(value * value * count for value, count in enumerate(counts))
        means.append(first / (255 * n))
        stds.append(max(math.sqrt(n * second - first * first) / n, 1.0) / 255)
    return tuple(means), tuple(stds)


def _check_classes(spec: DatasetSpec, options: LoadOptions, train: LabeledImages, test: LabeledImages) -> None:
    where = f"{spec.name} under '{options.root}'"
    if train.class_names != test.class_names:
        raise BaconError(f"the train and test splits of {where} have different classes: load one dataset's two splits.")
    if train.num_classes < 2:
        raise BaconError(
            f"{where} has one class only, {', '.join(train.class_names)}: give a dataset of two classes or more."
        )
    if options.test and not len(test):
        raise BaconError(f"{where} has no test images: nothing could be evaluated; fetch or add them.")


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def _fit_all(data: LabeledImages, size: int) -> LabeledImages:
    if data.images.shape[-2:] == (size, size):
        return data
    images = torch.cat([fit(chunk, size) for chunk in data.images.split(_CHUNK)])
    return LabeledImages(images, data.labels, data.class_names)


for _spec in (
    DatasetSpec("mnist", loaders.load_mnist, 1, (28, 28), 10, (0.1307,), (0.3081,)),
    DatasetSpec("fashion_mnist", loaders.load_fashion_mnist, 1, (28, 28), 10, (0.2861,), (0.3530,)),
    DatasetSpec("svhn", loaders.load_svhn, 3, (32, 32), 10, (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    DatasetSpec("cifar10", loaders.load_cifar10, 3, (32, 32), 10, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    DatasetSpec(
        "cifar100", loaders.load_cifar100, 3, (32, 32), 100, (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)
    ),
    DatasetSpec("tiny_imagenet", load_tiny_imagenet, 3, (64, 64), 200, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    DatasetSpec("digits", loaders.load_digits, 1, (8, 8), 10),
    DatasetSpec("folder", load_folder),
):
    register(_spec)
