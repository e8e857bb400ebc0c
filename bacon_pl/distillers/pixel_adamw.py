"""AdamW for synthetic images, as NCFM (arXiv 2502.20653) takes its steps: in pixel space, one after another class."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bacon_pl.networks.placing import placed

FEW_CLASSES = 16
"""Up to so many classes, zero-gradient steps are taken one by one; beyond, all of a class's at once."""


class PixelAdamW(torch.optim.Optimizer):
    """AdamW on pixels in [0, 1] of images that are kept in normalized space.

    Where steps are taken per class, one call of :meth:`step` does what one step of the whole tensor after each class's
    gradient does, with the other classes' gradients zero: a class takes zero-gradient steps before and after its own
    one, which move it by its running averages alone. A class's gradient depends on its own images only, so all
    gradients may be computed at once. Of many classes the zero-gradient steps are summed in closed form, which is exact
    but for ``eps``.

    Args:
        images: Normalized images (C·ipc, ch, H, W), class by class.
        mean: Mean per channel of pixels in [0, 1].
        std: Standard deviation per channel.
        num_classes: Number of classes C.
        lr: Learning rate, in pixels of [0, 1].
        betas: Decay of the running averages of the gradient and of its square.
        eps: Added to the root of the latter.
        weight_decay: Share of a pixel, times lr, that a step takes off it.
        per_class_steps: Take one step per class; else one for all of them.
    """

    def __init__(
        self,
        images: torch.nn.Parameter,
        mean: Sequence[float],
        std: Sequence[float],
        num_classes: int,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        per_class_steps: bool = True,
    ) -> None:
        super().__init__([images], {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        # On the device from the start: a copy in every step would let a GPU wait.
        self.statistics = [images.detach().new_tensor(list(v)).view(-1, 1, 1) for v in (mean, std)]
        self.num_classes = num_classes
        self.per_class_steps = per_class_steps

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take the steps of all classes.

        Args:
            closure: Not supported.
        """
        (group,) = self.param_groups
        (images,) = group["params"]
        state = self.state[images]
        if not state:
            state.update(step=0, mean=torch.zeros_like(images), square=torch.zeros_like(images))
        mean, std = self.statistics
        pixels = images * std + mean
        gradient = images.grad / std
        if self.per_class_steps and self.num_classes > FEW_CLASSES:
            self._all_turns(pixels, gradient, state, group)
        elif self.per_class_steps:
            for turn in range(self.num_classes):
                own = torch.zeros_like(gradient)
                rows = slice(turn * len(images) // self.num_classes, (turn + 1) * len(images) // self.num_classes)
                own[rows] = gradient[rows]
                self._substep(pixels, own, state, group)
        else:
            self._substep(pixels, gradient, state, group)
        images.copy_((pixels - mean) / std)

    @staticmethod
    def _substep(pixels: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        state["step"] += 1
        state["mean"].lerp_(gradient, 1 - beta1)
        state["square"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        pixels.mul_(1 - group["lr"] * group["weight_decay"])
        correction = math.sqrt(1 - beta2 ** state["step"])
        root = (state["square"].sqrt() / correction).add_(group["eps"])
        pixels.addcdiv_(state["mean"], root, value=-group["lr"] / (1 - beta1 ** state["step"]))

    def _all_turns(self, pixels: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Do what a step per class does, in three passes over the tensor."""
        classes, begun = self.num_classes, state["step"]
        pixels, gradient = (t.unflatten(0, (classes, -1)) for t in (pixels, gradient))
        mean, square = (state[name].unflatten(0, (classes, -1)) for name in ("mean", "square"))
        turn = np.arange(classes)
        self._coast(pixels, mean, square, turn, begun + 0 * turn, group)
        beta1, beta2 = group["betas"]
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        number = begun + turn + 1
        rate = _column(group["lr"] / (1 - beta1**number), mean)
        correction = _column(np.sqrt(1 - beta2**number), mean)
        pixels.mul_(1 - group["lr"] * group["weight_decay"])
        pixels.sub_(rate * mean / ((square.sqrt() / correction).add_(group["eps"])))
        self._coast(pixels, mean, square, classes - 1 - turn, number, group)
        state["step"] = begun + classes

    @staticmethod
    def _coast(
        pixels: Tensor,
        mean: Tensor,
        square: Tensor,
        steps: np.ndarray[Any, Any],
        begun: np.ndarray[Any, Any],
        group: dict[str, Any],
    ) -> None:
        """Take zero-gradient steps: class c so many as ``steps[c]``, after ``begun[c]`` steps."""
        (beta1, beta2), lr = group["betas"], group["lr"]
        keeps = 1 - lr * group["weight_decay"]
        j = np.arange(1, len(steps) + 1)
        number = begun[:, None] + j
        moved = lr * (beta1 / math.sqrt(beta2)) ** j * np.sqrt(1 - beta2**number) / (1 - beta1**number)
        moved = moved * keeps ** np.maximum(steps[:, None] - j, 0) * (j <= steps[:, None])
        pixels.mul_(_column(keeps**steps, mean))
        pixels.sub_(_column(moved.sum(1), mean) * mean / (square.sqrt() + group["eps"]))
        mean.mul_(_column(beta1**steps, mean))
        square.mul_(_column(beta2**steps, mean))


def _column(numbers: np.ndarray[Any, Any], like: Tensor) -> Tensor:
    """A number for each class, to go with (C, ipc, ch, H, W)."""
    return placed(torch.from_numpy(numbers), like.device, like.dtype).view(-1, 1, 1, 1, 1)
