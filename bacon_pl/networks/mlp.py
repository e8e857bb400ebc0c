"""A multilayer perceptron, the usual network without convolutions in the distillation literature."""

from __future__ import annotations

from torch import Tensor, nn

from bacon_pl.errors import BaconError
from bacon_pl.networks.base import Network, Trace


class MLP(Network):
    """Two hidden layers with ReLU, then a linear classifier.

    Args:
        channels: Image channels.
        size: Image height and width in pixels.
        num_classes: Number of classes.
        width: Units per hidden layer.

    Raises:
        BaconError: The width is not positive.
    """

    def __init__(self, channels: int, size: tuple[int, int], num_classes: int, width: int = 128) -> None:
        super().__init__()
        if width < 1:
            raise BaconError(f"MLP's width must be at least 1, got {width}.")
        self.features = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * size[0] * size[1], width),
            nn.ReLU(inplace=True),
            nn.Linear(width, width),
            nn.ReLU(inplace=True),
        )
        self.classifier = nn.Linear(width, num_classes)

    def embed(self, x: Tensor) -> Tensor:
        """Map normalized images (B, ch, H, W) to the last hidden layer (B, width)."""
        z: Tensor = self.features(x)
        return z

    def trace(self, x: Tensor) -> Trace:
        """See :meth:`Network.trace`; ``hidden`` and ``stages`` are the outputs (B, width) of the two hidden layers."""
        flatten, *layers = self.features
        first = layers[1](layers[0](flatten(x)))
        z = layers[3](layers[2](first))
        return Trace(z, self.classifier(z), (first, z), (first, z))
