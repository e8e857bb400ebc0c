"""What a network must offer: an embedding and the logits from one forward pass, and what it computed on the way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd


class Trace(NamedTuple):
    """What one forward pass computed, one row per image.

    Attributes:
        z: Embeddings (B, d).
        logits: (B, K).
        hidden: The activations that go into each pooling, first block first: (B, F, H, W) each. Of a network without
            pooling, the activations at the end of each block; maybe none.
        stages: The output of each block, pooling included, first block first: (B, F, H, W) each; maybe none.
    """

    z: Tensor
    logits: Tensor
    hidden: tuple[Tensor, ...] = ()
    stages: tuple[Tensor, ...] = ()


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

    def trace(self, x: Tensor) -> Trace:
        """Run a pass on normalized images (B, ch, H, W) and keep what it computed on the way.

        A subclass that has blocks overrides this; here nothing but the ends is kept.
        """
        z = self.embed(x)
        return Trace(z, self.classifier(z))

    def forward(self, x: Tensor, read: Read | None = None) -> Any:
        """Run one pass.

        Args:
            x: Normalized images (B, ch, H, W).
            read: What is kept of the pass; by default :func:`embedding`: embeddings (B, d) and logits (B, K).
        """
        return (read or embedding)(self, x)

    @property
    def draws_at_random(self) -> bool:
        """Whether a pass in training mode draws from torch's generator, as dropout does."""
        return any(_drops(module) for module in self.modules())

    @property
    def rows_are_independent(self) -> bool:
        """Whether what a pass in training mode makes of an image depends on that image alone.

        It does not where batch norm takes statistics over the batch, or where units are dropped at random. Such a
        network gets all images of an iteration in one pass, so that memory settings cannot change a result.
        """
        return not self.draws_at_random and not any(isinstance(module, _BatchNorm) for module in self.modules())


Read = Callable[[Network, Tensor], Any]
"""Runs one pass of a network on images (B, ch, H, W) and keeps tensors of it, in tuples or dictionaries: one row per
image each."""

NetworkFactory = Callable[[int, tuple[int, int], int], Network]
"""Builds a network from channels, image size and number of classes."""


def embedding(network: Network, x: Tensor) -> tuple[Tensor, Tensor]:
    """The default reading of a pass: embeddings (B, d) and logits (B, K), by the fastest way there is."""
    z = network.embed(x)
    return z, network.classifier(z)


def _drops(module: nn.Module) -> bool:
    # Torchvision's StochasticDepth by its name, so that nothing is imported for it.
    drops = isinstance(module, _DropoutNd) or type(module).__name__ == "StochasticDepth"
    return drops and bool(module.p)
