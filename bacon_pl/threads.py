"""The number of CPU threads and how they wait, set for OpenMP before torch is loaded, which reads them only once.

Waiting: After every parallel loop, OpenMP's threads spin for milliseconds in case another loop follows. On a busy
machine this is very slow, because a spinning thread occupies the core that the thread it waits for needs. With two
threads and two other busy programs on two cores, an iteration of the demo took six times as long as with sleeping
threads. On an idle machine, a sleeping thread wakes up within about 5 µs, which is little compared to parallel loops of
hundreds of µs. Threads therefore sleep. This does not change results.

Number: The number of threads affects results, because sums are rounded in a different order. It must not depend on the
load of the machine, since equal runs would then give different images. It is therefore torch's own number, the cores
that this process may use, limited to those that a container grants. A single thread is not used for small workloads
either: on a busy machine, two sleeping threads get twice the time of one, and on an idle machine they are faster even
for the smallest networks.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
_NUMBERS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def sleep_while_waiting() -> None:
    """Make waiting threads sleep, unless the environment already defines how they wait.

    After torch is loaded, this affects only processes that are started by this one.
    """
    if not any(name in os.environ for name in _WAITING):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


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
