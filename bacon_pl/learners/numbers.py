"""The numbers that networks' tests come down to."""

from __future__ import annotations

import torch
from torch import Tensor


def accuracies(confusion: Tensor) -> Tensor:
    """Top-1 accuracies in percent, (K,), of confusion matrices (K, C, C)."""
    return 100 * (confusion.diagonal(dim1=1, dim2=2).sum(1) / confusion.sum((1, 2)))


def spread(values: Tensor) -> Tensor:
    """Unbiased standard deviation over the first dimension of (n, …) values; 0 for a single one."""
    return values.std(0) if len(values) > 1 else torch.zeros_like(values[0])
