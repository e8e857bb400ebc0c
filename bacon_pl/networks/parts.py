"""Layers of networks by their usual names, and checks of the image size."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from torch import Tensor, nn

from bacon_pl.errors import BaconError, unknown_name

Norm = Literal["instance", "batch", "layer", "group", "none"]
Activation = Literal["relu", "sigmoid", "leakyrelu"]
Pooling = Literal["avg", "max", "none"]

GROUPS = 4
"""Number of groups of ``norm: group``."""


def check_choice(what: str, given: str, allowed: Iterable[str]) -> None:
    """Check that an option has one of its allowed values.

    Args:
        what: Description of the option, for the message.
        given: The value as given.
        allowed: The allowed values.

    Raises:
        BaconError: The value is not allowed.
    """
    if given not in (names := tuple(allowed)):
        raise unknown_name(what, str(given), names)


def norm_layer(norm: Norm, filters: int, height: int, width: int) -> nn.Module:
    """Build a norm layer with affine parameters for maps (B, filters, height, width); ``none`` gives the identity.

    Raises:
        BaconError: The number of filters is not divisible by the number of groups.
    """
    if norm == "instance":
        return nn.GroupNorm(filters, filters)  # one group per channel
    if norm == "batch":
        return nn.BatchNorm2d(filters)
    if norm == "layer":
        return nn.LayerNorm([filters, height, width])
    if norm == "group":
        if filters % GROUPS:
            raise BaconError(f"norm 'group' shares filters among {GROUPS} groups, so {filters} do not fit.")
        return nn.GroupNorm(GROUPS, filters)
    return nn.Identity()


def activation_layer(activation: Activation) -> nn.Module:
    """Build an activation layer."""
    if activation == "sigmoid":
        return nn.Sigmoid()
    return nn.LeakyReLU(0.01, inplace=True) if activation == "leakyrelu" else nn.ReLU(inplace=True)


def extra_padding(channels: int) -> int:
    """Return the additional padding of the first convolution: 2 pixels for gray images, so that 28×28 becomes 32×32."""
    return 2 if channels == 1 else 0


def trace_layers(layers: Iterable[nn.Module], x: Tensor) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Run layers one after another and keep the input and output of each pooling.

    Args:
        layers: The layers.
        x: Input of the first layer.

    Returns:
        The output of the last layer, and ``hidden`` and ``stages`` as in :class:`~bacon_pl.networks.base.Trace`.
    """
    hidden, stages = [], []
    for layer in layers:
        pools = isinstance(layer, (nn.AvgPool2d, nn.MaxPool2d))
        if pools:
            hidden.append(x)
        x = layer(x)
        if pools:
            stages.append(x)
    return x, tuple(hidden), tuple(stages)


def check_large_enough(architecture: str, channels: int, size: tuple[int, int], least: int) -> tuple[int, int]:
    """Check that images are large enough for an architecture.

    Args:
        architecture: Name of the architecture, for the message.
        channels: Image channels.
        size: Image height and width in pixels.
        least: Smallest allowed side of the first convolution's output.

    Returns:
        Height and width of the first convolution's output.

    Raises:
        BaconError: The images are too small.
    """
    padding = 2 * extra_padding(channels)
    height, width = size[0] + padding, size[1] + padding
    if min(height, width) < least:
        raise BaconError(
            f"images of {size[0]}×{size[1]} pixels are too small for {architecture}, which needs "
            f"{least - padding}×{least - padding}: use another network or larger images."
        )
    return height, width
