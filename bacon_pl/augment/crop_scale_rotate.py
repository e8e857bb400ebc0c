"""One of cropping, scaling and rotating for each image, as DC evaluates on MNIST (arXiv 2006.05929)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bacon_pl import rng
from bacon_pl.augment.base import Augmentation
from bacon_pl.augment.functional import crop
from bacon_pl.errors import BaconError

_POLE = math.sqrt(3) - 2  # of the filter that turns pixels into coefficients of cubic splines


class CropScaleRotate(Augmentation):
    """Crop, scale or rotate each image, one of the three drawn uniformly; what is not in the image is a mean.

    In the training of networks it is that of a channel over the batch, as published. In a distillation, where how many
    images are seen at once must not change a result, it is the dataset's, which is 0. Cropping shifts by whole pixels;
    scaling takes the nearest pixel, with a factor for each side; rotating by whole degrees interpolates by cubic
    splines.

    Args:
        crop: Pixels around the image, in which a window of the image's size is drawn. It does not reach the last row
            and column of them, as published.
        scale: Largest deviation of the factors from 1, in [0, 1).
        degrees: Largest rotation in either direction, from 1 to 180.

    Raises:
        BaconError: A number is out of range.
    """

    def __init__(self, crop: int = 4, scale: float = 0.2, degrees: int = 45) -> None:
        for name, value, low, high in (
            ("crop", crop, 1, 1000),
            ("scale", scale, 0, 0.99),
            ("degrees", degrees, 1, 180),
        ):
            if not low <= value <= high:
                raise BaconError(f"CropScaleRotate's {name} must be between {low} and {high}, got {value}.")
        self.crop = crop
        self.scale = scale
        self.degrees = degrees

    def siamese(self, x: Tensor, rows: Tensor, *keys: rng.Key) -> Tensor:
        """See :meth:`Augmentation.siamese`."""
        return self._changed(x, rows, *keys)

    def per_image(self, x: Tensor, *keys: int | str) -> Tensor:
        """See :meth:`Augmentation.per_image`."""
        mean = x.mean((0, 2, 3), keepdim=True)
        rows = torch.arange(len(x), device=x.device)
        return mean + self._changed((x - mean).unsqueeze(1), rows, *keys).squeeze(1)

    def _changed(self, x: Tensor, rows: Tensor, *keys: rng.Key) -> Tensor:
        """Crop, scale or rotate rows of images, with zeros outside."""
        height, width = x.shape[-2:]

        def whole(high: int, what: str) -> Tensor:
            return rng.integers(high, *keys, what, rows)

        def side(length: int, what: str) -> Tensor:
            share = 1 - self.scale + 2 * self.scale * rng.uniform(*keys, what, rows)
            return (share * length).long().clamp(min=1)

        kind = whole(3, "kind").view(-1, 1, 1, 1, 1)
        shifts = whole(2 * self.crop, "crop_h") - self.crop, whole(2 * self.crop, "crop_w") - self.crop
        cropped = crop(x, *shifts)
        scaled = _scaled(x, side(height, "scale_h"), side(width, "scale_w"))
        rotated = _rotated(x, whole(2 * self.degrees, "rotate") - self.degrees)
        return torch.where(kind == 0, cropped, torch.where(kind == 1, scaled, rotated))


def _scaled(x: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """Scale rows (R, n, ch, H, W) to heights and widths (R,), int64, around the middle, with zeros outside."""
    sides = x.shape[-2:]
    canvas = torch.maximum(torch.maximum(height, width), torch.full_like(height, max(sides)))

    def sources(new: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Where the pixels of a side come from, (R, length), and which of them come from anywhere."""
        first = (canvas - new) // 2 - (canvas - length) // 2
        place = torch.arange(length, device=x.device) - first[:, None]
        inside = (place >= 0) & (place < new[:, None])
        return (place * length // new[:, None]).clamp(0, length - 1), inside

    (rows, rows_inside), (columns, columns_inside) = sources(height, sides[0]), sources(width, sides[1])
    inside = (rows_inside.unsqueeze(2) & columns_inside.unsqueeze(1))[:, None, None]
    return torch.where(inside, _picked(x, rows.unsqueeze(2), columns.unsqueeze(1)), 0)


def _rotated(x: Tensor, degrees: Tensor) -> Tensor:
    """Rotate rows (R, n, ch, H, W) by degrees (R,), int64: cubic splines, with zeros outside of the pixels' middles.

    The result is the middle of the rotated image, which is larger. As published, it is half a pixel off along a side
    that the rotation makes longer by an odd number of pixels.
    """
    height, width = x.shape[-2:]
    angle = torch.deg2rad(degrees.to(torch.float64))
    cos, sin = angle.cos(), angle.sin()
    # A quarter turn is exact, so that it does not lose the pixels of the edge.
    cos, sin = (torch.where(degrees % 90 == 0, part.round(), part) for part in (cos, sin))

    def places(length: int, other: int) -> Tensor:
        """Distances (R, length) of the result's pixels from the middle of the rotated image."""
        grown = (length * cos.abs() + other * sin.abs() + 0.5).long() - length
        # As published, halves are cut off towards zero: an image may also become smaller.
        first = torch.div(grown, 2, rounding_mode="trunc") - (grown + length - 1) / 2
        return torch.arange(length, device=x.device) + first[:, None]

    down, right = places(height, width).unsqueeze(2), places(width, height).unsqueeze(1)
    cos, sin = cos[:, None, None], sin[:, None, None]
    row = cos * down + sin * right + (height - 1) / 2
    column = cos * right - sin * down + (width - 1) / 2
    inside = (row >= 0) & (row <= height - 1) & (column >= 0) & (column <= width - 1)
    coefficients = _splines(height, x) @ x @ _splines(width, x).T
    result = torch.zeros_like(x)
    for of_row, weight in _taps(row, height):
        for of_column, other in _taps(column, width):
            share = (weight * other * inside).to(x.dtype)[:, None, None]
            result = result + share * _picked(coefficients, of_row, of_column)
    return result


def _splines(side: int, like: Tensor) -> Tensor:
    """The matrix (side, side) from pixels to coefficients of cubic splines, with mirrored ends (Unser et al., 1993)."""
    period = 2 * (side - 1)
    if period == 0:
        return torch.ones(1, 1, dtype=like.dtype, device=like.device)
    i = torch.arange(side, device=like.device)
    pole = torch.full((), _POLE, dtype=torch.float64, device=like.device)  # not by a copy, which would wait

    def response(distance: Tensor) -> Tensor:
        distance = distance.remainder(period)
        return (pole**distance + pole ** (period - distance)) / (1 - _POLE**period)

    twice = (i > 0) & (i < side - 1)  # the ends have no image of their own in the mirror
    return (math.sqrt(3) * (response(i[:, None] - i) + twice * response(i[:, None] + i))).to(like.dtype)


def _taps(place: Tensor, side: int) -> list[tuple[Tensor, Tensor]]:
    """The four pixels of a side around places (R, H, W), mirrored at its ends, and their weights in a cubic spline."""
    first = place.floor()
    t = place - first
    weights = ((1 - t) ** 3, 4 - 6 * t**2 + 3 * t**3, 4 - 6 * (1 - t) ** 2 + 3 * (1 - t) ** 3, t**3)
    taps = []
    for k, weight in enumerate(weights, -1):
        index = (first.long() + k).abs()
        index = torch.where(index > side - 1, 2 * (side - 1) - index, index).clamp(0, side - 1)
        taps.append((index, weight / 6))
    return taps


def _picked(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pick pixels of rows (R, n, ch, H, W); the places (R, H, W) are the same for all images of a row."""
    r, n, ch, h, w = x.shape
    index = (rows * w + columns).expand(r, h, w).reshape(r, 1, h * w).expand(r, n * ch, h * w)
    return x.reshape(r, n * ch, h * w).gather(2, index).view(x.shape)
