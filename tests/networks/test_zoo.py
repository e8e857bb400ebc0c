"""The networks beside the default ConvNet: their shapes and sizes, and that every way of running them agrees."""

from functools import partial

import pytest
import torch

from bacon_pl import rng
from bacon_pl.errors import BaconError
from bacon_pl.networks import (
    MLP,
    SHORT_NAMES,
    VGG11,
    AlexNet,
    ConvNet,
    LeNet,
    ResNet18,
    StatelessNetwork,
    TorchvisionModel,
    by_name,
    fused,
)
from bacon_pl.networks.cost import activation_bytes, forward_flops
from bacon_pl.networks.torchvision_model import torchvision_names

FIELD = {"mlp": MLP, "lenet": LeNet, "alexnet": AlexNet, "vgg11": VGG11, "resnet18": ResNet18}
VARIANTS = {
    "sigmoid": {"activation": "sigmoid"},
    "leakyrelu": {"activation": "leakyrelu"},
    "batch": {"norm": "batch"},
    "layer": {"norm": "layer"},
    "group": {"norm": "group"},
    "no norm": {"norm": "none"},
    "max": {"pooling": "max"},
    "no pooling": {"pooling": "none"},
}
SMALL = {
    **FIELD,
    **{name: partial(ConvNet, width=8, depth=2, **options) for name, options in VARIANTS.items()},
    "torchvision": partial(TorchvisionModel, name="resnet18"),
    "vgg11": partial(VGG11, norm="batch"),  # its blocks with instance norm are the ConvNet's
}


def state_of(network):
    return {name: t.detach().clone() for name, t in network.state_dict().items()}


# ---- shapes and sizes


@pytest.mark.parametrize(
    ("name", "features"),
    [
        ("mlp", (128, 128, 128)),
        ("lenet", (84, 84, 84)),
        ("alexnet", (192 * 16, 192 * 16, 192 * 64)),
        ("vgg11", (512, 512, 512 * 4)),
        ("resnet18", (512, 512, 512 * 4)),
        ("convnet", (2048, 2048, 8192)),
        ("mobilenet_v3_small", (1024, 1024, 1024)),
    ],
)
def test_embedding_is_the_classifiers_input(name, features):
    for (channels, side), d in zip(((1, 28), (3, 32), (3, 64)), features, strict=True):
        network = by_name(name)(channels, (side, side), 7).eval()
        seen = []
        network.classifier.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
        x = torch.randn(2, channels, side, side)
        z, logits = network(x)
        assert z.shape == (2, d)
        assert logits.shape == (2, 7)
        assert len(seen) == 1
        assert torch.equal(z, seen[0])
        assert torch.equal(logits, network.classifier(network.embed(x)))
        assert logits[0].ne(logits[1]).any()


@pytest.mark.parametrize(
    ("name", "channels", "side", "count"),
    [
        ("mlp", 3, 32, (3072 * 128 + 128) + (128 * 128 + 128) + 1290),
        ("mlp", 1, 28, (784 * 128 + 128) + (128 * 128 + 128) + 1290),
        ("lenet", 1, 28, 61_706),  # LeNet-5 with full connections, as it is known for MNIST
        ("lenet", 3, 32, 62_006),
        (
            "alexnet", 3, 32,
            (3 * 25 + 1) * 128 + (128 * 25 + 1) * 192 + (192 * 9 + 1) * 256 + (256 * 9 + 1) * 192 + (192 * 9 + 1) * 192
            + 3072 * 10 + 10,
        ),
        ("vgg11", 3, 32, 9_231_114),  # both as known from CIFAR-10 with batch norm, which has as many
        ("resnet18", 3, 32, 11_173_962),
        ("convnet", 3, 32, (27 + 3) * 128 + 2 * (128 * 9 + 3) * 128 + 20_490),
    ],
)  # fmt: skip
def test_parameter_counts(name, channels, side, count):
    network = by_name(name)(channels, (side, side), 10)
    assert sum(p.numel() for p in network.parameters()) == count


