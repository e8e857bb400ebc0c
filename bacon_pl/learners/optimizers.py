"""The optimizers of evaluation networks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from bacon_pl.learners.recipe import Recipe


def make_optimizer(recipe: Recipe, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Create the optimizer of a recipe.

    Args:
        recipe: The recipe; its learning rate must be known.
        parameters: What is optimized.
    """
    every = list(parameters)
    groups: list[dict[str, Any]] = [{"params": every, "weight_decay": recipe.weight_decay}]
    if not recipe.decay_norms_and_biases:
        groups[0]["params"] = [p for p in every if p.ndim > 1]
        groups.append({"params": [p for p in every if p.ndim <= 1], "weight_decay": 0.0})
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.rate, betas=recipe.betas)
    return torch.optim.SGD(groups, lr=recipe.rate, momentum=recipe.momentum)
