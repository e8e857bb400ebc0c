"""Suite ``devices``: the same iterations, or the same evaluation, by one process and by several processes.

Each contender runs this file as a program, since the processes of a run are started by their command line.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import lightning.pytorch as pl

from bacon_pl.evaluation import EvalModule
from bacon_pl.learners import Learners, Recipe, TrainingSet
from benchmarks.timing import median_ratio, now
from benchmarks.workload import Settings, data_module, distill_module, fit, prepare


class Clock(pl.Callback):
    """Seconds of every iteration after the warm-up, written as JSON by the first process."""

    def __init__(self, warm_up: int, path: Path) -> None:
        self.warm_up = warm_up
        self.path = path
        self.times: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Read the clock."""
        self.times.append(now(pl_module.device))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write what was read."""
        ends = self.times[self.warm_up - 1 :]
        if trainer.is_global_zero:
            self.path.write_text(json.dumps([b - a for a, b in itertools.pairwise(ends)]))


KINDS = ("fit", "eval")


def run(s: Settings, kind: str, networks: int, counts: Sequence[int] = (1, 2)) -> dict[str, Any]:
    """Time runs of one process and of more, in turns; every process has ``s.threads`` threads.

    Args:
        s: The workload.
        kind: ``fit`` times iterations, ``eval`` training steps of an evaluation.
        networks: Networks of the evaluation.
        counts: Numbers of processes.

    Returns:
        Seconds by number of processes (a median per round), and each number's share of one's time.
    """
    seconds: dict[str, list[float]] = {str(n): [] for n in counts}
    for _ in range(s.rounds):
        for n in counts:
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder, "times.json")
                command = [sys.executable, __file__, json.dumps(asdict(s)), str(n), str(out), kind, str(networks)]
                subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": str(s.threads or 1)})
                seconds[str(n)].append(statistics.median(json.loads(out.read_text())))
    first = str(counts[0])
    shares = {n: median_ratio(values, seconds[first]) for n, values in seconds.items() if n != first}
    what = "an iteration" if kind == "fit" else f"a training step of {networks} networks"
    return {
        "what": what,
        "seconds": seconds,
        "medians": {n: statistics.median(v) for n, v in seconds.items()},
        "shares": shares,
    }


def main() -> None:
    """Run one contender."""
    s, processes, out = Settings(**json.loads(sys.argv[1])), int(sys.argv[2]), Path(sys.argv[3])
    kind, networks = sys.argv[4], int(sys.argv[5])
    prepare(s)
    clock, steps = Clock(s.warm_up, out), s.warm_up + s.per_round
    data, module = data_module(s), distill_module(s)
    if kind == "fit":
        fit(module, data, s.device, steps, [clock], devices=processes)
        return
    module.synthetic.initialize(data.train, data.meta, module.seed)
    recipe = Recipe(network=s.network, num_networks=networks, epochs=1000, acceleration=s.acceleration)
    learners = Learners(TrainingSet.distilled(module.distilled()), recipe, data.meta, s.seed)
    fit(EvalModule(learners), None, s.device, steps, [clock], devices=processes)


if __name__ == "__main__":
    main()
