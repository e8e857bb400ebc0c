"""What rules of choice share: embeddings of all classes at once, of which some places are empty."""

from __future__ import annotations

from torch import Tensor


def centered(z: Tensor, valid: Tensor) -> Tensor:
    """Subtract from embeddings (C, m, d) the mean of those of their class that exist, as ``valid`` (C, m) says."""
    mean = (z * valid.unsqueeze(2)).sum(1, keepdim=True) / valid.sum(1).view(-1, 1, 1)
    return z - mean


def dot(z: Tensor, v: Tensor) -> Tensor:
    """Products of embeddings (C, m, d) with one vector of each class (C, d): (C, m)."""
    return (z @ v.unsqueeze(2)).squeeze(2)


def take(z: Tensor, position: Tensor) -> Tensor:
    """Take one embedding of each class: of (C, m, d), at positions (C, 1), the embeddings (C, d)."""
    return z.gather(1, position.unsqueeze(2).expand(-1, -1, z.shape[2])).squeeze(1)
