"""Views of a whole batch: one random crop, flip and roll for all of its images, as in SRe2L (arXiv 2306.13092)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bacon_pl import rng
from bacon_pl.augment.crops import random_boxes
from bacon_pl.errors import BaconError

_RATIO = (3 / 4, 4 / 3)

Curriculum = Literal["cosine"]


class View(NamedTuple):
    """What is done to all images of a batch: a crop, scaled to the full size, then a flip, then a roll.

    Attributes:
        top: First row of the crop.
        left: First column of the crop.
        height: Rows of the crop.
        width: Columns of the crop.
        flipped: Whether left and right are exchanged.
        down: Pixels by which the image is rolled down; what leaves comes in on the other side.
        right: Pixels by which it is rolled to the right.
    """

    top: int
    left: int
    height: int
    width: int
    flipped: bool
    down: int
    right: int

    def __call__(self, x: Tensor) -> Tensor:
        """Show images (B, ch, H, W): same shape, differentiable."""
        size = x.shape[-2:]
        x = x[..., self.top : self.top + self.height, self.left : self.left + self.width]
        if x.shape[-2:] != size:  # it only ever enlarges, so that antialiasing would change nothing
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
        if self.flipped:
            x = x.flip(-1)
        return torch.roll(x, (self.down, self.right), (-2, -1)) if self.down or self.right else x


@dataclass(frozen=True)
class Views:
    """How the network is shown a batch of images while they are recovered; one view is drawn for all of its images.

    Args:
        min_area: Smallest share of an image's area, in (0, 1], in the random crop that is scaled to the full size
            (torchvision's RandomResizedCrop, ratios 3/4 to 4/3); null crops nothing.
        curriculum: ``cosine`` lowers the smallest area from 1 to ``min_area`` over the run, as CDA (arXiv 2311.18838)
            does; null keeps it.
        flip: Exchange left and right with probability ½.
        roll: Least and largest number of pixels by which rows and columns are rolled.

    Raises:
        BaconError: An argument is out of range.
    """

    min_area: float | None = 0.08
    curriculum: Curriculum | None = None
    flip: bool = True
    roll: tuple[int, int] = (0, 4)

    def __post_init__(self) -> None:
        if self.min_area is not None and not 0 < self.min_area <= 1:
            raise BaconError(f"--model.views.min_area must be in (0, 1], or null, got {self.min_area}.")
        if self.curriculum not in (None, "cosine"):
            raise BaconError(f"--model.views.curriculum must be cosine or null, got {self.curriculum!r}.")
        if self.curriculum and self.min_area is None:
            raise BaconError(
                "--model.views.curriculum is of the smallest crop, and there are none: give --model.views.min_area, "
                "or set the curriculum to null."
            )
        if len(self.roll) != 2 or self.roll[0] > self.roll[1]:
            raise BaconError(f"--model.views.roll must be two numbers, the smaller first, got {list(self.roll)}.")

    def smallest(self, share: float) -> float:
        """Smallest share of the area that a crop may have after a share of the run, in [0, 1)."""
        least = 1.0 if self.min_area is None else self.min_area
        if self.curriculum is None:
            return least
        return least + (1 - least) * (1 + math.cos(math.pi * share)) / 2

    def draw(self, size: tuple[int, int], share: float, *keys: int | str) -> View:
        """Draw a view.

        Args:
            size: Height and width of the images.
            share: Share of the run that is done, in [0, 1), for the curriculum.
            keys: Coordinates of the draw.
        """
        top, left, height, width = 0, 0, *size
        if self.min_area is not None:
            one = torch.zeros((), dtype=torch.int64)  # on the CPU, so that no GPU is waited for
            box = random_boxes(size, (self.smallest(share), 1.0), _RATIO, *keys, "crop", one)
            top, left, height, width = box.tolist()
        low, high = self.roll
        down, right = (low + rng.derive(*keys, "roll", axis) % (high - low + 1) for axis in (0, 1))
        return View(top, left, height, width, self.flip and _uniform(*keys, "flip") < 0.5, down, right)


def _uniform(*keys: int | str) -> float:
    """Draw a number uniform in [0, 1)."""
    return (rng.derive(*keys) >> 10) / (1 << 53)
