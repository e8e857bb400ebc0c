"""What ``bacon fit`` says of itself in a file and in a terminal, and how it ends before its time."""

import contextlib
import os
import pty
import re
import subprocess
import sys
import threading

import pytest

from bacon_pl import checkpoints
from tests.commands.bad_files import tree
from tests.paths import DIGITS, ROOT

FAMILIES = '''
import os
import signal
import time

import torch
from lightning.pytorch.callbacks import Callback

from bacon_pl.distillers import Distiller


class Own(Distiller):
    """Moves nothing."""

    def iterate(self, batch):
        self.log_terms({"part": torch.tensor(3.5)})


class Slow(Own):
    """Takes longer than a second."""

    def iterate(self, batch):
        time.sleep(1.1)


class Impatient(Own):
    """Stands for a user who presses Ctrl-C twice during the second iteration."""

    def iterate(self, batch):
        if self.iteration == 1:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)


class Enough(Callback):
    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = True
'''


@pytest.fixture
def bacon(forked_cli, tmp_path):
    (tmp_path / "families.py").write_text(FAMILIES)

    def run(family, *args, steps=4, **how):
        common = [
            "fit", "--model.class_path", f"families.{family}", "--model.ipc", 1, "--data.name", "digits",
            "--trainer.max_steps", steps, "--trainer.accelerator", "cpu", "--trainer.logger", "false",
            "--trainer.default_root_dir", "out", "--trainer.enable_model_summary", "false",
        ]  # fmt: skip
        return forked_cli.run(*common, *args, cwd=tmp_path, timeout=200, **how)

    return run


@contextlib.contextmanager
def terminal():
    """A terminal: yields its path and a list that holds what was shown there when the block has ended."""
    master, slave = pty.openpty()
    shown, parts = [], []

    def read():
        with contextlib.suppress(OSError):  # when its other end is closed
            while part := os.read(master, 1 << 16):
                parts.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield os.ttyname(slave), shown
    finally:
        os.close(slave)
        reader.join()
        os.close(master)
        shown.append(b"".join(parts).decode().replace("\r\n", "\n"))


def test_a_file_gets_lines(bacon):
    done = bacon("Own")
    assert not done.returncode, done.stderr
    lines = done.stdout.splitlines()
    assert re.sub(r"\d+ threads?", "N threads", "\n".join(lines[:4])).splitlines() == [
        "data    digits: 1,437 training images of 10 classes, 8×8 pixels, gray, 360 for testing",
        "method  own (Own): 1 image per class, starting from real images, seed 0",
        "run     4 iterations on the CPU (N threads), precision 32-true",
        "result  out/distilled.safetensors",
    ]
    assert re.fullmatch(r"iteration 4 of 4: loss 3.5, .* in all, last checkpoint at 4", lines[-3])
    assert "\x1b" not in done.stdout and "\r" not in done.stdout and "Epoch" not in done.stdout


def test_a_terminal_gets_one_bar(bacon):
    with terminal() as (path, shown):
        done = bacon("Own", streams={1: path}, env={"TERM": "xterm-256color", "COLUMNS": "100"})
    assert not done.returncode, done.stderr
    said = shown[0]
    assert said.startswith("data    digits: ") and said.endswith("picture: out/distilled.png\n")
    assert "\x1b[2K" in said  # a line that is drawn again
    plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", said)
    bars = [line for line in re.split(r"[\r\n]", plain) if re.search(r"\d/4", line)]
    assert bars[0].endswith(" 0/4") and re.search(r"━ 4/4, .* in all, loss 3.5$", bars[-1])
    assert "Epoch" not in plain and "v_num" not in plain
    drawn = re.split(r"[\r\n]", said)
    assert sum("picture: " in line for line in drawn) == 1


@pytest.mark.parametrize("kind", ["file", "terminal"])
def test_neither_where_none_is_wanted(bacon, kind):
    off = ("--trainer.enable_progress_bar", "false")
    with terminal() as (path, shown):
        streams = {1: path} if kind == "terminal" else {}
        done = bacon("Own", *off, streams=streams, env={"TERM": "xterm", "COLUMNS": "100"})
    said = shown[0] if kind == "terminal" else done.stdout
    assert not done.returncode and "\x1b" not in said and "iteration 4 of 4" not in said and "━" not in said
    assert said.startswith("data    digits: ")


