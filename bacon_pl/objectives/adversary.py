"""Parameters that an objective owns, and which are trained against the images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from bacon_pl import rng


class Adversary(nn.Module, ABC):
    """Parameters of an objective that MAXIMIZE its terms by SGD, while the images minimize them.

    The loss is compared at what a pass of this module returns, so its gradient is that of the sum of the terms over all
    classes. After every step of the images the parameters take one step up, on the same loss.

    Args:
        lr: Learning rate, positive.
        momentum: Momentum in [0, 1).
    """

    def __init__(self, lr: float, momentum: float) -> None:
        super().__init__()
        self.lr = lr
        self.momentum = momentum

    @abstractmethod
    def forward(self, *keys: rng.Key) -> dict[str, Tensor]:
        """Compute what the terms read, with gradient by the parameters.

        Args:
            keys: Coordinates of random draws: seed, purpose, iteration.

        Returns:
            Tensors by name, which :meth:`Objective.terms` finds among ``real``.
        """

    def param_groups(self) -> list[dict[str, Any]]:
        """Return the parameters with the settings of their SGD, as ``torch.optim.SGD`` takes them."""
        return [{"params": list(self.parameters()), "lr": self.lr, "momentum": self.momentum}]


class Adversaries(Adversary):
    """The adversaries of several objectives.

    Args:
        parts: Adversaries by the number of their objective.
    """

    def __init__(self, parts: Mapping[int, Adversary]) -> None:
        nn.Module.__init__(self)  # the parts have learning rates of their own
        self.parts = nn.ModuleDict({str(i): part for i, part in parts.items()})

    def forward(self, *keys: rng.Key) -> dict[str, Tensor]:
        """See :meth:`Adversary.forward`; names are prefixed with the number of the objective."""
        found = ((i, part(*keys, int(i))) for i, part in self.parts.items())
        return {f"{i}.{name}": value for i, tensors in found for name, value in tensors.items()}

    def param_groups(self) -> list[dict[str, Any]]:
        """See :meth:`Adversary.param_groups`."""
        return [group for part in self.parts.values() for group in part.param_groups()]  # type: ignore[operator]
