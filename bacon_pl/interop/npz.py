"""Reading arrays from .npz files without unpickling, or allocating memory for sizes that a file only claims."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from bacon_pl.errors import BaconError

# Exceptions that zipfile and NumPy raise for damaged archives or headers.
_DAMAGE = (OSError, ValueError, LookupError, EOFError, struct.error, zlib.error, RuntimeError, zipfile.BadZipFile)
_KINDS = "fiub"
_MOST_BYTES = 1 << 24
_LONGEST_TEXT = 4 * 1000  # bytes, four for each character
_MOST_GROWTH = 64
"""An array may take this many times the size of its compressed file, or ``_MOST_BYTES`` if that is more. Images hardly
shrink when they are compressed."""


def names(path: Path) -> list[str]:
    """List the names of the arrays in a file, without the suffix ``.npy``.

    Raises:
        BaconError: The file is not an archive, or is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    except _DAMAGE as error:
        raise _damaged(path, error) from error


def read(path: Path, name: str) -> Tensor:
    """Read one array of numbers.

    Raises:
        BaconError: The file is damaged, or the array contains something other than numbers.
    """
    limit = max(_MOST_BYTES, _MOST_GROWTH * path.stat().st_size)
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            shape, fortran, dtype = _header(file)
            if dtype.kind not in _KINDS or dtype.itemsize > 8:
                raise BaconError(
                    f"'{name}' in '{path}' holds {dtype.name}, not plain numbers: save it with a type such as float32."
                )
            size = math.prod(shape) * dtype.itemsize
            if size > limit or any(side < 0 for side in shape):
                raise ValueError(f"'{name}' would take {size} bytes")
            data = file.read(size)
            if len(data) != size:
                raise ValueError(f"'{name}' is cut short")
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    values = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    return torch.from_numpy(np.array(values, dtype.newbyteorder("="), order="C"))


def read_text(path: Path, name: str) -> str:
    """Read one array that holds a single text.

    Raises:
        BaconError: The file is damaged, or the array contains something other than one text.
    """
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            shape, _, dtype = _header(file)
            if dtype.kind != "U" or shape != () or dtype.itemsize > _LONGEST_TEXT:
                raise BaconError(f"'{name}' in '{path}' is not one short text: remove it from the file.")
            data = file.read(dtype.itemsize)
            if len(data) != dtype.itemsize:
                raise ValueError(f"'{name}' is cut short")
            return str(np.frombuffer(data, dtype)[0]) if data else ""
    except _DAMAGE as error:
        raise _damaged(path, error) from error


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"npy version {version}")


def _damaged(path: Path, error: Exception) -> BaconError:
    reason = ascii(str(error))[1:-1][:120] or type(error).__name__
    return BaconError(f"'{path}' cannot be read as .npz (damaged or cut short: {reason}); fetch or make it again.")
