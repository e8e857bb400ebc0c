"""The ConvNet of the distillation literature."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor, nn

from bacon_pl.errors import BaconError
from bacon_pl.networks import fused, fused_cuda
from bacon_pl.networks.base import Network, Trace
from bacon_pl.networks.parts import (
    Activation,
    Norm,
    Pooling,
    activation_layer,
    check_choice,
    extra_padding,
    norm_layer,
)


class ConvNet(Network):
    """Blocks of 3×3 convolution, norm, activation and 2×2 pooling, then a linear classifier.

    Args:
        channels: Image channels.
        size: Image height and width in pixels.
        num_classes: Number of classes.
        width: Filters per convolution.
        depth: Number of blocks. Every block halves the image's sides, unless ``pooling`` is none.
        activation: ``relu``, ``sigmoid`` or ``leakyrelu`` (slope 0.01).
        norm: ``instance`` (one group per channel), ``batch``, ``layer``, ``group`` (four groups) or ``none``.
        pooling: ``avg``, ``max`` or ``none``.

    Raises:
        BaconError: The image is too small for ``depth`` poolings, or an argument has a value that is not allowed.
    """

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        num_classes: int,
        width: int = 128,
        depth: int = 3,
        activation: Activation = "relu",
        norm: Norm = "instance",
        pooling: Pooling = "avg",
    ) -> None:
        super().__init__()
        if width < 1 or depth < 1:
            raise BaconError(f"ConvNet's width and depth must be at least 1, got width {width} and depth {depth}.")
        check_choice("activation of ConvNet", activation, get_args(Activation))
        check_choice("norm of ConvNet", norm, get_args(Norm))
        check_choice("pooling of ConvNet", pooling, get_args(Pooling))
        extra = extra_padding(channels)
        height, breadth = (side + 2 * extra for side in size)
        if pooling != "none" and min(height, breadth) >> depth == 0:
            raise BaconError(
                f"images of {size[0]}×{size[1]} pixels are too small for a ConvNet of depth {depth}: use a depth of at "
                f"most {min(height, breadth).bit_length() - 1} or larger images."
            )
        layers: list[nn.Module] = []
        for block in range(depth):
            layers += [
                nn.Conv2d(channels, width, 3, padding=1 + extra if block == 0 else 1),
                norm_layer(norm, width, height, breadth),
                activation_layer(activation),
            ]
            if pooling != "none":
                layers.append(nn.AvgPool2d(2) if pooling == "avg" else nn.MaxPool2d(2))
                height, breadth = height // 2, breadth // 2
            channels = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width * height * breadth, num_classes)
        self._block_layers = len(layers) // depth
        self.has_kernels = (activation, norm, pooling) == ("relu", "instance", "avg")

    def embed(self, x: Tensor) -> Tensor:
        """Map normalized images (B, ch, H, W) to flattened feature maps (B, width · H/2^depth · W/2^depth)."""
        if self.has_kernels and fused.usable(x):
            return self._embed_fused(x).flatten(1)
        if self.has_kernels and fused_cuda.wanted():
            return self._embed_fused_cuda(x).flatten(1)
        return self.features(x).flatten(1)

    def trace(self, x: Tensor) -> Trace:
        """See :meth:`Network.trace`; ``hidden`` and ``stages`` have one entry per block."""
        hidden, stages = [], []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i % self._block_layers == 2:  # a block is convolution, norm, activation and, optionally, pooling
                hidden.append(x)
            if (i + 1) % self._block_layers == 0:
                stages.append(x)
        z = x.flatten(1)
        return Trace(z, self.classifier(z), tuple(hidden), tuple(stages))

    def _embed_fused_cuda(self, x: Tensor) -> Tensor:
        """Compute ``features`` with one operator for the norm, ReLU and pooling of each block whose sides are even."""
        for start in range(0, len(self.features), 4):
            convolution, norm, *rest = self.features[start : start + 4]
            assert isinstance(norm, nn.GroupNorm)
            x = convolution(x)
            if fused_cuda.fits(x):
                last = start + 4 == len(self.features)
                x = fused_cuda.block(x, norm, x.dtype is torch.bfloat16 and not last)  # embeddings stay in float32
            else:
                x = rest[1](rest[0](norm(x)))
        return x

    def _embed_fused(self, x: Tensor) -> Tensor:
        """Compute ``features`` with one fused operator for the norm, ReLU and pooling of each block."""
        layers = list(self.features)
        blocks = list(zip(layers[0::4], layers[1::4], strict=True))
        reduced = torch.is_autocast_enabled("cpu")
        for i, (convolution, norm) in enumerate(blocks):
            assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.GroupNorm)
            assert convolution.bias is not None and not isinstance(convolution.padding, str)
            affine = (norm.weight, norm.bias)
            half = reduced and i + 1 < len(blocks)  # embeddings stay in float32
            if convolution.in_channels <= fused.FEW_CHANNELS:
                first = (x.float(), convolution.weight, convolution.bias)
                x = fused.stem(*first, *affine, convolution.padding[0], norm.eps, half)[0]
            else:
                x = fused.norm_relu_pool(convolution(x), *affine, norm.eps, half)[0]
        return x
