"""What has come of the parts, kept in a file; and the running of one part within its time."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bacon_pl.distilled_set import git_commit
from bacon_pl.runtime import PARENT, replacing
from benchmarks.proof.parts import Part
from benchmarks.proof.place import ROOT, Place, digest, has_changes

GRACE = 25.0
"""Seconds that a part has to end in after its time is up: for an iteration and a checkpoint."""


class Outcomes:
    """The outcome of every part at the code, device and torch of this place, in a file that is written after each part.

    An outcome has ``state``: ``done``; ``stopped``, its time was up; ``failed``; ``blocked``, it could not be run. It
    also has ``why``, ``seconds``, ``given`` (the seconds it had), ``numbers``, ``commit``, ``changed`` (whether files
    differed from the commit) and ``key``.

    Args:
        place: The place.
        parts: All parts.
        versions: What else must be the same, such as torch's version.
    """

    def __init__(self, place: Place, parts: Sequence[Part], versions: dict[str, str]) -> None:
        self.place = place
        self.parts = parts
        self.versions = versions
        self.path = place.folder / "outcomes.json"
        kept = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.kept: dict[str, dict[str, Any]] = kept

    def key(self, part: Part) -> str:
        """What an outcome depends on."""
        versions = " ".join(f"{name} {value}" for name, value in self.versions.items())
        return f"{digest(part.code)} on {self.place.name} with {versions}"

    def get(self, part: Part) -> dict[str, Any] | None:
        """The outcome of a part, if there is one that still holds."""
        found = self.kept.get(part.name)
        return found if found and found["key"] == self.key(part) else None

    def put(self, part: Part, state: str, why: str = "", **more: Any) -> dict[str, Any]:
        """Keep an outcome."""
        self.kept[part.name] = {
            "state": state,
            "why": why,
            "key": self.key(part),
            "commit": git_commit(),
            "changed": has_changes(),
            **more,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as file:
            file.write((json.dumps(self.kept, indent=2) + "\n").encode())
        return self.kept[part.name]

    def valid(self) -> dict[str, dict[str, Any]]:
        """All outcomes that still hold."""
        return {part.name: found for part in self.parts if (found := self.get(part))}


def run(part: Part, outcomes: Outcomes, seconds: float) -> dict[str, Any]:
    """Run a part and keep its outcome.

    Args:
        part: The part.
        outcomes: Where it is kept.
        seconds: Seconds that it has, the grace at their end included.
    """
    place = outcomes.place
    if not part.resumes:  # nothing that an earlier start has left is taken for this one's
        shutil.rmtree(place.folder / part.name, ignore_errors=True)
    (place.folder / part.name).mkdir(parents=True, exist_ok=True)
    log = place.folder / f"{part.name}.log"
    began, own = time.monotonic(), max(seconds - GRACE, 1.0)
    earlier = outcomes.get(part) or {}
    code = _call(part.command(place, own), log, own, place)
    taken = time.monotonic() - began
    more: dict[str, Any] = {"seconds": taken + (earlier.get("seconds", 0.0) if part.resumes else 0.0), "given": seconds}
    try:
        numbers = part.read(place)
    except (ValueError, KeyError, OSError) as error:
        numbers, code = {}, code or 1
        log.open("a").write(f"\nits numbers cannot be read: {error!r}\n")
    more |= {"numbers": numbers, "command": part.command(place, own), "log": str(log)}
    if code is None:
        return outcomes.put(part, "stopped", f"its time was up after {taken:.0f} s", **more)
    # pytest's status is 1 where tests fail: these are numbers, too.
    if not numbers or (code and part.name != "tests"):
        return outcomes.put(part, "failed", _last_words(log, code), **more)
    if not part.whole(numbers):
        return outcomes.put(part, "stopped", "it ended before it was whole", **more)
    return outcomes.put(part, "done", **more)


def _call(command: list[str], log: Path, seconds: float, place: Place) -> int | None:
    """Run a command with its children; return its status, or None if its time was up."""
    env = {**os.environ, PARENT: str(os.getpid()), "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    if place.device == "cpu":
        env["BACON_REHEARSE_GPU_TESTS"] = "1"
    with log.open("a") as file:
        # A session of its own, so that processes that it has started end with it.
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
    try:
        return _wait(process, seconds)
    except subprocess.TimeoutExpired:
        _signal(process, signal.SIGTERM)  # a distillation writes a checkpoint
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE - 5)
        return None
    except BaseException:  # Ctrl-C, or a signal to this process
        _signal(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        raise
    finally:
        _signal(process, signal.SIGKILL)
        process.wait()


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int:
    return process.wait(seconds)


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _last_words(log: Path, code: int) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"status {code}: {lines[-1][:300] if lines else 'it said nothing'}"
