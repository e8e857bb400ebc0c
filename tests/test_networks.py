"""Networks against the golden numbers, and the compiled path against the plain one."""

import shutil

import pytest
import torch

from bacon_pl.errors import BaconError
from bacon_pl.networks import ConvNet, StatelessNetwork, resolve_acceleration
from bacon_pl.networks.convnet import PatchConv2d
from bacon_pl.networks.cost import activation_bytes, forward_flops
from bacon_pl.networks.stateless import WORTHWHILE_FLOPS, even_rows

CPU = torch.device("cpu")


@pytest.mark.parametrize(("name", "channels", "side"), [("gray28", 1, 28), ("rgb32", 3, 32)])
def test_convnet_matches_golden(golden, name, channels, side):
    data = golden(f"convnet_{name}")
    network = ConvNet(channels, (side, side), 10, width=16).double()
    inputs = ("x", "embedding", "logits")
    network.load_state_dict({key.replace("__", "."): value for key, value in data.items() if key not in inputs})
    z, logits = network(data["x"])
    torch.testing.assert_close(z, data["embedding"], atol=1e-9, rtol=0)
    torch.testing.assert_close(logits, data["logits"], atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("channels", "side", "features"),
    [(1, 28, 2048), (3, 32, 2048), (3, 64, 8192), (1, 8, 128)],
)
def test_embedding_sizes(channels, side, features):
    z, logits = ConvNet(channels, (side, side), 7)(torch.zeros(2, channels, side, side))
    assert z.shape == (2, features)
    assert logits.shape == (2, 7)


def test_patches_are_the_same_convolution():
    torch.manual_seed(0)
    convolution, x = PatchConv2d(1, 6, 3, padding=3), torch.randn(4, 1, 7, 9)
    plain = convolution(x)
    with torch.autocast("cpu", torch.bfloat16):
        product = convolution(x)
        reference = torch.nn.functional.conv2d(x, convolution.weight, convolution.bias, padding=3)
    assert product.dtype == torch.bfloat16
    assert product.shape == plain.shape
    torch.testing.assert_close(product, reference, atol=2e-2, rtol=2e-2)
    weight = torch.autograd.grad(product.float().square().sum(), convolution.weight)[0]
    expected = torch.autograd.grad(plain.square().sum(), convolution.weight)[0]
    assert (weight - expected).norm() < 0.02 * expected.norm()


def test_too_small_an_image_is_refused_with_the_depth_that_fits():
    with pytest.raises(BaconError, match="depth of at most 2"):
        ConvNet(3, (4, 4), 10, depth=3)
    ConvNet(3, (4, 4), 10, depth=2)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_pass_and_gradients_agree_with_plain_ones():
    torch.manual_seed(0)
    network = ConvNet(1, (8, 8), 3, width=4, depth=2)
    weights = {name: p.detach().requires_grad_() for name, p in network.named_parameters()}
    x = torch.randn(6, 1, 8, 8)
    outcomes = []
    for accelerated in (False, True):
        z, logits = StatelessNetwork(network, accelerated)(weights, x)
        gradients = torch.autograd.grad(logits.square().sum() + z.sum(), list(weights.values()))
        outcomes.append([z, logits, *gradients])
    assert all(t.dtype == torch.float32 for t in outcomes[1])
    # bfloat16 keeps 8 bits. Together, for some gradients are zero but for rounding (biases before a norm).
    plain, compiled = (torch.cat([t.flatten() for t in outcome]) for outcome in outcomes)
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


def test_kept_activations_are_counted():
    network = ConvNet(3, (32, 32), 10, width=16)
    counted = activation_bytes(network, (3, 32, 32))
    # At least input, convolution output and ReLU output of every block; at most every tensor a block makes.
    pixels = 32 * 32 + 16 * 16 + 8 * 8
    assert 4 * 2 * 16 * pixels <= counted <= 4 * 5 * 16 * pixels
    assert network.training


def test_missing_compiler_is_told(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    network = ConvNet(1, (8, 8), 3, width=4, depth=2)
    with pytest.raises(BaconError, match=r"needs a C\+\+ compiler"):
        resolve_acceleration("on", network, (1, 8, 8), 1, CPU)
    assert resolve_acceleration("auto", network, (1, 8, 8), 1e20, CPU) is False


@pytest.mark.parametrize(("rows", "limit", "expected"), [(10, 4, 2), (10, 99, 10), (7, 3, 1), (100, 0, 1)])
def test_even_rows(rows, limit, expected):
    assert even_rows(rows, limit) == expected
