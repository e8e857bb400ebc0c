"""VGG11 in the variant that the distillation literature uses for images of 32 pixels."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, nn

from bacon_pl.networks.base import Network, Trace
from bacon_pl.networks.parts import check_choice, check_large_enough, extra_padding, norm_layer, trace_layers

_BLOCKS = ((64,), (128,), (256, 256), (512, 512), (512, 512))
_Norm = Literal["instance", "batch", "none"]


class VGG11(Network):
    """Eight 3×3 convolutions with norm and ReLU in five blocks, each with a 2×2 max pooling, then a linear classifier.

    Args:
        channels: Image channels.
        size: Image height and width in pixels.
        num_classes: Number of classes.
        norm: ``instance`` (one group per channel), ``batch`` or ``none``.

    Raises:
        BaconError: The images are too small, or the norm is unknown.
    """

    def __init__(self, channels: int, size: tuple[int, int], num_classes: int, norm: _Norm = "instance") -> None:
        super().__init__()
        check_choice("norm of VGG11", norm, get_args(_Norm))
        height, width = check_large_enough("VGG11", channels, size, 2 ** len(_BLOCKS))
        layers: list[nn.Module] = []
        padding = 1 + extra_padding(channels)
        for block in _BLOCKS:
            for filters in block:
                layers += [
                    nn.Conv2d(channels, filters, 3, padding=padding),
                    norm_layer(norm, filters, height, width),
                    nn.ReLU(inplace=True),
                ]
                channels, padding = filters, 1
            layers.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels * height * width, num_classes)

    def embed(self, x: Tensor) -> Tensor:
        """Map normalized images (B, ch, H, W) to flattened feature maps (B, 512 · H/32 · W/32)."""
        return self.features(x).flatten(1)

    def trace(self, x: Tensor) -> Trace:
        """See :meth:`Network.trace`."""
        maps, hidden, stages = trace_layers(self.features, x)
        z = maps.flatten(1)
        return Trace(z, self.classifier(z), hidden, stages)
