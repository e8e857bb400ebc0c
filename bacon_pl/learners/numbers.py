"""Accuracies and their spread, and checks of training arguments."""

from __future__ import annotations

from collections.abc import Collection
from numbers import Integral

import torch
from torch import Tensor, nn

from bacon_pl.errors import BaconError


def accuracies(confusion: Tensor) -> Tensor:
    """Compute top-1 accuracies in percent, (K,), from confusion matrices (K, C, C)."""
    return 100 * (confusion.diagonal(dim1=1, dim2=2).sum(1) / confusion.sum((1, 2)))


def spread(values: Tensor) -> Tensor:
    """Compute the unbiased standard deviation over the first dimension of (n, …) values; 0 if n is 1."""
    return values.std(0) if len(values) > 1 else torch.zeros_like(values[0])


def written(module: nn.Module) -> list[int]:
    """Return how often each parameter has been modified, by a step or by loading a state; torch counts this."""
    return [parameter._version for parameter in module.parameters()]


def check_epochs(asked: Collection[int], last: int) -> None:
    """Check the numbers of the epochs after which snapshots are taken.

    Args:
        asked: The numbers as given.
        last: Number of epochs of the training.

    Raises:
        BaconError: The argument is not a collection of whole numbers from 0 to ``last``.
    """
    wrong = [one for one in asked if not (isinstance(one, Integral) and 0 <= one <= last)] if _many(asked) else asked
    if wrong or not _many(asked):
        raise BaconError(
            f"snapshots after epochs {wrong} were asked for, the training has {last}: give a list of whole numbers "
            f"from 0 to {last}."
        )


def _many(asked: object) -> bool:
    return isinstance(asked, Collection) and not isinstance(asked, str)
