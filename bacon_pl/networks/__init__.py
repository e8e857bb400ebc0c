"""Networks that distillation matches through and evaluation trains. A new one is a file here with a Network subclass."""

from bacon_pl.networks.base import Network, NetworkFactory
from bacon_pl.networks.convnet import ConvNet

__all__ = ["ConvNet", "Network", "NetworkFactory"]
