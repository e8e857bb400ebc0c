"""The objective of DataDAM (arXiv 2310.00093)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bacon_pl.errors import BaconError
from bacon_pl.networks import Trace
from bacon_pl.objectives import functional as F
from bacon_pl.objectives.base import Objective, Readings


class DataDAM(Objective):
    """Matches the mean attention maps of every block but the last, and the mean embeddings.

    An image's attention map is the sum over channels of the activations before a pooling, each raised to ``power``,
    scaled to unit length. The last block has none: the embedding stands in its place. The paper's factor of 100 is in
    all terms.

    Args:
        power: Exponent p of an activation, at least 1. The paper says 4; the published code passes 1, so if the sets
            that were handed out were made by that code, they were made with 1.
        weight: The paper's task balance λ, zero or positive: weight of the embedding's term, 0.01 for images of up to
            64×64 pixels, 0.02 for larger ones.

    Raises:
        BaconError: An argument is out of range.

    Example:
        >>> import torch
        >>> from bacon_pl.networks import ConvNet
        >>> network, objective = ConvNet(3, (16, 16), 10, width=4), DataDAM()
        >>> kept, _ = objective.read(network, torch.randn(6, 3, 16, 16))
        >>> {name: tuple(value.shape) for name, value in kept.items()}
        {'z': (6, 16), 'attention_1': (6, 256), 'attention_2': (6, 64)}
    """

    def __init__(self, power: float = 4.0, weight: float = 0.01) -> None:
        for name, value, least in (("power", power, 1), ("weight", weight, 0)):
            if not (value >= least and math.isfinite(value)):
                raise BaconError(f"DataDAM's {name} must be at least {least} and finite, got {value}.")
        self.power = power
        self.weight = weight

    def keep(self, trace: Trace) -> dict[str, Tensor]:
        """See :meth:`Objective.keep`: embeddings ``z`` (B, d), and ``attention_1``, … (B, H·W) of the blocks.

        Raises:
            BaconError: The network shows no activations.
        """
        if not trace.hidden:
            raise BaconError("DataDAM needs the activations of a network's blocks, which this one does not show.")
        maps = (attention(hidden, self.power) for hidden in trace.hidden[:-1])
        return {"z": trace.z, **{f"attention_{i}": value for i, value in enumerate(maps, 1)}}

    def terms(self, syn: Readings, real: Readings, mask: Tensor | None = None) -> dict[str, Tensor]:
        """See :meth:`Objective.terms`; the terms are ``attention_1``, … and ``embedding``."""
        found = {
            name: 100 * F.mean_match(value.mean(1), F.class_mean(real[name], mask))
            for name, value in syn.items()
            if name != "z"
        }
        embedding = F.mean_match(syn["z"].mean(1), F.class_mean(real["z"], mask))
        return {**found, "embedding": 100 * self.weight * embedding}


def attention(hidden: Tensor, power: float) -> Tensor:
    """Attention maps of unit length.

    Args:
        hidden: Activations (B, ch, H, W).
        power: Exponent of their absolute values.

    Returns:
        (B, H·W), of at least float32; zeros where all activations are.
    """
    hidden = F.at_least_float32(hidden)
    size = hidden.abs() if power % 2 else hidden
    if power in (2, 4):  # squares are several times faster than a general power
        size = size.square() if power == 2 else size.square().square()
    elif power != 1:
        size = size.pow(power)
    return torch.nn.functional.normalize(size.sum(1).flatten(1), dim=1, eps=1e-12)
