"""Several objectives as one: how BACON's matching term is plugged into another method (method.md §2)."""

from __future__ import annotations

import math

from torch import Tensor

from bacon_pl.errors import BaconError
from bacon_pl.objectives.base import Objective


class Combined(Objective):
    """Weighted sum of objectives, over the same embeddings.

    Args:
        objectives: What is added up.
        weights: A weight for each, zero or positive; 1 by default.

    Raises:
        BaconError: There are no objectives, or the weights do not fit them.

    Example:
        >>> import torch
        >>> from bacon_pl.objectives import BaconObjective, MeanMatching
        >>> both = Combined([MeanMatching(), BaconObjective()], weights=[1.0, 0.5])
        >>> sorted(both.terms(torch.zeros(10, 40, 256), torch.randn(10, 128, 256)))
        ['likelihood', 'match', 'tv']
    """

    def __init__(self, objectives: list[Objective], weights: list[float] | None = None) -> None:
        if not objectives:
            raise BaconError("Combined needs at least one objective: give --model.objective.objectives a list.")
        weights = [1.0] * len(objectives) if weights is None else list(weights)
        if len(weights) != len(objectives) or not all(w >= 0 and math.isfinite(w) for w in weights):
            raise BaconError(
                f"Combined needs one weight for each of its {len(objectives)} objectives, each zero or positive and "
                f"finite, got {weights}."
            )
        self.objectives = list(objectives)
        self.weights = weights

    def terms(self, z_syn: Tensor, z_real: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """See :meth:`Objective.terms`; a name that two objectives share is numbered: ``match``, ``match_2``."""
        found: dict[str, Tensor] = {}
        for weight, objective in zip(self.weights, self.objectives, strict=True):
            for name, value in objective.terms(z_syn, z_real, mask).items():
                key, number = name, 1
                while key in found:
                    number += 1
                    key = f"{name}_{number}"
                found[key] = weight * value
        return found
