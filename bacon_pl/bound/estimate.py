"""The bound by Monte Carlo and the risk by counting, of embeddings that are given (arXiv 2406.01112).

A class without a radius, because it has a single real image or more than half of its pairs coincide, has NaN
everywhere; means over classes leave it out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from bacon_pl.bound.ball import draw_in_ball, log_volume
from bacon_pl.bound.densities import log_likelihood, log_prior
from bacon_pl.bound.settings import BoundSettings
from bacon_pl.objectives import functional as F

CHUNK = 1 << 22
"""Numbers held at once by a step of the Monte Carlo, but at least one draw for all embeddings."""

RADIUS_ROWS = 256
"""Real embeddings of a class whose pairs give its radius: 32,640 pairs."""


@dataclass(frozen=True)
class Bound:
    """Lower bound of log ∫_B p(z̃|z) p(z) dz, in nats, averaged over the embeddings of a class.

    Attributes:
        draws: (k, C): what each draw says of it. All embeddings of all classes share the draws.
        integral: (C,): the logarithm of the integral itself, by the same draws. It is never below the bound. Where the
            draws' log-densities spread by more than a few nats, as in many dimensions, the largest of them decides,
            and it is too low.
    """

    draws: Tensor
    integral: Tensor

    @property
    def per_class(self) -> Tensor:
        """(C,)."""
        return self.draws.mean(0)

    @property
    def per_class_se(self) -> Tensor:
        """(C,): standard errors over the draws."""
        return self.draws.std(0) / math.sqrt(len(self.draws))

    @property
    def value(self) -> Tensor:
        """(): mean over classes."""
        return self.draws.nanmean(1).mean()

    @property
    def se(self) -> Tensor:
        """(): its standard error, over the draws that the classes share."""
        return self.draws.nanmean(1).std() / math.sqrt(len(self.draws))


@dataclass(frozen=True)
class Risk:
    """Share of the pairs of a class's synthetic and real embeddings that are further apart than ε.

    Attributes:
        per_class: (C,), in [0, 1].
        per_class_se: (C,): standard errors over the real embeddings, radius and synthetic ones given.
    """

    per_class: Tensor
    per_class_se: Tensor

    @property
    def value(self) -> Tensor:
        """(): mean over classes."""
        return self.per_class.nanmean()

    @property
    def se(self) -> Tensor:
        """(): its standard error; the classes' real embeddings are independent of each other."""
        return self.per_class_se.square().nansum().sqrt() / self.per_class_se.isfinite().sum()


@dataclass(frozen=True)
class Measured:
    """Bound, risk, and the radius (C,) of both."""

    bound: Bound
    risk: Risk
    epsilon: Tensor

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """All numbers; the last dimension is the class."""
        return self.bound.draws, self.bound.integral, self.risk.per_class, self.risk.per_class_se, self.epsilon

    @classmethod
    def of(cls, parts: Iterable[Tensor]) -> Measured:
        """What :attr:`parts` took apart."""
        draws, integral, risk, risk_se, epsilon = parts
        return cls(Bound(draws, integral), Risk(risk, risk_se), epsilon)

    @classmethod
    def join(cls, blocks: Iterable[Measured]) -> Measured:
        """Put blocks of classes, measured with the same draws, together."""
        return cls.of(torch.cat(parts, -1) for parts in zip(*(block.parts for block in blocks), strict=True))

    def summary(self) -> dict[str, Tensor]:
        """Means over classes with standard errors, (): ``bound``, ``bound_se``, ``risk``, ``risk_se``, ``epsilon``."""
        return {
            "bound": self.bound.value,
            "bound_se": self.bound.se,
            "risk": self.risk.value,
            "risk_se": self.risk.se,
            "epsilon": self.epsilon.nanmean(),
        }


@torch.no_grad()
def measure(z_syn: Tensor, z_real: Tensor, mask: Tensor | None, settings: BoundSettings, *keys: int | str) -> Measured:
    """Compute bound and risk of synthetic embeddings, without a gradient.

    Args:
        z_syn: (C, m, d).
        z_real: (C, n, d).
        mask: (C, n) bool, rows of ``z_real`` that count, which come first; None for all.
        settings: How.
        keys: Coordinates of the draws: seed, purpose, iteration.
    """
    with torch.autocast(z_syn.device.type, enabled=False):
        dtype = torch.promote_types(z_syn.dtype, torch.float32)
        z_syn, z_real = z_syn.to(dtype), z_real.to(dtype)
        mean, std = F.moments(z_real, mask)
        if settings.epsilon is None:
            epsilon = median_distance(z_real[:, :RADIUS_ROWS], None if mask is None else mask[:, :RADIUS_ROWS])
        else:
            epsilon = mean.new_full(mean.shape[:1], settings.epsilon)
        unit = draw_in_ball(settings.samples, z_syn.shape[2], *keys, device=z_syn.device, dtype=dtype)
        return Measured(
            bound(z_syn, mean, std, epsilon, unit, settings.tv_weight, settings.clip),
            risk(z_syn, z_real, epsilon, mask),
            epsilon,
        )