def test_a_users_own_bar_takes_the_place_of_ours(bacon, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("trainer: {callbacks: [{class_path: lightning.pytorch.callbacks.TQDMProgressBar}]}\n")
    done = bacon("Own", "--config", own)
    assert not done.returncode and "iteration 4 of 4" not in done.stdout and "4/4" in done.stdout + done.stderr


def test_the_opening_says_where_images_and_cache_lie_and_what_is_gone_on_from(forked_cli, tmp_path):
    tree(tmp_path / "pictures", 4)
    common = [
        "fit", "--config", DIGITS, "--data.name", "folder", "--data.root", "pictures", "--data.val_fraction", "0.5",
        "--validation.every_n_steps", 0, "--model.factor", 2, "--model.ipc", 1, "--model.start.images", "noise",
        "--model.network.width", 4, "--model.acceleration", "off", "--trainer.accelerator", "cpu",
        "--trainer.logger", "false", "--trainer.default_root_dir", "out",
    ]  # fmt: skip
    cache = {"env": {"BACON_CACHE": str(tmp_path / "cache")}}
    for steps, more in ((1, ()), (2, ("--ckpt_path", "last"))):
        done = forked_cli.run(*common, "--trainer.max_steps", steps, *more, cwd=tmp_path, timeout=200, **cache)
        assert not done.returncode, done.stderr
        (file,) = (tmp_path / "cache").glob("pictures-*.safetensors")
        lines = done.stdout.splitlines()
        assert re.fullmatch(r"data    folder: 4 training images of 2 classes, .*, 4 more held out for .*", lines[0])
        assert re.fullmatch(rf"        in pictures; decoded in the cache, {file} \([\d.]+ (bytes|kB)\)", lines[1])
        assert "1 image per class, each of 2×2 tiles, starting from noise, ConvNet (width 4, depth 2)" in lines[2]
        assert lines[2].startswith("method  bacon (DistributionMatching, BaconObjective): ")
    assert lines[3].endswith("going on after iteration 1 (out/checkpoints/iteration=1.ckpt)")


def test_time_that_is_up_ends_a_run_that_can_go_on(bacon, tmp_path):
    limit = ("--trainer.max_time", "00:00:00:01", "--ckpt_path", "last")
    for done in (1, 2):  # each start has its own second
        ended = bacon("Slow", *limit, steps=3)
        assert ended.returncode == 124
        (said,) = [line for line in ended.stderr.splitlines() if "max_time" in line]
        assert said == (
            f"bacon fit: the time that --trainer.max_time gives was up after iteration {done} of 3, so there is a "
            "checkpoint and no distilled set yet; the same command with --ckpt_path last continues."
        )
        assert "Time limit reached" not in ended.stderr
        assert checkpoints.newest(tmp_path / "out").name == f"iteration={done}.ckpt"
        assert not (tmp_path / "out/distilled.safetensors").exists()
    ended = bacon("Slow", *limit, steps=3)  # the last iteration is in time, for it is the last one
    assert ended.returncode == 0 and (tmp_path / "out/distilled.safetensors").exists()
    assert "distilled set: " in ended.stdout and "ended after" not in ended.stdout


def test_no_time_at_all_is_refused(bacon):
    done = bacon("Own", "--trainer.max_time", "00:00:00:00")
    assert done.returncode == 2 and "--trainer.max_time is over before the first iteration" in done.stderr


def test_a_run_that_a_callback_ends_early_says_so(bacon, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("trainer: {callbacks: [{class_path: families.Enough}]}\n")
    done = bacon("Own", "--config", own)
    assert not done.returncode, done.stderr
    assert "\nended after iteration 1 of 4, for one of the callbacks stopped the run\n" in done.stdout


def test_a_second_interrupt_ends_quietly(bacon):
    done = bacon("Impatient", "--checkpoint.every_n_train_steps", 1)
    assert done.returncode == 130
    assert "stopping at the end of this iteration; Ctrl-C again stops at once\n" in done.stderr
    assert done.stderr.endswith("\nbacon fit: interrupted.\n")
    assert "Traceback" not in done.stderr and "Detected" not in done.stderr and "stopped after" not in done.stderr


@pytest.mark.parametrize(
    ("code", "said"),
    [
        # Importing a module of C may turn the interrupt into any other error.
        (
            "with cli.interrupts_end('bacon fit: interrupted.'):\n"
            "    try:\n        os.kill(os.getpid(), signal.SIGINT); time.sleep(60)\n"
            "    except BaseException: raise ImportError",
            "bacon fit: interrupted.\n",
        ),
        # Once the last word is said, no number of interrupts changes the end.
        ("cli.ignore_interrupts(); os.kill(os.getpid(), signal.SIGINT); sys.exit(130)", ""),
    ],
)
def test_interrupts_at_the_start_and_at_the_end_are_quiet(code, said):
    # Where tests run in the background, interrupts are ignored from the start.
    default = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [sys.executable, "-c", f"import os, signal, sys, time\n{default}\nfrom bacon_pl import cli\n{code}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stderr) == (130, said)


def test_an_interrupts_own_handler_is_left_alone():
    import signal

    from bacon_pl.cli import interrupts_end

    own = lambda *_: None  # noqa: E731
    before = signal.signal(signal.SIGINT, own)
    try:
        with interrupts_end(""):
            assert signal.getsignal(signal.SIGINT) is own
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with interrupts_end(""):
            assert signal.getsignal(signal.SIGINT) not in (own, signal.default_int_handler)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
