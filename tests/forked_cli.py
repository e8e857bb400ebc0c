"""The command ``bacon`` without its imports' seconds: one process imports everything and forks for every command.

Each fork runs ``bacon_pl.cli.main`` on its own arguments, working directory, environment and standard streams, and ends
with the exit code and the last words that the interpreter would give it.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import json
import os
import struct
import subprocess
import sys
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tests.paths import ROOT
from tests.patience import PATIENCE


@dataclass
class Done:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


class ForkedCli:
    """A process that has imported the command line, as a context manager.

    Args:
        folder: A folder for the streams' files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> ForkedCli:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.forked_cli"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait(PATIENCE)
        self.process.stdout.close()

    def run(self, *args: object, cwd: Path, timeout: float = PATIENCE, **how: Any) -> Done:
        """Run a command.

        Args:
            args: Its arguments.
            cwd: Its working directory.
            timeout: Seconds after which it is killed; its exit code is then negative.
            how: ``env`` (added to the environment), ``closed`` (file descriptors), ``streams`` (files by file
                descriptor), ``file_limit`` (bytes a file may have), ``humble`` (without root's right to read and write
                everything), ``encoding`` (of stdout).
        """
        out, err = self.folder / "stdout", self.folder / "stderr"
        streams = {"0": os.devnull, "1": str(out), "2": str(err)}
        streams |= {str(fd): str(path) for fd, path in how.pop("streams", {}).items()}
        how["env"] = {**os.environ, **how.get("env", {})}  # of this test, not of the first
        request = {"args": [str(a) for a in args], "cwd": str(cwd), "timeout": timeout, "streams": streams, **how}
        for file in (out, err):
            file.write_bytes(b"")
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        code = int(self.process.stdout.readline())
        return Done(code, out.read_text(errors="replace"), err.read_text(errors="replace"))


def give_up_capabilities() -> None:
    """Make root heed the rights of files, of this process and for this thread alone."""
    head = struct.pack("Ii", 0x20080522, 0)  # version 3; 0 is this thread
    if ctypes.CDLL(None, use_errno=True).capset(head, bytes(24)):
        raise OSError(ctypes.get_errno(), "cannot give up capabilities")


def _become(request: dict[str, Any]) -> None:
    """Turn a fresh fork into the command's process."""
    import resource
    import signal

    signal.alarm(int(request["timeout"]))
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update({**request["env"], "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})
    sys.argv = ["bacon", *request["args"]]
    for fd, path in request["streams"].items():
        opened = os.open(path, os.O_RDONLY if fd == "0" else os.O_WRONLY)
        os.dup2(opened, int(fd))
        os.close(opened)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(fd, mode, closefd=False) for fd, mode in ((0, "r"), (1, "w"), (2, "w"))
    )
    for fd in request.get("closed", []):  # Python gives a closed descriptor no stream at all
        os.close(fd)
        setattr(sys, ("stdin", "stdout", "stderr")[fd], None)
    if "file_limit" in request:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_limit"],) * 2)
    if request.get("humble") and not os.geteuid():
        give_up_capabilities()


def import_everything() -> None:
    """Import what commands use, so that forks need not; imported here, for errors that come before it need nothing."""
    import sklearn.datasets
    import sklearn.manifold
    import sklearn.model_selection
    import torch.utils.tensorboard  # noqa: F401

    import bacon_pl.cli
    import bacon_pl.commands.evaluate
    import bacon_pl.commands.settings
    import bacon_pl.table
    import bacon_pl.tuning  # noqa: F401

    # Tests look at no arrangement of points for long enough to need a thousand steps, which take seconds.
    sklearn.manifold.TSNE.__init__.__kwdefaults__["max_iter"] = 250
    gc.freeze()  # or the forks' collections would copy every page


def _serve() -> None:
    """Fork for each request on stdin and answer with its exit code; returns in the forks alone."""
    import_everything()
    while line := sys.stdin.readline():
        child = os.fork()
        if not child:
            os.closerange(3, 256)
            _become(json.loads(line))
            return
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    os._exit(0)


def end(code: int) -> NoReturn:
    """End as the interpreter does, but for taking a thousand modules apart."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError as error:
        print(f"Exception ignored in stdout: {error!r}", file=sys.stderr)
        code = 120
    if sys.stderr:
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve()
    from bacon_pl.cli import main

    try:
        main()
    except SystemExit as stop:
        end(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        end(1)
    end(0)
