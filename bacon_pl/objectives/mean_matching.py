"""The objective of DM (arXiv 2110.04181) and IDM (arXiv 2307.09742)."""

from __future__ import annotations

from torch import Tensor

from bacon_pl.objectives import functional as F
from bacon_pl.objectives.base import Objective, Readings


class MeanMatching(Objective):
    """Squared distance between the mean synthetic and the mean real embeddings of each class.

    Examples:
        >>> import torch
        >>> MeanMatching().terms({"z": torch.zeros(10, 40, 256)}, {"z": torch.ones(10, 128, 256)})["match"][0]
        tensor(256.)
    """

    def terms(self, syn: Readings, real: Readings, mask: Tensor | None = None) -> dict[str, Tensor]:
        """See :meth:`Objective.terms`; the only term is ``match``."""
        mean_real, _ = F.moments(real["z"], mask)
        return {"match": F.mean_match(syn["z"].mean(1), mean_real)}
