"""Distances between the gradients of a network's weights on real and on synthetic images (DC, DSA, IDC)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from bacon_pl.configured import Configured
from bacon_pl.errors import BaconError, unknown_name

Counted = Literal["all", "weights", "convolutions"]

_LEAST_DIMENSIONS: dict[Counted, int] = {"all": 1, "weights": 2, "convolutions": 3}

TINY = 1e-6
"""What is added to the product of two norms before it divides, as published."""


class GradientDistance(Configured, ABC):
    """A distance of gradients, class by class. To add one, write a subclass, here or in any importable module.

    Args:
        tensors: The weight tensors that count: ``all``; ``weights``, of two dimensions or more, which leaves out biases
            and the scales and shifts of norms; or ``convolutions``, of three or more, which also leaves out the
            classifier.

    Raises:
        BaconError: The choice of tensors is unknown.
    """

    def __init__(self, tensors: Counted = "weights") -> None:
        if tensors not in get_args(Counted):
            raise unknown_name(f"tensors of {type(self).__name__}", str(tensors), get_args(Counted))
        self.tensors: Counted = tensors

    def counted(self, weights: Iterable[tuple[str, Tensor]]) -> list[str]:
        """Select the weight tensors that count.

        Args:
            weights: The network's parameters by name.

        Returns:
            Their names.

        Raises:
            BaconError: None counts.
        """
        least = _LEAST_DIMENSIONS[self.tensors]
        if names := [name for name, weight in weights if weight.ndim >= least]:
            return names
        raise BaconError(
            f"{type(self).__name__} compares the gradients of '{self.tensors}' alone, and the network has none: set "
            "--model.distance.tensors weights, or use a network with convolutions."
        )

    @abstractmethod
    def between(self, real: Sequence[Tensor], syn: Sequence[Tensor]) -> Tensor:
        """Compute the distance of each class, differentiably by ``syn``.

        Args:
            real: Gradients on the real images, one tensor (C, …) for each weight tensor that counts.
            syn: Those on the synthetic images, same shapes.

        Returns:
            (C,).
        """

    def __call__(self, real: Mapping[str, Tensor], syn: Mapping[str, Tensor]) -> Tensor:
        """Compute the distance of each class from gradients by name; see :meth:`between`."""
        return self.between(list(real.values()), [syn[name] for name in real])


class LayerwiseCosine(GradientDistance):
    """The distance of DC and DSA (arXiv 2006.05929): cosine distances of the rows, one for each output unit, summed."""

    def __init__(self, tensors: Literal["weights", "convolutions"] = "weights") -> None:
        super().__init__(tensors)
        _check_rows(self)

    def between(self, real: Sequence[Tensor], syn: Sequence[Tensor]) -> Tensor:
        """See :meth:`GradientDistance.between`."""
        return torch.stack([_row_cosines(g, h) for g, h in zip(real, syn, strict=True)]).sum(0)


class Cosine(GradientDistance):
    """DC's distance ``cos``: the cosine distance of whole gradients.

    Args:
        tensors: The weight tensors that count; see :class:`GradientDistance`.
    """

    def __init__(self, tensors: Counted = "all") -> None:
        super().__init__(tensors)

    def between(self, real: Sequence[Tensor], syn: Sequence[Tensor]) -> Tensor:
        """See :meth:`GradientDistance.between`."""
        g, h = (torch.cat([t.flatten(1) for t in side], 1) for side in (real, syn))
        return 1 - (g * h).sum(1) / (g.norm(dim=1) * h.norm(dim=1) + TINY)


class SquaredError(GradientDistance):
    """The sum of squared differences, ``mse`` of DC (with all tensors) and of IDC (arXiv 2205.14959, convolutions)."""

    def between(self, real: Sequence[Tensor], syn: Sequence[Tensor]) -> Tensor:
        """See :meth:`GradientDistance.between`."""
        parts = [(h - g).square().flatten(1).sum(1) for g, h in zip(real, syn, strict=True)]
        return torch.stack(parts).sum(0)


class AbsoluteError(GradientDistance):
    """The sum of absolute differences, ``l1`` of IDC (arXiv 2205.14959), which takes convolutions.

    Args:
        tensors: The weight tensors that count; see :class:`GradientDistance`.
        row_means: Take the mean over each row, the weights of one output unit, and sum these (``l1_mean``).

    Raises:
        BaconError: The choice of tensors is unknown, or rows of single numbers would be averaged.
    """

    def __init__(self, tensors: Counted = "weights", row_means: bool = False) -> None:
        super().__init__(tensors)
        if row_means:
            _check_rows(self)
        self.row_means = row_means

    def between(self, real: Sequence[Tensor], syn: Sequence[Tensor]) -> Tensor:
        """See :meth:`GradientDistance.between`."""
        differences = [(h - g).abs() for g, h in zip(real, syn, strict=True)]
        if self.row_means:
            differences = [difference.flatten(2).mean(2) for difference in differences]
        return torch.stack([difference.flatten(1).sum(1) for difference in differences]).sum(0)


def _row_cosines(g: Tensor, h: Tensor) -> Tensor:
    """Sum the cosine distances of the rows of gradients (C, rows, …), (C,)."""
    g, h = g.flatten(2), h.flatten(2)
    return (1 - (g * h).sum(2) / (g.norm(dim=2) * h.norm(dim=2) + TINY)).sum(1)


def _check_rows(distance: GradientDistance) -> None:
    if distance.tensors == "all":
        raise BaconError(
            f"{type(distance).__name__} compares rows of weights, and biases have none: set --model.distance.tensors "
            "weights or convolutions."
        )
