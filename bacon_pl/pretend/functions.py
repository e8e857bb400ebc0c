"""Calls of torch that name a device, as they would be on a machine that has a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from bacon_pl.pretend.tensor import DEVICE, PretendTensor, told

_FROM_HOST = {torch.tensor, torch.as_tensor, torch.asarray, torch.scalar_tensor, torch.from_numpy}
# What is in the brackets or on the right is of the host, unless it is a tensor of the device.
_BRINGS_NUMBERS = {*_FROM_HOST, Tensor.__setitem__, Tensor.__getitem__, Tensor.new_tensor}
_TO_HOST = {Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.cpu}


class PretendFunctions(TorchFunctionMode):
    """Lets Python code make tensors on the pretend device, move them there and back, and ask where they are.

    Attributes:
        pinned: Told where a copy from pinned memory is made, for which nobody waits.
    """

    def __init__(self, pinned: Callable[[], None]) -> None:
        super().__init__()
        self.pinned = pinned
        self._pinned: dict[int, Any] = {}
        self.on_device = False
        """Whether the call that is answered is about tensors of the device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Answer a call."""
        before, self.on_device = self.on_device, func not in _BRINGS_NUMBERS and _any_on_device(args)
        try:
            return self._answer(func, args, dict(kwargs or {}))
        finally:
            self.on_device = before

    def _answer(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        name = getattr(func, "__name__", "")
        first: Any = args[0] if args else None
        if name == "__get__" and isinstance(first, Tensor):
            return _asked(func, first, args)
        if func in _TO_HOST and isinstance(first, PretendTensor):
            told(f"copies a tensor to the host ({name.strip('_')})")
            return func(_Down.apply(first), *args[1:], **kwargs)
        if func in (Tensor.to, Tensor.cuda):
            return self._moved(func, args, kwargs)
        if func is Tensor.pin_memory:
            copy = first.clone()
            self._pinned[copy.untyped_storage().data_ptr()] = copy
            return copy
        if func is Tensor.is_pinned:
            return self._is_pinned(first)
        if name == "one_hot" and isinstance(first, PretendTensor):
            return _one_hot(*args, **kwargs)
        if func is Tensor.new_tensor and isinstance(first, PretendTensor):
            told("makes a tensor of numbers of the host (new_tensor)")
            return _Up.apply(func(first.held, *args[1:], **kwargs))
        if kwargs.get("device") is not None:
            return _made(func, args, kwargs)
        return func(*args, **kwargs)

    def _moved(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Tensor.to and Tensor.cuda."""
        x, *rest = args
        device = kwargs.pop("device", None)
        if func is Tensor.cuda:
            device, rest = DEVICE, []
        if (other := kwargs.pop("other", None)) is not None:
            rest.insert(0, other)
        if rest and isinstance(rest[0], Tensor):
            device, rest[0] = ("cuda" if on_device(rest[0]) else "cpu"), rest[0].dtype
        elif rest and (rest[0] is None or isinstance(rest[0], (str, torch.device, int))):
            device = rest.pop(0)
        # What is left: dtype, non_blocking, copy.
        dtype = rest.pop(0) if rest and not isinstance(rest[0], bool) else kwargs.pop("dtype", None)
        blocking = not (rest.pop(0) if rest else kwargs.pop("non_blocking", False))
        copy = rest.pop(0) if rest else kwargs.pop("copy", False)
        there, goes = on_device(x), device is not None and _is_cuda(device)
        same = device is None or goes == there
        out = x if dtype is None and not copy and not kwargs else Tensor.to(x, dtype or x.dtype, copy=copy, **kwargs)
        if same:
            return out
        if not goes:
            told("copies a tensor to the host (to)")
            return _Down.apply(out)
        if not blocking and self._is_pinned(x):
            self.pinned()
        else:
            told("copies a tensor of the host to the device (to)")
        return _Up.apply(out)

    def _is_pinned(self, x: Tensor) -> bool:
        return not on_device(x) and x.untyped_storage().data_ptr() in self._pinned


class PretendFactories(TorchDispatchMode):
    """Puts tensors on the pretend device that torch's C++ code makes for tensors there, as in second derivatives.

    Args:
        functions: Knows what a call is about.
    """

    def __init__(self, functions: PretendFunctions) -> None:
        super().__init__()
        self.functions = functions

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and asking costs more than an operation

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation."""
        found = func(*args, **(kwargs or {}))
        if self.functions.on_device and type(found) is Tensor and not types and not _any_tensor(args):
            return PretendTensor(found)
        return found


def _any_tensor(values: Any) -> bool:
    return any(isinstance(v, Tensor) or (type(v) in (list, tuple) and _any_tensor(v)) for v in values)


def _any_on_device(values: Any) -> bool:
    return any(_any_on_device(v) if type(v) in (list, tuple) else on_device(v) for v in values)


def on_device(x: Any) -> bool:
    """Whether a tensor is on the pretend device, inside function transforms such as vmap, too."""
    while isinstance(x, Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return isinstance(x, PretendTensor)


def _is_cuda(device: Any) -> bool:
    return isinstance(device, int) or torch.device(device).type == "cuda"


def _asked(func: Any, x: Tensor, args: Any) -> Any:
    """Attributes of a tensor."""
    if on_device(x):
        attribute = getattr(getattr(func, "__self__", None), "__name__", "")
        if attribute == "device":
            return DEVICE
        if attribute in ("is_cuda", "is_cpu"):
            return attribute == "is_cuda"
    return func(*args)


def _made(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Calls with an argument ``device``, nearly all of which make a tensor."""
    goes = _is_cuda(kwargs["device"])
    if not goes:  # what is made like a tensor of the device, on the host
        args = tree_map(lambda t: t.held if isinstance(t, PretendTensor) else t, args)
        return func(*args, **kwargs)
    del kwargs["device"]
    if isinstance(kwargs.get("generator"), torch.Generator):
        kwargs.pop("generator")
    needs = kwargs.pop("requires_grad", False)
    if func in _FROM_HOST:
        if args and isinstance(args[0], PretendTensor):
            return func(*args, **kwargs)
        told(f"makes a tensor of numbers of the host ({func.__name__})")
    found = func(*args, **kwargs)
    if isinstance(found, Tensor) and not on_device(found):
        found = _Up.apply(found)
    return found.requires_grad_() if needs else found


def _one_hot(labels: Tensor, num_classes: int = -1) -> Tensor:
    """One-hot encoding as on a GPU, where it does not look at the labels if it is told their number."""
    if num_classes < 0:
        told("reads the largest label (one_hot without num_classes)")
        num_classes = int(labels.held.max()) + 1  # type: ignore[attr-defined]
    return labels.new_zeros(*labels.shape, num_classes).scatter_(-1, labels.unsqueeze(-1), 1)


class _Up(torch.autograd.Function):
    """A copy to the pretend device."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return PretendTensor(x.detach().clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.held.clone() if isinstance(gradient, PretendTensor) else gradient


class _Down(torch.autograd.Function):
    """A copy to the host."""

    @staticmethod
    def forward(ctx: Any, x: PretendTensor) -> Tensor:
        return x.held.detach().clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return PretendTensor(gradient.clone())
