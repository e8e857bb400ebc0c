"""Data from arrays, tensors or torch datasets that are already in memory."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from bacon_pl.data.catalog import channel_statistics
from bacon_pl.data.datamodule import DataModule
from bacon_pl.data.files import pixels_of
from bacon_pl.data.images import DatasetMeta, LabeledImages
from bacon_pl.data.options import check_statistics
from bacon_pl.data.whitening import check_whitening
from bacon_pl.errors import BaconError, one_line

_FORMS = "give a torch dataset of (image, label), or a pair of images (N, ch, H, W) and labels (N,)"


def labeled_images(data: Any, class_names: Sequence[str] | None = None, *, every_class: bool = True) -> LabeledImages:
    """Convert images and labels in any common form to :class:`LabeledImages`.

    Args:
        data: A :class:`LabeledImages`; a pair of images and labels, as tensors or arrays; or a map-style torch dataset
            with items (image, label). A pair's images are (N, ch, H, W) or (N, H, W); a dataset's images are
            (ch, H, W), (H, W) or PIL images. Pixels are uint8, or floating-point numbers in [0, 1], which are rounded
            to uint8.
        class_names: One name per class, in label order; by default the dataset's own ``classes``, else the class ids.
        every_class: Whether every class must have images, as training images must.

    Returns:
        The images and labels on the CPU.

    Raises:
        BaconError: The data has another form, images differ in size, pixels or labels are out of range, or the
            dataset's own classes are those of ``class_names`` in another order.
    """
    own = data.class_names if isinstance(data, LabeledImages) else _own_names(data)
    if class_names is not None and own is not None:
        check_order(own, tuple(class_names))
    if not isinstance(data, LabeledImages):
        found = _converted(data, class_names, own)
    else:
        found = data if class_names is None else dataclasses.replace(data, class_names=tuple(class_names))
    if not len(found):
        raise BaconError(f"there are no images: {_FORMS}.")
    if every_class and not bool((counts := found.counts).all()):
        name = found.class_names[int((counts == 0).nonzero()[0])]
        raise BaconError(f"the class '{name}' has no images: labels must be 0, 1, … without a gap.")
    if every_class and found.num_classes < 2:
        raise BaconError(f"all images are of one class, '{found.class_names[0]}': give images of two classes or more.")
    return found


def _own_names(data: Any) -> tuple[str, ...] | None:
    """Return the names of a dataset's classes, which it may have in a list or an array; None if it has none."""
    own = getattr(data, "classes", None)
    own = own.tolist() if isinstance(own, (Tensor, np.ndarray)) else own
    return tuple(map(str, own)) if isinstance(own, Iterable) and not isinstance(own, str) else None


def _converted(data: Any, class_names: Sequence[str] | None, own: tuple[str, ...] | None) -> LabeledImages:
    """Convert images and labels; ``own`` are the data's own names of the classes, or None."""
    if isinstance(data, (tuple, list)) and len(data) == 2:
        images, labels = _tensor(data[0], "images"), _tensor(data[1], "labels")
    elif hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        images, labels = _collected(data)
        class_names = own if class_names is None else class_names
    else:
        raise BaconError(f"cannot take images from {_kind(data)}: {_FORMS}.")
    images = images[:, None] if images.ndim == 3 else images
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        last = " (the channels come second: call permute(0, 3, 1, 2))" if images.shape[-1] in (1, 3) else ""
        raise BaconError(f"images must be (N, ch, H, W) with 1 or 3 channels, got {tuple(images.shape)}{last}.")
    if labels.shape != images.shape[:1] or labels.is_floating_point():
        raise BaconError(
            f"labels must be whole numbers, one for each of the {len(images)} images, got {tuple(labels.shape)} of "
            f"{str(labels.dtype).removeprefix('torch.')}."
        )
    if not len(images):
        raise BaconError(f"there are no images: {_FORMS}.")
    labels = labels.to("cpu", torch.int64)
    if int(labels.min()) < 0:
        raise BaconError(f"labels must count from 0, got {int(labels.min())}.")
    names = tuple(map(str, range(int(labels.max()) + 1) if class_names is None else class_names))
    if int(labels.max()) >= len(names):
        raise BaconError(f"labels go up to {int(labels.max())}, but there are names for {len(names)} classes.")
    return LabeledImages(_bytes(images), labels, names)


