"""Logging of the bound and the risk during a distillation (arXiv 2406.01112). They are never part of the loss."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from lightning.fabric.loggers import Logger
from torch import Tensor

from bacon_pl import ranges
from bacon_pl.bound import BoundSettings, Measured, measure


@dataclass(frozen=True)
class LoggedBound(BoundSettings):
    """How and when a distillation logs the bound and the risk (arXiv 2406.01112).

    Args:
        samples: Number of points drawn in each ball.
        epsilon: Radius of the balls; by default the median distance between two real embeddings of the class.
        tv_weight: λ of the prior, in [0, 1].
        clip: Clip term of the prior: ``none``, ``acting`` or ``symmetric``.
        every_n_steps: Interval of logging in iterations; 0 turns logging off.

    Raises:
        BaconError: An argument is out of range, or the prior is not a density.
    """

    every_n_steps: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        ranges.whole("--model.bound.", 0, every_n_steps=self.every_n_steps)


class BoundLog:
    """Computes the bound and the risk from the embeddings of an iteration, one block of classes at a time.

    The values logged at iteration t belong to the images after t steps, augmented and embedded by the network matched
    in iteration t. Since the networks differ, individual values fluctuate.

    Args:
        settings: How and when the bound and the risk are logged.
        seed: Seed of the run; the points in the balls are a function of (seed, iteration).
    """

    def __init__(self, settings: LoggedBound, seed: int) -> None:
        self.settings = settings
        self.seed = seed
        self._iteration = -1
        self._found: Measured | None = None

    @property
    def values(self) -> tuple[Tensor, ...]:
        """Values to be summed over processes: one per class, zero for the classes of other processes. May be empty."""
        return () if self._found is None else self._found.parts

    def begin(self, iteration: int, zeros: Tensor, logged: bool) -> None:
        """Start an iteration.

        Args:
            iteration: Number of the iteration.
            zeros: (C,), zeros with the type and device of the results.
            logged: Whether there are a logger and embeddings.
        """
        every = self.settings.every_n_steps
        self._iteration = iteration
        due = logged and every > 0 and iteration % every == 0
        self._found = None
        if due:
            draws = zeros.expand(self.settings.samples, -1)
            self._found = Measured.of(zeros.clone() for zeros in (draws, *[zeros] * 4))

    def measure(self, z_syn: Tensor, z_real: Tensor, mask: Tensor | None, classes: Tensor) -> None:
        """Measure a block of classes if this iteration is logged.

        Args:
            z_syn: Synthetic embeddings (C', m, d).
            z_real: Real embeddings (C', n, d).
            mask: (C', n) bool, True for real embeddings that count; None if all do.
            classes: (C',), int64, class ids of the block.
        """
        if self._found is None:
            return
        own = measure(z_syn, z_real, mask, self.settings, self.seed, "bound", self._iteration)
        for values, part in zip(self._found.parts, own.parts, strict=True):
            values[..., classes] = part.to(values.dtype)

    def write(self, loggers: Iterable[Logger]) -> None:
        """Log the means over classes and their standard errors if this iteration is logged."""
        if self._found is None:
            return
        means = self._found.summary()
        values = torch.stack(list(means.values())).tolist()
        numbers = {f"bound/{name}": value for name, value in zip(means, values, strict=True)}
        for logger in loggers:  # not by the module's log method, which follows the Trainer's logging interval
            logger.log_metrics(numbers, step=self._iteration)
