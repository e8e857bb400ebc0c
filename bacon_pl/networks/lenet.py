"""LeNet in the variant that the distillation literature uses."""

from __future__ import annotations

from torch import Tensor, nn

from bacon_pl.networks.base import Network, Trace
from bacon_pl.networks.parts import check_large_enough, extra_padding, trace_layers


class LeNet(Network):
    """Two 5×5 convolutions of 6 and 16 filters, each with ReLU and 2×2 max pooling, then layers of 120, 84 and C units.

    Args:
        channels: Image channels.
        size: Image height and width in pixels.
        num_classes: Number of classes.

    Raises:
        BaconError: The images are too small.
    """

    def __init__(self, channels: int, size: tuple[int, int], num_classes: int) -> None:
        super().__init__()
        height, width = (((s - 4) // 2 - 4) // 2 for s in check_large_enough("LeNet", channels, size, 16))
        self.features = nn.Sequential(
            nn.Conv2d(channels, 6, 5, padding=extra_padding(channels)),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * height * width, 120),
            nn.ReLU(inplace=True),
            nn.Linear(120, 84),
            nn.ReLU(inplace=True),
        )
        self.classifier = nn.Linear(84, num_classes)

    def embed(self, x: Tensor) -> Tensor:
        """Map normalized images (B, ch, H, W) to the last hidden layer (B, 84)."""
        z: Tensor = self.features(x)
        return z

    def trace(self, x: Tensor) -> Trace:
        """See :meth:`Network.trace`."""
        maps, hidden, stages = trace_layers(self.features, x)
        z = maps.flatten(1)
        return Trace(z, self.classifier(z), hidden, stages)
