"""The robust scores of DD-Ranking (arXiv 2505.13300), which measure how much of an accuracy is due to the images."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bacon_pl import ranges


@dataclass(frozen=True)
class RobustScores:
    """Scores of a synthetic set, computed from accuracies in [0, 1].

    Attributes:
        hlr: Hard-label recovery, in [-1, 1], lower is better: accuracy of all real images minus that of the synthetic
            images, both with hard labels.
        ior: Improvement over random, in [-1, 1]: accuracy of the synthetic images minus that of equally many random
            real images, both with the recipe of the evaluation.
        lrs: Label-robust score, in [0, 1].
        ars: Augmentation-robust score, in [0, 1].
    """

    hlr: float
    ior: float
    lrs: float
    ars: float


@dataclass(frozen=True)
class ScoreWeights:
    """Weights of the robust scores.

    Args:
        w: Weight of the improvement over random relative to hard-label recovery in LRS, in [0, 1].
        gamma: Weight of the accuracies with augmentation relative to those without in ARS, in [0, 1].

    Raises:
        BaconError: A weight is out of range.
    """

    w: float = 0.5
    gamma: float = 0.5

    def __post_init__(self) -> None:
        ranges.share("--score_weights.", w=self.w, gamma=self.gamma)


def robust_scores(
    *,
    real_hard: float,
    syn_hard: float,
    syn_any: float,
    random_any: float,
    syn_aug: float,
    random_aug: float,
    syn_plain: float,
    random_plain: float,
    w: float = 0.5,
    gamma: float = 0.5,
) -> RobustScores:
    """Compute the scores from mean accuracies in [0, 1].

    Args:
        real_hard: All real images, with hard labels.
        syn_hard: Synthetic images, with hard labels.
        syn_any: Synthetic images, with the recipe of the evaluation, including soft labels if it has them.
        random_any: Equally many random real images, with the recipe of the evaluation.
        syn_aug: Synthetic images, with the augmentation of the evaluation.
        random_aug: Random real images, with the augmentation of the evaluation.
        syn_plain: Synthetic images, without augmentation.
        random_plain: Random real images, without augmentation.
        w: Weight of the improvement over random relative to hard-label recovery, in [0, 1].
        gamma: Weight of the accuracies with augmentation relative to those without, in [0, 1].

    Returns:
        The scores.

    Raises:
        BaconError: A weight is out of range.
    """
    ranges.share("the robust scores' ", w=w, gamma=gamma)
    hlr = real_hard - syn_hard
    ior = syn_any - random_any
    alpha = w * ior - (1 - w) * hlr
    beta = gamma * (syn_aug - random_aug) + (1 - gamma) * (syn_plain - random_plain)
    return RobustScores(hlr, ior, normalized(alpha), normalized(beta))


def normalized(x: float) -> float:
    """Map a difference of accuracies in [-1, 1] to [0, 1]: (e^x - e^-1) / (e - e^-1)."""
    return (math.exp(x) - math.exp(-1)) / (math.e - math.exp(-1))
