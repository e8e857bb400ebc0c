"""Classes, size and normalization of a dataset by its name, which the sets of other projects do not record."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from torchvision import datasets

from bacon_pl.data.catalog import find, load_dataset
from bacon_pl.data.images import DatasetMeta
from bacon_pl.data.options import check_statistics
from bacon_pl.data.whitening import check_whitening, fitted
from bacon_pl.errors import BaconError

_DIGITS = tuple("0123456789")
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR100 = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm""".split()  # noqa: SIM905
)
# Classes in label order, named as in the files of the datasets, and the number of training images.
_KNOWN: dict[str, tuple[tuple[str, ...], int]] = {
    "mnist": (tuple(datasets.MNIST.classes), 60_000),
    "fashion_mnist": (tuple(datasets.FashionMNIST.classes), 60_000),
    "svhn": (_DIGITS, 73_257),
    "cifar10": (_CIFAR10, 50_000),
    "cifar100": (_CIFAR100, 50_000),
}


def dataset_meta(
    name: str,
    root: str | os.PathLike[str] | None = None,
    *,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    whitening: Literal["zca"] | None = None,
) -> DatasetMeta:
    """Describe a dataset of the catalog. Its images are read only if their number and classes are not known.

    Args:
        name: Catalog name.
        root: Folder of the data, for datasets that must be read from their files.
        image_size: Side of the images in pixels; by default the dataset's own size.
        mean: Mean per channel of pixels in [0, 1]; by default the catalog's value.
        std: Standard deviation per channel of pixels in [0, 1]; by default the catalog's value.
        whitening: zca adds the whitened space, which is fitted to the training images in ``root`` or found in the
            cache.

    Returns:
        The description of the dataset.

    Raises:
        BaconError: The dataset is unknown, or its folder is needed.
    """
    check_whitening(whitening)
    spec = find(name)
    if whitening is not None:
        if root is None and spec.name != "digits":
            raise BaconError(
                f"the whitening is fitted to the training images of {spec.name}: give their folder, --root."
            )
        train, _, meta = load_dataset(spec.name, root or ".", image_size=image_size, mean=mean, std=std)
        return replace(meta, whitening=fitted(train.images, name=meta.name))
    known = _KNOWN.get(spec.name)
    if root is not None or spec.name == "digits":
        return load_dataset(spec.name, root or ".", image_size=image_size, mean=mean, std=std)[2]
    if known is None or spec.channels is None or spec.size is None or spec.mean is None or spec.std is None:
        raise BaconError(f"only the files of {spec.name} tell its classes: give their folder as --root.")
    check_statistics(mean, std)
    size = spec.size if image_size is None else (image_size, image_size)
    for what, values in (("mean", mean), ("std", std)):
        if values is not None and len(values) != spec.channels:
            raise BaconError(f"{what} has {len(values)} number(s) but {spec.name} has {spec.channels} channel(s).")
    return DatasetMeta(
        name=spec.name,
        class_names=known[0],
        channels=spec.channels,
        size=size,
        mean=tuple(mean or spec.mean),
        std=tuple(std or spec.std),
        train_bytes=known[1] * spec.channels * math.prod(size),
    )
