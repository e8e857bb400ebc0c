"""A safe interpreter for pickles of tensors: no name in a file is ever imported or called.

A pickle is a program. This interpreter supports containers, numbers, text and bytes; for tensors and arrays, it records
where their numbers are in the file. Any other instruction ends the reading with an error. Memory is never allocated for
sizes that a file only claims, and values that may be nested are never hashed, compared or printed.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

from bacon_pl.interop.safe_calls import CALLS, STORAGES, Array, Dtype, Name, RefusedError, Storage, array_of

_MOST_OPERATIONS = 300_000
"""Maximum number of instructions in one pickle. A set needs only a few for every tensor and every recorded accuracy."""


class File(Protocol):
    """The input of the interpreter: bytes in memory or a memory-mapped file."""

    def read(self, size: int = ..., /) -> bytes:
        """Read up to ``size`` bytes."""

    def readline(self) -> bytes:
        """Read up to the next line break."""

    def seek(self, position: int, /) -> object:
        """Go to a position."""

    def tell(self) -> int:
        """Return the position."""


@dataclass
class SafeUnpickler:
    """Interprets one pickle and leaves the file at the position where it ends.

    Attributes:
        file: File positioned at the start of the pickle.
        storage: Function that finds the storage for a persistent id.
        allowance: Number of bytes that may be created in addition to those read, in a list that is shared by all
            pickles of a file.
        load_bytes: Function that reads the bytes of a torch.save within this pickle; None in such a nested pickle.
        stack: Stack of the interpreter.
        marks: Positions of marks on the stack.
        memo: Memorized values by number.
    """

    file: File
    storage: Callable[[Sequence[Any]], Storage]
    allowance: list[int]
    load_bytes: Callable[[bytes], Any] | None = None
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self) -> Any:
        """Return the result of the pickle: containers, plain values and :class:`Stored` tensors."""
        for count, (opcode, argument, _) in enumerate(pickletools.genops(self.file)):  # type: ignore[arg-type]
            if count == _MOST_OPERATIONS:
                raise ValueError("a program that does not end")
            if opcode.name in _LITERALS:
                self.stack.append(argument)
            else:
                _OPERATIONS.get(opcode.name, _unknown(opcode.name))(self, argument)
        return _finished(self.stack[-1])

    def pop_mark(self) -> list[Any]:
        """Remove and return everything that was put on the stack since the last mark."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def spend(self, size: int) -> None:
        """Deduct bytes that are created from other bytes from the allowance."""
        self.allowance[0] -= size
        if self.allowance[0] < 0:
            raise ValueError("its content would outgrow the file")

    def set_items(self, items: Sequence[Any]) -> None:
        """Put alternating keys and values into the dict on top of the stack."""
        target = self.stack[-1]
        if type(target) is not dict:
            raise TypeError("items for what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # No nested keys, since hashing them would recurse to any depth that the file specifies.
            if type(key) not in (str, int, float, bool):
                raise TypeError(f"a dict's key of type {type(key).__name__}")
            target[key] = value

    def extend(self, items: Sequence[Any]) -> None:
        """Append items to the list on top of the stack."""
        if type(self.stack[-1]) is not list:
            raise TypeError("items for what is no list")
        self.stack[-1].extend(items)

    def name(self, full: str) -> None:
        """Put a name on the stack as text, without importing it."""
        full = full.replace("numpy.core.", "numpy._core.").replace("__builtin__.", "builtins.")
        if full not in STORAGES and full not in CALLS and full != "numpy.ndarray":
            raise RefusedError(full)
        self.stack.append(Name(full))

    def reduce(self) -> None:
        """Replace a call by its safe equivalent."""
        arguments, called = self.stack.pop(), self.stack.pop()
        if not isinstance(called, Name) or called.full not in CALLS:
            raise RefusedError(called.full if isinstance(called, Name) else "an object")
        if type(arguments) is not tuple:
            raise TypeError("a call without arguments")
        self.stack.append(CALLS[called.full](self, *map(_finished, arguments)))

    def build(self) -> None:
        """Set the content of an array, or the byte order of a type."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Dtype):
            _, order, *fields = state
            if order not in ("<", ">", "|", "=") or any(f is not None for f in fields[:3]) or len(fields) != 6:
                raise RefusedError("numpy.dtype of structures")
            target.order = "<" if order in ("|", "=") else order
        elif isinstance(target, Array):
            _, shape, dtype, fortran, data = state
            target.content = array_of(shape, dtype, data, "F" if fortran else "C")
        else:
            raise RefusedError("__setstate__ of an object")


def _finished(value: Any) -> Any:
    if isinstance(value, Array):
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
