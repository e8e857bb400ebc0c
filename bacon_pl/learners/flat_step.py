"""Steps to flat minima: the surrogate-gap, sharpness-aware step with an adaptive radius of FTD's experts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bacon_pl import ranges

_TINY = 1e-12


@dataclass(frozen=True)
class FlatStep:
    """How a network's step avoids sharp minima (FTD, arXiv 2211.11004; the step is that of GSAM, arXiv 2203.08065).

    The gradient is taken a second time, on the same batch, at weights moved uphill. The step follows that gradient and,
    by a share ``alpha``, climbs by the part of the first one that is orthogonal to it, which makes the gap between the
    two losses smaller. It takes twice the time.

    Args:
        rho: Radius of the move uphill.
        alpha: Share of the orthogonal part.

    Raises:
        BaconError: An argument is out of range.
    """

    rho: float = 0.01
    alpha: float = 0.3

    def __post_init__(self) -> None:
        ranges.positive("a flat step's ", rho=self.rho)
        ranges.not_negative("a flat step's ", alpha=self.alpha)

    def gradients(
        self, networks: Sequence[Sequence[Tensor]], gradients: Sequence[Tensor], loss: Callable[[], Tensor]
    ) -> tuple[Tensor, ...]:
        """Return the gradients of the steps of several networks, which never mix.

        Args:
            networks: Parameters of each network; moved while the loss is computed, and put back.
            gradients: Gradients of all of them, one network after another.
            loss: Computes the sum of their losses on the same batches again.
        """
        parts = iter(gradients)
        own = [[next(parts) for _ in weights] for weights in networks]
        before = [[w.detach().clone() for w in weights] for weights in networks]
        with torch.no_grad():
            for weights, g in zip(networks, own, strict=True):
                for w, move in zip(weights, self.uphill(weights, g), strict=True):
                    w += move
        parts = iter(torch.autograd.grad(loss(), [w for weights in networks for w in weights]))
        found = [self.combined(g, [next(parts) for _ in g]) for g in own]
        with torch.no_grad():
            for weights, kept in zip(networks, before, strict=True):
                for w, value in zip(weights, kept, strict=True):
                    w.copy_(value)
        return tuple(g for each in found for g in each)

    def uphill(self, weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
        """Return how the weights of one network are moved before the gradient is taken again.

        Args:
            weights: The network's parameters.
            gradients: Their gradients.

        Returns:
            ρ·w²·g / ‖|w|·g‖, one tensor per parameter; the norm is over all of them.
        """
        scale = self.rho / (_norm([w.abs() * g for w, g in zip(weights, gradients, strict=True)]) + _TINY)
        return [w.square() * g * scale for w, g in zip(weights, gradients, strict=True)]

    def combined(self, gradients: Sequence[Tensor], uphill: Sequence[Tensor]) -> list[Tensor]:
        """Return the gradient of the step, g′ − α·v, where v is the part of g that is orthogonal to g′.

        Args:
            gradients: g, the gradients of one network.
            uphill: g′, those at the moved weights.
        """
        norm, norm_uphill = _norm(gradients), _norm(uphill)
        product = torch.stack([(g * u).sum() for g, u in zip(gradients, uphill, strict=True)]).sum()
        cosine = product / (norm * norm_uphill + _TINY)
        along = cosine * norm / (norm_uphill + _TINY)
        return [u - self.alpha * (g - along * u) for g, u in zip(gradients, uphill, strict=True)]


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([t.square().sum() for t in tensors]).sum().sqrt()
