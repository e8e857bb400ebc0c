"""BACON's objective (arXiv 2406.01112; method.md §1)."""

from __future__ import annotations

from typing import get_args

from torch import Tensor

from bacon_pl.errors import BaconError, unknown_name
from bacon_pl.objectives import functional as F
from bacon_pl.objectives.base import Objective


class BaconObjective(Objective):
    """L_LH + λ·L_TV + (1 − λ)·L_CLIP.

    Args:
        tv_weight: λ, in [0, 1].
        clip: ``none`` (the published code's term is identically zero), ``acting`` (clamped to [0, 1]) or
            ``symmetric`` (clamped to [-1, 1]).

    Raises:
        BaconError: ``tv_weight`` is outside [0, 1] or ``clip`` is unknown.

    Example:
        >>> import torch
        >>> terms = BaconObjective().terms(torch.zeros(10, 40, 256), torch.randn(10, 128, 256))
        >>> sorted(terms)
        ['likelihood', 'tv']
    """

    def __init__(self, tv_weight: float = 0.8, clip: F.ClipVariant = "none") -> None:
        if not 0 <= tv_weight <= 1:
            raise BaconError(f"the objective's tv_weight must be in [0, 1], got {tv_weight}.")
        if clip not in get_args(F.ClipVariant):
            raise unknown_name("clip variant", str(clip), get_args(F.ClipVariant))
        self.tv_weight = tv_weight
        self.clip: F.ClipVariant = clip

    def terms(self, z_syn: Tensor, z_real: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """See :meth:`Objective.terms`; the terms are ``likelihood``, ``tv`` and, where it acts, ``clip``."""
        mean_real, std_real = F.moments(z_real, mask)
        mean_syn = z_syn.mean(1)
        terms = {
            "likelihood": F.likelihood(mean_syn, mean_real, std_real),
            "tv": self.tv_weight * F.total_variation(mean_syn, mean_real),
        }
        if self.clip != "none":
            terms["clip"] = (1 - self.tv_weight) * F.clip(mean_syn, mean_real, std_real, self.clip)
        return terms
