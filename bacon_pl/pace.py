"""Measurement of speed and remaining time, and the intervals at which they are printed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

# Minimum steps or seconds for an estimate, since the first steps are not typical.
_ENOUGH_STEPS = 5
_ENOUGH_SECONDS = 30.0
# Factor and seconds by which an estimate must change to be printed again.
_MUCH = 1.5
_SECONDS_THAT_MATTER = 60.0


class Intervals:
    """Growing intervals between printed lines, where the elapsed time doubles from line to line.

    Args:
        first: Seconds until the first line.
        longest: Maximum number of seconds between lines.
    """

    def __init__(self, first: float, longest: float) -> None:
        self.first = first
        self.longest = longest
        self._next = first

    def due(self, elapsed: float) -> bool:
        """Return whether a line is due after the given number of seconds since the start."""
        return elapsed >= self._next

    def told(self, elapsed: float) -> None:
        """Record that a line was printed after the given number of seconds since the start."""
        self._next = elapsed + min(max(elapsed, self.first), self.longest)


class Pace:
    """Measures the speed of a sequence of steps.

    The first step after a start is not measured, since it compiles and fills caches. The speed is measured over the
    last few printed lines, so that it reflects changes in the load of the machine. Lines are due at
    :class:`Intervals`.

    Args:
        first: Seconds until the first line.
        longest: Maximum number of seconds between lines.
        clock: Function that returns the time in seconds.
    """

    def __init__(self, first: float = 5.0, longest: float = 300.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.first = first
        self.longest = longest
        self.clock = clock
        self.begin(0, 0)

    def begin(self, done: int, total: int) -> None:
        """Start the clock.

        Args:
            done: Number of steps finished before this start.
            total: Total number of steps; 0 if it is unknown.
        """
        self.total = total
        self.done = done
        self._begun = self.clock()
        self._intervals = Intervals(self.first, self.longest)
        self._marks: deque[tuple[float, int]] = deque(maxlen=6)
        self.told: float | None = None

    def step(self, done: int) -> bool:
        """Count steps.

        Args:
            done: Total number of finished steps.

        Returns:
            Whether a line is due. If so, call :meth:`mark`, after any operation that waits for a device.
        """
        self.done = done
        elapsed = self.elapsed
        if not self._marks:
            self._marks.append((elapsed, done))
            return False
        since, first = self._marks[0]
        if len(self._marks) == 1 and done - first < _ENOUGH_STEPS and elapsed - since < _ENOUGH_SECONDS:
            return False
        return done > self._marks[-1][1] and self._intervals.due(elapsed)

    def mark(self) -> None:
        """Measure the speed at the time of a line."""
        elapsed = self.elapsed
        self._marks.append((elapsed, self.done))
        self._intervals.told(elapsed)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self.clock() - self._begun

    @property
    def seconds_each(self) -> float | None:
        """Seconds per step; None until steps have been measured."""
        if len(self._marks) < 2:
            return None
        (since, first), (until, last) = self._marks[0], self._marks[-1]
        return max(until - since, 1e-9) / (last - first)

    @property
    def seconds_left(self) -> float | None:
        """Seconds for the remaining steps; None until steps have been measured, or if their number is unknown."""
        each = self.seconds_each
        return None if each is None or not self.total else each * max(0, self.total - self.done)

    def news(self) -> float | None:
        """Return an estimate of the total duration in seconds if it is the first one or differs much from the last one.

        Otherwise return None. A returned estimate counts as printed.
        """
        left = self.seconds_left
        if left is None:
            return None
        whole, told = self.elapsed + left, self.told
        if told is not None:
            far = max(whole, told) > _MUCH * min(whole, told)
            if not far or abs(whole - told) < _SECONDS_THAT_MATTER:
                return None
        self.told = whole
        return whole


def duration(seconds: float) -> str:
    """Format a duration in whole numbers of a suitable unit, e.g. ``40 seconds`` or ``14 hours``.

    >>> [duration(s) for s in (0.2, 1, 75, 340, 6000, 50_000, 300_000)]
    ['less than a second', '1 second', '75 seconds', '6 minutes', '1 hour 40 minutes', '14 hours', '3 days 11 hours']
    """
    if seconds < 0.5:
        return "less than a second"
    if round(seconds) < 100:
        return _count(round(seconds), "second")
    if round(seconds / 60) < 90:
        return _count(round(seconds / 60), "minute")
    tens = round(seconds / 600)  # of minutes
    if tens < 60:
        return _two(*divmod(tens * 10, 60), "hour", "minute")
    hours = round(seconds / 3600)
    if hours < 48:
        return _count(hours, "hour")
    return _two(*divmod(hours, 24), "day", "hour") if hours < 240 else _count(round(hours / 24), "day")


def speed(seconds_each: float, unit: str = "iteration") -> str:
    """Format a speed with a number of at least one: ``2.5 s per iteration`` or ``12 iterations per second``."""
    if seconds_each >= 1:
        return f"{_short(seconds_each)} s per {unit}"
    return f"{_short(1 / seconds_each)} {unit}s per second"


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.2g}"


def _count(number: int, unit: str) -> str:
    return f"{number:,} {unit}{'' if number == 1 else 's'}"


def _two(large: int, small: int, unit: str, part: str) -> str:
    return f"{_count(large, unit)} {_count(small, part)}" if small else _count(large, unit)