def bound(
    z_syn: Tensor, mean: Tensor, std: Tensor, epsilon: Tensor, unit: Tensor, tv_weight: float, clip: F.ClipVariant
) -> Bound:
    """Estimate log|B| + (1/k) Σ_i [log p(z̃|z_i) + log p(z_i)] with z_i uniform in B(z̃, ε).

    The likelihood depends on z̃ - z_i alone, so its part is the same for all embeddings of a class; the prior's is not.

    Args:
        z_syn: Embeddings z̃, (C, m, d).
        mean: Mean μ of the real embeddings, (C, d).
        std: Their standard deviation s, (C, d).
        epsilon: Radius, (C,).
        unit: Draws in the ball of radius 1, (k, d), of which all embeddings take their own copy.
        tv_weight: λ of the prior.
        clip: Clip term of the prior.

    Raises:
        BaconError: The settings make no density.
    """
    steps = unit[:, None] * epsilon[:, None]  # (k, C, d)
    offset = z_syn - mean[:, None]
    chunk = max(1, CHUNK // z_syn.numel())
    prior = torch.cat(
        [log_prior(offset + part[:, :, None], std[:, None], tv_weight, clip) for part in steps.split(chunk)]
    )
    volume = log_volume(unit.shape[1], epsilon)
    found = volume[:, None] + log_likelihood(steps, std)[:, :, None] + prior  # (k, C, m)
    return Bound(found.mean(2), (found.logsumexp(0) - math.log(len(unit))).mean(1))


def risk(z_syn: Tensor, z_real: Tensor, epsilon: Tensor, mask: Tensor | None = None) -> Risk:
    """Count R = E 1[‖z̃ - z‖ > ε] over the pairs within each class.

    The real embeddings are a sample of all, the synthetic ones are what is asked about: the standard error is that of
    a mean over real embeddings.

    Args:
        z_syn: (C, m, d).
        z_real: (C, n, d).
        epsilon: (C,).
        mask: (C, n) bool, rows of ``z_real`` that count; None for all.
    """
    middle = z_real.mean(1, keepdim=True)  # distances by products of matrices round least about their middle
    far = (torch.cdist(z_syn - middle, z_real - middle) > epsilon[:, None, None]).to(z_syn.dtype).mean(1)
    mean, std = (part.squeeze(1) for part in F.moments(far.unsqueeze(2), mask))
    count = torch.full_like(mean, far.shape[1]) if mask is None else mask.sum(1).to(mean.dtype)
    known = epsilon.isfinite()
    per_class = mean.where(known, math.nan)
    per_class_se = (std / count.sqrt()).where(known & (count > 1), math.nan)
    return Risk(per_class, per_class_se)


def median_distance(z: Tensor, mask: Tensor | None = None) -> Tensor:
    """Median distance of two embeddings of a class.

    Args:
        z: (C, n, d).
        mask: (C, n) bool, rows that count; None for all.

    Returns:
        (C,); NaN for a class without two different embeddings.
    """
    n = z.shape[1]
    if n < 2:
        return z.new_full(z.shape[:1], math.nan)
    z = z - z.mean(1, keepdim=True)
    first, second = torch.triu_indices(n, n, 1, device=z.device)
    pairs = torch.cdist(z, z)[:, first, second]
    if mask is None:
        count = torch.full_like(pairs[:, 0], pairs.shape[1], dtype=torch.int64)
    else:
        there = mask[:, first] & mask[:, second]
        count, pairs = there.sum(1), pairs.masked_fill(~there, math.inf)
    # Sorting, for torch's median of a CUDA tensor refuses to be deterministic.
    ordered = pairs.sort(1).values
    middle = torch.stack([(count - 1).clamp(min=0) // 2, count // 2], 1).clamp(max=pairs.shape[1] - 1)
    median = ordered.gather(1, middle).mean(1)
    return median.where((count > 0) & (median > 0), math.nan)
