"""The network whose gradients are matched: its training is torch's SGD, and a new one begins without momentum."""

import torch
from torch.nn import functional as F

from bacon_pl.distillers import NetworkSettings
from bacon_pl.distillers.matched_network import MatchedNetwork
from bacon_pl.networks import PLAIN
from tests.distillers.running import small


def make(number):
    torch.manual_seed(number)
    return small(1, (8, 8), 3)


def test_training_is_torch_sgd_whose_momentum_ends_with_the_network():
    sgd = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}
    matched = MatchedNetwork(NetworkSettings(renew_every=2, batch_size=4, **sgd), make, PLAIN, 3, 0)
    generator = torch.Generator().manual_seed(0)
    for number in (0, 1):
        reference = make(number)
        optimizer = torch.optim.SGD(reference.parameters(), **sgd)
        for t in (2 * number, 2 * number + 1):
            matched.advance(t)
            batches = [
                (torch.randn(4, 1, 8, 8, generator=generator), torch.randint(0, 3, (4,), generator=generator))
                for _ in range(2)
            ]
            matched.train(iter(batches), t, "real")
            for x, y in batches:
                optimizer.zero_grad()
                F.cross_entropy(reference(x)[1], y).backward()
                optimizer.step()
        for name, parameter in reference.named_parameters():
            torch.testing.assert_close(matched.weights[name], parameter.detach())
