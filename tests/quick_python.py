"""``sys.executable -m bacon_pl`` without its imports' seconds, for the whole suite.

While tests run, ``sys.executable`` is a small program. For modules of the project it asks a process that has imported
everything to fork, and stays in between: it passes on streams and signals, and ends as the fork ends. For all else,
other options of Python or an environment that Python or OpenMP would read at their start, it becomes Python itself.
Tests of the start itself take ``tests.paths.PYTHON``.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from tests.forked_cli import end, import_everything
from tests.paths import PYTHON, ROOT

READ_AT_START = ("OMP_", "MKL_", "OPENBLAS_", "PYTHON", "LD_", "LC_", "LANG")
"""Beginnings of the names of variables that must be as they were when the imports were made."""
FREE = ("PYTHONPATH", "OMP_WAIT_POLICY")
"""Variables that a fork can still heed, or that change no result."""

CLIENT = """#!{python} -IS
import os, sys
args, env = sys.argv[1:], dict(os.environ)
def itself():
    os.execv({python!r}, [{python!r}, *args])
at_start = {{k: v for k, v in env.items() if k.startswith({begins!r}) and k not in {free!r}}}
if args[:1] != ["-m"] or args[1].split(".")[0] not in ("bacon_pl", "tests") or at_start != {known!r}:
    itself()
import fcntl, signal, socket, subprocess, time
try:
    for descriptor in (0, 1, 2):
        os.fstat(descriptor)
except OSError:
    itself()
server = socket.socket(socket.AF_UNIX)
with open({address!r} + ".lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        server.connect({address!r})
    except OSError:
        null = subprocess.DEVNULL  # the imports read the environment once for all forks: only what is the suite's
        suites = {{k: v for k, v in os.environ.items() if k in {names!r} and k != "PYTHONPATH"}}
        process = subprocess.Popen([{python!r}, "-m", "tests.quick_python", {address!r}, {owner!r}], cwd={root!r},
                                   env=suites, stdin=null, stdout=null, stderr=null, start_new_session=True)
        while True:
            try:
                server.connect({address!r})
                break
            except OSError:
                if process.poll() is not None:
                    itself()
                time.sleep(0.02)
if env.pop("BACON_PARENT", None):  # this program ends with the one that started it, and takes the fork along
    import ctypes
    parent = os.getppid()
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)
import json
passed = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2]
signal.pthread_sigmask(signal.SIG_BLOCK, passed)
ignored = [s for s in passed if signal.getsignal(s) is signal.SIG_IGN]
request = json.dumps({{"args": args, "cwd": os.getcwd(), "env": env, "ignored": ignored}}).encode()
socket.send_fds(server, [len(request).to_bytes(8, "big")], [0, 1, 2])
server.sendall(request)
def told():
    number = server.recv(8, socket.MSG_WAITALL)
    if len(number) < 8:
        os.write(2, b"the server of forks has ended\\n")
        os._exit(70)
    return int.from_bytes(number, "big")
pid = told()
for s in passed:
    signal.signal(s, lambda s, _: os.kill(pid, s))
signal.pthread_sigmask(signal.SIG_UNBLOCK, passed)
status = told()
if os.WIFSIGNALED(status):
    signal.signal(os.WTERMSIG(status), signal.SIG_DFL) if os.WTERMSIG(status) != signal.SIGKILL else None
    os.kill(os.getpid(), os.WTERMSIG(status))
os._exit(os.waitstatus_to_exitcode(status))
"""


def at_start() -> dict[str, str]:
    """Return the variables that were read when the imports were made."""
    return {k: v for k, v in os.environ.items() if k.startswith(READ_AT_START) and k not in FREE}


def write_client(folder: Path) -> str:
    """Write the program that stands for Python; returns its path.

    Of the environment it keeps the names alone, for values may be secrets. Whichever process calls it first starts the
    server, and what that process was given beyond these (its rank among several, say) is none of the other forks'.
    """
    path = folder / "python"
    path.write_text(
        CLIENT.format(
            python=PYTHON, begins=READ_AT_START, free=FREE, known=at_start(), address=str(folder / "socket"),
            names=sorted(os.environ), owner=str(os.getpid()), root=str(ROOT),
        )
    )  # fmt: skip
    path.chmod(0o755)
    return str(path)


def _received(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Read a request and the streams that come with it."""
    head, streams, _, _ = socket.recv_fds(connection, 8, 3)
    size, text = int.from_bytes(head, "big"), b""
    while len(text) < size:
        if not (part := connection.recv(size - len(text))):
            raise ConnectionError("the program in between has ended")
        text += part
    return json.loads(text), streams


def _become(request: dict[str, Any], streams: list[int], executable: str) -> None:
    """Turn a fresh fork into the program."""
    from lightning.fabric.utilities.rank_zero import _get_rank, rank_zero_only

    for fd, stream in enumerate(streams):
        os.dup2(stream, fd)
    os.closerange(3, 1024)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in request["ignored"]:
        signal.signal(number, signal.SIG_IGN)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    rank_zero_only.rank = _get_rank() or 0  # Lightning reads it when it is imported
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(fd, mode, closefd=False, **({"errors": "backslashreplace"} if fd == 2 else {}))
        for fd, mode in ((0, "r"), (1, "w"), (2, "w"))
    )
    sys.stderr.reconfigure(line_buffering=True)
    _, module, *rest = request["args"]
    sys.argv, sys.executable = [module, *rest], executable
    tempfile.tempdir = None  # as TMPDIR says
    own = [part for part in request["env"].get("PYTHONPATH", "").split(os.pathsep) if part]
    sys.path[:1] = [request["cwd"], *own]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _fork(request: dict[str, Any], streams: list[int], executable: str) -> int:
    """Run a program in a fork; returns the fork's process id."""
    if child := os.fork():
        return child
    try:
        _become(request, streams, executable)
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        end(stop.code if isinstance(stop.code, int) else int(stop.code is not None))
    except BaseException:
        traceback.print_exc()
        end(1)
    return end(0)


def serve(address: str, owner: int) -> None:
    """Fork for every program that connects, until the owner is gone."""
    import_everything()
    executable = str(Path(address).with_name("python"))
    running: dict[int, socket.socket] = {}
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    with selectors.DefaultSelector() as events, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        events.register(listener, selectors.EVENT_READ)
        events.register(reader, selectors.EVENT_READ)
        while running or Path(f"/proc/{owner}").exists():
            for key, _ in events.select(2):
                if key.fileobj is listener:
                    connection, _ = listener.accept()
                    try:
                        request, streams = _received(connection)
                    except (OSError, ValueError):  # the program in between was killed before it had said all
                        connection.close()
                        continue
                    child = _fork(request, streams, executable)
                    for stream in streams:
                        os.close(stream)
                    running[child] = connection
                    events.register(connection, selectors.EVENT_READ, child)
                    with contextlib.suppress(OSError):  # if it was killed, that is read from the connection next
                        connection.sendall(child.to_bytes(8, "big"))
                elif key.fileobj is reader:
                    reader.recv(4096)
                else:  # the program in between was killed
                    events.unregister(key.fileobj)
                    if key.data in running:
                        os.kill(key.data, signal.SIGKILL)
            while running:
                child, status = os.waitpid(-1, os.WNOHANG)
                if not child:
                    break
                connection = running.pop(child)
                with contextlib.suppress(OSError):
                    connection.sendall(status.to_bytes(8, "big"))
                with contextlib.suppress(KeyError, ValueError):
                    events.unregister(connection)
                connection.close()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
