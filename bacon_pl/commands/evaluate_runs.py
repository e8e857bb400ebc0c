"""The trainings of ``bacon eval``, one after another; those that another evaluation has made are taken from it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor

from bacon_pl.evaluation import Comparison, EvalModule, Run, RunResult, SharedAccuracies, run_line, training_name
from bacon_pl.pace import duration


@dataclass
class Made:
    """What the trainings of an evaluation gave.

    Attributes:
        run_results: Results of the trainings, in their order, without those that evaluations share: what is reported
            must not depend on which of them came first, or whether one was killed in between.
        accuracies: Accuracies in percent, (K,), of all trainings.
        module: Module of the first training, that of the main architecture on the distilled set.
        loggers: Loggers of the first training.
    """

    run_results: list[RunResult] = field(default_factory=list)
    accuracies: dict[Run, Tensor] = field(default_factory=dict)
    module: EvalModule | None = None
    loggers: list[Logger] = field(default_factory=list)


def train_all(
    comparison: Comparison,
    shared: SharedAccuracies | None,
    train: Callable[[Run, bool], tuple[EvalModule, pl.Trainer]],
    say: Callable[[str], None],
) -> Made:
    """Make all trainings of an evaluation; all processes must call this together.

    Args:
        comparison: The evaluation.
        shared: Accuracies that evaluations share of trainings that only scores need, or None.
        train: Function that trains and tests the networks of a run; it is told whether there are results already.
        say: Function that prints a line.

    Returns:
        What they gave.
    """
    made, compiled, number = Made(), None, len(comparison.runs)
    for i, run in enumerate(comparison.runs, 1):
        with contextlib.ExitStack() as stack:
            path, there = None, None
            if shared is not None and run in comparison.shareable:
                path, there = stack.enter_context(shared.turn(comparison, run))
            if there is not None:
                made.accuracies[run] = there
                say(f"[{i}/{number}] {training_name(run)}: {there.mean():.1f} %, kept in {path}")
                continue
            if run.architecture != compiled:
                # torch stops compiling when it has a certain number of programs of a function (see
                # networks.stateless.MOST_PROGRAMS). The runs of one architecture share about ten, including those of
                # the teacher and the feature spaces. A reset for each architecture allows any number of them.
                torch.compiler.reset()
                compiled = run.architecture
            begun = time.monotonic()
            module, trainer = train(run, bool(made.run_results))
            if made.module is None:
                made.module, made.loggers = module, trainer.loggers
            result = comparison.result(run, module)
            made.accuracies[run] = result.accuracies
            if shared is not None and path is not None:
                shared.keep(path, comparison, run, result.accuracies)
            else:
                made.run_results.append(result)
            say(f"[{i}/{number}] {run_line(result)} ({duration(time.monotonic() - begun)})")
    return made
