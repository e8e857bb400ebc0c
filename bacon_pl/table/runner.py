"""Running the cells of a table in separate processes, several at a time. Finished runs are not repeated."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch

from bacon_pl.distilled_set import FILE_NAME
from bacon_pl.errors import BaconError, one_line
from bacon_pl.runtime import PARENT, lock
from bacon_pl.table.plan import Cell, read_configs, write_record
from bacon_pl.threads import available_cores

RESULTS = "results.json"
_PATIENCE = 60.0  # seconds in which the processes of a killed table may write their checkpoints and exit


@dataclass(frozen=True)
class Job:
    """One repeat of a cell.

    Attributes:
        cell: The cell.
        seed: Seed of the run.
        folder: Output folder.
        arguments: Arguments of ``fit`` and of ``eval``.
        record: Settings that must stay the same when the run is resumed.
        scored: Whether the results need robust scores.
        whole_epochs: Passes over all real images that the scores need; None: as many as over a set.
        score_weights: Weights of the scores; None if any will do.
        configs: What its configurations held when the record was made, by what names each.
    """

    cell: Cell
    seed: int
    folder: Path
    arguments: Mapping[str, Sequence[str]]
    record: Mapping[str, Any]
    scored: bool = False
    whole_epochs: int | None = None
    score_weights: Mapping[str, float] | None = None
    configs: Mapping[str, str] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Whether the results exist, with the scores where they are asked for."""
        path = self.folder / RESULTS
        if not self.scored or not path.is_file():
            return path.is_file()
        try:
            numbers = json.loads(path.read_text(encoding="utf-8"))
            passes = numbers["config"]["evaluation"].get("whole_epochs")
            weights = numbers["config"].get("score_weights", self.score_weights)
            return (
                numbers["scores"] is not None and passes == self.whole_epochs and self.score_weights in (None, weights)
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return True  # who reads them says what is wrong

    def changed(self) -> str | None:
        """Return which configuration has changed since the record was made, if one has.

        Raises:
            BaconError: A configuration cannot be read any more.
        """
        now = read_configs(self.configs)
        found = next((given for given in now if now[given] != self.configs[given]), None)
        return found and (
            f"the configuration '{one_line(found, 80)}', or one that it extends, has changed since this table began: "
            "give the same command again"
        )

    def steps(self) -> list[tuple[str, list[str]]]:
        """Return the names and arguments of the commands that must still be run."""
        # Only jobs without results are run, so nothing valuable can be overwritten.
        out = ["--out", str(self.folder), "--overwrite", "true"]
        steps = [("eval", [*self.arguments["eval"], "--distilled", str(self.folder), *out])]
        if not (self.folder / FILE_NAME).is_file():  # written atomically at the end of a distillation
            steps.insert(0, ("fit", [*self.arguments["fit"], "--ckpt_path", "last"]))
        return steps


@dataclass(frozen=True)
class Running:
    """A command of a job that is running.

    Attributes:
        job: The job.
        command: ``fit`` or ``eval``.
        begun: Time at which the job was started, from ``time.monotonic``.
    """

    job: Job
    command: str
    begun: float

    @property
    def log(self) -> Path:
        """File with the output of the command."""
        return self.job.folder / f"{self.command}.log"


@dataclass(frozen=True)
class Place:
    """A slot for one job at a time, with the environment variables of its processes."""

    environment: Mapping[str, str]


def places(jobs: int | None, accelerator: str, devices_each: bool) -> list[Place]:
    """Divide the resources of this machine among jobs.

    Args:
        jobs: Number of jobs at the same time; by default one per GPU, or one per CPU core if there is no GPU.
        accelerator: Accelerator of the Trainer.
        devices_each: Whether every job requests devices itself. Then only one job runs at a time by default.

    Returns:
        One slot per job.

    Raises:
        BaconError: ``jobs`` is below 1.
    """
    if jobs is not None and jobs < 1:
        raise BaconError(f"--jobs must be at least 1, got {jobs}.")
    if devices_each:
        return [Place({})] * (jobs or 1)
    gpus = torch.cuda.device_count() if accelerator in ("auto", "gpu", "cuda") else 0
    if gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(i) for i in range(gpus)]
        return [Place({"CUDA_VISIBLE_DEVICES": names[i % gpus]}) for i in range(jobs or gpus)]
    cores = available_cores()
    jobs = jobs or cores
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // jobs))
    return [Place({"OMP_NUM_THREADS": threads})] * jobs


