"""The losses by which SRe2L (arXiv 2306.13092) recovers images from a trained network, as functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def statistics_gap(x: Tensor, running_mean: Tensor, running_var: Tensor) -> Tensor:
    """Distance of a batch's statistics from those that a batch norm has seen in training.

    Args:
        x: Input of the batch norm (B, F, H, W).
        running_mean: Its running means (F,).
        running_var: Its running variances (F,).

    Returns:
        ‖running_var − v‖₂ + ‖running_mean − μ‖₂ with the means μ and the biased variances v over batch, rows and
        columns, 0-d. The norms are not squared.
    """
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    gap: Tensor = torch.linalg.vector_norm(running_var - variance) + torch.linalg.vector_norm(running_mean - mean)
    return gap


def tv_l2(x: Tensor) -> Tensor:
    """Norm of the differences of neighboring pixels of a batch.

    Args:
        x: Images (B, ch, H, W).

    Returns:
        The sum of four norms over the whole batch, 0-d: of horizontal, vertical and both diagonal differences.
    """
    differences = (
        x[..., :, :-1] - x[..., :, 1:],
        x[..., :-1, :] - x[..., 1:, :],
        x[..., :-1, :-1] - x[..., 1:, 1:],
        x[..., 1:, :-1] - x[..., :-1, 1:],
    )
    return torch.stack([torch.linalg.vector_norm(d) for d in differences]).sum()


def image_l2(x: Tensor) -> Tensor:
    """Mean over the images (B, ch, H, W) of their norms, 0-d."""
    mean: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1).mean()
    return mean
