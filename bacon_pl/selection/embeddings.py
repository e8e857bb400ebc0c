"""Helpers of the selection rules. The embeddings of all classes are in one tensor, padded to the largest class."""

from __future__ import annotations

from torch import Tensor


def centered(z: Tensor, valid: Tensor) -> Tensor:
    """Subtract from embeddings (C, m, d) the mean of their class, taken over those that ``valid`` (C, m) marks."""
    mean = (z * valid.unsqueeze(2)).sum(1, keepdim=True) / valid.sum(1).view(-1, 1, 1)
    return z - mean


def dot(z: Tensor, v: Tensor) -> Tensor:
    """Compute the dot products (C, m) of embeddings (C, m, d) with one vector per class (C, d)."""
    return (z @ v.unsqueeze(2)).squeeze(2)


def take(z: Tensor, position: Tensor) -> Tensor:
    """Return one embedding per class (C, d): those of (C, m, d) at the positions (C, 1)."""
    return z.gather(1, position.unsqueeze(2).expand(-1, -1, z.shape[2])).squeeze(1)
