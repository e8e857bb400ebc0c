"""A stand-in for CUDA graphs on a CPU: operations are recorded once and replayed in the same memory."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def _has_a_shape_by_numbers(func, args):
    if func is torch.ops.aten.index.Tensor:
        return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
    return torch.Tag.dynamic_output_shape in func.tags


class _Tape(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if torch.Tag.data_dependent_output in func.tags or _has_a_shape_by_numbers(func, args):
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        out = func(*args, **kwargs)
        self.operations.append((func, args, kwargs, out))
        return out


@torch.no_grad()
def _again(operations):
    for func, args, kwargs, out in operations:
        schema = func._schema
        if any(a.alias_info is not None and a.alias_info.is_write for a in schema.arguments):
            func(*args, **kwargs)  # it writes where it has written before
        elif all(r.alias_info is None for r in schema.returns):  # others are views, whose memory is that of another
            for old, new in zip(tree_leaves(out), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, torch.Tensor):
                    old.copy_(new)


def tape(function, static, fill):
    """Record what a CUDA graph would: operations on memory that stays, with numbers of the host as they are.

    As within a graph, a read of the device is an error.
    """
    function(*static)
    fill()
    with _Tape() as recording:
        outputs = function(*static)
    fill()

    def replay():
        _again(recording.operations)
        return outputs

    return replay
