"""Schedules of the images' learning rate, as torch's schedulers, which take one step after every iteration."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from bacon_pl.errors import BaconError

ImageSchedule = Literal["cosine", "plateau"]

LOOK_EVERY = 50
"""Interval in iterations at which the plateau schedule looks at the losses."""


class Plateau(ReduceLROnPlateau):
    """Halves the learning rate after 500 iterations whose loss is not lower than the best one by a share of 1e-4.

    This is the schedule of NCFM (arXiv 2502.20653). Reading a loss would let a GPU wait in every iteration, so the
    losses are kept on the device and looked at every :data:`LOOK_EVERY` iterations, on all devices. A halving therefore
    takes effect up to so many iterations later; everything else is torch's rule.

    Args:
        optimizer: Optimizer of the images.
        factor: What the learning rate is multiplied by.
        patience: Number of iterations without a better loss after which this happens.
        threshold: Share of the best loss by which a better one must be lower.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, factor: float = 0.5, patience: int = 500, threshold: float = 1e-4
    ) -> None:
        super().__init__(optimizer, factor=factor, patience=patience, threshold=threshold)
        self._restored: list[float] = []
        self._losses: list[Tensor] = []

    def observe(self, loss: Tensor) -> None:
        """Take note of the loss of an iteration, 0-d, without waiting for the device."""
        self._losses.append(loss.detach())

    def step(self, metrics: Any = None, epoch: Any = None) -> None:  # type: ignore[override]
        """Apply the rule to the observed losses, if it is time.

        Args:
            metrics: Not used.
            epoch: Not used.
        """
        if len(self._restored) + len(self._losses) >= LOOK_EVERY:
            for loss in self._observed():
                super().step(loss)
            self._restored, self._losses = [], []

    def _observed(self) -> list[float]:
        return self._restored + (torch.stack(self._losses).tolist() if self._losses else [])

    def state_dict(self) -> dict[str, Any]:
        """Return the state, with the observed losses as numbers."""
        return {**super().state_dict(), "_restored": self._observed(), "_losses": []}


def scheduled(optimizer: torch.optim.Optimizer, schedule: ImageSchedule | None, iterations: int) -> Any:
    """Add a schedule to the optimizer of the images.

    Args:
        optimizer: The optimizer, with the initial learning rate.
        schedule: ``cosine`` multiplies the initial rate by ½(1 + cos(πt/T)) in iteration t of T; ``plateau`` halves it
            as :class:`Plateau` does; None leaves it constant.
        iterations: Number of iterations T of the run; negative if there is no limit.

    Returns:
        What ``configure_optimizers`` returns.

    Raises:
        BaconError: The schedule needs the number of iterations, and there is none.
    """
    if schedule is None:
        return optimizer
    if schedule == "plateau":
        return [optimizer], [Plateau(optimizer)]
    if iterations < 0:
        raise BaconError("--model.schedule cosine ends with the run: give its length by --trainer.max_steps.")
    length = max(iterations, 1)
    return [optimizer], [LambdaLR(optimizer, lambda t: (1 + math.cos(math.pi * min(t / length, 1))) / 2)]


def observe(schedulers: Iterable[Any], terms: Mapping[str, Tensor]) -> None:
    """Show an iteration's loss to the schedules that depend on it.

    Args:
        schedulers: All schedulers of the run.
        terms: Loss terms by name, with one number per class, which is averaged.
    """
    for scheduler in schedulers:
        if isinstance(scheduler, Plateau):
            scheduler.observe(torch.stack([value.mean() for value in terms.values()]).sum())
