"""Groups of DSA's transforms one after another, as M3D (arXiv 2312.15927) and NCFM (arXiv 2502.20653) have them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from bacon_pl import rng
from bacon_pl.augment.base import Augmentation
from bacon_pl.augment.dsa import DSA
from bacon_pl.errors import BaconError


class Chain(Augmentation):
    """Apply groups of DSA's transforms one after another, where :class:`DSA` draws one of them.

    Args:
        groups: What is applied, in this order: a transform of DSA by name, or several names, of which one is drawn:
            ``[color, crop, cutout]``, or ``[flip, color, [crop, scale, rotate]]``. Every entry draws by itself, as DSA
            draws: one group and its parameters for a class, or one group for a batch and parameters for an image.
        crop_ratio: As DSA's, like what follows.
        cutout_ratio: See DSA.
        scale_ratio: See DSA.
        rotate_degrees: See DSA.

    Raises:
        BaconError: A transform is unknown, none is given, or a number is out of range.

    Example:
        >>> import torch
        >>> x = torch.randn(10, 40, 3, 32, 32)  # classes, images
        >>> Chain(["color", "crop", "cutout"]).siamese(x, torch.arange(10), 0, "augment", 7).shape
        torch.Size([10, 40, 3, 32, 32])
    """

    def __init__(
        self,
        groups: Sequence[str | Sequence[str]] = ("color", "crop", "cutout"),
        crop_ratio: float = 0.125,
        cutout_ratio: float = 0.5,
        scale_ratio: float = 1.2,
        rotate_degrees: float = 15.0,
    ) -> None:
        if not groups:
            raise BaconError("Chain needs at least one group; use NoAugmentation to augment nothing.")
        self.links = [
            DSA([group] if isinstance(group, str) else group, crop_ratio, cutout_ratio, scale_ratio, rotate_degrees)
            for group in groups
        ]

    def siamese(self, x: Tensor, rows: Tensor, *keys: rng.Key) -> Tensor:
        """See :meth:`Augmentation.siamese`."""
        for i, link in enumerate(self.links):
            x = link.siamese(x, rows, *keys, i)
        return x

    def per_image(self, x: Tensor, *keys: int | str) -> Tensor:
        """See :meth:`Augmentation.per_image`."""
        for i, link in enumerate(self.links):
            x = link.per_image(x, *keys, i)
        return x
