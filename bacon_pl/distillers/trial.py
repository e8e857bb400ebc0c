"""What a network and an objective do, found out by passes at the start, and checks of what an objective gives."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from bacon_pl import rng
from bacon_pl.errors import BaconError
from bacon_pl.networks import Network, Read, embedding
from bacon_pl.networks.base import state_of
from bacon_pl.objectives import Objective, Readings


def kept_of_blank(template: Network, objective: Objective, image: tuple[int, int, int]) -> Readings:
    """Test what an objective keeps of two blank images, and return it.

    Args:
        template: The architecture.
        objective: The objective.
        image: Channels, height and width.

    Raises:
        BaconError: It keeps something that does not have a row of floating-point numbers for each image.
    """
    like = next(template.parameters())
    x = torch.zeros(2, *image, device=like.device, dtype=like.dtype)
    kept: Readings = _tried(template, x, objective.read)[0]
    for name, value in kept.items():
        if value.ndim < 1 or len(value) != len(x) or not value.is_floating_point():
            raise BaconError(
                f"{type(objective).__name__} keeps '{name}' of shape {tuple(value.shape)} and type {value.dtype} of "
                f"{len(x)} images: it must be floating-point, with a row for each image."
            )
    return kept


def check_terms(
    objective: Objective, found: Readings, classes: int, with_cross_entropy: bool, with_gradient: bool
) -> None:
    """Check the terms that an objective gives.

    Args:
        objective: The objective.
        found: Its terms by name.
        classes: Number of classes for which they are.
        with_cross_entropy: Whether the cross-entropy will be added, whose name they must leave free.
        with_gradient: Whether they must have a gradient.

    Raises:
        BaconError: There are no terms, one does not have one number per class or has the name of the cross-entropy, or
            they have no gradient.
    """
    wrong = [f"'{name}' of shape {tuple(v.shape)}" for name, v in found.items() if tuple(v.shape) != (classes,)]
    if wrong or not found:
        raise BaconError(
            f"{type(objective).__name__}.terms must give at least one term, each of one number per class, shape "
            f"({classes},) here; it gives {', '.join(wrong) or 'none'}."
        )
    if with_gradient and not any(value.requires_grad for value in found.values()):
        raise BaconError(
            f"the terms of {type(objective).__name__} do not depend on what it keeps of the synthetic images in a way "
            "that has a gradient: compute them of syn, by operations of torch, and without detach() or item()."
        )
    if "ce" in found and with_cross_entropy:
        raise BaconError(
            f"{type(objective).__name__} calls a term 'ce', which is the cross-entropy's name: rename it, or set "
            "--model.cross_entropy null."
        )


def draws(template: Network, image: tuple[int, int, int]) -> bool:
    """Test whether a pass of a network in training mode draws at random, by running it with two seeds.

    Args:
        template: The architecture.
        image: Channels, height and width.
    """
    reference = next(template.parameters())
    x = torch.linspace(-1, 1, 2 * math.prod(image), device=reference.device, dtype=reference.dtype).view(2, *image)
    found = []
    for seed in (0, 1):
        with rng.seeded(seed, "trial", device=x.device):
            found.append(_tried(template, x, embedding)[1])
    return not torch.equal(*found)


def _tried(template: Network, x: Tensor, read: Read) -> Any:
    """Return the result of a pass that does not change the network's running statistics."""
    with torch.no_grad():
        return functional_call(template, {name: t.clone() for name, t in state_of(template).items()}, (x, read))
