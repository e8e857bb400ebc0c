"""Decide from a run's settings, never from timings, whether its passes are compiled and use reduced precision."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch

from bacon_pl.errors import BaconError, unknown_name
from bacon_pl.networks import fused
from bacon_pl.networks.base import Network
from bacon_pl.networks.cost import forward_flops, normalizations

Acceleration = Literal["auto", "on", "off"]

WORTHWHILE_FLOPS = 2e12
"""Floating-point operations from which compiling pays off. Compiling takes about 40 s on one CPU core, in which narrow
networks do about this much work."""

MOST_NORMALIZATIONS = 5
FEWEST_VALUES = 16
"""A network with at most MOST_NORMALIZATIONS normalizations, each over at least FEWEST_VALUES values, has gradients in
bfloat16 within about 10 % of those in float32 (ConvNet of depth 3 to 5: 3 to 10 %). Other networks do not: every
normalization divides by a standard deviation of rounded values, which has hardly any accurate digits over a 2×2 map
(ConvNet of depth 5 at 32 pixels: 34 to 83 %; VGG11: 57 to 66 %, and 27 % at 64 pixels; ResNet18: 38 %, and 31 % with
batch norm)."""


class Plan(NamedTuple):
    """How passes are run.

    Attributes:
        compiled: Whether passes are compiled.
        bfloat16: Whether passes run under bfloat16 autocast.
    """

    compiled: bool
    bfloat16: bool


PLAIN = Plan(compiled=False, bfloat16=False)
"""The plan that runs torch's own modules in the precision of their inputs."""


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 matrices faster than float32 matrices."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    has = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(has is not None and has())


def bears_bfloat16(template: Network, image: tuple[int, int, int]) -> bool:
    """Return whether an architecture's gradients are accurate enough in bfloat16.

    Args:
        template: The architecture.
        image: Channels, height and width.
    """
    values = normalizations(template, image)
    return len(values) <= MOST_NORMALIZATIONS and min(values, default=FEWEST_VALUES) >= FEWEST_VALUES


def resolve_acceleration(
    choice: Acceleration, template: Network, image: tuple[int, int, int], images: float, device: torch.device
) -> Plan:
    """Decide how the passes of a run are executed.

    The decision depends on the run's settings alone, not on timings, so that equal runs give equal results.

    Args:
        choice: ``on`` compiles, and uses bfloat16 if the device supports it. ``off`` does neither. ``auto`` compiles
            if there is a compiler and the run is long enough, and then uses bfloat16 if the architecture's gradients
            are accurate enough in it.
        template: The architecture.
        image: Channels, height and width.
        images: Number of images that pass through the network in the whole run; forward passes without gradient count
            as a third.
        device: Device of the run.

    Returns:
        The plan for all passes of the run.

    Raises:
        BaconError: The choice is unknown, or it is ``on`` and there is no compiler.
    """
    if choice not in get_args(Acceleration):
        raise unknown_name("acceleration", str(choice), get_args(Acceleration))
    if choice == "off":
        return PLAIN
    compiler = device.type != "cpu" or fused.compiler() is not None
    if choice == "on":
        if not compiler:
            raise BaconError(
                "acceleration 'on' needs a C++ compiler (g++) to compile for the CPU: install one or use 'off'."
            )
        return Plan(True, has_bfloat16(device))
    if not compiler or 3 * images * forward_flops(template, image) < WORTHWHILE_FLOPS:
        return PLAIN
    return Plan(True, has_bfloat16(device) and bears_bfloat16(template, image))


def even_rows(rows: int, limit: int) -> int:
    """Choose the size of the blocks into which rows are cut.

    The result is the largest size that divides ``rows``, so that all blocks share one compiled shape. If it is less
    than half of what fits, as for a prime number of rows, the blocks are as equal as possible and the last is smaller.

    Args:
        rows: Number of rows.
        limit: Largest allowed size of a block.

    Returns:
        Rows per block.
    """
    most = min(max(limit, 1), rows)
    even = max(size for size in range(1, most + 1) if rows % size == 0)
    return even if 2 * even >= most else -(-rows // -(-rows // most))
