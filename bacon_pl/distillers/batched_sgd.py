"""SGD on the images with one step per class, as a single step for all classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bacon_pl.data.images import by_channel


def batched_sgd(lr: float, momentum: float, num_classes: int) -> tuple[float, float]:
    """Convert one SGD step per class to an equivalent single step for all classes.

    The published implementations of IDM and BACON update the whole image tensor once per class. The gradients of the
    other classes are then zero, but their images still move by their momentum.

    Args:
        lr: Learning rate of the step of one class.
        momentum: Momentum m of the step of one class.
        num_classes: Number of classes C, with one step each.

    Returns:
        Learning rate lr·(1 - m^C)/(1 - m) and momentum m^C of the single step.
    """
    return lr * (1 - momentum**num_classes) / (1 - momentum), momentum**num_classes


class ImageSGD(torch.optim.SGD):
    """SGD on synthetic images, of which all classes take their steps at once.

    Where steps are taken per class, the images that it holds are those at which gradients are computed, each class at
    its turn in a round.

    Args:
        images: Images (C·ipc, ch, H, W), class by class.
        num_classes: Number of classes C.
        lr: Learning rate of a step.
        momentum: Momentum of a step, in [0, 1).
        per_class_steps: Take one step per class (see :func:`batched_sgd`); else one for all of them.
        std: Standard deviations per channel by which pixels were divided, to take steps in pixel space; None takes them
            in the space of the images.
    """

    def __init__(
        self,
        images: torch.nn.Parameter,
        num_classes: int,
        lr: float,
        momentum: float,
        per_class_steps: bool = True,
        std: Sequence[float] | None = None,
    ) -> None:
        self.turns = (momentum, num_classes) if per_class_steps else None
        self.std = std and tuple(std)
        if self.turns:
            lr, momentum = batched_sgd(lr, *self.turns)
        super().__init__([images], lr=lr, momentum=momentum)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs; torch's own leaves out what it does not know."""
        return {**super().__getstate__(), "turns": self.turns, "std": self.std}

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take the steps of all classes.

        Args:
            closure: Not supported.
        """
        (images,) = self.param_groups[0]["params"]
        if self.std:  # a pixel is std times a normalized one
            images.grad = images.grad / by_channel(self.std, images.dtype, images.device).square()
        super().step()

    def approach(self) -> bool:
        """Return that the images have not been moved: they are where gradients are computed."""
        return False

    @torch.no_grad()
    def clamp(self, low: Tensor, high: Tensor) -> None:
        """Clamp the images where the published algorithm has them at the end of a round.

        From there the steps of the classes before it then move each by its momentum, so that it may leave the range.

        Args:
            low: Lowest values, to go with the images.
            high: Highest values.
        """
        (images,) = self.param_groups[0]["params"]
        velocity = self.state.get(images, {}).get("momentum_buffer")
        ahead = torch.zeros_like(images)
        if velocity is not None and self.turns:  # from the end of a round to a class's turn, with minus sign
            m, classes = self.turns
            c = torch.arange(classes, device=images.device, dtype=images.dtype)
            shares = m ** (classes - c) * (1 - m**c) / (1 - m**classes)
            shares = shares.repeat_interleave(len(images) // classes).view(-1, 1, 1, 1)
            ahead = self.param_groups[0]["lr"] * shares * velocity
        images.copy_((images + ahead).clamp_(low, high) - ahead)
