"""Runs the cells of a table, each in processes of its own, several side by side; what is there is not run again."""

from __future__ import annotations

import contextlib
import os
import queue
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from bacon_pl.distilled_set import FILE_NAME
from bacon_pl.errors import BaconError
from bacon_pl.runtime import PARENT, lock
from bacon_pl.table.plan import Cell, write_record
from bacon_pl.threads import available_cores

RESULTS = "results.json"
_PATIENCE = 60.0  # seconds for the processes of a table that was killed to write their checkpoints and leave


@dataclass(frozen=True)
class Job:
    """One repeat of a cell.

    Attributes:
        cell: The cell.
        seed: Seed of the run.
        folder: Where it writes.
        arguments: Those of ``fit`` and of ``eval``.
        record: What makes it the same run when it is resumed.
    """

    cell: Cell
    seed: int
    folder: Path
    arguments: Mapping[str, Sequence[str]]
    record: Mapping[str, Any]

    @property
    def done(self) -> bool:
        """Whether its results are there."""
        return (self.folder / RESULTS).is_file()

    def steps(self) -> list[tuple[str, list[str]]]:
        """The commands still to be run: name and arguments."""
        # Only one whose results are missing is run, so there is nothing of worth to overwrite.
        out = ["--out", str(self.folder), "--overwrite", "true"]
        steps = [("eval", [*self.arguments["eval"], "--distilled", str(self.folder), *out])]
        if not (self.folder / FILE_NAME).is_file():  # written at the end of a distillation, whole
            steps.insert(0, ("fit", [*self.arguments["fit"], "--ckpt_path", "last"]))
        return steps


@dataclass(frozen=True)
class Running:
    """A command of a job that is running.

    Attributes:
        job: The job.
        command: ``fit`` or ``eval``.
        begun: When the job was begun, by ``time.monotonic``.
    """

    job: Job
    command: str
    begun: float

    @property
    def log(self) -> Path:
        """Where it prints."""
        return self.job.folder / f"{self.command}.log"


@dataclass(frozen=True)
class Place:
    """Where one job at a time runs: what its processes find in their environment."""

    environment: Mapping[str, str]


def places(jobs: int | None, accelerator: str, devices_each: bool) -> list[Place]:
    """Share this machine out.

    Args:
        jobs: Jobs side by side; by default one for each GPU, or one for each CPU core where there is no GPU.
        accelerator: The Trainer's.
        devices_each: Every job asks for devices itself, so only one runs at a time unless ``jobs`` says otherwise.

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
    """Hold a table's folder for this process and those it starts.

    Yields:
        The file that is locked; whoever inherits it holds the lock, too.

    Raises:
        BaconError: Another table is being made there, or the folder cannot be written.
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
    """Run jobs, as many side by side as there are places.

    Args:
        jobs: In the order in which they are begun.
        where: Places.
        held: A file that every process keeps open.
        after: Called, by one thread at a time, when a job has ended: the job, what went wrong or None, and the seconds
            it took.
        meanwhile: Called about twice a second, never during ``after``, with what is running.
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
            if not stopping.is_set():
                with one_at_a_time:
                    after(job, flaw, time.monotonic() - begun)

    threads = [threading.Thread(target=work, args=(place,)) for place in where[: len(jobs)]]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():  # with a time limit, so that Ctrl-C gets through
                thread.join(0.5)
                with one_at_a_time:
                    meanwhile(list(running.values()))
    except BaseException:
        stopping.set()
        try:
            _end(running, lambda process: process.terminate())  # they write a checkpoint and leave
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
    """Run what is left of a job; returns what went wrong."""
    write_record(job.folder, job.record)
    # Its processes end with this one, so that a table that was killed can be begun again at once.
    environment = {**os.environ, **place.environment, PARENT: str(os.getpid())}
    for name, arguments in job.steps():
        if stopping.is_set():
            return None
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
    """What a process said at last, for its log may be long; an error's own line where there is one."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("bacon ") and ": error: " in line]
    return (errors or lines or [""])[-1]
