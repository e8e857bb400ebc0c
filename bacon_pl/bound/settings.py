"""Settings of the bound, as options of the command line."""

from __future__ import annotations

from dataclasses import dataclass

from bacon_pl import ranges
from bacon_pl.bound.densities import check_prior
from bacon_pl.objectives.functional import ClipVariant


@dataclass(frozen=True)
class BoundSettings:
    """How the bound and the risk are computed (arXiv 2406.01112).

    Args:
        samples: Number of points drawn in each ball.
        epsilon: Radius of the balls; by default the median distance between two real embeddings of the class.
        tv_weight: λ of the prior, in [0, 1].
        clip: Clip term of the prior: ``none``, ``acting`` or ``symmetric``. The last two divide by the standard
            deviation of each feature, so the few features that hardly vary within a class dominate the bound and its
            error.

    Raises:
        BaconError: An argument is out of range, or the prior is not a density.
    """

    samples: int = 32
    epsilon: float | None = None
    tv_weight: float = 0.8
    clip: ClipVariant = "none"

    def __post_init__(self) -> None:
        ranges.whole("the bound's ", 2, samples=self.samples)
        ranges.positive("the bound's ", **ranges.given(epsilon=self.epsilon))
        check_prior(self.tv_weight, self.clip)
