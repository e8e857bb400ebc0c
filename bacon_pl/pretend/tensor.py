"""Tensors that say they are on a GPU and are not: what is computed with them is computed on the CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

DEVICE = torch.device("cuda", 127)
"""The device that does not exist. No machine has so many, so nothing that is kept for it meets a real one's."""

Watcher = Callable[[str], None]
_watchers: list[Watcher] = []


def told(what: str) -> None:
    """Tell whoever is watching that a GPU would wait."""
    if _watchers:
        _watchers[-1](what)


class PretendTensor(Tensor):
    """A tensor that Python code sees on :data:`DEVICE`. Its numbers are in a plain tensor.

    To torch's own C++ code it is on the CPU, so autograd works; this code may choose what it would not on a GPU.
    """

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> PretendTensor:
        """Hold a plain tensor."""
        made: PretendTensor = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=held.device,
        )
        made.held = held
        return made

    def __init__(self, held: Tensor) -> None:
        pass

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Where it says it is."""
        return DEVICE

    def __repr__(self, *args: Any, **kwargs: Any) -> str:  # type: ignore[override]
        told("reads numbers to print them")
        return f"{self.held!r}, pretended to be on {DEVICE}"

    def __format__(self, spec: str) -> str:
        told("reads numbers to print them")
        return format(self.held, spec)

    def __deepcopy__(self, memo: dict[int, Any]) -> PretendTensor:
        if id(self) not in memo:
            made = PretendTensor(self.held.clone()).requires_grad_(self.requires_grad)
            made.__dict__.update({k: v for k, v in self.__dict__.items() if k != "held"})
            memo[id(self)] = made
        found: PretendTensor = memo[id(self)]
        return found

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation on the plain tensors, after a look at whether a GPU would wait for it."""
        kwargs = kwargs or {}
        hosts: list[Tensor] = []

        def plain(t: Tensor) -> Tensor:
            if isinstance(t, PretendTensor):
                return t.held
            hosts.append(t)
            return t

        inner = [_mapped(value, plain) for value in args]
        found = func(*inner, **{name: _mapped(value, plain) for name, value in kwargs.items()})
        if what := waits(func, args, kwargs, hosts):
            told(what)
        written = _written(func)
        if not any(written):
            return _mapped(found, PretendTensor)
        # An operation in place returns what it was given.
        given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
        if len(written) == 1:
            return given[written[0]]
        pairs = zip(written, found, strict=True)
        return tuple(given[name] if name else _mapped(part, PretendTensor) for name, part in pairs)


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Change the tensors in an argument or a result of an operation."""
    if isinstance(value, Tensor):
        return change(value)
    return type(value)(_mapped(part, change) for part in value) if type(value) in (list, tuple) else value


@functools.cache
def _written(func: Any) -> tuple[str, ...]:
    """For each result of an operation, the name of the argument that it writes and returns; else nothing."""
    names = {
        frozenset(a.alias_info.before_set): a.name
        for a in func._schema.arguments
        if a.alias_info is not None and a.alias_info.is_write
    }
    return tuple(
        names.get(frozenset(r.alias_info.before_set), "") if r.alias_info is not None and r.alias_info.is_write else ""
        for r in func._schema.returns
    )


# What waits.

_READS = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
_CHECKED = {"_linalg_check_errors", "_linalg_eigh", "_linalg_svd", "_linalg_slogdet", "linalg_eig", "linalg_lstsq"}
_INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
_TAKES_NUMBERS = {"fill", "fill_", "masked_fill", "masked_fill_", "index_fill", "index_fill_"}


def waits(func: Any, args: Sequence[Any], kwargs: dict[str, Any], hosts: Sequence[Tensor]) -> str | None:
    """Say why a GPU would wait for an operation, or refuse it; None if it would do neither.

    Args:
        func: The operation.
        args: Its arguments.
        kwargs: Its arguments by name.
        hosts: The tensors of the host among them.
    """
    name = func._schema.name.partition("::")[2]
    if name == "_local_scalar_dense":
        return "reads a number (item, float, int, bool, or an if about a tensor)"
    if name == "repeat_interleave" and kwargs.get("output_size") is not None:
        return None
    if name in _INDEXED:
        indices = [i for i in args[1] if isinstance(i, Tensor)]
        if any(not isinstance(i, PretendTensor) for i in indices):
            return "indexes with a tensor or list of the host"
        # A single number is filled in where the mask is True, without asking where that is.
        fills = "put" in name and args[2].numel() == 1 and not (len(args) > 3 and args[3])
        if any(i.dtype in (torch.bool, torch.uint8) for i in indices) and not fills:
            return "indexes with a mask, so that the shape depends on numbers (torch.where and masked_fill do not)"
    elif any(tag in func.tags for tag in _READS) or name in _CHECKED:
        return f"{name} reads numbers, on which the result's shape or an error depends"
    if not hosts:
        return None
    if name == "copy_":
        return None if isinstance(args[1], PretendTensor) else "copies numbers of the host to the device"
    pointwise = torch.Tag.pointwise in func.tags or name in _TAKES_NUMBERS or name in _INDEXED
    if pointwise and all(t.ndim == 0 for t in hosts):
        return None
    return f"{name} mixes tensors of the host and of the device, which a GPU refuses"
