"""A network as a function of its weights, so that many networks of one architecture share one compiled program."""

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
from bacon_pl.networks import fused
from bacon_pl.networks.acceleration import PLAIN, Plan
from bacon_pl.networks.base import Network, Read, embedding

Keys = Sequence[int | str]
Run = Callable[[Mapping[str, Tensor], Tensor, Read], Any]

MOST_PROGRAMS = 64
"""Programs that torch keeps of one function before it compiles no more. Its own limit of 8 is used up within one
evaluation: training, embedding, a teacher and feature spaces each have a batch of their own, and a smaller last one."""


class StatelessNetwork:
    """Runs a network with weights given at every call.

    Buffers given with the weights, such as running statistics of batch norm, are updated in place.

    Accelerated, the forward (and with it the backward) pass is compiled once per input shape and, where the plan says
    so, runs under bfloat16 autocast where the device computes in it. Both change results by rounding only.

    Args:
        template: The architecture; its own weights are never used.
        plan: Whether to compile, and whether to use reduced precision.
    """

    def __init__(self, template: Network, plan: Plan = PLAIN) -> None:
        self.template = template.train()
        self.plan = plan
        device = next(template.parameters()).device
        self.batched = template.batchable and not template.draws_at_random and device.type == "cuda"
        """Whether networks side by side are one batched program; see :meth:`side_by_side`."""
        self._run: Run = self._plain
        self._run_many: Run = self._many
        if plan.compiled:
            if device.type == "cpu" and plan.bfloat16:
                fused.load()
            settings: Any = torch._dynamo.config
            settings.recompile_limit = max(settings.recompile_limit, MOST_PROGRAMS)
            # Static shapes: there are few of them, and a program for any batch size is slower.
            self._run = torch.compile(partial(self._autocast, self._plain), dynamic=False)
            self._run_many = torch.compile(partial(self._autocast, self._many), dynamic=False)

    def _plain(self, weights: Mapping[str, Tensor], x: Tensor, read: Read) -> Any:
        return functional_call(self.template, dict(weights), (x, read), strict=True)

    def _many(self, weights: Mapping[str, Tensor], x: Tensor, read: Read) -> Any:
        # A network that draws at random without saying so draws for each of them; see Network.draws_at_random.
        return torch.vmap(partial(self._plain, read=read), randomness="different")(dict(weights), x)

    def _autocast(self, run: Run, weights: Mapping[str, Tensor], x: Tensor, read: Read) -> Any:
        enabled = self.plan.bfloat16 and x.dtype == torch.float32
        with torch.autocast(x.device.type, torch.bfloat16, enabled=enabled):
            return run(weights, x, read)

    def __call__(self, weights: Mapping[str, Tensor], x: Tensor, read: Read = embedding, keys: Keys = ()) -> Any:
        """Run a pass on normalized images.

        Args:
            weights: The network's parameters and buffers by name: all of them, and nothing else.
            x: (B, ch, H, W).
            read: What is kept of the pass; by default embeddings (B, d) and logits (B, K).
            keys: Coordinates of what the pass draws at random (dropout): seed, purpose, iteration, network. Without
                them it draws from torch's global generator.

        Returns:
            What ``read`` gives, in ``x``'s type.

        Raises:
            RuntimeError: The weights are not this architecture's.
        """
        with self._seeded(keys, x.device):
            found = self._run(weights, x, read)
        return tree_map(lambda t: t.to(x.dtype), found)

    def side_by_side(
        self, weights: Mapping[str, Tensor], x: Tensor, read: Read = embedding, keys: Sequence[Keys] = ()
    ) -> Any:
        """Run a pass of several networks, each on its own images.

        On a GPU they are one batched program, which fills it; on a CPU, and where units are dropped at random, they
        follow each other: on a CPU a batched convolution is slower (see docs/speed.md).

        Args:
            weights: The networks' parameters and buffers by name, stacked: (K, …).
            x: (K, B, ch, H, W).
            read: What is kept of a pass; by default embeddings (B, d) and logits (B, C).
            keys: For each network, as in a call.

        Returns:
            What ``read`` gives, stacked: by default embeddings (K, B, d) and logits (K, B, C); in ``x``'s type.
        """
        if self.batched:
            return tree_map(lambda t: t.to(x.dtype), self._run_many(weights, x, read))
        each = list(keys) or [()] * len(x)
        apart = [self({name: w[k] for name, w in weights.items()}, images, read, each[k]) for k, images in enumerate(x)]
        return tree_map(lambda *rows: torch.stack(rows), *apart)

    def _seeded(self, keys: Keys, device: torch.device) -> AbstractContextManager[None]:
        if keys and self.template.training:
            return rng.seeded(*keys, device=device)
        return contextlib.nullcontext()
