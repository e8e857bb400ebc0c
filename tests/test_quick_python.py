"""What stands for Python while tests run does what Python does."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.paths import PYTHON, ROOT
from tests.patience import PATIENCE
from tests.quick_python import write_client

COMMANDS = (
    ["-m", "bacon_pl", "configs", "ablation"],
    ["-m", "bacon_pl", "configs", "mnits"],
    ["-m", "bacon_pl"],
    ["-c", "import sys; print(sys.argv, file=sys.stderr); sys.exit(3)", "a b"],
    ["-m", "no_such_module"],
)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_streams_and_status_are_pythons(words, tmp_path):
    assert sys.executable != PYTHON
    quick, real = (
        subprocess.run([python, *words], cwd=tmp_path, capture_output=True, text=True)
        for python in (sys.executable, PYTHON)
    )
    assert (quick.returncode, quick.stdout, quick.stderr) == (real.returncode, real.stdout, real.stderr)


def test_who_comes_first_leaves_the_others_nothing(tmp_path):
    """A rank among processes or a deaf ear of the first caller, which starts the server, is its own alone."""
    python = write_client(tmp_path)
    words = [python, "-m", "tests.told_apart"]
    first, second = (
        subprocess.run(words, cwd=ROOT, env={**os.environ, **more}, capture_output=True, text=True, preexec_fn=how)
        for more, how in (({"RANK": "1"}, lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN)), ({}, None))
    )
    assert (first.stdout, second.stdout) == ("rank 1, deaf to SIGTERM\n", "rank 0\n")


def alive(marker):
    """Whether a process whose working directory is that folder is still there."""
    for process in os.listdir("/proc"):
        try:
            if process.isdigit() and os.readlink(f"/proc/{process}/cwd") == str(marker):
                return True
        except OSError:
            pass
    return False


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks for the process in /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_who_ends_it_ends_the_fork(number, tmp_path):
    words = ["-m", "bacon_pl", "fit", "--config", "digits/ipc1", "--trainer.max_steps", "100000"]
    process = subprocess.Popen([sys.executable, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    process.stdout.readline()  # it is under way
    process.send_signal(number)
    process.communicate(timeout=PATIENCE)
    assert process.returncode in (-number, 128 + number)
    deadline = time.monotonic() + PATIENCE
    while alive(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.02)
