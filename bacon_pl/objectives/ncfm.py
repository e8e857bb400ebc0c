"""The objective of NCFM (arXiv 2502.20653)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bacon_pl import ranges, rng
from bacon_pl.errors import BaconError
from bacon_pl.objectives import functional as F
from bacon_pl.objectives.adversary import Adversary
from bacon_pl.objectives.base import Objective, Readings

SHARE = 16
"""Number of frequencies to which the sampling network gives the same scales."""


@dataclass(frozen=True)
class Sampler:
    """Training of the network that scales NCFM's frequencies.

    Args:
        lr: Learning rate of its SGD, positive.
        momentum: Momentum of its SGD, in [0, 1).

    Raises:
        BaconError: An argument is out of range.
    """

    lr: float = 1e-3
    momentum: float = 0.5

    def __post_init__(self) -> None:
        ranges.positive("NCFM's sampler.", lr=self.lr)
        ranges.below_one("NCFM's sampler.", momentum=self.momentum)


class SamplingNetwork(Adversary):
    """Maps noise to scales of frequencies in [-1, 1], so that scales times normal numbers are a mixture of normals.

    Args:
        features: Number of features d of an embedding.
        rows: Number of different scales, each of which serves :data:`SHARE` frequencies.
        settings: How it is trained.
    """

    def __init__(self, features: int, rows: int, settings: Sampler) -> None:
        super().__init__(settings.lr, settings.momentum)
        self.rows = rows
        d = features
        self.layers = nn.Sequential(
            *(nn.Linear(d, d), nn.BatchNorm1d(d), nn.LeakyReLU(0.2)),
            *(nn.Linear(d, d), nn.BatchNorm1d(d), nn.LeakyReLU(0.2)),
            *(nn.Linear(d, d), nn.BatchNorm1d(d), nn.Tanh()),
        )

    def forward(self, *keys: rng.Key) -> dict[str, Tensor]:
        """See :meth:`Adversary.forward`: the ``scales`` (k / 16, d) for fresh noise."""
        weight = next(self.layers.parameters())
        noise = rng.normal(self.rows * weight.shape[1], *keys, "sampler noise", device=weight.device)
        return {"scales": self.layers(noise.view(self.rows, -1).to(weight.dtype))}


class NCFM(Objective):
    """Distance of the empirical characteristic functions of synthetic and real embeddings, at random frequencies.

    With Φ and Φ̃ the means of exp(j⟨t, u⟩) over the real and the synthetic embeddings u of a class, the term is the
    mean over frequencies t of √(amplitude·(|Φ| − |Φ̃|)² + phase·2(|Φ||Φ̃| − Re Φ Φ̃*)). With equal shares it is the
    mean distance |Φ − Φ̃|. The root is not squared, so the gradient does not fade as the images become better.

    The frequencies are standard normal and fresh in every iteration, the same for all classes, where the published code
    draws some for every class. With a ``sampler``, each is multiplied by the scales that a network gives it, which is
    trained to maximize the loss: the paper's ψ. In the published code that network is switched off, and does not learn
    where it is switched on.

    Args:
        weight: Weight of the term, positive; 300 in the published code.
        amplitude: Share α of the difference in amplitude, zero or positive; the rest, 1 − α, is that of the phase.
        frequencies: Number of frequencies k: 4,096 in the published code, 1,024 in the paper.
        unit: Divide embeddings by their length first, as published.
        sampler: Training of a network that scales the frequencies such that the loss is large; {} selects the paper's
            settings. null leaves the frequencies standard normal.

    Raises:
        BaconError: An argument is out of range.

    Example:
        >>> import torch
        >>> z, t = torch.randn(10, 40, 256), torch.randn(1024, 256)
        >>> NCFM().terms({"z": z}, {"z": z, "frequencies": t})["characteristic"].shape
        torch.Size([10])
    """

    def __init__(
        self,
        weight: float = 300.0,
        amplitude: float = 0.5,
        frequencies: int = 1024,
        unit: bool = True,
        sampler: Sampler | None = None,
    ) -> None:
        ranges.positive("NCFM's ", weight=weight)
        ranges.share("NCFM's ", amplitude=amplitude)
        ranges.whole("NCFM's ", frequencies=frequencies)
        if sampler is not None and (frequencies % SHARE or frequencies < 2 * SHARE):
            raise BaconError(
                f"NCFM's frequencies must be a multiple of {SHARE} and at least {2 * SHARE} for a sampler, got "
                f"{frequencies}."
            )
        self.weight = weight
        self.amplitude = amplitude
        self.frequencies = frequencies
        self.unit = unit
        self.sampler = sampler

    def draw(self, real: Readings, *keys: rng.Key) -> dict[str, Tensor]:
        """See :meth:`Objective.draw`: the ``frequencies`` (k, d)."""
        features = real["z"].shape[-1]
        drawn = rng.normal(self.frequencies * features, *keys, "frequencies", device=real["z"].device)
        return {"frequencies": drawn.view(self.frequencies, features)}

    def adversary(self, real: Readings) -> Adversary | None:
        """See :meth:`Objective.adversary`: the sampling network, if there is one."""
        if self.sampler is None:
            return None
        return SamplingNetwork(real["z"].shape[-1], self.frequencies // SHARE, self.sampler)

    def terms(self, syn: Readings, real: Readings, mask: Tensor | None = None) -> dict[str, Tensor]:
        """See :meth:`Objective.terms`; the one term is ``characteristic``."""
        t = real["frequencies"]
        if "scales" in real:
            t = t.to(real["scales"].dtype) * real["scales"].repeat(SHARE, 1)
        re_syn, im_syn = self._function(syn["z"], t)
        re_real, im_real = self._function(real["z"], t, mask)
        amplitude = (torch.hypot(re_real, im_real) - torch.hypot(re_syn, im_syn)).square()
        whole = (re_real - re_syn).square() + (im_real - im_syn).square()
        # As a difference the phase keeps its digits: its own formula takes small differences of products.
        phase = (whole - amplitude).clamp(min=1e-12)
        mixed = self.amplitude * amplitude + (1 - self.amplitude) * phase
        # With no share of the phase it can be 0, where a root has no gradient.
        return {"characteristic": self.weight * mixed.clamp(min=1e-24).sqrt().mean(1)}

    def _function(self, z: Tensor, t: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Real and imaginary part of each class's characteristic function, (C, n, d) → (C, k) each."""
        z = F.at_least_float32(z)
        if self.unit:
            z = torch.nn.functional.normalize(z, dim=-1, eps=1e-12)
        angle = z @ t.to(z.dtype).T
        return F.class_mean(angle.cos(), mask), F.class_mean(angle.sin(), mask)
