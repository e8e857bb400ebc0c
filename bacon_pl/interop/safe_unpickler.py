"""A machine that runs pickles of tensors without running them: no name that a file gives is imported or called.

A pickle is a program. This machine knows containers, numbers, text and bytes, and for tensors and arrays it notes where
their numbers lie. Whatever else a program asks for ends the reading. Nothing is allocated on a header's word, and
nothing is hashed, compared or shown that may be nested.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

import numpy as np
import torch
from torch import Tensor

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

_MOST_OPERATIONS = 300_000
"""Instructions in one program. A set's takes a few for every tensor and every noted accuracy."""
_MOST_DIMENSIONS = 16


class File(Protocol):
    """What the machine reads from: bytes in memory or a mapped file."""

    def read(self, size: int = ..., /) -> bytes:
        """Read up to ``size`` bytes."""

    def readline(self) -> bytes:
        """Read up to the next line break."""

    def seek(self, position: int, /) -> object:
        """Go to a position."""

    def tell(self) -> int:
        """Tell the position."""


class RefusedError(Exception):
    """A program asks for what is not allowed."""


@dataclass
class Storage:
    """Numbers of one type in a row, still in the file."""

    dtype: torch.dtype
    numel: int
    read: Callable[[], bytes] | None = None

    @property
    def nbytes(self) -> int:
        """Size in the file."""
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True)
class Stored:
    """A tensor or array that has not been read yet.

    Attributes:
        shape: Its shape, as the file says; it holds as many numbers in truth.
        tensor: Reads it.
    """

    shape: tuple[int, ...]
    tensor: Callable[[], Tensor]


@dataclass(frozen=True)
class Name:
    """A name that a program refers to."""

    full: str


@dataclass
class _Dtype:
    """A numpy type, whose byte order follows later."""

    code: str
    order: str = "<"

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.code)


@dataclass
class _Array:
    """A numpy array, whose content follows later."""

    content: Stored | None = None


@dataclass
class SafeUnpickler:
    """Runs one pickle and leaves the file where it ends.

    Attributes:
        file: Where the program stands.
        storage: Finds what a persistent id means.
        allowance: Bytes that may be made beyond those read; shared by a file's programs.
        load_bytes: Reads the bytes of a torch.save within this program; None where this program is such a one.
    """

    file: File
    storage: Callable[[Sequence[Any]], Storage]
    allowance: list[int]
    load_bytes: Callable[[bytes], Any] | None = None
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self) -> Any:
        """Return what the program makes: containers, plain values and :class:`Stored` ones."""
        for count, (opcode, argument, _) in enumerate(pickletools.genops(self.file)):  # type: ignore[arg-type]
            if count == _MOST_OPERATIONS:
                raise ValueError("a program that does not end")
            if opcode.name in _LITERALS:
                self.stack.append(argument)
            else:
                _OPERATIONS.get(opcode.name, _unknown(opcode.name))(self, argument)
        return _finished(self.stack[-1])

    def pop_mark(self) -> list[Any]:
        """Take off all that was put on the stack since the last mark."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def spend(self, size: int) -> None:
        """Account for bytes made out of others."""
        self.allowance[0] -= size
        if self.allowance[0] < 0:
            raise ValueError("its content would outgrow the file")

    def set_items(self, items: Sequence[Any]) -> None:
        """Put keys and values, in turns, into the dict on top of the stack."""
        target = self.stack[-1]
        if type(target) is not dict:
            raise TypeError("items for what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Nothing nested: hashing it would go as deep as the file likes.
            if type(key) not in (str, int, float, bool):
                raise TypeError(f"a dict's key of type {type(key).__name__}")
            target[key] = value

    def extend(self, items: Sequence[Any]) -> None:
        """Append items to the list on top of the stack."""
        if type(self.stack[-1]) is not list:
            raise TypeError("items for what is no list")
        self.stack[-1].extend(items)

    def name(self, full: str) -> None:
        """Put a name on the stack, as a mere text."""
        full = full.replace("numpy.core.", "numpy._core.").replace("__builtin__.", "builtins.")
        if full not in STORAGES and full not in _CALLS and full != "numpy.ndarray":
            raise RefusedError(full)
        self.stack.append(Name(full))

    def reduce(self) -> None:
        """Make what a call stands for."""
        arguments, called = self.stack.pop(), self.stack.pop()
        if not isinstance(called, Name) or called.full not in _CALLS:
            raise RefusedError(called.full if isinstance(called, Name) else "an object")
        if type(arguments) is not tuple:
            raise TypeError("a call without arguments")
        self.stack.append(_CALLS[called.full](self, *map(_finished, arguments)))

    def build(self) -> None:
        """Fill in an array or its type."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _Dtype):
            _, order, *fields = state
            if order not in ("<", ">", "|", "=") or any(f is not None for f in fields[:3]) or len(fields) != 6:
                raise RefusedError("numpy.dtype of structures")
            target.order = "<" if order in ("|", "=") else order
        elif isinstance(target, _Array):
            _, shape, dtype, fortran, data = state
            target.content = _array(shape, dtype, data, "F" if fortran else "C")
        else:
            raise RefusedError("__setstate__ of an object")


def _finished(value: Any) -> Any:
    if isinstance(value, _Array):
        if value.content is None:
            raise ValueError("an array without content")
        return value.content
    return value


