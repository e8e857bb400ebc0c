"""The cross-entropy of the matched network on the synthetic images, an optional term of the loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bacon_pl.errors import BaconError, unknown_name

AccuracyScale = Literal["percent", "fraction", "none"]

_SCALES: dict[str, Callable[[Tensor], Tensor]] = {
    "percent": lambda accuracy: accuracy,
    "fraction": lambda accuracy: accuracy / 100,
    "none": torch.ones_like,
}


@dataclass(frozen=True)
class CrossEntropy:
    """Weight of the cross-entropy that IDM (arXiv 2307.09742) and BACON (arXiv 2406.01112) add to the loss.

    Args:
        weight: Positive factor of the term.
        accuracy: How the term is also multiplied by the matched network's running training accuracy: in ``percent``
            (as published), as a ``fraction`` of 1, or not at all (``none``).

    Raises:
        BaconError: An argument is out of range.
    """

    weight: float = 0.5
    accuracy: AccuracyScale = "percent"

    def __post_init__(self) -> None:
        if not (self.weight > 0 and math.isfinite(self.weight)):
            raise BaconError(
                f"--model.cross_entropy.weight must be positive and finite, got {self.weight}; --model.cross_entropy "
                "null leaves the term out."
            )
        if self.accuracy not in _SCALES:
            raise unknown_name("cross_entropy.accuracy", str(self.accuracy), _SCALES)

    def term(self, logits: Tensor, classes: Tensor, accuracy: Tensor) -> Tensor:
        """Compute the weighted mean cross-entropy of the images of each class.

        Args:
            logits: Logits of the synthetic images (C, m, K).
            classes: (C,) int64, the label of each row.
            accuracy: Running training accuracy of the network in percent, 0-d.

        Returns:
            The term, (C,).
        """
        target = classes[:, None].expand(logits.shape[:2])
        mean = F.cross_entropy(logits.transpose(1, 2), target, reduction="none").mean(1)
        return self.weight * _SCALES[self.accuracy](accuracy) * mean
