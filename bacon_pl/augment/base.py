"""What an augmentation is: parameters drawn from coordinates, and a pure function that applies them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from bacon_pl import rng
from bacon_pl.configured import Configured


class Augmentation(Configured, ABC):
    """Augmentation whose draw depends on its coordinates alone, never on a generator's state.

    Attributes:
        on_pixels: :meth:`per_image` takes and gives pixels in [0, 1] instead of normalized images.
    """

    on_pixels: ClassVar[bool] = False

    @abstractmethod
    def siamese(self, x: Tensor, rows: Tensor, *keys: rng.Key) -> Tensor:
        """Augment rows of images, differentiably, one draw for all images of a row.

        Args:
            x: (R, n, ch, H, W), normalized.
            rows: (R,) int64, what identifies each row (its class): equal ids and keys give equal draws, whatever n.
            keys: Further coordinates: seed, purpose, iteration.

        Returns:
            (R, n, ch, H, W).
        """

    @abstractmethod
    def per_image(self, x: Tensor, *keys: int | str) -> Tensor:
        """Augment a training batch, one draw per image.

        Args:
            x: (B, ch, H, W), normalized, or pixels where ``on_pixels`` says so.
            keys: Coordinates: seed, purpose, network, step.

        Returns:
            (B, ch, H, W).
        """


class NoAugmentation(Augmentation):
    """Leave images as they are."""

    def siamese(self, x: Tensor, rows: Tensor, *keys: rng.Key) -> Tensor:
        """Return ``x``."""
        return x

    def per_image(self, x: Tensor, *keys: int | str) -> Tensor:
        """Return ``x``."""
        return x
