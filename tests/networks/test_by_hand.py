"""The networks beside the default ConvNet are what their papers say: their layers, one after another, by hand."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from bacon_pl.networks import MLP, VGG11, AlexNet, ResNet18


def convolutions(network):
    return [m for m in network.features if isinstance(m, torch.nn.Conv2d)]


def mlp(network, x):
    first, second = (m for m in network.features if isinstance(m, torch.nn.Linear))
    return torch.relu(second(torch.relu(first(x.flatten(1)))))


def alexnet(network, x):
    pool = partial(F.max_pool2d, kernel_size=2)
    first, second, *others = convolutions(network)
    x = pool(torch.relu(second(pool(torch.relu(first(x))))))
    for one in others:
        x = torch.relu(one(x))
    return pool(x).flatten(1)


def vgg11(network, x):
    for i, one in enumerate(convolutions(network)):
        x = torch.relu(F.instance_norm(one(x)))  # whose weights are 1 and biases 0 at first
        if i in (0, 1, 3, 5, 7):
            x = F.max_pool2d(x, 2)
    return x.flatten(1)


def resnet18(network, x):
    norm = F.instance_norm
    x = torch.relu(norm(network.features[0](x)))
    for block in network.features[3:-1]:
        branch = norm(block.branch[3](torch.relu(norm(block.branch[0](x)))))
        short = x if isinstance(block.shortcut, torch.nn.Identity) else norm(block.shortcut[0](x))
        x = torch.relu(branch + short)
    return F.avg_pool2d(x, 4).flatten(1)


@pytest.mark.parametrize(("network", "by_hand"), [(MLP, mlp), (AlexNet, alexnet), (VGG11, vgg11), (ResNet18, resnet18)])
def test_embeddings_are_those_of_the_layers_one_after_another(network, by_hand):
    torch.manual_seed(0)
    made = network(3, (64, 64), 5).double()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(made.embed(x), by_hand(made, x))
