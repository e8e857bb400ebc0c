"""Progress lines and bars of real Trainers, with a clock that each iteration advances."""

import io
import os
import re

import pytest
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from rich.console import Console
from rich.progress import Progress

from bacon_pl import progress as module_under_test
from bacon_pl.checkpoints import Checkpoints
from bacon_pl.distillers import Distiller
from bacon_pl.pace import Pace
from bacon_pl.progress import ProgressBarLine, ProgressLines, in_terminal, progress, with_progress
from tests.distillers.running import digits, trainer

STEPS = 60


class Slow(Distiller):
    """Iterations of as many seconds as it is told, by a clock that is only turned here."""

    def __init__(self, seconds=lambda iteration: 2.0):
        super().__init__(ipc=1)
        self.now = 0.0
        self.seconds = seconds

    def clock(self):
        return self.now

    def iterate(self, batch):
        self.now += self.seconds(batch.iteration)
        self.log_terms({"part": torch.tensor(10.0 + batch.iteration)})
        self.log("zeal", torch.tensor(0.5), prog_bar=True)


class Counted(ProgressLines):
    """Counts how often a device is asked."""

    asked = 0

    def _metrics(self, trainer, module):
        self.asked += 1
        return super()._metrics(trainer, module)


def fit(root, module, shown, *callbacks, steps=STEPS, **how):
    flags = {"enable_progress_bar": True, "callbacks": [shown, *callbacks]}
    trainer(root, steps, **flags).fit(module, datamodule=digits(), **how)


def test_lines_say_iteration_loss_speed_time_left_and_checkpoint(tmp_path, capsys):
    module = Slow()
    fit(tmp_path, module, ProgressLines(estimate=True, pace=Pace(clock=module.clock)), Checkpoints(10))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "about 2 minutes for the 60 iterations, 2 s per iteration"
    # Five of them are measured before the first line.
    assert lines[1] == "iteration 6 of 60: loss 15, zeal 0.5, 2 s per iteration, 2 minutes left"
    assert lines[2] == (
        "iteration 12 of 60: loss 21, zeal 0.5, 2 s per iteration, 96 seconds left, last checkpoint at 10"
    )
    assert lines[-1] == "iteration 60 of 60: loss 69, zeal 0.5, 2 minutes in all, last checkpoint at 60"
    assert len(lines) == 6  # 12, 24, 48 and 96 seconds, the estimate, the end
    assert not any("\x1b" in line or "\r" in line or "v_num" in line for line in lines)


def test_a_device_is_asked_for_the_loss_only_where_it_is_shown(tmp_path, capsys):
    module = Slow()
    shown = Counted(pace=Pace(clock=module.clock))
    fit(tmp_path, module, shown)
    assert shown.asked == len(capsys.readouterr().out.splitlines()) == 5


def test_a_resumed_run_says_what_is_left_and_where_its_checkpoint_is(tmp_path, capsys):
    fit(tmp_path, Slow(), ProgressLines(), Checkpoints(10), steps=20)
    capsys.readouterr()
    module = Slow()
    lines = ProgressLines(estimate=True, pace=Pace(clock=module.clock))
    path = tmp_path / "checkpoints/iteration=20.ckpt"
    fit(tmp_path, module, lines, Checkpoints(1000), ckpt_path=path)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "about 80 seconds for the 40 iterations that are left, 2 s per iteration"
    assert said[1].startswith("iteration 26 of 60: ") and said[1].endswith("last checkpoint at 20")


def test_an_estimate_that_was_far_off_is_told_again_and_a_long_one_with_a_hint(tmp_path, capsys):
    module = Slow(lambda iteration: 100.0 if iteration < 10 else 600.0)
    lines = ProgressLines(estimate=True, pace=Pace(clock=module.clock))
    lines.hint = "; hint"
    fit(tmp_path, module, lines)
    told = [line for line in capsys.readouterr().out.splitlines() if "about" in line]
    assert told[0] == "about 1 hour 40 minutes for the 60 iterations, 100 s per iteration; hint"
    assert told[1].startswith("now about ") and "hint" not in told[1]


def test_labels_stand_in_front_and_transient_lines_have_no_end(tmp_path, capsys):
    module = Slow()
    fit(tmp_path, module, ProgressLines("mlp on digits", "step", transient=True, pace=Pace(clock=module.clock)))
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("mlp on digits: step ") for line in lines) and len(lines) == 4


def test_a_bar_is_one_line_with_the_time_left(tmp_path, capsys):
    module = Slow()
    drawn = io.StringIO()
    console = Console(file=drawn, force_terminal=True, width=100, color_system=None)
    shown = ProgressBarLine("mlp", estimate=True, pace=Pace(clock=module.clock), console=console)
    fit(tmp_path, module, shown)
    looks = re.split(r"\x1b\[[\dA-Z;?]+[hl]?|[\r\n]", drawn.getvalue())
    looks = [look.strip() for look in looks if look.strip() and "about" not in look]
    assert looks[0].startswith("mlp ") and looks[0].endswith(" 0/60")
    assert any(look.endswith(" 12/60, 96 seconds left, 2 s per iteration, loss 21") for look in looks)
    assert looks[-1].endswith(" 60/60, 2 minutes in all, loss 69")
    assert "Epoch" not in drawn.getvalue() and "v_num" not in drawn.getvalue()
    assert all(len(look) <= 100 for look in looks)


def test_a_bar_leaves_the_terminal_to_an_error(tmp_path):
    def fails(iteration):
        if iteration == 3:
            raise RuntimeError("on purpose")
        return 1.0

    module = Slow(fails)
    drawn = io.StringIO()
    shown = ProgressBarLine(pace=Pace(clock=module.clock), console=Console(file=drawn, force_terminal=True))
    with pytest.raises(RuntimeError, match="on purpose"):
        fit(tmp_path, module, shown)
    assert drawn.getvalue().endswith("\x1b[?25h")  # the cursor is back


@pytest.mark.parametrize("kind", [ProgressLines, ProgressBarLine])
def test_only_the_first_process_shows_anything(tmp_path, capsys, kind):
    module = Slow()
    shown = kind(pace=Pace(clock=module.clock))
    shown.disable()  # as ProgressBar.setup does in the other processes
    fit(tmp_path, module, shown)
    assert not capsys.readouterr().out


def test_what_is_shown_follows_stdout(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    assert not in_terminal() and isinstance(progress(), ProgressLines)
    monkeypatch.setattr(module_under_test.sys, "stdout", Terminal())
    assert in_terminal() and isinstance(progress(), ProgressBarLine)
    for name in ("dumb", ""):
        monkeypatch.setitem(os.environ, "TERM", name)
        assert not in_terminal()


def test_a_users_own_bar_wins_and_none_is_none():
    ours, own, other = progress(), TQDMProgressBar(), Checkpoints()
    assert with_progress(None, None, ours) == [ours]
    assert with_progress([other], True, ours) == [other, ours]
    assert with_progress(other, None, ours) == [other, ours]
    assert with_progress([own], None, ours) == [own]
    assert with_progress([other], False, ours) == [other]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_bar_keeps_its_length_and_its_label_in_a_narrow_terminal(width):
    bar = ProgressBarLine("convnet on all real", console=Console(width=width, file=io.StringIO(), force_terminal=True))
    bar.pace.begin(0, 1800)
    bar._drawn = Progress(console=bar.console)
    said = bar._where("12 minutes left", "3.3 iterations per second", "train/loss 0.4912")
    assert len(said) <= width - len(bar.label) - 12
    assert said.endswith("0.4912") == (width == 120)
