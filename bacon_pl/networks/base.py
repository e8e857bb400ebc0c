"""What a network must offer to distillation and evaluation: an embedding and the logits from one forward pass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn


class Network(nn.Module, ABC):
    """A classifier that shows the features before its last layer.

    Subclasses take ``(channels, size, num_classes)`` first, then options of their own, and are chosen by class name
    or ``class_path`` in YAML. They set ``self.classifier``, the layer from embedding to logits.
    """

    classifier: nn.Module
    batchable: bool = True
    """Whether several such networks can run as one batched program, by ``torch.vmap``."""

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """Map normalized images (B, ch, H, W) to embeddings (B, d)."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Embed and classify in one pass.

        Args:
            x: Normalized images (B, ch, H, W).

        Returns:
            Embeddings (B, d) and logits (B, C).
        """
        z = self.embed(x)
        return z, self.classifier(z)


NetworkFactory = Callable[[int, tuple[int, int], int], Network]
"""Builds a network from channels, image size and number of classes."""
