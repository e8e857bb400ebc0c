"""BACON's objective (arXiv 2406.01112)."""

from __future__ import annotations

from typing import get_args

from torch import Tensor

from bacon_pl import ranges
from bacon_pl.errors import unknown_name
from bacon_pl.objectives import functional as F
from bacon_pl.objectives.base import Objective, Readings


class BaconObjective(Objective):
    """BACON's loss L_LH + λ·L_TV + (1 − λ)·L_CLIP of the embeddings of each class.

    The term ``likelihood`` is a negative log-likelihood, so lower is better. The term ``tv``, called total variation in
    the paper, is half the L1 distance between the mean embeddings; it is unrelated to the smoothness of images.

    Args:
        tv_weight: λ in [0, 1], the weight of ``tv``; the clip term has the weight 1 − λ.
        clip: Variant of the clip term: ``none`` leaves it out (in the published code the term is identically zero),
            ``acting`` clamps to [0, 1], and ``symmetric`` clamps to [-1, 1].

    Raises:
        BaconError: ``tv_weight`` is outside [0, 1] or ``clip`` is unknown.

    Examples:
        >>> import torch
        >>> terms = BaconObjective().terms({"z": torch.zeros(10, 40, 256)}, {"z": torch.randn(10, 128, 256)})
        >>> sorted(terms)
        ['likelihood', 'tv']
    """

    published_name = "bacon"

    def __init__(self, tv_weight: float = 0.8, clip: F.ClipVariant = "none") -> None:
        ranges.share("the objective's ", tv_weight=tv_weight)
        if clip not in get_args(F.ClipVariant):
            raise unknown_name("clip variant", str(clip), get_args(F.ClipVariant))
        self.tv_weight = tv_weight
        self.clip: F.ClipVariant = clip

    def terms(self, syn: Readings, real: Readings, mask: Tensor | None = None) -> dict[str, Tensor]:
        """See :meth:`Objective.terms`; the terms are ``likelihood``, ``tv`` and, unless it is off, ``clip``."""
        mean_real, std_real = F.moments(real["z"], mask)
        mean_syn = syn["z"].mean(1)
        terms = {
            "likelihood": F.likelihood(mean_syn, mean_real, std_real),
            "tv": self.tv_weight * F.total_variation(mean_syn, mean_real),
        }
        if self.clip != "none":
            terms["clip"] = (1 - self.tv_weight) * F.clip(mean_syn, mean_real, std_real, self.clip)
        return terms
