"""The augmentation of canvases that hold several crops, as RDED (arXiv 2312.03526) trains on them."""

from __future__ import annotations

import torch
from torch import Tensor

from bacon_pl import rng
from bacon_pl.augment.base import Augmentation
from bacon_pl.augment.functional import flip
from bacon_pl.augment.resized_crop import ResizedCrop
from bacon_pl.errors import BaconError


class Tiles(Augmentation):
    """Shuffle the columns and rows of an image's tiles, cut a random part out and resize it, and mirror it or not.

    The part has a share of the area drawn from U(1/factor, 1) and an aspect ratio between 3/4 and 4/3, as in
    torchvision's ``RandomResizedCrop``; with a factor of 1 it is the whole image, and only mirroring is left.

    Args:
        factor: Tiles per side of an image.
        flip: Whether images are mirrored with probability ½; not for digits.

    Raises:
        BaconError: The factor is below 1.
    """

    # All of it acts on normalized images as on pixels: it moves them or takes means of them.

    def __init__(self, factor: int = 1, flip: bool = True) -> None:
        if factor < 1:
            raise BaconError(f"Tiles' factor must be at least 1, got {factor}.")
        self.factor = factor
        self.flip = flip
        self._crop = ResizedCrop((1 / factor, 1.0), (3 / 4, 4 / 3), flip)

    def siamese(self, x: Tensor, rows: Tensor, *keys: rng.Key) -> Tensor:
        """See :meth:`Augmentation.siamese`."""
        if self.factor > 1:
            if self.factor > min(x.shape[-2:]):
                raise BaconError(f"Tiles' factor {self.factor} is larger than images of {tuple(x.shape[-2:])} pixels.")
            places = torch.arange(self.factor, device=x.device)
            columns, lines = (
                rng.bits(*keys, what, rows[:, None], places).argsort(stable=True, dim=-1)
                for what in ("columns", "rows")
            )
            return self._crop.siamese(shuffled(x, columns, lines), rows, *keys)
        return flip(x, rng.uniform(*keys, "flip", rows) < 0.5) if self.flip else x


def shuffled(x: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """Permute the vertical strips of images, then their horizontal ones. The last strip takes what does not divide.

    Args:
        x: (R, n, ch, H, W).
        columns: (R, f), int64: numbers of the vertical strips from left to right.
        rows: (R, f), int64: numbers of the horizontal strips from top to bottom.

    Returns:
        (R, n, ch, H, W).
    """
    across = _sources(x.shape[-1], columns)[:, None, None, None, :].expand(x.shape)
    down = _sources(x.shape[-2], rows)[:, None, None, :, None].expand(x.shape)
    return x.gather(-1, across).gather(-2, down)


def _sources(side: int, order: Tensor) -> Tensor:
    """Where each pixel of a permuted side comes from: (R, side)."""
    f = order.shape[1]
    lengths = torch.full((f,), side // f, device=order.device)
    lengths[-1] += side % f
    starts = torch.arange(f, device=order.device) * (side // f)
    ends = lengths[order].cumsum(1)  # of the strips at their new places
    place = torch.arange(side, device=order.device)
    strip = (place[:, None] >= ends[:, None]).sum(-1)
    moved = (starts[order] - ends + lengths[order]).gather(1, strip)
    return place + moved
