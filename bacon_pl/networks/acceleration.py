"""Whether a run's passes are compiled, and whether in reduced precision: decided by settings, never by a clock."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch

from bacon_pl.errors import BaconError, unknown_name
from bacon_pl.networks import fused
from bacon_pl.networks.base import Network
from bacon_pl.networks.cost import forward_flops, normalizations

Acceleration = Literal["auto", "on", "off"]

WORTHWHILE_FLOPS = 2e12
"""Work from which compiling pays: narrow networks do about this much in the 40 s on one CPU core that it takes."""

MOST_NORMALIZATIONS = 5
FEWEST_VALUES = 16
"""Up to so many normalizations, each over at least so many values, a network's gradients in bfloat16 stay within some
10 % of float32's (ConvNet of depth 3 to 5: 3 to 10 %). Beyond, they do not: every normalization divides by a deviation
that was computed of rounded values, which over a 2×2 map hardly has digits left (ConvNet of depth 5 on 32 pixels 34 to
83 %; VGG11 57 to 66 %, and 27 % on 64 pixels; ResNet18 38 %, and 31 % with batch norm)."""


class Plan(NamedTuple):
    """How passes are run.

    Attributes:
        compiled: By a compiled program.
        bfloat16: Under bfloat16 autocast.
    """

    compiled: bool
    bfloat16: bool


PLAIN = Plan(compiled=False, bfloat16=False)
"""By torch's own modules, in the precision of the tensors that are given."""


def has_bfloat16(device: torch.device) -> bool:
    """Tell whether a device multiplies bfloat16 matrices faster than float32 ones."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    has = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(has is not None and has())


def bears_bfloat16(template: Network, image: tuple[int, int, int]) -> bool:
    """Tell whether an architecture's gradients are to be trusted in bfloat16.

    Args:
        template: The architecture.
        image: Channels, height and width.
    """
    values = normalizations(template, image)
    return len(values) <= MOST_NORMALIZATIONS and min(values, default=FEWEST_VALUES) >= FEWEST_VALUES


def resolve_acceleration(
    choice: Acceleration, template: Network, image: tuple[int, int, int], images: float, device: torch.device
) -> Plan:
    """Decide how a run's passes are run.

    The choice depends on the run's settings alone, not on a clock, so that equal runs stay equal.

    Args:
        choice: ``on``: compiled, and in bfloat16 where the device has it; ``off``; or ``auto``: compiled if the work
            repays the compilation and there is a compiler, and in bfloat16 if the architecture bears it, too.
        template: The architecture.
        image: Channels, height and width.
        images: Images that will pass through it in the whole run, forward passes without gradient counting a third.
        device: Where it runs.

    Raises:
        BaconError: The choice is unknown, or ``on`` was asked for and there is no compiler.
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
    """Size of the blocks that ``rows`` are cut into, up to ``limit``.

    The largest one that cuts them evenly, so that all blocks share one compiled shape, unless it were less than half
    of what fits, as for a prime number of rows: then blocks are as equal as they can be, and the last one is smaller.
    """
    most = min(max(limit, 1), rows)
    even = max(size for size in range(1, most + 1) if rows % size == 0)
    return even if 2 * even >= most else -(-rows // -(-rows // most))
