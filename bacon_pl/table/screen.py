"""Progress output of a table: one line per finished run, and the state of the running ones at intervals."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bacon_pl.errors import one_line
from bacon_pl.pace import Intervals, duration
from bacon_pl.table.numbers import read_results
from bacon_pl.table.runner import Job, Running

_TAIL = 1 << 14  # number of bytes at the end of a log that are read
# Matches the lines printed by bacon_pl.progress.
_PROGRESS = re.compile(r"(?:.*: )?(?P<where>\w+ [\d,]+ of [\d,]+): (?P<parts>.+)")


class Screen:
    """Prints the progress of a table.

    Args:
        missing: Number of runs to make.
        places: Number of runs at the same time.
        clock: Function that returns the time in seconds.
    """

    def __init__(self, missing: int, places: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.missing = missing
        self.places = places
        self.clock = clock
        self._begun = clock()
        self._took: list[float] = []
        self._running: Sequence[Running] = ()
        self._intervals = Intervals(first=30.0, longest=600.0)

    def ended(self, job: Job, flaw: str | None, seconds: float) -> None:
        """Print the result of a run.

        Args:
            job: The run.
            flaw: Error message, or None.
            seconds: Duration in seconds.
        """
        self._took.append(seconds)
        self._running = [one for one in self._running if one.job != job]
        said = f"failed: {flaw}" if flaw else accuracy(job)
        left = f", {self._left()}" if len(self._took) < self.missing else ""
        print(f"[{len(self._took)}/{self.missing}] {_name(job)}: {said} ({duration(seconds)}){left}", flush=True)

    def meanwhile(self, running: Sequence[Running]) -> None:
        """Print the progress of the running commands if the interval has passed."""
        self._running = running
        elapsed = self.clock() - self._begun
        if not running or not self._intervals.due(elapsed):
            return
        self._intervals.told(elapsed)
        left = f", {self._left()}" if self._took else ""
        print(f"after {duration(elapsed)}: {len(self._took)} of {self.missing} runs made{left}")
        for one in running:
            print(f"    {_name(one.job)}: {one.command}, {where(one.log) or self._since(one)}", flush=True)

    def _left(self) -> str:
        """Estimate the remaining time from the mean duration of the finished runs."""
        mean = sum(self._took) / len(self._took)
        done = sum(min(self.clock() - one.begun, mean) for one in self._running)
        left = self.missing - len(self._took)
        return f"about {duration(max(0.0, mean * left - done) / min(self.places, left))} left"

    def _since(self, one: Running) -> str:
        return f"begun {duration(self.clock() - one.begun)} ago"


def where(log: Path) -> str | None:
    """Read the progress of a command from its log, e.g. ``iteration 20 of 300, 14 seconds left``.

    Args:
        log: Output of the command, which may be preceded by that of earlier starts.

    Returns:
        The progress, or None if the command has not printed any yet.
    """
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        if line.startswith("$ bacon "):  # the lines before this one belong to an earlier start
            return None
        if found := _PROGRESS.fullmatch(line):
            times = [part for part in found["parts"].split(", ") if part.endswith((" left", " in all"))]
            return one_line(", ".join([found["where"], *times]))
    return None


def accuracy(job: Job) -> str:
    """Format the mean accuracy of a run's networks."""
    values = read_results(job.folder) or ()
    return f"{sum(values) / len(values):.1f} %" if values else "no result"


def _name(job: Job) -> str:
    return f"{job.cell}, seed {job.seed}"