def test_a_torchvision_model_is_torchvisions_own():
    ours = TorchvisionModel(3, (64, 64), 10, name="resnet18")
    assert sum(p.numel() for p in ours.parameters()) == 11_181_642  # torchvision's 11,689,512 but for the classifier
    gray = TorchvisionModel(1, (64, 64), 10, name="resnet18").eval()
    gray.load_state_dict(ours.state_dict())
    x = torch.randn(2, 1, 64, 64)
    torch.testing.assert_close(gray(x)[1], ours.eval()(x.repeat(1, 3, 1, 1))[1])


def test_weights_follow_the_generator_alone():
    for name in ("resnet18", "mnasnet0_5"):
        networks = []
        for _ in range(2):
            with rng.seeded(3, "network"):
                networks.append(by_name(name)(3, (32, 32), 5).state_dict())
        assert all(torch.equal(a, b) for a, b in zip(*(n.values() for n in networks), strict=True))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LeNet(1, (11, 12), 10), "too small for LeNet, which needs 12×12"),
        (lambda: LeNet(3, (15, 16), 10), "needs 16×16"),
        (lambda: AlexNet(3, (7, 7), 10), "too small for AlexNet"),
        (lambda: VGG11(3, (32, 31), 10), "images of 32×31 pixels are too small for VGG11, which needs 32×32"),
        (lambda: ResNet18(1, (20, 20), 10), "needs 21×21"),
        (lambda: MLP(1, (8, 8), 10, width=0), "width must be at least 1"),
        (lambda: ConvNet(1, (8, 8), 10, norm="insance"), "Did you mean 'instance'"),
        (lambda: ConvNet(1, (8, 8), 10, activation="swish"), "unknown activation"),
        (lambda: ConvNet(1, (8, 8), 10, pooling="mean"), "unknown pooling"),
        (lambda: ConvNet(1, (8, 8), 10, width=6, norm="group"), "4 groups, so 6"),
        (lambda: VGG11(3, (32, 32), 10, norm="layer"), "unknown norm of VGG11"),
        (lambda: ResNet18(3, (32, 32), 10, norm="layer"), "unknown norm of ResNet18"),
        (lambda: TorchvisionModel(3, (32, 32), 10, name="resnet19"), "Did you mean 'resnet1"),
        (lambda: TorchvisionModel(3, (32, 32), 10, name="alexnet"), "32×32 pixels .*too small.*e.g. 64×64"),
        (lambda: TorchvisionModel(3, (28, 28), 10, name="vit_b_32"), "e.g. 32×32"),
        (lambda: TorchvisionModel(3, (32, 64), 10, name="vit_b_32"), "not square"),
        (lambda: TorchvisionModel(4, (32, 32), 10), "1 or 3 channels"),
        (lambda: by_name("conv_net"), "Did you mean 'convnet'"),
        (lambda: by_name("mobilenetv2"), "Did you mean 'mobilenet_v2'"),
        (lambda: by_name("torchvision.lenet"), "unknown network"),
        (lambda: by_name("squeezenet1_0"), "unknown network"),
    ],
)
def test_what_cannot_be_is_told(build, message):
    with pytest.raises(BaconError, match=message):
        build()


def test_smallest_images_that_are_allowed_work():
    for network, channels, side in ((LeNet, 1, 12), (AlexNet, 3, 8), (VGG11, 1, 28), (ResNet18, 1, 21)):
        z, _ = network(channels, (side, side), 3)(torch.randn(2, channels, side, side))
        assert z.shape[1] in (84, 192, 512)
        assert not torch.equal(z[0], z[1])


def test_names():
    assert {name: by_name(name.upper()) for name in SHORT_NAMES} == {**FIELD, "convnet": ConvNet}
    assert isinstance(by_name("resnet18")(3, (32, 32), 2), ResNet18)
    assert isinstance(by_name("torchvision.resnet18")(3, (32, 32), 2), TorchvisionModel)
    assert {"resnet18", "vit_b_16", "efficientnet_b0"} <= set(torchvision_names())


