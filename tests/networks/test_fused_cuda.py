"""The Triton kernels agree with the plain modules: their arithmetic, on a CPU, by Triton's interpreter."""

import sys

import pytest
import torch
from torch import nn

from bacon_pl.networks import ConvNet, StatelessNetwork, fused_cuda
from bacon_pl.networks.acceleration import Plan
from tests.networks.zoo import state_of


@pytest.fixture(scope="module", autouse=True)
def interpreted():
    """Import the kernels with Triton's interpreter, which decides at the import of Triton itself."""
    pytest.importorskip("triton", reason="Triton is not installed, so its kernels are not run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        names = [name for name in sys.modules if name.partition(".")[0] == "triton" and "_C" not in name]
        for name in [*names, "bacon_pl.networks.triton_kernels"]:
            patch.delitem(sys.modules, name, raising=False)
        import bacon_pl.networks as package

        patch.delattr(package, "triton_kernels", raising=False)
        yield
        for name in [name for name in sys.modules if name.startswith(("triton", "bacon_pl.networks.triton_k"))]:
            del sys.modules[name]
        package.__dict__.pop("triton_kernels", None)


def plain(x, gamma, beta):
    maps = nn.functional.group_norm(x.float(), x.shape[1], gamma, beta, 1e-5)
    return nn.functional.avg_pool2d(maps.relu(), 2)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_operator_agrees_with_the_plain_modules(last, dtype):
    torch.manual_seed(0)
    x = (3 + torch.randn(2, 5, 6, 10)).to(dtype)  # no power of two, and a mean that has to be taken off
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    gamma, beta = torch.randn(5), torch.randn(5)
    for t in (x, gamma, beta):
        t.requires_grad_()
    out = fused_cuda.norm_relu_pool(x, gamma[None], beta[None], 1e-5, dtype is torch.bfloat16)[0]
    expected = plain(x, gamma, beta)
    close = {"rtol": 1e-4, "atol": 1e-5} if dtype is torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), expected, **close)
    up = torch.randn_like(expected)
    found = torch.autograd.grad(out, (x, gamma, beta), up.to(dtype))
    for a, b in zip(found, torch.autograd.grad(expected, (x, gamma, beta), up), strict=True):
        torch.testing.assert_close(a.float(), b.float(), **close)


@pytest.mark.parametrize("way", ["in turn", "batched"])
def test_networks_with_the_operator_agree_with_plain_ones(way):
    torch.manual_seed(0)
    networks = [ConvNet(1, (10, 10), 3, width=4, depth=2) for _ in range(2)]  # 14 pixels, and then 7, which are odd
    x = torch.randn(2, 3, 1, 10, 10)
    states = [state_of(network) for network in networks]
    stacked = {name: torch.stack([state[name] for state in states]).requires_grad_() for name in states[0]}
    results = []
    for plan in (Plan(False, False, way="in turn"), Plan(False, False, way=way, fused=True)):
        logits = StatelessNetwork(networks[0], plan).side_by_side(stacked, x)[1]
        results.append([logits, *torch.autograd.grad(logits.square().sum(), list(stacked.values()))])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
