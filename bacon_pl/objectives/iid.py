"""The objective of IID (arXiv 2404.00563)."""

from __future__ import annotations

import torch
from torch import Tensor

from bacon_pl import ranges
from bacon_pl.errors import BaconError
from bacon_pl.networks import Trace
from bacon_pl.objectives import functional as F
from bacon_pl.objectives.base import Objective, Readings


class IID(Objective):
    """Mean matching with two more terms: channel covariances are matched, and synthetic images drawn together.

    The covariance of a class is that of the channels of the last feature map: each channel and position has its own
    mean over the images, products are summed over positions and averaged over images. The center term is the sum of
    squared distances of the synthetic images' embeddings from their mean; real images do not enter it. With one
    synthetic image of a class, tiles counted, neither of the two has a gradient.

    The embeddings of the center term come from a reference network that was trained on the real images, where the
    method has one (see :class:`~bacon_pl.distillers.DistributionMatching`), else from the matched network itself.

    Args:
        covariance: λ_CM, zero or positive: weight of the covariance term; 0.01 on top of DM, 0.03 on top of IDM.
        center: λ_CC, zero or positive: weight of the center term; 0.05 on top of DM, 0.01 on top of IDM.
        rows: How many leading axes of a feature map (ch, H, W) count as channels: 1, or 2, which the published code
            has for images of 64×64 pixels.

    Raises:
        BaconError: An argument is out of range.

    Example:
        >>> import torch
        >>> syn = {"z": torch.randn(10, 40, 64), "map": torch.randn(10, 40, 16, 2, 2)}
        >>> real = {"z": torch.randn(10, 128, 64), "map": torch.randn(10, 128, 16, 2, 2)}
        >>> {name: tuple(value.shape) for name, value in IID().terms(syn, real).items()}
        {'match': (10,), 'covariance': (10,), 'center': (10,)}
    """

    uses_reference = True
    fewest = 2

    def __init__(self, covariance: float = 0.03, center: float = 0.01, rows: int = 1) -> None:
        ranges.not_negative("IID's ", covariance=covariance, center=center)
        if rows not in (1, 2):
            raise BaconError(f"IID's rows must be 1 or 2, got {rows}.")
        self.covariance = covariance
        self.center = center
        self.rows = rows

    def keep(self, trace: Trace) -> dict[str, Tensor]:
        """See :meth:`Objective.keep`: embeddings ``z`` (B, d) and the last block's output ``map`` (B, ch, H, W).

        Raises:
            BaconError: The network shows no feature maps.
        """
        if not trace.stages:
            raise BaconError("IID needs the output of a network's last block, which this one does not show.")
        return {"z": trace.z, "map": trace.stages[-1]}

    def terms(self, syn: Readings, real: Readings, mask: Tensor | None = None) -> dict[str, Tensor]:
        """See :meth:`Objective.terms`; the terms are ``match``, ``covariance`` and ``center``."""
        match = F.mean_match(syn["z"].mean(1), F.class_mean(real["z"], mask))
        difference = self._covariance(real["map"], mask) - self._covariance(syn["map"])
        reference = F.at_least_float32(syn.get("reference", syn["z"]))
        spread = (reference - reference.mean(1, keepdim=True)).square().sum((1, 2))
        return {
            "match": match,
            "covariance": self.covariance * difference.square().sum((1, 2)),
            "center": self.center * spread,
        }

    def _covariance(self, maps: Tensor, mask: Tensor | None = None) -> Tensor:
        """Covariance of the channels of each class's feature maps: (C, n, ch, H, W) → (C, ch, ch)."""
        maps = F.at_least_float32(maps)
        maps = maps.flatten(2, 1 + self.rows).flatten(3)
        deviations = maps - F.class_mean(maps, mask).unsqueeze(1)
        weight = torch.ones_like(maps[:, :, 0, 0]) if mask is None else mask.to(maps.dtype)
        weighted = deviations * (weight / weight.sum(1, keepdim=True))[:, :, None, None]
        # (C, ch, n·positions) each: one product of matrices for a class.
        left, right = (part.transpose(1, 2).flatten(2) for part in (weighted, deviations))
        return left @ right.mT