def _unknown(opcode: str) -> Callable[[SafeUnpickler, Any], NoReturn]:
    def refuse(machine: SafeUnpickler, argument: Any) -> NoReturn:
        raise RefusedError(f"the instruction {opcode}")

    return refuse


def _pop_one(m: SafeUnpickler, _: Any) -> None:
    m.stack.pop()


def _drop_mark(m: SafeUnpickler, _: Any) -> None:
    m.pop_mark()


def _put(m: SafeUnpickler, key: int | None) -> None:
    m.memo[len(m.memo) if key is None else key] = m.stack[-1]


def _tuple(count: int) -> Callable[[SafeUnpickler, Any], None]:
    def make(m: SafeUnpickler, _: Any) -> None:
        if len(m.stack) < count:
            raise IndexError("nothing on the stack")
        items = tuple(map(_finished, m.stack[-count:]))
        del m.stack[-count:]
        m.stack.append(items)

    return make


def _dict(m: SafeUnpickler, _: Any) -> None:
    items = m.pop_mark()
    m.stack.append({})
    m.set_items(list(map(_finished, items)))


def _append(m: SafeUnpickler, _: Any) -> None:
    item = m.stack.pop()
    m.extend([_finished(item)])


def _set_item(m: SafeUnpickler, _: Any) -> None:
    value, key = m.stack.pop(), m.stack.pop()
    m.set_items([key, _finished(value)])


def _stack_global(m: SafeUnpickler, _: Any) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    m.name(f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else "an object")


_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
_BYTES = ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "STRING", "BINSTRING", "SHORT_BINSTRING")
_TEXTS = ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
_LITERALS = frozenset((*_NUMBERS, *_BYTES, *_TEXTS))
_OPERATIONS: dict[str, Callable[[SafeUnpickler, Any], None]] = {
    "PROTO": lambda m, _: None,
    "FRAME": lambda m, _: None,
    "STOP": lambda m, _: None,
    "NONE": lambda m, _: m.stack.append(None),
    "NEWTRUE": lambda m, _: m.stack.append(True),
    "NEWFALSE": lambda m, _: m.stack.append(False),
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "POP": _pop_one,
    "POP_MARK": _drop_mark,
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "PUT": _put,
    "BINPUT": _put,
    "LONG_BINPUT": _put,
    "MEMOIZE": _put,
    "GET": lambda m, key: m.stack.append(m.memo[key]),
    "BINGET": lambda m, key: m.stack.append(m.memo[key]),
    "LONG_BINGET": lambda m, key: m.stack.append(m.memo[key]),
    "EMPTY_LIST": lambda m, _: m.stack.append([]),
    "EMPTY_TUPLE": lambda m, _: m.stack.append(()),
    "EMPTY_DICT": lambda m, _: m.stack.append({}),
    "LIST": lambda m, _: m.stack.append(list(map(_finished, m.pop_mark()))),
    "TUPLE": lambda m, _: m.stack.append(tuple(map(_finished, m.pop_mark()))),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "DICT": _dict,
    "APPEND": _append,
    "APPENDS": lambda m, _: m.extend(list(map(_finished, m.pop_mark()))),
    "SETITEM": _set_item,
    "SETITEMS": lambda m, _: m.set_items(list(map(_finished, m.pop_mark()))),
    "GLOBAL": lambda m, names: m.name(names.replace(" ", ".", 1)),
    "STACK_GLOBAL": _stack_global,
    "REDUCE": lambda m, _: m.reduce(),
    "BUILD": lambda m, _: m.build(),
    "BINPERSID": lambda m, _: m.stack.append(m.storage(m.stack.pop())),
}


# ---- what calls stand for


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
    # A tensor that repeats its numbers by strides of 0 could be of any size.
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


def _array(shape: Any, dtype: Any, data: Any, order: Any) -> Stored:
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray) or order not in ("C", "F"):
        raise RefusedError("a numpy array of objects")
    size, kind = _whole_numbers(shape), dtype.dtype
    if math.prod(size) * kind.itemsize != len(data):
        raise ValueError("an array whose shape and content differ")

    def read() -> Tensor:
        values = np.frombuffer(data, kind).reshape(size, order=order)
        return torch.from_numpy(np.array(values, kind.newbyteorder("="), order="C"))

    return Stored(size, read)


def _reconstruct(m: SafeUnpickler, kind: Any, *rest: Any) -> _Array:
    if kind != Name("numpy.ndarray"):
        raise RefusedError("a numpy array of another class")
    return _Array()


def _from_buffer(m: SafeUnpickler, data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> Stored:
    if axes is not None:
        raise RefusedError("a numpy array of permuted axes")
    return _array(shape, dtype, data, order)


def _dtype(m: SafeUnpickler, code: Any, *rest: Any) -> _Dtype:
    if not isinstance(code, str) or code not in _NUMPY_CODES:
        raise RefusedError(f"numpy.dtype {code if isinstance(code, str) else ''}".strip())
    return _Dtype(code)


def _scalar(m: SafeUnpickler, dtype: Any, data: Any) -> Any:
    return _array((), dtype, data, "C").tensor().item()


def _encode(m: SafeUnpickler, text: Any, codec: Any) -> bytes:
    """How bytes are written by protocols that have none."""
    if not isinstance(text, str) or codec != "latin1":
        raise RefusedError("_codecs.encode")
    m.spend(len(text))
    return text.encode("latin1")


_CALLS: dict[str, Callable[..., Any]] = {
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