def test_costs_can_be_counted_for_every_network():
    for build in SMALL.values():
        network = build(3, (32, 32), 10)
        before = state_of(network)
        assert forward_flops(network, (3, 32, 32)) > 0
        assert activation_bytes(network, (3, 32, 32)) > 0
        assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())


# ---- ways of running them


@pytest.mark.parametrize("name", SMALL)
def test_batched_networks_agree_with_one_by_one(name):
    torch.manual_seed(0)
    networks = [SMALL[name](3, (32, 32), 4).double() for _ in range(2)]
    runner = StatelessNetwork(networks[0])
    x = torch.randn(2, 3, 3, 32, 32, dtype=torch.float64)
    parameters = dict(networks[0].named_parameters())
    run_results = []
    for batched in (False, True):
        runner.batched = batched
        states = [state_of(network) for network in networks]
        stacked = {key: torch.stack([state[key] for state in states]) for key in states[0]}
        for key in parameters:
            stacked[key].requires_grad_()
        z, logits = runner.side_by_side(stacked, x)
        loss = logits.square().sum() + z.square().sum()
        gradients = torch.autograd.grad(loss, [stacked[key] for key in parameters])
        # Buffers too: running statistics must come out the same.
        run_results.append([z, logits, *gradients, *(t for key, t in stacked.items() if key not in parameters)])
    for one, many in zip(*run_results, strict=True):
        torch.testing.assert_close(one, many, rtol=1e-6, atol=1e-8)
    plain = networks[1](x[1])
    torch.testing.assert_close(run_results[1][1][1], plain[1], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", SMALL)
def test_one_graph_can_be_captured(name):
    torch.manual_seed(0)
    torch.compiler.reset()  # a function is captured for a few architectures only
    network = SMALL[name](1, (28, 28), 4)
    x = torch.randn(2, 1, 28, 28)
    weights = state_of(network)
    run = torch.compile(StatelessNetwork(network)._plain, backend="eager", fullgraph=True)
    for a, b in zip(run(dict(weights), x), network(x), strict=True):
        torch.testing.assert_close(a, b)


def test_running_statistics_are_updated_in_the_buffers_given():
    network = VGG11(3, (32, 32), 4, norm="batch")
    given = state_of(network)
    x = torch.randn(4, 3, 32, 32)
    StatelessNetwork(network)(given, x)
    name = "features.1.running_mean"
    assert network.state_dict()[name].eq(0).all()  # the template's own stay
    network(x)
    torch.testing.assert_close(given[name], network.state_dict()[name])
    assert given[name].ne(0).any()


def test_dropout_differs_from_network_to_network():
    network = TorchvisionModel(3, (64, 64), 3, name="alexnet")
    runner = StatelessNetwork(network)
    runner.batched = True
    stacked = {name: torch.stack([t, t]) for name, t in state_of(network).items()}
    x = torch.randn(1, 2, 3, 64, 64).expand(2, -1, -1, -1, -1)
    z, _ = runner.side_by_side(stacked, x)
    assert not torch.equal(z[0].eq(0), z[1].eq(0))
    assert not TorchvisionModel(3, (32, 32), 3, name="convnext_tiny").batchable


@pytest.mark.parametrize(("options", "expected"), [({}, True), *((options, False) for options in VARIANTS.values())])
def test_only_the_default_convnet_takes_the_fused_kernels(monkeypatch, options, expected):
    taken = []
    monkeypatch.setattr(fused, "usable", lambda x: True)
    monkeypatch.setattr(ConvNet, "_embed_fused", lambda self, x: taken.append(self) or self.features(x))
    ConvNet(1, (8, 8), 2, width=4, depth=1, **options)(torch.randn(2, 1, 8, 8))
    assert bool(taken) is expected
