"""The intervals of progress lines, and the texts for speed and time, with a clock controlled by the tests."""

import itertools
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bacon_pl.pace import Intervals, Pace, duration, speed

seconds = st.floats(1e-3, 1e4)


class Clock:
    """Shows the time it was set to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def run(each, total, first=None, **how):
    """Follow a run whose steps take ``each`` seconds, the first one ``first``; yields it after every step."""
    clock = Clock()
    pace = Pace(clock=clock, **how)
    pace.begin(0, total)
    for done in range(1, total + 1):
        clock.now += first if done == 1 and first is not None else each
        due = pace.step(done)
        if due:
            pace.mark()
        yield pace, due


def test_lines_come_at_growing_distances_until_they_are_the_longest_apart():
    at = [round(pace.elapsed) for pace, due in run(0.5, 4000) if due]
    assert at[:7] == [5, 10, 20, 40, 80, 160, 320]
    assert {b - a for a, b in itertools.pairwise(at[6:])} == {300}


@given(each=seconds, total=st.integers(1, 400), first=seconds)
def test_speed_is_measured_without_the_first_step(each, total, first):
    for pace, due in run(each, total, first):
        if due:
            assert pace.seconds_each == pytest.approx(each, rel=1e-3)
            assert pace.seconds_left == pytest.approx(each * (total - pace.done), rel=1e-3, abs=1e-6)


@given(each=seconds, total=st.integers(2, 400))
def test_every_run_of_some_length_says_something_and_none_too_much(each, total):
    lines = sum(due for _, due in run(each, total))
    long = each * total
    assert lines <= 3 + math.log2(max(long / 5, 1)) + long / 300
    # Five steps or half a minute must have been measured, then the next step after the line's time says it.
    if total > 7 and long > 60 + 3 * each:
        assert lines


def test_a_slow_step_waits_for_half_a_minute_of_measuring_not_for_five_steps():
    assert [pace.done for pace, due in run(100, 4) if due] == [2, 4]
    assert [pace.done for pace, due in run(10, 5) if due] == [4]


def test_speed_follows_a_machine_that_becomes_busy_and_the_estimate_is_told_again():
    clock = Clock()
    pace = Pace(clock=clock)
    pace.begin(0, 10_000)
    told = []
    for done in range(1, 10_001):
        clock.now += 1.0 if done < 2000 else 4.0
        if pace.step(done):
            pace.mark()
            if (whole := pace.news()) is not None:
                told.append(whole)
    assert told[0] == pytest.approx(10_000, rel=0.01)
    assert 2 <= len(told) <= 4  # not at every line
    assert told[-1] == pytest.approx(2000 + 4 * 8000, rel=0.25)


@given(each=st.floats(0.01, 100), wobble=st.lists(st.floats(0.85, 1.2), min_size=50, max_size=50))
def test_an_estimate_that_is_about_right_is_told_once(each, wobble):
    clock = Clock()
    pace = Pace(clock=clock)
    pace.begin(0, 500)
    told = 0
    for done in range(1, 501):
        clock.now += each * wobble[done % 50]
        if pace.step(done):
            pace.mark()
            told += pace.news() is not None
    assert told <= 1


def test_what_cannot_be_known_is_not_told():
    clock = Clock()
    pace = Pace(clock=clock)
    assert pace.seconds_each is None and pace.seconds_left is None and pace.news() is None
    pace.begin(0, 0)  # nobody knows how many
    for done in range(1, 20):
        clock.now += 1
        if pace.step(done):
            pace.mark()
    assert pace.seconds_each == pytest.approx(1) and pace.seconds_left is None and pace.news() is None


def test_a_start_that_goes_on_counts_its_own_steps_only():
    clock = Clock()
    pace = Pace(clock=clock)
    pace.begin(1000, 1100)
    for done in range(1001, 1051):
        clock.now += 2
        if pace.step(done):
            pace.mark()
    assert pace.seconds_each == pytest.approx(2)
    assert pace.seconds_left == pytest.approx(2 * (1100 - 1050), abs=1)


@given(first=st.floats(0.1, 100), longest=st.floats(100, 1000), gaps=st.lists(st.floats(0.01, 500), max_size=50))
def test_intervals_are_neither_shorter_than_the_first_nor_longer_than_the_longest(first, longest, gaps):
    intervals, now, last = Intervals(first, longest), 0.0, 0.0
    for gap in gaps:
        now += gap
        if intervals.due(now):
            assert now - last >= first * (1 - 1e-9)
            intervals.told(now)
            last = now
        else:
            assert now - last < longest


@given(st.floats(0, 1e9))
@example(99.7)
@example(149.0)
def test_durations_are_said_to_half_a_unit_or_a_tenth(length):
    units = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
    said = duration(length)
    if said == "less than a second":
        assert length <= 0.5
        return
    words = said.replace(",", "").split()
    assert len(words) in (2, 4)
    value = sum(int(n) * units[unit.rstrip("s")] for n, unit in zip(words[::2], words[1::2], strict=True))
    half = {"second": 0.5, "minute": 30.0}.get(words[1].rstrip("s"), 0.0) if len(words) == 2 else 0.0
    assert value == pytest.approx(length, rel=1e-9 if half else 0.1, abs=half)
    assert all((n == "1") != unit.endswith("s") for n, unit in zip(words[::2], words[1::2], strict=True))


def test_speeds_are_numbers_above_one():
    assert speed(2.5) == "2.5 s per iteration"
    assert speed(140) == "140 s per iteration"
    assert speed(0.08, "step") == "12 steps per second"
    assert speed(0.0005) == "2,000 iterations per second"
