"""A network as a function of its weights, so that many networks of one architecture share one compiled program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.func import functional_call

from bacon_pl.errors import BaconError, unknown_name
from bacon_pl.networks import fused
from bacon_pl.networks.base import Network
from bacon_pl.networks.cost import forward_flops

Acceleration = Literal["auto", "on", "off"]
Run = Callable[[Mapping[str, Tensor], Tensor], tuple[Tensor, Tensor]]

WORTHWHILE_FLOPS = 2e12
"""Work from which compiling pays: narrow networks do about this much in the 40 s on one CPU core that it takes."""


class StatelessNetwork:
    """Runs a network with weights given at every call.

    Buffers given with the weights, such as running statistics of batch norm, are updated in place.

    Accelerated, the forward (and with it the backward) pass is compiled once per input shape and runs under bfloat16
    autocast where the device computes in it. Both change results by rounding only.

    Args:
        template: The architecture; its own weights are never used.
        accelerated: Compile and use reduced precision.
    """

    def __init__(self, template: Network, accelerated: bool = False) -> None:
        self.template = template.train()
        self.accelerated = accelerated
        self.batched = template.batchable and next(template.parameters()).device.type == "cuda"
        """Whether networks side by side are one batched program; see :meth:`side_by_side`."""
        self._run: Run = self._plain
        self._run_many: Run = self._many
        if accelerated:
            if next(template.parameters()).device.type == "cpu":
                fused.load()
            # Static shapes: there are few of them, and a program for any batch size is slower.
            self._run = torch.compile(partial(self._autocast, self._plain), dynamic=False)
            self._run_many = torch.compile(partial(self._autocast, self._many), dynamic=False)

    def _plain(self, weights: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        return functional_call(self.template, dict(weights), (x,))

    def _many(self, weights: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        # Where a network drops units at random, each of them drops its own.
        return torch.vmap(self._plain, randomness="different")(dict(weights), x)

    @staticmethod
    def _autocast(run: Run, weights: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        enabled = x.dtype == torch.float32 and has_bfloat16(x.device)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=enabled):
            return run(weights, x)

    def __call__(self, weights: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        """Embed and classify normalized images.

        Args:
            weights: The network's parameters and buffers by name.
            x: (B, ch, H, W).

        Returns:
            Embeddings (B, d) and logits (B, C), in ``x``'s type.
        """
        z, logits = self._run(weights, x)
        return z.to(x.dtype), logits.to(x.dtype)

    def side_by_side(self, weights: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        """Embed and classify with several networks, each its own images.

        On a GPU they are one batched program, which fills it; on a CPU they follow each other, for there a batched
        convolution is slower: see README, Speed.

        Args:
            weights: The networks' parameters and buffers by name, stacked: (K, …).
            x: (K, B, ch, H, W).

        Returns:
            Embeddings (K, B, d) and logits (K, B, C), in ``x``'s type.
        """
        if self.batched:
            z, logits = self._run_many(weights, x)
            return z.to(x.dtype), logits.to(x.dtype)
        apart = [self({name: w[k] for name, w in weights.items()}, images) for k, images in enumerate(x)]
        return torch.stack([z for z, _ in apart]), torch.stack([logits for _, logits in apart])


def has_bfloat16(device: torch.device) -> bool:
    """Tell whether a device multiplies bfloat16 matrices faster than float32 ones."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    has = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(has is not None and has())


def resolve_acceleration(
    choice: Acceleration, template: Network, image: tuple[int, int, int], images: float, device: torch.device
) -> bool:
    """Decide whether a run is compiled.

    The choice depends on the run's settings alone, not on a clock, so that equal runs stay equal.

    Args:
        choice: ``on``, ``off``, or ``auto``: on if the work repays the compilation and there is a compiler.
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
        return False
    compiler = device.type != "cpu" or fused.compiler() is not None
    if choice == "on" and not compiler:
        raise BaconError(
            "acceleration 'on' needs a C++ compiler (g++) to compile for the CPU: install one or use 'off'."
        )
    return choice == "on" or (compiler and 3 * images * forward_flops(template, image) >= WORTHWHILE_FLOPS)


def even_rows(rows: int, limit: int) -> int:
    """Largest block size up to ``limit`` that cuts ``rows`` evenly, so that all blocks share one compiled shape."""
    return max(size for size in range(1, min(max(limit, 1), rows) + 1) if rows % size == 0)
