"""Ways of running several networks of one architecture, each on its own images. They differ in speed and rounding."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

Way = Literal["batched", "streams", "in turn"]
"""``batched``: one program for all networks (``torch.vmap``), whose convolutions are grouped and therefore lose the
channels-last layout. ``streams``: each network on a CUDA stream of its own, so that small kernels overlap; where there
are no streams, one after another. ``in turn``: one after another."""

One = Callable[[int, Mapping[str, Tensor], Tensor], Any]
"""A pass of one network, from its number, its weights and its images."""


def in_turn(run: One, weights: Mapping[str, Tensor], x: Tensor) -> Any:
    """Run networks one after another.

    Args:
        run: Function that runs one network.
        weights: Stacked weights (K, …) by name.
        x: (K, B, ch, H, W).

    Returns:
        The stacked results.
    """
    apart = [run(k, {name: w[k] for name, w in weights.items()}, images) for k, images in enumerate(x)]
    return _stacked(apart)


def on_streams(run: One, weights: Mapping[str, Tensor], x: Tensor) -> Any:
    """Run networks at the same time, each on a stream of its own, as :func:`in_turn` does one after another.

    The caller's stream waits for all of them. Autograd runs the backward pass of each network on its stream, too. The
    stacks are taken apart before, so that their gradients are put together once instead of being added up.
    """
    images = x.unbind()
    apart = {name: w.unbind() for name, w in weights.items()}
    networks = [{name: parts[k] for name, parts in apart.items()} for k in range(len(images))]
    if not has_streams(x.device):
        return _stacked([run(k, own, images[k]) for k, own in enumerate(networks)])
    here = torch.cuda.current_stream(x.device)
    results = []
    for k, own in enumerate(networks):
        stream = _stream(x.device, k)
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            results.append(run(k, own, images[k]))
    for k, found in enumerate(results):
        here.wait_stream(_stream(x.device, k))
        for t in tree_leaves(found):
            t.record_stream(here)  # its memory is not given away before this stream has read it
    return _stacked(results)


def has_streams(device: torch.device) -> bool:
    """Return whether a device has streams."""
    return device.type == "cuda" and torch.cuda.is_available()


@functools.cache
def _stream(device: torch.device, number: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def _stacked(apart: list[Any]) -> Any:
    return tree_map(lambda *rows: torch.stack(rows), *apart)
