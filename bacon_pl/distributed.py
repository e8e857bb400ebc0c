"""Division of the work of one iteration among processes, and communication of the results.

Work is distributed in whole pieces (a block of classes, a network), so that the result of a piece has the same bits on
every process. Results are combined without rounding: every process fills in its part of a tensor of zeros, and adding
zero is exact. The averages of data-parallel wrappers would round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import IO, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from bacon_pl.runtime import lock

T = TypeVar("T")


def shard(pieces: Sequence[T], rank: int, world_size: int) -> Sequence[T]:
    """Return the pieces of one process; piece i belongs to process i % world_size."""
    return pieces[rank::world_size]


def all_reduce_sum(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over all processes, with a single message."""
    if not _alone():
        message = torch.cat([t.reshape(-1) for t in tensors])
        dist.all_reduce(message)
        _unpack(message, tensors)


def broadcast(tensors: Sequence[Tensor], rank: int) -> None:
    """Replace each tensor by that of process ``rank``, with a single message."""
    if not _alone():
        message = torch.cat([t.reshape(-1) for t in tensors])
        dist.broadcast(message, src=rank)
        _unpack(message, tensors)


def _alone() -> bool:
    return not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1


def _unpack(message: Tensor, tensors: Sequence[Tensor]) -> None:
    parts = message.split([t.numel() for t in tensors])
    for t, part in zip(tensors, parts, strict=True):
        t.copy_(part.view(t.shape))


def own_share(pieces: int) -> range:
    """Return the indices of the pieces of work of this process; all of them if it is the only one."""
    if not (dist.is_available() and dist.is_initialized()):
        return range(pieces)
    share = shard(range(pieces), dist.get_rank(), dist.get_world_size())
    assert isinstance(share, range)
    return share


def process_rank() -> int:
    """Number of this process; 0 where it is the only one."""
    return 0 if _alone() else dist.get_rank()


def world_size() -> int:
    """How many processes there are."""
    return 1 if _alone() else dist.get_world_size()


def gather_objects(value: T) -> list[T]:
    """Small plain values of all processes, in the order of their numbers; all of them call this together."""
    if _alone():
        return [value]
    found: list[T] = [value] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def together(action: Callable[[], object]) -> None:
    """Do something with files; if it fails on one process, all of them raise, for none must wait for the others.

    Raises:
        OSError: It failed somewhere.
    """
    failed = None
    try:
        action()
    except OSError as error:
        failed = str(error) or type(error).__name__
    if reasons := [reason for reason in gather_objects(failed) if reason]:
        raise OSError(reasons[0])


def wait_for_lock(file: IO[Any], of: str) -> None:
    """Wait until the first process has locked an open file against other runs; all processes call this together.

    Args:
        file: The file. The lock ends when it is closed.
        of: Who may have the lock, for a message.
    """
    from lightning.pytorch.utilities.rank_zero import rank_zero_info  # takes a while; not all who come here need it

    waiting = False
    # Asked again and again, for a process that waited for long would make the others give up.
    while not gather_objects(process_rank() > 0 or lock(file))[0]:
        if not waiting:
            rank_zero_info(f"Waiting for {of}.")
        waiting = True
        time.sleep(0.2)


def first_then_others(action: Callable[[], object]) -> None:
    """Do something with files that processes may share: the first process does it, and then all others.

    Raises:
        OSError: It failed somewhere.
    """
    for first in (True, False):
        together(action if first == (process_rank() == 0) else lambda: None)