@contextlib.contextmanager
def claimed(out: Path) -> Iterator[BinaryIO]:
    """Lock the folder of a table for this process and those it starts.

    Args:
        out: The folder.

    Yields:
        The locked file; processes that inherit it hold the lock, too.

    Raises:
        BaconError: Another process is using the folder, or it is not writable.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = open(out / ".lock", "wb")  # noqa: SIM115 (open until the table ends)
    except OSError as error:
        raise BaconError(f"cannot write into '{out}' ({error.strerror}): give another --out.") from error
    with file:
        give_up = time.monotonic() + _PATIENCE
        while not lock(file):
            if time.monotonic() > give_up:
                raise BaconError(f"another table is being made in '{out}': wait for it, or give another --out.")
            time.sleep(0.5)
        yield file


def run_all(
    jobs: Sequence[Job],
    where: Sequence[Place],
    held: BinaryIO,
    after: Callable[[Job, str | None, float], None],
    meanwhile: Callable[[Sequence[Running]], None],
) -> None:
    """Run jobs, one at a time in each place.

    Args:
        jobs: The jobs in the order in which they are started.
        where: The places.
        held: File that every process keeps open.
        after: Called when a job has ended, by one thread at a time, with the job, an error message or None, and the
            duration in seconds.
        meanwhile: Called about twice per second, never during ``after``, with the running commands.
    """
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    one_at_a_time = threading.Lock()
    running: dict[subprocess.Popen[bytes], Running] = {}
    stopping = threading.Event()

    def work(place: Place) -> None:
        while not stopping.is_set():
            try:
                job = waiting.get_nowait()
            except queue.Empty:
                return
            begun = time.monotonic()
            try:
                flaw = _run(job, place, held, running, stopping, begun)
            except OSError as error:
                flaw = f"{error.strerror}: {error.filename}"
            except BaconError as error:
                flaw = str(error)
            if not stopping.is_set():
                with one_at_a_time:
                    after(job, flaw, time.monotonic() - begun)

    threads = [threading.Thread(target=work, args=(place,)) for place in where[: len(jobs)]]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():  # joined with a timeout, so that Ctrl-C is handled
                thread.join(0.5)
                with one_at_a_time:
                    meanwhile(list(running.values()))
    except BaseException:
        stopping.set()
        try:
            _end(running, lambda process: process.terminate())  # the processes write a checkpoint and exit
            for thread in threads:
                thread.join()
        except KeyboardInterrupt:  # a second Ctrl-C
            _end(running, lambda process: process.kill())
            raise
        raise


def _end(running: Mapping[subprocess.Popen[bytes], Running], how: Callable[[subprocess.Popen[bytes]], None]) -> None:
    for process in list(running):
        with contextlib.suppress(OSError):
            how(process)


def _run(
    job: Job,
    place: Place,
    held: BinaryIO,
    running: dict[subprocess.Popen[bytes], Running],
    stopping: threading.Event,
    begun: float,
) -> str | None:
    """Run the remaining commands of a job and return an error message, or None."""
    # The processes end together with this one, so that a killed table can be restarted immediately.
    environment = {**os.environ, **place.environment, PARENT: str(os.getpid())}
    for name, arguments in job.steps():
        if stopping.is_set():
            return None
        # The command reads the files anew, and its results would stand under the record of what they held before.
        if flaw := job.changed():
            return flaw
        write_record(job.folder, job.record)
        command = [sys.executable, "-m", "bacon_pl", name, *arguments]
        with open(job.folder / f"{name}.log", "ab") as log:
            log.write(f"$ {shlex.join(['bacon', name, *arguments])}\n".encode(errors="backslashreplace"))
            log.flush()
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[held.fileno()] if os.name == "posix" else [],
            )
            running[process] = Running(job, name, begun)
            code = process.wait()
            running.pop(process, None)
        if code:
            return f"{name} {_ending(code)}: {_last_line(job.folder / f'{name}.log')}"
    return None if job.done else f"eval left no {RESULTS}"


def _ending(code: int) -> str:
    return f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"


def _last_line(log: Path) -> str:
    """Return the last error message in a log or, if there is none, the last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("bacon ") and ": error: " in line]
    return (errors or lines or [""])[-1]
