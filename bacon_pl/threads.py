"""How many threads compute on the CPU, and how they wait: told to OpenMP before torch is loaded, which asks only once.

Waiting. After every parallel loop OpenMP's threads spin for milliseconds in case another one follows. Beside other
programs that is ruinous: a thread that spins holds the core that the one it waits for needs (two threads beside two
busy programs on two cores: an iteration of the demo took six times as long as with sleeping threads). Where nothing
else runs, a sleeping thread is awake within some 5 µs, of parallel loops that take hundreds. So threads sleep. That
changes no result.

Number. It changes results: sums are rounded in another order. So it must not follow how busy a machine happens to be,
or equal runs would end in different images, and it does not: it is torch's own, the cores that this process may use,
cut down to what a container grants it. Nor does little work get one thread: beside other programs two threads that
sleep get twice the time of one, and where nothing else runs they are faster from the smallest networks on.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
_NUMBERS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def sleep_while_waiting() -> None:
    """Let waiting threads sleep, unless the environment says already how they wait.

    Has no effect once torch is loaded, but for processes that this one starts.
    """
    if not any(name in os.environ for name in _WAITING):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def limit_threads() -> None:
    """Have no more threads than a container grants cores, unless the environment gives a number already.

    OpenMP itself counts the machine's cores. Has no effect once torch is loaded, but for processes started from here.
    """
    granted = available_cores()
    if granted < _own_cores() and not any(name in os.environ for name in _NUMBERS):
        os.environ["OMP_NUM_THREADS"] = str(granted)


def available_cores(root: Path = Path("/")) -> int:
    """Cores whose time this process may use: those that it may run on, or fewer if a container grants it less time.

    Args:
        root: Where ``proc`` and ``sys`` are.
    """
    return min([_own_cores(), *(max(1, math.ceil(quota)) for quota in _quotas(root))])


def _own_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quotas(root: Path) -> Iterator[float]:
    """Cores' worth of time that each control group around this process grants; nothing where none is limited."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, UnicodeDecodeError):  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            # A container often sees its own group as the top one, so that the path is not to be found below it.
            if folder.is_relative_to(top):
                yield from _quota(folder, version=1 if controllers else 2)


def _quota(folder: Path, version: int) -> Iterator[float]:
    """What one control group grants, if it sets a limit."""
    try:
        if version == 2:
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if quota != "max" and float(quota) > 0:
            yield float(quota) / float(period)
    except (OSError, ValueError):
        return