def check_order(own: tuple[str, ...], names: tuple[str, ...]) -> None:
    """Fail if images have the classes of a set in another order: a class that both have must have the same label.

    Args:
        own: Names of the images' classes, in label order.
        names: Names of the set's classes, in label order.

    Raises:
        BaconError: A class has another label.
    """
    places = {name: place for place, name in enumerate(names)}
    moved = [(name, place) for place, name in enumerate(own) if places.get(name, place) != place]
    if moved:
        name, place = moved[0]
        raise BaconError(
            f"the class '{one_line(name, 40)}' has the label {place}, but {places[name]} in the set: give images whose "
            "classes are in the order of the set's."
        )


class InMemoryData(DataModule):
    """A :class:`~bacon_pl.data.DataModule` for images that are already in memory.

    Args:
        train: Training images; None if a finished set is only evaluated.
        test: Test images; None if a set is only distilled.
        name: Name of the dataset in results.
        meta: Description of the dataset; by default made from the images, ``mean`` and ``std``.
        mean: Mean per channel of pixels in [0, 1]; that of the training images by default.
        std: Standard deviation per channel of pixels in [0, 1]; that of the training images by default.
        val_fraction: Share of the training images, in [0, 1), held out for choosing among synthetic sets.
        batch_real: Real images per class and iteration to match.
        pool_batch: Real images per training step of the pool's networks.
        eval_batch: Images per test batch.
        split_seed: Seed of the split.
        whitening: zca whitens images instead of normalizing them per channel; see
            :class:`~bacon_pl.data.DataModule`. By default it is fitted if ``meta`` names a whitened space.

    Raises:
        BaconError: There are neither training images nor ``test`` with ``meta``, training and test images have
            different sizes or classes, or an argument is out of range.
    """

    def __init__(
        self,
        train: LabeledImages | None,
        test: LabeledImages | None = None,
        name: str = "images",
        meta: DatasetMeta | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        val_fraction: float = 0.0,
        batch_real: int = 256,
        pool_batch: int = 256,
        eval_batch: int = 1000,
        split_seed: int = 0,
        whitening: Literal["zca"] | None = None,
    ) -> None:
        super().__init__(
            "folder",  # the catalog's entry that makes no assumption about its images
            mean=mean,
            std=std,
            val_fraction=val_fraction,
            batch_real=batch_real,
            pool_batch=pool_batch,
            eval_batch=eval_batch,
            split_seed=split_seed,
            whitening=whitening,
        )
        given = train or test
        if given is None or (not train and meta is None):
            raise BaconError("there are no training images: give some, or test images together with their meta.")
        if not len(given):
            raise BaconError("there are no images: give training images, test images, or both.")
        for other in (train, test):
            if other is not None and other.images.shape[1:] != given.images.shape[1:]:
                raise BaconError(
                    f"training images are {_shape(given)} and test images {_shape(other)}: give images of one size."
                )
        check_whitening(whitening, given.images[0].numel(), name)
        if meta is not None and (mean is not None or std is not None):
            raise BaconError("mean and std stand in meta, too: give them there, or leave meta out.")
        names = meta.class_names if meta else given.class_names
        if meta is not None and tuple(given.images.shape[1:]) != (meta.channels, *meta.size):
            wanted = "×".join(map(str, (meta.channels, *meta.size)))
            raise BaconError(
                f"the images are {_shape(given)}, but those of {meta.name} are {wanted}: give such images."
            )
        for other in (train, test):
            if other is not None and other.num_classes > len(names):
                raise BaconError(
                    f"there are {len(names)} classes, but images of {other.num_classes}: check the labels."
                )
            if other is not None:
                check_order(other.class_names, names)
        self.name = name
        self.hparams.pop("root")  # the images are not in a folder
        self._train, self._test = (self._named(part, given, names) for part in (train, test))
        self._meta = meta or self._described(train or given, names)

    @staticmethod
    def _named(part: LabeledImages | None, given: LabeledImages, names: tuple[str, ...]) -> LabeledImages:
        if part is None:
            return LabeledImages(given.images[:0], given.labels[:0], names)
        return dataclasses.replace(part, class_names=names)

    def _described(self, train: LabeledImages, names: tuple[str, ...]) -> DatasetMeta:
        channels, height, width = train.images.shape[1:]
        for what, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != channels:
                raise BaconError(f"{what} has {len(values)} number(s), but the images have {channels} channel(s).")
        own_mean, own_std = channel_statistics(train.images)
        mean, std = tuple(self.mean or own_mean), tuple(self.std or own_std)
        check_statistics(mean, std)
        return DatasetMeta(self.name, names, channels, (height, width), mean, std, train.images.numel())

    @property
    def known_size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self._meta.size

    @property
    def folder(self) -> None:
        """The images are not in a folder."""
        return

    def _load(self, download: bool) -> tuple[LabeledImages, LabeledImages, DatasetMeta]:
        return self._train, self._test, self._meta


