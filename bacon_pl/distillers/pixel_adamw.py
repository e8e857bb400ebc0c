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

    Where steps are taken per class, a round does what one step of the whole tensor after each class's gradient does,
    with the other classes' gradients zero: class c takes c zero-gradient steps, which move it by its running averages
    alone, then its own step, and then zero-gradient steps to the end of the round. :meth:`approach` takes those before
    the own ones. A class's gradient depends on its own images only, so all gradients may be computed at once after it,
    and :meth:`step` takes the others. Of many classes the zero-gradient steps are summed in closed form, which is exact
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

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs; torch's own leaves out what it does not know."""
        own = {name: getattr(self, name) for name in ("statistics", "num_classes", "per_class_steps")}
        return {**super().__getstate__(), **own}

    @torch.no_grad()
    def approach(self) -> bool:
        """Move every class to where it is when its turn comes, and its gradient is taken: once before each step.

        Returns:
            Whether the images have been moved.
        """
        if not self.per_class_steps:
            return False
        (group,) = self.param_groups
        images, state, pixels, mean, square = self._opened(group)
        begun = state["step"]
        if self.num_classes > FEW_CLASSES:
            turn = np.arange(self.num_classes)
            self._coast(pixels, mean, square, turn, begun + 0 * turn, group)
        else:
            for before in range(self.num_classes - 1):
                rest = slice(before + 1, None)
                self._substep(pixels[rest], None, mean[rest], square[rest], begun + before + 1, group)
        self._close(images, pixels)
        return True

    @torch.no_grad()
    def clamp(self, low: Tensor, high: Tensor) -> None:
        """Clamp the images, which it holds as they are at the end of a round.

        Args:
            low: Lowest values, to go with the images.
            high: Highest values.
        """
        self.param_groups[0]["params"][0].clamp_(low, high)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take the own steps of all classes, and those that are left of the round.

        Args:
            closure: Not supported.
        """
        (group,) = self.param_groups
        images, state, pixels, mean, square = self._opened(group)
        assert images.grad is not None
        gradient = (images.grad / self.statistics[1]).unflatten(0, (self.num_classes, -1))
        begun, classes = state["step"], self.num_classes if self.per_class_steps else 1
        state["step"] = begun + classes
        if classes > FEW_CLASSES:
            self._all_turns(pixels, gradient, mean, square, begun, group)
        elif classes == 1:
            self._substep(pixels, gradient, mean, square, begun + 1, group)
        else:
            for turn in range(classes):
                for rows, own in ((slice(turn), None), (slice(turn, turn + 1), gradient[turn])):
                    self._substep(pixels[rows], own, mean[rows], square[rows], begun + turn + 1, group)
        self._close(images, pixels)

    def _opened(self, group: dict[str, Any]) -> tuple[Tensor, dict[str, Any], Tensor, Tensor, Tensor]:
        """Return the images, their state, a copy in pixels, and both running averages; the last three by class."""
        (images,) = group["params"]
        state = self.state[images]
        if not state:
            state.update(step=0, mean=torch.zeros_like(images), square=torch.zeros_like(images))
        mean, std = self.statistics
        parts = (images * std + mean, state["mean"], state["square"])
        pixels, averages, squares = (t.unflatten(0, (self.num_classes, -1)) for t in parts)
        return images, state, pixels, averages, squares

    def _close(self, images: Tensor, pixels: Tensor) -> None:
        mean, std = self.statistics
        images.copy_((pixels.flatten(0, 1) - mean) / std)

    @staticmethod
    def _substep(
        pixels: Tensor, gradient: Tensor | None, mean: Tensor, square: Tensor, number: int, group: dict[str, Any]
    ) -> None:
        """Take the step of a number; None is a gradient of zero."""
        beta1, beta2 = group["betas"]
        if gradient is None:
            mean.mul_(beta1)
            square.mul_(beta2)
        else:
            mean.lerp_(gradient, 1 - beta1)
            square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        pixels.mul_(1 - group["lr"] * group["weight_decay"])
        root = (square.sqrt() / math.sqrt(1 - beta2**number)).add_(group["eps"])
        pixels.addcdiv_(mean, root, value=-group["lr"] / (1 - beta1**number))

    def _all_turns(
        self, pixels: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, begun: int, group: dict[str, Any]
    ) -> None:
        """Take the own steps of all classes and those after them, in two passes over the tensor."""
        turn = np.arange(self.num_classes)
        beta1, beta2 = group["betas"]
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        number = begun + turn + 1
        rate = _column(group["lr"] / (1 - beta1**number), mean)
        correction = _column(np.sqrt(1 - beta2**number), mean)
        pixels.mul_(1 - group["lr"] * group["weight_decay"])
        pixels.sub_(rate * mean / ((square.sqrt() / correction).add_(group["eps"])))
        self._coast(pixels, mean, square, self.num_classes - 1 - turn, number, group)

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
