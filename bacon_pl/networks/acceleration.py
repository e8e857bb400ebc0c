"""Decide from a run's settings, never from timings, whether its passes are compiled and use reduced precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple, get_args

import torch

from bacon_pl.errors import BaconError, unknown_name
from bacon_pl.networks import fused
from bacon_pl.networks.base import Network
from bacon_pl.networks.cost import forward_flops, normalizations
from bacon_pl.networks.side_by_side import Way

Acceleration = Literal["auto", "on", "off", "measured"]

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
        way: How several networks are run side by side; None is ``batched`` on a GPU and ``in turn`` on a CPU.
        tf32: Whether a GPU rounds the inputs of float32 convolutions to TF32; None leaves it to torch, which does.
            Matrix products, of which objectives consist, are left to torch in any case.
        channels_last: Whether maps are kept in the channels-last layout.
        benchmark: Whether cuDNN tries its algorithms for each new shape; None leaves it to the Trainer.
        fused: Whether normalization, ReLU and pooling are one operator on a GPU (:mod:`bacon_pl.networks.fused_cuda`).
    """

    compiled: bool
    bfloat16: bool
    way: Way | None = None
    tf32: bool | None = None
    channels_last: bool = False
    benchmark: bool | None = None
    fused: bool = False

    @contextmanager
    def flags(self) -> Iterator[None]:
        """Set torch's flags for a block of forward and backward passes, and restore them at its end."""
        cudnn = torch.backends.cudnn
        wanted = {"allow_tf32": self.tf32, "benchmark": self.benchmark}
        before = {name: getattr(cudnn, name) for name, value in wanted.items() if value is not None}
        try:
            for name in before:
                setattr(cudnn, name, wanted[name])
            yield
        finally:
            for name, value in before.items():
                setattr(cudnn, name, value)

    def __str__(self) -> str:
        """Name what is chosen, as ``batched, bfloat16, compiled``."""
        precision = "bfloat16" if self.bfloat16 else "TF32" if self.tf32 else "float32"
        names = {"channels last": self.channels_last, "cuDNN benchmark": self.benchmark, "fused": self.fused}
        more = [name for name, chosen in {**names, "compiled": self.compiled}.items() if chosen]
        return ", ".join([*([self.way] if self.way else []), precision, *more])


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


class Work(NamedTuple):
    """The training step that is measured for ``measured``.

    Attributes:
        networks: Networks that a process trains side by side.
        batch: Images in a batch of each.
    """

    networks: int = 1
    batch: int = 256


ONE = Work()
"""A step of one network."""


def resolve_acceleration(
    choice: Acceleration,
    template: Network,
    image: tuple[int, int, int],
    images: float,
    device: torch.device,
    work: Work = ONE,
) -> Plan:
    """Decide how the passes of a run are executed.

    The decision depends on the run's settings alone, not on timings, so that equal runs give equal results. Only
    ``measured`` takes times, on a GPU, and keeps what it has picked (see :mod:`bacon_pl.networks.measured`).

    Args:
        choice: ``on`` compiles, and uses bfloat16 if the device supports it. ``off`` does neither. ``auto`` compiles
            if there is a compiler and the run is long enough, and then uses bfloat16 if the architecture's gradients
            are accurate enough in it. ``measured`` is ``auto`` on a CPU, and on a GPU what is fastest there; all
            processes must call this together.
        template: The architecture.
        image: Channels, height and width.
        images: Number of images that pass through the network in the whole run; forward passes without gradient count
            as a third.
        device: Device of the run.
        work: The training step that ``measured`` times.

    Returns:
        The plan for all passes of the run.

    Raises:
        BaconError: The choice is unknown, or it is ``on`` and there is no compiler.
    """
    if choice not in get_args(Acceleration):
        raise unknown_name("acceleration", str(choice), get_args(Acceleration))
    if choice == "off":
        return PLAIN
    if choice == "measured":
        from bacon_pl.networks.measured import measured  # which runs networks as planned here

        by_rule = resolve_acceleration("auto", template, image, images, device)
        return measured(by_rule, template, image, device, work)
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
