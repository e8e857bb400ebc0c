"""ResNet-18 as SRe2L, RDED and others after them build it: torchvision's, with a smaller stem for small images."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, nn
from torchvision.models import resnet18

from bacon_pl.networks.base import Network, Trace
from bacon_pl.networks.parts import check_choice

Stem = Literal["small", "large"]

LARGEST_OF_SMALL = 64
"""Longest side in pixels up to which images get the small stem by default."""


class ModifiedResNet18(Network):
    """Torchvision's ResNet-18 with random weights, batch norm throughout and 512 features for images of any size.

    Up to 64 pixels, its first convolution is 3×3 with stride 1 and there is no max pooling (the "modified" ResNet-18 of
    SRe2L, arXiv 2306.13092, and RDED, arXiv 2312.03526); beyond, it is torchvision's own, with a 7×7 convolution of
    stride 2 and a max pooling. The last maps are averaged, where :class:`ResNet18` pools 4×4. Gray images are copied to
    all three channels.

    Args:
        channels: Image channels, 1 or 3.
        size: Image height and width in pixels.
        num_classes: Number of classes.
        stem: ``small`` or ``large``, as above; by default it depends on the size.

    Raises:
        BaconError: The stem is unknown.
    """

    classifier: nn.Linear

    def __init__(self, channels: int, size: tuple[int, int], num_classes: int, stem: Stem | None = None) -> None:
        super().__init__()
        stem = stem or ("small" if max(size) <= LARGEST_OF_SMALL else "large")
        check_choice("stem of ModifiedResNet18", stem, get_args(Stem))
        body = resnet18(weights=None, num_classes=num_classes)
        if stem == "small":
            body.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
            body.maxpool = nn.Identity()
        self.classifier, body.fc = body.fc, nn.Identity()
        self.body = body

    def embed(self, x: Tensor) -> Tensor:
        """Map normalized images (B, ch, H, W) to the means of the last feature maps (B, 512)."""
        z: Tensor = self.body(x.expand(-1, 3, -1, -1))
        return z

    def trace(self, x: Tensor) -> Trace:
        """See :meth:`Network.trace`; ``hidden`` and ``stages`` are the outputs of the four stages, with the last one of
        ``stages`` pooled.
        """
        body, hidden = self.body, []
        x = body.maxpool(body.relu(body.bn1(body.conv1(x.expand(-1, 3, -1, -1)))))
        for stage in (body.layer1, body.layer2, body.layer3, body.layer4):
            x = stage(x)
            hidden.append(x)
        pooled = body.avgpool(x)
        z = pooled.flatten(1)
        return Trace(z, self.classifier(z), tuple(hidden), (*hidden[:-1], pooled))
