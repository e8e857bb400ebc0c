"""Estimates of the bound, by Monte Carlo, and of the risk, by counting, from given embeddings (arXiv 2406.01112).

A class has no radius if it has a single real image, or if more than half of its pairs of images coincide. Its values
are then NaN, and means over classes leave it out.
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
"""Numbers in memory during one step of the Monte Carlo estimate; every step takes at least one draw."""

RADIUS_ROWS = 256
"""Number of real embeddings of a class whose pairs (32,640 of them) determine its radius."""


@dataclass(frozen=True)
class Bound:
    """Lower bound of log ∫_B p(z̃|z) p(z) dz, in nats, averaged over the embeddings of a class.

    Attributes:
        draws: (k, C), the estimate from each draw. All embeddings of all classes share the draws.
        integral: (C,), the logarithm of the integral itself, estimated from the same draws. It is never below the
            bound. If the log-densities of the draws differ by more than a few nats, as in many dimensions, the largest
            one dominates and the estimate is too low.
    """

    draws: Tensor
    integral: Tensor

    @property
    def per_class(self) -> Tensor:
        """Bound of each class, (C,)."""
        return self.draws.mean(0)

    @property
    def per_class_se(self) -> Tensor:
        """Standard errors over the draws, (C,)."""
        return self.draws.std(0) / math.sqrt(len(self.draws))

    @property
    def value(self) -> Tensor:
        """Mean of the bound over classes, 0-d."""
        return self.draws.nanmean(1).mean()

    @property
    def se(self) -> Tensor:
        """Standard error of :attr:`value` over the draws, which all classes share; 0-d."""
        return self.draws.nanmean(1).std() / math.sqrt(len(self.draws))


@dataclass(frozen=True)
class Risk:
    """Share of the pairs of a synthetic and a real embedding of a class that are farther apart than ε.

    Attributes:
        per_class: (C,), in [0, 1].
        per_class_se: (C,), standard errors over the real embeddings, for the given radius and synthetic embeddings.
    """

    per_class: Tensor
    per_class_se: Tensor

    @property
    def value(self) -> Tensor:
        """Mean of the risk over classes, 0-d."""
        return self.per_class.nanmean()

    @property
    def se(self) -> Tensor:
        """Standard error of :attr:`value`, 0-d; the real embeddings of different classes are independent."""
        return self.per_class_se.square().nansum().sqrt() / self.per_class_se.isfinite().sum()


@dataclass(frozen=True)
class Measured:
    """Bound and risk, with the radius (C,) that both use."""

    bound: Bound
    risk: Risk
    epsilon: Tensor

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """All values as tensors whose last dimension is the class."""
        return self.bound.draws, self.bound.integral, self.risk.per_class, self.risk.per_class_se, self.epsilon

    @classmethod
    def of(cls, parts: Iterable[Tensor]) -> Measured:
        """Reassemble an object from its :attr:`parts`."""
        draws, integral, risk, risk_se, epsilon = parts
        return cls(Bound(draws, integral), Risk(risk, risk_se), epsilon)

    @classmethod
    def join(cls, blocks: Iterable[Measured]) -> Measured:
        """Concatenate the results of several blocks of classes that were measured with the same draws."""
        return cls.of(torch.cat(parts, -1) for parts in zip(*(block.parts for block in blocks), strict=True))

    def summary(self) -> dict[str, Tensor]:
        """Return the means over classes, 0-d, by name: bound, bound_se, risk, risk_se (standard errors) and epsilon."""
        return {
            "bound": self.bound.value,
            "bound_se": self.bound.se,
            "risk": self.risk.value,
            "risk_se": self.risk.se,
            "epsilon": self.epsilon.nanmean(),
        }


@torch.no_grad()
def measure(z_syn: Tensor, z_real: Tensor, mask: Tensor | None, settings: BoundSettings, *keys: int | str) -> Measured:
    """Compute the bound and the risk of synthetic embeddings, without gradient.

    Args:
        z_syn: Synthetic embeddings (C, m, d).
        z_real: Real embeddings (C, n, d).
        mask: (C, n) bool, True for rows of ``z_real`` that count, which come first; None if all do.
        settings: How the bound and the risk are computed.
        keys: Coordinates of the draws: seed, purpose, iteration.

    Returns:
        The bound and the risk of every class.
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

    The likelihood depends on z̃ - z_i alone, so it is the same for all embeddings of a class; the prior is not.

    Args:
        z_syn: Synthetic embeddings z̃, (C, m, d).
        mean: Mean μ of the real embeddings, (C, d).
        std: Standard deviation s of the real embeddings, (C, d).
        epsilon: Radius of the ball, (C,).
        unit: Points in the unit ball, (k, d), which are scaled and shifted to the ball of every embedding.
        tv_weight: λ of the prior, in [0, 1].
        clip: Clip term of the prior.

    Returns:
        The bound of every class.

    Raises:
        BaconError: The settings do not define a density.
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
    """Estimate R = E 1[‖z̃ - z‖ > ε] over the pairs within each class.

    The standard error is that of a mean over real embeddings, since these are a sample of all images of the class,
    whereas the synthetic embeddings are given.

    Args:
        z_syn: Synthetic embeddings (C, m, d).
        z_real: Real embeddings (C, n, d).
        epsilon: Radius, (C,).
        mask: (C, n) bool, True for rows of ``z_real`` that count; None if all do.

    Returns:
        The risk of every class.
    """
    middle = z_real.mean(1, keepdim=True)  # centering reduces the rounding errors of distances by matrix products
    far = (torch.cdist(z_syn - middle, z_real - middle) > epsilon[:, None, None]).to(z_syn.dtype).mean(1)
    mean, std = (part.squeeze(1) for part in F.moments(far.unsqueeze(2), mask))
    count = torch.full_like(mean, far.shape[1]) if mask is None else mask.sum(1).to(mean.dtype)
    known = epsilon.isfinite()
    per_class = mean.where(known, math.nan)
    per_class_se = (std / count.sqrt()).where(known & (count > 1), math.nan)
    return Risk(per_class, per_class_se)


def median_distance(z: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute the median distance between two embeddings of the same class.

    Args:
        z: Embeddings (C, n, d).
        mask: (C, n) bool, True for rows that count; None if all do.

    Returns:
        (C,); NaN for a class with a single embedding, or whose median distance is 0.
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
    # Sorted rather than torch.median, which has no deterministic implementation on CUDA.
    ordered = pairs.sort(1).values
    middle = torch.stack([(count - 1).clamp(min=0) // 2, count // 2], 1).clamp(max=pairs.shape[1] - 1)
    median = ordered.gather(1, middle).mean(1)
    return median.where((count > 0) & (median > 0), math.nan)
