"""The bound and the risk in the course of a distillation (arXiv 2406.01112): watched, and never part of the loss."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from lightning.fabric.loggers import Logger
from torch import Tensor

from bacon_pl.bound import BoundSettings, Measured, measure
from bacon_pl.errors import BaconError


@dataclass(frozen=True)
class LoggedBound(BoundSettings):
    """How and when a distillation logs the bound and the risk (arXiv 2406.01112).

    Args:
        samples: Points drawn in each ball.
        epsilon: Radius of the balls; by default each class's own: the median distance of pairs of its real embeddings.
        tv_weight: λ of the prior.
        clip: Clip term of the prior: ``none``, ``acting`` or ``symmetric``.
        every_n_steps: Logged at iterations divisible by this; 0 logs nothing.

    Raises:
        BaconError: An argument is out of range, or the prior is no density.
    """

    every_n_steps: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every_n_steps < 0:
            raise BaconError(f"--model.bound.every_n_steps must be at least 0, got {self.every_n_steps}.")


class BoundLog:
    """Measures on the embeddings that an iteration has at hand anyway, block of classes by block.

    The numbers logged at iteration t are those of the images after t steps, as the matched network of iteration t sees
    them, augmented. Networks differ, so single values do, too.

    Args:
        settings: How and when.
        seed: The run's seed; the draws in the balls are a function of (seed, iteration).
    """

    def __init__(self, settings: LoggedBound, seed: int) -> None:
        self.settings = settings
        self.seed = seed
        self._iteration = -1
        self._found: Measured | None = None

    @property
    def values(self) -> tuple[Tensor, ...]:
        """What processes add up: numbers per class, zero where another process has the class; maybe none."""
        return () if self._found is None else self._found.parts

    def begin(self, iteration: int, zeros: Tensor, logged: bool) -> None:
        """Start an iteration.

        Args:
            iteration: Its number.
            zeros: (C,), to be filled in.
            logged: There is a logger, and there are embeddings.
        """
        every = self.settings.every_n_steps
        self._iteration = iteration
        due = logged and every > 0 and iteration % every == 0
        self._found = None
        if due:
            draws = zeros.expand(self.settings.samples, -1)
            self._found = Measured.of(zeros.clone() for zeros in (draws, *[zeros] * 4))

    def measure(self, z_syn: Tensor, z_real: Tensor, mask: Tensor | None, classes: Tensor) -> None:
        """Measure some classes, if it is this iteration's turn.

        Args:
            z_syn: Synthetic embeddings (C', m, d).
            z_real: Real embeddings (C', n, d).
            mask: (C', n) bool, real ones that count; None for all.
            classes: (C',) int64, which classes they are.
        """
        if self._found is None:
            return
        own = measure(z_syn, z_real, mask, self.settings, self.seed, "bound", self._iteration)
        for values, part in zip(self._found.parts, own.parts, strict=True):
            values[..., classes] = part.to(values.dtype)

    def write(self, loggers: Iterable[Logger]) -> None:
        """Log means over classes and their standard errors, if it is this iteration's turn."""
        if self._found is None:
            return
        means = self._found.summary()
        values = torch.stack(list(means.values())).tolist()
        numbers = {f"bound/{name}": value for name, value in zip(means, values, strict=True)}
        for logger in loggers:  # not by the module's log, which keeps to the Trainer's own interval
            logger.log_metrics(numbers, step=self._iteration)