def _collected(data: Any) -> tuple[Tensor, Tensor]:
    images, labels = [], []
    for index in range(len(data)):
        item = data[index]
        if not (isinstance(item, (tuple, list)) and len(item) == 2):
            raise BaconError(f"item {index} of the dataset is {_kind(item)}, not (image, label): {_FORMS}.")
        image = item[0] if isinstance(item[0], (Tensor, np.ndarray)) else _picture(item[0], index)
        images.append(_tensor(image, "images"))
        if images[-1].shape != images[0].shape:
            raise BaconError(
                f"image {index} of the dataset is {tuple(images[-1].shape)}, the first {tuple(images[0].shape)}: scale "
                "them to one size (and one number of channels) first."
            )
        labels.append(_label(item[1], index))
    if not images:
        raise BaconError(f"there are no images: {_FORMS}.")
    return torch.stack(images), torch.tensor(labels)


def _label(value: Any, index: int) -> int:
    try:  # a fraction is no class by rounding; some datasets give arrays of one number
        one: Any = value.item() if isinstance(value, (Tensor, np.ndarray)) else value
        return operator.index(one)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BaconError(
            f"the label of item {index} of the dataset is {one_line(value, 40)} ({_kind(value)}), not a whole number: "
            "give the number of its class, from 0."
        ) from error


def _picture(image: Any, index: int) -> Tensor:
    try:
        return pixels_of(image)
    except (TypeError, AttributeError) as error:
        raise BaconError(f"image {index} of the dataset is {_kind(image)}: {_FORMS}.") from error
    except (ValueError, OSError) as error:
        raise BaconError(f"image {index} of the dataset cannot be read: {one_line(error).rstrip('.')}.") from error


def _tensor(values: Any, what: str) -> Tensor:
    try:
        return torch.as_tensor(values).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise BaconError(f"cannot make a tensor of the {what} ({_kind(values)}): {_FORMS}.") from error


def _bytes(images: Tensor) -> Tensor:
    if images.dtype == torch.uint8:
        return images.to("cpu")
    if not images.is_floating_point():
        raise BaconError(
            f"images are {str(images.dtype).removeprefix('torch.')}: give uint8, or floating numbers in [0, 1]."
        )
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):
        raise BaconError(
            f"pixels run from {low:.4g} to {high:.4g}, not within [0, 1]: give them before any normalization, or as "
            "uint8."
        )
    return images.to("cpu").mul(255).round().to(torch.uint8)


def _shape(data: LabeledImages) -> str:
    return "×".join(map(str, data.images.shape[1:]))


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"
