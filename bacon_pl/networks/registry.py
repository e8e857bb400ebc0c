"""Short names of networks, for use on the command line."""

from __future__ import annotations

from functools import partial

from bacon_pl.errors import unknown_name
from bacon_pl.networks.alexnet import AlexNet
from bacon_pl.networks.base import Network, NetworkFactory
from bacon_pl.networks.convnet import ConvNet
from bacon_pl.networks.lenet import LeNet
from bacon_pl.networks.mlp import MLP
from bacon_pl.networks.modified_resnet import ModifiedResNet18
from bacon_pl.networks.resnet import ResNet18
from bacon_pl.networks.torchvision_model import TorchvisionModel, torchvision_names
from bacon_pl.networks.vgg import VGG11

SHORT_NAMES: dict[str, type[Network]] = {
    "convnet": ConvNet,
    "alexnet": AlexNet,
    "vgg11": VGG11,
    "resnet18": ResNet18,
    "resnet18_modified": ModifiedResNet18,
    "mlp": MLP,
    "lenet": LeNet,
}
_PREFIX = "torchvision."


def by_name(name: str) -> NetworkFactory:
    """Look up a network by its short name.

    Args:
        name: ``convnet``, ``alexnet``, ``vgg11``, ``resnet18``, ``resnet18_modified``, ``mlp`` or ``lenet`` for the
            variants of the distillation literature, or the name of a classification model of torchvision, such as
            ``mobilenet_v2``. If both have a name, the prefix ``torchvision.`` selects torchvision's model.
            Case is ignored.

    Returns:
        A function that builds the network from channels, image size and number of classes.

    Raises:
        BaconError: There is no network with this name.
    """
    plain = name.strip().lower()
    if plain in SHORT_NAMES:
        return SHORT_NAMES[plain]
    if plain.removeprefix(_PREFIX) in torchvision_names():
        return partial(TorchvisionModel, name=plain.removeprefix(_PREFIX))
    raise unknown_name("network", name, {*SHORT_NAMES, *torchvision_names()})
