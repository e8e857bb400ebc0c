"""The ConvNet of the distillation literature (method.md §7)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bacon_pl.errors import BaconError
from bacon_pl.networks.base import Network


class PatchConv2d(nn.Conv2d):
    """A convolution that, of grey images in reduced precision on a CPU, is computed as one matrix product of patches.

    There the bfloat16 convolution's weight gradient is so slow that a whole training step of the ConvNet takes twice
    as long (256 images, 128 filters). From 3 channels on the convolution is as fast, and everywhere else, or where the
    input needs a gradient, it is torch's own. Stride, dilation and groups are 1.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, ch, H, W) to (B, filters, H', W')."""
        reduced = x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        if not reduced or self.in_channels > 1 or x.requires_grad:
            return super().forward(x)
        assert not isinstance(self.padding, str)
        side, pad = self.kernel_size[0], self.padding[0]
        patches = F.pad(x, (pad,) * 4).unfold(2, side, 1).unfold(3, side, 1)  # (B, ch, H', W', side, side)
        n, _, height, width = patches.shape[:4]
        rows = patches.permute(0, 2, 3, 1, 4, 5).reshape(n * height * width, -1)
        out = F.linear(rows, self.weight.flatten(1), self.bias)
        return out.view(n, height, width, -1).permute(0, 3, 1, 2)


class ConvNet(Network):
    """Blocks of 3×3 convolution, instance norm, ReLU and 2×2 average pooling, then a linear classifier.

    Args:
        channels: Image channels.
        size: Image height and width in pixels.
        num_classes: Number of classes.
        width: Filters per convolution.
        depth: Number of blocks; every block halves the image.

    Raises:
        BaconError: The image is too small for ``depth`` poolings, or an argument is not positive.
    """

    def __init__(
        self, channels: int, size: tuple[int, int], num_classes: int, width: int = 128, depth: int = 3
    ) -> None:
        super().__init__()
        if width < 1 or depth < 1:
            raise BaconError(f"ConvNet's width and depth must be at least 1, got width {width} and depth {depth}.")
        # Grey images are padded by two more pixels on each side, so that 28×28 is pooled like 32×32.
        first_padding = 3 if channels == 1 else 1
        height, breadth = (side + 2 * (first_padding - 1) for side in size)
        if min(height, breadth) >> depth == 0:
            raise BaconError(
                f"images of {size[0]}×{size[1]} pixels are too small for a ConvNet of depth {depth}: use a depth of at "
                f"most {min(height, breadth).bit_length() - 1} or larger images."
            )
        layers: list[nn.Module] = []
        for block in range(depth):
            layers += [
                PatchConv2d(channels, width, 3, padding=first_padding)
                if block == 0
                else nn.Conv2d(width, width, 3, padding=1),
                nn.GroupNorm(width, width),  # one group per channel = instance norm, with affine parameters
                nn.ReLU(inplace=True),
                nn.AvgPool2d(2),
            ]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width * (height >> depth) * (breadth >> depth), num_classes)

    def embed(self, x: Tensor) -> Tensor:
        """Map normalised images (B, ch, H, W) to flattened feature maps (B, width · H/2^depth · W/2^depth)."""
        return self.features(x).flatten(1)
