"""Networks against the golden numbers, and the compiled path against the plain one."""

import shutil

import pytest
import torch

from bacon_pl.errors import BaconError
from bacon_pl.networks import ConvNet, StatelessNetwork, fused, resolve_acceleration
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


@pytest.fixture
def kernels():
    """The fused kernels, loaded for one test."""
    if not fused.load():
        pytest.skip("needs a C++ compiler")
    yield
    fused.unload()


def gradients_of(network, x, to_images):
    """Embedding, logits and gradients of a sum of them that no norm cancels."""
    x = x.clone().requires_grad_(to_images)
    z, logits = network(x)
    wanted = [x] if to_images else [p for p in network.parameters() if p.requires_grad]
    loss = (z.to(x.dtype) ** 3).sum() + logits.to(x.dtype).square().sum()
    return [z, logits, *torch.autograd.grad(loss, wanted)]


@pytest.mark.parametrize("to_images", [False, True])
@pytest.mark.parametrize(
    ("channels", "size", "width", "depth"),
    [(1, (28, 28), 16, 3), (3, (32, 32), 24, 2), (1, (9, 14), 5, 2), (4, (17, 20), 40, 1), (6, (8, 8), 16, 2)],
)
def test_fused_blocks_round_no_more_than_plain_ones(kernels, monkeypatch, channels, size, width, depth, to_images):
    torch.manual_seed(0)
    network = ConvNet(channels, size, 5, width=width, depth=depth)
    for p in network.parameters():
        p.data += 0.1 * torch.randn_like(p)
        p.requires_grad_(not to_images)
    x = torch.randn(6, channels, *size)
    exact = gradients_of(network.double(), x.double(), to_images)
    network.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert fused.usable(x)
        kernel = gradients_of(network, x, to_images)
        monkeypatch.setattr(fused, "usable", lambda _: False)
        plain = gradients_of(network, x, to_images)
    assert [t.shape for t in kernel] == [t.shape for t in exact]
    # Together, for biases before a norm have no gradient but rounding.
    kernel, plain, exact = (torch.cat([t.double().flatten() for t in result]) for result in (kernel, plain, exact))
    assert (kernel - exact).norm() <= 2 * (plain - exact).norm()
    assert (kernel - exact).norm() <= 0.1 * exact.norm()


def test_fused_kernels_do_not_hide_numbers_that_went_wrong(kernels):
    x = torch.randn(2, 16, 4, 4, dtype=torch.bfloat16)
    x[1, 3, 2, 2] = torch.nan
    out, _, _ = fused.norm_relu_pool(x, torch.ones(16), torch.zeros(16), 1e-5, True)
    assert out[1, 3].isnan().all()
    assert out.isnan().sum() == 4
    image = torch.randn(2, 1, 6, 6)
    image[0] = torch.inf
    weights = (torch.randn(8, 1, 3, 3), torch.zeros(8), torch.ones(8), torch.zeros(8))
    out, _, _ = fused.stem(image, *weights, 1, 1e-5, False)
    assert out[0].isnan().all()
    assert out[1].isfinite().all()


def test_fused_kernels_do_not_depend_on_the_number_of_threads(kernels):
    x, weight = torch.randn(7, 1, 12, 12), torch.randn(20, 1, 3, 3, requires_grad=True)
    rest = (torch.zeros(20), torch.ones(20), torch.zeros(20))
    run_results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        out = fused.stem(x, weight, *rest, 3, 1e-5, True)[0]
        run_results.append((out, torch.autograd.grad(out.float().square().sum(), weight)[0]))
    torch.set_num_threads(1)
    assert torch.equal(run_results[0][0], run_results[1][0])
    assert torch.equal(run_results[0][1], run_results[1][1])


def test_operators_keep_torchs_rules(kernels):
    """Shapes, layouts and gradients of the operators as the compiler believes them to be."""
    gamma, beta = torch.ones(4, requires_grad=True), torch.zeros(4, requires_grad=True)
    x = torch.randn(2, 4, 6, 6, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(fused.norm_relu_pool, (x, gamma, beta, 1e-5, False), test_utils=checks)
    weight = torch.randn(4, 1, 3, 3, requires_grad=True)
    arguments = (torch.randn(2, 1, 6, 6), weight, torch.zeros(4), gamma, beta, 3, 1e-5, True)
    torch.library.opcheck(fused.stem, arguments, test_utils=checks)
