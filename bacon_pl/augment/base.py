"""The interface of augmentations: parameters drawn from coordinates, and pure functions that apply them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from bacon_pl import rng
from bacon_pl.configured import Configured


class Augmentation(Configured, ABC):
    """An augmentation whose draws depend on their coordinates alone, never on the state of a generator.

    Attributes:
        on_pixels: Whether :meth:`per_image` takes and returns pixels in [0, 1] instead of normalized images.
    """

    on_pixels: ClassVar[bool] = False

    @abstractmethod
    def siamese(self, x: Tensor, rows: Tensor, *keys: rng.Key) -> Tensor:
        """Augment rows of images differentiably, with one draw shared by all images of a row.

        Args:
            x: (R, n, ch, H, W), normalized.
            rows: (R,) int64, the id of each row (its class). Equal ids and keys give equal draws, regardless of n.
            keys: Further coordinates of the draw: seed, purpose, iteration.

        Returns:
            (R, n, ch, H, W).
        """

    def per_image(self, x: Tensor, *keys: int | str) -> Tensor:
        """Augment a training batch with one draw per image, by default as rows of one image each.

        Args:
            x: (B, ch, H, W), normalized, or pixels in [0, 1] if ``on_pixels`` is True.
            keys: Coordinates of the draw: seed, purpose, network, step.

        Returns:
            (B, ch, H, W).
        """
        return self.siamese(x.unsqueeze(1), torch.arange(len(x), device=x.device), *keys).squeeze(1)


class NoAugmentation(Augmentation):
    """Leave images unchanged."""

    def siamese(self, x: Tensor, rows: Tensor, *keys: rng.Key) -> Tensor:
        """Return ``x``."""
        return x
