"""Networks to match through and to train. A new one is a file here with a Network subclass."""

from bacon_pl.networks.base import Network, NetworkFactory
from bacon_pl.networks.convnet import ConvNet
from bacon_pl.networks.stateless import (
    Acceleration,
    StatelessNetwork,
    resolve_acceleration,
)

__all__ = [
    "Acceleration",
    "ConvNet",
    "Network",
    "NetworkFactory",
    "StatelessNetwork",
    "resolve_acceleration",
]
