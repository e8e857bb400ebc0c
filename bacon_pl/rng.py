"""Counter-based randomness: every draw is a pure function of (seed, iteration, class or network, position).

A draw is a hash of its coordinates (splitmix64's finalizer, applied once per coordinate). There is therefore no
generator state to save, and draws do not depend on the number of earlier draws. A whole tensor of draws takes a few
elementwise integer operations on any device, without a host sync. Modules that can be initialized only from torch's
global generator (network weights) use a forked generator that is seeded in the same way.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor

Key = int | str | Tensor

_MASK64 = (1 << 64) - 1


def _signed(value: int) -> int:
    """Fold an unsigned 64-bit integer into the range of torch.int64, keeping its bits."""
    value &= _MASK64
    return value - (1 << 64) if value >> 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def _mix_int(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & _MASK64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK64
    return x ^ (x >> 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shift right logically (torch's ``>>`` on int64 is arithmetic)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix_tensor(x: Tensor) -> Tensor:
    x = x + _GOLDEN
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def _as_int(key: int | str) -> int:
    if isinstance(key, str):
        return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
    return int(key) & _MASK64


def derive(*keys: int | str) -> int:
    """Hash coordinates to one seed.

    Args:
        keys: The coordinates, e.g. ``(seed, "network", 12)``. Strings name the purpose, so that different purposes do
            not share draws.

    Returns:
        An integer in [0, 2^63), suitable for ``torch.Generator.manual_seed``.
    """
    state = 0
    for key in keys:
        state = _mix_int(state ^ _as_int(key))
    return state >> 1


def bits(*keys: Key) -> Tensor:
    """Hash coordinates to numbers of 63 bits, elementwise over the tensors among them.

    Draws at different coordinates behave as if they were independent. The bits of a single draw do so only for the
    upper 31 bits, of which :func:`uniform` uses 24 and :func:`integers` all. A lower bit may correlate with the bit 31
    places above it, such as bit 5 with bit 36, since the last step of the hash combines the two. Sorting draws is safe,
    since upper bits decide first.

    Args:
        keys: Integers, strings and int64 tensors; the tensors broadcast against each other. At least one must be a
            tensor, and it determines the device.

    Returns:
        int64 tensor of the broadcast shape, uniform in [0, 2^63).
    """
    state: int | Tensor = 0
    for key in keys:
        if isinstance(key, Tensor):
            carried = _signed(state) if isinstance(state, int) else state
            state = _mix_tensor(key.to(torch.int64) ^ carried)
        elif isinstance(state, int):
            state = _mix_int(state ^ _as_int(key))
        else:
            state = _mix_tensor(state ^ _signed(_as_int(key)))
    if isinstance(state, int):
        raise TypeError("bits() needs at least one tensor among its keys; derive() hashes plain coordinates.")
    return _shift(state, 1)


def uniform(*keys: Key) -> Tensor:
    """Draw float32 numbers uniform in [0, 1), one per element of the broadcast keys (see :func:`bits`)."""
    return _shift(bits(*keys), 39).to(torch.float32) / (1 << 24)


def normal(count: int, *keys: Key, device: torch.device | str = "cpu") -> Tensor:
    """Draw independent float32 standard normal numbers, (count,).

    Pairs of uniform draws are turned into pairs of normal ones by the method of Box and Muller.

    Args:
        count: How many.
        keys: The coordinates of the whole draw, integers and strings.
        device: Where they are drawn. They differ between kinds of devices by rounding alone.
    """
    pairs = torch.arange((count + 1) // 2, device=device)
    radius = (-2 * torch.log1p(-uniform(*keys, "radius", pairs))).sqrt()
    angle = 2 * math.pi * uniform(*keys, "angle", pairs)
    return torch.cat([radius * angle.cos(), radius * angle.sin()])[:count]


def integers(high: int | Tensor, *keys: Key) -> Tensor:
    """Draw int64 numbers uniform in [0, high), one per element of the broadcast keys (see :func:`bits`).

    Args:
        high: Exclusive upper bound in [1, 2^31], an integer or an int64 tensor that broadcasts with the keys.
        keys: The coordinates.

    Returns:
        int64 tensor of the broadcast shape.
    """
    return (_shift(bits(*keys), 32) * high) >> 31


def permutation(n: int, *keys: int | str, device: torch.device | str = "cpu") -> Tensor:
    """Draw a permutation of 0..n-1 as an int64 tensor of shape (n,)."""
    return torch.argsort(bits(*keys, torch.arange(n, device=device)), stable=True)


@contextlib.contextmanager
def seeded(*keys: int | str, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's global generators for a block and restore them afterwards.

    This is for code that can draw only from a global generator: dropout, and the initial weights of modules. Modules
    are built on the CPU, so that their weights do not depend on the device to which they are moved.

    Args:
        keys: Coordinates of the draw: seed, purpose, iteration, network.
        device: Device on which the block draws; by default the CPU.
    """
    devices = [] if device is None or device.type == "cpu" else [device]
    with torch.random.fork_rng(devices=devices, device_type="cuda" if not devices else devices[0].type):
        if devices:
            torch.manual_seed(derive(*keys))
        else:  # torch.manual_seed would also seed the generators of other devices, which are not restored
            torch.default_generator.manual_seed(derive(*keys))
        yield
