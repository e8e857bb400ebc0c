"""The progress output of a table, with a clock controlled by the tests, and the termination of its runs."""

import json
import os
import signal
import threading

import pytest

from bacon_pl.table import runner
from bacon_pl.table.plan import Cell
from bacon_pl.table.runner import Job, Place, Running, run_all
from bacon_pl.table.screen import Screen, where

LOG = (
    "$ bacon fit --model.ipc 1\n"
    "data    digits: 1,437 training images\n"
    "iteration 20 of 300: loss 12.5, pool/accuracy 40, 2 s per iteration, 9 minutes left, last checkpoint at 10\n"
)


class Clock:
    def __init__(self):
        self.now = 500.0

    def __call__(self):
        return self.now


def job(tmp_path, seed):
    cell = Cell("dm", "digits", 1, ())
    folder = cell.folder(tmp_path, seed)
    folder.mkdir(parents=True)
    return Job(cell, seed, folder, {}, {})


def finish(one, accuracy):
    (one.folder / "results.json").write_text(json.dumps({"accuracy": {"per_network": [accuracy]}}))


def test_a_line_for_every_run_that_ends_with_the_time_left_for_all(tmp_path, capsys):
    clock = Clock()
    screen = Screen(missing=4, places=2, clock=clock)
    jobs = [job(tmp_path, seed) for seed in range(4)]
    running = [Running(one, "fit", clock.now) for one in jobs[:2]]
    screen.meanwhile(running)
    clock.now += 600
    finish(jobs[0], 84.5)
    screen.ended(jobs[0], None, 600)
    # Of three runs of ten minutes on two places, one has run for ten.
    assert capsys.readouterr().out == "[1/4] dm on digits, ipc 1, seed 0: 84.5 % (10 minutes), about 10 minutes left\n"
    screen.ended(jobs[1], "fit ended with status 2: no", 600)
    said = capsys.readouterr().out
    assert said == "[2/4] dm on digits, ipc 1, seed 1: failed: fit ended with status 2: no (10 minutes), " + (
        "about 10 minutes left\n"
    )
    screen.ended(jobs[2], None, 1)
    screen.ended(jobs[3], None, 2)
    assert capsys.readouterr().out.endswith("[4/4] dm on digits, ipc 1, seed 3: no result (2 seconds)\n")


def test_where_the_runs_are_at_growing_intervals(tmp_path, capsys):
    clock = Clock()
    screen = Screen(missing=4, places=2, clock=clock)
    running = [Running(job(tmp_path, 0), "fit", clock.now), Running(job(tmp_path, 1), "eval", clock.now)]
    running[0].log.write_text(LOG)
    at = []
    for second in range(1, 4000):
        clock.now += 1
        screen.meanwhile(running)
        if said := capsys.readouterr().out:
            at.append(second)
            assert said.splitlines()[0].startswith("after ")
            assert said.splitlines()[0].endswith(": 0 of 4 runs made")
            assert said.splitlines()[1] == ("    dm on digits, ipc 1, seed 0: fit, iteration 20 of 300, 9 minutes left")
            assert said.splitlines()[2].startswith("    dm on digits, ipc 1, seed 1: eval, begun ")
    assert at[:6] == [30, 60, 120, 240, 480, 960]
    assert {b - a for a, b in zip(at[5:], at[6:], strict=False)} == {600}  # noqa: RUF007


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (LOG, "iteration 20 of 300, 9 minutes left"),
        (LOG + "a warning\n", "iteration 20 of 300, 9 minutes left"),
        (LOG + "$ bacon fit --ckpt_path last\n", None),  # begun again, and nothing said yet
        ("$ bacon eval\nmlp on digits: step 1,000 of 3,000: loss 1, 5 steps per second, 1 hour left\n",
         "step 1,000 of 3,000, 1 hour left"),
        ("iteration 4 of 4: loss 3, 2 minutes in all, last checkpoint at 4\n", "iteration 4 of 4, 2 minutes in all"),
        ("", None),
        ("x" * 100_000 + "\n", None),
    ],
)  # fmt: skip
def test_where_a_run_is_stands_in_its_log(tmp_path, text, found):
    (tmp_path / "fit.log").write_text(text)
    assert where(tmp_path / "fit.log") == found
    assert where(tmp_path / "none.log") is None


def test_what_a_log_holds_cannot_move_the_cursor(tmp_path):
    (tmp_path / "fit.log").write_bytes(b"iteration 1 of 2: \xff\x1b[2J, 3\x1b[2J hours left\n")
    assert "\x1b" not in where(tmp_path / "fit.log")


def test_a_second_interrupt_kills_what_the_first_one_asked_to_leave(tmp_path, monkeypatch, request):
    # Where tests run in the background, interrupts are ignored from the start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    ended = threading.Event()
    asked = []

    class Stubborn:
        """A process that takes its time, while its user presses Ctrl-C again."""

        def terminate(self):
            asked.append("terminate")
            os.kill(os.getpid(), signal.SIGINT)

        def kill(self):
            asked.append("kill")
            ended.set()

    def run(job, place, held, running, stopping, begun):
        running[Stubborn()] = Running(job, "fit", begun)
        ended.wait(60)

    def interrupt(running):
        if running:
            raise KeyboardInterrupt

    monkeypatch.setattr(runner, "_run", run)
    with open(tmp_path / "held", "wb") as held, pytest.raises(KeyboardInterrupt):
        run_all([job(tmp_path, 0)], [Place({})], held, lambda *_: None, interrupt)
    assert asked == ["terminate", "kill"]
