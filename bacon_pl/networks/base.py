"""The interface of networks: embeddings, logits and intermediate activations from one forward pass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from bacon_pl.errors import BaconError, one_line


class Trace(NamedTuple):
    """The results of one forward pass, with one row per image.

    Attributes:
        z: Embeddings (B, d).
        logits: Logits (B, K).
        hidden: Inputs of the poolings, in the order of the blocks, (B, F, H, W) each. For a network without pooling,
            the activations at the end of each block. May be empty.
        stages: Outputs of the blocks, including their pooling, in order, (B, F, H, W) each. May be empty.
    """

    z: Tensor
    logits: Tensor
    hidden: tuple[Tensor, ...] = ()
    stages: tuple[Tensor, ...] = ()


class Network(nn.Module, ABC):
    """A classifier that exposes the features before its last layer.

    Subclasses take ``(channels, size, num_classes)`` followed by options of their own, and are selected by class name
    or ``class_path`` in YAML. They set ``self.classifier``, the layer that maps embeddings to logits.
    """

    classifier: nn.Module
    batchable: bool = True
    """Whether several networks of this kind can run as one batched program with ``torch.vmap``."""

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """Map normalized images (B, ch, H, W) to embeddings (B, d)."""

    def trace(self, x: Tensor) -> Trace:
        """Run a forward pass and keep its intermediate activations.

        Subclasses with blocks override this method; the default keeps only embeddings and logits.

        Args:
            x: Normalized images (B, ch, H, W).

        Returns:
            Embeddings, logits and activations.
        """
        z = self.embed(x)
        return Trace(z, self.classifier(z))

    def forward(self, x: Tensor, read: Read | None = None) -> Any:
        """Run one forward pass.

        Args:
            x: Normalized images (B, ch, H, W).
            read: Function that runs the pass and selects its results; by default :func:`embedding`.

        Returns:
            The result of ``read``; by default embeddings (B, d) and logits (B, K).
        """
        return (read or embedding)(self, x)

    @property
    def draws_at_random(self) -> bool:
        """Whether a pass in training mode uses torch's random generator, as dropout does."""
        return any(_drops(module) for module in self.modules())

    @property
    def rows_are_independent(self) -> bool:
        """Whether the result of a pass in training mode for an image depends on that image alone.

        This is not so with batch norm, which takes statistics over the batch, or with dropout. Such a network gets all
        images of an iteration in one pass, so that memory settings cannot change a result.
        """
        return not self.draws_at_random and not any(isinstance(module, _BatchNorm) for module in self.modules())


Read = Callable[[Network, Tensor], Any]
"""A function that runs one pass of a network on images (B, ch, H, W) and returns tensors with one row per image, in
tuples or dictionaries."""

NetworkFactory = Callable[[int, tuple[int, int], int], Network]
"""A function that builds a network from channels, image size and number of classes."""


def check_factory(name: str, factory: object) -> None:
    """Check that what should make networks can be called.

    Args:
        name: What it is called, for the message.
        factory: The function or class.

    Raises:
        BaconError: It cannot, such as the name of a network.
    """
    if isinstance(factory, nn.Module) or not callable(factory):
        raise BaconError(
            f"{name} must be a class or function that makes a network of (channels, size, num_classes), such as "
            f"bacon_pl.networks.ConvNet, got {one_line(factory, 60)}."
        )


def embedding(network: Network, x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute embeddings (B, d) and logits (B, K) in the fastest available way; the default :data:`Read`."""
    z = network.embed(x)
    return z, network.classifier(z)


def _drops(module: nn.Module) -> bool:
    # Torchvision's StochasticDepth is recognized by its name, which avoids an import.
    drops = isinstance(module, _DropoutNd) or type(module).__name__ == "StochasticDepth"
    return drops and bool(module.p)


def state_of(network: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of a network by name, not copied; with buffers that a state dict leaves out."""
    return dict(network.named_parameters()) | dict(network.named_buffers())
