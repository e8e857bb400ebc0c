"""Torchvision's classification models by name, with random weights."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from bacon_pl.errors import BaconError
from bacon_pl.networks.base import Network
from bacon_pl.networks.parts import check_choice

# Image sides to suggest when a model does not accept an image.
_SIDES = (32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 299)


class TorchvisionModel(Network):
    """An untrained classification model of torchvision.

    The last linear layer is the classifier, and its input is the embedding. Gray images are copied to all three
    channels. A model with dropout draws from torch's own generator.

    Args:
        channels: Image channels, 1 or 3.
        size: Image height and width in pixels.
        num_classes: Number of classes.
        name: Name of the model, as listed by ``torchvision.models.list_models``.

    Raises:
        BaconError: There is no such model, or it does not accept images of this size or number of channels.
    """

    classifier: nn.Linear

    def __init__(self, channels: int, size: tuple[int, int], num_classes: int, name: str = "resnet18") -> None:
        super().__init__()
        check_choice("model of torchvision", name, torchvision_names())
        if channels not in (1, 3):
            raise BaconError(f"torchvision's models take images of 1 or 3 channels, these have {channels}.")
        try:
            self.body, self.classifier = _build(name, size, num_classes)
        except _RefusalError as refusal:
            sides = (side for side in _SIDES if side > min(size) and _takes(name, side))
            works = next(sides, None)
            advice = "use another network" if works is None else f"it takes e.g. {works}×{works}"
            raise BaconError(
                f"torchvision's {name} cannot take images of {size[0]}×{size[1]} pixels ({refusal}): {advice}."
            ) from refusal
        # torch.vmap cannot handle the random draws of stochastic depth.
        self.batchable = not any(isinstance(module, StochasticDepth) for module in self.body.modules())

    def embed(self, x: Tensor) -> Tensor:
        """Map normalized images (B, ch, H, W) to the input of the last linear layer (B, d)."""
        z: Tensor = self.body(x.expand(-1, 3, -1, -1))
        return z


@functools.cache
def torchvision_names() -> tuple[str, ...]:
    """Return the names of torchvision's classification models that end with a linear layer."""
    names = torchvision.models.list_models(module=torchvision.models)
    return tuple(name for name in names if not name.startswith("squeezenet"))


class _RefusalError(Exception):
    """A model does not accept images of the given size."""


def _build(name: str, size: tuple[int, int], num_classes: int) -> tuple[nn.Module, nn.Linear]:
    """Build a model, replace its last linear layer by the identity, test it on a blank image, and return both."""
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": True}
    elif name.startswith("vit_"):
        if size[0] != size[1]:
            raise _RefusalError("they are not square")
        options = {"image_size": size[0]}
    elif name.startswith("maxvit_"):
        options = {"input_size": size}
    try:
        model = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)
        path, head = [(path, module) for path, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
        model.set_submodule(path, nn.Identity())
        with torch.no_grad():
            z = model.eval()(torch.zeros(1, 3, *size))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise _RefusalError(" ".join(str(error).split()).rstrip(".") or type(error).__name__) from error
    assert z.shape == (1, head.in_features), f"the last linear layer of {name} does not give the logits"
    return model.train(), head


def _takes(name: str, side: int) -> bool:
    try:
        _build(name, (side, side), 2)
    except _RefusalError:
        return False
    return True
