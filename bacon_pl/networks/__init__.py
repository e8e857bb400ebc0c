"""Networks for matching and evaluation. To add one, add a file here with a subclass of Network."""

from bacon_pl.networks.acceleration import PLAIN, Acceleration, Plan, Work, resolve_acceleration
from bacon_pl.networks.alexnet import AlexNet
from bacon_pl.networks.base import Network, NetworkFactory, Read, Trace, embedding
from bacon_pl.networks.captured import Capture, Captured
from bacon_pl.networks.convnet import ConvNet
from bacon_pl.networks.flat import FlatNetwork
from bacon_pl.networks.lenet import LeNet
from bacon_pl.networks.mlp import MLP
from bacon_pl.networks.modified_resnet import ModifiedResNet18
from bacon_pl.networks.registry import SHORT_NAMES, by_name
from bacon_pl.networks.resnet import ResNet18
from bacon_pl.networks.stateless import StatelessNetwork
from bacon_pl.networks.torchvision_model import TorchvisionModel
from bacon_pl.networks.vgg import VGG11

__all__ = [
    "Acceleration",
    "AlexNet",
    "Capture",
    "Captured",
    "ConvNet",
    "FlatNetwork",
    "LeNet",
    "MLP",
    "ModifiedResNet18",
    "Network",
    "NetworkFactory",
    "PLAIN",
    "Plan",
    "Read",
    "ResNet18",
    "SHORT_NAMES",
    "StatelessNetwork",
    "TorchvisionModel",
    "Trace",
    "VGG11",
    "Work",
    "by_name",
    "embedding",
    "resolve_acceleration",
]
