"""DSA, differentiable siamese augmentation (arXiv 2102.08259)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bacon_pl import rng
from bacon_pl.augment import functional as F
from bacon_pl.augment.base import Augmentation
from bacon_pl.errors import BaconError, unknown_name

STRATEGIES = ("color", "crop", "cutout", "flip", "scale", "rotate")


class DSA(Augmentation):
    """Apply one of up to six groups of transforms, drawn uniformly, with random parameters.

    Args:
        strategies: The groups to draw from. Leave out ``flip`` for digits and letters.
        crop_ratio: Largest shift as a share of the image's side.
        cutout_ratio: Side of the erased square as a share of the image's side.
        scale_ratio: Scale factors lie in [1/scale_ratio, scale_ratio].
        rotate_degrees: Largest rotation in degrees, in either direction.

    Raises:
        BaconError: A strategy is unknown, there is no strategy, or a number is out of range.
    """

    def __init__(
        self,
        strategies: Sequence[str] = STRATEGIES,
        crop_ratio: float = 0.125,
        cutout_ratio: float = 0.5,
        scale_ratio: float = 1.2,
        rotate_degrees: float = 15.0,
    ) -> None:
        for name in strategies:
            if name not in STRATEGIES:
                raise unknown_name("augmentation strategy", str(name), STRATEGIES)
        if not strategies:
            raise BaconError("DSA needs at least one strategy; use NoAugmentation to augment nothing.")
        for name, value, low, high in (
            ("crop_ratio", crop_ratio, 0, 1),
            ("cutout_ratio", cutout_ratio, 0, 1),
            ("scale_ratio", scale_ratio, 1, 100),
            ("rotate_degrees", rotate_degrees, 0, 360),
        ):
            if not low <= value <= high:
                raise BaconError(f"DSA's {name} must be between {low} and {high}, got {value}.")
        self.strategies = tuple(strategies)
        self.crop_ratio = crop_ratio
        self.cutout_ratio = cutout_ratio
        self.scale_ratio = scale_ratio
        self.rotate_degrees = rotate_degrees

    def siamese(self, x: Tensor, rows: Tensor, *keys: rng.Key) -> Tensor:
        """See :meth:`Augmentation.siamese`; the group and its parameters are drawn per row."""
        group = rng.integers(len(self.strategies), *keys, "group", rows)
        if x.device.type == "cpu":
            return self._sorted(x, group, rows, keys)
        return self._masked(x, group, rows, keys)

    def per_image(self, x: Tensor, *keys: int | str) -> Tensor:
        """See :meth:`Augmentation.per_image`; one group is drawn per batch, and parameters per image."""
        name = self.strategies[rng.derive(*keys, "group") % len(self.strategies)]
        return self._apply(name, x.unsqueeze(1), torch.arange(len(x), device=x.device), keys).squeeze(1)

    def _sorted(self, x: Tensor, group: Tensor, rows: Tensor, keys: tuple[rng.Key, ...]) -> Tensor:
        """Apply each group only to its rows: the least work, but shapes depend on the draw, which syncs a GPU."""
        present = [i for i in range(len(self.strategies)) if bool((group == i).any())]
        where = [(group == i).nonzero().squeeze(1) for i in present]
        parts = [self._apply(self.strategies[i], x[w], rows[w], keys) for i, w in zip(present, where, strict=True)]
        return torch.cat(parts)[torch.argsort(torch.cat(where))]

    def _masked(self, x: Tensor, group: Tensor, rows: Tensor, keys: tuple[rng.Key, ...]) -> Tensor:
        """Apply each group to all rows and keep the drawn results: more arithmetic, but fixed shapes and no sync."""
        out = x
        for i, name in enumerate(self.strategies):
            out = torch.where((group == i).view(-1, 1, 1, 1, 1), self._apply(name, x, rows, keys), out)
        return out

    def _apply(self, name: str, x: Tensor, rows: Tensor, keys: tuple[rng.Key, ...]) -> Tensor:
        """Apply one group of transforms with parameters drawn for (keys, row)."""
        h, w = x.shape[-2:]

        def u(what: str) -> Tensor:
            return rng.uniform(*keys, what, rows)

        def whole(high: int, what: str) -> Tensor:
            return rng.integers(high, *keys, what, rows)

        match name:
            case "color":
                return F.color(x, u("brightness"), u("saturation"), u("contrast"))
            case "crop":
                dh, dw = (int(side * self.crop_ratio + 0.5) for side in (h, w))
                return F.crop(x, whole(2 * dh + 1, "crop_h") - dh, whole(2 * dw + 1, "crop_w") - dw)
            case "cutout":
                # The center may lie on the far border only if the square's side is even.
                ends = [side + 1 - int(side * self.cutout_ratio + 0.5) % 2 for side in (h, w)]
                return F.cutout(x, whole(ends[0], "cutout_h"), whole(ends[1], "cutout_w"), self.cutout_ratio)
            case "flip":
                return F.flip(x, u("flip") < 0.5)
            case "scale":
                factors = [F.zoom_factor(u(axis), self.scale_ratio) for axis in ("scale_x", "scale_y")]
                return F.scale(x, *factors)
            case _:
                return F.rotate(x, F.angle(u("rotate"), self.rotate_degrees))
