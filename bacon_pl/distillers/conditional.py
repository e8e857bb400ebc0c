"""A step that is taken or not, which the device decides without being asked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


@contextlib.contextmanager
def taken_if(wanted: Tensor | None, optimizers: Sequence[torch.optim.SGD], others: Sequence[Tensor]) -> Iterator[None]:
    """Put back what a block has changed unless a number on the device says otherwise. A GPU does not wait for it.

    Args:
        wanted: Whether the changes stay, 0-d, bool; None keeps them.
        optimizers: Their parameters and momentum are put back. Momentum that is not there yet becomes zeros, as which
            torch counts it.
        others: What else is put back.
    """
    changed = list(others) if wanted is not None else []
    if wanted is not None:
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                changed += group["params"]
                for p in group["params"] if group["momentum"] else ():
                    if optimizer.state[p].get("momentum_buffer") is None:
                        optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
                    changed.append(optimizer.state[p]["momentum_buffer"])
    before = [t.detach().clone() for t in changed]
    yield
    if wanted is not None:
        with torch.no_grad():
            for t, old in zip(changed, before, strict=True):
                t.copy_(torch.where(wanted, t, old))
