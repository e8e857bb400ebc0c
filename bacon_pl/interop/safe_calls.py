"""Safe replacements for the calls in pickles of tensors: they record where the numbers are, without calling functions.

:mod:`bacon_pl.interop.safe_unpickler` interprets the pickle that contains the calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from bacon_pl.interop.safe_unpickler import SafeUnpickler

STORAGES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.storage.UntypedStorage": torch.uint8,
}
_NUMPY_CODES = frozenset(("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"))
_MOST_DIMENSIONS = 16


class RefusedError(Exception):
    """A pickle requests an operation that is not allowed."""


@dataclass
class Storage:
    """A contiguous block of numbers of one type, still in the file."""

    dtype: torch.dtype
    numel: int
    read: Callable[[], bytes] | None = None

    @property
    def nbytes(self) -> int:
        """Size in the file in bytes."""
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True)
class Stored:
    """A tensor or array that has not been read yet.

    Attributes:
        shape: Shape according to the file, which has been checked against the amount of stored numbers.
        tensor: Function that reads the tensor.
    """

    shape: tuple[int, ...]
    tensor: Callable[[], Tensor]


@dataclass(frozen=True)
class Name:
    """A name to which a pickle refers."""

    full: str


@dataclass
class Dtype:
    """A NumPy type, whose byte order is set later in the pickle."""

    code: str
    order: str = "<"

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type as a NumPy object."""
        return np.dtype(self.order + self.code)


@dataclass
class Array:
    """A NumPy array, whose content is set later in the pickle."""

    content: Stored | None = None


def _whole_numbers(values: Any) -> tuple[int, ...]:
    if not isinstance(values, tuple) or len(values) > _MOST_DIMENSIONS:
        raise ValueError("a shape that is none")
    if not all(type(v) is int and v >= 0 for v in values):
        raise ValueError("a shape that is none")
    return values


def _rebuild_tensor(m: SafeUnpickler, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Stored:
    if not isinstance(storage, Storage):
        raise TypeError("a tensor without numbers")
    shape, steps = _whole_numbers(size), _whole_numbers(stride)
    (start,) = _whole_numbers((offset,))
    if len(shape) != len(steps):
        raise ValueError("a shape and strides that do not fit")
    # With strides of 0, a tensor could repeat its numbers and have any size.
    numel = math.prod(shape)
    last = start + sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
    if numel > storage.numel or (numel and last >= storage.numel):
        raise ValueError("a tensor larger than its numbers")

    def read() -> Tensor:
        if not numel:
            return torch.empty(shape, dtype=storage.dtype)
        data = storage.read() if storage.read else b""
        if len(data) != storage.nbytes:
            raise ValueError("a tensor cut short")
        return torch.frombuffer(bytearray(data), dtype=storage.dtype).as_strided(shape, steps, start)

    return Stored(shape, read)


def _rebuild_parameter(m: SafeUnpickler, data: Any, *rest: Any) -> Any:
    return data


def _load_from_bytes(m: SafeUnpickler, data: Any) -> Any:
    if m.load_bytes is None or not isinstance(data, bytes):
        raise RefusedError("torch.storage._load_from_bytes within itself")
    m.spend(len(data))
    return m.load_bytes(data)


def array_of(shape: Any, dtype: Any, data: Any, order: Any) -> Stored:
    """Record an array of plain numbers whose bytes have been read.

    Args:
        shape: Shape according to the pickle.
        dtype: Type of the numbers.
        data: Bytes of the numbers.
        order: Memory order, ``"C"`` or ``"F"``.

    Returns:
        The array, to be converted later.

    Raises:
        RefusedError: The array is not one of plain numbers.
        ValueError: The shape does not match the content.
    """
    if not isinstance(dtype, Dtype) or not isinstance(data, bytes | bytearray) or order not in ("C", "F"):
        raise RefusedError("a numpy array of objects")
    size, kind = _whole_numbers(shape), dtype.dtype
    if math.prod(size) * kind.itemsize != len(data):
        raise ValueError("an array whose shape and content differ")

    def read() -> Tensor:
        values = np.frombuffer(data, kind).reshape(size, order=order)
        return torch.from_numpy(np.array(values, kind.newbyteorder("="), order="C"))

    return Stored(size, read)


def _reconstruct(m: SafeUnpickler, kind: Any, *rest: Any) -> Array:
    if kind != Name("numpy.ndarray"):
        raise RefusedError("a numpy array of another class")
    return Array()


def _from_buffer(m: SafeUnpickler, data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> Stored:
    if axes is not None:
        raise RefusedError("a numpy array of permuted axes")
    return array_of(shape, dtype, data, order)


def _dtype(m: SafeUnpickler, code: Any, *rest: Any) -> Dtype:
    if not isinstance(code, str) or code not in _NUMPY_CODES:
        raise RefusedError(f"numpy.dtype {code if isinstance(code, str) else ''}".strip())
    return Dtype(code)


def _scalar(m: SafeUnpickler, dtype: Any, data: Any) -> Any:
    return array_of((), dtype, data, "C").tensor().item()


def _encode(m: SafeUnpickler, text: Any, codec: Any) -> bytes:
    """Decode bytes as written by pickle protocols without an instruction for bytes."""
    if not isinstance(text, str) or codec != "latin1":
        raise RefusedError("_codecs.encode")
    m.spend(len(text))
    return text.encode("latin1")


CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda m: {},
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch.storage._load_from_bytes": _load_from_bytes,
    "numpy._core.multiarray._reconstruct": _reconstruct,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy._core.numeric._frombuffer": _from_buffer,
    "numpy.dtype": _dtype,
    "_codecs.encode": _encode,
    "builtins.bytes": lambda m: b"",
}
