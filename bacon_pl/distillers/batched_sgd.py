"""SGD on the images with one step per class, as a single step for all classes."""

from __future__ import annotations


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
