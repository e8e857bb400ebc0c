"""A weighted sum of objectives, for example BACON's matching term added to that of another method."""

from __future__ import annotations

import math

from torch import Tensor

from bacon_pl import rng
from bacon_pl.errors import BaconError
from bacon_pl.networks import Trace
from bacon_pl.objectives.adversary import Adversaries, Adversary
from bacon_pl.objectives.base import Objective, Readings


class Combined(Objective):
    """Weighted sum of objectives that share one pass of the network.

    Args:
        objectives: The objectives to add up.
        weights: One weight per objective, zero or positive; by default all are 1.

    Raises:
        BaconError: There are no objectives, or their number differs from that of the weights, or a weight is invalid.

    Examples:
        >>> import torch
        >>> from bacon_pl.objectives import BaconObjective, MeanMatching
        >>> both = Combined([MeanMatching(), BaconObjective()], weights=[1.0, 0.5])
        >>> sorted(both.terms({"z": torch.zeros(10, 40, 256)}, {"z": torch.randn(10, 128, 256)}))
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

    @property
    def cross_class(self) -> bool:  # type: ignore[override]
        """Whether at least one of the objectives compares classes with each other."""
        return any(objective.cross_class for objective in self.objectives)

    @property
    def uses_reference(self) -> bool:  # type: ignore[override]
        """Whether one of the objectives reads a reference network's embeddings."""
        return any(objective.uses_reference for objective in self.objectives)

    @property
    def fewest(self) -> int:  # type: ignore[override]
        """The largest of the objectives' numbers of images below which a term has no gradient."""
        return max(objective.fewest for objective in self.objectives)

    @property
    def keeps_embeddings_alone(self) -> bool:
        """Whether all objectives compare only embeddings."""
        return all(objective.keeps_embeddings_alone for objective in self.objectives)

    def keep(self, trace: Trace) -> dict[str, Tensor]:
        """See :meth:`Objective.keep`; names are prefixed with the number of the objective, as in ``0.z``."""
        if self.keeps_embeddings_alone:
            return super().keep(trace)
        parts = enumerate(objective.keep(trace) for objective in self.objectives)
        return {f"{i}.{name}": value for i, part in parts for name, value in part.items()}

    def draw(self, real: Readings, *keys: rng.Key) -> dict[str, Tensor]:
        """See :meth:`Objective.draw`: what each objective draws, its number before it."""
        parts = enumerate(o.draw(self._own(real, i), *keys, i) for i, o in enumerate(self.objectives))
        return {f"{i}.{name}": value for i, part in parts for name, value in part.items()}

    def adversary(self, real: Readings) -> Adversary | None:
        """See :meth:`Objective.adversary`: those of all objectives that have one."""
        found = {i: objective.adversary(self._own(real, i)) for i, objective in enumerate(self.objectives)}
        parts = {i: part for i, part in found.items() if part is not None}
        return Adversaries(parts) if parts else None

    def terms(self, syn: Readings, real: Readings, mask: Tensor | None = None) -> dict[str, Tensor]:
        """See :meth:`Objective.terms`; repeated names are numbered, as in ``match`` and ``match_2``."""
        found: dict[str, Tensor] = {}
        for i, (weight, objective) in enumerate(zip(self.weights, self.objectives, strict=True)):
            own = (self._own(syn, i), self._own(real, i))
            for name, value in objective.terms(*own, mask).items():
                key, number = name, 1
                while key in found:
                    number += 1
                    key = f"{name}_{number}"
                found[key] = weight * value
        return found

    def _own(self, readings: Readings, i: int) -> Readings:
        """Return the tensors that objective ``i`` selected and drew, under its own names, and the shared ones."""
        names = ("z", "reference") if self.objectives[i].uses_reference else ("z",)
        shared = {name: readings[name] for name in names if name in readings}
        own = {name[len(f"{i}.") :]: value for name, value in readings.items() if name.startswith(f"{i}.")}
        return {**shared, **own}
