"""What a table says while it is filled: a line for every run that ends, and where the others are at intervals."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bacon_pl.errors import one_line
from bacon_pl.pace import Intervals, duration
from bacon_pl.table.numbers import read_results
from bacon_pl.table.runner import Job, Running

_TAIL = 1 << 14  # bytes of a log that are looked at
# The lines of bacon_pl.progress.
_PROGRESS = re.compile(r"(?:.*: )?(?P<where>\w+ [\d,]+ of [\d,]+): (?P<parts>.+)")


class Screen:
    """Prints where a table is.

    Args:
        missing: Runs to be made.
        places: How many are made side by side.
        clock: Tells seconds.
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
        """Say how a run ended.

        Args:
            job: The run.
            flaw: What went wrong, or None.
            seconds: How long it took.
        """
        self._took.append(seconds)
        self._running = [one for one in self._running if one.job != job]
        said = f"failed: {flaw}" if flaw else accuracy(job)
        left = f", {self._left()}" if len(self._took) < self.missing else ""
        print(f"[{len(self._took)}/{self.missing}] {_name(job)}: {said} ({duration(seconds)}){left}", flush=True)

    def meanwhile(self, running: Sequence[Running]) -> None:
        """Say where the runs are, if it is time for that."""
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
        """How long the rest takes, if the runs that are left take as long as those that have ended."""
        mean = sum(self._took) / len(self._took)
        done = sum(min(self.clock() - one.begun, mean) for one in self._running)
        left = self.missing - len(self._took)
        return f"about {duration(max(0.0, mean * left - done) / min(self.places, left))} left"

    def _since(self, one: Running) -> str:
        return f"begun {duration(self.clock() - one.begun)} ago"


def where(log: Path) -> str | None:
    """Where a command is by its log's last line of progress, as ``iteration 20 of 300, 14 seconds left``.

    Args:
        log: What it and, above, earlier starts of it have printed.

    Returns:
        None if it has said nothing yet.
    """
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        if line.startswith("$ bacon "):  # what is above is of an earlier start
            return None
        if found := _PROGRESS.fullmatch(line):
            times = [part for part in found["parts"].split(", ") if part.endswith((" left", " in all"))]
            return one_line(", ".join([found["where"], *times]))
    return None


def accuracy(job: Job) -> str:
    """The mean accuracy of a run's networks."""
    values = read_results(job.folder) or ()
    return f"{sum(values) / len(values):.1f} %" if values else "no result"


def _name(job: Job) -> str:
    return f"{job.cell}, seed {job.seed}"
