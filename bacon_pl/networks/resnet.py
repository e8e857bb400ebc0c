"""ResNet18 in the variant that the distillation literature uses for images of 32 pixels."""

from __future__ import annotations

from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from bacon_pl.networks.base import Network, Trace
from bacon_pl.networks.parts import check_choice, check_large_enough, extra_padding, norm_layer

_POOL = 4
_LEAST = 8 * (_POOL - 1) + 1  # after three strides of 2, rounded up, 4 pixels must be left for the pooling
_Norm = Literal["instance", "batch", "none"]


class _Block(nn.Module):
    """A residual block of two 3×3 convolutions."""

    def __init__(self, channels: int, filters: int, stride: int, size: tuple[int, int], norm: _Norm) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels, filters, 3, stride, padding=1, bias=False),
            norm_layer(norm, filters, *size),
            nn.ReLU(inplace=True),
            nn.Conv2d(filters, filters, 3, padding=1, bias=False),
            norm_layer(norm, filters, *size),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != filters:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, filters, 1, stride, bias=False), norm_layer(norm, filters, *size)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to (B, filters, H/stride, W/stride)."""
        return F.relu(self.branch(x) + self.shortcut(x))


class ResNet18(Network):
    """A 3×3 convolution, four stages of two residual blocks each (64, 128, 256 and 512 filters), 4×4 average pooling
    and a linear classifier.

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
        check_choice("norm of ResNet18", norm, get_args(_Norm))
        height, width = check_large_enough("ResNet18", channels, size, _LEAST)
        layers: list[nn.Module] = [
            nn.Conv2d(channels, 64, 3, padding=1 + extra_padding(channels), bias=False),
            norm_layer(norm, 64, height, width),
            nn.ReLU(inplace=True),
        ]
        channels = 64
        for filters, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            height, width = -(-height // stride), -(-width // stride)
            layers += [
                _Block(channels, filters, stride, (height, width), norm),
                _Block(filters, filters, 1, (height, width), norm),
            ]
            channels = filters
        layers.append(nn.AvgPool2d(_POOL))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels * (height // _POOL) * (width // _POOL), num_classes)

    def embed(self, x: Tensor) -> Tensor:
        """Map normalized images (B, ch, H, W) to pooled feature maps (B, 512 · H/32 · W/32)."""
        return self.features(x).flatten(1)

    def trace(self, x: Tensor) -> Trace:
        """See :meth:`Network.trace`; ``hidden`` and ``stages`` are the outputs of the four stages, with the last one of
        ``stages`` pooled.
        """
        hidden = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if isinstance(layer, _Block) and i % 2 == 0:  # three layers, then two blocks per stage
                hidden.append(x)
        z = x.flatten(1)
        return Trace(z, self.classifier(z), tuple(hidden), (*hidden[:-1], x))
