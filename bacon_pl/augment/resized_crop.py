"""Random parts of images at full size, as SRe2L (arXiv 2306.13092) labels and trains on them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from bacon_pl import rng
from bacon_pl.augment.base import Augmentation
from bacon_pl.augment.crops import random_boxes, resized_crops
from bacon_pl.augment.functional import flip
from bacon_pl.errors import BaconError


class ResizedCrop(Augmentation):
    """Cut a random part out of an image, resize it to the image's size, and mirror it or not.

    Args:
        area: Bounds of the part's share of the area, within (0, 1].
        ratio: Bounds of its aspect ratio, width over height, as torchvision's ``RandomResizedCrop`` has them.
        flip: Whether images are mirrored with probability ½; not for digits.

    Raises:
        BaconError: Bounds are out of range.
    """

    def __init__(
        self, area: Sequence[float] = (0.08, 1.0), ratio: Sequence[float] = (3 / 4, 4 / 3), flip: bool = True
    ) -> None:
        for name, bounds, most in (("area", area, 1.0), ("ratio", ratio, 100.0)):
            if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1] <= most:
                raise BaconError(
                    f"ResizedCrop's {name} must be two ascending numbers above 0, at most {most:g}, got {list(bounds)}."
                )
        self.area = (float(area[0]), float(area[1]))
        self.ratio = (float(ratio[0]), float(ratio[1]))
        self.flip = flip

    def siamese(self, x: Tensor, rows: Tensor, *keys: rng.Key) -> Tensor:
        """See :meth:`Augmentation.siamese`."""
        size, n = (x.shape[-2], x.shape[-1]), x.shape[1]
        boxes = random_boxes(size, self.area, self.ratio, *keys, "crop", rows)
        x = resized_crops(x.flatten(0, 1), boxes.repeat_interleave(n, 0), size).unflatten(0, (-1, n))
        return flip(x, rng.uniform(*keys, "flip", rows) < 0.5) if self.flip else x
