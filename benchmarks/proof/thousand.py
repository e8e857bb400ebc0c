"""A program: several networks trained as ``bacon eval`` trains them. ``python -m benchmarks.proof.thousand JSON``.

They are trained on the tiles that a distillation starts from, for speed does not depend on what is on the images. The
JSON object has ``settings`` of the workload, ``networks``, ``epochs``, the clock's ``path``, ``every`` (in epochs) and
``limit`` (seconds), and ``out``, the file for what the clock said.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bacon_pl.evaluation import EvalModule
from bacon_pl.learners import Learners, Recipe, TrainingSet
from benchmarks.proof.clock import Clock, read, summary
from benchmarks.workload import Settings, data_module, distill_module, fit, prepare


def main() -> None:
    """Train and tell."""
    given = json.loads(sys.argv[1])
    s, path = Settings(**given["settings"]), Path(given["path"])
    prepare(s)
    path.unlink(missing_ok=True)  # networks are not kept, so nothing goes on
    data, module = data_module(s), distill_module(s)
    module.synthetic.initialize(data.train, data.meta, module.seed)
    recipe = Recipe(
        network=s.network, num_networks=given["networks"], epochs=given["epochs"], acceleration=s.acceleration
    )
    learners = Learners(TrainingSet.distilled(module.distilled()), recipe, data.meta, s.seed)
    clock = Clock(path, given["every"] * learners.steps_per_epoch, given["limit"])
    fit(EvalModule(learners), None, s.device, learners.total_steps, [clock])
    found = summary(read(path), learners.total_steps)
    numbers = {**found, "networks": given["networks"], "epochs": given["epochs"], "images": learners.index.shape[1]}
    Path(given["out"]).write_text(json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    main()
