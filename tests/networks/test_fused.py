"""The fused kernels: as exact as the plain modules in bfloat16, and no less careful."""

import configparser
import platform

import pytest
import torch

from bacon_pl.networks import ConvNet, StatelessNetwork, fused
from bacon_pl.networks.acceleration import PLAIN, Plan
from tests.paths import ROOT

SHAPES = [(1, (28, 28), 16, 3), (3, (32, 32), 24, 2), (1, (9, 14), 5, 2), (4, (17, 20), 40, 1), (6, (8, 8), 16, 2)]


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


def together_off(found, exact):
    """Relative error of all tensors together, for biases before a norm have no gradient but rounding."""
    found, exact = (torch.cat([t.detach().double().flatten() for t in result]) for result in (found, exact))
    return float((found - exact).norm() / exact.norm())


@pytest.mark.parametrize("to_images", [False, True])
@pytest.mark.parametrize(("channels", "size", "width", "depth"), SHAPES)
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
    assert together_off(kernel, exact) <= min(2 * together_off(plain, exact), 0.1)


@pytest.fixture(params=["", "-mno-avx512f"], ids=["native", "without AVX-512"])
def kernels_of_machine(request, monkeypatch, tmp_path):
    """The kernels as they are built for this machine, and for one without AVX-512."""
    if (command := fused.compiler()) is None:
        pytest.skip("needs a C++ compiler")
    if request.param and platform.machine() != "x86_64":
        pytest.skip("a processor of another kind")
    monkeypatch.setenv("CXX", " ".join([*command, request.param]).strip())
    monkeypatch.setattr(fused, "_library", fused._load.__wrapped__())
    assert fused._library is not None


@pytest.mark.parametrize("to_images", [False, True])
@pytest.mark.parametrize(("channels", "size", "width", "depth"), SHAPES)
def test_fused_blocks_are_exact_in_float32(kernels_of_machine, monkeypatch, channels, size, width, depth, to_images):
    torch.manual_seed(0)
    network = ConvNet(channels, size, 5, width=width, depth=depth)
    for p in network.parameters():
        p.data += 0.1 * torch.randn_like(p)
        p.requires_grad_(not to_images)
    x = torch.randn(6, channels, *size)
    assert not fused.usable(x)  # outside compiled programs, torch's own modules are used
    exact = gradients_of(network.double(), x.double(), to_images)
    plain = gradients_of(network.float(), x, to_images)
    monkeypatch.setattr(fused, "usable", lambda _: True)
    kernel = gradients_of(network, x, to_images)
    assert [(t.shape, t.dtype) for t in kernel] == [(t.shape, t.dtype) for t in plain]
    assert together_off(kernel, exact) <= max(2 * together_off(plain, exact), 1e-6)


def test_compiled_programs_use_the_kernels_in_float32(kernels, monkeypatch):
    network = ConvNet(1, (8, 8), 3, width=8, depth=1)
    x = torch.randn(2, 1, 8, 8)
    called = []
    monkeypatch.setattr(fused, "_call", lambda name, *_: called.append(name))
    state = dict(network.named_parameters())
    StatelessNetwork(network, PLAIN)(state, x)
    assert called == []
    StatelessNetwork(network, Plan(compiled=True, bfloat16=False))(state, x)
    assert called == ["stem_forward"]
    torch.compiler.reset()


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


def test_every_source_is_in_the_cache_key_and_in_the_package():
    """Else a changed header would go unnoticed where kernels have been built before, or be missing where installed."""
    folder = fused.SOURCES[0].parent
    there = {path.name for path in folder.iterdir() if path.suffix in (".cpp", ".h")}
    assert there == {path.name for path in fused.SOURCES}
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = setup["options.package_data"]["bacon_pl"].split()
    assert {f"networks/{name}" for name in there} <= set(listed)


def test_a_change_in_any_source_is_built_anew(tmp_path, monkeypatch):
    if fused.compiler() is None:
        pytest.skip("needs a C++ compiler")
    monkeypatch.setenv("BACON_CACHE", str(tmp_path / "cache"))
    copies = [tmp_path / path.name for path in fused.SOURCES]
    for copy, path in zip(copies, fused.SOURCES, strict=True):
        copy.write_bytes(path.read_bytes())
    monkeypatch.setattr(fused, "SOURCES", tuple(copies))
    for built, changed in enumerate([None, *copies]):
        if changed:
            changed.write_text(changed.read_text() + "// changed\n")
        assert fused._load.__wrapped__() is not None
        assert len(list((tmp_path / "cache").glob("fused-*.so"))) == built + 1
