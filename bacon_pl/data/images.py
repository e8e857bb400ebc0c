"""Labeled images as tensors, the form in which every dataset is passed to the rest of the library."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from bacon_pl.data.whitening import Whitening
from bacon_pl.errors import BaconError


@dataclass(frozen=True)
class DatasetMeta:
    """Description of a dataset: everything but its images.

    Attributes:
        name: Catalog name.
        class_names: One name per class, in label order.
        channels: Channels of an image, 1 or 3.
        size: Height and width in pixels.
        mean: Mean per channel of pixels in [0, 1].
        std: Standard deviation per channel of pixels in [0, 1].
        train_bytes: Size of the uint8 training images in bytes, for the share of storage; 0 if unknown.
        whitening: The whitened space in which networks see the images, or None for normalized pixel space, of which
            ``mean`` and ``std`` play no part in a whitened one.
    """

    name: str
    class_names: tuple[str, ...]
    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train_bytes: int = 0
    whitening: Whitening | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def normalize(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        """Map uint8 images to the space in which networks see them, on the images' own device.

        Args:
            images: (..., ch, H, W), uint8, or floating-point numbers in [0, 255].
            dtype: Floating-point type of the result.

        Returns:
            Normalized or whitened images, same shape.

        Raises:
            BaconError: The matrices of the whitening are not in the cache.
        """
        if self.whitening is None:
            return normalize(images, self.mean, self.std, dtype)
        wide = torch.promote_types(dtype, torch.float32)  # half precision would round the pixels
        return self.whitening.whiten(images.to(wide, copy=True).div_(255)).to(dtype)

    def limits(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return black and white in normalized pixel space, (ch, 1, 1) each; kept on the device."""
        return _limits(tuple(self.mean), tuple(self.std), dtype, device)

    def pixels(self, images: Tensor) -> Tensor:
        """Map images (..., ch, H, W) back to pixels, of which some may be below 0 or above 1.

        Raises:
            BaconError: The matrices of the whitening are not in the cache.
        """
        if self.whitening is not None:
            return self.whitening.unwhiten(images)
        return _unclamped(images, self.mean, self.std)

    def denormalize(self, images: Tensor) -> Tensor:
        """Map images (..., ch, H, W) back to pixels, clamped to [0, 1].

        Raises:
            BaconError: The matrices of the whitening are not in the cache.
        """
        return self.pixels(images).clamp(0, 1)


def normalize(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...], dtype: torch.dtype) -> Tensor:
    """Map uint8 images to normalized pixel space, on the images' own device.

    Args:
        images: (..., ch, H, W), uint8.
        mean: Mean per channel of pixels in [0, 1].
        std: Standard deviation per channel of pixels in [0, 1].
        dtype: Floating-point type of the result.

    Returns:
        ``(images / 255 - mean) / std``, same shape.
    """
    # The product and the sum are rounded separately, so every device gives the same bits (a fused multiply-add would
    # round only once, and only on some devices). In place, this is also several times faster than torch.addcmul on
    # CPUs.
    scale, shift = _constants(tuple(mean), tuple(std), dtype, images.device)
    # copy=True: the in-place steps must not reach the caller's tensor.
    return images.to(dtype, copy=True).mul_(scale).add_(shift)


@functools.lru_cache(maxsize=64)
def _constants(
    mean: tuple[float, ...], std: tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return scale and shift of :func:`normalize`, (ch, 1, 1) each; cached on the device, as a copy would sync."""
    with torch.inference_mode(False):  # as in :func:`by_channel`
        scale = torch.tensor([1 / (255 * s) for s in std], dtype=torch.float64)
        shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], dtype=torch.float64)
        return scale.to(device, dtype).view(-1, 1, 1), shift.to(device, dtype).view(-1, 1, 1)


@functools.lru_cache(maxsize=64)
def _limits(
    mean: tuple[float, ...], std: tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):  # as in :func:`by_channel`
        ends = (torch.full((len(mean), 1, 1), value, dtype=torch.uint8, device=device) for value in (0, 255))
        black, white = (normalize(pixels, mean, std, dtype) for pixels in ends)
    return black, white


def denormalize(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Map normalized images (..., ch, H, W) back to pixels, clamped to [0, 1]."""
    return _unclamped(images, mean, std).clamp(0, 1)


def _unclamped(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    m, s = (by_channel(tuple(numbers), images.dtype, images.device) for numbers in (mean, std))
    return images * s + m


@functools.lru_cache(maxsize=64)
def by_channel(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a number per channel as a tensor (ch, 1, 1), which is kept on the device, as a copy would sync."""
    with torch.inference_mode(False):  # what a test has made first may be needed for a gradient later
        return torch.tensor(numbers, dtype=dtype).to(device).view(-1, 1, 1)


@dataclass
class LabeledImages:
    """A whole split of a dataset in memory.

    Attributes:
        images: (N, ch, H, W), uint8.
        labels: (N,), int64 in [0, C).
        class_names: One name per class.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise ValueError(f"images must be uint8 (N, ch, H, W), got {self.images.dtype} {tuple(self.images.shape)}.")
        if self.labels.shape != self.images.shape[:1]:
            raise BaconError(
                f"{len(self.images)} images but {len(self.labels)} labels: the dataset's files do not belong together; "
                "fetch them again."
            )
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.class_names):
            raise BaconError(
                f"labels run from {int(self.labels.min())} to {int(self.labels.max())} but there are "
                f"{len(self.class_names)} classes: the label file is damaged or of another dataset; fetch it again."
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def counts(self) -> Tensor:
        """Images per class: (C,), int64."""
        return torch.bincount(self.labels, minlength=self.num_classes)

    @cached_property
    def smallest_class(self) -> int:
        """Number of images in the smallest class, as an int that is read from the device only once."""
        return int(self.counts.min())

    def to(self, device: torch.device | str) -> LabeledImages:
        """Return the images on a device; the same object if they are already there."""
        device = torch.device(device)
        if self.images.device == device:
            return self
        return LabeledImages(self.images.to(device), self.labels.to(device), self.class_names)

    def subset(self, index: Tensor) -> LabeledImages:
        """Return the images at the positions ``index`` (int64, any length), in that order."""
        return LabeledImages(self.images[index], self.labels[index], self.class_names)

    @cached_property
    def class_table(self) -> tuple[Tensor, Tensor]:
        """Positions of the images of each class.

        Returns:
            ``(index, valid)``, both (C, n_max): int64 positions in ``images``, and a bool mask that is False past the
            end of classes with fewer than n_max images, where the positions are 0.
        """
        counts = self.counts
        order = torch.argsort(self.labels, stable=True)
        valid = torch.arange(int(counts.max()), device=order.device) < counts[:, None]
        index = torch.zeros(valid.shape, dtype=torch.int64, device=order.device)
        index[valid] = order
        return index, valid
