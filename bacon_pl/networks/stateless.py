"""A network as a function of its weights, so that networks of the same architecture share one compiled program."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.utils._pytree import tree_map

from bacon_pl import rng
from bacon_pl.errors import BaconError
from bacon_pl.networks import fused, fused_cuda
from bacon_pl.networks.acceleration import PLAIN, Plan
from bacon_pl.networks.base import Network, Read, embedding
from bacon_pl.networks.side_by_side import Way, in_turn, on_streams

Keys = Sequence[int | str]
Run = Callable[[Mapping[str, Tensor], Tensor, Read], Any]

MOST_PROGRAMS = 64
"""Number of compiled programs that torch may keep for one function before it stops compiling. Torch's own limit of 8 is
reached within a single evaluation: training, embedding, the teacher and the feature spaces each use a batch size of
their own and a smaller last batch."""


class StatelessNetwork:
    """A network that takes its weights as an argument of every call.

    Buffers passed with the weights, such as running statistics of batch norm, are updated in place.

    According to the plan, the forward and backward passes are compiled once per input shape, and run under bfloat16
    autocast. Both change results by rounding only. Flags of the plan act on forward and backward passes inside a block
    ``with plan.flags()``.

    Args:
        template: The architecture; its own weights are never used.
        plan: How passes are executed.

    Raises:
        BaconError: The plan batches networks that cannot be batched.
    """

    def __init__(self, template: Network, plan: Plan = PLAIN) -> None:
        self.template = template.train()
        self.plan = plan
        device = next(template.parameters()).device
        batchable = template.batchable and not template.draws_at_random
        usual: Way = "batched" if batchable and device.type == "cuda" else "in turn"
        self.way: Way = plan.way or usual
        """How :meth:`side_by_side` runs the networks."""
        if self.way == "batched" and not batchable:
            raise BaconError(f"{type(template).__name__} cannot run as one batched program: use another way.")
        self._run: Run = self._plain
        self._run_many: Run = self._many
        if plan.compiled or plan.bfloat16:  # else the precision is the Trainer's
            self._run, self._run_many = partial(self._autocast, self._plain), partial(self._autocast, self._many)
        if plan.compiled:
            if device.type == "cpu":
                fused.load()
            settings: Any = torch._dynamo.config
            settings.recompile_limit = max(settings.recompile_limit, MOST_PROGRAMS)
            # Static shapes: there are few different ones, and a program for all batch sizes is slower.
            self._run = torch.compile(self._run, dynamic=False)
            self._run_many = torch.compile(self._run_many, dynamic=False)

    def _plain(self, weights: Mapping[str, Tensor], x: Tensor, read: Read) -> Any:
        if self.plan.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
            weights = {name: _last(w) for name, w in weights.items()}
        return functional_call(self.template, dict(weights), (x, read), strict=True)

    def _many(self, weights: Mapping[str, Tensor], x: Tensor, read: Read) -> Any:
        # If a network draws at random although draws_at_random is False, the draws differ between the networks.
        return torch.vmap(partial(self._plain, read=read), randomness="different")(dict(weights), x)

    def _autocast(self, run: Run, weights: Mapping[str, Tensor], x: Tensor, read: Read) -> Any:
        enabled = self.plan.bfloat16 and x.dtype == torch.float32
        with torch.autocast(x.device.type, torch.bfloat16, enabled=enabled):
            return run(weights, x, read)

    def __call__(self, weights: Mapping[str, Tensor], x: Tensor, read: Read = embedding, keys: Keys = ()) -> Any:
        """Run a pass on normalized images.

        Args:
            weights: All parameters and buffers of the network by name, and nothing else.
            x: (B, ch, H, W).
            read: Function that selects the results; by default embeddings (B, d) and logits (B, K).
            keys: Coordinates of the random draws of the pass, such as dropout: seed, purpose, iteration, network.
                Without them, the pass uses torch's global generator.

        Returns:
            The result of ``read``, in the type of ``x``.

        Raises:
            RuntimeError: The weights do not belong to this architecture.
        """
        with self._seeded(keys, x.device), fused_cuda.used(self.plan.fused):
            found = self._run(weights, x, read)
        return tree_map(lambda t: t.to(x.dtype), found)

    def side_by_side(
        self, weights: Mapping[str, Tensor], x: Tensor, read: Read = embedding, keys: Sequence[Keys] = ()
    ) -> Any:
        """Run a pass of several networks, each on its own images.

        If the plan names no way, the networks run on a GPU as one batched program, which makes better use of it. On a
        CPU, where batched convolutions are slower (see docs/speed.md), and with dropout they run one after another.

        Args:
            weights: Parameters and buffers of the networks by name, stacked: (K, …).
            x: (K, B, ch, H, W).
            read: Function that selects the results; by default embeddings (B, d) and logits (B, C).
            keys: One tuple of coordinates per network, as in :meth:`__call__`.

        Returns:
            The stacked results of ``read``, by default embeddings (K, B, d) and logits (K, B, C), in the type of ``x``.
        """
        if self.way == "batched":
            with fused_cuda.used(self.plan.fused):
                return tree_map(lambda t: t.to(x.dtype), self._run_many(weights, x, read))
        each = list(keys) or [()] * len(x)

        def run(k: int, own: Mapping[str, Tensor], images: Tensor) -> Any:
            return self(own, images, read, each[k])

        return (on_streams if self.way == "streams" else in_turn)(run, weights, x)

    def _seeded(self, keys: Keys, device: torch.device) -> AbstractContextManager[None]:
        if keys and self.template.training:
            return rng.seeded(*keys, device=device)
        return contextlib.nullcontext()


def _last(weight: Tensor) -> Tensor:
    return weight.contiguous(memory_format=torch.channels_last) if weight.ndim == 4 else weight
