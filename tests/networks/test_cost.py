"""What a pass costs is counted for every network."""

import torch

from bacon_pl.networks import ConvNet, ResNet18
from bacon_pl.networks.acceleration import MOST_NORMALIZATIONS
from bacon_pl.networks.cost import activation_bytes, forward_flops, normalizations
from tests.networks.zoo import SMALL, state_of


def test_costs_can_be_counted_for_every_network():
    for build in SMALL.values():
        network = build(3, (32, 32), 10)
        before = state_of(network)
        assert forward_flops(network, (3, 32, 32)) > 0
        assert activation_bytes(network, (3, 32, 32)) > 0
        assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())


def test_normalizations_are_counted_with_what_they_average_over():
    assert normalizations(ConvNet(1, (28, 28), 10), (1, 28, 28)) == [32 * 32, 16 * 16, 8 * 8]
    assert normalizations(ConvNet(3, (32, 32), 10, width=8, norm="group"), (3, 32, 32))[2] == 2 * 8 * 8
    assert normalizations(ConvNet(3, (32, 32), 10, width=8, norm="layer"), (3, 32, 32))[0] == 8 * 32 * 32
    assert len(normalizations(ResNet18(3, (32, 32), 10), (3, 32, 32))) == 20 > MOST_NORMALIZATIONS


def test_kept_activations_are_counted():
    network = ConvNet(3, (32, 32), 10, width=16)
    counted = activation_bytes(network, (3, 32, 32))
    # At least input, convolution output and ReLU output of every block; at most every tensor a block makes.
    pixels = 32 * 32 + 16 * 16 + 8 * 8
    assert 4 * 2 * 16 * pixels <= counted <= 4 * 5 * 16 * pixels
    assert network.training
