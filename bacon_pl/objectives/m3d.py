"""The objective of M3D (arXiv 2312.15927)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from bacon_pl import ranges
from bacon_pl.errors import unknown_name
from bacon_pl.objectives import functional as F
from bacon_pl.objectives.base import Objective, Readings

Kernel = Literal["gaussian", "linear", "polynomial", "laplace"]

_SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)
_GAMMAS = (0.1, 1.0, 5.0)


class M3D(Objective):
    """Squared maximum mean discrepancy between the synthetic and the real embeddings of each class.

    It is the squared distance of their means in the feature space of a kernel, so with a universal kernel all moments
    are matched. The biased statistic is taken: it is not negative, and does not reach 0 for different finite samples.
    Its gradient by a pixel is small, so it needs a learning rate of its own.

    Args:
        kernel: ``gaussian``, the sum of five Gaussians about a bandwidth; ``linear``, which gives mean matching;
            ``polynomial``, (⟨a, b⟩ + 1)²; or ``laplace``, as the published code calls a sum of Gaussians of fixed
            widths, which is flat at distances of more than a few units.
        bandwidth: Bandwidth h of ``gaussian``, positive; by default, as published, the mean squared distance of the
            iteration's embeddings of the class, synthetic and real, which is taken as a constant.

    Raises:
        BaconError: The kernel is unknown, or the bandwidth is not positive.

    Example:
        >>> import torch
        >>> z = torch.randn(10, 40, 256)
        >>> M3D().terms({"z": z}, {"z": z})["mmd"].abs().max() < 1e-5
        tensor(True)
    """

    def __init__(self, kernel: Kernel = "gaussian", bandwidth: float | None = None) -> None:
        if kernel not in get_args(Kernel):
            raise unknown_name("kernel of M3D", str(kernel), get_args(Kernel))
        ranges.positive("M3D's ", **ranges.given(bandwidth=bandwidth))
        self.kernel: Kernel = kernel
        self.bandwidth = bandwidth

    def terms(self, syn: Readings, real: Readings, mask: Tensor | None = None) -> dict[str, Tensor]:
        """See :meth:`Objective.terms`; the one term is ``mmd``."""
        z_syn, z_real = F.at_least_float32(syn["z"]), F.at_least_float32(real["z"])
        weight_real = torch.ones_like(z_real[..., 0]) if mask is None else mask.to(z_real.dtype)
        weight = torch.cat([torch.ones_like(z_syn[..., 0]), weight_real], 1)
        rows = torch.cat([z_syn, z_real], 1)
        kernel = self._kernel(rows, weight)
        # The difference of the two sides' means, as one weighting of the rows: the discrepancy is its quadratic form.
        sign = torch.cat(
            [torch.full_like(z_syn[..., 0], 1 / z_syn.shape[1]), -weight_real / weight_real.sum(1, keepdim=True)], 1
        )
        return {"mmd": torch.einsum("ca,cab,cb->c", sign, kernel, sign)}

    def _kernel(self, rows: Tensor, weight: Tensor) -> Tensor:
        """Kernel of all pairs of a class's embeddings (C, N, d), of which those of weight 1 count: (C, N, N)."""
        if self.kernel in ("linear", "polynomial"):
            product = rows @ rows.mT
            return product if self.kernel == "linear" else (product + 1).square()
        distance = squared_distances(rows)
        if self.kernel == "laplace":
            return _summed(lambda gamma: (-gamma * distance).exp(), _GAMMAS)
        bandwidth = _mean(distance.detach(), weight) if self.bandwidth is None else self.bandwidth
        return _summed(lambda scale: (-distance / (scale * bandwidth)).exp(), _SCALES)


def squared_distances(rows: Tensor) -> Tensor:
    """Squared distances of all pairs of rows: (C, N, d) → (C, N, N)."""
    square = rows.square().sum(-1)
    return (square.unsqueeze(2) + square.unsqueeze(1) - 2 * rows @ rows.mT).clamp(min=0)


def _mean(distance: Tensor, weight: Tensor) -> Tensor:
    """Mean squared distance of different rows that count: (C, N, N) and (C, N) → (C, 1, 1)."""
    count = weight.sum(1)
    spread = torch.einsum("ca,cab,cb->c", weight, distance, weight) / (count.square() - count).clamp(min=1)
    return torch.where(spread > 0, spread, 1).view(-1, 1, 1)  # where all rows are one point, any bandwidth will do


def _summed(part: Callable[[float], Tensor], numbers: tuple[float, ...]) -> Tensor:
    return torch.stack([part(number) for number in numbers]).sum(0)
