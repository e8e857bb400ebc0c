"""The compiled path against the plain one, and when it is taken."""

import shutil

import pytest
import torch

from bacon_pl.errors import BaconError
from bacon_pl.networks import ConvNet, StatelessNetwork, resolve_acceleration
from bacon_pl.networks.cost import forward_flops
from bacon_pl.networks.stateless import WORTHWHILE_FLOPS, even_rows

CPU = torch.device("cpu")


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_pass_and_gradients_agree_with_plain_ones():
    torch.manual_seed(0)
    network = ConvNet(1, (8, 8), 3, width=4, depth=2)
    weights = {name: p.detach().requires_grad_() for name, p in network.named_parameters()}
    x = torch.randn(6, 1, 8, 8)
    run_results = []
    for accelerated in (False, True):
        z, logits = StatelessNetwork(network, accelerated)(weights, x)
        gradients = torch.autograd.grad(logits.square().sum() + z.sum(), list(weights.values()))
        run_results.append([z, logits, *gradients])
    assert all(t.dtype == torch.float32 for t in run_results[1])
    # bfloat16 keeps 8 bits. Together, for some gradients are zero but for rounding (biases before a norm).
    plain, compiled = (torch.cat([t.flatten() for t in run_result]) for run_result in run_results)
    assert (plain - compiled).norm() < 0.05 * plain.norm()


def test_acceleration_follows_the_work_not_the_clock():
    network = ConvNet(1, (8, 8), 3, width=4, depth=2)
    flops = forward_flops(network, (1, 8, 8))
    assert flops > 2 * 9 * 4 * 8 * 8  # the first convolution alone
    enough = WORTHWHILE_FLOPS / flops / 3
    compiler = shutil.which("g++") is not None
    assert resolve_acceleration("auto", network, (1, 8, 8), 1.01 * enough, CPU) is compiler
    assert resolve_acceleration("auto", network, (1, 8, 8), 0.99 * enough, CPU) is False
    assert resolve_acceleration("off", network, (1, 8, 8), 1e20, CPU) is False
    with pytest.raises(BaconError, match="Did you mean 'auto'"):
        resolve_acceleration("atuo", network, (1, 8, 8), 1, CPU)


def test_missing_compiler_is_told(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    network = ConvNet(1, (8, 8), 3, width=4, depth=2)
    with pytest.raises(BaconError, match=r"needs a C\+\+ compiler"):
        resolve_acceleration("on", network, (1, 8, 8), 1, CPU)
    assert resolve_acceleration("auto", network, (1, 8, 8), 1e20, CPU) is False


@pytest.mark.parametrize(("rows", "limit", "expected"), [(10, 4, 2), (10, 99, 10), (7, 3, 1), (100, 0, 1)])
def test_even_rows(rows, limit, expected):
    assert even_rows(rows, limit) == expected
