"""When networks are compiled and in which precision, and the blocks that they take."""

import shutil
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bacon_pl.errors import BaconError
from bacon_pl.networks import PLAIN, VGG11, AlexNet, ConvNet, ResNet18, fused
from bacon_pl.networks.acceleration import WORTHWHILE_FLOPS, Plan, bears_bfloat16, even_rows, resolve_acceleration
from bacon_pl.networks.cost import forward_flops

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("network", "side", "bears"),
    [
        (ConvNet, 32, True),
        (partial(ConvNet, depth=4), 32, True),
        (partial(ConvNet, depth=5), 32, False),
        (partial(ConvNet, depth=5), 64, True),
        (partial(ConvNet, depth=5, norm="layer"), 32, True),
        (partial(ConvNet, depth=5, norm="none"), 32, True),
        (VGG11, 64, False),
        (partial(VGG11, norm="none"), 32, True),
        (ResNet18, 32, False),
        (partial(ResNet18, norm="batch"), 32, False),
        (AlexNet, 32, True),
    ],
)
def test_auto_leaves_deep_normalized_networks_in_float32(network, side, bears, monkeypatch):
    monkeypatch.setattr("bacon_pl.networks.acceleration.has_bfloat16", lambda device: True)
    monkeypatch.setattr(fused, "compiler", lambda: ["g++"])
    image = (3, side, side)
    template = network(3, (side, side), 10)
    assert bears_bfloat16(template, image) is bears
    assert resolve_acceleration("auto", template, image, 1e12, torch.device("cpu")) == Plan(True, bears)
    assert resolve_acceleration("on", template, image, 1, torch.device("cpu")) == Plan(True, True)
    assert template.training


@pytest.mark.parametrize(
    "network",
    [
        partial(ConvNet, width=32),
        partial(ConvNet, width=32, depth=4),
        partial(ConvNet, width=32, depth=5),
        pytest.param(VGG11, marks=pytest.mark.slow),
    ],
)
def test_the_rule_separates_good_gradients_from_bad_ones(network):
    torch.manual_seed(0)
    model = network(3, (32, 32), 10)
    x = torch.nn.functional.avg_pool2d(torch.randn(32, 3, 36, 36), 5, 1) * 3
    y = torch.randint(10, (32,))
    found = []
    for reduced in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
            loss = torch.nn.functional.cross_entropy(model(x)[1].float(), y)
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]))
    error = (found[0] - found[1]).norm() / found[0].norm()
    assert bool(error < 0.15) is bears_bfloat16(model, (3, 32, 32)), error


def test_acceleration_follows_the_work_not_the_clock():
    network = ConvNet(1, (8, 8), 3, width=4, depth=2)
    flops = forward_flops(network, (1, 8, 8))
    assert flops > 2 * 9 * 4 * 8 * 8  # the first convolution alone
    enough = WORTHWHILE_FLOPS / flops / 3
    compiler = shutil.which("g++") is not None
    assert resolve_acceleration("auto", network, (1, 8, 8), 1.01 * enough, CPU).compiled is compiler
    assert resolve_acceleration("auto", network, (1, 8, 8), 0.99 * enough, CPU) == PLAIN
    assert resolve_acceleration("off", network, (1, 8, 8), 1e20, CPU) == PLAIN
    with pytest.raises(BaconError, match="Did you mean 'auto'"):
        resolve_acceleration("atuo", network, (1, 8, 8), 1, CPU)


def test_missing_compiler_is_told(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    network = ConvNet(1, (8, 8), 3, width=4, depth=2)
    with pytest.raises(BaconError, match=r"needs a C\+\+ compiler"):
        resolve_acceleration("on", network, (1, 8, 8), 1, CPU)
    assert resolve_acceleration("auto", network, (1, 8, 8), 1e20, CPU) == PLAIN


@settings(deadline=None)
@given(rows=st.integers(1, 400), limit=st.integers(1, 400))
def test_blocks_fit_and_are_never_tiny(rows, limit):
    size = even_rows(rows, limit)
    assert 1 <= size <= min(rows, limit)
    assert 2 * size >= min(rows, limit)  # a prime number of classes is not cut into single ones


@pytest.mark.parametrize(
    ("rows", "limit", "expected"), [(10, 4, 2), (10, 99, 10), (7, 3, 3), (100, 0, 1), (101, 13, 13)]
)
def test_even_rows(rows, limit, expected):
    assert even_rows(rows, limit) == expected
