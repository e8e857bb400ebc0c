"""The number of CPU threads and how they wait, set for OpenMP before torch is loaded, which reads them only once.

Waiting: After every parallel loop, OpenMP's threads spin for milliseconds in case another loop follows. On a busy
machine this is very slow, because a spinning thread occupies the core that the thread it waits for needs: beside one
and a half busy cores of two, an iteration of the demo took 2.8 to 4.1 s with spinning threads and 0.65 s with sleeping
ones. On an idle machine it is the other way round for networks as small as the demo's, whose loops are short: 0.15 s
against 0.23 s. How threads wait changes no result, so it may follow how busy the machine is when a command starts. Even
on an idle machine they spin for a thirtieth of the usual time only, which costs 3 % there (0.155 s) and limits the
damage if the machine becomes busy later (about 1 s).

Number: The number of threads affects results, because sums are rounded in a different order. It must not depend on the
load of the machine, since equal runs would then give different images. It is therefore torch's own number, the cores
that this process may use, limited to those that a container grants. A single thread is not used for small workloads
either: on an idle machine two are faster even for the demo (0.155 s against 0.237 s), though beside busy programs one
is (0.38 s against 0.65 s).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
_BRIEFLY = "10000"  # turns; GNU's own number is 300,000 where there are as many cores as threads
_MOST_BUSY = 0.5  # cores of those that this process may use
_SAMPLE = 0.1  # seconds for which the machine is watched
_NUMBERS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def sleep_while_waiting() -> None:
    """Make waiting threads sleep, unless the environment already defines how they wait.

    After torch is loaded, this affects only processes that are started by this one.
    """
    if not any(name in os.environ for name in _WAITING):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def choose_waiting(root: Path = Path("/")) -> None:
    """Make waiting threads sleep on a busy machine and spin briefly on an idle one.

    An environment that already defines how they wait stays as it is. After torch is loaded, this affects only processes
    that are started by this one.

    Args:
        root: Folder that contains ``proc``.
    """
    if any(name in os.environ for name in _WAITING):
        return
    free = _free_cores(root)
    if free is not None and free >= available_cores(root) - _MOST_BUSY:
        os.environ["GOMP_SPINCOUNT"] = _BRIEFLY
    else:
        sleep_while_waiting()


def limit_threads() -> None:
    """Limit the number of threads to the cores granted by a container, unless the environment already sets a number.

    By default, OpenMP uses all cores of the machine. After torch is loaded, this affects only processes that are
    started by this one.
    """
    granted = available_cores()
    if granted < _own_cores() and not any(name in os.environ for name in _NUMBERS):
        os.environ["OMP_NUM_THREADS"] = str(granted)


def available_cores(root: Path = Path("/")) -> int:
    """Return the number of cores that this process may use: those of its affinity, or fewer if a container limits it.

    Args:
        root: Folder that contains ``proc`` and ``sys``.
    """
    return min([_own_cores(), *(max(1, math.ceil(quota)) for quota in _quotas(root))])


def _free_cores(root: Path) -> float | None:
    """Watch the machine for a moment: how many cores nobody uses, or None if the system does not tell."""
    try:
        before = _ticks(root)
        time.sleep(_SAMPLE)
        after = _ticks(root)
    except (OSError, ValueError, IndexError):
        return None
    idle, total = (b - a for a, b in zip(before, after, strict=True))
    return (os.cpu_count() or 1) * idle / total if total > 0 else None


def _ticks(root: Path) -> tuple[int, int]:
    """Time that all cores together have been idle, and all their time, in ticks of the kernel."""
    name, *numbers = (root / "proc/stat").read_text().split("\n", 1)[0].split()
    if name != "cpu":
        raise ValueError(name)
    ticks = [int(number) for number in numbers[:8]]  # those of guests are counted among a user's
    return ticks[3] + ticks[4], sum(ticks)


def _own_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quotas(root: Path) -> Iterator[float]:
    """Yield the limits, in cores, of the control groups of this process; nothing if there are none."""
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
            # In a container, the own group is often mounted as the top one, and the path does not exist below it.
            if folder.is_relative_to(top):
                yield from _quota(folder, version=1 if controllers else 2)


def _quota(folder: Path, version: int) -> Iterator[float]:
    """Yield the limit of one control group, if it has one."""
    try:
        if version == 2:
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if quota != "max" and float(quota) > 0:
            yield float(quota) / float(period)
    except (OSError, ValueError):
        return
