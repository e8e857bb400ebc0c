"""How fast work goes, how long the rest of it takes, and when that is worth a line. Only the clock is asked."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

# What an estimate needs, for the first steps are not like the others.
_ENOUGH_STEPS = 5
_ENOUGH_SECONDS = 30.0
# How far an estimate must be off to be told again.
_MUCH = 1.5
_SECONDS_THAT_MATTER = 60.0


class Intervals:
    """When lines are due: at growing distances, each after twice the time of the one before.

    Args:
        first: Seconds until the first line.
        longest: Most seconds between two lines.
    """

    def __init__(self, first: float, longest: float) -> None:
        self.first = first
        self.longest = longest
        self._next = first

    def due(self, elapsed: float) -> bool:
        """Whether a line is due some seconds after the start."""
        return elapsed >= self._next

    def told(self, elapsed: float) -> None:
        """Note that there was a line some seconds after the start."""
        self._next = elapsed + min(max(elapsed, self.first), self.longest)


class Pace:
    """Follows steps of work by a clock.

    The first step of a start is not measured: it compiles, and fills caches. Speed is that of the last few lines, so
    that a machine that has become busy, or free, shows. For when lines are due see :class:`Intervals`.

    Args:
        first: Seconds until the first line.
        longest: Most seconds between two lines.
        clock: Tells seconds.
    """

    def __init__(self, first: float = 5.0, longest: float = 300.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.first = first
        self.longest = longest
        self.clock = clock
        self.begin(0, 0)

    def begin(self, done: int, total: int) -> None:
        """Start the clock.

        Args:
            done: Steps done before, by an earlier start.
            total: Steps in all, 0 where nobody knows.
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
            done: Steps done by now, in all.

        Returns:
            Whether a line is due: :meth:`mark` is to be called, after anything that waits for a device.
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
        """Measure up to this moment, which is that of a line."""
        elapsed = self.elapsed
        self._marks.append((elapsed, self.done))
        self._intervals.told(elapsed)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self.clock() - self._begun

    @property
    def seconds_each(self) -> float | None:
        """Seconds of a step; None as long as none has been measured."""
        if len(self._marks) < 2:
            return None
        (since, first), (until, last) = self._marks[0], self._marks[-1]
        return max(until - since, 1e-9) / (last - first)

    @property
    def seconds_left(self) -> float | None:
        """Seconds for the steps that are left; None as long as none has been measured, or their number is unknown."""
        each = self.seconds_each
        return None if each is None or not self.total else each * max(0, self.total - self.done)

    def news(self) -> float | None:
        """An estimate of the whole start in seconds, if there was none, or if it is much off the one told before.

        A call that returns one counts as telling it.
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
    """Say a length of time as people do, in whole numbers of the unit that fits: ``40 seconds``, ``14 hours``.

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
    """Say a speed by a number above one: ``2.5 s per iteration``, ``12 iterations per second``."""
    if seconds_each >= 1:
        return f"{_short(seconds_each)} s per {unit}"
    return f"{_short(1 / seconds_each)} {unit}s per second"


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.2g}"


def _count(number: int, unit: str) -> str:
    return f"{number:,} {unit}{'' if number == 1 else 's'}"


def _two(large: int, small: int, unit: str, part: str) -> str:
    return f"{_count(large, unit)} {_count(small, part)}" if small else _count(large, unit)
