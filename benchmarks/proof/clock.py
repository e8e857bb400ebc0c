"""A clock for whole trainings that may be cut short and go on: when each block of iterations had ended."""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from benchmarks.timing import now, peak_memory


class Clock(pl.Callback):
    """Appends a line to a file after every block of iterations, when the device has done all its work.

    The file is written as the training goes, so that it is there whatever ends the training.

    Args:
        path: The file, of one JSON object a line.
        every: Iterations of a block.
        limit: Seconds after which the training is told to stop; by default it is not.
    """

    def __init__(self, path: Path, every: int, limit: float | None = None) -> None:
        self.path = path
        self.every = every
        self.limit = limit
        self._start = ""
        self._began = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._start, self._began = f"{time.time():.6f}", now(pl_module.device)
        self._write(pl_module, getattr(pl_module, "iteration", 0))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read the clock at the end of a block."""
        done = getattr(pl_module, "iteration", batch_idx + 1)
        if done % self.every == 0:
            self._write(pl_module, done)
            trainer.should_stop |= self.limit is not None and time.perf_counter() - self._began > self.limit

    def _write(self, module: pl.LightningModule, iteration: int) -> None:
        line = {
            "start": self._start,
            "iteration": iteration,
            "seconds": now(module.device) - self._began,
            "memory": peak_memory(module.device)[0],
            "plan": plan_of(module),
        }
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def plan_of(module: Any) -> dict[str, Any] | None:
    """How a module's passes are run: the plan of ``acceleration``, and what is recorded as CUDA graphs."""
    program = getattr(getattr(module, "pool", None), "model", None)
    program = program or getattr(getattr(module, "learners", None), "_network", None)
    plan = getattr(program, "plan", None)
    found = dict(plan._asdict()) if plan is not None else {}
    for name in ("matching", "pool"):
        part = getattr(module, name, None)
        if hasattr(part, "captured"):
            graph = part.captured
            found[f"{name} recorded"] = graph is not None and (graph.why_not or f"{graph.replays} replays")
    return found or None


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a clock; the last one may have been cut short."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def summary(lines: Sequence[dict[str, Any]], total: int) -> dict[str, Any]:
    """What a clock says of a training of so many iterations.

    Returns:
        ``done`` iterations, of ``total``; ``seconds`` that all starts took, with the iterations that were done twice
        because a start had ended without a checkpoint; ``rate``, the median over the blocks of the seconds of an
        iteration, without the first block of each start, in which programs are compiled (None if there is no other);
        ``whole``, the seconds of the whole training; ``extrapolated``, whether they contain iterations that were not
        run; ``starts``; ``memory``, the peak in bytes; and ``plan``.
    """
    starts: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        starts.setdefault(line["start"], []).append(line)
    rates = [
        (after["seconds"] - before["seconds"]) / (after["iteration"] - before["iteration"])
        for own in starts.values()
        for before, after in itertools.pairwise(own[1:])
    ]
    done = lines[-1]["iteration"] if lines else 0
    seconds = sum(own[-1]["seconds"] for own in starts.values())
    rate = statistics.median(rates) if rates else None
    left = total - done
    return {
        "done": done,
        "total": total,
        "seconds": seconds,
        "rate": rate,
        "whole": seconds if left <= 0 else None if rate is None else seconds + left * rate,
        "extrapolated": left > 0,
        "starts": len(starts),
        "memory": max((line["memory"] for line in lines), default=None),
        "plan": lines[-1].get("plan") if lines else None,
    }
