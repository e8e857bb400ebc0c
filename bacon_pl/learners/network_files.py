"""Files that hold a network's state: written whole, checked when they are read. Nothing in them runs."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from bacon_pl.errors import BaconError, one_line
from bacon_pl.runtime import replacing

Shapes = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and type of each tensor by name."""

_KEY = "bacon_pl"


class DamagedError(ValueError):
    """A file that does not hold what it should."""


def shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and type of each tensor."""
    return {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}


def stored(expected: Shapes, storage: str) -> Shapes:
    """Shapes and types as they are in a file whose floating-point numbers have the type of a name."""
    kind: torch.dtype = getattr(torch, storage)
    return {name: (shape, kind if dtype.is_floating_point else dtype) for name, (shape, dtype) in expected.items()}


def write(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write a file in one piece, with a checksum.

    Args:
        path: Where; its folder is there.
        tensors: By name, anywhere.
        facts: What they are, as JSON values.

    Raises:
        OSError: It cannot be written.
    """
    held = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    with replacing(path) as file:
        file.write(save(held, metadata={_KEY: json.dumps({**facts, "checksum": checksum(held)})}))


def read(path: Path, facts: Mapping[str, Any], expected: Shapes | None = None) -> dict[str, Tensor]:
    """Read a file and check all of it.

    Args:
        path: The file.
        facts: What it has to say of itself.
        expected: What it has to hold, if that is known.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        DamagedError: It is damaged, or holds something else; says what.
    """
    try:
        with safe_open(path, framework="pt") as file:
            told = json.loads((file.metadata() or {})[_KEY])
            names = file.keys()  # the file is no mapping: it cannot be iterated over itself
            # Copies: what is mapped from the file would change, or be gone, if somebody wrote over it.
            tensors = {name: file.get_tensor(name).clone() for name in names}
        said = told["checksum"]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(str(error) or type(error).__name__) from error
    if wrong := [name for name, value in facts.items() if told.get(name) != value]:
        raise DamagedError(f"its {wrong[0]} is {told.get(wrong[0])}, not {facts[wrong[0]]}")
    if said != checksum(tensors):
        raise DamagedError("its checksum does not match")
    if expected is not None and shapes(tensors) != dict(expected):
        raise DamagedError("it holds a network of another architecture")
    return tensors


def fact(path: Path, name: str) -> Any:
    """What a file says of itself under a name, unchecked; None if it says nothing, or there is no such file."""
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {})[_KEY]).get(name)
    except (OSError, SafetensorError, ValueError, KeyError, AttributeError):
        return None


def digest_of(path: str) -> str:
    """Return a hash of somebody else's file of a network.

    Raises:
        BaconError: It cannot be read.
    """
    try:
        return blake2b(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise BaconError(
            f"the teacher '{one_line(path, 200)}' cannot be read ({error.strerror}): give the file of a state dict "
            "that safetensors.torch.save_file has written."
        ) from error


def read_plain(path: str, expected: Shapes) -> dict[str, Tensor]:
    """Read a network's state from a safetensors file of somebody else, as float32 numbers.

    Args:
        path: The file.
        expected: What it has to hold; types of floating-point numbers may differ.

    Raises:
        BaconError: There is no such file, it is damaged, or it holds something else; says what.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError, ValueError) as error:
        raise BaconError(
            f"the teacher '{one_line(path, 200)}' cannot be read as a safetensors file ({one_line(error, 200)}): give "
            "the file of a state dict that safetensors.torch.save_file has written."
        ) from error
    wrong = [f"it lacks {name}" for name in expected if name not in tensors]
    wrong += [f"it has {one_line(name, 80)}, which the network has not" for name in tensors if name not in expected]
    for name, (shape, dtype) in expected.items():
        if (t := tensors.get(name)) is None:
            continue
        if tuple(t.shape) != shape:
            wrong.append(f"its {name} is {tuple(t.shape)}, not {shape}")
        elif t.is_floating_point() != dtype.is_floating_point:
            wrong.append(f"its {name} holds {t.dtype}, not {dtype}")
        elif t.is_floating_point() and not t.isfinite().all():
            wrong.append(f"its {name} is not finite")
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise BaconError(
            f"the teacher '{path}' is not of the architecture that it is given for: {wrong[0]}{more}; give its own as "
            "the teacher's network, with its options."
        )
    return {name: t.to(expected[name][1]) for name, t in tensors.items()}


def checksum(tensors: Mapping[str, Tensor]) -> int:
    """CRC-32 of tensors and their names."""
    total = 0
    for name in sorted(tensors):
        values = tensors[name].contiguous().reshape(-1).view(torch.uint8)  # bytes, whatever the type
        total = zlib.crc32(values.numpy().data, zlib.crc32(name.encode(), total))
    return total
