"""Conversion of the index in ``distilled[…]`` to positions of images."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import SupportsIndex, TypeAlias

import numpy as np
import torch
from torch import Tensor

Index: TypeAlias = slice | Sequence[int] | Sequence[bool] | Tensor | np.ndarray
"""An index that selects several images."""


def position(index: SupportsIndex, length: int) -> int:
    """Convert an integer, which counts from the end if it is negative, to a position in [0, length).

    Args:
        index: An int, or an object that stands for one, such as a NumPy integer or a tensor of one integer.
        length: Number of images.

    Returns:
        The position.

    Raises:
        IndexError: The index is out of range.
    """
    given = operator.index(index)
    if not -length <= given < length:
        raise _beyond(given, length)
    return given % length


def positions(index: Index, length: int) -> Tensor:
    """Convert an index to positions with NumPy's rules.

    Args:
        index: A slice; a list, tensor or array of integers, which count from the end if they are negative; or one of
            ``length`` booleans.
        length: Number of images.

    Returns:
        Positions (N,), int64, in [0, length).

    Raises:
        IndexError: A number is out of range, or the number of booleans is not ``length``.
        TypeError: The index has another type.
    """
    if isinstance(index, slice):
        return torch.tensor(range(*index.indices(length)), dtype=torch.int64)
    if not isinstance(index, Tensor | np.ndarray | Sequence) or isinstance(index, str | tuple):
        raise TypeError(
            "a distilled set is indexed by a whole number, a slice, or a list, tensor or array of whole numbers or "
            f"booleans, not by {type(index).__name__}."
        )
    given = index.detach().cpu() if isinstance(index, Tensor) else torch.as_tensor(np.asarray(index))
    if given.ndim == 1 and not len(given):
        return torch.empty(0, dtype=torch.int64)
    if given.ndim != 1 or given.is_floating_point() or given.is_complex():
        raise TypeError(
            "a distilled set is indexed by one dimension of whole numbers or booleans, not by "
            f"{given.dtype} of shape {tuple(given.shape)}."
        )
    if given.dtype != torch.bool:
        return _checked(given.to(torch.int64), length)
    if len(given) != length:
        raise IndexError(f"{len(given)} booleans cannot choose among {length} images.")
    return given.nonzero().flatten()


def is_single(index: object) -> bool:
    """Return whether an index selects a single image."""
    return hasattr(index, "__index__") and not getattr(index, "ndim", 0)


def _checked(given: Tensor, length: int) -> Tensor:
    beyond = (given < -length) | (given >= length)
    if bool(beyond.any()):
        raise _beyond(int(given[beyond][0]), length)
    return given % length


def _beyond(given: int, length: int) -> IndexError:
    return IndexError(f"index {given} is out of range for a set of {length} images.")
