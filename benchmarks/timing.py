"""Clocks: of a device, of the parts of an iteration, and of memory."""

from __future__ import annotations

import contextlib
import functools
import resource
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch


def now(device: torch.device) -> float:
    """Seconds of a running clock, once the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def best_of(call: Callable[[], Any], device: torch.device, repeats: int = 7) -> float:
    """Shortest time of several calls, after one that is not counted."""
    call()
    times = []
    for _ in range(repeats):
        start = now(device)
        call()
        times.append(now(device) - start)
    return min(times)


def median_ratio(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    """How many times longer ``slow`` takes, round by round: neighbors in time share the machine's mood."""
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    return {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}


class Parts:
    """Splits the time of a call into parts; time in a part within a part counts for the inner one alone.

    Off, it costs a function call; on, every border of a part waits for the device, which slows what it measures.

    Args:
        device: Whose work is waited for.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.on = False
        self.seconds: dict[str, float] = defaultdict(float)
        self._stack: list[str] = []
        self._since = 0.0

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count a block as part ``name``."""
        self._switch()
        self._stack.append(name)
        try:
            yield
        finally:
            self._switch()
            self._stack.pop()

    def _switch(self) -> None:
        time_ = now(self.device)
        if self._stack:
            self.seconds[self._stack[-1]] += time_ - self._since
        self._since = time_

    def watch(self, owner: Any, method: str, name: str) -> bool:
        """Count every call of a method as part ``name``; tells whether there is such a method."""
        inner = getattr(owner, method, None)
        if inner is None:
            return False

        @functools.wraps(inner)
        def outer(*args: Any, **kwargs: Any) -> Any:
            if not self.on:
                return inner(*args, **kwargs)
            with self.part(name):
                return inner(*args, **kwargs)

        setattr(owner, method, outer)
        return True

    def take(self) -> dict[str, float]:
        """The seconds so far; starts again from zero."""
        taken, self.seconds = dict(self.seconds), defaultdict(float)
        return taken


def peak_memory(device: torch.device) -> tuple[int, str]:
    """Most memory this process has used so far, in bytes, and how that was measured."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device), "torch.cuda.max_memory_allocated"
    # Not ru_maxrss where the kernel says it: that one starts at the size of the process that started this one.
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024, "resident set (VmHWM)"
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "resident set (ru_maxrss)"


def in_child(call: Callable[..., Any], *args: Any) -> Any:
    """Run a function in a process of its own, for its peak memory; None if the process dies, as it does out of memory.

    Args:
        call: A module's function.
        args: Its arguments.
    """
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=_die_first) as pool:
        try:
            return pool.submit(call, *args).result()
        except (BrokenProcessPool, torch.OutOfMemoryError):
            return None


def _die_first() -> None:
    # Out of memory the kernel shall end this process, not the benchmark or a neighbor.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
