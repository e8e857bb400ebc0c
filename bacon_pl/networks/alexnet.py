"""AlexNet in the variant that the distillation literature uses for images of 32 pixels."""

from __future__ import annotations

from torch import Tensor, nn

from bacon_pl.networks.base import Network, Trace
from bacon_pl.networks.parts import check_large_enough, extra_padding, trace_layers


class AlexNet(Network):
    """Five convolutions of 128, 192, 256, 192 and 192 filters with ReLU and three 2×2 max poolings, without norms.

    Args:
        channels: Image channels.
        size: Image height and width in pixels.
        num_classes: Number of classes.

    Raises:
        BaconError: The images are too small.
    """

    def __init__(self, channels: int, size: tuple[int, int], num_classes: int) -> None:
        super().__init__()
        height, width = (s // 8 for s in check_large_enough("AlexNet", channels, size, 8))
        self.features = nn.Sequential(
            nn.Conv2d(channels, 128, 5, padding=2 + extra_padding(channels)),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(128, 192, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(192, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 192, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(192, 192, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Linear(192 * height * width, num_classes)

    def embed(self, x: Tensor) -> Tensor:
        """Map normalized images (B, ch, H, W) to flattened feature maps (B, 192 · H/8 · W/8)."""
        return self.features(x).flatten(1)

    def trace(self, x: Tensor) -> Trace:
        """See :meth:`Network.trace`."""
        maps, hidden, stages = trace_layers(self.features, x)
        z = maps.flatten(1)
        return Trace(z, self.classifier(z), hidden, stages)
